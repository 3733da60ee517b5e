"""Contrastive loss of the vision backbone.

Paper: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations"
(SimCLR, arXiv 2002.05709), equation 1.

Tensor suffixes: N images, D dimensions of the projection, M = 2N views.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.portable import matmul


def nt_xent(z1_ND: Tensor, z2_ND: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy between two views of each image.

    Every one of the 2N views has to pick the other view of its image among the 2N - 1 views that
    are not itself, by cosine similarity over the temperature; the loss is the mean cross-entropy
    of these 2N choices. It is symmetric in its two views and lies in nats: log(2N - 1) for
    projections that cannot be told apart.

    The projections are normalised here even though the projection head has done so already:
    normalising twice changes nothing, and the loss cannot be fed raw vectors by accident.

    Args:
        z1_ND: Projections of the first view of each image.
        z2_ND: Projections of the second view, row by row of the same images.
        temperature: Divides the cosine similarities; above 0.

    Returns:
        A scalar, in full precision also under autocast: dividing by a small temperature would
        magnify the rounding of a bfloat16 similarity.

    Raises:
        ValueError: If the two are not matrices of one shape, or the temperature is not positive.
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
        # View i of the first half belongs to view i + N of the second, and the other way round.
        partner_M = torch.arange(num_views, device=z_MD.device).roll(num_views // 2)
        return F.cross_entropy(logits_MM.masked_fill(itself_MM, float("-inf")), partner_M)
