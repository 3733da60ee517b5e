"""Training of the U-Net on pixel labels, each weighted by the trust in the label.

Tensor suffixes: B batch, N steps, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from lib.base.seeds import named_seed
from lib.data.dataset import Dataset
from lib.episode import PRIMITIVES
from lib.learning.augment import Augment
from lib.learning.halves import Twins, in_halves
from lib.learning.loop import Curve, Optimizer, fit, warmup_cosine
from lib.losses.segmentation import segmentation_loss
from lib.models.frozen import channels_last
from lib.models.heuristic import HeuristicSegmenter, boundary_of
from lib.models.unet import UNet
from lib.params import Safety
from lib.segmenter import Segmenter

# Light changes between recordings, but geometry does not. So the augmentation varies the colours
# only, and the pixel labels stay valid.
COLOUR, NOISE = 0.3, 0.0
BALANCE_FRAMES = 500


class PixelTrust:
    """Trust in the label of each pixel: trust in its source times trust in its segment."""

    def __init__(
        self,
        dataset: Dataset,
        table: dict[str, np.ndarray],
        doubts: Mapping[tuple[str, str], np.ndarray],
    ) -> None:
        """Stores the trust values of the manifest.

        Args:
            dataset: Dataset with ``obs/image`` and ``labels/segmentation``.
            table: Trust in the labels of each primitive, by source.
            doubts: Trust in the segments of episodes with doubted segments, by source and key of
                the episode; each array is indexed by label and by primitive of the heuristic.
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
        """Returns the pixel weights of some frames.

        Args:
            rows: Rows (B,) of the dataset.

        Returns:
            Weights (B, H, W) float32 in [0, 1].
        """
        labels = self._labels[rows]
        weights = self._table[self._source_N[rows][:, None, None], labels]
        # The heuristic takes time, so it runs only on episodes with doubted segments.
        for at in np.flatnonzero(self._episode_N[rows] >= 0):
            seen = self._judge.primitives(self._images[rows[at]][None])[0]
            weights[at] *= self._doubts[self._episode_N[rows[at]]][labels[at], seen]
        return weights


def class_balance(labels_NHW: np.ndarray, trust_NHW: np.ndarray | None = None) -> Tensor:
    """Returns class weights: the inverse square root of the share of the pixels of each class.

    The handle covers one pixel in two hundred. Without weights, a short training never learns it.

    Args:
        labels_NHW: Primitives of each pixel.
        trust_NHW: Weight of each pixel in the counts; by default all pixels count equally.

    Returns:
        Weights (len(PRIMITIVES),) with a mean of one over the pixels; 0 for absent classes.
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
    seed: int,
    doubts: Mapping[tuple[str, str], np.ndarray] | None = None,
) -> Curve:
    """Trains the U-Net on the frames of the training episodes.

    Args:
        model: U-Net, trained in place.
        dataset: Dataset with ``obs/image`` and ``labels/segmentation``.
        trust: Trust in the labels of each primitive, by source.
        settings: Training settings.
        safety: Settings of the gradient clipping and the NaN guard.
        fabric: Lightning Fabric, which sets device and precision.
        seed: Seed for the choice of the frames and for their augmentation.
        doubts: Trust in the segments of episodes with doubted segments; see PixelTrust.

    Returns:
        Loss curves of every term of the loss.
    """
    channels_last(model).to(fabric.device).train()
    twins = Twins(model)
    generator = torch.Generator().manual_seed(named_seed(seed, "frames"))
    augment = Augment(0, COLOUR, NOISE, generator)
    trust_in = PixelTrust(dataset, trust, doubts or {})
    rows = dataset.seen(dataset.rows(["train"]))
    images, labels = dataset.arrays["obs/image"], dataset.arrays["labels/segmentation"]

    counted = rows[:: max(1, len(rows) // BALANCE_FRAMES)]
    balance = class_balance(labels[counted], trust_in(counted)).to(fabric.device)

    def losses_of_step(step: int) -> dict[str, Tensor]:
        chosen = dataset.draw(rows, settings.batch_size, generator)
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
            primitive_dice=settings.primitive_dice,
        )

    optimizer = Optimizer(
        "segmenter",
        model.parameters(),
        settings.lr,
        safety,
        schedule=warmup_cosine(settings.steps),
    )
    curve = fit("segmenter", losses_of_step, optimizer, settings.steps, fabric.autocast)
    twins.average_buffers()
    bias = model.primitive_head.bias
    assert bias is not None
    with torch.no_grad():
        # Class weights teach the network to take rare classes for as many times more frequent than
        # they are. Their logarithms take that back (logit adjustment, Menon et al. 2021, arXiv
        # 2007.07314).
        bias -= torch.where(balance > 0, balance, 1.0).log()
    return curve
