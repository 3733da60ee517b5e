"""Contrastive loss of the vision backbone.

Paper: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations"
(SimCLR, arXiv 2002.05709), equation 1.

Tensor suffixes: N images, D dimensions of the projection, M = 2N views.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.learning.portable import matmul


def nt_xent(z1_ND: Tensor, z2_ND: Tensor, temperature: float) -> Tensor:
    """Computes the normalised temperature-scaled cross-entropy between two views of each image.

    Each of the 2N views must identify the other view of its image among the 2N - 1 remaining views,
    by cosine similarity divided by the temperature. The loss is the mean cross-entropy of these 2N
    choices, in nats. It is symmetric in the two views. It is log(2N - 1) if all projections are
    equal.

    The projections are normalised here even though the projection head has normalised them already.
    Normalising twice changes nothing, and vectors that are not normalised cannot enter the loss by
    accident.

    Args:
        z1_ND: Projections of the first view of each image.
        z2_ND: Projections of the second view of each image, in the same order.
        temperature: Divisor of the cosine similarities; above 0.

    Returns:
        A scalar, in full precision even under autocast, because dividing by a small temperature
        would magnify the rounding error of a bfloat16 similarity.

    Raises:
        ValueError: If the projections are not two matrices of equal shape, or the temperature is
            not positive.
    """
    if z1_ND.ndim != 2 or z1_ND.shape != z2_ND.shape:
        raise ValueError(
            "nt_xent needs two (N, D) tensors of one shape, "
            f"got {tuple(z1_ND.shape)} and {tuple(z2_ND.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"nt_xent needs a temperature above 0, got {temperature}")
    with torch.autocast(z1_ND.device.type, enabled=False):
        z_MD = torch.cat([z1_ND, z2_ND])
        z_MD = F.normalize(z_MD.to(torch.promote_types(z_MD.dtype, torch.float32)), dim=1)
        logits_MM = matmul(z_MD, z_MD.T) / temperature
        num_views = len(z_MD)
        itself_MM = torch.eye(num_views, dtype=torch.bool, device=z_MD.device)
        # Rows i and i + N are the two views of image i, so each one is the target of the other.
        partner_M = torch.arange(num_views, device=z_MD.device).roll(num_views // 2)
        return F.cross_entropy(logits_MM.masked_fill(itself_MM, float("-inf")), partner_M)
