"""Episodes on disk: exact, byte-stable, streamed, in robomimic's layout, and safe to misread."""

import dataclasses
import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from lib import episode as episodes_module
from lib.base.errors import UserError
from lib.episode import LEGEND, SPLITS, Episode, checksum, read, read_demo, split_of, write
from lib.episode.check import problems

SHARES = (0.6, 0.2, 0.2)


def make(index: int = 0, steps: int = 12, size: int = 8) -> Episode:
    """A small sound episode, a function of its index."""
    rng = np.random.default_rng(index)
    return Episode(
        key=f"{index:06d}",
        obs={
            "image": rng.integers(0, 256, (steps, size, size, 3), np.uint8),
            "eef_pos": rng.normal(size=(steps, 3)).astype(np.float32),
            "gripper": rng.random((steps, 1)).astype(np.float32),
        },
        actions=rng.uniform(-1, 1, (steps, 4)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        dones=(np.arange(steps) == steps - 1).astype(np.uint8),
        vector_rewards=rng.normal(size=(steps, 3)).astype(np.float32),
        labels={
            "segmentation": rng.integers(0, 7, (steps, size, size), np.uint8),
            "skill": rng.integers(0, 4, steps).astype(np.uint8),
        },
        tags={"outcome": "success", "stress": {"slip": 0.5}, "ü": [1, None, True]},
    )


def make_all(count: int = 20) -> Iterator[Episode]:
    """Episodes of several lengths."""
    return (make(index, 3 + index) for index in range(count))


@pytest.fixture
def path(tmp_path) -> Path:
    """A file of 20 episodes in three splits."""
    file = tmp_path / "x.hdf5"
    assert write(file, make_all(), source="sima2", shares=SHARES) == 20
    return file


def same(first: Episode, second: Episode) -> bool:
    """Whether two episodes are equal in every name, type, shape and value."""
    pairs = list(zip(first.arrays(), second.arrays(), strict=True))
    return (first.key, first.tags) == (second.key, second.tags) and all(
        (m, a.dtype, a.shape, a.tobytes()) == (n, b.dtype, b.shape, b.tobytes())
        for (m, a), (n, b) in pairs
    )


def test_round_trip_is_exact_and_in_order(path):
    """Every array, type, tag and key, also past demo_9, where names no longer sort."""
    back = list(read(path))
    assert [episode.key for episode in back] == [f"{index:06d}" for index in range(20)]
    assert all(same(a, b) for a, b in zip(back, make_all(), strict=True))
    assert [len(episode) for episode in back] == list(range(3, 23))


def test_the_same_episodes_give_the_same_bytes(path, tmp_path):
    """No time stamp, no name of a scratch file, no order of a hash map; another one differs."""
    again, other = tmp_path / "folder" / "y.hdf5", tmp_path / "z.hdf5"
    write(again, make_all(), source="sima2", shares=SHARES)
    write(other, (make(i, 4 + i) for i in range(20)), source="sima2", shares=SHARES)
    assert again.read_bytes() == path.read_bytes()
    assert other.read_bytes() != path.read_bytes()


def test_writing_holds_one_episode_at_a_time(tmp_path):
    """When the next one is asked for, at most the last one is still alive."""
    alive: list[weakref.ref] = []
    counts = []

    def source() -> Iterator[Episode]:
        for index in range(10):
            counts.append(sum(reference() is not None for reference in alive))
            item = make(index)
            alive.append(weakref.ref(item))
            yield item
            del item

    write(tmp_path / "x.hdf5", source(), source="sima2")
    assert counts[0] == 0
    assert max(counts) <= 1


def test_reading_is_lazy(path):
    """A damaged last episode does not stop whoever wants the first."""
    with h5py.File(path, "r+") as file:
        del file["data/demo_19/actions"]
    stream = read(path)
    assert next(stream).key == "000000"
    with pytest.raises(UserError, match="demo_19"):
        list(stream)


def test_the_layout_is_robomimics(path):
    """What its loader looks for: totals, JSON about the environment, lengths, masks."""
    with h5py.File(path) as file:
        assert file["data"].attrs["total"] == sum(range(3, 23))
        assert json.loads(file["data"].attrs["env_args"]).keys() >= {
            "env_name",
            "type",
            "env_kwargs",
        }
        assert sorted(file["data"]) == sorted(f"demo_{index}" for index in range(20))
        for index, name in enumerate(sorted(file["data"], key=lambda n: int(n[5:]))):
            demo = file["data"][name]
            assert demo.attrs["num_samples"] == len(demo["actions"]) == 3 + index
            assert {"obs", "actions", "rewards", "dones"} <= set(demo)
            assert demo["obs/image"].shape == (3 + index, 8, 8, 3)
        names = [name.decode() for split in SPLITS for name in file[f"mask/{split}"]]
        assert sorted(names) == sorted(file["data"])


def test_env_args_are_kept(tmp_path):
    """A source may describe its own environment."""
    args = {"env_name": "Drawer", "type": 2, "env_kwargs": {"size": 3}}
    write(tmp_path / "x.hdf5", [make()], source="isaac", env_args=args)
    with h5py.File(tmp_path / "x.hdf5") as file:
        assert json.loads(file["data"].attrs["env_args"]) == args
        assert file.attrs["source"] == "isaac"


def test_next_obs_shows_obs_one_step_later_without_a_copy(tmp_path):
    """Also with one step or none, under names that HDF5 could take for formats, and after a move.

    The views hold no data: a file with larger pictures grows by one copy of them.
    """

    def few(pixels: int) -> Iterator[Episode]:
        for steps in (12, 1, 0):
            item = make(steps, steps)
            item.obs["50%b ü"] = item.obs["gripper"] + 1
            noise = np.random.default_rng(0).integers(0, 256, (steps, pixels, pixels, 3), np.uint8)
            yield dataclasses.replace(item, obs={**item.obs, "image": noise})

    write(tmp_path / "x.hdf5", few(8), source="x")
    (tmp_path / "sub").mkdir()
    moved = (tmp_path / "x.hdf5").rename(tmp_path / "sub" / "y.hdf5")
    with h5py.File(moved) as file:
        for index, item in enumerate(few(8)):
            views = file[f"data/demo_{index}/next_obs"]
            assert set(views) == set(item.obs)
            for name, array in item.obs.items():
                assert views[name].dtype == array.dtype
                expected = np.concatenate([array[1:], array[-1:]])
                np.testing.assert_array_equal(views[name][()], expected)
                assert views[name].id.get_storage_size() == 0
    assert all("next" not in name for item in read(moved) for name, _ in item.arrays())
    write(tmp_path / "large.hdf5", few(64), source="x")
    more = (tmp_path / "large.hdf5").stat().st_size - moved.stat().st_size
    pixels = 13 * 3 * (64**2 - 8**2)
    assert more < 1.05 * pixels


def test_the_legend_names_what_codes_mean(path, tmp_path):
    """Classes, skills and objectives always; a source adds its own."""
    default = {name: list(names) for name, names in LEGEND.items()}
    with h5py.File(path) as file:
        assert json.loads(file.attrs["legend"]) == default
    own = {"labels/stress": ("slip", "push")}
    write(tmp_path / "own.hdf5", [make()], source="x", legend=own)
    with h5py.File(tmp_path / "own.hdf5") as file:
        legend = json.loads(file.attrs["legend"])
    assert legend == {**default, "labels/stress": ["slip", "push"]}


@pytest.mark.parametrize("dtype", ["f2", "f8", ">f4", "i8", "?"])
@pytest.mark.parametrize("shape", [(), (3,), (4000,), (8, 8, 3)])
def test_any_array_comes_back_as_it_was(tmp_path, dtype, shape):
    """Small and large ones, of other types and byte orders, and not contiguous in memory."""
    steps = 6
    array = np.random.default_rng(0).integers(0, 2, (*shape, steps)).astype(dtype)
    item = make(steps=steps)
    item.labels["x"] = np.moveaxis(array, -1, 0)
    write(tmp_path / "x.hdf5", [item], source="x")
    (back,) = read(tmp_path / "x.hdf5")
    assert back.labels["x"].dtype == dtype
    np.testing.assert_array_equal(back.labels["x"], item.labels["x"])


def test_one_demo_is_read_by_its_number(path):
    """The same as among the others; one that is not there is named."""
    assert same(read_demo(path, 12), make(12, 15))
    assert read_demo(path, 3, fields=()).obs == {}
    with pytest.raises(UserError, match="demo_20 is missing"):
        read_demo(path, 20)


def test_a_file_without_episodes_is_valid(tmp_path):
    """A source that nobody recorded anything for."""
    assert write(tmp_path / "x.hdf5", [], source="ros") == 0
    assert list(read(tmp_path / "x.hdf5")) == []


# Splits


def test_the_split_is_a_function_of_the_name(path, tmp_path):
    """Masks agree with it, and with 20 more episodes none of the first 20 moves."""
    more = tmp_path / "more.hdf5"
    write(more, make_all(40), source="sima2", shares=SHARES)
    for split in SPLITS:
        keys = [f"{i:06d}" for i in range(40) if split_of("sima2", f"{i:06d}", SHARES) == split]
        assert keys
        assert [episode.key for episode in read(more, splits=[split])] == keys
        few = [episode.key for episode in read(path, splits=[split])]
        assert few == [key for key in keys if int(key) < 20]


def test_the_split_of_a_name_is_pinned():
    """A change of the rule would move test episodes into training; the source counts too."""
    named = [split_of("sima2", f"{i:06d}", SHARES) for i in range(8)]
    expected = "train train test train valid valid train train"
    assert named == expected.split()
    assert named != [split_of("ros", f"{i:06d}", SHARES) for i in range(8)]


def test_shares_are_about_right():
    """10,000 names: each share within four standard deviations."""
    shares = (0.75, 0.10, 0.15)
    names = [split_of("sima2", f"{i:06d}", shares) for i in range(10_000)]
    for split, share in zip(SPLITS, shares, strict=True):
        assert abs(names.count(split) / 1e4 - share) < 4 * (share * (1 - share) / 1e4) ** 0.5
    assert {split_of("x", str(i), (1.0, 0.0, 0.0)) for i in range(1000)} == {"train"}
    assert {split_of("x", str(i), (0.0, 0.0, 1.0)) for i in range(1000)} == {"test"}


def test_a_larger_training_share_takes_no_episode_out_of_training():
    """Positions on the line stay, only the border moves."""
    small, large = (
        {i for i in range(1000) if split_of("x", str(i), shares) == "train"}
        for shares in ((0.5, 0.2, 0.3), (0.7, 0.1, 0.2))
    )
    assert small < large


def test_only_the_fields_asked_for_are_read(path):
    """Actions, rewards and dones always come; pictures only when wanted."""
    episode = next(read(path, fields=("obs/eef_pos", "labels/skill")))
    assert [name for name, _ in episode.arrays()] == [
        "obs/eef_pos",
        "actions",
        "rewards",
        "dones",
        "vector_rewards",
        "labels/skill",
    ]
    np.testing.assert_array_equal(episode.obs["eef_pos"], make(0, 3).obs["eef_pos"])
    assert next(read(path, fields=())).obs == {}


# What is wrong


def refusal(path: Path) -> str:
    """The message with which read refuses; one line that begins with the file."""
    with pytest.raises(UserError) as caught:
        list(read(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_a_missing_file_is_named(tmp_path):
    """And who writes it."""
    assert refusal(tmp_path / "none.hdf5").endswith("not found; `dvc repro` writes it")


@pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_what_is_not_hdf5_is_refused(tmp_path, content):
    """Empty, text, and a head without a body."""
    path = tmp_path / "x.hdf5"
    path.write_bytes(content)
    assert "not a readable HDF5 file" in refusal(path)


def test_a_truncated_file_is_refused(path):
    """A copy that was cut."""
    path.write_bytes(path.read_bytes()[:-1000])
    assert "not a readable HDF5 file" in refusal(path)


@pytest.mark.parametrize("schema", [None, 0, 2])
def test_another_schema_is_refused(path, schema):
    """Also somebody else's HDF5, which has none."""
    with h5py.File(path, "r+") as file:
        del file.attrs["schema"]
        if schema is not None:
            file.attrs["schema"] = schema
    assert f"episode schema {schema}, this version reads 1" in refusal(path)


@pytest.mark.parametrize("part", ["actions", "rewards", "dones", "vector_rewards"])
def test_a_demo_that_lacks_an_array_is_named(path, part):
    """The demo, not a KeyError."""
    with h5py.File(path, "r+") as file:
        del file[f"data/demo_3/{part}"]
    assert "/data/demo_3 is damaged" in refusal(path)


@pytest.mark.parametrize("attribute", ["key", "tags"])
def test_a_demo_that_lacks_an_attribute_is_named(path, attribute):
    """Key and tags belong to every episode."""
    with h5py.File(path, "r+") as file:
        del file["data/demo_3"].attrs[attribute]
    assert "/data/demo_3 is damaged" in refusal(path)


def test_damaged_pixels_are_noticed(path):
    """Bytes in the middle of a compressed picture are overwritten."""
    with h5py.File(path) as file:
        chunk = file["data/demo_3/obs/image"].id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset + 10)
        raw.write(bytes(range(60)))
    assert "/data/demo_3 is damaged" in refusal(path)


def test_tags_that_are_no_json_are_noticed(path):
    """Named like every other damage."""
    with h5py.File(path, "r+") as file:
        file["data/demo_3"].attrs["tags"] = "{"
    assert "/data/demo_3 is damaged" in refusal(path)


@pytest.mark.parametrize("group", ["mask", "mask/test", "data"])
def test_a_file_that_lacks_a_group_is_refused(path, group):
    """Named like every other damage."""
    with h5py.File(path, "r+") as file:
        del file[group]
    refusal(path)


def test_a_failing_source_leaves_no_file(tmp_path):
    """Neither half a file nor a scratch file; one from before stays."""

    def source() -> Iterator[Episode]:
        yield make(0)
        raise RuntimeError("the simulator died")

    path = tmp_path / "x.hdf5"
    with pytest.raises(RuntimeError):
        write(path, source(), source="sima2")
    assert list(tmp_path.iterdir()) == []
    write(path, [make(5)], source="sima2")
    with pytest.raises(RuntimeError):
        write(path, source(), source="sima2")
    assert [episode.key for episode in read(path)] == ["000005"]
    assert list(tmp_path.iterdir()) == [path]


def test_tags_that_are_not_json_are_refused_when_they_are_written(tmp_path):
    """NaN would only be found by whoever reads the file."""
    with pytest.raises(ValueError, match="JSON"):
        write(
            tmp_path / "x.hdf5", [dataclasses.replace(make(), tags={"a": float("nan")})], source="x"
        )
    assert list(tmp_path.iterdir()) == []


# Validation


def test_a_sound_episode_has_no_problems():
    """The base of the tests below."""
    assert problems(make()) == []
    assert problems(make(steps=2)) == []


def _short(e):
    return dataclasses.replace(make(steps=1))


def _other_length(e):
    e.rewards = e.rewards[:-1]


def _label_length(e):
    e.labels["skill"] = e.labels["skill"][:-1]


def _nan_obs(e):
    e.obs["eef_pos"][3, 1] = np.nan


def _infinite_reward(e):
    e.vector_rewards[0, 2] = -np.inf


def _nan_action(e):
    e.actions[0, 0] = np.nan


def _large_action(e):
    e.actions[2, 1] = -1.001


def _float_image(e):
    e.obs["image"] = e.obs["image"].astype(np.float32)


def _grey_image(e):
    e.obs["image"] = e.obs["image"][..., :1]


def _flat_image(e):
    e.obs["image"] = e.obs["image"][..., 0]


def _double_actions(e):
    e.actions = e.actions.astype(np.float64)


def _whole_rewards(e):
    e.rewards = e.rewards.astype(np.int64)


def _two_objectives(e):
    e.vector_rewards = e.vector_rewards[:, :2]


def _flat_actions(e):
    e.actions = e.actions[:, 0]


def _column_of_rewards(e):
    e.rewards = e.rewards[:, None]


def _float_dones(e):
    e.dones = e.dones.astype(np.float32)


def _done_twice(e):
    e.dones[4] = 1


def _done_two(e):
    e.dones[-1] = 2


def _wide_segmentation(e):
    e.labels["segmentation"] = e.labels["segmentation"].astype(np.int64)


def _eighth_class(e):
    e.labels["segmentation"][3, 2, 1] = 7


def _fifth_skill(e):
    e.labels["skill"][3] = 4


def _no_skill(e):
    e.labels["skill"] = e.labels["skill"].astype(np.int8)
    e.labels["skill"][3] = -1


def _float_skill(e):
    e.labels["skill"] = e.labels["skill"].astype(np.float32)


def _time(e):
    e.labels["time_s"] = np.arange(12) / 80
    return e.labels["time_s"]


def _time_stands(e):
    _time(e)[5] = 4 / 80


def _time_goes_back(e):
    _time(e)[7:] -= 1


def _short_time(e):
    e.labels["time_s"] = _time(e).astype(np.float32)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (_short, ["1 steps; at least 2 are needed"]),
        (_other_length, ["rewards: 11 steps, actions have 12"]),
        (_label_length, ["labels/skill: 11 steps, actions have 12"]),
        (_nan_obs, ["obs/eef_pos: NaN or infinite"]),
        (_infinite_reward, ["vector_rewards: NaN or infinite"]),
        (_nan_action, ["actions: NaN or infinite"]),
        (_large_action, ["actions: outside [-1, 1]"]),
        (_float_image, ["obs/image: float32 (12, 8, 8, 3), not uint8 (T, H, W, 3)"]),
        (_grey_image, ["obs/image: uint8 (12, 8, 8, 1), not uint8 (T, H, W, 3)"]),
        (_flat_image, ["obs/image: uint8 (12, 8, 8), not uint8 (T, H, W, 3)"]),
        (_double_actions, ["actions: float64, not float32"]),
        (_whole_rewards, ["rewards: int64, not float32"]),
        (_two_objectives, ["vector_rewards: (12, 2), not (T, 3)"]),
        (_flat_actions, ["actions: (12,), not (T, A)"]),
        (_column_of_rewards, ["rewards: (12, 1), not (T,)"]),
        (_float_dones, ["dones: float32, not uint8 or bool"]),
        (_done_twice, ["dones: 1 at step 4, before the last step"]),
        (_done_two, ["dones: values other than 0 and 1"]),
        (_wide_segmentation, ["labels/segmentation: int64, not uint8"]),
        (_eighth_class, ["labels/segmentation: value 7, outside [0, 6]"]),
        (_fifth_skill, ["labels/skill: value 4, outside [0, 3]"]),
        (_no_skill, ["labels/skill: value -1, outside [0, 3]"]),
        (_float_skill, ["labels/skill: float32, not integer"]),
        (_time_stands, ["labels/time_s: stands still or goes back at step 5"]),
        (_time_goes_back, ["labels/time_s: stands still or goes back at step 7"]),
        (_short_time, ["labels/time_s: float32 (12,), not float64 (T,)"]),
    ],
)
def test_each_defect_is_found_and_nothing_else(spoil, found):
    """One defect, one line that names the array."""
    episode = make()
    episode = spoil(episode) or episode
    assert problems(episode) == found


FROZEN = "obs/image: the same picture from step {} to {} while the robot moves"


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [
        (0, 29, [FROZEN.format(0, 29)]),
        (3, 18, [FROZEN.format(3, 18)]),  # 16 of 30
        (14, 29, [FROZEN.format(14, 29)]),
        (3, 17, []),  # 15 of 30: not more than half
        (0, 8, []),
    ],
)
def test_a_frozen_camera_is_found(first, last, found):
    """The same picture for most of an episode in which the hand moves."""
    episode = make(steps=30)
    episode.obs["image"][first : last + 1] = episode.obs["image"][first]
    assert problems(episode) == found


def test_a_camera_is_frozen_only_if_something_moves():
    """A robot at rest sees the same; joints tell as well as the hand; without both it moves."""
    episode = make(steps=30)
    episode.obs["image"][:] = episode.obs["image"][0]
    episode.obs["eef_pos"] = np.full((30, 3), 0.2, np.float32)
    assert problems(episode) == []
    episode.obs["joint_pos"] = np.linspace(0, 9e-4, 30, dtype=np.float32)[:, None]
    assert problems(episode) == []
    episode.obs["joint_pos"] *= 2
    assert problems(episode) == [FROZEN.format(0, 29)]
    del episode.obs["joint_pos"], episode.obs["eef_pos"]
    assert problems(episode) == [FROZEN.format(0, 29)]


@pytest.mark.parametrize("size", [8, 7])  # rows of whole 64-bit words, and others
def test_dropped_frames_and_a_slow_camera_are_not_frozen(size):
    """Stress of the simulator and 10 Hz on a 60 Hz clock are experience, not damage."""
    rng = np.random.default_rng(0)
    episode = make(steps=60)
    episode.obs["image"] = rng.integers(1, 256, (60, size, size, 3), np.uint8)
    episode.obs["image"][rng.random(60) < 0.4] = 0
    assert problems(episode) == []
    episode.obs["image"] = episode.obs["image"][np.arange(60) // 9 * 9]
    assert problems(episode) == []
    short = make(steps=9)
    short.obs["image"][:] = 3
    assert problems(short) == []
    episode.obs["image"][:] = episode.obs["image"][1]
    assert problems(episode) == [FROZEN.format(0, 59)]


def test_every_defect_is_reported_not_only_the_first():
    """A user mends a recording once, not once for each line."""
    episode = make()
    _nan_obs(episode)
    _large_action(episode)
    _label_length(episode)
    assert len(problems(episode)) == 3


def test_an_episode_without_steps_is_a_problem_and_no_crash():
    """A recording that was stopped at once."""
    assert problems(make(steps=0)) == ["0 steps; at least 2 are needed"]


def test_the_checksum_is_that_of_the_content(path):
    """Read back from disk it is the same, and pinned to 16 hex digits."""
    sums = [checksum(episode) for episode in make_all()]
    assert [checksum(episode) for episode in read(path)] == sums
    assert len(set(sums)) == 20
    assert all(len(s) == 16 and int(s, 16) >= 0 for s in sums)


def test_the_checksum_changes_with_any_byte():
    """One bit in each array at a time, then each tag, a name, a type and a shape."""
    base = make()
    seen = {checksum(base)}
    for name, array in base.arrays():
        changed = make()
        target = dict(changed.arrays())[name]
        target.view(np.uint8).reshape(-1)[array.nbytes // 2] ^= 1
        seen.add(checksum(changed))
    arrays = len(list(base.arrays()))
    assert len(seen) == 1 + arrays
    seen.add(checksum(dataclasses.replace(base, tags={**base.tags, "outcome": "failure"})))
    seen.add(checksum(dataclasses.replace(base, rewards=base.rewards.view(np.int32))))
    seen.add(checksum(dataclasses.replace(base, rewards=base.rewards[:, None])))
    seen.add(checksum(dataclasses.replace(base, obs={**base.obs, "x": base.rewards[:0]})))
    assert len(seen) == 1 + arrays + 4


def test_names_and_classes_on_disk_are_these():
    """Indices in labels/ mean these; reordering them would falsify every file."""
    assert episodes_module.PRIMITIVES == (
        "background",
        "table",
        "arm",
        "gripper",
        "drawer_case",
        "drawer",
        "handle",
    )
    assert episodes_module.SKILLS == ("reach", "hook", "pull", "recover")
    assert episodes_module.OBJECTIVES == ("task", "econ", "energy")
