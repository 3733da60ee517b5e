"""The ConvGRU on transformed maps: the same numbers as plain convolutions, and their gradients."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.convgru import step_by_step
from lib.models import ConvGRU, recurrence
from lib.models.fourier import transform

SIZES = [(1, 1), (1, 4), (2, 3), (3, 3), (5, 7), (6, 6), (9, 4), (12, 12)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def level(hidden: int = 4, channels: int = 3, spread: float = 0.3) -> ConvGRU:
    """A model of one level with two action dimensions and random weights, float64."""
    model = ConvGRU({"p4": channels}, action_dim=2, hidden_channels=hidden).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, spread)
    return model


def batch(steps: int, size: tuple[int, int], sequences: int = 2, channels: int = 3):
    """Features, which need a gradient, and actions."""
    z = torch.randn(steps, sequences, channels, *size, dtype=torch.float64, requires_grad=True)
    return z, torch.randn(steps, sequences, 2, dtype=torch.float64)


@pytest.fixture
def always(monkeypatch):
    """Whatever the size, ``ConvGRU.rollout`` takes the transformed way."""
    monkeypatch.setattr(recurrence, "pays", lambda z: True)


def both_ways(model, z, actions, warmup, monkeypatch):
    """Results of ``ConvGRU.rollout`` the transformed way and with plain convolutions."""
    results = []
    for pays in (True, False):
        monkeypatch.setattr(recurrence, "pays", lambda z, pays=pays: pays)
        predictions, hidden = model.rollout({"p4": z}, actions, warmup)
        results.append((predictions["p4"], hidden["p4"]))
    return results


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_products_of_transforms_are_the_convolution(size, kernel_size, dtype, tolerance):
    """Maps and constant planes alike, zeros around them."""
    maps = torch.randn(4, 8, *size, dtype=dtype)
    weight = torch.randn(6, 8, kernel_size, kernel_size, dtype=dtype) / (8 * kernel_size)
    matrices = transform(*size, kernel_size).to(maps)
    places_first = maps.permute(2, 3, 0, 1).flatten(0, 1)
    products = (matrices.analysis @ places_first.flatten(1)).view(-1, 4, 8)
    products = products @ matrices.kernels(weight)
    actual = (matrices.synthesis @ products.flatten(1)).view(*size, 4, 6).permute(2, 3, 0, 1)
    expected = F.conv2d(maps, weight, padding=kernel_size // 2)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    planes = matrices.planes(weight).sum(1).view(*size, 6).permute(2, 0, 1)
    expected = F.conv2d(torch.ones_like(maps[0]), weight, padding=kernel_size // 2)
    torch.testing.assert_close(planes, expected, rtol=tolerance, atol=tolerance)


def test_3x3_on_6x6_takes_73_products():
    """One for the mean, three for each of the 24 pairs of frequencies of a 7x7 transform."""
    assert len(transform(6, 6, 3).analysis) == 73


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("warmup", [1, 2, 4, 5])
def test_rollout_and_all_gradients_equal_those_of_plain_convolutions(size, warmup, monkeypatch):
    """Predictions, states, and the gradients of features and of every parameter by both."""
    model, (z, actions) = level(), batch(5, size)
    gradients, weights = [], None
    results = both_ways(model, z, actions, warmup, monkeypatch)
    for outputs in results:
        weights = weights or [torch.randn_like(x) for x in outputs]
        total = sum((x * weight).sum() for x, weight in zip(outputs, weights, strict=True))
        gradients.append(torch.autograd.grad(total, [z, *model.parameters()]))
    for actual, expected in (*zip(*results, strict=True), *zip(*gradients, strict=True)):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("warmup", [1, 2, 3])
def test_gradient_is_right(warmup, always):
    """Gradcheck in float64 for features and parameters."""
    model = level(hidden=2, channels=2)
    z, actions = batch(3, (2, 3), sequences=1, channels=2)
    names = [name for name, _ in model.named_parameters()]

    def run(z, *parameters):
        # The parameters in the model's place, so that gradcheck may move them.
        return torch.func.functional_call(
            Runs(model),
            dict(zip([f"model.{n}" for n in names], parameters, strict=True)),
            (z, actions, warmup),
        )

    assert torch.autograd.gradcheck(run, (z, *model.parameters()), fast_mode=True)


class Runs(torch.nn.Module):
    """Calls ``rollout``."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, z, actions, warmup):
        predictions, hidden = self.model.rollout({"p4": z}, actions, warmup)
        return predictions["p4"], hidden["p4"]


@pytest.mark.parametrize("warmup", [4, 16])
def test_in_single_precision_it_equals_the_written_equations(warmup):
    """At the sizes of params.yaml, where ``rollout`` itself chooses the transformed way."""
    model = ConvGRU({"p4": 48}, 4, 64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.03)
    z, actions = torch.randn(16, 16, 48, 6, 6), torch.randn(16, 16, 4)
    assert recurrence.pays(z)
    with torch.inference_mode():
        actual = model.rollout({"p4": z}, actions, warmup)[0]["p4"]
        expected = step_by_step(model, "p4", z, actions, warmup)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_autocast_rounds_about_as_much_as_plain_convolutions_do(monkeypatch):
    """Against float64, bf16 is at most three times as far off, and results are float32."""
    model, (z, actions) = level(hidden=16, channels=8, spread=0.1), batch(8, (6, 6), channels=8)
    exact = model.rollout({"p4": z}, actions, 3)[0]["p4"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = both_ways(model.float(), z.float(), actions.float(), 3, monkeypatch)
    assert all(x.dtype == torch.float32 for x in results[0])
    ours, plain = (float((x - exact).detach().square().mean().sqrt()) for x, _ in results)
    assert ours < 3 * plain
    results[0][0].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_buffers_serve_no_two_rollouts_at_once(always):
    """Of two pending rollouts, either may go back first, and one of them twice."""
    model = level()
    inputs = [batch(4, (3, 3)) for _ in range(2)]

    def run(z, actions):
        return model.rollout({"p4": z}, actions, 2)[0]["p4"].square().sum()

    def gradient(total):
        return torch.autograd.grad(total, list(model.parameters()), retain_graph=True)

    expected = [gradient(run(*given)) for given in inputs]
    pending = [run(*given) for given in inputs]
    for which in (1, 0, 1):
        for actual, wanted in zip(gradient(pending[which]), expected[which], strict=True):
            assert torch.equal(actual, wanted)
        del actual, wanted


def test_what_buffers_held_before_does_not_matter(always):
    """NaN in used memory, in the last action and in frames after the warm-up reaches no result."""
    model, (z, actions) = level(), batch(4, (3, 3))

    def gradients():
        predictions, _ = model.rollout({"p4": z}, actions, 2)
        return torch.autograd.grad(predictions["p4"].square().sum(), list(model.parameters()))

    expected = gradients()
    for free in recurrence.Buffers._free.values():
        for flat in free:
            flat.fill_(torch.nan)
    actions[-1] = torch.nan
    with torch.no_grad():
        z[2:] = torch.nan
    assert all(map(torch.equal, gradients(), expected))
    predictions, hidden = model.rollout({"p4": z}, actions, 2)
    with torch.inference_mode():
        again, states = model.rollout({"p4": z}, actions, 2)
    torch.testing.assert_close(again["p4"], predictions["p4"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(states["p4"], hidden["p4"], rtol=1e-12, atol=1e-12)


def test_large_maps_and_small_batches_stay_plain():
    """What one frame at a time and the finest level get is faster in plain convolutions."""
    shapes = {(16, 6, 6): True, (24, 3, 3): True, (8, 6, 6): False, (24, 12, 12): False}
    for (sequences, *size), expected in shapes.items():
        assert recurrence.pays(torch.empty(2, sequences, 3, *size)) == expected
    assert not recurrence.pays(torch.empty(2, 24, 3, 6, 6, device="meta"))
