"""Products of NumPy's BLAS have torch's values and gradients, and the arithmetic is pinned."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch

from lib.base import arithmetic
from lib.base.paths import ROOT
from lib.learning.portable import Linear, product, sqrt


@pytest.mark.parametrize(
    "shapes",
    [((7, 13), (13, 5)), ((256, 190), (190, 256)), ((4, 256, 190), (4, 190, 64)), ((1, 3), (3, 2))],
)
def test_values_and_gradients_are_those_of_torch(shapes):
    """The large ones are shared by two threads; float64 is the judge."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(s, generator=generator, requires_grad=True) for s in shapes)
    exact = [x.detach().double().requires_grad_() for x in (a, b)]
    found, truth = product(a, b), exact[0] @ exact[1]
    weights = torch.randn(truth.shape, generator=generator)
    (found * weights).sum().backward()
    (truth * weights).sum().backward()
    pairs = ((found, truth), (a.grad, exact[0].grad), (b.grad, exact[1].grad))
    for mine, theirs in pairs:
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-4)


def test_an_expanded_batch_is_multiplied_member_by_member():
    x, w = torch.randn(5, 3), torch.randn(4, 3, 2)
    torch.testing.assert_close(product(x.expand(4, 5, 3), w), x @ w)


def test_the_layer_is_torch_s_layer():
    layer = Linear(6, 4)
    theirs = torch.nn.Linear(6, 4)
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(9, 6)
    torch.testing.assert_close(layer(x), theirs(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16  # native arithmetic keeps its speed


@pytest.mark.skipif(not arithmetic.X86, reason="pinned on x86 only")
def test_lib_pins_the_arithmetic_whatever_the_user_has_set():
    code = (
        "import lib, torch; from lib.base import arithmetic; assert arithmetic.is_portable(); "
        "print(torch.backends.cpu.get_cpu_capability())"
    )
    env = {**os.environ, "MKL_CBWR": "AUTO", "OMP_WAIT_POLICY": "active"}
    env.pop("ATEN_CPU_CAPABILITY", None)
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (out.returncode, out.stdout.strip()) == (0, "AVX2"), out.stderr


def test_a_stage_refuses_to_start_where_it_was_too_late_to_pin():
    """Importing ``lib`` after torch changes nothing, and whoever asks for portable is told."""
    code = (
        "import torch; from lib.learning.device import start; from lib.params import load_params; "
        "start(load_params('compute').compute, 0)"
    )
    pinned = {*arithmetic.ALWAYS, *arithmetic.PORTABLE}
    env = {name: value for name, value in os.environ.items() if name not in pinned}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert out.returncode and "was imported before lib" in out.stderr


def test_roots_are_those_of_torch_and_zero_stays_zero():
    x = torch.cat([torch.zeros(1), torch.rand(1000), 1e6 * torch.rand(1000)])
    torch.testing.assert_close(sqrt(x), x.double().sqrt().float(), rtol=1.2e-7, atol=0)


MKL_ROOT = re.compile(r"torch\.sqrt\(|\.sqrt\(\)|\*\* 0\.5")


def test_nothing_calls_mkl_s_roots():
    """They differ from processor to processor, and only a second processor would tell."""
    for path in [*ROOT.glob("lib/**/*.py"), *ROOT.glob("stages/*.py")]:
        assert not MKL_ROOT.search(path.read_text()), path


@pytest.mark.skipif(not arithmetic.X86, reason="pinned on x86 only")
def test_a_step_of_every_stage_is_what_it_was_elsewhere_and_multiplies_without_mkl():
    """The hashes were equal on several processors: see docs/reproducibility.md."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.probe"],
        cwd=ROOT,
        env={**os.environ, "MKL_VERBOSE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "MKL_VERBOSE" not in run.stdout
    assert run.stdout == (ROOT / "tests" / "goldens" / "probe.txt").read_text()
