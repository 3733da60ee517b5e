"""Isaac Lab's recordings become episodes: gaps, stale counts, wrong order, links, failures."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from lib import episode
from lib.episode.check import problems
from lib.ingest.isaac import alignment, find_recordings, read_recordings
from lib.ingest.report import Report
from lib.params import Phase1Isaac
from lib.paths import ROOT

FIXTURES = Path(os.environ.get("GOLDEN_PATH_FIXTURES", ROOT.parent / "shared" / "fixtures"))
DRAWER, CUBE = "Isaac-Open-Drawer-Franka-v0", "Isaac-Stack-Cube-Franka-IK-Rel-v0"
STEPS = 12


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

    def make(name="rec.hdf5", env_name=CUBE, total=None):
        file = h5py.File(tmp_path / name, "w")
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": env_name, "type": 2})
        if total is not None:
            data.attrs["total"] = total
        return file

    return make


def read(folder, **changes):
    report = Report()
    defaults = {"num_rollouts": 0, "horizon": 150, "action_noise": 0.0, "min_alignment": 0.99}
    settings = Phase1Isaac(**defaults | changes)
    found = list(read_recordings(folder, settings, report))
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
        (spoil_link, "/data/demo_1/actions is a link to elsewhere"),
        (spoil_soft_link, "/data/demo_1/obs is a link to elsewhere"),
        (spoil_virtual, "/data/demo_1/actions lies in another file"),
        (spoil_external, "/data/demo_1/actions lies in another file"),
        (spoil_text, "/data/demo_1/actions holds object, no numbers"),
        (spoil_nan, "actions: NaN or infinite"),
        (spoil_missing, "/data/demo_1/actions is missing"),
        (spoil_group, "/data/demo_1/actions is a group"),
        (spoil_empty, "0 steps; at least 2 are needed"),
    ],
)
def test_one_bad_demo_does_not_stop_the_others(record, tmp_path, spoil, reason):
    with record("elsewhere.h5") as other:
        add_demo(other["data"], "demo_0")
    (tmp_path / "elsewhere.h5").rename(tmp_path / "elsewhere.data")
    with record() as file:
        add_demo(file["data"], "demo_0")
        spoil(add_demo(file["data"], "demo_1"), str(tmp_path / "elsewhere.data"))
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
    assert reasons["nodata.hdf5"] == "/data is missing"
    assert "no demo" in reasons["nodemo.hdf5"]


def test_two_recordings_of_one_name_are_not_confused(record, tmp_path):
    for name in ("same.h5", "same.hdf5"):
        with record(name) as file:
            add_demo(file["data"], "demo_0")
    found, skipped = read(tmp_path)
    assert len(found) == 1
    assert skipped == [("same.hdf5", "another recording has this name (same.h5); rename one")]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    assert find_recordings(tmp_path / "nowhere") == []
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
    if not (FIXTURES / "isaac").exists():
        pytest.skip(f"{FIXTURES / 'isaac'} is not here")
    found, skipped = read(FIXTURES / "isaac")
    assert not skipped and len(found) == 10
    assert sum(map(len, found)) == 2328
    assert all(item.tags["success"] and item.tags["alignment"] == 1 for item in found)
    assert all(item.actions.shape[1] == 7 for item in found)
