"""Isaac Lab's recordings become episodes: gaps, stale counts, wrong order, links, failures."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from lib import episode
from lib.base.paths import ROOT
from lib.episode import fingerprint
from lib.episode.check import problems
from lib.ingest.pictures import square
from lib.ingest.report import Report
from lib.phase1_isaac import Phase1Isaac
from lib.phase1_isaac.recordings import alignment, find_recordings, read_recordings
from lib.phase1_manifest.builder import build_manifest, why_not

FIXTURES = ROOT / "tests" / "data"
DRAWER, CUBE = "Isaac-Open-Drawer-Franka-v0", "Isaac-Stack-Cube-Franka-IK-Rel-v0"
STEPS = 12
SIZE = 32


def brightness_class(images):
    """Stands in for a segmenter: pixels brighter than 100 are a table."""
    return (images[..., 0] > 100).astype(np.uint8)


def add_demo(data, name, *, success=True, steps=STEPS, aligned=True, flat=False, opening=None):
    """Adds a demo whose robot moves by 0.01 rad more each step: positions are a parabola."""
    demo = data.create_group(name)
    demo.attrs["num_samples"] = steps
    if success is not None:
        demo.attrs["success"] = success
    path = 0.005 * np.arange(steps + 1)[:, None] ** 2 * np.array([1, -1], np.float32)
    before, after = path[:-1] - 0.3, path[1:]  # observed relative to the default position
    demo["actions"] = np.linspace(-1, 1, steps * 3, dtype=np.float32).reshape(steps, 3)
    if flat:
        demo["obs"] = np.tile(np.arange(31, dtype=np.float32), (steps, 1))
    else:
        demo["obs/joint_pos"] = (before if aligned else after - 0.3).astype(np.float32)
        demo["obs/eef_pos"] = np.zeros((steps, 3), np.float32)
        demo["obs/gripper"] = np.arange(steps) % 2 == 0
        demo["obs/table_cam"] = np.zeros((steps, 4, 4, 3), np.uint8)
        demo["obs/datagen_info/x"] = np.zeros((steps, 1))
    demo["states/articulation/robot/joint_position"] = after.astype(np.float32)
    if opening is not None:
        cabinet = np.zeros((steps, 4), np.float32)
        cabinet[:, 3] = np.linspace(0, opening, steps)
        demo["states/articulation/cabinet/joint_position"] = cabinet
    return demo


@pytest.fixture
def record(tmp_path):
    """Opens a new recording to be filled."""

    def make(name="rec.hdf5", env_name=CUBE, total=None, **about):
        file = h5py.File(tmp_path / name, "w")
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": env_name, "type": 2, **about})
        if total is not None:
            data.attrs["total"] = total
        return file

    return make


def read(folder, **changes):
    report = Report()
    defaults = {"num_rollouts": 0, "horizon": 150, "action_noise": 0.0, "min_alignment": 0.99}
    settings = Phase1Isaac(**defaults | {"image": "none"} | changes)
    found = list(read_recordings(folder, settings, SIZE, brightness_class, report))
    for item in found:
        assert problems(item) == []
    return found, [(Path(s["file"]).name, s["reason"]) for s in report.skipped]


def test_demos_come_in_numeric_order_over_gaps(record, tmp_path):
    with record() as file:
        for number in (10, 2, 0):
            add_demo(file["data"], f"demo_{number}")
    found, skipped = read(tmp_path)
    assert [item.key for item in found] == ["rec/demo_0", "rec/demo_2", "rec/demo_10"]
    assert not skipped


def test_a_successful_demo(record, tmp_path):
    """Rewards, ends and vector rewards are made good; observations keep their names."""
    with record() as file:
        add_demo(file["data"], "demo_0")
    (item,), _ = read(tmp_path)
    last = np.eye(STEPS, dtype=np.float32)[-1]
    np.testing.assert_array_equal(item.rewards, last)
    np.testing.assert_array_equal(item.dones, last)
    np.testing.assert_array_equal(item.vector_rewards, np.outer(last, [1, 0, 0]))
    assert {name: a.shape for name, a in item.obs.items()} == {
        "joint_pos": (STEPS, 2),
        "eef_pos": (STEPS, 3),
        "gripper": (STEPS, 1),
    }
    assert all(a.dtype == np.float32 for a in item.obs.values())
    assert item.tags == {
        "backend": "isaac",
        "env_name": CUBE,
        "task": "unknown",
        "labels": "none",
        "action_space": "ik_relative",
        "alignment": 1.0,
        "rate": "unknown",
        "success": True,
        "outcome": "success",
    }


def test_a_failed_demo_is_kept_as_failed(record, tmp_path):
    with record() as file:
        add_demo(file["data"], "demo_0", success=False)
        add_demo(file["data"], "demo_1", success=None)
    (failed, unknown), _ = read(tmp_path)
    assert failed.tags["outcome"] == "failure" and failed.tags["success"] is False
    assert unknown.tags["outcome"] == "unknown" and "success" not in unknown.tags
    assert not failed.rewards.any() and not failed.dones.any()


@pytest.mark.parametrize("opening, success", [(0.29, False), (0.31, True)])
def test_success_of_an_opened_drawer_is_derived(record, tmp_path, opening, success):
    """That environment always says False; the cabinet's joint knows."""
    with record(env_name=DRAWER) as file:
        add_demo(file["data"], "demo_0", success=False, flat=True, opening=opening)
    (item,), _ = read(tmp_path)
    assert item.tags["success"] is success
    assert item.dones[-1] == success
    assert item.tags["task"] == "drawer_open"
    assert item.tags["action_space"] == "joint_position"
    assert item.obs["flat"].shape == (STEPS, 31)


def test_a_cabinet_counts_only_where_the_task_is_to_open_it(record, tmp_path):
    with record(env_name=CUBE) as file:
        add_demo(file["data"], "demo_0", success=False, opening=0.4)
    assert read(tmp_path)[0][0].tags["success"] is False


def test_observations_after_the_step_are_named(record, tmp_path):
    with record() as file:
        add_demo(file["data"], "demo_0", aligned=False)
        add_demo(file["data"], "demo_1")
    found, skipped = read(tmp_path)
    assert [item.key for item in found] == ["rec/demo_1"]
    assert len(skipped) == 1 and skipped[0][1].startswith("demo_0: obs/joint_pos follows")
    assert "phase1_isaac.min_alignment" in skipped[0][1]
    assert len(read(tmp_path, min_alignment=0.0)[0]) == 2


def test_alignment_is_the_share_of_steps():
    """Of 100 comparisons 7 are spoilt; an offset changes nothing."""
    after = np.cumsum(np.ones((101, 2)), axis=0)
    observed = np.roll(after, 1, axis=0) + np.array([5, -3])
    assert alignment(observed, after) == 1
    observed[10:17] += 0.01
    assert alignment(observed, after) == pytest.approx(0.93)
    assert alignment(observed, after[:-1]) is None
    assert alignment(observed, None) is None
    assert alignment(observed, np.zeros_like(after)) is None  # a still robot tells nothing


def test_counts_that_disagree(record, tmp_path, capsys):
    """A stale total is said and harmless; a wrong num_samples is not."""
    with record(total=999) as file:
        add_demo(file["data"], "demo_0")
        add_demo(file["data"], "demo_1").attrs["num_samples"] = STEPS + 1
        short = add_demo(file["data"], "demo_2")
        del short["obs/eef_pos"]
        short["obs/eef_pos"] = np.zeros((STEPS - 1, 3))
    found, skipped = read(tmp_path)
    assert [item.key for item in found] == ["rec/demo_0"]
    reasons = [reason for _, reason in skipped]
    assert reasons[0].startswith("demo_1: num_samples says 13, actions has 12")
    assert reasons[1] == "demo_2: num_samples says 12, obs/eef_pos has 11 steps"
    assert f"data.attrs['total'] says 999, its demos have {3 * STEPS}" in capsys.readouterr().err


def test_actions_are_scaled_alike_in_all_demos(record, tmp_path):
    """Only the dimension that leaves [-1, 1] is scaled, by its largest value in the file."""
    with record() as file:
        for name, factor in (("demo_0", 1), ("demo_1", 4)):
            demo = add_demo(file["data"], name)
            demo["actions"][:, 1] = factor * np.linspace(0, 1, STEPS)
    (first, second), _ = read(tmp_path)
    assert first.tags["action_scale"] == second.tags["action_scale"] == [1, 4, 1]
    assert first.actions[-1, 1] == 0.25 and second.actions[-1, 1] == 1
    assert first.actions[-1, 2] == 1


def spoil_link(demo, other):
    del demo["actions"]
    demo["actions"] = h5py.ExternalLink(other, "data/demo_0/actions")


def spoil_soft_link(demo, other):
    del demo["obs"]
    demo["obs"] = h5py.SoftLink("/data/demo_0")


def spoil_virtual(demo, other):
    del demo["actions"]
    layout = h5py.VirtualLayout((STEPS, 3), np.float32)
    layout[:] = h5py.VirtualSource(other, "data/demo_0/actions", (STEPS, 3))
    demo.create_virtual_dataset("actions", layout)


def spoil_external(demo, other):
    del demo["actions"]
    demo.create_dataset(
        "actions", (STEPS, 3), np.float32, external=[(other, 0, h5py.h5f.UNLIMITED)]
    )


def spoil_text(demo, other):
    del demo["actions"]
    demo["actions"] = ["a"] * STEPS


def spoil_nan(demo, other):
    demo["actions"][3] = np.nan


def spoil_missing(demo, other):
    del demo["actions"]


def spoil_group(demo, other):
    del demo["actions"]
    demo.create_group("actions")


def spoil_empty(demo, other):
    for name in ("actions", "obs/joint_pos", "obs/eef_pos", "obs/gripper"):
        del demo[name]
        demo[name] = np.zeros((0, 3))
    demo.attrs["num_samples"] = 0


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (spoil_link, "/data/demo_1/actions: a link to elsewhere"),
        (spoil_soft_link, "/data/demo_1/obs: a link to elsewhere"),
        (spoil_virtual, "/data/demo_1/actions: shows data from elsewhere"),
        (spoil_external, "/data/demo_1/actions: shows data from elsewhere"),
        (spoil_text, "/data/demo_1/actions: holds object"),
        (spoil_nan, "actions: NaN or infinite"),
        (spoil_missing, "/data/demo_1/actions: missing"),
        (spoil_group, "/data/demo_1/actions: a group"),
        (spoil_empty, "0 steps; at least 2 are needed"),
    ],
)
def test_one_bad_demo_does_not_stop_the_others(record, tmp_path, spoil, reason):
    with record("elsewhere.h5") as other:
        add_demo(other["data"], "demo_0")
    (tmp_path / "elsewhere.h5").rename(tmp_path / "elsewhere.txt")
    with record() as file:
        add_demo(file["data"], "demo_0")
        spoil(add_demo(file["data"], "demo_1"), str(tmp_path / "elsewhere.txt"))
        add_demo(file["data"], "demo_2")
    found, skipped = read(tmp_path)
    assert [item.key for item in found] == ["rec/demo_0", "rec/demo_2"]
    assert len(skipped) == 1 and skipped[0][1].startswith(f"demo_1: {reason}")


def test_broken_files_are_named_and_the_good_one_comes_through(record, tmp_path):
    with record("good.h5") as file:
        add_demo(file["data"], "demo_0")
    content = (tmp_path / "good.h5").read_bytes()
    (tmp_path / "truncated.hdf5").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.hdf5").write_bytes(b"")
    (tmp_path / "text.hdf5").write_text("not HDF5\n")
    (tmp_path / "notes.txt").write_text("ignored\n")
    with h5py.File(tmp_path / "nodata.hdf5", "w") as file:
        file["x"] = 1
    with h5py.File(tmp_path / "nodemo.hdf5", "w") as file:
        file.create_group("data")
    found, skipped = read(tmp_path)
    assert [item.key for item in found] == ["good/demo_0"]
    reasons = dict(skipped)
    assert set(reasons) == {f"{n}.hdf5" for n in ("truncated", "empty", "text", "nodata", "nodemo")}
    assert reasons["nodata.hdf5"] == "/data: missing"
    assert "no demo" in reasons["nodemo.hdf5"]


@pytest.mark.parametrize(
    ("env_name", "about", "step_s"),
    [
        (CUBE, {"sim_args": {"dt": 0.01, "decimation": 5, "num_envs": 1}}, 0.05),
        (DRAWER, {}, 1 / 60),
        (DRAWER, {"sim_args": {"dt": 0.005, "decimation": 2}}, 0.01),
        (CUBE, {}, None),
        (CUBE, {"sim_args": {"dt": 0.01}}, None),
        (CUBE, {"sim_args": {"dt": "fast", "decimation": 2}}, None),
        (CUBE, {"sim_args": {"dt": 0, "decimation": 2}}, None),
        (CUBE, {"sim_args": None}, None),
    ],
)
def test_time_is_told_where_the_rate_is_known(record, tmp_path, env_name, about, step_s):
    """Recorded, else the environment's, else left out and said: never guessed."""
    with record(env_name=env_name, **about) as file:
        add_demo(file["data"], "demo_0")
    (item,), _ = read(tmp_path)
    if step_s is None:
        assert "time_s" not in item.labels and item.tags["rate"] == "unknown"
    else:
        assert item.labels["time_s"].dtype == np.float64 and "rate" not in item.tags
        np.testing.assert_allclose(item.labels["time_s"], np.arange(STEPS) * step_s)


def add_cameras(demo, **cameras):
    """Replaces the demo's camera by others; each picture is one brighter than that before."""
    del demo["obs/table_cam"]
    for name, (value, channels) in cameras.items():
        frames = np.full((STEPS, 48, 64, channels), value, np.uint8)
        demo[f"obs/{name}"] = frames + np.arange(STEPS, dtype=np.uint8)[:, None, None, None]


@pytest.mark.parametrize(
    ("wanted", "camera", "value"),
    [("auto", "table_cam", 40), ("wrist_cam", "wrist_cam", 120), ("none", None, None)],
)
def test_one_camera_is_kept(record, tmp_path, wanted, camera, value):
    """RGB or RGBA, at the size of all pictures, with labels of the heuristic; renderings wait."""
    with record() as file:
        add_cameras(
            add_demo(file["data"], "demo_0"),
            depth_cam=(1, 3),
            semantic_segmentation=(2, 4),
            table_cam=(40, 4),
            wrist_cam=(120, 3),
            mask=(3, 1),
        )
    (item,), skipped = read(tmp_path, image=wanted)
    assert not skipped and item.tags.get("camera") == camera
    if camera is None:
        assert "image" not in item.obs and not item.labels and item.tags["labels"] == "none"
        return
    expected = (value + np.arange(STEPS))[:, None, None, None]
    np.testing.assert_array_equal(
        item.obs["image"], np.broadcast_to(expected, (STEPS, SIZE, SIZE, 3))
    )
    assert item.tags["labels"] == "heuristic"
    np.testing.assert_array_equal(item.labels["segmentation"], brightness_class(item.obs["image"]))
    assert set(item.obs) == {"image", "joint_pos", "eef_pos", "gripper"}


def test_cameras_that_do_not_fit_are_named(record, tmp_path):
    """One that is not there, one of another length, one without pixels; flat obs have none."""
    with record() as file:
        add_demo(file["data"], "demo_0")
        short = add_demo(file["data"], "demo_1")
        del short["obs/table_cam"]
        short["obs/front"] = np.zeros((STEPS - 2, 4, 4, 3), np.uint8)
        hollow = add_demo(file["data"], "demo_2")
        del hollow["obs/table_cam"]
        hollow["obs/front"] = np.zeros((STEPS, 0, 4, 3), np.uint8)
        add_demo(file["data"], "demo_3", flat=True)
    found, skipped = read(tmp_path, image="front")
    assert not found
    assert [reason for _, reason in skipped] == [
        "demo_0: no camera obs/front of uint8; phase1_isaac.image can be: auto, none, table_cam",
        "demo_1: num_samples says 12, obs/front has 10 steps",
        "demo_2: /data/demo_2/obs/front is (12, 0, 4, 3): no pixels",
        "demo_3: no camera obs/front of uint8; phase1_isaac.image can be: auto, none",
    ]


def test_pictures_of_a_long_demo_pass_in_blocks(record, tmp_path, monkeypatch):
    """Never more than FRAMES pictures of full size are read at once."""
    import lib.phase1_isaac.recordings as isaac

    monkeypatch.setattr(isaac, "FRAMES", 5)
    blocks = []
    monkeypatch.setattr(
        isaac, "square", lambda frame, size: blocks.append(frame.base.shape) or square(frame, size)
    )
    with record() as file:
        add_cameras(add_demo(file["data"], "demo_0"), table_cam=(0, 3))
    (item,), _ = read(tmp_path, image="auto")
    assert {shape[0] for shape in blocks} == {5, 2}
    assert item.obs["image"][:, 0, 0, 0].tolist() == list(range(STEPS))


def test_success_is_what_the_recorder_writes_and_no_text(record, tmp_path):
    with record() as file:
        add_demo(file["data"], "demo_0", success="False")
    assert read(tmp_path)[0][0].tags["outcome"] == "unknown"


@pytest.mark.parametrize(
    ("env_name", "space"),
    [
        ("Isaac-Lift-Cube-Franka-v0", "joint_position"),
        ("Isaac-Lift-Cube-Franka-IK-Abs-v0", "ik_absolute"),
        ("Isaac-Reach-Franka-OSC-v0", "operational_space"),
        ("Isaac-Velocity-Rough-Anymal-C-v0", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_action_space_is_named_and_not_guessed(record, tmp_path, env_name, space):
    with record(env_name=env_name) as file:
        add_demo(file["data"], "demo_0")
    assert read(tmp_path)[0][0].tags["action_space"] == space


def test_what_is_no_recording_is_named(record, tmp_path):
    """Archives, broken links and empty folders are not passed over in silence; notes are."""
    with record() as file:
        add_demo(file["data"], "demo_0")
    (tmp_path / "more.zip").write_bytes(b"x")
    (tmp_path / "gone.hdf5").symlink_to(tmp_path / "nowhere.hdf5")
    (tmp_path / "folder.hdf5").mkdir()
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "notes.md").write_text("mine\n")
    found, skipped = read(tmp_path)
    assert len(found) == 1
    assert dict(skipped) == {
        "more.zip": "not a .hdf5 or .h5 file",
        "gone.hdf5": "a link to a file that is not there",
        "folder.hdf5": "a folder that holds no recording",
        "round": "a link to a folder that it lies in",
    }


def test_our_own_episodes_are_no_recording(record, tmp_path):
    """They would come back as another robot's."""
    with record() as file:
        add_demo(file["data"], "demo_0")
    found, _ = read(tmp_path)
    (tmp_path / "rec.hdf5").unlink()
    episode.write(tmp_path / "again.hdf5", found, source="isaac")
    assert read(tmp_path) == (
        [],
        [("again.hdf5", "episodes of this repository, no recording of Isaac Lab")],
    )


def test_two_recordings_of_one_name_are_not_confused(record, tmp_path):
    for name in ("same.h5", "same.hdf5"):
        with record(name) as file:
            add_demo(file["data"], "demo_0")
    found, skipped = read(tmp_path)
    assert len(found) == 1
    assert skipped == [("same.hdf5", "another recording has this name (same.h5); rename one")]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    assert find_recordings(tmp_path / "nowhere") == ([], [])
    assert read(tmp_path / "nowhere") == ([], [])


def test_episodes_survive_the_disk(record, tmp_path):
    """What is read from a recording is what the next stage reads."""
    with record() as file:
        add_demo(file["data"], "demo_0")
        add_demo(file["data"], "demo_1", success=False)
    found, _ = read(tmp_path)
    episode.write(tmp_path / "out.hdf5", found, source="isaac")
    again = list(episode.read(tmp_path / "out.hdf5"))
    assert [episode.checksum(a) for a in again] == [episode.checksum(f) for f in found]


def test_a_real_recording():
    """Isaac Lab Mimic's ten successful demos, aligned to the last float."""
    found, skipped = read(FIXTURES / "isaac")
    assert not skipped and len(found) == 10
    assert sum(map(len, found)) == 2328
    assert all(item.tags["success"] and item.tags["alignment"] == 1 for item in found)
    assert all(item.actions.shape[1] == 7 for item in found)
    # Nothing in that file tells the rate, and there is no camera.
    assert all(item.tags["rate"] == "unknown" and not item.labels for item in found)
    assert all(item.tags["action_space"] == "ik_relative" for item in found)
    assert read(FIXTURES / "isaac", image="auto")[0][0].obs.keys() == found[0].obs.keys()


# The manifest: what becomes of the episodes of every source


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Writes episodes as sources and builds their manifest; a source without any is empty."""
    import lib.phase1_manifest.builder as module

    def build(shares=(1.0, 0.0, 0.0), **episodes):
        for source in ("sima2", "views", "ros", "isaac"):
            path = tmp_path / f"{source}.hdf5"
            episode.write(path, episodes.get(source, []), source=source, shares=shares)
            Report().write(path.with_name(f"{source}_skipped.json"))
            monkeypatch.setitem(module.SOURCES, source, path)
        return build_manifest("drawer_open", list(shares), 40, 0.5)[0]

    return build


def recorded(key="a", *, number=0, image=True, labels="none", **tags):
    """An episode whose pictures are those of its number."""
    rng = np.random.default_rng(number)
    obs = {"eef_pos": rng.normal(size=(STEPS, 3)).astype(np.float32)}
    actions = rng.uniform(-1, 1, (STEPS, 4)).astype(np.float32)
    marks = {}
    if image:
        obs["image"] = rng.integers(0, 256, (STEPS, SIZE, SIZE, 3), np.uint8)
    if labels != "none":
        marks["segmentation"] = rng.integers(0, 7, (STEPS, SIZE, SIZE), np.uint8)
    zeros = np.zeros(STEPS, np.float32)
    return episode.Episode(
        key=key,
        obs=obs,
        actions=actions,
        rewards=zeros,
        dones=zeros.astype(np.uint8),
        vector_rewards=np.zeros((STEPS, 3), np.float32),
        labels=marks,
        tags={"labels": labels, "task": "drawer_open", "action_space": "eef_delta", **tags},
    )


def test_an_episode_feeds_only_the_stages_that_can_use_it():
    """Another robot is kept with its own actions: its pictures teach to see, no more."""
    ours = recorded(labels="exact")
    assert why_not(ours, "drawer_open") == dict.fromkeys(
        ("vision", "rnn", "segmenter", "policy"), True
    )
    franka = recorded(labels="heuristic", action_space="joint_position")
    assert why_not(franka, "drawer_open") == {
        "vision": True,
        "rnn": "another action space (joint_position)",
        "segmenter": True,
        "policy": "another action space (joint_position)",
    }
    views = why_not(recorded(labels="exact", views=True), "drawer_open")
    assert views["vision"] is views["segmenter"] is True
    assert views["rnn"] == views["policy"] == "single steps, which do not follow each other"
    assert why_not(recorded(task="unknown"), "drawer_open")["policy"] == "another task (unknown)"
    assert why_not(recorded(), "drawer_open")["segmenter"] == "has no pixel labels"
    blind = why_not(recorded(image=False), "drawer_open")
    assert set(blind.values()) == {"has no pictures"}


@pytest.mark.parametrize("image", ["auto", "none"])
def test_a_real_isaac_demo_reaches_the_stages_that_can_use_it(record, tmp_path, sources, image):
    """From the recording to the manifest, with and without its camera."""
    with record(env_name=DRAWER) as file:
        add_cameras(add_demo(file["data"], "demo_0", opening=0.4), table_cam=(40, 3))
    found, _ = read(tmp_path, image=image)
    (entry,) = sources(isaac=found)["episodes"]
    blind, other = "has no pictures", "another action space (joint_position)"
    assert entry["usable"] == (
        {"vision": True, "rnn": other, "segmenter": True, "policy": other}
        if image == "auto"
        else dict.fromkeys(("vision", "rnn", "segmenter", "policy"), blind)
    )
    assert entry["tags"]["success"] is True


def named_for(split, shares, source="isaac", start=0):
    """A key that falls into a split."""
    keys = (f"key{i}" for i in range(start, start + 1000))
    return next(key for key in keys if episode.split_of(source, key, shares) == split)


@pytest.mark.parametrize(
    ("splits", "kept"),
    [
        (("train", "test"), 1),
        (("test", "train"), 0),
        (("train", "valid"), 1),
        (("valid", "test"), 1),
        (("train", "valid", "test"), 2),
        (("train", "train"), 0),
        (("test", "test"), 0),
    ],
)
def test_of_equal_episodes_one_is_used_and_a_tested_one_never_trained_on(sources, splits, kept):
    """Whatever they are called: test before valid before train, then the first."""
    shares = (0.4, 0.3, 0.3)
    keys = [named_for(split, shares, start=1000 * i) for i, split in enumerate(splits)]
    copies = [recorded(key, labels="exact") for key in keys]
    manifest = sources(shares, isaac=[*copies, recorded("other", number=1)])
    entries = {entry["key"]: entry for entry in manifest["episodes"]}
    assert [entries[key]["split"] for key in keys] == list(splits)
    reason = f"duplicate of isaac/{keys[kept]}, which is in {splits[kept]}"
    for index, key in enumerate(keys):
        expected = True if index == kept else reason
        assert set(entries[key]["usable"].values()) == {expected}
    assert entries["other"]["usable"]["vision"] is True


def test_copies_are_found_across_sources_and_by_what_was_seen_and_done(sources):
    """Tags, rewards and labels make no other episode; one action that differs does."""
    shares = (0.4, 0.3, 0.3)
    tested = named_for("test", shares, source="sima2")
    trained = named_for("train", shares, source="ros")
    other = named_for("train", shares, source="ros", start=2000)
    moved = recorded(other)
    moved.actions[0, 0] = 0.125
    copy = recorded(trained, labels="heuristic", visual=True)
    copy.rewards[-1] = 1
    manifest = sources(shares, sima2=[recorded(tested, outcome="failure")], ros=[copy, moved])
    verdicts = {entry["key"]: entry["usable"]["vision"] for entry in manifest["episodes"]}
    assert verdicts == {
        tested: True,
        trained: f"duplicate of sima2/{tested}, which is in test",
        other: True,
    }
    assert fingerprint(moved) != fingerprint(recorded(other)) == fingerprint(copy)


def test_no_episode_moves_when_others_are_added(record, tmp_path, sources):
    """Splits hang on names alone: more demos, files and sources change no episode's."""
    shares = (0.4, 0.3, 0.3)

    def splits(**episodes):
        entries = sources(shares, **episodes)["episodes"]
        return {(e["source"], e["key"]): e["split"] for e in entries}

    with record("b.hdf5") as file:
        for number in (3, 7, 8):
            add_demo(file["data"], f"demo_{number}")
    before = splits(isaac=read(tmp_path)[0])
    with h5py.File(tmp_path / "b.hdf5", "r+") as file:
        for number in (1, 5, 12):
            add_demo(file["data"], f"demo_{number}", steps=STEPS + number)
    with record("a.hdf5") as file:
        for number in range(20):
            add_demo(file["data"], f"demo_{number}", steps=STEPS + number)
    found, _ = read(tmp_path)
    after = splits(isaac=found, ros=[recorded(f"bag{i}/000", number=i) for i in range(5)])
    assert len(before) == 3 and len(after) == 31
    assert {key: after[key] for key in before} == before
    assert set(after.values()) == {"train", "valid", "test"}


def test_trust_says_on_how_many_pixels_each_cell_rests(sources):
    """Exact labels count the pixels of a class, the heuristic's those it gave that class."""
    shares = (1.0, 0.0, 0.0)
    exact = [recorded(f"e{i}", number=i, labels="exact") for i in range(3)]
    silver = [recorded(f"s{i}", number=10 + i, labels="heuristic") for i in range(2)]
    trust = sources(shares, sima2=exact, isaac=silver)["trust"]
    assert set(trust) == {"sima2", "isaac"}
    frames = 3 * 4  # a few of each exactly labelled episode
    for cells in trust.values():
        assert list(cells) == list(episode.PRIMITIVES)
        assert sum(cell["pixels"] for cell in cells.values()) == frames * SIZE**2
        assert all(isinstance(cell["pixels"], int) for cell in cells.values())
    assert all(cell["trust"] == 1 and cell["pixels"] for cell in trust["sima2"].values())
    assert all(0 <= cell["trust"] <= 1 for cell in trust["isaac"].values())
    unmeasured = sources(shares, isaac=silver)["trust"]["isaac"]
    assert set(map(str, unmeasured.values())) == {str({"trust": 0.5, "pixels": 0})}


def test_a_wrongly_labelled_episode_is_named_and_the_heuristic_is_not_its_own_judge(sources):
    """A wall called handle: doubted from a source of its own labels, not from the heuristic's."""
    wall, handle = (episode.PRIMITIVES.index(name) for name in ("background", "handle"))

    def seen(key, label, **more):
        item = recorded(key, **more)
        item.obs["image"][:] = 120 + np.arange(STEPS)[:, None, None, None]
        item.labels["segmentation"][:] = label
        return item

    exact = [seen(f"e{i}", wall, number=i, labels="exact") for i in range(12)]
    wrong = seen("wrong", handle, number=20, labels="exact")
    silver = seen("silver", handle, number=21, labels="heuristic")
    manifest = sources(sima2=[*exact, wrong], ros=[silver])
    doubted = {e["key"]: e["doubted"] for e in manifest["episodes"] if "doubted" in e}
    assert doubted == {"wrong": {"handle": {"background": 0.0}}}
