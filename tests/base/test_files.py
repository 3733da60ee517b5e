"""Files: whole or absent, and the same bytes for the same values."""

import math
from pathlib import Path

import pytest

from lib.base.errors import UserError
from lib.base.files import atomic, read_json, write_csv, write_json, write_text


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return [path.name for path in folder.iterdir()]


def test_atomic_puts_the_file_in_place_when_the_block_ends(tmp_path):
    """Not before; missing folders are made; the suffix stays for writers that go by it."""
    path = tmp_path / "a" / "b" / "picture.png"
    with atomic(path) as scratch:
        scratch.write_bytes(b"new")
        assert scratch.parent == path.parent
        assert scratch.suffix == ".png"
        assert not path.exists()
    assert names(path.parent) == ["picture.png"]
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_the_old_file_and_no_scratch(tmp_path, error):
    """Half of the new content was written; nobody ever sees it."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(error), atomic(path) as scratch:
        scratch.write_text("ne")
        raise error
    assert names(tmp_path) == ["file.txt"]
    assert path.read_text() == "old"


def test_a_block_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path):
    """An out that was promised and not written must not look written."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic(path):
        pass
    assert path.read_text() == "old"


def test_text_is_utf_8_with_its_line_ends_as_they_are(tmp_path):
    """On every system the same bytes."""
    path = tmp_path / "file.txt"
    write_text(path, "±1\nb\r\n")
    assert path.read_bytes() == b"\xc2\xb11\nb\r\n"


def test_json_has_a_fixed_form_and_reads_back(tmp_path):
    """Indent of two, keys as given, a line end at the end."""
    path = tmp_path / "file.json"
    value = {"b": 1, "a": {"x": 0.1, "y": [True, None]}}
    write_json(path, value)
    assert path.read_text() == (
        '{\n  "b": 1,\n  "a": {\n    "x": 0.1,\n    "y": [\n      true,\n      null\n'
        "    ]\n  }\n}\n"
    )
    assert read_json(path) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_is_not_json(tmp_path, value):
    """At any depth, and the file from before stays."""
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(UserError, match=r"file\.json: a\.b\.0 is .*too little data"):
        write_json(path, {"a": {"b": [value]}})
    assert read_json(path) == {"a": 1}
    assert names(tmp_path) == ["file.json"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "not found; `dvc repro` writes it"),
        (b'{"a": ', "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b"[1]", "holds a list, not a JSON object"),
    ],
)
def test_reading_what_is_no_json_object_is_one_line(tmp_path, content, words):
    """Missing, cut, empty, no text, no object."""
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: {words}")
    assert "\n" not in str(caught.value)


def test_csv_has_a_header_and_six_significant_digits(tmp_path):
    """Floats are rounded, integers and text are not, line ends are plain."""
    path = tmp_path / "file.csv"
    write_csv(
        path,
        [
            {"step": 1234567, "loss": 2 / 3, "name": "a,b"},
            {"step": 2, "loss": 1e-9, "name": "c"},
            {"step": 3, "loss": 1234567.0, "name": ""},
        ],
    )
    assert path.read_bytes() == (
        b'step,loss,name\n1234567,0.666667,"a,b"\n2,1e-09,c\n3,1.23457e+06,\n'
    )


def test_csv_has_a_column_for_every_key_that_occurs(tmp_path):
    """One that appears later is not lost: the rows before it have an empty cell."""
    path = tmp_path / "file.csv"
    write_csv(path, [{"step": 1}, {"step": 2, "loss": 0.5}, {"loss": 1.0, "last": "x"}])
    assert path.read_text() == "step,loss,last\n1,,\n2,0.5,\n,1,x\n"
    assert names(tmp_path) == ["file.csv"]
