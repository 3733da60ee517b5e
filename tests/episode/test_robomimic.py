"""robomimic's own loader reads our files, and gives back exactly what was written."""

import importlib
import json
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from lib.base.paths import ROOT
from lib.episode import SPLITS, Episode, split_of, write
from tests.episode.test_episode import make

WHY = "robomimic is not installed (make setup)"
dataset = pytest.importorskip("robomimic.utils.dataset", reason=WHY)
obs_utils = pytest.importorskip("robomimic.utils.obs_utils", reason=WHY)

SHARES = (0.5, 0.25, 0.25)
LENGTHS = (5, 2, 9, 1, 7, 3, 12, 4, 6, 8, 2, 11)
ARGS = {"env_name": "drawer-open-v3", "type": 1, "env_kwargs": {"image_size": 16}}
OBS = {"low_dim": ["eef_pos", "gripper"], "rgb": ["image"]}
OBS_KEYS = ("eef_pos", "gripper", "image")
DATA_KEYS = ("actions", "rewards", "dones")

EPISODES = [make(index, steps, size=16) for index, steps in enumerate(LENGTHS)]


def split(episode: Episode) -> str:
    return split_of("sima2", episode.key, SHARES)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """Twelve episodes of other lengths in three splits, moved after they were written."""
    folder = tmp_path_factory.mktemp("robomimic")
    write(folder / "x.hdf5", EPISODES, source="sima2", shares=SHARES, env_args=ARGS)
    (folder / "moved").mkdir()
    return (folder / "x.hdf5").rename(folder / "moved" / "y.hdf5")


@pytest.fixture(autouse=True)
def modalities():
    """robomimic keeps in a global which observation is a picture."""
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": OBS})


def load(path: Path, **options):
    """The loader with its defaults but for these options."""
    return dataset.SequenceDataset(
        hdf5_path=str(path), obs_keys=OBS_KEYS, dataset_keys=DATA_KEYS, **options
    )


def rows_of(steps: int, stack: int, length: int) -> Iterator[np.ndarray]:
    """The rows of each sequence; those before the first and after the last repeat it."""
    for start in range(steps):
        yield np.arange(start - stack + 1, start + length).clip(0, steps - 1)


def next_of(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array[1:], array[-1:]])


def assert_same(given, expected) -> None:
    assert given.shape == expected.shape
    np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize("mask", [None, *SPLITS])
@pytest.mark.parametrize("next_obs", [True, False])
@pytest.mark.parametrize("cache", [None, "low_dim", "all"])
@pytest.mark.parametrize(("stack", "length"), [(1, 1), (1, 4), (3, 1), (3, 4)])
def test_every_sequence_is_what_was_written(path, mask, next_obs, cache, stack, length):
    """Pictures come as they are, uint8 (T, H, W, 3); a model's own encoder makes them floats."""
    loaded = load(
        path,
        filter_by_attribute=mask,
        load_next_obs=next_obs,
        hdf5_cache_mode=cache,
        frame_stack=stack,
        seq_length=length,
    )
    chosen = [episode for episode in EPISODES if mask in (None, split(episode))]
    assert chosen and len(loaded) == sum(len(episode) for episode in chosen)
    index = 0
    for episode in chosen:
        for rows in rows_of(len(episode), stack, length):
            item = loaded[index]
            assert set(item) == {"obs", *DATA_KEYS} | ({"next_obs"} if next_obs else set())
            for name in DATA_KEYS:
                assert_same(item[name], getattr(episode, name)[rows])
            for name in OBS_KEYS:
                assert item["obs"][name].dtype == episode.obs[name].dtype
                assert_same(item["obs"][name], episode.obs[name][rows])
                if next_obs:
                    assert item["next_obs"][name].dtype == episode.obs[name].dtype
                    assert_same(item["next_obs"][name], next_of(episode.obs[name])[rows])
            index += 1


def test_the_loader_is_the_pinned_one():
    """The version that requirements-test.lock names."""
    pins = (ROOT / "requirements-test.lock").read_text().splitlines()
    assert f"robomimic=={metadata.version('robomimic')}" in pins


def test_the_defaults_of_the_loader_do(path):
    """Nothing but the names need be given: next_obs, padding and all demos are its defaults."""
    loaded = load(path)
    assert len(loaded) == sum(LENGTHS)
    assert_same(loaded[0]["next_obs"]["image"][0], EPISODES[0].obs["image"][1])
    assert loaded[LENGTHS[0] - 1]["dones"][0] == 1


def test_a_goal_is_the_last_observation(path):
    """goal_mode reads the last row of next_obs."""
    item = load(path, goal_mode="last")[0]
    for name in OBS_KEYS:
        assert_same(item["goal_obs"][name], EPISODES[0].obs[name][-1])


def test_normalised_pictures_and_whole_trajectories_are_read(path):
    """Statistics over the file; an episode in one piece."""
    stats = load(path, hdf5_normalize_obs=True).get_obs_normalization_stats()
    felt = np.concatenate([episode.obs["eef_pos"] for episode in EPISODES])
    np.testing.assert_allclose(stats["eef_pos"]["mean"][0], felt.mean(0), rtol=1e-4)
    assert stats["image"]["mean"].shape == (1, 3, 16, 16)
    whole = load(path).get_trajectory_at_index(2)
    assert_same(whole["next_obs"]["image"], next_of(EPISODES[2].obs["image"]))


def test_a_torch_loader_with_workers_batches_it(path):
    """Each process opens the file for itself."""
    from torch.utils.data import DataLoader

    batches = list(DataLoader(load(path, filter_by_attribute="train"), 8, num_workers=1))
    rewards = np.concatenate([batch["rewards"][:, 0].numpy() for batch in batches])
    written = [episode.rewards for episode in EPISODES if split(episode) == "train"]
    assert_same(rewards, np.concatenate(written))


def test_environment_and_shapes_are_found(path, monkeypatch):
    """robomimic.utils.file_utils asks for both before it trains.

    It imports all algorithms, which want torchvision; the two functions need none of them.
    """
    stub = types.ModuleType("robomimic.algo")
    stub.algo_factory = stub.RolloutPolicy = None
    monkeypatch.setitem(sys.modules, "robomimic.algo", stub)
    file_utils = importlib.import_module("robomimic.utils.file_utils")
    assert file_utils.get_env_metadata_from_dataset(str(path)) == ARGS
    shapes = file_utils.get_shape_metadata_from_dataset(str(path))
    assert shapes["ac_dim"] == 4 and shapes["use_images"]
    expected = {"eef_pos": (3,), "gripper": (1,), "image": (3, 16, 16)}  # as models see them
    assert {name: tuple(shape) for name, shape in shapes["all_shapes"].items()} == expected
    assert file_utils.get_demos_for_filter_key(str(path), "test") == [
        f"demo_{index}" for index, episode in enumerate(EPISODES) if split(episode) == "test"
    ]


def test_get_dataset_info_accepts_the_file(path):
    """Its script also refuses actions outside [-1, 1]."""
    done = subprocess.run(
        [sys.executable, "-m", "robomimic.scripts.get_dataset_info", "--dataset", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert f"total transitions: {sum(LENGTHS)}" in done.stdout
    assert "observation key image with shape (5, 16, 16, 3)" in done.stdout
    environment = done.stdout.partition("==== Env Meta ====")[2].partition("====")[0]
    assert json.loads(environment) == ARGS


def test_the_code_in_the_docs_works(path, capsys):
    """Both examples of docs/episodes.md, as they stand there, on another file."""
    text = (ROOT / "docs/episodes.md").read_text()
    ours, theirs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for code in (ours, theirs):
        assert "data/phase1/sima2.hdf5" in code
        exec(code.replace("data/phase1/sima2.hdf5", str(path)), {})
    lines = capsys.readouterr().out.splitlines()
    tested = [episode for episode in EPISODES if split(episode) == "test"]
    assert lines[: len(tested)] == [f"{e.key} {e.obs['image'].shape} success" for e in tested]
    trained = sum(len(episode) for episode in EPISODES if split(episode) == "train")
    assert lines[-1] == f"{trained} (4, 16, 16, 3)"
