"""A folder full of broken recordings: each is named with its reason, and none stops the others.

The real stages run once over one folder for each source in which some forty kinds of broken
recordings lie between good ones. What comes out is byte for byte what the good ones alone give.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import imageio.v3 as imageio
import numpy as np
import pytest

from lib import episode
from lib.base.paths import ROOT
from lib.episode.check import problems
from lib.ingest.report import Report
from lib.models.heuristic import HeuristicSegmenter
from lib.params import load_params
from lib.phase1_isaac.recordings import read_recordings
from lib.phase1_ros.reader import read_bags
from tests.phase1_isaac.test_ingest_isaac import STEPS, add_demo
from tests.phase1_ros.test_ingest_ros import START, Bag, frame, milliseconds

pytestmark = pytest.mark.slow

Build = Callable[[Path], object]

# The parameters of the run: sensors' own stamps, and a topic that every bag has to hold.
CHANGES = {
    "image_size: 96 ": "image_size: 32 ",
    "clock: bag ": "clock: header ",
    "signals: {} ": 'signals: {force: "/ft:wrench.force"} ',
}


# ROS


def bag_of(ros="ros2", *, order=None, until=500, **kinds) -> Bag:
    """Joints, a force sensor and a camera at 20 Hz; single kinds can be changed or left out."""
    bag = Bag(ros)
    stamps = list(range(0, until + 1, 50))
    for now, sensed in zip(stamps, order or stamps, strict=True):
        for kind in ("joints", "wrench", "image"):
            if kinds.get(kind, True) is None:
                continue
            stamp, sensor = milliseconds(now), milliseconds(sensed)
            if callable(kinds.get(kind)):
                kinds[kind](bag, stamp, sensed)
            elif kind == "joints":
                bag.joints(stamp, (0.001 * sensed, 1 - 0.001 * sensed), header=sensor)
            elif kind == "wrench":
                bag.wrench(stamp, 0.001 * sensed, header=sensor)
            else:
                bag.image(stamp, frame(sensed), header=sensor)
    return bag


def shuffled(path):
    """The sensors' stamps are out of order in the file: a usable recording."""
    order = list(range(0, 501, 50))
    random.Random(0).shuffle(order)
    bag_of(order=order).write(path, "mcap")


def with_gap(path):
    """A silence of a day: two episodes, not a million steps."""
    bag = bag_of()
    for later in bag_of().messages:
        stamp = later[1] + 86_400 * 10**9
        later[2].header = bag.header(stamp)
        bag.messages.append((later[0], stamp, later[2]))
    bag.write(path)


def without_metadata(path):
    bag_of().write(path, "mcap")
    (path / "metadata.yaml").unlink()


def spare(path):
    """A file that the metadata names is not there, another one is."""
    bag_of().write(path, "mcap")
    next(path.glob("*.mcap")).rename(path / "other.mcap")


GOOD_BAGS: dict[str, Build] = {
    "good.bag": lambda p: bag_of("ros1").write(p, "bag-lz4"),
    "packed": lambda p: bag_of().write(p, "sqlite3-file"),
    "shuffled": shuffled,
    "gap": with_gap,
    "bare_files": without_metadata,
    "spare": spare,
    "nan_joints": lambda p: bag_of(joints=nan_joints).write(p),
}


def cut(form: str, share: float) -> Build:
    """A recording of which the end is missing."""

    def build(path: Path) -> None:
        whole = path.with_name(f"whole{path.suffix}")
        source = bag_of("ros1" if form.startswith("bag") else "ros2").write(whole, form)
        if source.is_dir():
            (source,) = (file for file in source.iterdir() if file.suffix == path.suffix)
        content = source.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        shutil.rmtree(whole) if whole.is_dir() else whole.unlink()

    return build


def scrambled(path):
    """Bytes in the middle of a compressed chunk are other ones."""
    bag_of("ros1").write(path, "bag-bz2")
    content = bytearray(path.read_bytes())
    middle = content.index(b"BZh") + 200
    content[middle : middle + 40] = bytes(range(40))
    path.write_bytes(content)


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "y")


def without_tables(path):
    sqlite3.connect(path).execute("CREATE TABLE other (x INTEGER)").connection.close()


def folder_with(metadata: str) -> Build:
    """A rosbag2 folder of which the storage file is missing."""

    def build(path: Path) -> None:
        path.mkdir()
        (path / "metadata.yaml").write_text(metadata)

    return build


def file_missing(path):
    bag_of().write(path)
    next(path.glob("*.db3")).unlink()


def change(path, *statements):
    """Alters the database of a rosbag2 folder."""
    with sqlite3.connect(next(path.glob("*.db3"))) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def yields_none(path):
    bag_of().write(path)
    change(path, "DELETE FROM messages")


def undefined_type(path):
    """The force sensor's type is one of which the bag holds no definition."""
    bag_of().write(path)
    old, new = "geometry_msgs/msg/WrenchStamped", "my_msgs/msg/Force"
    change(
        path,
        f"UPDATE topics SET type = '{new}' WHERE type = '{old}'",
        f"DELETE FROM message_definitions WHERE topic_type = '{old}'",
    )
    metadata = path / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace(old, new))


def no_messages(path):
    bag = bag_of()
    bag.messages.clear()
    bag.write(path, "mcap")


def nan_joints(bag, stamp, sensed):
    bag.joints(stamp, (np.nan, np.nan), header=milliseconds(sensed))


def bayer(bag, stamp, sensed):
    bag.image(stamp, np.zeros((4, 4), np.uint8), "bayer_rggb8", header=milliseconds(sensed))


def short_image(bag, stamp, sensed):
    bag.image(stamp, frame(sensed), header=milliseconds(sensed))
    message = bag.messages[-1][2]
    message.data = message.data[:-7]


def cut_jpeg(bag, stamp, sensed):
    buffer = io.BytesIO()
    imageio.imwrite(buffer, frame(sensed), extension=".jpg")
    data = np.frombuffer(buffer.getvalue()[:-12], np.uint8)
    kind = "sensor_msgs/msg/CompressedImage"
    bag.add("/camera", kind, stamp, milliseconds(sensed), format="jpeg", data=data)


def nan_wrench(bag, stamp, sensed):
    bag.wrench(stamp, np.nan, header=milliseconds(sensed))


def point_wrench(bag, stamp, sensed):
    point = bag.make("geometry_msgs/msg/Point", 0.0, 0.0, 0.0)
    bag.add("/ft", "geometry_msgs/msg/PointStamped", stamp, milliseconds(sensed), point=point)


def unstamped(bag, stamp, sensed):
    bag.wrench(stamp, 0.0, header=0)


def lonely_folder(path):
    path.mkdir()


def dangling(path):
    path.symlink_to(path.with_name("nowhere"))


def unreadable(path):
    path.write_bytes(b"secret")
    path.chmod(0)


def spelled_wrongly(path):
    os.close(os.open(os.fsencode(path.parent) + b"/caf\xe9.bag", os.O_CREAT | os.O_WRONLY))


NOISE = random.Random(1).randbytes(5000)

# Kind of broken recording -> how it is made, and a part of the reason that is given for it.
BROKEN_BAGS: dict[str, tuple[Build, str]] = {
    "truncated.bag": (cut("bag", 0.7), "not readable as a ROS bag (AnyReaderError: "),
    "beginning.bag": (cut("bag", 0.001), "not readable as a ROS bag (AnyReaderError: "),
    "cut_short.mcap": (cut("mcap", 0.7), "File end magic is invalid"),
    "cut_off.db3": (cut("sqlite3", 0.5), "database disk image is malformed"),
    "scrambled.bag": (scrambled, "not readable as a ROS bag ("),
    "empty.bag": (Path.touch, "an empty file"),
    "empty2.mcap": (Path.touch, "an empty file"),
    "zeros.bag": (lambda p: p.write_bytes(bytes(5000)), "not readable as a ROS bag ("),
    "noise.bag": (lambda p: p.write_bytes(NOISE), "not readable as a ROS bag ("),
    "noise2.mcap": (lambda p: p.write_bytes(NOISE), "File magic is invalid"),
    "noise3.db3": (lambda p: p.write_bytes(NOISE), "file is not a database"),
    "zip.bag": (zipped, "not readable as a ROS bag ("),
    "text.mcap": (lambda p: p.write_text("not a log\n" * 9), "File magic is invalid"),
    "no_tables.db3": (without_tables, "database missing tables"),
    "no_keys": (folder_with("rosbag2_bagfile_information: {}\n"), "metadata key is missing"),
    "no_yaml": (folder_with("a: [\n"), "Could not load YAML"),
    "no_file": (file_missing, "database files are missing: ['no_file/no_file.db3']"),
    "yields_none": (yields_none, "its index lists 33 messages, but none can be read"),
    "no_messages": (no_messages, "no messages on /ft; the bag has no messages at all"),
    "nan_force": (
        lambda p: bag_of(wrench=nan_wrench).write(p),
        "phase1_ros.signals.force: /ft:wrench.force holds no finite number",
    ),
    "one_time": (
        lambda p: bag_of(order=[0] * 11).write(p),
        "no topic of the robot's state has two samples at different times, but an episode needs "
        "two (phase1_ros.clock is header)",
    ),
    "no_topic": (
        lambda p: bag_of(wrench=None).write(p),
        "phase1_ros.signals.force: no messages on /ft; the bag has /joints, /camera",
    ),
    "other_type": (
        lambda p: bag_of(wrench=point_wrench).write(p),
        "phase1_ros.signals.force: geometry_msgs/msg/PointStamped has no 'wrench.force'; in the "
        "place of 'wrench' it has header, point",
    ),
    "unstamped": (
        lambda p: bag_of(wrench=unstamped).write(p),
        "/ft: no header stamps; set phase1_ros.clock to bag",
    ),
    "encoding": (
        lambda p: bag_of(image=bayer).write(p),
        "'bayer_rggb8' is not read (only rgb8, bgr8, rgba8, bgra8, mono8, mono16); name another",
    ),
    "short_image": (
        lambda p: bag_of(image=short_image).write(p),
        "an image of 40x40 rgb8, step 120, has 4793 bytes",
    ),
    "cut_jpeg": (
        lambda p: bag_of(image=cut_jpeg).write(p),
        "bytes) cannot be decoded: image file is truncated",
    ),
    "undefined": (undefined_type, "/ft holds my_msgs/msg/Force, which the bag does not define"),
    "single": (
        lambda p: bag_of(until=40).write(p),
        "no topic of the robot's state has two samples",
    ),
    "folder.bag": (lonely_folder, "a folder that holds no recording"),
    "gone.bag": (dangling, "a link to a file that is not there"),
    "pipe.bag": (os.mkfifo, "neither a file nor a folder"),
    "locked.bag": (unreadable, "not allowed to be read; change its permissions"),
    "photo.jpg": (lambda p: p.write_bytes(b"x"), "not a .bag or .db3 or .mcap file, nor a folder"),
    "shuffled.bag": (
        lambda p: bag_of("ros1").write(p),
        "another recording has this name (shuffled); rename one",
    ),
    "caf\\udce9.bag": (spelled_wrongly, "its name is not UTF-8; rename it"),
}


# Isaac Lab


def demos(path: Path, *changes: Callable[[h5py.Group], object]) -> None:
    """Writes a recording with a demo for each change."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Isaac-Stack-Cube-Franka-IK-Rel-v0"})
        for index, spoil in enumerate(changes):
            spoil(add_demo(data, f"demo_{index}"))


def sound(demo):
    """Leaves a demo as it is, but for pictures of a camera that runs."""
    del demo["obs/table_cam"]
    ticks = np.arange(STEPS, dtype=np.uint8)[:, None, None, None]
    demo["obs/table_cam"] = np.broadcast_to(ticks, (STEPS, 48, 64, 3)).copy()


GOOD_RECORDINGS: dict[str, Build] = {
    "good.hdf5": lambda p: demos(p, sound, sound),
    "deep/good.h5": lambda p: demos(p, sound),
    "half.hdf5": lambda p: demos(p, sound, other_width),
}


def replaced(name: str, value: object) -> Build:
    """A recording with one demo of which a member is another one, or none."""

    def spoil(demo):
        del demo[name]
        if isinstance(value, tuple):
            demo.create_dataset(name, **dict(value))
        elif callable(value):
            value(demo, name)
        elif value is not None:
            demo[name] = value

    return lambda path: demos(path, spoil)


def with_attribute(name: str, value: object) -> Build:
    return lambda path: demos(path, lambda demo: demo.attrs.__setitem__(name, value))


def cut_file(path):
    demos(path, sound)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def scrambled_actions(path):
    demos(path, lambda demo: replaced_by_packed(demo))
    with h5py.File(path) as file:
        chunk = file["data/demo_0/actions"].id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset + 8)
        raw.write(bytes(range(30)))


def replaced_by_packed(demo):
    values = np.random.default_rng(0).uniform(-1, 1, (STEPS, 3))
    del demo["actions"]
    demo.create_dataset("actions", data=values, compression="gzip")


def own_episodes(path):
    episode.write(path, [], source="sima2")


def misaligned(demo):
    joints = demo["obs/joint_pos"][()]
    demo["obs/joint_pos"][...] = np.roll(joints, -1, axis=0)


def other_width(demo):
    del demo["actions"]
    demo["actions"] = np.zeros((STEPS, 5), np.float32)


def broken_name(demo):
    demo["obs"].create_dataset(b"caf\xe9", data=np.zeros((STEPS, 1)))


def virtual(demo, name):
    layout = h5py.VirtualLayout((STEPS, 3), np.float32)
    layout[:] = h5py.VirtualSource("good.hdf5", "data/demo_0/actions", (STEPS, 3))
    demo.create_virtual_dataset(name, layout)


ELSEWHERE = {"shape": (STEPS, 3), "dtype": "f4", "external": [("x", 0, h5py.h5f.UNLIMITED)]}
POINT = np.zeros(STEPS, [("x", "f4"), ("y", "f4")])
REFERENCES = {"shape": (STEPS,), "dtype": h5py.ref_dtype}

BROKEN_RECORDINGS: dict[str, tuple[Build, str]] = {
    "truncated.hdf5": (cut_file, "not a readable HDF5 file"),
    "empty.hdf5": (Path.touch, "an empty file"),
    "zeros.hdf5": (lambda p: p.write_bytes(bytes(5000)), "not a readable HDF5 file"),
    "noise.hdf5": (lambda p: p.write_bytes(NOISE), "not a readable HDF5 file"),
    "text.h5": (lambda p: p.write_text("not HDF5\n"), "not a readable HDF5 file"),
    "zip.hdf5": (zipped, "not a readable HDF5 file"),
    "no_demos.hdf5": (lambda p: demos(p), "it holds no demo; is it a recording of Isaac Lab?"),
    "no_data.hdf5": (lambda p: h5py.File(p, "w").close(), "/data: missing"),
    "data_array.hdf5": (
        lambda p: h5py.File(p, "w").create_dataset("data", data=[1]).file.close(),
        "/data: a dataset, not a group",
    ),
    "ours.hdf5": (own_episodes, "episodes of this repository, no recording of Isaac Lab"),
    "no_actions.hdf5": (replaced("actions", None), "demo_0: /data/demo_0/actions: missing"),
    "no_obs.hdf5": (replaced("obs", None), "demo_0: /data/demo_0/obs: missing"),
    "bare_obs.hdf5": (
        replaced("obs", lambda demo, name: demo.create_group(name)),
        "demo_0: obs holds no numbers",
    ),
    "text_actions.hdf5": (replaced("actions", ["a"] * STEPS), "actions: holds object"),
    "nan.hdf5": (replaced("actions", np.full((STEPS, 3), np.nan)), "actions: NaN or infinite"),
    "huge.hdf5": (replaced("actions", np.full((STEPS, 3), 1e300)), "actions: NaN or infinite"),
    "nan_obs.hdf5": (
        replaced("obs/eef_pos", np.full((STEPS, 3), np.nan)),
        "demo_0: obs/eef_pos: NaN or infinite",
    ),
    "lengths.hdf5": (
        replaced("obs/eef_pos", np.zeros((STEPS + 1, 3))),
        "demo_0: num_samples says 12, obs/eef_pos has 13 steps",
    ),
    "counted.hdf5": (
        with_attribute("num_samples", 99),
        "demo_0: num_samples says 99, actions has 12",
    ),
    "cube.hdf5": (replaced("actions", np.zeros((STEPS, 3, 3))), "actions is 3-dimensional"),
    "endless.hdf5": (
        replaced("actions", (("shape", (2**40, 3)), ("dtype", "f4"), ("chunks", (9, 3)))),
        "demo_0: /data/demo_0/actions: damaged: (1099511627776, 3) is more than what is stored",
    ),
    "number.hdf5": (replaced("actions", 1.0), "actions: holds no rows"),
    "nothing.hdf5": (replaced("actions", h5py.Empty("f4")), "demo_0: "),
    "group.hdf5": (
        replaced("actions", lambda demo, name: demo.create_group(name)),
        "demo_0: /data/demo_0/actions: a group, not a dataset",
    ),
    "soft.hdf5": (
        replaced("obs", h5py.SoftLink("/data/demo_0/states")),
        "demo_0: /data/demo_0/obs: a link to elsewhere; copy the data into the file",
    ),
    "circle.hdf5": (replaced("obs", h5py.SoftLink("/data/demo_0/obs")), "obs: a link to"),
    "link.hdf5": (
        replaced("actions", h5py.ExternalLink("good.hdf5", "data/demo_0/actions")),
        "demo_0: /data/demo_0/actions: a link to elsewhere; copy the data into the file",
    ),
    "virtual.hdf5": (replaced("actions", virtual), "actions: shows data from elsewhere"),
    "external.hdf5": (replaced("actions", tuple(ELSEWHERE.items())), "shows data from elsewhere"),
    "references.hdf5": (replaced("actions", tuple(REFERENCES.items())), "holds object"),
    "compound.hdf5": (replaced("actions", POINT), "[('x', '<f4'), ('y', '<f4')]"),
    "complex.hdf5": (replaced("actions", np.zeros((STEPS, 3), complex)), "holds complex128"),
    "chunk.hdf5": (scrambled_actions, "demo_0: damaged ("),
    "aligned.hdf5": (lambda p: demos(p, misaligned), "phase1_isaac.min_alignment 99.0%"),
    "name.hdf5": (lambda p: demos(p, broken_name), "obs holds a name that is not UTF-8"),
    "folder.hdf5": (lonely_folder, "a folder that holds no recording"),
    "gone.hdf5": (dangling, "a link to a file that is not there"),
    "pipe.hdf5": (os.mkfifo, "neither a file nor a folder"),
    "locked.hdf5": (unreadable, "not allowed to be read; change its permissions"),
    # good.h5 would come first, hence this name.
    "half.hdf5.h5": (lambda p: demos(p, lambda demo: demo.clear()), "demo_0: /data/demo_0/actions"),
    "photo.jpg": (lambda p: p.write_bytes(b"x"), "not a .hdf5 or .h5 file"),
}


# The run


def build(folder: Path, good: dict[str, Build], broken: dict[str, tuple[Build, str]]) -> Path:
    """Makes recordings in a folder and returns it."""
    for name, make in [*good.items(), *((name, make) for name, (make, _) in broken.items())]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
    return folder


def digests(folder: Path) -> dict[str, str]:
    """Every path in a folder, with the content of files."""
    files = {path: path.is_file() and os.access(path, os.R_OK) for path in folder.rglob("*")}
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if readable else ""
        for path, readable in files.items()
    }


def stage(root: Path, name: str) -> subprocess.CompletedProcess[str]:
    """Runs a stage in a copy of the repository."""
    env = {k: v for k, v in os.environ.items() if k != "GOLDEN_PATH_WORK"}
    (root / "tmp").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", f"stages.{name}"],
        cwd=root,
        env=env | {"TMPDIR": str(root / "tmp")},
        text=True,
        capture_output=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A copy of the repository, its raw folders full of broken recordings, after phase 1."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("lib", "stages"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    params = (ROOT / "params.yaml").read_text()
    for old, new in CHANGES.items():
        assert params.count(f"  {old}") == 1, old
        params = params.replace(f"  {old}", f"  {new}")
    (root / "params.yaml").write_text(params)
    if os.getuid() == 0:  # nothing is locked for root
        for table in (BROKEN_BAGS, BROKEN_RECORDINGS):
            table.pop(next((name for name in table if name.startswith("locked")), ""), None)
    try:
        raw = build(root / "data" / "raw" / "ros", GOOD_BAGS, BROKEN_BAGS)
    except OSError:  # a file system that takes UTF-8 names only
        BROKEN_BAGS.pop("caf\\udce9.bag")
        shutil.rmtree(root / "data" / "raw" / "ros")
        raw = build(root / "data" / "raw" / "ros", GOOD_BAGS, BROKEN_BAGS)
    build(root / "data" / "raw" / "isaac", GOOD_RECORDINGS, BROKEN_RECORDINGS)
    before = digests(raw.parent)
    for source in ("sima2", "views"):
        episode.write(root / "data" / "phase1" / f"{source}.hdf5", [], source=source)
    for name in ("phase1_ros", "phase1_isaac", "phase1_manifest"):
        result = stage(root, name)
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr
    assert digests(raw.parent) == before, "recordings are read, never written"
    return root


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


SOURCES = {"ros": BROKEN_BAGS, "isaac": BROKEN_RECORDINGS}

# Among the good recordings, one with a broken demo beside a good one.
PARTLY_BROKEN = {
    "ros": {},
    "isaac": {"half.hdf5": (None, "demo_1: actions are (12, 5), unlike those of other demos")},
}


def test_there_are_many_kinds():
    """As many as the folder's name promises, for each source."""
    assert all(len(table) >= 24 for table in SOURCES.values())


@pytest.mark.parametrize("source", SOURCES)
def test_each_broken_recording_is_named_once_with_its_reason(repository, source):
    """In the manifest, by the path the user knows, in one short line that names no machine."""
    skipped = read_json(repository / "data/phase1/manifest.json")["skipped"][source]
    table = SOURCES[source] | PARTLY_BROKEN[source]
    named = {Path(entry["file"]).name: entry["reason"] for entry in skipped}
    assert sorted(named) == sorted(table) and len(skipped) == len(table)
    for name, (_, part) in table.items():
        assert part in named[name], name
    for entry in skipped:
        assert entry["file"] == f"data/raw/{source}/{Path(entry['file']).name}"
        reason = entry["reason"]
        assert reason and "\n" not in reason and len(reason) < 300 and reason.isprintable()
        assert str(repository) not in reason and "/tmp" not in reason and str(ROOT) not in reason


def write_good(repository: Path, folder: Path, source: str) -> Path:
    """Reads good recordings alone, in this process, into a file beside them."""
    params = load_params("phase1", "phase1_ros", "phase1_isaac", path=repository / "params.yaml")
    segment, size = HeuristicSegmenter().primitives, params.phase1.image_size
    if source == "ros":
        build(folder / "raw", GOOD_BAGS, {})
        episodes = read_bags(folder / "raw", params.phase1_ros, size, segment, Report())
    else:
        build(folder / "raw", GOOD_RECORDINGS, {})
        episodes = read_recordings(folder / "raw", params.phase1_isaac, size, segment, Report())
    out = folder / "out.hdf5"
    episode.write(out, episodes, source=source, shares=params.phase1.split)
    return out


@pytest.mark.parametrize(("source", "count"), [("ros", 8), ("isaac", 4)])
def test_good_recordings_come_through_as_if_they_were_alone(repository, tmp_path, source, count):
    """Byte for byte the same file; every episode in it is sound and has pictures."""
    out = repository / f"data/phase1/{source}.hdf5"
    found = list(episode.read(out))
    assert len(found) == count and all("image" in item.obs for item in found)
    assert [problems(item) for item in found] == [[]] * count
    assert out.read_bytes() == write_good(repository, tmp_path, source).read_bytes()


def test_stamps_out_of_order_are_put_in_order(repository):
    """A shuffled recording gives the same episode as one in order; a day of silence splits."""
    found = {item.key: item for item in episode.read(repository / "data/phase1/ros.hdf5")}
    assert set(found) == {
        "bare_files/bare_files/000",
        "gap/000",
        "gap/001",
        "good/000",
        "nan_joints/000",
        "packed/000",
        "shuffled/000",
        "spare/000",
    }
    expected = dict(found["good/000"].arrays())
    for key in ("shuffled/000", "gap/000", "packed/000", "spare/000"):
        for name, array in found[key].arrays():
            np.testing.assert_array_equal(array, expected[name])
    assert found["gap/001"].tags["start_ns"] == START + 86_400 * 10**9
    assert set(found["good/000"].obs) == {"image", "joint_pos", "force", "wrench"}
    # What joints never told is left out; the rest of that recording is good.
    assert set(found["nan_joints/000"].obs) == {"image", "force", "wrench"}
    assert found["nan_joints/000"].tags["action_space"] == "none"


def test_what_is_odd_about_good_recordings_is_noted(repository):
    """A recording that is used all the same, and why it was not as it should be."""
    notes = read_json(repository / "data/phase1/manifest.json")["notes"]["ros"]
    assert [entry["file"] for entry in notes] == ["data/raw/ros/nan_joints", "data/raw/ros/spare"]
    joints, spare = (entry["note"] for entry in notes)
    assert joints == "no finite position of the joints a, b: left out"
    assert spare.startswith("read from its storage files alone, because: not readable as a ROS bag")
    assert "spare/spare.mcap" in spare and str(repository) not in spare


def test_nothing_is_left_half_written(repository):
    """The outs, and no scratch file beside them or in the system's folder for such files."""
    assert {path.name for path in (repository / "data/phase1").iterdir()} == {
        "sima2.hdf5",
        "views.hdf5",
        "ros.hdf5",
        "ros_skipped.json",
        "isaac.hdf5",
        "isaac_skipped.json",
        "manifest.json",
    }
    assert list((repository / "tmp").iterdir()) == []


def test_copies_among_the_good_ones_are_used_once(repository):
    """Seven of the bags' episodes are one and the same: the manifest keeps one of them."""
    entries = read_json(repository / "data/phase1/manifest.json")["episodes"]
    verdicts = {e["key"]: e["usable"]["vision"] for e in entries if e["source"] == "ros"}
    assert verdicts.pop("nan_joints/000") is True
    (kept,) = [key for key, verdict in verdicts.items() if verdict is True]
    split = next(e["split"] for e in entries if e["key"] == kept)
    others = {verdict for key, verdict in verdicts.items() if key != kept}
    assert others == {f"duplicate of ros/{kept}, which is in {split}"}


@pytest.mark.parametrize("damage", ["schema", "truncated", "text"])
def test_a_phase_1_file_that_cannot_be_read_stops_the_manifest_in_one_line(repository, damage):
    """Outs are no recordings: a wrong one is a user's mistake, named with the way out."""
    path = repository / "data/phase1/ros.hdf5"
    whole, manifest = path.read_bytes(), (repository / "data/phase1/manifest.json").read_bytes()
    if damage == "schema":
        with h5py.File(path, "r+") as file:
            file.attrs["schema"] = 99
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"not HDF5\n")
    try:
        result = stage(repository, "phase1_manifest")
    finally:
        path.write_bytes(whole)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("phase1_manifest: data/phase1/ros.hdf5: ")
    if damage == "schema":
        assert "episode schema 99, this version reads" in line and "`dvc repro`" in line
    assert (repository / "data/phase1/manifest.json").read_bytes() == manifest
