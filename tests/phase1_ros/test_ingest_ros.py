"""Bags become episodes: known values on one clock, and broken bags that stop nobody."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_typestore

from lib.base.paths import ROOT
from lib.episode.check import problems
from lib.ingest.pictures import decode, square
from lib.ingest.report import Report, UnusableError
from lib.ingest.series import NS, Series, clock, overlap, unit_actions
from lib.phase1_ros import Phase1Ros
from lib.phase1_ros.reader import read_bags

FIXTURES = ROOT / "tests" / "data"
START = 1_700_000_000 * NS
SIZE = 32
STORES = {"ros1": get_typestore(Stores.ROS1_NOETIC), "ros2": get_typestore(Stores.ROS2_HUMBLE)}
# Every container that is read, and what its content is compressed with.
FORMATS = (
    "bag",
    "bag-bz2",
    "bag-lz4",
    "sqlite3",
    "sqlite3-file",
    "sqlite3-message",
    "mcap",
    "mcap-storage",
    "mcap-file",
    "mcap-message",
)


@dataclass
class Bag:
    """Messages to be written, as (topic, stamp ns, message)."""

    ros: str = "ros2"

    def __post_init__(self):
        self.types = STORES[self.ros].types
        self.messages = []

    def make(self, kind, /, *args, **kwargs):
        return self.types[kind](*args, **kwargs)

    def header(self, stamp):
        time = self.make("builtin_interfaces/msg/Time", sec=stamp // NS, nanosec=stamp % NS)
        extra = {"seq": 0} if self.ros == "ros1" else {}
        return self.make("std_msgs/msg/Header", stamp=time, frame_id="", **extra)

    def add(self, topic, kind, stamp, header_stamp=None, **values):
        if header_stamp is not None:
            values["header"] = self.header(header_stamp)
        self.messages.append((topic, stamp, self.make(kind, **values)))

    def joints(self, stamp, position, velocity=(), names=("a", "b"), header=None, topic="/joints"):
        self.add(
            topic,
            "sensor_msgs/msg/JointState",
            stamp,
            stamp if header is None else header,
            name=list(names),
            position=np.array(position, float),
            velocity=np.array(velocity, float),
            effort=np.array([]),
        )

    def image(self, stamp, pixels, encoding="rgb8", topic="/camera", padding=0, header=None):
        rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
        rows = np.pad(rows, ((0, 0), (0, padding)))
        self.add(
            topic,
            "sensor_msgs/msg/Image",
            stamp,
            stamp if header is None else header,
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=rows.shape[1],
            data=rows.ravel(),
        )

    def wrench(self, stamp, value, header=None, topic="/ft"):
        vectors = [
            self.make("geometry_msgs/msg/Vector3", *(float(value + i) for i in range(n, n + 3)))
            for n in (0, 3)
        ]
        self.add(
            topic,
            "geometry_msgs/msg/WrenchStamped",
            stamp,
            stamp if header is None else header,
            wrench=self.make("geometry_msgs/msg/Wrench", *vectors),
        )

    def command(self, stamp, values, topic="/arm/command"):
        layout = self.make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
        kind = "std_msgs/msg/Float64MultiArray"
        self.add(topic, kind, stamp, layout=layout, data=np.array(values, float))

    def trajectory(self, stamp, positions, topic="/trajectory"):
        duration = self.make("builtin_interfaces/msg/Duration", sec=1, nanosec=0)
        empty = np.zeros(0)
        points = [
            self.make(
                "trajectory_msgs/msg/JointTrajectoryPoint",
                positions=np.array(row, float),
                velocities=empty,
                accelerations=empty,
                effort=empty,
                time_from_start=duration,
            )
            for row in positions
        ]
        kind = "trajectory_msgs/msg/JointTrajectory"
        self.add(topic, kind, stamp, stamp, joint_names=["a", "b"], points=points)

    def write(self, path, form="sqlite3"):
        store = STORES[self.ros]
        container, _, packing = form.partition("-")
        if self.ros == "ros1":
            writer, encode = Writer1(path), store.serialize_ros1
            if packing:
                writer.set_compression(Writer1.CompressionFormat[packing.upper()])
        else:
            plugin = StoragePlugin[container.upper()]
            writer, encode = Writer2(path, version=9, storage_plugin=plugin), store.serialize_cdr
            if packing:
                writer.set_compression(CompressionMode[packing.upper()], CompressionFormat.ZSTD)
        with writer:
            connections = {}
            for topic, stamp, message in sorted(self.messages, key=lambda m: m[1]):
                kind = message.__msgtype__
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=store)
                writer.write(connections[topic], stamp, encode(message, kind))
        return path


def settings(**changes):
    values = {
        "rate_hz": 20.0,
        "max_gap_s": 0.5,
        "clock": "bag",
        "image_topic": "auto",
        "joint_topic": "auto",
        "action_topic": "joints",
        "signals": {},
    }
    return Phase1Ros(**values | changes)


def brightness_class(images):
    """Stands in for a segmenter: pixels brighter than 100 are a table."""
    return (images[..., 0] > 100).astype(np.uint8)


def read(folder, **changes):
    report = Report()
    found = list(read_bags(folder, settings(**changes), SIZE, brightness_class, report))
    for item in found:
        assert problems(item) == []
    return found, [(Path(s["file"]).name, s["reason"]) for s in report.skipped]


def milliseconds(value):
    return START + round(value * 1_000_000)


def frame(t):
    """A picture that differs from the one before: a camera that runs."""
    return np.full((40, 40, 3), t // 10 % 200, np.uint8)


def ramp_bag(ros, lag_ms=0.0):
    """1.2 s: joints at 125 Hz on a ramp, a camera at 10 Hz that counts its frames."""
    bag = Bag(ros)
    for t in range(0, 1201, 8):
        bag.joints(
            milliseconds(t), (0.001 * t, 5 - 0.002 * t), (1, -2), header=milliseconds(t - lag_ms)
        )
    for t in range(0, 1201, 100):
        pixels = np.full((48, 64, 3), t // 100, np.uint8)
        bag.image(milliseconds(t), pixels, header=milliseconds(t - lag_ms))
    return bag


@pytest.mark.parametrize("form", FORMATS)
def test_known_ramp_is_reproduced_on_one_clock(tmp_path, form):
    """Joints at 125 Hz and pictures at 10 Hz meet at 20 Hz, value by value."""
    ros = "ros1" if form.startswith("bag") else "ros2"
    ramp_bag(ros).write(tmp_path / ("ramp.bag" if ros == "ros1" else "ramp"), form)
    (item,), skipped = read(tmp_path)
    assert skipped == []
    time = np.arange(25) / 20
    assert item.key == "ramp/000"
    assert item.labels["time_s"].dtype == np.float64
    np.testing.assert_array_equal(item.labels["time_s"], time)
    expected = np.stack([time, 5 - 2 * time], axis=1)
    np.testing.assert_allclose(item.obs["joint_pos"], expected, atol=1e-6)
    np.testing.assert_array_equal(item.obs["joint_vel"], np.tile([1, -2], (25, 1)))
    frames = (np.arange(25) // 2)[:, None, None, None]
    np.testing.assert_array_equal(item.obs["image"], np.broadcast_to(frames, (25, SIZE, SIZE, 3)))
    # The second joint moves by 0.1 rad a step, the largest of all; the last step stays put.
    assert item.tags["action_scale"] == pytest.approx(0.1)
    np.testing.assert_allclose(item.actions[:-1], np.tile([0.5, -1], (24, 1)), atol=1e-6)
    assert (item.actions[-1] == 0).all()
    assert item.tags["backend"] == ros and item.tags["start_ns"] == START
    assert item.tags["topics"] == {"obs/image": "/camera", "obs/joint_pos": "/joints"}
    assert item.tags["joints"] == ["a", "b"]
    assert item.tags["labels"] == "heuristic"
    assert "success" not in item.tags
    assert item.labels["segmentation"].shape == (25, SIZE, SIZE)


@pytest.mark.parametrize("form", ["sqlite3", "mcap", "mcap-storage"])
def test_bare_storage_files_are_read(tmp_path, form):
    folder = ramp_bag("ros2").write(tmp_path / "folder", form)
    (file,) = [p for p in folder.iterdir() if p.suffix in (".db3", ".mcap")]
    bare = tmp_path / "in" / "deep" / file.name
    bare.parent.mkdir(parents=True)
    file.rename(bare)
    (item,), skipped = read(tmp_path / "in")
    assert len(item) == 25 and not skipped
    assert item.key == f"deep/{file.stem}/000"


@pytest.mark.parametrize("ros", ["ros1", "ros2"])
def test_header_clock_is_the_sensors(tmp_path, ros):
    """Joint stamps that lag the recording by 40 ms move the ramp by 40 ms, pictures do not lag."""
    bag = Bag(ros)
    for t in range(0, 1001, 10):
        bag.joints(milliseconds(t), (0.001 * t, 0), header=milliseconds(t - 40))
    for t in range(0, 1001, 50):
        bag.image(milliseconds(t), np.full((40, 40, 3), t // 50, np.uint8))
    bag.write(tmp_path / "lag.bag")
    by_bag, by_header = read(tmp_path)[0][0], read(tmp_path, clock="header")[0][0]
    frame = by_bag.obs["image"][:, 0, 0, 0]
    np.testing.assert_allclose(by_bag.obs["joint_pos"][:, 0], 0.05 * frame, atol=1e-6)
    frame = by_header.obs["image"][:, 0, 0, 0]
    np.testing.assert_allclose(by_header.obs["joint_pos"][:, 0], 0.05 * frame + 0.04, atol=1e-6)


@pytest.mark.parametrize(("clock", "first"), [("bag", START), ("header", START - NS)])
def test_every_kind_of_message_follows_the_clock(tmp_path, clock, first):
    """Pictures, compressed ones, joints and signals: all lag by a second by their headers."""
    bag = Bag()
    for t in range(0, 1001, 50):
        now, sensed = milliseconds(t), milliseconds(t - 1000)
        bag.joints(now, (0.001 * t, 0), header=sensed)
        bag.image(now, frame(t), header=sensed)
        bag.wrench(now, 0.001 * t, header=sensed)
    bag.write(tmp_path / "clock")
    (item,), skipped = read(tmp_path, clock=clock)
    assert item.tags["start_ns"] == first and len(item) == 21 and not skipped
    for values in (item.obs["joint_pos"][:, 0], item.obs["wrench"][:, 0]):
        np.testing.assert_allclose(values, item.labels["time_s"], atol=1e-6)
    np.testing.assert_array_equal(item.obs["image"][:, 0, 0, 0], np.arange(21) * 5)


@pytest.mark.parametrize("form", ["jpeg", "png"])
@pytest.mark.parametrize("clock", ["bag", "header"])
def test_compressed_cameras_are_read(tmp_path, form, clock):
    """What a camera node sends as JPEG or PNG arrives as pictures, on either clock."""
    bag = Bag("ros1")
    for t in range(0, 301, 50):
        buffer = io.BytesIO()
        imageio.imwrite(buffer, frame(t), extension=f".{form}")
        data = np.frombuffer(buffer.getvalue(), np.uint8)
        kind = "sensor_msgs/msg/CompressedImage"
        bag.add("/cam/compressed", kind, milliseconds(t), milliseconds(t), format=form, data=data)
    bag.write(tmp_path / "camera.bag")
    (item,), skipped = read(tmp_path, clock=clock)
    assert not skipped and item.tags["topics"] == {"obs/image": "/cam/compressed"}
    expected = np.broadcast_to(np.arange(7)[:, None, None, None] * 5, item.obs["image"].shape)
    np.testing.assert_allclose(item.obs["image"], expected, atol=1)


def test_header_clock_without_headers_is_named(tmp_path):
    bag = Bag()
    for t in range(0, 500, 10):
        bag.joints(milliseconds(t), (0, 0), header=0)
    bag.write(tmp_path / "unstamped")
    found, skipped = read(tmp_path, clock="header")
    assert not found
    assert skipped == [("unstamped", "/joints: no header stamps; set phase1_ros.clock to bag")]


def test_silence_splits_episodes(tmp_path):
    """A camera silent for 0.6 s ends an episode; stretches of one step are named."""
    bag = Bag()
    for t in range(0, 3001, 10):
        bag.joints(milliseconds(t), (0.001 * t, 0))
    for t in [*range(0, 801, 100), *range(1400, 2001, 100), 2600]:
        bag.image(milliseconds(t), frame(t))
    bag.write(tmp_path / "gaps")
    found, skipped = read(tmp_path)
    assert [(item.key, len(item)) for item in found] == [("gaps/000", 17), ("gaps/001", 13)]
    np.testing.assert_allclose(found[1].obs["joint_pos"][:, 0], 1.4 + np.arange(13) / 20, atol=1e-6)
    assert skipped == [("gaps", "1 of its 3 stretches are shorter than two steps")]
    assert len(read(tmp_path, max_gap_s=0.6)[0]) == 1


def test_single_picture_is_held_over_the_joints(tmp_path):
    bag = Bag()
    bag.image(milliseconds(500), np.full((40, 40, 3), 7, np.uint8))
    for t in range(0, 1001, 10):
        bag.joints(milliseconds(t), (0, 0))
    bag.write(tmp_path / "one")
    (item,), _ = read(tmp_path)
    assert (item.obs["image"] == 7).all() and len(item) == 21
    assert item.tags["action_scale"] == 1.0 and (item.actions == 0).all()
    found, skipped = read(tmp_path, joint_topic="none")
    assert not found and "two samples" in skipped[0][1]


def test_pictures_alone_have_one_idle_action(tmp_path):
    bag = Bag()
    for t in range(0, 501, 50):
        bag.image(milliseconds(t), frame(t))
    bag.write(tmp_path / "film")
    (item,), _ = read(tmp_path)
    assert item.actions.shape == (11, 1) and not item.actions.any()
    assert item.tags["action_space"] == "none"
    assert set(item.obs) == {"image"}


def test_arm_and_gripper_that_share_a_topic_become_one_state(tmp_path):
    """Messages name their joints; NaN and missing velocities count as not measured."""
    bag = Bag()
    for t in range(0, 1001, 10):
        bag.joints(milliseconds(t), (0.001 * t, np.nan if t == 500 else 1), (0, 0), ("a", "b"))
        bag.joints(milliseconds(t + 5), (0.5,), (), ("finger",))
    bag.write(tmp_path / "both")
    (item,), _ = read(tmp_path)
    assert item.tags["joints"] == ["a", "b", "finger"]
    time = item.labels["time_s"]
    np.testing.assert_allclose(item.obs["joint_pos"][:, 0], time + 0.005, atol=1e-6)
    np.testing.assert_allclose(item.obs["joint_pos"][:, 1:], [[1, 0.5]] * len(item), atol=1e-6)
    assert "joint_vel" not in item.obs


def test_other_signals_come_along_where_they_cover_the_episode(tmp_path):
    """Pose, twist, wrench and commands; a pose that stops half way is left out."""
    bag = Bag()
    vector = lambda *v: bag.make("geometry_msgs/msg/Vector3", *map(float, v))  # noqa: E731
    for t in range(0, 1001, 10):
        now = milliseconds(t)
        bag.joints(now, (0, 0))
        half = np.deg2rad(170 + 0.04 * t) / 2  # through 180 degrees: the sign flips
        turn = np.array([0, 0, np.sin(half), np.cos(half)]) * (-1 if t % 20 else 1)
        pose = bag.make(
            "geometry_msgs/msg/Pose",
            position=bag.make("geometry_msgs/msg/Point", 0.001 * t, 2.0, 3.0),
            orientation=bag.make("geometry_msgs/msg/Quaternion", *map(float, turn)),
        )
        bag.add("/pose", "geometry_msgs/msg/PoseStamped", now, now, pose=pose)
        if t < 400:
            twist = bag.make(
                "geometry_msgs/msg/Twist", linear=vector(1, 0, 0), angular=vector(0, 0, 2)
            )
            bag.add("/twist", "geometry_msgs/msg/TwistStamped", now, now, twist=twist)
        wrench = bag.make("geometry_msgs/msg/Wrench", force=vector(1, 2, 3), torque=vector(4, 5, 6))
        bag.add("/wrench", "geometry_msgs/msg/WrenchStamped", now, now, wrench=wrench)
    for t, value in ((0, 1.0), (500, 2.0)):
        bag.command(milliseconds(t), [value], "/command")
    bag.write(tmp_path / "signals")
    (item,), _ = read(tmp_path)
    time = item.labels["time_s"].astype(float)
    np.testing.assert_allclose(item.obs["eef_pos"][:, 0], time, atol=1e-6)
    half = np.deg2rad(170 + 40 * time) / 2
    np.testing.assert_allclose(np.abs(item.obs["eef_quat"][:, 3]), np.abs(np.cos(half)), atol=1e-6)
    assert (np.abs(np.diff(item.obs["eef_quat"], axis=0)) < 0.05).all()
    np.testing.assert_array_equal(item.obs["wrench"][3], [1, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(item.labels["command"][:, 0], np.where(time < 0.5, 1, 2))
    assert "eef_vel" not in item.obs and "obs/eef_vel" not in item.tags["topics"]


def signals_bag(ros="ros2"):
    """1 s of joints at 100 Hz, a force sensor, two commands, a trajectory, a counter and text."""
    bag = Bag(ros)
    for t in range(0, 1001, 10):
        bag.joints(milliseconds(t), (0.001 * t, 0), (1, 0))
        bag.wrench(milliseconds(t), 0.001 * t, topic="/ft/first")
        bag.wrench(milliseconds(t), 10 + 0.001 * t, topic="/ft/second")
        bag.add("/chat", "std_msgs/msg/String", milliseconds(t), data="hello")
        bag.command(milliseconds(t), [0.0] * (2 if t < 500 else 3), topic="/ragged")
    for t in range(0, 1001, 70):
        bag.add("/count", "std_msgs/msg/Int32", milliseconds(t), data=t // 70)
    for t, values in ((200, (4.0, 0.0)), (600, (-8.0, 0.0))):
        bag.command(milliseconds(t), values)
    bag.trajectory(milliseconds(0), [(9, 9), (1, 2)])
    bag.trajectory(milliseconds(100), [])
    return bag


def test_arrays_are_mapped_to_topics_and_fields(tmp_path, capsys):
    """Whole types, messages inside messages, single numbers, several fields, lists, labels."""
    signals_bag().write(tmp_path / "mapped")
    mapped = {
        "wrench": "/ft/second:wrench.force",  # wins over the six numbers of the first sensor
        "tip": "/ft/second:wrench.torque.z,wrench.force.x",
        "all": "/ft/second",
        "labels/count": "/count",
        "target": "/trajectory",
        "first_point": "/trajectory:points.0.positions.1",
        "speed": "/joints:velocity",
        "angle": "/joints",
    }
    (item,), skipped = read(tmp_path, signals=mapped)
    assert not skipped
    time = item.labels["time_s"]
    same = np.testing.assert_allclose
    same(item.obs["wrench"], 10 + time[:, None] + [0, 1, 2], atol=1e-5)
    same(item.obs["tip"], 10 + time[:, None] + [5, 0], atol=1e-5)
    same(item.obs["all"], 10 + time[:, None] + np.arange(6), atol=1e-5)
    same(item.obs["target"], np.tile([1, 2], (21, 1)))
    same(item.obs["first_point"], np.full((21, 1), 9))
    same(item.obs["speed"], item.obs["joint_vel"])
    same(item.obs["angle"], item.obs["joint_pos"])
    # A counter has no values in between: it holds.
    np.testing.assert_array_equal(item.labels["count"][:, 0], np.arange(21) * 50 // 70)
    assert item.tags["topics"]["obs/wrench"] == "/ft/second:wrench.force"
    assert item.tags["topics"]["labels/count"] == "/count"
    assert all(a.dtype == np.float32 for n, a in item.obs.items() if n != "image")
    # What nobody asked for and cannot be used is left out, and said.
    assert "the length of /ragged changes (2, 3 numbers): labels/command is left out" in (
        capsys.readouterr().err
    )


def test_without_a_mapping_the_first_topic_of_a_type_serves(tmp_path):
    signals_bag().write(tmp_path / "auto")
    (item,), _ = read(tmp_path)
    np.testing.assert_allclose(item.obs["wrench"][0], np.arange(6), atol=1e-5)
    assert item.tags["topics"]["obs/wrench"] == "/ft/first"


@pytest.mark.parametrize(
    ("mapped", "reason"),
    [
        ({"x": "/none"}, "phase1_ros.signals.x: no messages on /none; the bag has /"),
        (
            {"x": "/ft/first:wrench.power"},
            "phase1_ros.signals.x: geometry_msgs/msg/WrenchStamped has no 'wrench.power'; "
            "in the place of 'power' it has force, torque",
        ),
        ({"x": "/ft/first:force.x"}, "in the place of 'force' it has header, wrench"),
        ({"x": "/count:data.x"}, "in the place of 'x' it has no fields"),
        ({"x": "/chat"}, "phase1_ros.signals.x: 'data' holds text, no numbers"),
        ({"x": "/joints:name"}, "'name.0' holds text, no numbers"),
        ({"x": "/ft/first:header"}, "'header.frame_id' holds text, no numbers"),
        ({"x": "/ragged"}, "phase1_ros.signals.x: the length of /ragged changes (2, 3 numbers)"),
        ({"x": "/joints:effort"}, "phase1_ros.signals.x: /joints:effort holds no finite number"),
        ({"x": "/trajectory:points.7.positions"}, "holds no finite number"),
        ({"image": "/count"}, "phase1_ros.signals.image: obs/image is reserved for pictures"),
        ({"joint_pos": "/count"}, "obs/joint_pos is reserved for pictures or joints; choose"),
        ({"labels/time_s": "/count"}, "phase1_ros.signals.labels/time_s: labels/time_s is"),
    ],
)
def test_a_mapping_that_a_bag_cannot_fill_is_named(tmp_path, mapped, reason):
    """One line with the key and the way out; the bag is skipped, not half read."""
    signals_bag("ros1").write(tmp_path / "bag.bag")
    found, ((name, text),) = read(tmp_path, signals=mapped)
    assert not found and name == "bag.bag"
    assert reason in text and text.startswith("phase1_ros.signals.") and "\n" not in text


def test_without_joints_their_names_are_free(tmp_path):
    signals_bag().write(tmp_path / "free")
    (item,), _ = read(tmp_path, joint_topic="none", signals={"joint_pos": "/joints:position"})
    np.testing.assert_allclose(item.obs["joint_pos"][:, 0], item.labels["time_s"], atol=1e-6)


def test_mapped_topics_need_stamps_on_the_header_clock(tmp_path, capsys):
    """A mapped one is a reason to skip the bag, one found automatically is left out and named."""
    signals_bag().write(tmp_path / "stamps")
    found, ((_, reason),) = read(tmp_path, clock="header", signals={"count": "/count"})
    assert not found and reason == "/count: no header stamps; set phase1_ros.clock to bag"
    (item,), skipped = read(tmp_path, clock="header")
    assert not skipped and "command" not in item.labels
    assert "/arm/command has no header stamps, and phase1_ros.clock is header: left out" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("topic", "start", "scale", "before", "after"),
    [
        ("/arm/command", 200, [8, 1], [0.5, 0], [-1, 0]),
        ("/arm/command:data.0", 200, [8], [0.5], [-1]),
        ("/trajectory", 0, [1, 2], [1, 1], [1, 1]),
        ("/ft/first:wrench.force", 0, [1, 2, 3], None, [1, 1, 1]),
    ],
)
def test_actions_are_the_commands_of_a_topic(tmp_path, topic, start, scale, before, after):
    """Held between messages, each column over its largest magnitude in the bag."""
    signals_bag().write(tmp_path / "commands")
    (item,), skipped = read(tmp_path, action_topic=topic)
    assert not skipped and len(item) == (1000 - start) // 50 + 1
    assert item.tags["start_ns"] == milliseconds(start)
    assert item.tags["action_space"] == "ros_command"
    assert item.tags["topics"]["actions"] == topic
    np.testing.assert_allclose(item.tags["action_scale"], scale)
    np.testing.assert_allclose(item.actions[-1], after, atol=1e-6)
    if before:
        np.testing.assert_allclose(item.actions[:8], np.tile(before, (8, 1)), atol=1e-6)
    assert item.obs["joint_pos"].shape == (len(item), 2)  # the joints stay observations


def test_commands_of_all_episodes_of_a_bag_share_one_scale(tmp_path):
    """A silence splits; the smaller command of the first half stays smaller."""
    bag = Bag()
    for t in [*range(0, 1001, 10), *range(2000, 3001, 10)]:
        bag.joints(milliseconds(t), (0.001 * t, 0))
    bag.command(milliseconds(0), (1.0,))
    bag.command(milliseconds(2000), (-4.0,))
    bag.write(tmp_path / "halves")
    (first, second), _ = read(tmp_path, action_topic="/arm/command")
    assert first.tags["action_scale"] == second.tags["action_scale"] == [4.0]
    assert (first.actions == 0.25).all() and (second.actions == -1).all()


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("/none", "phase1_ros.action_topic: no messages on /none"),
        ("/chat", "phase1_ros.action_topic: 'data' holds text, no numbers"),
        ("/late", "its first command on /late comes after its last step"),
    ],
)
def test_commands_that_cannot_be_read_are_named(tmp_path, topic, reason):
    bag = signals_bag()
    bag.command(milliseconds(1500), (1.0,), topic="/late")
    bag.write(tmp_path / "commands")
    found, ((_, text),) = read(tmp_path, action_topic=topic)
    assert not found and text.startswith(reason)


def test_colour_comes_before_depth_and_a_mapped_topic_before_both(tmp_path):
    bag = Bag()
    for t in range(0, 301, 50):
        bag.image(milliseconds(t), np.full((40, 40), 9 << 8, np.uint16), "mono16", "/a/depth")
        bag.image(milliseconds(t), np.full((40, 40, 3), 5, np.uint8), "bgr8", "/z/colour")
    bag.write(tmp_path / "rgbd")
    assert read(tmp_path)[0][0].obs["image"].max() == 5
    assert read(tmp_path, image_topic="/a/depth")[0][0].obs["image"].max() == 9
    found, skipped = read(tmp_path, image_topic="/wrong")
    assert not found
    assert "phase1_ros.image_topic can be: auto, none, /a/depth, /z/colour" in skipped[0][1]


def test_broken_bags_are_named_and_the_good_one_comes_through(tmp_path):
    """Truncated, empty, of another format, or of an encoding that is not read."""
    good = ramp_bag("ros1").write(tmp_path / "good.bag")
    (tmp_path / "truncated.bag").write_bytes(good.read_bytes()[:-2000])
    (tmp_path / "empty.bag").write_bytes(b"")
    (tmp_path / "text.bag").write_text("not a bag\n")
    (tmp_path / "text.db3").write_text("not a database\n")
    (tmp_path / "text.mcap").write_text("not a log\n")
    with zipfile.ZipFile(tmp_path / "zip.bag", "w") as archive:
        archive.writestr("x", "y")
    (tmp_path / "photo.jpg").write_bytes(b"x")
    (tmp_path / "README.md").write_text("ignored\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "metadata.yaml").write_text("rosbag2_bagfile_information: {}\n")
    odd = Bag()
    odd.image(START, np.zeros((4, 4), np.uint16), "bayer_rggb16")
    odd.image(START + NS // 10, np.zeros((4, 4), np.uint16), "bayer_rggb16")
    odd.write(tmp_path / "odd")
    other = Bag()
    other.add("/chat", "std_msgs/msg/String", START, data="hello")
    other.write(tmp_path / "other")
    found, skipped = read(tmp_path)
    assert [item.key for item in found] == ["good/000"]
    reasons = dict(skipped)
    assert set(reasons) == {
        "truncated.bag",
        "empty.bag",
        "text.bag",
        "text.db3",
        "text.mcap",
        "zip.bag",
        "photo.jpg",
        "folder",
        "odd",
        "other",
    }
    assert "'bayer_rggb16' is not read" in reasons["odd"]
    assert "std_msgs/msg/String" in reasons["other"]
    assert all(reason and "\n" not in reason for reason in reasons.values())
    assert not [reason for reason in reasons.values() if str(tmp_path) in reason]


def test_two_bags_of_one_name_are_not_confused(tmp_path):
    ramp_bag("ros1").write(tmp_path / "run.bag")
    ramp_bag("ros2").write(tmp_path / "run")
    found, skipped = read(tmp_path)
    assert len(found) == 1
    assert skipped == [("run.bag", "another recording has this name (run); rename one")]


def test_folder_that_promises_and_yields_none_is_read_from_its_file(tmp_path, capsys):
    """Quality of service in metadata.yaml unlike that in the file hides all messages."""
    folder = ramp_bag("ros2").write(tmp_path / "qos", "mcap")
    metadata = folder / "metadata.yaml"
    text = metadata.read_text()
    profile = (
        "[{history: keep_last, depth: 3, reliability: reliable, durability: volatile, "
        "deadline: {sec: 0, nsec: 0}, lifespan: {sec: 0, nsec: 0}, liveliness: automatic, "
        "liveliness_lease_duration: {sec: 0, nsec: 0}, avoid_ros_namespace_conventions: false}]"
    )
    assert "offered_qos_profiles: []" in text
    metadata.write_text(
        text.replace("offered_qos_profiles: []", f"offered_qos_profiles: {profile}")
    )
    (item,), skipped = read(tmp_path, signals={"angle": "/joints:position"})
    assert len(item) == 25 and not skipped and "messages_reported" not in item.tags
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("form", ["sqlite3", "mcap"])
def test_a_shortfall_of_messages_is_said_and_kept(tmp_path, capsys, form):
    """metadata.yaml promises 40 messages more than the file has: the episode says so."""
    folder = ramp_bag("ros2").write(tmp_path / "short", form)
    metadata = folder / "metadata.yaml"
    text = metadata.read_text()
    assert "message_count: 151" in text
    metadata.write_text(text.replace("message_count: 151", "message_count: 191"))
    (item,), skipped = read(tmp_path)
    assert not skipped and len(item) == 25
    assert (item.tags["messages_reported"], item.tags["messages_read"]) == (204, 164)
    assert (
        "short: its index lists 204 messages, but only 164 can be read" in capsys.readouterr().err
    )


def test_a_shortfall_is_measured_by_the_larger_promise(tmp_path):
    """The folder yields nothing, its file fewer than promised: the fallback hides no loss."""
    folder = ramp_bag("ros2").write(tmp_path / "both", "mcap")
    metadata = folder / "metadata.yaml"
    text = metadata.read_text().replace("message_count: 151", "message_count: 191")
    metadata.write_text(text.replace("type_description_hash: RIHS01_", "type_description_hash: X"))
    (item,), _ = read(tmp_path)
    assert (item.tags["messages_reported"], item.tags["messages_read"]) == (204, 164)


def test_one_bag_is_in_memory_at_a_time(tmp_path, monkeypatch):
    """The second bag is not opened before the episodes of the first one were taken."""
    import lib.phase1_ros.reader as ros

    opened = []
    real = ros.read_recording
    monkeypatch.setattr(
        ros, "read_recording", lambda path, *rest: opened.append(path.name) or real(path, *rest)
    )
    for name in ("a.bag", "b.bag"):
        ramp_bag("ros1").write(tmp_path / name)
    stream = read_bags(tmp_path, settings(), SIZE, brightness_class, Report())
    next(stream)
    assert opened == ["a.bag"]


COLOUR = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
OPAQUE = np.concatenate([COLOUR, np.full((5, 7, 1), 255, np.uint8)], axis=2)
GREY = COLOUR[..., 0]


@pytest.mark.parametrize(
    "encoding, pixels, expected",
    [
        ("rgb8", COLOUR, COLOUR),
        ("bgr8", COLOUR[..., ::-1], COLOUR),
        ("rgba8", OPAQUE, COLOUR),
        ("bgra8", OPAQUE[..., [2, 1, 0, 3]], COLOUR),
        ("mono8", GREY, GREY[..., None].repeat(3, 2)),
        ("mono16", GREY.astype("<u2") * 256 + 99, GREY[..., None].repeat(3, 2)),
    ],
)
@pytest.mark.parametrize("padding", [0, 3])
def test_encodings(encoding, pixels, expected, padding):
    """Every encoding gives the same colours, with and without bytes at the end of the rows."""
    bag = Bag()
    bag.image(START, pixels, encoding, padding=padding)
    np.testing.assert_array_equal(decode(bag.messages[0][2]), expected)


def test_images_that_do_not_fit_their_size_are_refused():
    bag = Bag()
    bag.image(START, COLOUR, "rgba8")
    with pytest.raises(UnusableError, match="7x5 rgba8, step 21, has 105 bytes"):
        decode(bag.messages[0][2])


def compressed(data, form):
    bag = Bag()
    data = np.frombuffer(data, np.uint8)
    bag.add("/c", "sensor_msgs/msg/CompressedImage", START, START, format=form, data=data)
    return bag.messages[0][2]


@pytest.mark.parametrize("pixels, expected", [(COLOUR, COLOUR), (OPAQUE, COLOUR), (GREY, None)])
def test_compressed_images(pixels, expected):
    buffer = io.BytesIO()
    imageio.imwrite(buffer, pixels, extension=".png")
    expected = GREY[..., None].repeat(3, 2) if expected is None else expected
    np.testing.assert_array_equal(decode(compressed(buffer.getvalue(), "png")), expected)


def test_broken_compressed_images_are_refused():
    with pytest.raises(UnusableError, match="'jpeg', 12 bytes.*cannot be decoded"):
        decode(compressed(b"\xff\xd8\xff nonsense", "jpeg"))


def test_square_crops_the_middle_and_averages_areas():
    """A 4x8 picture at 2x2: the middle 4x4, each pixel the mean of a 2x2 block."""
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = np.arange(16).reshape(4, 4, 1) * 10
    expected = np.array([[25, 45], [105, 125]])
    np.testing.assert_array_equal(square(image, 2), expected[..., None].repeat(3, 2))


@given(st.lists(st.integers(0, 40), min_size=2, max_size=12), st.integers(1, 8))
def test_spans_hold_every_sample_once_and_no_silence(stamps, max_gap):
    series = Series.of(stamps, np.zeros((len(stamps), 1)))
    spans = series.spans(max_gap)
    inside = (series.stamps[:, None] >= spans[:, 0]) & (series.stamps[:, None] <= spans[:, 1])
    assert (inside.sum(1) == 1).all()
    assert (spans[1:, 0] - spans[:-1, 1] > max_gap).all()
    for first, last in spans:
        stretch = series.stamps[(series.stamps >= first) & (series.stamps <= last)]
        assert not len(stretch[1:]) or np.diff(stretch).max() <= max_gap


def test_overlap_of_spans():
    a, b = np.array([[0, 10], [20, 30]]), np.array([[5, 22], [25, 40]])
    assert overlap([a, b]).tolist() == [[5, 10], [20, 22], [25, 30]]
    assert overlap([a, a]).tolist() == a.tolist()
    assert overlap([a, b[:0]]).shape == (0, 2)


def test_clock_ticks_are_exact_and_inside():
    assert clock(START, START + NS, 20.0).tolist() == [START + i * NS // 20 for i in range(21)]
    assert clock(START, START + NS, 30.0)[-1] == START + NS
    assert len(clock(START, START + NS - 1000, 30.0)) == 30


def test_samples_out_of_order_twice_or_not_finite():
    """Sorted; of two with one stamp the later one counts; NaN counts as not taken."""
    series = Series.of([30, 10, 10, 20], np.array([[3.0], [0.0], [1.0], [np.nan]]))
    assert series.stamps.tolist() == [10, 30]
    assert series.values[:, 0].tolist() == [1.0, 3.0]
    assert series.interpolate(np.array([10, 20, 99]))[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert series.hold(np.array([5, 10, 29, 30]))[:, 0].tolist() == [1.0, 1.0, 1.0, 3.0]


def test_unit_actions_stay_within_one():
    targets = np.array([[0.1, -3e-3], [0.3, 1e-3]])
    actions = unit_actions(targets, np.abs(targets).max(0))
    assert np.abs(actions).max() == 1 and actions.dtype == np.float32


def fixture(name):
    return FIXTURES / "ros" / name


def test_real_robot(tmp_path):
    """A PR2's 45 joints at 100 Hz, with silences of 80 ms."""
    (tmp_path / "pr2.bag").symlink_to(fixture("pr2_joint_states.bag"))
    (item,), skipped = read(tmp_path, clock="header")
    assert not skipped
    assert item.obs["joint_pos"].shape == (len(item), 45) and len(item) == 269
    assert item.obs["joint_vel"].shape == (len(item), 45)
    # A wheel has turned by hundreds of rad: its positions are float32, hence the tolerance.
    position = item.obs["joint_pos"]
    np.testing.assert_allclose(
        item.actions[:-1] * item.tags["action_scale"],
        np.diff(position, axis=0),
        atol=2 * np.spacing(np.abs(position).max()),
    )


def test_real_camera(tmp_path):
    """One colour picture is no episode; its depth pictures are, if asked for."""
    (tmp_path / "d435.bag").symlink_to(fixture("realsense_rgbd.bag"))
    found, skipped = read(tmp_path)
    assert not found and skipped[0][0] == "d435.bag"
    (item,), _ = read(tmp_path, image_topic="/device_0/sensor_0/Depth_0/image/data")
    assert len(item) == 4 and item.obs["image"].shape == (4, SIZE, SIZE, 3)
    assert item.obs["image"].max() > 0
