"""The checker and the viewer of episode files: every defect is named, nothing makes them fall."""

import dataclasses
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import h5py
import imageio.v2 as imageio
import numpy as np
import pytest

from lib.base.paths import ROOT
from lib.episode import SPLITS, Episode, read, split_of, write
from lib.episode.__main__ import main
from lib.episode.check import check_files
from lib.episode.probe import look
from lib.episode.show import COLUMNS
from lib.media import PALETTE

SHARES = (0.5, 0.25, 0.25)
STEPS = (4, 6, 3, 9, 5, 7, 4, 8)


def make(index: int, steps: int = 5, size: int = 8) -> Episode:
    rng = np.random.default_rng(index)
    return Episode(
        key=f"{index:06d}",
        obs={
            "image": rng.integers(0, 256, (steps, size, size, 3), np.uint8),
            "eef_pos": rng.normal(size=(steps, 3)).astype(np.float32),
        },
        actions=rng.uniform(-1, 1, (steps, 4)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        dones=(np.arange(steps) == steps - 1).astype(np.uint8),
        vector_rewards=rng.normal(size=(steps, 3)).astype(np.float32),
        labels={
            "segmentation": rng.integers(0, 7, (steps, size, size), np.uint8),
            "time_s": np.arange(steps) / 80,
        },
        tags={"outcome": "success" if index % 2 else "failure", "backend": "mujoco"},
    )


@pytest.fixture
def path(tmp_path) -> Path:
    file = tmp_path / "x.hdf5"
    write(file, (make(i, n) for i, n in enumerate(STEPS)), source="sima2", shares=SHARES)
    return file


def check(path: Path) -> list[str]:
    (lines,) = check_files([path]).values()
    return lines


def findings(path: Path) -> list[str]:
    """What is wrong with a file for itself; in this process, since nothing here crashes HDF5."""
    *records, last = look(path, [])
    assert last == {"end": True}
    return [record["line"] for record in records if "line" in record]


# The checker: one file


def test_a_sound_file_has_no_findings(path):
    """The base of what follows; also without labels, without steps' views, and of no episode."""
    assert check(path) == []
    bare = [dataclasses.replace(make(0), labels={})]
    write(path.with_name("bare.hdf5"), bare, source="x")
    write(path.with_name("none.hdf5"), [], source="x")
    assert check(path.with_name("bare.hdf5")) == check(path.with_name("none.hdf5")) == []
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            del demo["next_obs"]  # nobody but robomimic wants it
        view = file["data/demo_0"].create_group("next_obs")
        for name, array in file["data/demo_0/obs"].items():  # as robomimic's own files have it
            view[name] = np.concatenate([array[1:], array[:1]])
    assert check(path) == []


def replace(group, name, values):
    del group[name]
    group[name] = values


def external(group):
    Path("outside.bin").write_bytes(bytes(1000))
    del group["rewards"]
    group.create_dataset("rewards", (9,), "f4", external=[("outside.bin", 0, 36)])


def show_instead(group, name, file, source):
    """Puts a virtual dataset in the place of an array."""
    shape = group[name].shape
    layout = h5py.VirtualLayout(shape, "f4")
    layout[:] = h5py.VirtualSource(file, source, shape, "f4")
    del group[name]
    group.create_virtual_dataset(name, layout)


def virtual(group):
    show_instead(group, "rewards", ".", "/data/demo_5/rewards")


def view_of_another_file(group):
    show_instead(group, "next_obs/eef_pos", "other.hdf5", "/data/demo_3/obs/eef_pos")


def view_without_shift(group):
    show_instead(group, "next_obs/eef_pos", ".", "/data/demo_3/obs/eef_pos")


def huge(group):
    del group["rewards"]
    group.create_dataset("rewards", (2**40,), "f4", chunks=(2**20,))


def link(group, name, target):
    del group[name]
    group[name] = target


AT = "demo_3 (key 000003): "
IN_DEMO = {
    "nan": (
        lambda g: g["obs/eef_pos"].__setitem__((2, 1), np.nan),
        ["obs/eef_pos: NaN or infinite"],
    ),
    "time": (
        lambda g: g["labels/time_s"].__setitem__(4, 0),
        ["labels/time_s: stands still or goes back at step 4"],
    ),
    "length": (
        lambda g: replace(g, "rewards", g["rewards"][:-1]),
        ["rewards: 8 steps, actions have 9"],
    ),
    "num_samples": (
        lambda g: g.attrs.__setitem__("num_samples", 8),
        ["num_samples says 8, actions have 9 steps"],
    ),
    "no num_samples": (
        lambda g: g.attrs.__delitem__("num_samples"),
        ["num_samples says None, actions have 9 steps"],
    ),
    "missing": (lambda g: g.__delitem__("dones"), ["dones: missing"]),
    "no obs": (lambda g: g.__delitem__("obs"), ["obs: missing"]),
    "group": (
        lambda g: (g.__delitem__("dones"), g.create_group("dones")),
        ["dones: a group, not a dataset"],
    ),
    "text": (lambda g: replace(g, "dones", [b"x"] * 9), ["dones: holds object"]),
    "scalar": (lambda g: replace(g, "dones", 1), ["dones: holds no rows"]),
    "huge": (huge, ["rewards: damaged: (1099511627776,) is more than what is stored"]),
    "tags": (lambda g: g.attrs.__setitem__("tags", "["), ["tags: no JSON object"]),
    "list of tags": (lambda g: g.attrs.__setitem__("tags", "[]"), ["tags: no JSON object"]),
    "soft link": (
        lambda g: link(g, "rewards", h5py.SoftLink("/data/demo_1/rewards")),
        ["rewards: a link to elsewhere; copy the data into the file"],
    ),
    "external link": (
        lambda g: link(g, "obs", h5py.ExternalLink("other.hdf5", "/obs")),
        ["obs: a link to elsewhere; copy the data into the file"],
    ),
    "external data": (
        external,
        ["rewards: shows data from elsewhere; copy the data into the file"],
    ),
    "virtual data": (virtual, ["rewards: shows data from elsewhere; copy the data into the file"]),
    "linked label": (
        lambda g: link(g, "labels/time_s", h5py.SoftLink("/nowhere")),
        ["labels/time_s: a link to elsewhere; copy the data into the file"],
    ),
    "view of a file": (
        view_of_another_file,
        ["next_obs/eef_pos: not a view of obs/eef_pos, one step later"],
    ),
    "view": (
        view_without_shift,
        ["next_obs/eef_pos: not a view of obs/eef_pos, one step later"],
    ),
    "views": (lambda g: g.__delitem__("next_obs/image"), ["next_obs: other arrays than obs"]),
}


@pytest.mark.parametrize("case", IN_DEMO)
def test_a_defect_of_a_demo_is_named_and_nothing_else(path, case, monkeypatch):
    """With demo and key; the other demos are checked and sound."""
    monkeypatch.chdir(path.parent)
    spoil, found = IN_DEMO[case]
    with h5py.File(path, "r+") as file:
        spoil(file["data/demo_3"])
    assert findings(path) == [AT + line for line in found]


def twin_masks(file):
    replace(file, "mask/valid", np.append(file["mask/valid"][()], b"demo_3").astype("S16"))


def unmasked(file):
    names = file["mask/train"][()]
    replace(file, "mask/train", names[names != b"demo_3"])


def unknown_in_mask(file):
    replace(file, "mask/test", np.append(file["mask/test"][()], b"demo_99").astype("S16"))


def twice_in_mask(file):
    replace(file, "mask/test", np.repeat(file["mask/test"][()], 2))


IN_FILE = {
    "total": (
        lambda f: f["data"].attrs.__setitem__("total", 45),
        ["data.attrs['total'] says 45, its demos have 46 steps"],
    ),
    "no total": (
        lambda f: f["data"].attrs.__delitem__("total"),
        ["data.attrs['total'] says None, its demos have 46 steps"],
    ),
    "two masks": (twin_masks, [AT + "in the masks train and valid"]),
    "no mask": (unmasked, [AT + "in no mask"]),
    "unknown in mask": (unknown_in_mask, ["mask/test: names demo_99, which does not exist"]),
    "twice in mask": (twice_in_mask, ["mask/test: names demo_2 2 times"]),
    "key twice": (
        lambda f: f["data/demo_3"].attrs.__setitem__("key", "000001"),
        ["demo_3 (key 000001): demo_1 has this key too"],
    ),
    "no key": (
        lambda f: f["data/demo_3"].attrs.__delitem__("key"),
        ["demo_3 (key None): key: no text"],
    ),
    "strange key": (
        lambda f: f["data/demo_3"].attrs.__setitem__("key", "a\nb\x1b[1m"),
        [],  # any text is a key; the line below stays one
    ),
    "other member": (lambda f: f["data"].create_group("demo"), ["data/demo: not a demo"]),
    "gap": (
        lambda f: (f.move("data/demo_3", "data/demo_9"), f["mask/train"].__setitem__(2, b"demo_9")),
        [
            "demo_3 is missing; demos are numbered from 0 without gaps",
            "demo_9 (key 000003): next_obs/eef_pos: not a view of obs/eef_pos, one step later",
            "demo_9 (key 000003): next_obs/image: not a view of obs/image, one step later",
        ],
    ),
    "linked demo": (
        lambda f: link(f, "data/demo_3", h5py.SoftLink("/data/demo_1")),
        ["demo_3: a link to elsewhere; copy the data into the file"],
    ),
    "env_args": (
        lambda f: f["data"].attrs.__setitem__("env_args", "{}"),
        ["data.attrs['env_args']: no JSON object with env_name, type and env_kwargs"],
    ),
    "legend": (lambda f: f.attrs.__setitem__("legend", "x"), ["attrs['legend']: no JSON object"]),
    "source": (lambda f: f.attrs.__delitem__("source"), ["attrs['source']: no text"]),
    "no masks": (lambda f: f.__delitem__("mask"), ["mask/train: missing"]),
    "a mask": (lambda f: f.__delitem__("mask/test"), ["mask/test: missing"]),
    "mask of numbers": (lambda f: replace(f, "mask/test", [1]), ["mask/test: holds int64"]),
    "no data": (lambda f: f.__delitem__("data"), ["data: missing"]),
    "linked data": (
        lambda f: link(f, "data", h5py.ExternalLink("other.hdf5", "/data")),
        ["data: a link to elsewhere; copy the data into the file"],
    ),
    "schema": (
        lambda f: f.attrs.__setitem__("schema", [1, 2]),
        ["damaged (The truth value of an array with more than one element is ambiguous. Use "],
    ),
}


@pytest.mark.parametrize("case", IN_FILE)
def test_a_defect_of_a_file_is_named_and_nothing_else(path, case):
    """Totals, masks, keys, what robomimic's loader needs, and links out of the file."""
    spoil, found = IN_FILE[case]
    with h5py.File(path, "r+") as file:
        assert file["mask/train"][2] == b"demo_3"
        spoil(file)
    lines = findings(path)
    assert [line[: len(start)] for line, start in zip(lines, found, strict=True)] == found


def test_a_damaged_demo_does_not_stop_the_others(path):
    """Broken pixels in one, a NaN in the next, each named; of the total nothing can be said."""
    with h5py.File(path, "r+") as file:
        chunk = file["data/demo_3/obs/image"].id.get_chunk_info(0)
        file["data/demo_5/actions"][0, 0] = 1.5
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset + 10)
        raw.write(bytes(range(60)))
    first, second = check(path)
    assert first.startswith(AT + "obs/image: damaged (")
    assert second == "demo_5 (key 000005): actions: outside [-1, 1]"


def test_keys_that_no_terminal_shows_stay_on_one_line(path):
    """What a broken file calls itself cannot write a line of its own."""
    with h5py.File(path, "r+") as file:
        file["data/demo_3"].attrs["key"] = "a\nx.hdf5: ok\x1b[2J"
        del file["data/demo_3/dones"]
    assert check(path) == ["demo_3 (key a\\nx.hdf5: ok\\x1b[2J): dones: missing"]


# Several files


def test_many_damaged_files_at_once(path, tmp_path):
    """Each has its line, none stops the next."""
    whole = path.read_bytes()
    contents = {
        "empty": b"",
        "text": b"text",
        "head": b"\x89HDF\r\n\x1a\n" + bytes(100),
        "cut": whole[:-1000],
        "random": np.random.default_rng(0).bytes(5000),
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.hdf5").write_bytes(content)
    with h5py.File(tmp_path / "foreign.hdf5", "w") as file:
        file["x"] = 1
    with h5py.File(tmp_path / "newer.hdf5", "w") as file:
        file.attrs["schema"] = 2
    names = [*contents, "foreign", "newer", "absent"]
    found = check_files([*(tmp_path / f"{name}.hdf5" for name in names), tmp_path, path, path])
    assert len(found) == len(names) + 2
    lines = {file.stem: lines for file, lines in found.items()}
    for name in contents:
        (line,) = lines[name]
        assert line.startswith("not a readable HDF5 file (")
    assert lines["foreign"][0].startswith("episode schema None, this version reads 1")
    assert lines["newer"][0].startswith("episode schema 2, this version reads 1")
    assert lines["absent"] == ["not found"]
    assert found[tmp_path] == ["a folder, not a file"]
    assert found[path] == []


def test_the_same_episode_in_two_splits_is_a_leak(tmp_path):
    """Whatever key, tags, rewards and labels it has; both places are named."""
    again = dataclasses.replace(make(0), key="again", tags={}, labels={})
    again.rewards = again.rewards + 1
    first, second = tmp_path / "first.hdf5", tmp_path / "second.hdf5"
    write(first, [make(0), make(1)], source="x", shares=(1, 0, 0))
    write(second, [make(2), again], source="y", shares=(0, 0, 1))
    assert check_files([first, second]) == {
        first: [],
        second: [
            f"demo_1 (key again): in test, the same content as {first} demo_0 (key 000000) in "
            "train: a leak"
        ],
    }
    assert check_files([second]) == {second: []}


def test_the_same_episode_twice_in_a_split_is_named_otherwise(tmp_path):
    """No leak, but counted double; another action or picture makes another episode."""
    path = tmp_path / "x.hdf5"
    other = dataclasses.replace(make(0), key="other")
    other.actions = other.actions.copy()
    other.actions[0, 0] /= 2
    write(path, [make(0), other, dataclasses.replace(make(0), key="again")], source="x")
    assert check(path) == [
        f"demo_2 (key again): the same content as {path} demo_0 (key 000000), both in train"
    ]


def test_one_episode_is_in_memory_at_a_time(tmp_path):
    """Forty episodes of 6 MB each, and the checker's process stays below ten of them."""
    path = tmp_path / "x.hdf5"
    film = np.zeros((200, 100, 100, 3), np.uint8)
    film[:, 0, 0, 0] = np.arange(200)

    def episodes():
        for index in range(40):
            item = make(index, 200)
            yield dataclasses.replace(item, obs={**item.obs, "image": film}, labels={})

    write(path, episodes(), source="x")
    code = (
        "import sys, resource; from pathlib import Path; from lib.episode.probe import look\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); records = list(look(Path(sys.argv[1]), []))\n"
        "assert records[-1] == {'end': True} and len(records) == 81, records\n"
        "print((peak() - before) * (1 if sys.platform == 'darwin' else 1024))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 10 * film.nbytes


# Whatever bytes


def test_mutated_files_are_checked_without_a_traceback(tmp_path):
    """Random bytes, cuts and files of noise; what HDF5 itself crashes over is named as well."""
    good = tmp_path / "good.hdf5"
    write(good, (make(i, 4, 4) for i in range(3)), source="sima2", shares=SHARES)
    rng, whole, paths = np.random.default_rng(0), good.read_bytes(), []
    start = time.monotonic()
    for index in range(200):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 10)):
            content[place] = rng.integers(256)
        if index % 10 == 0:
            del content[rng.integers(len(content)) :]
        elif index % 10 == 1:
            content[8:] = rng.bytes(len(content) - 8)
        paths.append(tmp_path / f"{index}.hdf5")
        paths[-1].write_bytes(content)
    found = check_files(paths)
    assert list(found) == paths
    lines = [line for lines in found.values() for line in lines]
    assert all(line.isprintable() for line in lines)
    assert sum("damaged" in line or "not a readable" in line for line in lines) > 50
    assert not [line for line in lines if re.search(r"Error\b|Traceback", line)]
    assert time.monotonic() - start < 60  # some 5 s on two cores


def crashing(whole: bytes) -> bytes:
    """A file over which HDF5 2.0 crashes, if this one does: a view whose rank is broken."""
    # Each view's mapping holds the name of what it shows, then a selection, with its rank.
    place = whole.index(b"/data/demo_1/obs/eef_pos\0") + len(b"/data/demo_1/obs/eef_pos\0")
    content = bytearray(whole)
    content[place : place + 40] = b"\xff" * 40
    return bytes(content)


def test_a_reader_that_crashes_is_noticed(path, monkeypatch):
    """The demo is named, the others are checked, and the next file has a new process."""
    script = path.parent / "lib" / "episode" / "probe.py"
    script.parent.mkdir(parents=True)
    # Stands in for HDF5: dies over demo_1 unless told to skip it.
    script.write_text(
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    request = json.loads(line)\n"
        "    print(json.dumps({'line': 'first'}), flush=True)\n"
        "    print(json.dumps({'begins': 'demo_1'}), flush=True)\n"
        "    if 'bad' in request['path'] and 'demo_1' not in request['skip']: os.abort()\n"
        "    n = len(request['skip'])\n"
        "    if 'worse' in request['path']: os.abort()\n"
        "    print(json.dumps({'begins': f'demo_{n + 2}'}), flush=True)\n"
        "    if 'worst' in request['path']: os.abort()\n"
        "    print(json.dumps({'line': f'skipped {request[\"skip\"]}'}), flush=True)\n"
        "    print(json.dumps({'end': True}), flush=True)\n"
    )
    monkeypatch.setattr("lib.episode.check.ROOT", path.parent)
    found = check_files([Path("bad"), Path("good"), Path("worse"), Path("worst"), Path("last")])
    assert found == {
        Path("bad"): ["first", "skipped ['demo_1']"],
        Path("good"): ["first", "skipped []"],
        Path("worse"): ["damaged (HDF5 crashes over demo_1); not checked further"],
        Path("worst"): [
            "damaged (HDF5 crashes over demo_2, demo_3, demo_4, demo_5, demo_6, demo_7); "
            "not checked further"
        ],
        Path("last"): ["first", "skipped []"],
    }


def test_a_broken_view_is_named_whether_or_not_hdf5_crashes(path):
    """HDF5 2.0 writes beyond its memory when it decodes such a mapping."""
    path.write_bytes(crashing(path.read_bytes()))
    (line,) = check(path)
    assert line.startswith("demo_1") and "damaged (" in line


# The viewer


def test_the_summary_says_what_is_in_a_file(path, capsys):
    assert main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    rows = [re.sub(r" +", " ", line).strip() for line in shown.splitlines()]
    assert rows[0].startswith(f"{path}, ") and rows[0].endswith(" kB")
    assert rows[1] == "schema 1, source sima2, environment sima2"
    assert rows[2] == "8 episodes, 46 steps"
    for split in SPLITS:
        own = [n for i, n in enumerate(STEPS) if split_of("sima2", f"{i:06d}", SHARES) == split]
        assert f"{split} {len(own)}, {sum(own)} steps" in rows
    assert "steps 3 to 9, median 5.5" in rows
    assert {"outcome failure 4, success 4", "backend mujoco 8"} <= set(rows)
    rewards = np.concatenate([episode.rewards for episode in read(path)])
    assert f"reward {rewards.min():.4g} to {rewards.max():.4g} a step" in rows
    assert "obs/image uint8 8x8x3" in rows
    assert "vector_rewards float32 3 task, econ, energy" in rows
    assert not [row for row in rows if "next_obs" in row]


def test_one_demo_is_shown_with_its_tags_and_ranges(path, capsys):
    assert main(["show", str(path), "--demo", "3"]) == 0
    rows = [re.sub(r" +", " ", row).strip() for row in capsys.readouterr().out.splitlines()]
    episode = make(3, STEPS[3])
    assert rows[:3] == [f"demo_3 of {path}", "key 000003", "steps 9"]
    assert {"outcome success", "dones uint8 - 0 to 1", "labels/time_s float64 - 0 to 0.1"} <= set(
        rows
    )
    low, high = episode.actions.min(), episode.actions.max()
    assert f"actions float32 4 {low:.6g} to {high:.6g}" in rows


def test_a_sheet_shows_a_few_episodes_from_first_to_last(tmp_path, capsys):
    """Six rows of eight pictures, spread over the file and over each episode."""
    path, out = tmp_path / "$x$.hdf5", tmp_path / "sheet.png"

    def plain(index: int) -> Episode:
        item = make(index, 36)
        colours = np.stack([np.arange(36) * 7, np.full(36, 20 * index), np.full(36, 255)], 1)
        film = np.broadcast_to(colours[:, None, None].astype(np.uint8), (36, 8, 8, 3))
        return dataclasses.replace(item, obs={"image": film}, tags={"outcome": "$_"})

    write(path, map(plain, range(11)), source="x")
    assert main(["show", str(path), "--sheet", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    seen = {tuple(colour) for colour in imageio.imread(out)[..., :3].reshape(-1, 3).tolist()}
    for index in (0, 2, 4, 6, 8, 10):
        for step in np.linspace(0, 35, COLUMNS).round().astype(int).tolist():
            assert (7 * step, 20 * index, 255) in seen
    assert not [colour for colour in seen if colour[1] % 20 and colour[2] == 255 != colour[1]]


def test_a_sheet_of_one_demo_shows_its_labels_too(path, tmp_path):
    """In the palette of all label pictures; an episode of another size of picture as well."""
    out = tmp_path / "sheet.png"
    assert main(["show", str(path), "--demo", "1", "--sheet", str(out)]) == 0
    seen = {tuple(colour) for colour in imageio.imread(out)[..., :3].reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in PALETTE.tolist()} <= seen


def test_a_film_shows_the_pictures_of_a_demo(tmp_path):
    """Every frame once, in order; demo_0 unless another one is asked for."""
    path, out = tmp_path / "x.hdf5", tmp_path / "film.mp4"
    level = np.linspace(20, 230, 12).astype(np.uint8)

    def grey(index: int) -> Episode:
        item = make(index, 12)
        film = np.broadcast_to(level[:: 1 - 2 * index, None, None, None], (12, 16, 16, 3))
        return dataclasses.replace(item, obs={"image": film})

    write(path, map(grey, range(2)), source="x")
    for arguments, expected in (([], level), (["--demo", "1"], level[::-1])):
        assert main(["show", str(path), "--video", str(out), *arguments]) == 0
        frames = np.stack([frame for frame in imageio.get_reader(out)])  # noqa: C416 - of no known length
        assert frames.shape == (12, 64, 64, 3)
        assert np.abs(frames.mean((1, 2, 3)) - expected).max() < 4


# The command


def command(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "lib.episode", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_says_what_is_good_and_what_is_not(path):
    """Exit code 0 when all is well, 2 otherwise; a folder stands for its files."""
    done = command("check", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{path}: ok, 8 episodes, 46 steps\n"
    bad = path.with_name("bad.hdf5")
    bad.write_bytes(b"")
    (path.parent / ".bad.hdf5").write_bytes(b"")  # somebody's unfinished file
    done = command("check", path.parent)
    assert (done.returncode, done.stderr) == (2, "")
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{bad}: not a readable HDF5 file")
    assert second == f"{path}: ok, 8 episodes, 46 steps"


def test_a_terminal_without_unicode_shows_every_finding(path):
    with h5py.File(path, "r+") as file:
        file["data/demo_0"].attrs["key"] = "küche"
        del file["data/demo_0/dones"]
    done = command("check", path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == f"{path}: demo_0 (key k\\xfcche): dones: missing\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "none.hdf5"], "none.hdf5: not found"),
        (["show", "{path}", "--demo", "8"], "/data/demo_8 is missing"),
        (["show", "{path}", "--demo", "-1"], "--demo"),
        (["show", "{path}", "--sheet", "x.jpg"], "does not end in .png"),
        (["show", "{bare}", "--sheet", "x.png"], "demo_0 has no pictures (obs/image)"),
        (["show", "{bare}", "--video", "x.mp4"], "demo_0 has no pictures (obs/image)"),
        (["show", "{empty}", "--sheet", "x.png"], "holds no episode to show"),
        (["show", "{path}", "--sheet", "{path}/x.png"], "x.hdf5"),
        (["check"], "FILE"),
        ([], "command"),
    ],
)
def test_mistakes_are_refused_in_words(path, tmp_path, capsys, arguments, message):
    """Exit code 2, no traceback, nothing on standard output."""
    bare = dataclasses.replace(make(0), obs={"eef_pos": make(0).obs["eef_pos"]})
    write(tmp_path / "bare.hdf5", [bare], source="x")
    write(tmp_path / "empty.hdf5", [], source="x")
    files = {name: tmp_path / f"{name}.hdf5" for name in ("bare", "empty")}
    try:
        code = main([a.format(path=path, **files) for a in arguments])
    except SystemExit as leaving:  # argparse
        code = leaving.code
    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    assert message in shown.err.splitlines()[-1]


def test_looking_at_a_file_loads_no_plotting_library(path):
    """Nor torch: the format is light to borrow."""
    code = (
        "import sys; from lib.episode.__main__ import main\n"
        "main(['check', sys.argv[1]]); main(['show', sys.argv[1]])\n"
        "print([name for name in ('matplotlib', 'imageio', 'torch', 'mujoco') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
