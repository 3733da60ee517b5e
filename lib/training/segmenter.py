"""Training of the U-Net on pixel labels, each weighted by the trust in who gave it.

Tensor suffixes: B batch, N steps, C channels, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from lib.episode import PRIMITIVES
from lib.losses.segmentation import segmentation_loss
from lib.manifest import Dataset
from lib.models.heuristic import boundary_of
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


def class_balance(labels_NHW: np.ndarray) -> Tensor:
    """Weighs classes by the inverse square root of their share of the pixels.

    The handle has one pixel in two hundred: unweighted, a short training never sees it.

    Args:
        labels_NHW: Primitives.

    Returns:
        (len(PRIMITIVES),) weights, their mean over the pixels is one; 0 for absent classes.
    """
    frames = labels_NHW[:: max(1, len(labels_NHW) // BALANCE_FRAMES)]
    share = np.bincount(frames.ravel(), minlength=len(PRIMITIVES)) / frames.size
    weights = np.where(share > 0, 1 / np.sqrt(np.maximum(share, 1e-6)), 0.0)
    return torch.from_numpy((weights / (weights * share).sum()).astype(np.float32))


def train_segmenter(
    model: UNet,
    dataset: Dataset,
    trust: dict[str, np.ndarray],
    settings: Segmenter,
    safety: Safety,
    fabric: Fabric,
) -> Curve:
    """Trains on the frames of the training episodes.

    Args:
        model: Trained in place.
        dataset: Holds ``obs/image`` and ``labels/segmentation``.
        trust: Trust in the labels of each primitive, by source.
        settings: The recipe.
        safety: Clipping and NaN guard.
        fabric: Device and precision.

    Returns:
        Curves of every term of the loss.
    """
    model.to(fabric.device, memory_format=torch.channels_last).train()
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    augment = Augment(0, COLOUR, NOISE, generator)
    sources = sorted(trust)
    table = torch.from_numpy(np.stack([trust[name] for name in sources]))
    source_N = np.zeros(len(dataset), np.int64)
    for episode in dataset.episodes:
        source_N[episode.rows] = sources.index(episode.source)
    rows = torch.from_numpy(dataset.seen(dataset.rows(["train"])))
    images, labels = dataset.arrays["obs/image"], dataset.arrays["labels/segmentation"]

    balance = class_balance(labels[rows.numpy()]).to(fabric.device)

    def losses_of_step(step: int) -> dict[str, Tensor]:
        pick = torch.randint(len(rows), (settings.batch_size,), generator=generator)
        chosen = rows[pick].numpy()
        primitive = labels[chosen]
        boundary = torch.from_numpy(boundary_of(primitive))
        primitive = torch.from_numpy(primitive).long()
        weights = table[torch.from_numpy(source_N[chosen])[:, None, None], primitive]
        views = augment(torch.from_numpy(images[chosen])).to(fabric.device)
        boundary_logits, primitive_logits = model(views)
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
    return fit("segmenter", losses_of_step, optimizer, settings.steps, fabric.autocast)


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
