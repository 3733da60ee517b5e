"""The benchmarks run: nobody looks at them for months, and then they have to."""

import importlib
import subprocess
import sys

import pytest

from lib.base.paths import ROOT

MODULES = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py") if p.stem != "__init__")


@pytest.mark.parametrize("name", MODULES)
def test_it_can_be_imported(name):
    """What it needs of the project is still there."""
    importlib.import_module(f"benchmarks.{name}")


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("which", ["default", "ours"])
def test_both_renderers_draw(which):
    """In a process of their own, as the benchmark runs them."""
    model = "mujoco.MjModel.from_xml_string('<mujoco/>')"
    if fresh(f"import lib.sim, mujoco; mujoco.Renderer({model}).close()").returncode:
        pytest.skip("MuJoCo cannot render")
    done = fresh(
        "import benchmarks.rendering as rendering; rendering.MOMENTS = 2; "
        f"print(rendering.frames_per_second({which!r}))"
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0
