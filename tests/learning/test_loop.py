"""The training loop: clipping, NaN guard, schedules and curves."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.base.errors import UserError
from lib.learning.loop import CURVE_POINTS, Curve, Optimizer, fit, hold_then_fall, warmup_cosine
from lib.params import Safety


def safety(nan: str = "fail", norm: float = 1.0) -> Safety:
    """The safety section."""
    return Safety(max_grad_norm=norm, nan=nan)


def two_weights() -> list[torch.nn.Parameter]:
    """Two parameters, whose gradients are clipped together."""
    return [torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(2))]


def test_gradients_are_clipped_by_their_norm_over_all_parameters():
    """(2) and (1, 2) have the norm 3 together: thirds of them are left; below 1 nothing happens."""
    weights = two_weights()
    optimizer = Optimizer("vision", weights, 0.1, safety())
    optimizer.step(2 * weights[0].sum() + weights[1][0] + 2 * weights[1][1])
    for weight, gradient in zip(weights, ([2 / 3], [1 / 3, 2 / 3]), strict=True):
        torch.testing.assert_close(weight.grad, torch.tensor(gradient), rtol=1e-5, atol=0)
    optimizer.step(0.5 * weights[0].sum() + 0.5 * weights[1][0])
    assert torch.equal(weights[0].grad, torch.tensor([0.5]))
    assert torch.equal(weights[1].grad, torch.tensor([0.5, 0.0]))


def test_steps_are_adams_at_the_rate_of_the_schedule():
    """Under a constant gradient Adam moves by the learning rate: here 0.1, 0.05, 0."""
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = Optimizer("vision", [weight], 0.1, safety(), schedule=lambda step: 1 - step / 2)
    places = []
    for _ in range(3):
        optimizer.step(weight.sum())
        places.append(weight.item())
    assert places == pytest.approx([-0.1, -0.15, -0.15], rel=1e-6)
    assert (optimizer.steps, optimizer.skipped) == (3, 0)


def test_frozen_parameters_stay():
    """Even with weight decay, which needs no gradient."""
    frozen = torch.nn.Parameter(torch.ones(1), requires_grad=False)
    free = torch.nn.Parameter(torch.ones(1))
    optimizer = Optimizer("vision", [frozen, free], 0.1, safety(), weight_decay=1.0)
    optimizer.step((free * frozen).sum())
    assert frozen.item() == 1
    assert free.item() < 0.9


BAD = {
    "NaN loss": lambda w: w.sum() * math.nan,
    "infinite loss": lambda w: w.sum() + math.inf,
    "infinite gradient": lambda w: (w - 1).sqrt().sum(),
}


@pytest.mark.parametrize("loss", BAD.values(), ids=BAD.keys())
def test_nan_fails_in_one_line_before_it_reaches_the_weights(loss):
    """The stage, the step, and the two ways out."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = Optimizer("rnn", [weight], 0.1, safety("fail"))
    with pytest.raises(UserError) as caught:
        optimizer.step(loss(weight))
    message = str(caught.value)
    assert message.startswith("rnn: loss ")
    assert "at step 1; lower rnn.lr, or set safety.nan to clip" in message
    assert "\n" not in message
    assert torch.equal(weight.detach(), torch.ones(2))


@pytest.mark.parametrize("loss", BAD.values(), ids=BAD.keys())
def test_nan_under_clip_is_skipped_and_leaves_no_trace(loss):
    """A training with a bad step in it ends where the one without it ends, exactly."""
    ends = []
    for bad in (False, True):
        weight = torch.nn.Parameter(torch.ones(2))
        optimizer = Optimizer("rnn", [weight], 0.1, safety("clip"), weight_decay=0.1)
        for step in range(6):
            if bad and step in (0, 3):
                before = weight.detach().clone()
                optimizer.step(loss(weight))
                assert torch.equal(weight.detach(), before)
                weight.data = torch.ones(2) if step == 0 else weight.data
            optimizer.step((weight**2).sum() * (step + 1))
        ends.append(weight.detach().clone())
        assert (optimizer.skipped, optimizer.steps) == ((2, 8) if bad else (0, 6))
    assert torch.equal(*ends)


def test_hold_then_fall_in_closed_form():
    """One, then a straight line to the floor, and no further."""
    factor = hold_then_fall(100, 0.5)
    assert [factor(step) for step in (0, 49, 50)] == [1.0, 1.0, 1.0]
    assert factor(75) == pytest.approx(0.55)
    assert factor(100) == factor(1000) == pytest.approx(0.1)
    assert hold_then_fall(100, 1.0)(99) == 1.0


def test_warmup_cosine_in_closed_form():
    """Ten of a hundred steps rise to 1, then half a cosine falls: 1/2 half way, 0 at the end."""
    factor = warmup_cosine(100, 0.1)
    assert [factor(step) for step in range(10)] == pytest.approx([k / 10 for k in range(1, 11)])
    assert factor(10) == 1
    assert factor(55) == pytest.approx(0.5)
    assert factor(40) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)
    assert factor(100) == pytest.approx(0, abs=1e-15)
    assert factor(99) > 0


@given(st.integers(1, 500), st.floats(0, 1))
def test_warmup_cosine_rises_once_and_falls_once(steps, warmup):
    """Within (0, 1] for every step of every training; the very first one already learns."""
    factors = [warmup_cosine(steps, warmup)(step) for step in range(steps)]
    peak = factors.index(max(factors))
    assert max(factors) == 1
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert min(factors) > 0


def test_a_curves_rows_are_means_over_equal_stretches():
    """600 steps in 60 rows of 10: the mean of step numbers 10 k to 10 k + 9."""
    curve = Curve(600)
    for step in range(600):
        curve.log({"total": torch.tensor(float(step)), "one": torch.tensor(1.0)})
    assert len(curve.rows) == CURVE_POINTS
    assert [row["step"] for row in curve.rows] == list(range(10, 601, 10))
    assert [row["total"] for row in curve.rows] == [10 * k + 4.5 for k in range(60)]
    assert {row["one"] for row in curve.rows} == {1.0}
    assert curve.losses()["total"] == 594.5


def test_a_short_training_has_a_row_a_step():
    """Fewer steps than rows."""
    curve = Curve(3)
    for value in (1 / 3, 2.0, 2 / 3):
        curve.log({"total": torch.tensor(value)})
    assert [row["step"] for row in curve.rows] == [1, 2, 3]
    assert curve.losses()["total"] == 0.666667


def test_fit_follows_the_total_and_draws_every_term():
    """A bowl is descended; the forward pass runs inside the context that was given."""
    weight, inside = torch.nn.Parameter(torch.tensor(5.0)), []

    class Context:
        def __enter__(self):
            inside.append(True)

        def __exit__(self, *error):
            inside.append(False)

    def losses(step):
        assert inside[-1]
        return {"total": (weight - 2) ** 2, "other": torch.tensor(float(step))}

    optimizer = Optimizer("vision", [weight], 0.1, safety())
    curve = fit("vision", losses, optimizer, 120, Context)
    assert weight.item() == pytest.approx(2, abs=0.05)
    assert len(inside) == 240
    assert not inside[-1]
    assert [row["step"] for row in curve.rows] == list(range(2, 121, 2))
    assert curve.rows[0]["total"] > 8


def test_a_skipped_step_does_not_spoil_the_curve(capsys):
    """NaN in a mean is NaN in metrics/*.json, which write_json refuses."""
    weight = torch.nn.Parameter(torch.tensor(5.0))

    def losses(step):
        return {"total": weight * (math.nan if step == 119 else 1.0)}

    curve = fit("rnn", losses, Optimizer("rnn", [weight], 0.1, safety("clip")), 120)
    assert "1 steps skipped" in capsys.readouterr().err
    assert math.isfinite(curve.losses()["total"])
