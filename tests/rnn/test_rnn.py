"""Windows, skill, surprise and memory of the RNN: numbers by hand."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from lib.base.errors import UserError
from lib.base.paths import BACKBONE, relative
from lib.data.dataset import Dataset, Windows
from lib.learning.checkpoint import save_checkpoint
from lib.models.convgru import ConvGRU
from lib.rnn.memory import SpatialMemory
from lib.rnn.motion import MotionModel
from lib.rnn.normalizer import Normalizer
from lib.rnn.skill import HORIZONS, STEPS, prediction_skill
from lib.rnn.surprise import (
    AHEAD,
    Sensed,
    SurpriseScale,
    episode_deviations,
    imagine,
    present,
)
from lib.rnn.surprise_test import auroc, calibrate, separation, suite_kinds
from lib.rnn.watch import Watch
from lib.sim.stress import STRESS_KINDS, WORLD_KINDS
from tests.factories import dataset


def generator(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def walk(lengths: tuple[int, ...]) -> tuple[dict[str, np.ndarray], Dataset]:
    """Features that move by the action: z_{t+1} = z_t + a_t."""
    data = dataset(*lengths)
    z = np.zeros((len(data), 2, 3, 3), np.float32)
    for episode in data.episodes:
        for t in range(episode.start, episode.stop - 1):
            z[t + 1] = z[t] + data.arrays["actions"][t][:, None, None]
    return {"p4": z}, data


def test_a_window_holds_none_of_the_rows_it_must_do_without():
    """Of two episodes of six rows, windows of three: those that touch rows 4 and 6 are gone."""
    features, data = walk((6, 6))
    assert Windows(features, data, ["train"], 3).starts.tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
    kept = Windows(features, data, ["train"], 3, without=np.array([4, 6]))
    assert kept.starts.tolist() == [0, 1, 7, 8, 9]


def one(level: str, channels: int) -> Normalizer:
    """A normalizer that changes nothing."""
    return Normalizer({level: torch.zeros(channels, 1, 1)}, {level: torch.ones(channels, 1, 1)})


class Integrator(ConvGRU):
    """Knows the truth of ``walk``."""

    def rollout(self, z, actions_TBA, warmup):
        """Adds up the actions."""
        predictions, last = [], None
        for t in range(len(actions_TBA) - 1):
            last = (z["p4"][t] if t < warmup else last) + actions_TBA[t][..., None, None]
            predictions.append(last)
        return {"p4": torch.stack(predictions)}, {}


def test_skill_is_one_for_the_truth_zero_for_persistence_and_lost_with_other_actions():
    """Open loop and teacher-forced; shuffled futures and shuffled windows."""
    features, data = walk((30, 40))
    windows = Windows(features, data, ["train"], 4 + STEPS, stride=2)
    model = Integrator({"p4": 2}, 2, 4)
    metrics, rows = prediction_skill(model, windows, one("p4", 2), 4, seed=0)
    assert all(metrics["skill"][f"k{k}"] == pytest.approx(1.0, abs=1e-5) for k in HORIZONS)
    assert metrics["skill_teacher_forced"] == pytest.approx(1.0, abs=1e-5)
    for name in ("skill_shuffled_actions", "skill_shuffled_windows"):
        assert max(metrics[name].values()) < 0.3
    assert [row["k"] for row in rows] == list(range(1, STEPS + 1))
    alone, _ = prediction_skill(model, windows, one("p4", 2), 4, seed=0, controls=False)
    assert alone == {"skill": metrics["skill"]}
    metrics, _ = prediction_skill(None, windows, one("p4", 2), 4, seed=0)
    assert metrics["skill"] == dict.fromkeys(("k1", "k4", "k8"), 0.0)
    assert metrics["skill_teacher_forced"] == 0.0


def random_deviations(seed: int, steps: int = 400) -> dict[str, torch.Tensor]:
    """Of two senses, of which one is a map."""
    return {
        "p4": torch.randn(steps, 2, 3, 3, generator=generator(seed)),
        "hand": torch.randn(steps, 3, generator=generator(seed + 100)),
    }


def test_the_most_surprised_sense_decides_and_severity_grows_with_its_value():
    """Known is a share of the held-out frames; severity and tiers are monotone."""
    errors = random_deviations(0)
    scale = SurpriseScale.of([errors], [errors], 4, quantile=0.9, factor=3.0)
    each = scale.by_sense(errors)
    assert all((x > 1).double().mean() == pytest.approx(0.1, abs=0.01) for x in each.values())
    torch.testing.assert_close(scale.value(errors), torch.maximum(each["p4"], each["hand"]))
    judged = scale.judge(scale.value(errors).numpy())
    assert (judged.novelty_tier == 0).mean() == pytest.approx(0.9, abs=0.01)
    assert (judged.ood_severity[judged.novelty_tier == 0] == 0).all()
    quiet = {name: 0 * x[:50] for name, x in errors.items()}
    for name in errors:
        growing = quiet | {name: quiet[name] + torch.linspace(0, 9, 50).view(-1, 1, 1, 1)}
        if name == "hand":
            growing = quiet | {name: torch.linspace(0, 9, 50)[:, None].expand(50, 3)}
        judged = scale.judge(scale.value(growing).numpy())
        for values in (judged.value, judged.ood_severity, judged.novelty_tier):
            assert (np.diff(values) >= 0).all()
        assert (judged.ood_severity[0], judged.ood_severity[-1]) == (0.0, 1.0)
        assert set(judged.novelty_tier) == {0, 1, 2}


def test_a_sense_that_says_nothing_of_the_first_frames_is_not_surprised_by_them():
    """Predictions begin later than the episode; the last frames are the same ones."""
    errors = random_deviations(0)
    scale = SurpriseScale.of([errors], [errors], 4, quantile=0.9, factor=3.0)
    late = {"p4": errors["p4"][6:], "hand": errors["hand"]}
    each, value = scale.by_sense(errors), scale.value(late)
    torch.testing.assert_close(value[:6], each["hand"][:6])
    torch.testing.assert_close(value[6:], scale.value(errors)[6:])


def test_a_scale_is_the_same_after_it_was_stored():
    """Configuration and tensors hold all of it."""
    errors = random_deviations(0)
    scale = SurpriseScale.of([errors], [errors], 4, quantile=0.9, factor=3.0)
    again = SurpriseScale.load(scale.config(), scale.tensors())
    assert torch.equal(again.value(errors), scale.value(errors))
    assert (again.known, again.unknown) == (scale.known, 3 * scale.known)


def test_a_hand_that_is_seen_elsewhere_than_it_is_felt_deviates_by_the_way_between():
    """The gripper's opening has no say; how a picture looks is passed on."""
    seen, felt = torch.tensor([[0.3, 0.5, 0.2]]), np.array([[0.1, 0.6, 0.2, 1.0]], np.float32)
    found = present(torch.tensor([[1.5]]), seen, felt)
    torch.testing.assert_close(found["hand"], torch.tensor([[0.2, -0.1, 0.0]]))
    assert found["look"].tolist() == [[1.5]]


def test_the_motion_of_a_hand_that_follows_a_linear_law_is_foreseen():
    """Half of the last motion and a hundredth of the last action; a push is not foreseen."""
    rng, episodes = np.random.default_rng(0), []
    for _ in range(6):
        actions = rng.uniform(-1, 1, (80, 4))
        place, motion = rng.uniform(-0.1, 0.1, 4), np.zeros(4)
        proprio = [place]
        for action in actions[:-1]:
            motion = 0.5 * motion + 0.01 * action
            proprio.append(proprio[-1] + motion)
        episodes.append((np.array(proprio), actions))
    model = MotionModel.fit(episodes[:5])
    proprio, actions = episodes[5]
    errors = model.errors(proprio, actions)
    assert errors.shape == (79, 3)
    assert np.abs(errors).max() < 2e-4
    proprio[40:] += 0.05
    assert np.abs(model.errors(proprio, actions)[39]).max() > 0.04
    again = MotionModel(model.tensors()["weights"].numpy())
    np.testing.assert_array_equal(again.errors(proprio, actions), model.errors(proprio, actions))


def test_auroc_counts_pairs_and_ties_by_half():
    """By hand."""
    assert auroc([3, 1], [2, 1]) == (1 + 1 + 0 + 0.5) / 4
    assert auroc([2.0], [1.0]) == 1.0


def test_separation_pools_all_kinds_and_reports_every_one():
    """One kind of fourteen that goes unnoticed costs a fourteenth of a half."""
    kinds = suite_kinds("wide", 2)
    assert kinds[:6] == ["nominal"] * 6
    scores = [(kind, 0.0 if kind in ("nominal", "latency") else 1.0) for kind in kinds]
    result = separation(scores)
    assert result["auroc"] == pytest.approx(1 - 0.5 / len(STRESS_KINDS), abs=1e-6)
    assert result["latency"] == 0.5
    assert set(result) == {"auroc", *STRESS_KINDS}
    assert set(kinds) == {"nominal", *STRESS_KINDS}
    assert set(suite_kinds("metaworld", 1)) == {"nominal", *STRESS_KINDS} - {*WORLD_KINDS}


def sensed_frames(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """What a backbone says of as many frames."""
    rng = np.random.default_rng(seed)
    return {
        "p4": rng.normal(size=(count, 2, 3, 3)).astype(np.float32),
        "look": rng.normal(1, 0.1, size=(count, 1)).astype(np.float32),
        "hand": rng.normal(size=(count, 3)).astype(np.float32),
    }


def feel(data: Dataset) -> None:
    """Gives a dataset proprioception."""
    rng = np.random.default_rng(1)
    data.arrays["obs/eef_pos"] = rng.normal(size=(len(data), 3)).astype(np.float32)
    data.arrays["obs/gripper"] = rng.random((len(data), 1)).astype(np.float32)


def calibrated(seen: dict[str, np.ndarray], data: Dataset) -> tuple[MotionModel, SurpriseScale]:
    """Of persistence."""
    given = {"components": 4, "quantile": 0.99, "factor": 3.0}
    return calibrate(None, seen, data, one("p4", 2), **given)


def test_calibration_takes_nominal_episodes_only():
    """Training ones give distances and motion, validation ones the limits; stressed ones no say."""
    stress: tuple[dict, ...] = ({}, {"action_noise": 0.2}, {"push": 0.5}, {"slip": 0.5})
    tags = [{"stress": one, "visual": False} for one in stress]
    data = dataset(20, 20, 20, 20, splits="train valid valid train", tags=tags)
    feel(data)
    seen = sensed_frames(80)
    motion, before = calibrated(seen, data)
    for x in (*seen.values(), data.arrays["obs/eef_pos"], data.arrays["actions"]):
        x[40:] = -9.0
    same, after = calibrated(seen, data)
    np.testing.assert_array_equal(same.weights, motion.weights)
    assert before.config() == after.config()
    assert all(torch.equal(x, after.tensors()[name]) for name, x in before.tensors().items())
    assert set(before.limits) == {"p4", "look", "hand", "motion"}
    seen["p4"][20:40] *= 2
    _, wider = calibrated(seen, data)
    assert torch.equal(before.tensors()["p4.variances"], wider.tensors()["p4.variances"])
    assert wider.limits["p4"] == pytest.approx(4 * before.limits["p4"], rel=1e-5)
    assert wider.limits["hand"] == before.limits["hand"]


def test_calibration_without_a_nominal_episode_is_refused():
    """One line that says what to do."""
    data = dataset(20, splits="valid", tags=[{"stress": {"push": 0.5}, "visual": False}])
    feel(data)
    with pytest.raises(UserError, match="no episode is nominal"):
        calibrated(sensed_frames(20), data)


def save_memory(path, backbone: str, use_neural: bool = True) -> ConvGRU:
    """Writes an RNN of one level."""
    torch.manual_seed(0)
    model = ConvGRU({"p4": 2}, 2, 4)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    config = {
        "levels": {"p4": 2},
        "hidden_channels": 4,
        "action_dim": 2,
        "backbone": backbone,
        "use_neural": use_neural,
        "surprise": {"limits": {"p4": 1.5}, "known": 1e-3, "unknown": 1e4},
    }
    sizes = {"p4": 18, "look": 1, "hand": 3, "motion": 3}
    config["surprise"]["limits"] |= {"look": 0.5, "hand": 40.0, "motion": 30.0}
    surprise = {}
    for sense, size in sizes.items():
        kept = min(2, size - 1)
        surprise[f"{sense}.axes"] = torch.eye(size)[:, :kept]
        surprise[f"{sense}.variances"] = torch.tensor([0.5, 0.25, 0.1][-kept - 1 :])
    normalize = one("p4", 2)
    parts = {
        "rnn": model.state_dict(),
        "mean": normalize.mean,
        "std": normalize.std,
        "motion": {"weights": torch.randn(2 * 4 + 3 * (4 + 2) + 1, 3, generator=generator(7))},
        "surprise": surprise,
    }
    save_checkpoint(path, "spatial_rnn", config, parts)
    return model


@pytest.mark.parametrize("use_neural", [True, False])
def test_a_robot_is_surprised_step_by_step_as_over_an_episode(tmp_path, use_neural):
    """Two robots of which one starts anew; a predicted frame counts until the next is known."""
    model = save_memory(tmp_path / "rnn.safetensors", "abc", use_neural)
    memory = SpatialMemory(tmp_path / "rnn.safetensors", backbone_digest="abc")
    steps, begins = 3 * AHEAD + 2, ((0,), (0, 4))
    rng = np.random.default_rng(0)
    robots = [sensed_frames(steps, seed) for seed in range(2)]
    frames = {name: np.stack([robot[name] for robot in robots], 1) for name in robots[0]}
    frames["hand"] *= 4
    proprio = rng.normal(size=(steps, 2, 4)).astype(np.float32)
    actions = rng.normal(size=(steps, 2, 2)).astype(np.float32)
    watch, state, found = Watch(2, 2, 4), None, []
    for t in range(steps):
        first = np.array([t in starts for starts in begins])
        features = {name: torch.from_numpy(x[t]) for name, x in frames.items()}
        before = torch.from_numpy(actions[max(t - 1, 0)])
        state = memory.step({"p4": features["p4"]}, before, state, torch.from_numpy(first))
        watch.follow(memory, features, state, proprio[t], before, first)
        found.append(watch.severity.copy())
    for robot, starts in enumerate(begins):
        for begin, end in zip(starts, (*starts[1:], steps), strict=True):
            part = slice(begin, end)
            mine = {name: torch.from_numpy(x[part, robot]) for name, x in frames.items()}
            sensed = Sensed(
                {"p4": mine["p4"]}, mine["look"], mine["hand"], proprio[part, robot],
                actions[part, robot],
            )  # fmt: skip
            expected = np.zeros(end - begin)
            if end - begin > AHEAD:
                given = model if use_neural else None
                deviations = episode_deviations(given, memory.motion, sensed)
                each = {k: x.numpy() for k, x in memory.surprise.by_sense(deviations).items()}
                for t in range(end - begin):
                    values = [each["look"][t], each["hand"][t]]
                    values += [each["motion"][t - 1]] * (t > 0)
                    known = AHEAD * (t // AHEAD)  # the last frame that was predicted
                    values += [each["p4"][known - AHEAD]] * (known > 0)
                    expected[t] = max(values)
                severity = memory.surprise.judge(expected).ood_severity
                assert len(set(severity.round(6))) > AHEAD
                assert_allclose(np.array(found)[part, robot], severity, atol=1e-5)


def test_imagining_is_the_open_loop_of_a_rollout():
    """From the last real frame on, both give the same prediction."""
    torch.manual_seed(0)
    model = ConvGRU({"p4": 2}, 2, 4)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    z, actions = {"p4": torch.randn(7, 3, 2, 4, 4)}, torch.randn(7, 3, 2)
    predictions, hidden = model.rollout(z, actions, 3)
    foreseen = imagine(model, {"p4": z["p4"][2]}, actions[2:6], {"p4": hidden["p4"][2]})
    torch.testing.assert_close(foreseen["p4"], predictions["p4"][-1])


def test_memory_of_another_backbone_is_refused_naming_both_files(tmp_path):
    """One line: the RNN, the backbone, both digests."""
    save_memory(tmp_path / "rnn.safetensors", "abc")
    with pytest.raises(UserError) as error:
        SpatialMemory(tmp_path / "rnn.safetensors", backbone_digest="xyz")
    message = str(error.value)
    assert "rnn.safetensors" in message and relative(BACKBONE) in message
    assert "abc" in message and "xyz" in message and "\n" not in message
