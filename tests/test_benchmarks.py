"""The benchmarks run: nobody looks at them for months, and then they have to."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks.trust import corrupt, precision, two_sources
from lib.base.paths import ROOT
from lib.episode import PRIMITIVES
from tests.factories import drawn_dataset

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


# benchmarks.trust


@pytest.mark.parametrize("consistent", [True, False])
def test_a_third_of_the_segments_is_renamed_and_nothing_else(consistent):
    """Whole primitives of whole episodes; consistently, each is taken for one other only."""
    exact = np.arange(7, dtype=np.uint8).repeat(7)[None].repeat(60, 0).reshape(60, 7, 7)
    episodes = [slice(start, start + 2) for start in range(0, 40, 2)]
    rng = np.random.default_rng(0)
    said = corrupt(exact, episodes, 1 / 3, rng, consistent=consistent)
    assert_array_equal(said[40:], exact[40:])
    names: dict[int, set[int]] = {}
    for rows in episodes:
        for true in range(7):
            (name,) = np.unique(said[rows][exact[rows] == true])
            if name != true:
                names.setdefault(true, set()).add(int(name))
    wrong = (said[:40] != exact[:40]).mean()
    assert wrong == pytest.approx(round(140 / 3) / 140)
    assert all(len(given) == 1 for given in names.values()) is consistent


def test_estimated_trust_is_the_precision_of_each_name():
    """Handle given four pixels of which one is of it; drawer all its three; the rest not seen.

    With two of the wrong ones doubted, handle is right in one of two.
    """
    handle, drawer = PRIMITIVES.index("handle"), PRIMITIVES.index("drawer")
    said = np.array([handle] * 4 + [drawer] * 3, np.uint8)
    exact = np.array([handle] + [drawer] * 6, np.uint8)
    expected = np.full(len(PRIMITIVES), 0.5)
    expected[[handle, drawer]] = 0.25, 1.0
    assert_allclose(precision(said, exact, np.ones(7)), expected)
    expected[handle] = 0.5
    assert_allclose(precision(said, exact, np.array([1, 1, 0, 0, 1, 1, 1])), expected)


def test_the_benchmark_doubts_what_it_made_wrong():
    """Without exact episodes: nearly all wrong pixels are found, hardly a right one is blamed."""
    case = two_sources(drawn_dataset(41), 1 / 3, 0, consistent=False)
    assert case.wrong > 0.1
    assert case.found > 0.9 and case.blamed < 0.05
    assert case.weights["uniform"][1] == case.weights["source"][1] == {}
    assert len(case.weights["trust"][1]) > 10
