"""The stages that drive robots: positions, preferences, stress, and what is published.

Point robots and a perception without networks take the place of simulator and frozen stack.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lib.agent.agents import PolicyAgent
from lib.agent.closed_loop import run_episodes
from lib.agent.condition import WEIGHTS_SLICE, ConditionVector
from lib.agent.projector import GROUPS
from lib.learning.checkpoint import load_checkpoint
from lib.params import load_params
from lib.policy import train_sac as training
from lib.sim.env import episode_seed, spread_seeds
from lib.sim.stress import NOMINAL, STRESS_KINDS, Stress
from stages import evaluate, policy
from tests.agent.fakes import GOAL, PointPerception, PointRobots, percepts
from tests.agent.test_agents import projector
from tests.stages.bench import nothing, recorded, run_stage, spoiled

DATA = recorded()
SMALL = {
    "hidden": [8],
    "batch_size": 16,
    "critics": 2,
    "imitation_steps": 0,
    "bc_steps": 5,
    "offline_steps": 3,
    "online_steps": 24,
    "updates_per_step": 0.5,
    "num_envs": 2,
    "horizon": 12,
    "linger": 3,
    "validations": 2,
    "validate_every": 12,
    "validate_episodes": 3,
    "vision_components": 2,
    "memory_components": 2,
}


# Presets under which the point robots reach their goal in time, one faster than the other.
PRESETS = {"throughput": [0.65, 0.2, 0.15], "energy": [0.3, 0.2, 0.5]}


def perceived(perception, data):
    """Takes the place of ``perceive_dataset``: the brightness of a picture is a robot's place."""
    place = data.arrays["actions"][:, 0].astype(float)
    frames = np.concatenate([np.arange(len(e)) for e in data.episodes])
    return percepts(place, data.arrays["actions"], frames)


@pytest.fixture
def policy_of(tmp_path, monkeypatch):
    """Runs the policy stage; returns its environments, its trials and what it published."""

    def run_it(data=DATA, name="policy", **changes):
        folder, made, trials = tmp_path / name, [], []

        def watched(env, agent, asked, **options):
            trials.append((asked, agent.explore))
            return run_episodes(env, agent, asked, **options)

        left = run_stage(
            policy,
            folder,
            monkeypatch,
            data,
            {"policy": {**SMALL, **changes}, "evaluate": {"horizon": 10}},
            Perception=PointPerception,
            perceive_dataset=perceived,
            make_vector_env=PointRobots.noted_in(made),
            run_episodes=watched,
            POLICY=folder / "policy",
            CLONED_POLICY=folder / "clone",
        )
        left.saved = load_checkpoint(folder / "policy", "hydra_policy")
        left.clone = load_checkpoint(folder / "clone", "hydra_policy")
        (left.env,), left.trials = made, trials
        return left

    return run_it


def test_the_policy_learns_from_training_episodes_alone(policy_of):
    """Noise in held-out recordings moves no weight; in training recordings, it does."""
    clean = policy_of()
    for split in ("valid", "test"):
        spoilt = policy_of(spoiled(DATA, split), split)
        assert spoilt.saved.digest == clean.saved.digest
        assert spoilt.metrics["loss"] == clean.metrics["loss"]
    # Rewards move what reinforcement learns, whether or not its result is published.
    spoilt = policy_of(spoiled(DATA, "train", "vector_rewards"), "train")
    assert spoilt.metrics["loss"] != clean.metrics["loss"]


def test_training_and_validation_and_test_have_positions_of_their_own(policy_of):
    """Validation covers the range evenly, on seeds that are no training seeds and no test seeds."""
    left = policy_of()
    positions = left.env.call("positions")[0]
    held_out = spread_seeds(0, 3, "validate", positions)
    assert all([trial.seed for trial in asked] == held_out for asked, _ in left.trials)
    driven = [seed for seed, _ in left.env.resets]
    training_seeds = spread_seeds(0, 4 * 24 // 12 + 2, "train", positions, ends=True)
    learned = [seed for seed in driven if seed not in held_out and seed != 0]
    assert learned and set(learned) <= set(training_seeds)
    assert learned == training_seeds[: len(learned)]
    seed = load_params("evaluate").evaluate.seed
    for suite in ("test", "dev"):
        assert not {episode_seed(seed, i, suite) for i in range(100)} & set(driven)


def test_validation_is_the_mode_of_the_policy_under_every_preset(policy_of):
    """To the horizon of the test; the published preset goes on after success."""
    left = policy_of()
    presets = list(load_params("policy").policy.presets.values())
    assert [explore for _, explore in left.trials] == [None] * 6
    weights = [list(asked[0].weights) for asked, _ in left.trials]
    assert weights == presets * 3
    assert {trial.horizon for asked, _ in left.trials for trial in asked} == {10}
    lingers = [asked[0].linger for asked, _ in left.trials]
    assert lingers == [None, 0] * 3


def test_the_robot_is_validated_as_it_drives(policy_of, monkeypatch):
    """What the stage reports of the positions is what the robots did there."""
    found = []

    def noted(agent, replay, env, seeds, teacher, validate, settings, *rest):
        answer = validate(settings.weights)
        found.append((answer, copy.deepcopy(env.steps)))
        return training.train_sac(agent, replay, env, seeds, teacher, validate, settings, *rest)

    monkeypatch.setattr(policy, "train_sac", noted)
    policy_of()
    ((answer, steps),) = found
    joules = sum(0.1 * abs(actions[i, 0]) for seeds, actions in steps for i in range(len(seeds)))
    assert len({seed for seeds, _ in steps for seed in seeds} - {-1}) >= 3
    assert 0 <= answer.success_last <= answer.success_any <= 1
    assert 0 < answer.joules * 3 <= joules + 1e-9
    assert answer.steps <= 10


def test_the_clone_is_saved_before_the_robot_moves(policy_of):
    """And differs from what is published only if something better was found."""
    left = policy_of()
    best = left.metrics["best_step"]
    assert (left.saved.digest == left.clone.digest) == (best == 0)
    assert left.metrics["online_steps"] == 24


class Bold(torch.nn.Module):
    """An actor that goes on, as fast as the preference weighs the task."""

    def act(self, obs, condition, skill):
        return condition[:, WEIGHTS_SLICE][:, :1].expand(-1, 4)


@pytest.fixture
def drive(tmp_path, monkeypatch):
    """A function that runs the evaluate stage on point robots, with some settings of its own.

    It returns the metrics and the environments.
    """
    return lambda **asked: _drive(tmp_path, monkeypatch, asked)


@pytest.fixture
def evaluation(drive):
    """The evaluate stage as it is set."""
    return drive()


def _drive(tmp_path, monkeypatch, asked):
    made = []

    monkeypatch.setattr("lib.evaluate.suite.make_vector_env", PointRobots.noted_in(made))
    monkeypatch.setattr("lib.evaluate.suite.load_policy", lambda *args: load(*args))
    few = {"episodes": 6, "other_episodes": 2, "baseline_episodes": 2}
    few |= {"exchange_episodes": 2, "stress_episodes": 2, "stress_severe_episodes": 1}
    few |= {"sweep_weights": 3, "sweep_episodes": 2, "videos": 1, "num_envs": 2, "horizon": 12}
    few |= asked
    loaded = []

    def load(path, autocast):
        loaded.append(path)
        return PolicyAgent(
            PointPerception(),
            projector(),
            Bold(),
            ConditionVector(weights=tuple(PRESETS["throughput"])),
        )

    left = run_stage(
        evaluate,
        tmp_path,
        monkeypatch,
        DATA,
        {"evaluate": few, "policy": {"presets": PRESETS}},
        load_backbone=lambda: SimpleNamespace(image_size=4),
        load_recordings=nothing,
        run_baselines=lambda suite, *_: {},
        VIDEOS=tmp_path,
        write_films=nothing,
        episode_sheet=nothing,
        pareto_figure=nothing,
        stress_figure=nothing,
    )
    left.loaded = [path.name for path in loaded]
    left.seeds = [episode_seed(load_params("evaluate").evaluate.seed, i, "test") for i in range(6)]
    left.pixels = next(env for env in made if env.options["render"])
    left.blind = next(env for env in made if not env.options["render"])
    return left


def test_the_evaluation_drives_the_test_positions_and_no_other(evaluation):
    """Policy, clone and scripts the same ones, each named agent the file of its name."""
    assert evaluation.loaded == [policy.POLICY.name, policy.CLONED_POLICY.name]
    for env in (evaluation.pixels, evaluation.blind):
        assert {seed for seed, _ in env.resets} - {0} == set(evaluation.seeds)
        assert [seed for seed, _ in env.resets[:6]] == evaluation.seeds
        assert env.options["horizon"] == 12 and env.options["linger"] is None


def test_the_development_suite_has_positions_of_its_own(drive):
    """Whoever chooses a recipe on it has not seen a test position; the metrics say which it was."""
    sealed, open_to_all = drive(), drive(suite="dev")
    assert sealed.metrics["suite"] == "test" and open_to_all.metrics["suite"] == "dev"
    seed = load_params("evaluate").evaluate.seed
    wanted = [episode_seed(seed, i, "dev") for i in range(6)]
    for env in (open_to_all.pixels, open_to_all.blind):
        assert {one for one, _ in env.resets} - {0} == set(wanted)
    assert not set(wanted) & {episode_seed(seed, i, "test") for i in range(1000)}


def test_every_rate_says_of_how_many_episodes_it_is(evaluation):
    """And in which interval the rate lies: agents, presets and stress."""
    found = evaluation.metrics
    rates = [found[name] for name in ("policy", "cloned", "teacher", "scripted", "fast_script")]
    rates += [*found["presets"].values(), *found["stress"].values()]
    rates += [*found["stress_severe"].values()]
    assert {rate["episodes"] for rate in rates} == {1, 2, 6}
    assert {rate["episodes"] for rate in found["metaworld"].values()} == {2}
    for rate in rates:
        named = {"success_any", "success_last", "damage_rate", "scripted"} & rate.keys()
        assert named >= {"success_any"}
        for name in named:
            assert rate[f"{name}_low"] <= rate[name] <= rate[f"{name}_high"]


def test_the_evaluation_runs_every_stress_at_its_severity(evaluation):
    """Severe first; each kind alone; nominal runs, on the same positions, are nominal."""
    wanted = [(seed, Stress(**{k: 1.0})) for k in STRESS_KINDS for seed in evaluation.seeds[:1]]
    wanted += [(seed, Stress(**{k: 0.5})) for k in STRESS_KINDS for seed in evaluation.seeds[:2]]
    # Before it, parts of the observation are exchanged where pictures are missing.
    black = [(seed, Stress(dropout=1.0)) for seed in evaluation.seeds[:2]] * (1 + len(GROUPS))
    for env, before in ((evaluation.pixels, black), (evaluation.blind, [])):
        stressed = [reset for reset in env.resets if reset[1] != NOMINAL]
        assert stressed == before + wanted
    assert set(evaluation.metrics["stress"]) == {"nominal", *STRESS_KINDS}


def test_the_evaluation_reports_each_preset_under_its_own_preference(evaluation):
    """The robot that minds time most is the fastest, and takes as many steps as its speed says."""
    presets, policy_alone = evaluation.metrics["presets"], evaluation.metrics["policy"]
    assert set(presets) == set(PRESETS)
    starts = [np.random.default_rng(seed).uniform(0, 0.3) for seed in evaluation.seeds]
    for name, (task, *_) in PRESETS.items():
        steps = [np.floor((GOAL - start) / (0.1 * task) + 1e-6) + 1 for start in starts]
        assert presets[name]["steps_mean"] == pytest.approx(np.mean(np.minimum(steps, 12)), abs=0.2)
    assert policy_alone["steps_mean"] == presets["throughput"]["steps_mean"]
    assert presets["throughput"]["steps_mean"] < presets["energy"]["steps_mean"]
