"""The report of `make stress`: what is counted, what is searched, and what stands on the page."""

import numpy as np
import pytest

from lib.agent.closed_loop import Trajectory, Trial
from lib.evaluate import stress_report
from lib.evaluate.stress_report import gain, report, worst_mixture
from lib.evaluate.suite import Suite
from lib.sim.stress import STRESS_KINDS, stress_kinds


class Weak(Suite):
    """A suite whose robot fails where a rule of the stress says so; it notes the seeds."""

    def __init__(self, fails):
        self.driven = []
        self._fails = fails

    def trials(self, count=None, **asked):
        return [Trial(100 + index, **asked) for index in range(count)]

    def run(self, name, agent, trials=None, *, films=None):
        self.driven += [trial.seed for trial in trials]
        return [Trajectory(t, success=[False, not self._fails(t.stress)]) for t in trials]


def test_drawers_are_counted_for_each_mixture_on_its_own_positions():
    """In the order asked for, whatever their numbers of positions."""
    suite = Weak(lambda stress: stress.push > 0.5)
    asked = [({}, 0, 3), ({"push": 1.0}, 3, 2), ({"push": 0.2}, 1, 4)]
    robots = {"policy": 1, "cloned": 1, "scripted": 2}
    found = suite.which_opened(robots, asked, ", each")
    wanted = ([True] * 3, [False] * 2, [True] * 4)
    assert found == [dict.fromkeys(robots, opened) for opened in wanted]
    # The clone is the policy, and is not driven again.
    assert suite.driven == [100, 101, 102, 103, 104, 101, 102, 103, 104] * 2


def test_the_search_finds_what_the_robot_cannot_bear():
    """One kind in fourteen, on positions that are not those of the result."""
    suite = Weak(lambda stress: stress.occlusion > 0.3)
    worst = worst_mixture(suite, None, stress_kinds("wide"))
    assert worst["occlusion"] > 0.3
    assert len(worst) == stress_report.MIXED
    assert sum(worst.values()) <= stress_report.BUDGET + 0.02
    assert min(suite.driven) == 100 + stress_report.POSITIONS


def test_the_page_names_every_kind_and_the_hardest_pairs():
    """Rates with intervals; the hardest pair stands first."""
    count = stress_report.POSITIONS
    half = dict.fromkeys(stress_report.ROBOTS, [True, False] * (count // 2))
    alone = dict.fromkeys(("nominal", *STRESS_KINDS), half)
    pairs = {("light", "push"): 3, ("slip", "hand_start"): 0, ("light", "camera"): 4}
    text = report(alone, pairs, {"hand_start": 0.9, "push": 0.4}, half)
    for kind in STRESS_KINDS:
        assert f"| {kind.replace('_', ' ')} | 0.50 (0.37 to 0.63) |" in text
    rows = [line for line in text.splitlines() if " and " in line and line.startswith("|")]
    assert rows[0] == "| slip and hand start | 0.00 |"
    assert rows[-1] == "| light and camera | 1.00 |"
    assert "hand start 0.9, push 0.4" in text
    assert max(len(line) for line in text.splitlines()) <= 120
    assert stress_report.UNSURPRISED not in text


def test_what_surprise_is_for_is_counted_over_positions():
    """Twice the same kind is not twice the evidence; what happens without stress does not count."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(50) < 0.8, rng.random(50) < 0.5
    kind = {"policy": ours, stress_report.UNSURPRISED: theirs}
    nominal = {"policy": ~ours, stress_report.UNSURPRISED: ours}
    once = gain({"nominal": nominal, "push": kind})
    assert once == gain({"nominal": nominal, "push": kind, "slip": kind})
    apart = ours.astype(float) - theirs
    assert once[0] == pytest.approx(apart.mean())
    half = 1.96 * apart.std() / np.sqrt(50)
    assert once[1:] == pytest.approx((once[0] - half, once[0] + half), abs=0.03)
    robots = dict.fromkeys(stress_report.ROBOTS, ours)
    told = {"nominal": {**robots, **nominal}, "push": {**robots, **kind}}
    assert f"{once[0]:+.3f} of the drawers more" in report(told, {}, {"push": 1.0}, robots)


@pytest.mark.parametrize("missing", ["params.yaml: task: missing; add it"])
def test_bad_input_is_one_line(monkeypatch, capsys, missing):
    """And exit code 2; the page stays as it is."""

    def refuse(*_):
        raise stress_report.UserError(missing)

    monkeypatch.setattr(stress_report, "load_params", refuse)
    assert stress_report.main() == 2
    assert capsys.readouterr().err == missing + "\n"
