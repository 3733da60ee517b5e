"""Losses of the segmenter: focal and Dice for boundaries, cross-entropy and Dice for primitives.

Every loss takes per-pixel weights, which state how far the label of each pixel is trusted. Each
pixel has the trust of its segment. A pixel of weight 0 has no influence and no gradient. A common
factor on all weights of a batch changes neither the focal loss nor the cross-entropy.

Papers: Lin et al. 2017, "Focal Loss for Dense Object Detection" (arXiv 1708.02002);
Milletari et al. 2016, "V-Net" (Dice loss, arXiv 1606.04797); Isensee et al. 2021, "nnU-Net"
(cross-entropy plus Dice over the classes, arXiv 1809.10486).

Tensor suffixes: B batch, C classes, H height, W width; 1 is a single channel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

DICE_SMOOTHING = 1.0  # pixels


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Computes the mean of ``values``, or ``sum(w * v) / sum(w)``; 0 if all weights are 0."""
    if weights is None:
        return values.mean()
    smallest = torch.finfo(values.dtype).tiny
    return (weights * values).sum() / weights.sum().clamp_min(smallest)


def focal_loss(
    logits: Tensor, targets: Tensor, alpha: float, gamma: float, weights: Tensor | None = None
) -> Tensor:
    """Computes the binary focal loss (Lin et al. 2017, equation 5).

    The loss is ``-alpha_t (1 - p_t)^gamma log p_t``. It equals torchvision's ``sigmoid_focal_loss``
    with ``reduction="mean"``. With gamma 0 and alpha 1/2 it is half the binary cross-entropy.

    Args:
        logits: Any shape.
        targets: 0 or 1 in the shape of the logits, floating point.
        alpha: Weight of the positive class, in [0, 1]; the negative class has 1 - alpha.
        gamma: Focusing exponent, which reduces the loss of well-classified pixels; 0 or more.
        weights: Trust in each target, 0 or more, in the shape of the logits.

    Returns:
        The (weighted) mean, a scalar.

    Raises:
        ValueError: If the shapes differ.
    """
    _require_same_shape(logits, targets, weights)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = logits.sigmoid()
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return weighted_mean(alpha_t * (1 - p_t) ** gamma * cross_entropy, weights)


def dice_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Computes the mean over the batch of the soft Dice loss (after Milletari et al. 2016).

    p is the sigmoid of the logits, sums run over all pixels of a sample, and a smoothing of s = 1
    pixel is added to numerator *and* denominator::

        1 - (2 sum(w p t) + s) / (sum(w p) + sum(w t) + s)

    A sample without positives (or without trusted pixels) therefore has a loss of 0 if nothing is
    predicted, and its loss still reduces false positives. Libraries differ in this case: MONAI
    smooths in the same way but with 1e-5; segmentation-models-pytorch sums over the whole batch and
    gives empty targets a loss of 0.

    Args:
        logits: (B, ...).
        targets: 0 or 1 in the shape of the logits, floating point.
        weights: Trust in each target, 0 or more, in the shape of the logits.

    Returns:
        The mean over the batch, a scalar in [0, 1).

    Raises:
        ValueError: If the shapes differ.
    """
    _require_same_shape(logits, targets, weights)
    p, t = logits.sigmoid().flatten(1), targets.flatten(1)
    w = torch.ones_like(p) if weights is None else weights.flatten(1)
    overlap_B = (w * p * t).sum(1)
    total_B = (w * (p + t)).sum(1)
    return 1 - ((2 * overlap_B + DICE_SMOOTHING) / (total_B + DICE_SMOOTHING)).mean()


def primitive_loss(
    logits_BCHW: Tensor,
    targets_BHW: Tensor,
    weights_BHW: Tensor | None = None,
    class_weights_C: Tensor | None = None,
) -> Tensor:
    """Computes the cross-entropy of the primitive class of each pixel.

    Args:
        logits_BCHW: One logit for each class.
        targets_BHW: Class indices, int64.
        weights_BHW: Trust in each target, 0 or more.
        class_weights_C: Weight of the pixels of each class, as in ``torch.nn.CrossEntropyLoss``.
            The trust is multiplied by this weight.

    Returns:
        The (weighted) mean in nats, a scalar.
    """
    if class_weights_C is not None:
        class_BHW = class_weights_C[targets_BHW]
        weights_BHW = class_BHW if weights_BHW is None else weights_BHW * class_BHW
    # gather replaces F.nll_loss, because its two-dimensional form has no deterministic CUDA kernel.
    log_p_BCHW = F.log_softmax(logits_BCHW, dim=1)
    cross_entropy_BHW = -log_p_BCHW.gather(1, targets_BHW[:, None])[:, 0]
    return weighted_mean(cross_entropy_BHW, weights_BHW)


def primitive_dice_loss(
    logits_BCHW: Tensor, targets_BHW: Tensor, weights_BHW: Tensor | None = None
) -> Tensor:
    """Computes the mean of the soft Dice loss of each primitive that occurs.

    Cross-entropy cares for each pixel alike. Here each primitive counts alike, however few pixels
    it has. p is the softmax of the logits, t is 1 where the pixel has the class, and sums run over
    all pixels of the batch, because one picture may hold a few pixels of a class only. A smoothing
    of s = 1 pixel is added as in ``dice_loss``::

        1 - (2 sum(w p t) + s) / (sum(w p) + sum(w t) + s)

    Args:
        logits_BCHW: One logit for each class.
        targets_BHW: Class indices, int64.
        weights_BHW: Trust in each target, 0 or more.

    Returns:
        The mean over the classes with a trusted pixel in the batch, a scalar in [0, 1); 0 if there
        are none.
    """
    p_BCHW = logits_BCHW.softmax(1)
    t_BCHW = F.one_hot(targets_BHW, p_BCHW.shape[1]).movedim(3, 1).to(p_BCHW.dtype)
    w_BCHW = 1.0 if weights_BHW is None else weights_BHW[:, None]
    overlap_C = (w_BCHW * p_BCHW * t_BCHW).sum((0, 2, 3))
    area_C = (w_BCHW * t_BCHW).sum((0, 2, 3))
    total_C = area_C + (w_BCHW * p_BCHW).sum((0, 2, 3))
    loss_C = 1 - (2 * overlap_C + DICE_SMOOTHING) / (total_C + DICE_SMOOTHING)
    return weighted_mean(loss_C, (area_C > 0).to(loss_C.dtype))


def segmentation_loss(
    boundary_logits_B1HW: Tensor,
    primitive_logits_BCHW: Tensor,
    boundary_BHW: Tensor,
    primitive_BHW: Tensor,
    weights_BHW: Tensor,
    *,
    class_weights_C: Tensor | None = None,
    alpha: float,
    gamma: float,
    focal_alpha: float,
    lambda_boundary: float,
    lambda_primitive: float,
    primitive_dice: float,
) -> dict[str, Tensor]:
    """Computes the total loss of the segmenter.

    L_boundary = alpha L_focal + (1 - alpha) L_dice
    L_total = lambda_boundary L_boundary + lambda_primitive (L_primitive + d L_primitive_dice)

    Args:
        boundary_logits_B1HW: Logits of "this pixel is a boundary".
        primitive_logits_BCHW: Logits of the primitive classes.
        boundary_BHW: 1 on boundaries, else 0; any dtype.
        primitive_BHW: Class indices, int64.
        weights_BHW: Trust in each pixel's labels, 0 or more; applies to every term.
        class_weights_C: Weight of the pixels of each class, see ``primitive_loss``.
        alpha: Share of the focal loss in the boundary loss, in [0, 1].
        gamma: Focusing parameter of the focal loss.
        focal_alpha: Weight of the positive class in the focal loss.
        lambda_boundary: Weight of the boundary loss.
        lambda_primitive: Weight of the primitive loss.
        primitive_dice: d, weight of the Dice loss of the primitives; 0 for cross-entropy alone.

    Returns:
        Scalars under "total", "boundary", "focal", "dice", "primitive" and "primitive_dice".
    """
    logits_BHW = boundary_logits_B1HW[:, 0]
    targets_BHW = boundary_BHW.to(logits_BHW.dtype)
    focal = focal_loss(logits_BHW, targets_BHW, focal_alpha, gamma, weights_BHW)
    dice = dice_loss(logits_BHW, targets_BHW, weights_BHW)
    boundary = alpha * focal + (1 - alpha) * dice
    primitive = primitive_loss(primitive_logits_BCHW, primitive_BHW, weights_BHW, class_weights_C)
    overlap = primitive_dice_loss(primitive_logits_BCHW, primitive_BHW, weights_BHW)
    total = lambda_boundary * boundary + lambda_primitive * (primitive + primitive_dice * overlap)
    return {
        "total": total,
        "boundary": boundary,
        "focal": focal,
        "dice": dice,
        "primitive": primitive,
        "primitive_dice": overlap,
    }


def _require_same_shape(logits: Tensor, targets: Tensor, weights: Tensor | None) -> None:
    """Raises ValueError if the shapes differ, because they could broadcast unnoticed."""
    for name, other in (("targets", targets), ("weights", weights)):
        if other is not None and other.shape != logits.shape:
            raise ValueError(f"{name} are {tuple(other.shape)}, logits {tuple(logits.shape)}")
