"""Parameters: what is shipped is valid, and every mistake is one line that names file and key."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.base.errors import UserError
from lib.base.paths import PARAMS, ROOT
from lib.params import Section, apply, load_params, parse_params, read_yaml


@pytest.fixture
def values() -> dict:
    """What params.yaml holds, to be spoilt."""
    return read_yaml(PARAMS)


@pytest.fixture
def file(tmp_path) -> Path:
    """A copy of params.yaml."""
    copy = tmp_path / "params.yaml"
    copy.write_bytes(PARAMS.read_bytes())
    return copy


def put(values: dict, key: str, value: object) -> None:
    """Sets a dotted key."""
    *sections, last = key.split(".")
    for section in sections:
        values = values[section]
    values[last] = value


def refusal(*arguments) -> str:
    """The message with which parse_params refuses; one line."""
    with pytest.raises(UserError) as caught:
        parse_params(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_shipped_file_is_valid_and_reaches_the_types(values):
    """Nothing is lost or changed between the file and the typed parameters."""
    params = vars(parse_params(values))
    typed = {k: v.model_dump() if isinstance(v, Section) else v for k, v in params.items()}
    assert typed == values
    assert list(typed) == list(values)


def test_every_key_has_a_comment():
    """A reader never has to guess what a number means; sections are explained by their keys."""
    lines = PARAMS.read_text().splitlines()
    keys = [line for line in lines if re.match(r"\s*\w+:\s*[^\s#]", line)]
    assert len(keys) > 100
    assert [line for line in keys if not re.search(r"\S\s+# \S", line)] == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("vision.learning_rate", 0.1, "unknown key"),
        ("vison", {}, "unknown key"),
        ("vision.steps", "many", "integer (given: 'many')"),
        ("vision.steps", 1.5, "integer"),
        ("vision.steps", True, "integer"),
        ("vision.lr", "1e-3", "number (given: '1e-3')"),
        ("vision.use_neural", "yes", "boolean"),
        ("vision.lr", 0.0, "greater than 0 (given: 0.0)"),
        ("vision.lr", float("inf"), "finite"),
        ("vision.lr", float("nan"), ""),
        ("vision.size", "huge", "'tiny', 'small' or '400MF'"),
        ("vision.feature_levels", [], "at least 1 item"),
        ("seed", -1, "greater than or equal to 0"),
        ("phase1.image_size", 100, "multiple of 32"),
        ("policy.gamma", 1.0, "less than 1"),
        ("policy.batch_size", 7, "multiple of 2"),
        ("safety.nan", "ignore", "'fail' or 'clip'"),
        ("economics", None, "valid dictionary"),
        ("phase1_ros.rate_hz", 1e9, "less than or equal to 1000"),
        ("phase1_ros.action_topic", "velocity", "'velocity' is neither /topic nor /topic:field"),
        ("phase1_ros.signals", "/ft", "valid dictionary (given: '/ft')"),
        ("phase1_ros.signals", None, "valid dictionary"),
        ("phase1_isaac.image", "", "at least 1 character"),
    ],
)
def test_a_wrong_key_type_or_value_is_one_line_that_names_it(values, key, value, words):
    """The first mistake, its key, what is allowed and what was given."""
    put(values, key, value)
    message = refusal(values, "other.yaml")
    assert message.startswith(f"other.yaml: {key}: ")
    assert words in message


@pytest.mark.parametrize(
    ("signals", "key"),
    [
        ({"wrench": "ft:force"}, "wrench: 'ft:force' is neither"),
        ({"wrench": "/ft:"}, "wrench: '/ft:' is neither"),
        ({"wrench": "/ft:force,"}, "wrench: '/ft:force,' is neither"),
        ({"wrench": "/ft:force..x"}, "wrench: '/ft:force..x' is neither"),
        ({"wrench": "/ft:0.x"}, "wrench: '/ft:0.x' is neither"),
        ({"wrench": "/f t:force"}, "wrench: '/f t:force' is neither"),
        ({"wrench": "/ft\n"}, "wrench: '/ft\\n' is neither"),
        ({"wrench": 3}, "wrench: Input should be a valid string (given: 3)"),
        ({"wrench": ["/a", "/b"]}, "wrench: Input should be a valid string"),
        ({"obs/x": "/ft"}, "obs/x.[key]: 'obs/x' is neither a name such as wrench"),
        ({"labels/": "/ft"}, "labels/.[key]: 'labels/' is neither"),
        ({"a.b": "/ft"}, "a.b.[key]: 'a.b' is neither"),
        ({"../x": "/ft"}, "../x.[key]: '../x' is neither"),
        ({3: "/ft"}, "3.[key]: Input should be a valid string"),
    ],
)
def test_a_malformed_mapping_is_one_line_that_names_it(values, signals, key):
    """Topics begin with a slash, fields are dotted, names are those of arrays."""
    put(values, "phase1_ros.signals", signals)
    assert refusal(values).startswith(f"params.yaml: phase1_ros.signals.{key}")


def test_well_formed_mappings_are_kept_as_they_are(values):
    """What params.yaml says is what the reader gets."""
    signals = {
        "wrench": "/ft_sensor/raw:wrench.force",
        "labels/target": "/trajectory:points.-1.positions,points.0.velocities",
        "x2": "/a",
    }
    put(values, "phase1_ros.signals", signals)
    put(values, "phase1_ros.action_topic", "/arm/command:data")
    section = parse_params(values).phase1_ros
    assert (section.signals, section.action_topic) == (signals, "/arm/command:data")


def test_scalars_are_changed_as_dvc_exp_run_does(file):
    """`-S` rewrites the file; what it leaves must stay valid, an empty mapping too."""
    from dvc.utils.hydra import apply_overrides

    overrides = ["rate_hz=10", "action_topic=/cmd:data", "image_topic=none"]
    apply_overrides(file, ["phase1_isaac.image=wrist_cam"])
    assert load_params("phase1_ros", path=file).phase1_ros.signals == {}
    apply_overrides(file, [f"phase1_ros.{override}" for override in overrides])
    apply_overrides(file, ["+phase1_ros.signals.wrench=/ft:wrench.force"])  # + is a new key
    params = load_params("phase1_ros", "phase1_isaac", path=file)
    assert (params.phase1_ros.rate_hz, params.phase1_ros.image_topic) == (10, "none")
    assert params.phase1_ros.action_topic == "/cmd:data"
    assert params.phase1_ros.signals == {"wrench": "/ft:wrench.force"}
    assert params.phase1_isaac.image == "wrist_cam"


@pytest.mark.parametrize("key", ["task", "vision", "vision.lr", "economics.unit_price"])
def test_a_missing_key_is_one_line_that_names_it(values, key):
    """Nothing but the flags has a default."""
    *sections, last = key.split(".")
    del (values[sections[0]] if sections else values)[last]
    assert refusal(values) == f"params.yaml: {key}: missing; add it"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("phase1.split", [0.7, 0.1, 0.1], "phase1: split: the shares sum to 0.9, not to 1"),
        (
            "phase1_sima2.share_mixed",
            0.28,
            "phase1_sima2: share_*: the shares sum to 1.1, not to 1",
        ),
        (
            "policy.presets.energy",
            [0.5, 0.5, 0.5],
            "policy: presets: the weights of energy sum to 1.5, not to 1",
        ),
    ],
)
def test_shares_sum_to_one(values, key, value, message):
    """Each rule over several keys says which and what they sum to."""
    put(values, key, value)
    assert refusal(values) == f"params.yaml: {message}"


def test_the_published_preset_is_one_of_the_presets(values):
    """The message lists those there are."""
    values["policy"]["preset"] = "speed"
    assert refusal(values) == (
        "params.yaml: policy: preset: speed is not one of the presets: throughput, energy"
    )
    values["policy"]["preset"] = "energy"
    assert parse_params(values).policy.weights == values["policy"]["presets"]["energy"]


def test_the_rnns_window_holds_its_warmup_and_the_longest_skill(values):
    """12 frames are 4 to warm up and 8 to predict; 11 are refused."""
    values["rnn"] |= {"warmup": 4, "window": 12}
    parse_params(values)
    values["rnn"]["window"] = 11
    assert "at least 12 are needed" in refusal(values)


@pytest.mark.parametrize("other", ["seed", "phase1.seed"])
def test_the_test_seed_is_no_seed_of_the_training(values, other):
    """Test positions are never trained on."""
    put(values, other, values["evaluate"]["seed"])
    expected = "params.yaml: evaluate.seed: 2000 is also a seed of the training"
    assert refusal(values).startswith(expected)


@pytest.mark.parametrize("flagged", ["vision", "rnn", "segmenter", "policy"])
def test_an_absent_flag_is_off_and_ships_on(values, flagged):
    """`use_neural` is the one key with a default."""
    assert getattr(parse_params(values), flagged).use_neural is True
    del values[flagged]["use_neural"]
    assert getattr(parse_params(values), flagged).use_neural is False


@pytest.mark.parametrize("content", ["", "- 1\n- 2\n", "text"])
def test_a_file_without_sections_is_refused(file, content):
    """An empty file, a list and a word are YAML, but no parameters."""
    file.write_text(content)
    with pytest.raises(UserError, match="params.yaml: not a mapping"):
        load_params("seed", path=file)


@pytest.mark.parametrize(
    "content", [b"seed: [1\nvision:\n", b"seed: 1\nseed: 2\n", b"seed: \xff\n", b"a: 1\n\tb: 2\n"]
)
def test_what_is_not_yaml_is_one_line(file, content):
    """An open bracket, a key given twice, bytes that are no text, and a tab."""
    file.write_bytes(content)
    with pytest.raises(UserError, match="params.yaml: not valid YAML: ") as caught:
        load_params("seed", path=file)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    """The path as it was given, outside the repository."""
    with pytest.raises(UserError) as caught:
        load_params("seed", path=tmp_path / "none.yaml")
    assert str(caught.value) == f"{tmp_path}/none.yaml: not found"


def test_numbers_as_dvc_writes_them_are_numbers(file):
    """`dvc exp run -S vision.lr=1e-5` writes 1e-05, which YAML 1.1 reads as text."""
    text, count = re.subn(
        r"(\nvision:.*?\n  lr: )\S+", r"\g<1>1e-05", file.read_text(), count=1, flags=re.DOTALL
    )
    assert count == 1
    file.write_text(text)
    lr = load_params("vision", path=file).vision.lr
    assert isinstance(lr, float)
    assert lr == 1e-05


def test_only_the_sections_asked_for_are_handed_out(values):
    """A stage cannot read what dvc.yaml does not list for it; sections cannot be changed."""
    params = load_params("seed", "vision")
    assert vars(params).keys() == {"seed", "vision"}
    assert params.vision.lr == values["vision"]["lr"]
    with pytest.raises(AttributeError):
        _ = params.rnn
    with pytest.raises(ValueError, match="frozen"):
        params.vision.lr = 1.0


def test_a_single_key_is_handed_out_without_its_section(values):
    """What a stage does not read of a section may change without running it again."""
    params = load_params("evaluate.horizon", "evaluate.seed", "seed")
    assert vars(params).keys() == {"evaluate", "seed"}
    wanted = {name: values["evaluate"][name] for name in ("horizon", "seed")}
    assert vars(params.evaluate) == wanted


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m lib.params` on the params.yaml of a folder that has a copy of lib."""
    return subprocess.run(
        [sys.executable, "-m", "lib.params", *arguments], cwd=folder, capture_output=True, text=True
    )


def test_the_command_exits_with_0_or_with_2_and_one_line(tmp_path):
    """Sound, spoilt, misused: no traceback in any case."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    params = tmp_path / "params.yaml"
    params.write_text(PARAMS.read_text())
    sound = check(tmp_path)
    assert (sound.returncode, sound.stdout, sound.stderr) == (0, "", "")
    params.write_text(PARAMS.read_text().replace("seed: 0 ", "seed: zero ", 1))
    spoilt = check(tmp_path)
    assert (spoilt.returncode, spoilt.stdout) == (2, "")
    assert re.fullmatch(r"params\.yaml: seed: .*\(given: 'zero'\)\n", spoilt.stderr)
    misused = check(tmp_path, "aply", "x.yaml")
    assert (misused.returncode, misused.stderr) == (
        2,
        "usage: python -m lib.params [apply FILE]\n",
    )


def comments(text: str) -> list[str]:
    """Every comment of a YAML text, in order."""
    return re.findall(r"(?<!\S)#.*", text)


def test_a_preset_changes_its_keys_and_keeps_everything_else(file, tmp_path, values):
    """Other keys stay character for character, and every comment stays; lists are replaced."""
    preset = tmp_path / "preset.yaml"
    preset.write_text("seed: 7\nvision:\n  steps: 3\n")
    before = file.read_text()
    apply(preset, file)
    after = file.read_text()
    put(values, "seed", 7)
    put(values, "vision.steps", 3)
    assert read_yaml(file) == values
    lines = zip(before.splitlines(), after.splitlines(), strict=True)
    changed = [new.split("#")[0].strip() for old, new in lines if old != new]
    assert changed == ["seed: 7", "steps: 3"]
    preset.write_text("segmenter:\n  widths: [8, 16]\n")
    apply(preset, file)
    put(values, "segmenter.widths", [8, 16])
    assert read_yaml(file) == values
    assert comments(file.read_text()) == comments(before)
    assert {path.name for path in tmp_path.iterdir()} == {"params.yaml", "preset.yaml"}


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_preset_applies_and_changes_something(file, preset, values):
    """A preset never falls behind the parameters; its every value arrives."""
    apply(preset, file)
    load_params("seed", path=file)
    after, wanted = read_yaml(file), read_yaml(preset)
    assert after != values
    for section, keys in wanted.items():
        assert {key: after[section][key] for key in keys} == keys


@pytest.mark.parametrize(
    "content",
    [
        "vision:\n  lr: -1\n",
        "vison:\n  lr: 1\n",
        "seed: [1\n",
        "- seed\n",
    ],
)
def test_an_invalid_preset_leaves_the_file_as_it_was(file, tmp_path, content):
    """Out of range, unknown, not YAML: nothing is written, no scratch file stays."""
    preset = tmp_path / "preset.yaml"
    preset.write_text(content)
    before = file.read_bytes()
    with pytest.raises(UserError) as caught:
        apply(preset, file)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"params.yaml", "preset.yaml"}


def test_a_missing_preset_is_named(file, tmp_path):
    """The one way to mistype the command."""
    with pytest.raises(UserError, match="none.yaml: not found"):
        apply(tmp_path / "none.yaml", file)
