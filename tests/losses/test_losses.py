"""Losses against closed forms, definitions written out as loops, and other libraries."""

import math
import subprocess
import sys

import kornia.losses
import pytest
import torch
import torch.nn.functional as F

import lib.losses
from lib.losses import dice_loss, dynamics_loss, focal_loss, nt_xent, sac
from lib.losses.segmentation import primitive_dice_loss, primitive_loss, segmentation_loss


def normal(*shape: int, seed: int = 0, grad: bool = False) -> torch.Tensor:
    """Standard normal float64 tensor that depends on its seed alone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def binary(*shape: int, seed: int = 0) -> torch.Tensor:
    """Float64 tensor of zeros and ones."""
    return (normal(*shape, seed=seed) > 0).double()


def close(actual: torch.Tensor, expected: float | torch.Tensor, tolerance: float = 1e-12) -> None:
    """Assert equality up to float64 rounding."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


# The package


def test_importing_the_package_loads_no_submodule_and_not_even_torch():
    """Each stage depends on the files it uses only if the package itself imports none."""
    code = (
        "import sys, lib.losses, lib.models; "
        "sys.exit(any(m == 'torch' or m.startswith(('lib.losses.', 'lib.models.')) "
        "for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_resolves_and_unknown_names_are_attribute_errors():
    """__all__, __dir__ and __getattr__ agree."""
    for name in lib.losses.__all__:
        assert getattr(lib.losses, name) is not None
        assert name in dir(lib.losses)
    with pytest.raises(AttributeError, match="no attribute 'triplet'"):
        _ = lib.losses.triplet


# NT-Xent


def nt_xent_by_definition(z1: torch.Tensor, z2: torch.Tensor, temperature: float) -> float:
    """Equation 1 of the SimCLR paper, view by view."""
    views = [v / v.norm() for v in [*z1, *z2]]
    total = 0.0
    for i, view in enumerate(views):
        partner = (i + len(z1)) % len(views)
        terms = [math.exp(view @ other / temperature) for other in views]
        total -= math.log(terms[partner] / (sum(terms) - terms[i]))
    return total / len(views)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_equals_its_definition_written_as_a_loop(temperature):
    """The masked matrix form is the paper's double sum."""
    z1, z2 = normal(5, 7, seed=1), normal(5, 7, seed=2)
    close(nt_xent(z1, z2, temperature), nt_xent_by_definition(z1, z2, temperature), 1e-10)


@pytest.mark.parametrize(
    ("temperature", "value"),
    [(0.1, 5.340266261971359), (0.5, 2.3697066552960786), (2.0, 2.198709812261061)],
)
def test_nt_xent_equals_that_of_pytorch_metric_learning(temperature, value):
    """What SelfSupervisedLoss(NTXentLoss(temperature)) of version 2.9.0 gave for these inputs."""
    z1, z2 = normal(5, 7, seed=1), normal(5, 7, seed=2)
    close(nt_xent(z1, z2, temperature), value, 1e-9)


def test_nt_xent_of_two_orthogonal_pairs_is_the_value_by_hand():
    """Two perfect pairs, orthogonal to each other, t = 1: -log(e / (e + 2)) for every view."""
    z = torch.eye(2, dtype=torch.float64)
    close(nt_xent(z, z, 1.0), math.log((math.e + 2) / math.e))


def test_nt_xent_of_indistinguishable_projections_is_log_of_the_candidates():
    """Where all views agree, each choice is uniform over 2N - 1 candidates."""
    z = torch.ones(4, 3, dtype=torch.float64)
    close(nt_xent(z, z, 0.1), math.log(7))


def test_nt_xent_is_symmetric_and_ignores_the_norm_of_its_inputs():
    """Swapping the views or rescaling rows changes nothing."""
    z1, z2 = normal(4, 6, seed=3), normal(4, 6, seed=4)
    close(nt_xent(z1, z2, 0.2), nt_xent(z2, z1, 0.2))
    close(nt_xent(z1 * 7, z2 * 0.1, 0.2), nt_xent(z1, z2, 0.2))


def test_nt_xent_gradient_is_right():
    """Gradcheck in float64."""
    inputs = normal(3, 4, seed=5, grad=True), normal(3, 4, seed=6, grad=True)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.3), inputs)


def test_nt_xent_keeps_full_precision_under_autocast():
    """With bfloat16 similarities the result would be off by far more than this."""
    z1, z2 = normal(16, 32, seed=7).float(), normal(16, 32, seed=8).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(z1, z2, 0.05)
    assert loss.dtype == torch.float32
    close(loss, nt_xent(z1.double(), z2.double(), 0.05), 1e-5)


@pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4,), (4,))])
def test_nt_xent_refuses_shapes_that_do_not_pair(shapes):
    """Pairs are rows of equal number and width."""
    with pytest.raises(ValueError, match="one shape"):
        nt_xent(*map(torch.ones, shapes), 0.1)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_nt_xent_refuses_a_temperature_that_is_not_positive(temperature):
    """Zero divides, a negative one would push pairs apart."""
    with pytest.raises(ValueError, match="temperature"):
        nt_xent(torch.ones(2, 2), torch.ones(2, 2), temperature)


# Focal loss


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.75, 1.0), (0.5, 0.0)])
def test_focal_loss_equals_kornias_and_the_papers_formula(alpha, gamma):
    """Equation 5 pixel by pixel, and kornia's mean."""
    logits, targets = normal(2, 1, 5, 4, seed=1), binary(2, 1, 5, 4, seed=2)
    loss = focal_loss(logits, targets, alpha, gamma)
    by_hand = []
    for x, t in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        p_t, alpha_t = (p, alpha) if t else (1 - p, 1 - alpha)
        by_hand.append(-alpha_t * (1 - p_t) ** gamma * math.log(p_t))
    close(loss, sum(by_hand) / len(by_hand))
    close(
        loss,
        kornia.losses.binary_focal_loss_with_logits(
            logits, targets, alpha=alpha, gamma=gamma, reduction="mean"
        ),
        1e-6,
    )


def test_focal_loss_without_focusing_is_half_the_binary_cross_entropy():
    """Gamma 0 and alpha 1/2 leave the plain loss, halved."""
    logits, targets = normal(3, 8, seed=3), binary(3, 8, seed=4)
    expected = 0.5 * F.binary_cross_entropy_with_logits(logits, targets)
    close(focal_loss(logits, targets, 0.5, 0.0), expected)


def test_focal_loss_stays_finite_for_extreme_logits():
    """A hopelessly wrong pixel costs its logit, a perfect one nothing; no NaN in the gradient."""
    logits = torch.tensor([-200.0, 200.0], dtype=torch.float64, requires_grad=True)
    loss = focal_loss(logits, torch.ones(2, dtype=torch.float64), 1.0, 2.0)
    close(loss, 100.0)
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


# Dice loss


def test_dice_of_a_perfect_prediction_is_zero():
    """Sigmoids of 0 and 1 exactly: overlap equals both areas."""
    targets = binary(2, 6, 6, seed=1)
    close(dice_loss((targets * 2 - 1) * 1e3, targets), 0.0)


def test_dice_where_nothing_is_predicted_leaves_only_the_smoothing():
    """1 - s / (area + s) for each sample, averaged."""
    targets = torch.zeros(2, 3, 3, dtype=torch.float64)
    targets[0, 0], targets[1, :2] = 1, 1
    close(dice_loss(torch.full_like(targets, -1e3), targets), ((1 - 1 / 4) + (1 - 1 / 7)) / 2)


def test_dice_of_an_empty_target_is_zero_for_an_empty_prediction_and_grows_with_its_area():
    """The stated convention for samples without positives."""
    targets = torch.zeros(1, 4, dtype=torch.float64)
    close(dice_loss(torch.full_like(targets, -1e3), targets), 0.0)
    close(dice_loss(torch.full_like(targets, 1e3), targets), 1 - 1 / 5)


def test_dice_is_taken_per_sample_and_then_averaged():
    """The loss of a batch is the mean of the losses of its samples."""
    logits, targets = normal(3, 5, 5, seed=2), binary(3, 5, 5, seed=3)
    each = [dice_loss(x[None], t[None]) for x, t in zip(logits, targets, strict=True)]
    close(dice_loss(logits, targets), torch.stack(each).mean())


def test_dice_gradient_is_right():
    """Gradcheck in float64, with weights."""
    logits, targets = normal(2, 3, 3, seed=4, grad=True), binary(2, 3, 3, seed=5)
    weights = normal(2, 3, 3, seed=6).abs()
    assert torch.autograd.gradcheck(lambda x: dice_loss(x, targets, weights), (logits,))


@pytest.mark.parametrize("loss", [dice_loss, lambda *a: focal_loss(*a[:2], 0.25, 2.0, *a[2:])])
def test_binary_losses_refuse_shapes_that_would_broadcast(loss):
    """(B, 1, H, W) logits against (B, H, W) targets would silently compare across samples."""
    with pytest.raises(ValueError, match="targets"):
        loss(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="weights"):
        loss(torch.zeros(2, 4, 4), torch.zeros(2, 4, 4), torch.zeros(2, 1, 1))


# Segmentation loss

WEIGHTS = {
    "alpha": 0.3,
    "gamma": 2.0,
    "focal_alpha": 0.25,
    "lambda_boundary": 0.7,
    "lambda_primitive": 1.9,
    "primitive_dice": 0.6,
}


def segmentation_batch() -> tuple[torch.Tensor, ...]:
    """Boundary and primitive logits (with gradient), their targets, and weights."""
    boundary, primitive = normal(2, 1, 4, 5, seed=1, grad=True), normal(2, 3, 4, 5, seed=2)
    classes = torch.randint(3, (2, 4, 5), generator=torch.Generator().manual_seed(3))
    weights = normal(2, 4, 5, seed=4).abs()
    return boundary, primitive.requires_grad_(), binary(2, 4, 5, seed=5), classes, weights


def test_primitive_loss_without_weights_is_cross_entropy():
    """PyTorch's own loss, and its mean of chosen pixels where weights are 0 and 1."""
    _, logits, _, classes, _ = segmentation_batch()
    close(primitive_loss(logits, classes), F.cross_entropy(logits, classes))
    keep = binary(2, 4, 5, seed=6)
    each = F.cross_entropy(logits, classes, reduction="none")
    close(primitive_loss(logits, classes, keep), each[keep.bool()].mean())


def test_primitive_dice_is_the_mean_over_the_classes_that_occur():
    """Each class is the Dice of its own mask over the whole batch; one that is absent is left out.

    With two classes and logits (0, x), the softmax of the second is the sigmoid of x.
    """
    x, masks = normal(3, 4, 5, seed=1), binary(3, 4, 5, seed=2)
    logits, flat = torch.stack([torch.zeros_like(x), x], 1), x.reshape(1, -1)
    first = dice_loss(-flat, 1 - masks.reshape(1, -1))
    second = dice_loss(flat, masks.reshape(1, -1))
    close(primitive_dice_loss(logits, masks.long()), (first + second) / 2)
    everywhere = torch.ones_like(flat)
    close(primitive_dice_loss(logits, torch.ones_like(masks).long()), dice_loss(flat, everywhere))


def test_primitive_dice_gradient_is_right():
    """Gradcheck in float64, with weights."""
    _, logits, _, classes, weights = segmentation_batch()
    assert torch.autograd.gradcheck(lambda x: primitive_dice_loss(x, classes, weights), (logits,))


def test_segmentation_loss_combines_its_terms_as_written():
    """L = lambda_b (alpha focal + (1 - alpha) dice) + lambda_p (primitive + d primitive_dice)."""
    boundary, primitive, edges, classes, weights = segmentation_batch()
    losses = segmentation_loss(boundary, primitive, edges.long(), classes, weights, **WEIGHTS)
    focal = focal_loss(boundary[:, 0], edges, 0.25, 2.0, weights)
    dice = dice_loss(boundary[:, 0], edges, weights)
    cross_entropy = primitive_loss(primitive, classes, weights)
    close(losses["focal"], focal)
    close(losses["dice"], dice)
    close(losses["boundary"], 0.3 * focal + 0.7 * dice)
    close(losses["primitive"], cross_entropy)
    overlap = primitive_dice_loss(primitive, classes, weights)
    close(losses["primitive_dice"], overlap)
    primitives = cross_entropy + 0.6 * overlap
    close(losses["total"], 0.7 * (0.3 * focal + 0.7 * dice) + 1.9 * primitives)
    names = {"total", "boundary", "focal", "dice", "primitive", "primitive_dice"}
    assert set(losses) == names


def test_pixels_of_weight_zero_have_no_influence_and_no_gradient():
    """Changing labels and logits there changes no term, and no gradient arrives there."""
    boundary, primitive, edges, classes, weights = segmentation_batch()
    off = torch.zeros_like(weights, dtype=torch.bool)
    off[:, 1:3, 2:] = True
    weights[off] = 0
    before = segmentation_loss(boundary, primitive, edges, classes, weights, **WEIGHTS)
    gradients = torch.autograd.grad(before["total"], (boundary, primitive))
    for gradient in gradients:
        assert (gradient.movedim(1, -1)[off] == 0).all()
        assert (gradient.movedim(1, -1)[~off] != 0).all()
    edges[off], classes[off] = 1 - edges[off], (classes[off] + 1) % 3
    other = torch.where(off[:, None], -boundary, boundary)
    after = segmentation_loss(other, primitive, edges, classes, weights, **WEIGHTS)
    for name, value in before.items():
        close(after[name], value)


def test_weights_act_on_every_term_and_uniform_weights_on_none():
    """Weights of 1 change nothing; uneven weights change each term."""
    boundary, primitive, edges, classes, weights = segmentation_batch()
    x = boundary[:, 0]
    for weighted, plain in (
        (lambda w: focal_loss(x, edges, 0.25, 2.0, w), focal_loss(x, edges, 0.25, 2.0)),
        (lambda w: dice_loss(x, edges, w), dice_loss(x, edges)),
        (lambda w: primitive_loss(primitive, classes, w), primitive_loss(primitive, classes)),
        (
            lambda w: primitive_dice_loss(primitive, classes, w),
            primitive_dice_loss(primitive, classes),
        ),
    ):
        close(weighted(torch.ones_like(weights)), plain)
        assert (weighted(weights) - plain).abs() > 1e-4


def test_a_batch_that_nobody_trusts_costs_nothing():
    """All weights 0: every term is 0 with a gradient of 0, not NaN."""
    boundary, primitive, edges, classes, weights = segmentation_batch()
    losses = segmentation_loss(boundary, primitive, edges, classes, 0 * weights, **WEIGHTS)
    assert all(value == 0 for value in losses.values())
    gradients = torch.autograd.grad(losses["total"], (boundary, primitive))
    assert all((gradient == 0).all() for gradient in gradients)


# Dynamics loss


def test_dynamics_loss_equals_its_closed_form():
    """Errors of 2 and 4 on two levels; one state moves by 3 a step, the other rests."""
    zeros = torch.zeros(2, 1, 1, 2, 2, dtype=torch.float64)
    moving = 3.0 * torch.arange(3, dtype=torch.float64)[:, None, None, None, None]
    still = torch.ones(3, 1, 2, 1, 1, dtype=torch.float64)
    losses = dynamics_loss(
        [zeros + 2, zeros[..., :1] - 4], [zeros, zeros[..., :1]], [moving, still], 0.5, 0.1
    )
    close(losses["prediction"], (4 + 16) / 2)
    close(losses["smoothness"], (9 + 0) / 2)
    close(losses["total"], 0.5 * 10 + 0.1 * 4.5)


def test_dynamics_loss_leaves_out_targets_that_were_not_seen():
    """Of two errors of 2 and 4, one counts; without any, the loss is 0 and not undefined."""
    predicted = torch.tensor([2.0, 4.0]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 2, 2)
    hidden = torch.zeros(2, 2, 1, 1, 1)
    given = ([predicted], [torch.zeros(1, 2, 3, 2, 2)], [hidden], 1.0, 1.0)
    for seen, expected in (([1, 0], 4), ([0, 1], 16), ([1, 1], 10), ([0, 0], 0)):
        losses = dynamics_loss(*given, torch.tensor([seen], dtype=torch.bool))
        close(losses["prediction"], float(expected))


def test_dynamics_loss_sends_no_gradient_to_its_target():
    """The encoder cannot make its features easy to predict."""
    predicted, target = normal(2, 3, seed=1, grad=True), normal(2, 3, seed=2, grad=True)
    hidden = normal(3, 1, 2, 2, 2, seed=3, grad=True)
    dynamics_loss([predicted], [target], [hidden], 1.0, 1.0)["total"].backward()
    assert target.grad is None
    close(predicted.grad, 2 * (predicted - target).detach() / 6)
    assert (hidden.grad != 0).all()


def test_dynamics_loss_refuses_what_does_not_belong_together():
    """Levels, shapes and lengths are checked."""
    x, h = torch.zeros(2, 3), torch.zeros(2, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="as many"):
        dynamics_loss([x], [x, x], [h], 1.0, 1.0)
    with pytest.raises(ValueError, match="as many"):
        dynamics_loss([], [], [], 1.0, 1.0)
    with pytest.raises(ValueError, match="against target"):
        dynamics_loss([x], [x[:1]], [h], 1.0, 1.0)
    with pytest.raises(ValueError, match="two time steps"):
        dynamics_loss([x], [x], [h[:1]], 1.0, 1.0)


# Soft actor-critic


def doubles(*values) -> torch.Tensor:
    """Float64 tensor of nested values."""
    return torch.tensor(values, dtype=torch.float64)


def test_td_target_equals_the_values_by_hand():
    """First sample goes on, second one terminated; the bonus enters each objective."""
    target = sac.td_target(
        reward_BK=doubles([1.0, -2.0], [3.0, 4.0]),
        discount_B=doubles(0.9, 0.9),
        terminated_B=torch.tensor([False, True]),
        next_q_BK=doubles([10.0, 20.0], [30.0, 40.0]),
        next_log_prob_B=doubles(-1.0, -1.0),
        temperature=0.5,
    )
    close(target, doubles([1 + 0.9 * 10.5, -2 + 0.9 * 20.5], [3.0, 4.0]))


def test_td_target_scalarised_is_the_soft_target_of_the_scalarised_reward():
    """For weights that sum to one, w . target(r, Q) = target(w . r, w . Q)."""
    reward, q = normal(6, 3, seed=1), normal(6, 3, seed=2)
    log_prob, terminated = normal(6, seed=3), binary(6, seed=4)
    discount, w = torch.full((6,), 0.97**5, dtype=torch.float64), doubles(0.5, 0.3, 0.2)
    vector = sac.td_target(reward, discount, terminated, q, log_prob, 0.2) @ w
    scalar = reward @ w + discount * (1 - terminated) * (q @ w - 0.2 * log_prob)
    close(vector, scalar)


def test_td_target_carries_no_gradient():
    """Neither the value, the policy nor the temperature is trained through a target."""
    q, log_prob, temperature = (
        normal(2, 3, seed=1, grad=True),
        normal(2, seed=2, grad=True),
        doubles(0.1)[0].requires_grad_(),
    )
    target = sac.td_target(q.detach(), doubles(0.9, 0.9), binary(2), q, log_prob, temperature)
    assert not target.requires_grad


def test_critic_loss_equals_the_value_by_hand():
    """Two critics, samples and objectives; squares sum to 1 + 4 + 9 + 0 and 16 + 0 + 0 + 1."""
    q = doubles([[1.0, 2.0], [4.0, 0.0]], [[3.0, 0.0], [0.0, 1.0]])
    target = torch.zeros(2, 2, dtype=torch.float64)
    close(sac.critic_loss(q, target), (14 + 17) / 2)


def test_sac_losses_with_one_objective_are_cleanrls():
    """K = 1 reduces target, critic and actor losses to the scalar algorithm."""
    reward, q1, q2, log_prob = (normal(5, seed=s) for s in range(4))
    done, gamma, alpha = binary(5, seed=4), torch.full((5,), 0.99, dtype=torch.float64), 0.2
    next_value = torch.minimum(q1, q2)
    target = sac.td_target(reward[:, None], gamma, done, next_value[:, None], log_prob, alpha)
    cleanrl_target = reward + (1 - done) * 0.99 * (next_value - alpha * log_prob)
    close(target[:, 0], cleanrl_target)
    loss = sac.critic_loss(torch.stack([q1, q2])[..., None], target)
    close(loss, F.mse_loss(q1, cleanrl_target) + F.mse_loss(q2, cleanrl_target))
    close(sac.actor_loss(log_prob, next_value, alpha), (alpha * log_prob - next_value).mean())


def test_critic_loss_refuses_shapes_that_would_broadcast():
    """(N, B) against (B, K) must not pass."""
    with pytest.raises(ValueError, match="against targets"):
        sac.critic_loss(torch.zeros(2, 4, 1), torch.zeros(4, 3))


def test_actor_loss_scaled_is_divided_by_the_mean_absolute_value_without_its_gradient():
    """TD3+BC's normalisation: the gradient is the plain one over a constant."""
    q, log_prob = doubles(-1.0, 3.0).requires_grad_(), doubles(0.5, 1.5)
    close(sac.actor_loss(log_prob, q, 2.0), (1.0 + 1.0 + 3.0 - 3.0) / 2)
    scaled = sac.actor_loss(log_prob, q, 2.0, scale=True)
    close(scaled, 1.0 / 2.0)
    close(torch.autograd.grad(scaled, q)[0], doubles(-0.25, -0.25))


def test_temperature_loss_equals_the_value_by_hand_and_steers_towards_the_target():
    """Entropy 1 below a target of 2: descent raises the temperature; the policy is untouched."""
    log_temperature = doubles(math.log(0.5))[0].requires_grad_()
    log_prob = doubles(-0.5, -1.5).requires_grad_()
    loss = sac.temperature_loss(log_temperature, log_prob, target_entropy=2.0)
    close(loss, -0.5 * (-1.0 + 2.0))
    loss.backward()
    assert log_temperature.grad < 0
    assert log_prob.grad is None


def test_behaviour_cloning_loss_is_the_error_over_the_samples_that_have_an_expert():
    """Masked samples have no influence; without any expert the loss is 0."""
    mean, expert = doubles([0.0, 1.0], [1.0, 1.0]), doubles([1.0, 1.0], [0.0, -1.0])
    close(sac.behaviour_cloning_loss(mean, expert), (1 + 0 + 1 + 4) / 4)
    close(sac.behaviour_cloning_loss(mean, expert, torch.tensor([True, False])), 0.5)
    close(sac.behaviour_cloning_loss(mean, expert, torch.tensor([False, False])), 0.0)
    with pytest.raises(ValueError, match="against"):
        sac.behaviour_cloning_loss(mean, expert[:1])
