"""Contrastive training of the backbone (SimCLR, Chen et al. 2020) on the pictures of phase 1.

Where phase 1 has the canonical picture of a scene (``lib.sim.views``), it is the second view of the
contrastive pair and the target of the reconstruction: the features then hold where things are, and
not what they look like (James et al. 2019, arXiv 1812.07252). All other pictures, such as those of
recordings, are paired with themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from lib.base.seeds import named_seed
from lib.data.dataset import Dataset, Reference
from lib.learning.augment import Augment, shifted
from lib.learning.halves import Twins, in_halves
from lib.learning.loop import Curve, Optimizer, fit, warmup_cosine
from lib.learning.portable import Linear
from lib.losses.contrastive import nt_xent
from lib.models.backbone import Backbone, ProjectionHead, ReconstructionHead
from lib.models.encoder import EMBEDDED_LEVEL
from lib.models.frozen import channels_last, to_unit
from lib.params import Safety
from lib.vision import Vision
from lib.vision.probes import FIXED, TARGETS, telling, truth_of

CALIBRATION_BATCHES = 8
SHIFT_UNIT = 2.0  # pixels; makes the shift as large as the features
MEAN_OF = 1000  # canonical pictures whose mean shows what never moves


def build_backbone(settings: Vision) -> Backbone:
    """Builds an untrained backbone.

    Args:
        settings: Settings with the size, block type and channels of the backbone.
    """
    return channels_last(Backbone(settings.size, settings.block, settings.pyramid_channels))


@torch.no_grad()
def calibrate_batch_norm(model: Backbone, images_NHW3: np.ndarray, seed: int) -> None:
    """Sets the batch-normalisation statistics of an untrained backbone from real pictures.

    Otherwise the random frozen baseline would be judged on badly scaled activations.

    Args:
        model: Backbone, changed in place.
        images_NHW3: Pictures, uint8.
        seed: Seed for the choice of the pictures.
    """
    rng = np.random.default_rng(named_seed(seed, "batch statistics"))
    rows = rng.choice(len(images_NHW3), CALIBRATION_BATCHES * 64)
    model.train()
    for batch in np.split(np.sort(rows), CALIBRATION_BATCHES):
        model(to_unit(images_NHW3[batch]))


def mean_pictures(images_NHW3: Tensor, episodes: Sequence[Reference]) -> Tensor:
    """Returns the mean picture of each episode at half size, (E, 3, H/2, W/2) in [0, 1].

    Args:
        images_NHW3: Pictures, uint8; black pictures are left out of the mean.
        episodes: Episodes with their rows in the pictures.
    """
    means = []
    for e in episodes:
        frames = images_NHW3[e.rows][::4]
        seen = frames.flatten(1).amax(1) > 0
        means.append(to_unit(frames[seen] if seen.any() else frames).mean(0))
    return F.avg_pool2d(torch.stack(means), 2)


def motion_weights(target_B3HW: Tensor, scene_B3HW: Tensor, settings: Vision) -> Tensor:
    """Returns pixel weights for the reconstruction that are larger where the scene moves.

    Motion is the difference from the mean picture of the episode. The hand covers a hundredth of
    the picture. Without weights, the table and the wall would dominate the loss.

    Args:
        target_B3HW: Pictures to be reconstructed.
        scene_B3HW: Mean picture of the episode of each target.
        settings: ``motion`` is the weight that mean motion adds; a pixel without motion has
            weight 1 before the weights are normalised.

    Returns:
        Weights (B, 1, H, W) with a mean of one.
    """
    motion = (target_B3HW - scene_B3HW).abs().mean(1, keepdim=True)
    return (1 + settings.motion * motion / (motion.mean() + 1e-6)) / (1 + settings.motion)


class _Known:
    """Finds the row of a frame in another dataset, which holds only some of the frames."""

    def __init__(self, dataset: Dataset, part: Dataset | None) -> None:
        """Stores which frames the other dataset holds.

        Args:
            dataset: Dataset of all frames.
            part: Dataset of some of its episodes; None for none.
        """
        self._row = np.full(len(dataset), -1)
        if part is not None:
            self._row[dataset.rows_of(part)] = np.arange(len(part))

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns which frames the other dataset holds, (B,) bool, and the rows of these there.

        Args:
            rows: Rows of the frames, (B,).
        """
        there = self._row[rows]
        return there >= 0, there[there >= 0]


class Plain:
    """Finds the second picture of each frame: its canonical picture, or itself."""

    def __init__(self, dataset: Dataset, canonical: Dataset | None) -> None:
        """Stores which frames have a canonical picture.

        Args:
            dataset: Dataset with ``obs/image``.
            canonical: Dataset with ``labels/canonical`` of some of the episodes; None for none.
        """
        self._known = _Known(dataset, canonical)
        self._pictures: Tensor | None = None
        if canonical is not None:
            self._pictures = torch.from_numpy(canonical.arrays["labels/canonical"])

    def of(self, rows: np.ndarray, images_BHW3: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the second pictures, and which frames are to be reconstructed.

        Args:
            rows: Rows of the frames in the dataset.
            images_BHW3: Pictures of the frames, uint8.

        Returns:
            Pictures (B, H, W, 3) uint8, and (B,) bool: the frames with a canonical picture, or all
            if there are no canonical pictures.
        """
        if self._pictures is None:
            return images_BHW3, torch.ones(len(rows), dtype=torch.bool)
        known, there = self._known.of(rows)
        second = images_BHW3.clone()
        second[known] = self._pictures[there]
        return second, torch.from_numpy(known)

    def mean(self) -> Tensor:
        """Returns the mean of the canonical pictures at half size, (1, 3, H/2, W/2) in [0, 1]."""
        assert self._pictures is not None
        some = self._pictures[:: max(1, len(self._pictures) // MEAN_OF)]
        return F.avg_pool2d(to_unit(some).mean(0, keepdim=True), 2)


class StateHead(torch.nn.Module):
    """Predicts the true state from a map by one linear layer, and measures its error.

    The layer is told by how far the picture was shifted, because a shift moves the map and not the
    state.
    """

    def __init__(self, dataset: Dataset, states: Dataset, inputs: int) -> None:
        """Stores the scaled states and builds the layer.

        Args:
            dataset: Dataset with ``obs/image``.
            states: Dataset with ``labels/state`` of some of the episodes.
            inputs: Number of numbers in a map.
        """
        super().__init__()
        self._known = _Known(dataset, states)
        truth = truth_of(states)
        rows = dataset.rows_of(states)
        self._tells = np.isin(rows, telling(dataset, rows))
        mean, spread = truth[self._tells].mean(0), truth[self._tells].std(0)
        scaled = (truth - mean) / np.where(spread > FIXED, spread, 1)
        self._truth = torch.from_numpy(scaled).float()
        self.layer = Linear(inputs + 2, len(TARGETS))

    def forward(self, map_BCHW: Tensor, shifts_2B: Tensor, rows: np.ndarray) -> Tensor:
        """Returns the mean squared error over the frames whose picture shows a known state.

        Args:
            map_BCHW: Maps of the shifted pictures.
            shifts_2B: Shift of each picture, pixels.
            rows: Rows of the pictures in the dataset.

        Returns:
            Error in units of the variance of each target, a scalar; 0 if no frame has a state.
        """
        known, there = self._known.of(rows)
        truth = torch.zeros(len(rows), len(TARGETS))
        truth[known] = self._truth[there]
        counted = np.zeros(len(rows), np.float32)
        counted[known] = self._tells[there]
        counted_B = torch.from_numpy(counted).to(map_BCHW.device)
        shifts = (shifts_2B.T / SHIFT_UNIT).to(map_BCHW.device)
        error = self.layer(torch.cat([map_BCHW.flatten(1), shifts], 1)) - truth.to(shifts.device)
        return (error.square().mean(1) * counted_B).sum() / counted_B.sum().clamp_min(1)


def train_backbone(
    model: Backbone,
    dataset: Dataset,
    settings: Vision,
    safety: Safety,
    fabric: Fabric,
    seed: int,
    canonical: Dataset | None = None,
    states: Dataset | None = None,
) -> Curve:
    """Trains a backbone with the NT-Xent loss and two more, unless their weights are 0.

    These are the reconstruction of the picture and the regression of the state.

    Args:
        model: Backbone, trained in place.
        dataset: Dataset with ``obs/image``; only the training episodes are used.
        settings: Training settings.
        safety: Settings of the gradient clipping and the NaN guard.
        fabric: Lightning Fabric, which sets device and precision.
        seed: Seed for the choice of the frames and for their random views.
        canonical: Dataset with ``labels/canonical`` of some of the training episodes. If given,
            only their frames are reconstructed.
        states: Dataset with ``labels/state`` of some of the training episodes.

    Returns:
        Loss curves of ``contrastive``, ``reconstruction``, ``state`` and ``total``.
    """
    generator = torch.Generator().manual_seed(named_seed(seed, "views"))
    augment = Augment(
        settings.shift_px, settings.colour, settings.noise, generator, blur=settings.blur
    )
    episodes = [e for e in dataset.episodes if e.split == "train"]
    images = torch.from_numpy(dataset.arrays["obs/image"])
    seen = dataset.seen(dataset.rows(["train"]))
    stops = np.array([e.stop for e in episodes])
    plain = Plain(dataset, canonical)
    side = -(-images.shape[1] // 16)  # of the P4 map, which has stride 16
    channels = model.channels[EMBEDDED_LEVEL]
    head = ProjectionHead(channels * side * side, 256, settings.projection_dim)
    decoder = ReconstructionHead(channels) if settings.reconstruction else None
    encoders = torch.nn.ModuleList([m for m in (model, decoder) if m is not None])
    reader = None
    if settings.state and states is not None:
        reader = StateHead(dataset, states, channels * side * side)
    heads = torch.nn.ModuleList([m for m in (head, reader) if m is not None])
    trained = torch.nn.ModuleList([encoders, heads]).to(fabric.device).train()
    twins = Twins(model)
    batch = min(settings.batch_size, len(seen))
    scenes = None
    if decoder is not None:
        scenes = mean_pictures(images, episodes) if canonical is None else plain.mean()

    def losses_of_step(step: int) -> dict[str, torch.Tensor]:
        rows = dataset.draw(seen, batch, generator)
        chosen = images[rows]
        partner, known_B = plain.of(rows, chosen)
        shifts = augment.shifts(batch)
        views = [augment(chosen, shifts).to(fabric.device), augment(partner).to(fabric.device)]

        def encode(net: Backbone, part: slice) -> list[Tensor]:
            # Both views of a picture go through the same half of the batch. Otherwise different
            # statistics of the batch normalisation would tell the two views apart.
            maps = net(torch.cat([view[part] for view in views]))[EMBEDDED_LEVEL].chunk(2)
            return [*maps, decoder(maps[0])] if decoder is not None else list(maps)

        works = twins.works(batch, encode)
        first, second, *rest = in_halves(works, encoders.parameters())
        z1, z2 = head(torch.cat([first, second]).flatten(1)).float().chunk(2)
        losses = {"contrastive": nt_xent(z1, z2, settings.temperature)}
        losses["total"] = losses["contrastive"]
        if reader is not None:
            losses["state"] = reader(first.float(), shifts, rows)
            losses["total"] = losses["total"] + settings.state * losses["state"]
        if scenes is not None:
            # The target is the clean picture, reconstructed from the first view: the features
            # must hold what the blur, colour and noise of the view hide. The target is shifted
            # like the view. Otherwise the network would have to guess the shift, and the
            # positions in the features would become vague.
            clean = to_unit(shifted(partner, shifts)).to(fabric.device)
            decoded = rest[0].float()
            target = F.interpolate(clean, size=decoded.shape[-2:], mode="area")
            own = np.zeros(batch, int)
            if canonical is None:
                own = np.searchsorted(stops, rows, side="right")
            scene = scenes[own].to(fabric.device)
            # A picture without a canonical one cannot say in which look it is to be shown.
            counted_B = known_B.to(fabric.device) / known_B.float().mean().clamp_min(1e-6)
            squares = (decoded - target).square() * counted_B[:, None, None, None]
            weights = motion_weights(target, scene, settings)
            losses["reconstruction"] = squares.mean()
            # Dividing by the mean variance of the pixels makes the weight of this loss
            # independent of how much the pictures differ.
            # No frame of a batch may have a canonical picture.
            variance = target[known_B].var(dim=0, correction=0).mean().nan_to_num() + 1e-4
            weighted = settings.reconstruction * (weights * squares).mean() / variance
            losses["total"] = losses["total"] + weighted
        return losses

    optimizer = Optimizer(
        "vision",
        trained.parameters(),
        settings.lr,
        safety,
        weight_decay=settings.weight_decay,
        schedule=warmup_cosine(settings.steps, settings.warmup),
    )
    curve = fit("vision", losses_of_step, optimizer, settings.steps, fabric.autocast)
    twins.average_buffers()
    return curve
