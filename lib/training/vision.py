"""Contrastive training of the backbone (SimCLR, Chen et al. 2020) on the pictures of phase 1."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric

from lib.losses.contrastive import nt_xent
from lib.models.backbone import Backbone, ProjectionHead, ReconstructionHead
from lib.params import Safety, Vision
from lib.training.augment import Augment
from lib.training.loop import Curve, Optimizer, fit, warmup_cosine

EMBEDDED_LEVEL = "p4"  # the map that is compared: it keeps where things are
CALIBRATION_BATCHES = 8


def build_backbone(settings: Vision) -> Backbone:
    """Builds an untrained backbone.

    Args:
        settings: Its shape.
    """
    model = Backbone(settings.size, settings.block, settings.pyramid_channels)
    return model.to(memory_format=torch.channels_last)


@torch.no_grad()
def calibrate_batch_norm(model: Backbone, images_NHW3: np.ndarray, seed: int) -> None:
    """Gives an untrained backbone the batch statistics of real pictures.

    The random frozen baseline would otherwise be judged on badly scaled activations.

    Args:
        model: Changed in place.
        images_NHW3: uint8.
        seed: Chooses the pictures.
    """
    rows = np.random.default_rng(seed).choice(len(images_NHW3), CALIBRATION_BATCHES * 64)
    model.train()
    for batch in np.split(np.sort(rows), CALIBRATION_BATCHES):
        model(torch.from_numpy(images_NHW3[batch]).permute(0, 3, 1, 2).float() / 255)


def train_backbone(
    model: Backbone, images_NHW3: np.ndarray, settings: Vision, safety: Safety, fabric: Fabric
) -> Curve:
    """Trains a backbone with NT-Xent and, if weighted, reconstruction.

    Args:
        model: Trained in place.
        images_NHW3: uint8 training pictures.
        settings: The recipe.
        safety: Clipping and NaN guard.
        fabric: Device and precision.

    Returns:
        Curves of ``contrastive``, ``reconstruction`` and ``total``.
    """
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    augment = Augment(settings.shift_px, settings.colour, settings.noise, generator)
    side = -(-images_NHW3.shape[1] // 16)  # of P4
    channels = model.channels[EMBEDDED_LEVEL]
    head = ProjectionHead(channels * side * side, 256, settings.projection_dim)
    decoder = ReconstructionHead(channels) if settings.reconstruction else None
    trained = torch.nn.ModuleList([m for m in (model, head, decoder) if m is not None])
    trained = trained.to(fabric.device).train()
    images = torch.from_numpy(images_NHW3)
    batch = min(settings.batch_size, len(images))

    def losses_of_step(step: int) -> dict[str, torch.Tensor]:
        rows = torch.randperm(len(images), generator=generator)[:batch]
        chosen = images[rows]
        views = torch.cat([augment(chosen), augment(chosen)]).to(fabric.device)
        maps = model(views)[EMBEDDED_LEVEL]
        z1, z2 = head(maps.flatten(1)).float().chunk(2)
        losses = {"contrastive": nt_xent(z1, z2, settings.temperature)}
        losses["total"] = losses["contrastive"]
        if decoder is not None:
            # The clean picture from one view: the features must hold what the view's colour
            # and noise hide.
            clean = chosen.permute(0, 3, 1, 2).float().div(255).to(fabric.device)
            decoded = decoder(maps[:batch]).float()
            target = F.interpolate(clean, size=decoded.shape[-2:], mode="area")
            losses["reconstruction"] = F.mse_loss(decoded, target)
            # Pixels are worth more where pictures differ: divide by their variance.
            variance = target.var(dim=0).mean() + 1e-4
            weighted = settings.reconstruction * losses["reconstruction"] / variance
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
    return fit("vision", losses_of_step, optimizer, settings.steps, fabric.autocast)
