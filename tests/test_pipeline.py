"""The whole pipeline on the small preset, and that dvc.yaml says what the stages really use."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lib import episode
from lib.base import arithmetic
from lib.episode import PRIMITIVES
from lib.learning.checkpoint import load_checkpoint, save_checkpoint
from lib.models.heuristic import HeuristicSegmenter
from lib.params import load_params, read_yaml
from lib.sim.env import DEFAULT_PRICES
from lib.verify import GOLDENS, differences, hashes_of
from tests.closure import CODE, ROOT, closure, code_deps, expanded, params_read
from tests.copies import copy_of_the_files

PORTABLE = torch.backends.cpu.get_cpu_capability() == "AVX2" and not torch.cuda.is_available()
GRAPH = read_yaml(ROOT / "dvc.yaml")
STAGES = list(GRAPH["stages"])


def paths(entries: list) -> list[str]:
    """Names of deps, outs or metrics, with or without settings."""
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


@pytest.mark.parametrize("stage", STAGES)
def test_code_deps_are_the_imports(stage):
    """Nothing that a stage imports is missing, and no file is listed that it does not import."""
    script = f"stages/{stage}.py"
    listed = [d for d in GRAPH["stages"][stage]["deps"] if d.endswith(CODE) or d.startswith("lib/")]
    assert listed == code_deps(script)
    assert closure(ROOT / script) <= expanded(listed)
    single = {dep for dep in listed if dep.endswith(CODE)}
    assert single <= closure(ROOT / script)


def test_the_graph_is_read_on_two_screens():
    """Few lines of code deps, and few files that make a stage stale without being imported."""
    lines, spare = 0, []
    for stage in STAGES:
        listed = code_deps(f"stages/{stage}.py")
        lines += len(listed)
        idle = expanded(listed) - closure(ROOT / "stages" / f"{stage}.py")
        spare += [(stage, file) for file in sorted(idle)]
    assert lines <= 110
    assert len(spare) <= 40, spare


def test_no_two_modules_of_a_name():
    """A name that somebody types finds one file; settings stand in the __init__ of their room."""
    files = [*ROOT.glob("lib/**/*.py"), *ROOT.glob("stages/*.py")]
    names = [file.name for file in files if not file.name.startswith("__")]
    assert sorted(names) == sorted(set(names))


def test_ignored_tools_are_imported_by_no_stage():
    """What .dvcignore leaves out of a package cannot make a stage stale, so none may need it."""
    tools = {name for name in (ROOT / ".dvcignore").read_text().split() if name.startswith("lib/")}
    assert tools
    for stage in STAGES:
        assert not tools & closure(ROOT / "stages" / f"{stage}.py")


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_exactly_those_read(stage):
    """A stage can reach only what it asks for, and that is what dvc.yaml lists."""
    assert GRAPH["stages"][stage]["params"] == params_read(ROOT / "stages" / f"{stage}.py")


def test_every_stage_says_what_it_does_and_keeps_metrics_in_git():
    """Each stage has a description; metrics and plots are not in DVC's cache."""
    for name, stage in GRAPH["stages"].items():
        assert stage["desc"], name
        for entry in [*stage.get("metrics", []), *stage.get("plots", [])]:
            assert next(iter(entry.values())) == {"cache": False}, (name, entry)


def test_outs_are_ignored_by_git():
    """DVC would otherwise edit .gitignore files during a run."""
    outs = [out for stage in GRAPH["stages"].values() for out in paths(stage.get("outs", []))]
    ignored = subprocess.run(
        ["git", "check-ignore", *outs], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    assert sorted(ignored) == sorted(outs)


def copy_of_the_repository(folder: Path) -> Path:
    """A Git repository with the files of this one, as they are now, and nothing built."""
    copy_of_the_files(folder, lambda name: not name.startswith("metrics/") and name != "dvc.lock")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=folder, check=True)
    subprocess.run([*git, "add", "-A"], cwd=folder, check=True)
    subprocess.run([*git, "commit", "-qm", "copy"], cwd=folder, check=True)
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python module in a copy of the repository."""
    env = {name: value for name, value in os.environ.items() if name != "GOLDEN_PATH_WORK"}
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=600,
    )


def numbers(value: object) -> list[float]:
    """Every number in a metrics file."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    return [value]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory) -> tuple[Path, str]:
    """A clean copy in which the small preset ran from nothing."""
    folder = copy_of_the_repository(tmp_path_factory.mktemp("small"))
    assert run(folder, "lib.params", "apply", "presets/small.yaml").returncode == 0
    result = run(folder, "lib.runner")
    assert result.returncode == 0, result.stdout
    return folder, result.stdout


@pytest.mark.slow
def test_every_out_and_metric_is_there(small_run):
    """One command makes every out, metric and plot; all metrics are finite numbers."""
    folder, _ = small_run
    for name, stage in GRAPH["stages"].items():
        for kind in ("outs", "metrics", "plots"):
            for out in paths(stage.get(kind, [])):
                assert (folder / out).exists(), (name, out)
        for metric in paths(stage.get("metrics", [])):
            content = json.loads((folder / metric).read_text())
            # The words among the numbers: where they are the same, and of what they are.
            assert content.pop("compute", {"class": "portable"}) == {"class": "portable"}
            assert content.pop("suite", "test") == "test"
            assert content.pop("world", "wide") == "wide"
            for ratio in ("mpl_preset", "energy_preset"):
                word = content.get("ratio", {}).pop(ratio, "energy")
                assert word in ("throughput", "energy")
            values = numbers(content)
            assert values, metric
            assert all(math.isfinite(value) for value in values), metric


@pytest.mark.slow
@pytest.mark.skipif(not PORTABLE, reason="promised on x86 processors with AVX2")
def test_every_out_has_the_bytes_that_others_got(small_run):
    """So whoever runs the tests is a witness. A change that is meant: ``lib.verify --update``."""
    folder, _ = small_run
    assert differences(hashes_of(folder / "dvc.lock"), json.loads(GOLDENS.read_text())) == []


@pytest.mark.slow
def test_trust_in_labels_of_the_heuristic_is_measured(small_run):
    """The stand-ins have such labels; their TrustMatrix is the precision on exact labels."""
    folder, _ = small_run
    trust = json.loads((folder / "metrics" / "phase1.json").read_text())["trust"]
    assert set(trust["sima2"].values()) == {1.0}
    assert 0 < min(trust["isaac"].values()) < 1
    heuristic = HeuristicSegmenter()
    said, right = np.zeros(len(PRIMITIVES)), np.zeros(len(PRIMITIVES))
    for item in episode.read(folder / "data" / "phase1" / "isaac.hdf5"):
        labels = heuristic.primitives(item.obs["image"])
        np.testing.assert_array_equal(item.labels["segmentation"], labels)
        assert item.tags["labels"] == "heuristic" and item.tags["backend"] == "mujoco"
    shares = read_yaml(folder / "params.yaml")["phase1"]["split"]
    recorded = (
        (source, item)
        for source in ("sima2", "views")
        for item in episode.read(folder / "data" / "phase1" / f"{source}.hdf5")
    )
    for source, item in recorded:
        if episode.split_of(source, item.key, shares) != "train" or item.tags["visual"]:
            continue
        rows = np.linspace(0, len(item) - 1, 4, dtype=int)
        labels, exact = (
            heuristic.primitives(item.obs["image"][rows]),
            item.labels["segmentation"][rows],
        )
        for index in range(len(PRIMITIVES)):
            said[index] += (labels == index).sum()
            right[index] += ((labels == index) & (exact == index)).sum()
    wanted = dict(zip(PRIMITIVES, right / said, strict=True))
    assert trust["isaac"] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.slow
def test_the_table_names_every_stage(small_run):
    """The run ends with a table of all ten stages, all of them run."""
    _, output = small_run
    table = output[output.rindex("headline") :] if "headline" in output else output
    for name in STAGES:
        assert name in table


@pytest.mark.slow
def test_a_second_run_finds_nothing_to_do(small_run):
    """Nothing runs, the lock file stays byte for byte, and the command says so."""
    folder, _ = small_run
    before = (folder / "dvc.lock").read_bytes()
    result = run(folder, "lib.runner")
    assert result.returncode == 0, result.stdout
    assert f"Nothing to do: all {len(STAGES)} stages are up to date" in result.stdout
    assert (folder / "dvc.lock").read_bytes() == before


@pytest.mark.slow
def test_bad_input_stops_a_stage_in_one_line_and_leaves_its_outs(small_run):
    """A wrong task, a broken checkpoint, an impossible gate: one line, the right exit code."""
    folder, _ = small_run
    params = folder / "params.yaml"
    shipped = params.read_text()

    params.write_text(shipped.replace("task: drawer_open", "task: drawer_opne", 1))
    before = (folder / "data/phase1/sima2.hdf5").read_bytes()
    result = run(folder, "stages.phase1_sima2")
    assert result.returncode == 2
    assert "drawer_opne" in result.stdout and "Traceback" not in result.stdout
    assert (folder / "data/phase1/sima2.hdf5").read_bytes() == before

    params.write_text(shipped.replace("policy_success_any: -1000.0", "policy_success_any: 1.1", 1))
    result = run(folder, "stages.gates")
    assert result.returncode == 1
    assert "gates.policy_success_any is at least 1.1" in result.stdout
    params.write_text(shipped)

    backbone = folder / "checkpoints/vision_backbone.safetensors"
    whole = backbone.read_bytes()
    backbone.write_bytes(whole.replace(b'\\"schema\\": 1', b'\\"schema\\": 9', 1))
    before = (folder / "metrics/rnn.json").read_bytes()
    result = run(folder, "stages.rnn")
    backbone.write_bytes(whole)
    assert result.returncode == 2
    assert "schema 9" in result.stdout and "Traceback" not in result.stdout
    assert (folder / "metrics/rnn.json").read_bytes() == before


@pytest.mark.slow
def test_a_policy_refuses_a_stack_it_was_not_trained_on(small_run):
    """Another RNN, sound in itself and on the same backbone: both files are named."""
    folder, _ = small_run
    path = folder / "checkpoints/spatial_rnn.safetensors"
    whole = path.read_bytes()
    rnn = load_checkpoint(path, "spatial_rnn")
    parts = {name: rnn.part(name) for name in ("rnn", "mean", "std", "motion", "surprise")}
    parts["mean"] = {name: value + 0.1 for name, value in parts["mean"].items()}
    save_checkpoint(path, "spatial_rnn", rnn.config, parts)
    result = run(folder, "stages.evaluate")
    path.write_bytes(whole)
    assert result.returncode == 2
    assert "Traceback" not in result.stdout
    for name in ("hydra_policy.safetensors", "spatial_rnn.safetensors"):
        assert f"checkpoints/{name}" in result.stdout


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(small_run, monkeypatch):
    """A stage that is forced to run again, with another number of workers, changes nothing.

    Another data seed does.
    """
    folder, _ = small_run
    files = [folder / "data/phase1" / f"{name}.hdf5" for name in ("sima2", "views")]
    before, params = [file.read_bytes() for file in files], folder / "params.yaml"
    shipped = params.read_text()
    with monkeypatch.context() as one_worker:
        one_worker.setenv("GOLDEN_PATH_WORKERS", "1")
        assert run(folder, "stages.phase1_sima2").returncode == 0
    assert [file.read_bytes() for file in files] == before

    changed = shipped.replace("  seed: 0                  # makes the data", "  seed: 7", 1)
    assert changed != shipped
    params.write_text(changed)
    assert run(folder, "stages.phase1_sima2").returncode == 0
    for file, content in zip(files, before, strict=True):
        assert file.read_bytes() != content
        file.write_bytes(content)
    params.write_text(shipped)


# Losses that a training must lower, by curve; the share that is left of the first third's mean.
FALLING = {
    "vision_loss": {"contrastive": 0.85, "reconstruction": 0.8},
    "rnn_loss": {"prediction": 0.8},
    "segmenter_loss": {"boundary": 0.99, "primitive": 0.9},
    "policy_cloning": {"total": 0.3},
    "policy_loss": {"critic": 0.5},
}


@pytest.mark.slow
@pytest.mark.parametrize("curve", FALLING)
def test_every_training_learns(small_run, curve):
    """Even in the few steps of the small preset: the last third of a curve is below its first."""
    folder, _ = small_run
    with (folder / "metrics" / "plots" / f"{curve}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name, share in FALLING[curve].items():
        values = [float(row[name]) for row in rows if row[name]]
        third = len(values) // 3
        first, last = (sum(part) / third for part in (values[:third], values[-third:]))
        assert last < share * first, (name, first, last)


@pytest.mark.slow
def test_the_rnn_learns_what_actions_do(small_run):
    """A loss that falls may be a black picture among its first batches; skill on others is not."""
    folder, _ = small_run
    metrics = json.loads((folder / "metrics" / "rnn.json").read_text())
    assert metrics["skill"]["k8"] > metrics["skill_shuffled_actions"]["k8"] + 0.1
    assert metrics["skill"]["k8"] > 0.3


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_pins_the_arithmetic_by_itself(stage):
    """``dvc repro`` and ``dvc exp run`` start it bare, without the variables of ``make repro``."""
    pinned = {*arithmetic.PORTABLE, *arithmetic.ALWAYS}
    bare = {name: value for name, value in os.environ.items() if name not in pinned}
    look = "from lib.base import arithmetic; assert arithmetic.is_portable()"
    command = [sys.executable, "-c", f"import stages.{stage}; {look}"]
    subprocess.run(command, cwd=ROOT, env=bare, check=True)


@pytest.mark.slow
def test_every_training_gives_the_same_bytes_again(small_run):
    """Each trained stage runs a second time in its place: outs, metrics and curves are equal."""
    folder, _ = small_run
    for stage in ("vision", "rnn", "segmenter", "policy"):
        entry = GRAPH["stages"][stage]
        files = [
            file
            for kind in ("outs", "metrics", "plots")
            for out in paths(entry.get(kind, []))
            for file in ([folder / out] if (folder / out).is_file() else (folder / out).rglob("*"))
            if file.is_file()
        ]
        before = {file: file.read_bytes() for file in files}
        for file in files:
            file.unlink()
        result = run(folder, f"stages.{stage}")
        assert result.returncode == 0, result.stdout
        assert before and all(file.read_bytes() == content for file, content in before.items())


def test_the_environment_and_the_parameters_agree_on_prices():
    """The defaults of make_env are the economics that ship in params.yaml."""
    shipped = load_params("economics").economics.model_dump()
    assert shipped == DEFAULT_PRICES
