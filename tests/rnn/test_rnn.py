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
from lib.rnn.normalizer import Normalizer
from lib.rnn.skill import HORIZONS, STEPS, prediction_skill
from lib.rnn.surprise import AHEAD, SurpriseScale, episode_errors, imagine
from lib.rnn.surprise_test import DYNAMIC, VISUAL, auroc, calibrate, separation, suite_kinds
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


def test_surprise_is_one_on_average_where_it_was_calibrated_and_grows_with_the_error():
    """Errors twice as large are four times as surprising; severity and tiers are monotone."""
    errors = {"p4": torch.randn(400, 2, 3, 3, generator=generator())}
    scale = SurpriseScale.of([errors], [errors], 4, quantile=0.9, factor=3.0)
    value = scale.value(errors)
    assert value.mean().item() == pytest.approx(1.0, rel=0.05)
    torch.testing.assert_close(scale.value({"p4": 2 * errors["p4"]}), 4 * value)
    judged = scale.judge(errors)
    assert (judged.novelty_tier == 0).mean() == pytest.approx(0.9, abs=0.01)
    assert (judged.ood_severity[judged.novelty_tier == 0] == 0).all()
    growing = {"p4": torch.ones(50, 2, 3, 3) * torch.linspace(0, 4, 50)[:, None, None, None]}
    judged = scale.judge(growing)
    for values in (judged.value, judged.ood_severity, judged.novelty_tier):
        assert (np.diff(values) >= 0).all()
    assert (judged.ood_severity[0], judged.ood_severity[-1]) == (0.0, 1.0)
    assert set(judged.novelty_tier) == {0, 1, 2}


def test_surprise_is_the_mahalanobis_distance_over_the_number_of_dimensions():
    """With all axes but one it is x' C^-1 x / D, whatever the correlations."""
    mixing = torch.randn(18, 18, generator=generator(3))
    x = torch.randn(500, 18, generator=generator(4)) @ mixing
    errors = {"p4": x.view(500, 2, 3, 3)}
    scale = SurpriseScale.of([errors], [errors], 17, quantile=0.9, factor=3.0)
    inverse = torch.linalg.inv((x.T @ x / len(x)).double())
    expected = torch.einsum("bi,ij,bj->b", x.double(), inverse, x.double()) / 18
    torch.testing.assert_close(scale.value(errors).double(), expected, rtol=1e-3, atol=1e-4)


def test_an_error_in_an_unusual_direction_is_more_surprising_than_a_usual_one():
    """The mean square error calls both alike."""
    errors = torch.randn(300, 2, 3, 3, generator=generator()) * 0.1
    errors[:, 0, 0, 0] *= 30
    scale = SurpriseScale.of([{"p4": errors}], [{"p4": errors}], 4, 0.9, 3.0)
    usual, unusual = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    usual[0, 0, 0, 0] = unusual[0, 1, 2, 2] = 3.0
    assert scale.value({"p4": unusual}) > 100 * scale.value({"p4": usual})


def test_auroc_counts_pairs_and_ties_by_half():
    """By hand."""
    assert auroc([3, 1], [2, 1]) == (1 + 1 + 0 + 0.5) / 4
    assert auroc([2.0], [1.0]) == 1.0


def test_separation_pools_visual_and_dynamic_kinds_and_reports_every_one():
    """Action noise and latency are told beside, not in the pooled figure."""
    kinds = suite_kinds("wide", 2)
    assert kinds[:6] == ["nominal"] * 6
    scores = [(kind, 0.0 if kind in ("nominal", "latency") else 1.0) for kind in kinds]
    result = separation(scores)
    assert result["auroc"] == 1.0
    assert result["latency"] == 0.5
    assert set(result) == {"auroc", *VISUAL, *DYNAMIC, "action_noise", "latency"}
    assert set(kinds) == {"nominal", *STRESS_KINDS}
    assert set(suite_kinds("metaworld", 1)) == {"nominal", *STRESS_KINDS} - {*WORLD_KINDS}


def calibrated(z: np.ndarray, data: Dataset) -> SurpriseScale:
    """Of persistence."""
    given = {"components": 4, "quantile": 0.99, "factor": 3.0}
    return calibrate(None, {"p4": z}, data, one("p4", 2), **given)


def test_calibration_takes_nominal_episodes_only():
    """Training ones give the covariance, validation ones the scale; stressed ones have no say."""
    stress: tuple[dict, ...] = ({}, {"action_noise": 0.2}, {"push": 0.5}, {"slip": 0.5})
    tags = [{"stress": one, "visual": False} for one in stress]
    data = dataset(20, 20, 20, 20, splits="train valid valid train", tags=tags)
    z = np.random.default_rng(0).normal(size=(80, 2, 3, 3)).astype(np.float32)
    before = calibrated(z, data)
    z[40:] = -9.0
    after = calibrated(z, data)
    assert before.known == after.known
    assert torch.equal(before.variances["p4"], after.variances["p4"])
    z[20:40] *= 2
    wider = calibrated(z, data)
    assert torch.equal(before.variances["p4"], wider.variances["p4"])
    assert wider.known == pytest.approx(4 * before.known, rel=1e-5)


def test_calibration_without_a_nominal_episode_is_refused():
    """One line that says what to do."""
    data = dataset(20, splits="valid", tags=[{"stress": {"push": 0.5}, "visual": False}])
    with pytest.raises(UserError, match="no episode is nominal"):
        calibrated(np.zeros((20, 2, 3, 3)), data)


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
        "surprise": {"known": 2.0, "unknown": 6.0},
    }
    normalize = one("p4", 2)
    parts = {
        "rnn": model.state_dict(),
        "mean": normalize.mean,
        "std": normalize.std,
        "surprise_axes": {"p4": torch.eye(18)[:, :2]},
        "surprise_variances": {"p4": torch.tensor([0.5, 0.25, 0.1])},
    }
    save_checkpoint(path, "spatial_rnn", config, parts)
    return model


@pytest.mark.parametrize("use_neural", [True, False])
def test_memory_foresees_and_judges_step_by_step_as_over_an_episode(tmp_path, use_neural):
    """step, foresee and judge in turn give the surprise of episode_errors."""
    model = save_memory(tmp_path / "rnn.safetensors", "abc", use_neural)
    memory = SpatialMemory(tmp_path / "rnn.safetensors", backbone_digest="abc")
    z = torch.randn(AHEAD + 3, 2, 3, 3, generator=generator())
    actions = torch.randn(AHEAD + 3, 2, generator=generator(1))
    errors = episode_errors(model if use_neural else None, {"p4": z}, actions)
    assert errors["p4"].shape == (3, 2, 3, 3)
    state = None
    for t in range(3):
        frame, first = {"p4": z[t : t + 1]}, torch.tensor([t == 0])
        state = memory.step(frame, actions[max(t - 1, 0)][None], state, first)
        foreseen = memory.foresee(frame, actions[t : t + AHEAD, None], state)
        judged = memory.judge(foreseen, {"p4": z[t + AHEAD : t + AHEAD + 1]})
        assert_allclose(judged.value, memory.surprise.value(errors)[t : t + 1], rtol=1e-5)


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
