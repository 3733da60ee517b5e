"""Training of the U-Net on pixel labels, each weighted by the trust in who gave it.

Tensor suffixes: B batch, N steps, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from lib.episode import PRIMITIVES
from lib.halves import Twins, in_halves
from lib.losses.segmentation import segmentation_loss
from lib.manifest import Dataset
from lib.models.heuristic import HeuristicSegmenter, boundary_of
from lib.models.unet import UNet
from lib.params import Safety, Segmenter
from lib.perception.segmenter import SkillRouter
from lib.ridge import fit_ridge
from lib.training.augment import Augment
from lib.training.loop import Curve, Optimizer, fit, warmup_cosine

# Light changes between recordings, geometry does not: views vary in colour alone, so the pixel
# labels stay where they are.
COLOUR, NOISE = 0.5, 0.0
BALANCE_FRAMES = 500
ROUTER_RIDGE = 1.0


class PixelTrust:
    """How far the label of each pixel is trusted: its source's trust times its segment's."""

    def __init__(
        self,
        dataset: Dataset,
        table: dict[str, np.ndarray],
        doubts: Mapping[tuple[str, str], np.ndarray],
    ) -> None:
        """Takes what the manifest says.

        Args:
            dataset: Holds ``obs/image`` and ``labels/segmentation``.
            table: Trust in the labels of each primitive, by source.
            doubts: By source and key of an episode: trust by label and by what the heuristic sees.
        """
        self._images = dataset.arrays["obs/image"]
        self._labels = dataset.arrays["labels/segmentation"]
        sources = sorted(table)
        self._table = np.stack([table[name] for name in sources])
        self._source_N = np.zeros(len(dataset), np.int64)
        self._episode_N = np.full(len(dataset), -1)
        doubted = [e for e in dataset.episodes if (e.source, e.key) in doubts]
        self._doubts = [doubts[e.source, e.key] for e in doubted]
        for episode in dataset.episodes:
            self._source_N[episode.rows] = sources.index(episode.source)
        for index, episode in enumerate(doubted):
            self._episode_N[episode.rows] = index
        self._judge = HeuristicSegmenter()

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Returns the weights of some frames.

        Args:
            rows: (B,) of the dataset.

        Returns:
            (B, H, W) float32 in [0, 1].
        """
        labels = self._labels[rows]
        weights = self._table[self._source_N[rows][:, None, None], labels]
        # Only frames with a doubt cost a look of the heuristic's.
        for at in np.flatnonzero(self._episode_N[rows] >= 0):
            seen = self._judge.primitives(self._images[rows[at]][None])[0]
            weights[at] *= self._doubts[self._episode_N[rows[at]]][labels[at], seen]
        return weights


def class_balance(labels_NHW: np.ndarray, trust_NHW: np.ndarray | None = None) -> Tensor:
    """Weighs classes by the inverse square root of their share of the pixels.

    The handle has one pixel in two hundred: unweighted, a short training never sees it.

    Args:
        labels_NHW: Primitives.
        trust_NHW: How much each pixel counts; all alike by default.

    Returns:
        (len(PRIMITIVES),) weights, their mean over the pixels is one; 0 for absent classes.
    """
    count = np.ones(labels_NHW.shape) if trust_NHW is None else trust_NHW
    counts = np.bincount(labels_NHW.ravel(), count.ravel(), len(PRIMITIVES))
    share = counts / max(counts.sum(), 1e-12)
    weights = np.where(share > 0, 1 / np.sqrt(np.maximum(share, 1e-6)), 0.0)
    return torch.from_numpy((weights / max((weights * share).sum(), 1e-12)).astype(np.float32))


def train_segmenter(
    model: UNet,
    dataset: Dataset,
    trust: dict[str, np.ndarray],
    settings: Segmenter,
    safety: Safety,
    fabric: Fabric,
    doubts: Mapping[tuple[str, str], np.ndarray] | None = None,
) -> Curve:
    """Trains on the frames of the training episodes.

    Args:
        model: Trained in place.
        dataset: Holds ``obs/image`` and ``labels/segmentation``.
        trust: Trust in the labels of each primitive, by source.
        settings: The recipe.
        safety: Clipping and NaN guard.
        fabric: Device and precision.
        doubts: Trust in the segments of an episode that has doubted ones; see PixelTrust.

    Returns:
        Curves of every term of the loss.
    """
    model.to(fabric.device, memory_format=torch.channels_last).train()
    twins = Twins(model)
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    augment = Augment(0, COLOUR, NOISE, generator)
    trust_in = PixelTrust(dataset, trust, doubts or {})
    rows = dataset.seen(dataset.rows(["train"]))
    images, labels = dataset.arrays["obs/image"], dataset.arrays["labels/segmentation"]

    counted = rows[:: max(1, len(rows) // BALANCE_FRAMES)]
    balance = class_balance(labels[counted], trust_in(counted)).to(fabric.device)

    def losses_of_step(step: int) -> dict[str, Tensor]:
        pick = torch.randint(len(rows), (settings.batch_size,), generator=generator)
        chosen = rows[pick.numpy()]
        primitive = labels[chosen]
        boundary = torch.from_numpy(boundary_of(primitive))
        primitive = torch.from_numpy(primitive).long()
        weights = torch.from_numpy(trust_in(chosen))
        views = augment(torch.from_numpy(images[chosen])).to(fabric.device)
        works = twins.works(len(views), lambda net, part: net(views[part]))
        boundary_logits, primitive_logits = in_halves(works, model.parameters())
        return segmentation_loss(
            boundary_logits.float(),
            primitive_logits.float(),
            boundary.to(fabric.device),
            primitive.to(fabric.device),
            weights.to(fabric.device),
            class_weights_C=balance,
            alpha=settings.alpha,
            gamma=settings.focal_gamma,
            focal_alpha=settings.focal_alpha,
            lambda_boundary=settings.lambda_boundary,
            lambda_primitive=settings.lambda_primitive,
        )

    optimizer = Optimizer(
        "segmenter",
        model.parameters(),
        settings.lr,
        safety,
        schedule=warmup_cosine(settings.steps, 0.05),
    )
    curve = fit("segmenter", losses_of_step, optimizer, settings.steps, fabric.autocast)
    twins.average_buffers()
    return curve


def calibrate_router(dataset: Dataset, geometry_NG: np.ndarray) -> SkillRouter:
    """Fits the router's regression from sight and feeling to the vector hand - handle.

    Args:
        dataset: Holds ``obs/eef_pos``, ``obs/gripper`` and ``labels/state``.
        geometry_NG: Of every step, by the segmenter that serves.
    """
    train = dataset.rows(["train"])
    state = dataset.arrays["labels/state"][train]
    inputs = SkillRouter.inputs(geometry_NG[train], dataset.proprio()[train])
    return SkillRouter(fit_ridge(inputs, state[:, 4:7] - state[:, :3], ROUTER_RIDGE))
