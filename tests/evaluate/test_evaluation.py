"""The closed-loop evaluation: what it keeps, counts and draws."""

from contextlib import closing, nullcontext

import numpy as np
import pytest
import torch

from lib.agent.agents import ScriptAgent
from lib.agent.closed_loop import Trajectory, Trial, run_episodes
from lib.agent.condition import ConditionVector
from lib.agent.vector import make_vector_env
from lib.evaluate import suite
from lib.evaluate.pareto import PreferenceSweep, expected_utility, hypervolume, pareto_figure
from lib.evaluate.robot import episode_rows, success_rate, summarise
from lib.evaluate.suite import AFTER_SUCCESS, Films, Suite, by_kind, load_robots, stress_figure
from lib.params import load_params
from lib.sim.env import episode_seed
from lib.sim.experts import FastScript
from lib.sim.stress import Stress
from tests.evaluate.test_baselines import policy


def run(seed: int, steps: int, *, success: bool = True, after: int = 0, joules=1.0) -> Trajectory:
    """An episode with success at its step ``steps``, if at all; every frame holds its number."""
    total = steps + after
    trajectory = Trajectory(Trial(seed))
    trajectory.success = [success and t == steps - 1 for t in range(total)]
    trajectory.reward = [np.array([-1.0, -0.5, -joules]) for _ in range(total)]
    trajectory.energy_j, trajectory.damages = [joules] * total, [0] * total
    trajectory.frames = [np.full((2, 2, 3), t, np.uint8) for t in range(total)]
    return trajectory


def test_returns_and_figures_count_until_the_first_success():
    """What the robot does afterwards costs nothing here."""
    trajectory = run(0, 4, after=3, joules=2.0)
    assert trajectory.succeeded
    assert trajectory.steps == 4
    np.testing.assert_array_equal(trajectory.value, [-4, -2, -8])
    assert trajectory.joules == 8
    failed = run(0, 4, success=False, after=3)
    assert (failed.succeeded, failed.steps) == (False, 7)
    assert [row["steps"] for row in episode_rows({"a": [trajectory, failed]})] == [4, 7]


def test_films_keep_what_was_asked_for_and_the_worst():
    """A failure beats any number of steps; the first of equals stays; nobody else's frames do."""
    films = Films([1])
    for trajectory in (run(1, 5), run(2, 9, after=60), run(3, 7), run(4, 9)):
        films.take(trajectory)
        assert trajectory.frames == []
    assert films.worst == 2
    assert len(films.of(2)) == 9 + AFTER_SUCCESS
    for trajectory in (run(5, 3, success=False), run(6, 3, success=False)):
        films.take(trajectory)
    assert films.worst == 5
    assert films.of(1)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert set(films._frames) == {1, 5}


def test_the_worst_may_be_one_that_was_asked_for():
    """It is kept when a worse one comes."""
    films = Films([1])
    films.take(run(1, 9))
    assert films.worst == 1
    films.take(run(2, 10))
    assert (films.worst, set(films._frames)) == (2, {1, 2})


def test_hypervolume_is_the_area_beyond_the_expert():
    """Two rectangles that overlap; a slower or thirstier point adds nothing."""
    gains = np.array([[2.0, 0.1], [1.5, 0.4]])
    assert hypervolume(gains) == pytest.approx(1.0 * 0.1 + 0.5 * 0.3)
    outside = np.array([[0.5, 0.9], [3.0, -0.2], [1.2, 0.1]])
    assert hypervolume(np.concatenate([gains, outside])) == pytest.approx(0.25)
    assert hypervolume(outside[:2]) == 0


def test_expected_utility_is_the_mean_of_the_weighed_values():
    """By hand: 1 * 2 and 0.5 * 1 + 0.5 * 3."""
    weights, values = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[2.0, 9.0], [1.0, 3.0]])
    assert expected_utility(weights, values) == pytest.approx(2.0)


def test_a_comparison_leaves_out_what_was_not_watched():
    """Runs that end at success say nothing about the last step."""
    params = load_params("policy", "economics", "evaluate")
    asked = (params.economics, params.evaluate)
    settings = params.policy.model_copy(update={"presets": {"one": [1.0, 0.0, 0.0]}})
    settings = settings.model_copy(update={"preset": "one"})
    sweep = PreferenceSweep(Positions(), None, [run(0, 10, joules=2.0)], *asked)
    summary = sweep.presets(settings, [run(0, 5)])["one"]
    assert not {name for name in summary if name.startswith("success_last")}
    assert summary["mpl_ratio"] == pytest.approx(2)
    assert summary["energy_ratio"] == pytest.approx(0.25, abs=1e-3)  # of rounded Wh


class Positions:
    """A suite whose robots take 10 steps at no weight of energy and 20 at half of it."""

    def trials(self, count=None, **asked):
        return [Trial(seed, **asked) for seed in range(count or 5)]

    def run(self, name, agent, trials):
        assert all(trial.linger == 0 for trial in trials)
        weights = [trial.weights[2] for trial in trials]
        return [run(i, round(10 + 20 * w), joules=1 - w) for i, w in enumerate(weights)]


def test_the_sweep_goes_from_the_first_preset_to_the_last(tmp_path):
    """Equally spaced weights, each with its summary and return; scores add up."""
    params = load_params("policy", "economics", "evaluate")
    asked = (params.economics, params.evaluate)
    presets = {"throughput": [1.0, 0.0, 0.0], "energy": [0.5, 0.0, 0.5]}
    settings = params.policy.model_copy(update={"presets": presets, "preset": "throughput"})
    # The expert is slower at the positions beyond the first two, which the sweep does not use.
    scripted = [run(i, 40 if i < 2 else 60) for i in range(5)]
    sweep = PreferenceSweep(Positions(), None, scripted, *asked)
    rows = sweep.run(settings, 3, positions=2)
    assert [row["weight_energy"] for row in rows] == [0, 0.25, 0.5]
    assert [row["steps_mean"] for row in rows] == [10, 15, 20]
    assert [row["return_task"] for row in rows] == [-10, -15, -20]
    assert [row["mpl_ratio"] for row in rows] == pytest.approx([4, 40 / 15, 2], abs=1e-5)
    scores = sweep.scores(rows)
    assert scores["success_any_min"] == 1
    utility = (-10 + (0.75 * -15 + 0.25 * -15 * 0.75) + (0.5 * -20 + 0.5 * -20 * 0.5)) / 3
    assert scores["expected_utility"] == pytest.approx(utility, abs=1e-6)
    found = sweep.presets(settings, [run(i, 10) for i in range(5)])
    assert found["throughput"]["mpl_ratio"] == pytest.approx(5.2)
    assert found["energy"]["steps_mean"] == 20
    assert found["energy"]["mpl_ratio"] == pytest.approx(2.6)
    assert {row["episodes"] for row in rows} == {2}
    pareto_figure(tmp_path / "front.png", rows, {"scripted": summarise(scripted, *asked)})
    assert (tmp_path / "front.png").stat().st_size > 5000


@pytest.mark.parametrize(("weight", "task", "same"), [(1, 1, True), (2, 1, False), (1, 0.5, False)])
def test_a_clone_that_is_the_policy_is_driven_once(monkeypatch, weight, task, same):
    """Equal weights under equal conditions are one robot; its episodes have both names."""
    agents = [policy(), policy()]
    for agent, value in zip(agents, (1, weight), strict=True):
        agent.actor.register_buffer("weight", torch.full((2,), value))
    agents[1].condition = ConditionVector(weights=(task, 1 - task, 0.0))
    monkeypatch.setattr(suite, "load_policy", lambda *_: agents.pop(0))
    robots = load_robots("drawer_open", nullcontext)
    assert (robots["policy"] is robots["cloned"]) == same
    driven = Driven()
    runs = driven.run_each(robots, when=" today")
    assert list(runs) == list(robots)
    assert (runs["policy"] is runs["cloned"]) == same
    names = ["policy", "cloned", "scripted", "fast_script"]
    assert driven.names == [f"{name} today" for name in names if name != "cloned" or not same]


class Driven(Suite):
    """A suite that drives nobody, notes who was asked for, and fails under stress."""

    def __init__(self):
        self.seeds, self.names = list(range(5)), []

    def run(self, name, agent, trials=None, *, films=None):
        self.names.append(name)
        asked = self.trials() if trials is None else trials
        return [run(t.seed, 4, success=t.stress == Stress()) for t in asked]


def test_the_control_of_the_stress_is_what_was_driven_without_any():
    """On as many of the same positions; stressed episodes are counted under their own kind."""
    nominal = {"policy": [run(i, 4, success=i != 1) for i in range(5)]}
    rows = Driven().stressed({"policy": None}, {1.0: 4, 0.5: 2}, ["slip", "push"], nominal)
    assert [(r["kind"], r["severity"], r["episodes"], r["policy"]) for r in rows] == [
        ("nominal", 1.0, 4, 0.75),
        ("slip", 1.0, 4, 0.0),
        ("push", 1.0, 4, 0.0),
        ("nominal", 0.5, 2, 0.5),
        ("slip", 0.5, 2, 0.0),
        ("push", 0.5, 2, 0.0),
    ]


def test_stress_is_told_by_kind_and_drawn(tmp_path):
    """Two severities side by side; one table is that of the metrics."""
    rows = [
        {"kind": kind, "severity": severity, "episodes": 4}
        | success_rate("policy", 4, 4)
        | success_rate("scripted", 2, 4)
        for severity in (0.5, 1.0)
        for kind in ("slip", "push")
    ]
    rows[-1] |= success_rate("policy", 1, 4)
    expert = success_rate("scripted", 2, 4)
    for severity, successes in ((0.5, 4), (1.0, 1)):
        told = {"episodes": 4, **success_rate("success_any", successes, 4), **expert}
        assert by_kind(rows, severity)["push"] == told
    stress_figure(tmp_path / "stress.png", rows)
    assert (tmp_path / "stress.png").stat().st_size > 5000


def test_episodes_go_on_after_success_for_as_long_as_their_trial_asks():
    """The same episodes as to the horizon, cut there; the next ones begin in their place."""
    lingers = [None, 0, 3, 0, 100]
    seeds = [episode_seed(5, i) for i in range(len(lingers))]
    agent = ScriptAgent(FastScript())
    env = make_vector_env(2, render=False, horizon=60, linger=None)
    with closing(env):
        whole = run_episodes(env, agent, [Trial(seed) for seed in seeds])
        cut = run_episodes(
            env, agent, [Trial(s, linger=n) for s, n in zip(seeds, lingers, strict=True)]
        )
    for long, short, linger in zip(whole, cut, lingers, strict=True):
        assert len(long.success) == 60
        assert short.steps == long.steps < 57
        count = 60 if linger is None else min(60, long.steps + linger)
        assert len(short.success) == count
        np.testing.assert_array_equal(np.array(short.action), np.array(long.action)[:count])
        np.testing.assert_array_equal(short.value, long.value)
