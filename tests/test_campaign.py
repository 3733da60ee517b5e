"""A campaign makes each row once, leaves the working tree alone, and tells what it could not do."""

import csv
import re
import shutil
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from lib import campaign, runner
from lib.base.errors import UserError
from lib.base.paths import ROOT
from tests.interrupt import interrupted

# A stage as lib.base.stage makes it. It notes that it ran; training may fail, the gates too.
STAGE = """
import json, os, sys, time
from pathlib import Path
from ruamel.yaml import YAML

name = sys.argv[1]
params = YAML(typ="safe").load(Path("params.yaml"))
with Path(os.environ["STAGE_LOG"]).open("a") as file:
    file.write(name + "\\n")
ok, score = True, params["seed"] + 100 * params["policy"]["lr"]
if name == "data":
    Path("data.txt").write_text(Path("raw/recording").read_text())
elif name == "train":
    ok = params["seed"] != 7
    while Path(os.environ["STAGE_LOG"] + ".wait").exists():
        time.sleep(0.05)
    if ok:
        Path("metrics/train.json").write_text(json.dumps({"a": {"score": score}}))
else:
    ok = json.loads(Path("metrics/train.json").read_text())["a"]["score"] < 2
    if ok:
        Path("metrics/success.json").write_text(json.dumps({"passed": 1}))
timings = Path(os.environ.get("GOLDEN_PATH_WORK", ".work"), "timings")
timings.mkdir(parents=True, exist_ok=True)
record = {"stage": name, "started": time.time(), "seconds": 0.1, "ok": ok}
(timings / f"{name}.json").write_text(json.dumps(record))
sys.exit(not ok)
"""

PIPELINE = """
stages:
  data:
    cmd: python stage.py data
    deps: [stage.py, raw]
    outs: [data.txt]
  train:
    cmd: python stage.py train
    deps: [stage.py, data.txt]
    params: [seed, policy]
    metrics: [metrics/train.json: {cache: false}]
  gates:
    cmd: python stage.py gates
    deps: [stage.py, metrics/train.json]
    metrics: [metrics/success.json: {cache: false}]
"""

SCORE = {"file": "metrics/train.json", "key": "a.score", "worst": "max"}


def git(root, *command):
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *identity, *command], cwd=root, check=True)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("template")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=root, check=True)
    for name in (".dvc/config", ".dvcignore", "params.yaml"):
        shutil.copy(ROOT / name, root / name)
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / ".gitignore").write_text("/data.txt\n.work\n/raw/*.bag\n")
    for folder in ("raw", "metrics", "campaigns", "presets"):
        (root / folder).mkdir()
    (root / "raw" / "recording").write_text("drawer")
    (root / "presets" / "fast.yaml").write_text("policy:\n  lr: 0.01\n")
    # As in Git: those of an older run.
    (root / "metrics" / "train.json").write_text('{"a": {"score": -1.0}}')
    git(root, "add", "-A")
    git(root, "commit", "-qm", "The pipeline")
    return root


@pytest.fixture
def repo(template, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("STAGE_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("GOLDEN_PATH_WORK", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(runner, "check_rendering", lambda env: None)
    return shutil.copytree(template, tmp_path / "repo")


def write_spec(repo, **values):
    values = {"seeds": [0], "metrics": {"score": SCORE}, **values}
    path = repo / "campaigns" / "spec.yaml"
    YAML().dump(values, path)
    return path


def run(repo, path, *options):
    return campaign.main([str(path), *options], root=repo, work=repo / ".work")


def rows(path, *columns):
    with path.with_suffix(".csv").open(newline="") as file:
        return [tuple(row[column] for column in columns) for row in csv.DictReader(file)]


def ran(repo):
    """Returns the stages that ran since the last call."""
    log = repo.parent / "log"
    names = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return names


@pytest.mark.slow
def test_a_row_a_run_and_what_is_there_is_not_made_again(repo, capfd):
    path = write_spec(repo, seeds=[0, 1], variants={"default": {}, "fast": "presets/fast.yaml"})
    assert run(repo, path) == 0
    assert rows(path, "variant", "seed", "score", "passed") == [
        ("default", "0", "0.05", "yes"),
        ("default", "1", "1.05", "yes"),
        ("fast", "0", "1", "yes"),
        ("fast", "1", "2", "no"),  # the gates fail, and the row is there
    ]
    assert sorted(ran(repo)) == ["data"] + ["gates"] * 4 + ["train"] * 4  # data once
    output = capfd.readouterr().out
    assert "fast, commit" in output and "1 of 2 passed the gates" in output
    assert re.search(r"score +│ 2 │ +0.55 │ +1.05 │ +-5.803 │ +6.903", output)

    # Neither the working tree nor its lock file is touched, and no clone stays behind.
    status = subprocess.run(["git", "status", "--short"], cwd=repo, capture_output=True, text=True)
    assert status.stdout.split() == ["??", "campaigns/"]
    assert not list((repo / ".work" / "campaign" / "spec").iterdir())

    # Committing them makes no row old.
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "Rows")
    assert run(repo, path) == 0 and ran(repo) == []
    # A row that got lost comes back from the run cache, metrics included.
    table = path.with_suffix(".csv")
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join([*lines[:2], *lines[3:]]))
    assert run(repo, path) == 0 and ran(repo) == []
    assert rows(path, "score", "passed")[-1] == ("1.05", "yes")

    # Other params under the same name are another row, and so is another commit; the old ones stay.
    capfd.readouterr()
    path = write_spec(repo, variants={"fast": {"policy": {"lr": 0.015}}})
    assert run(repo, path, "--summary") == 0
    assert "0 of 0 passed the gates" in capfd.readouterr().out
    path = write_spec(repo, variants={"fast": "presets/fast.yaml"})
    (repo / "raw" / "recording").write_text("door")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "Another recording")
    assert run(repo, path, "--summary") == 0 and ran(repo) == []
    assert "0 of 0 passed the gates" in capfd.readouterr().out
    assert run(repo, path) == 0 and ran(repo) == ["data", "train"]  # the same score: cached gates
    assert rows(path, "score") == [(score,) for score in ("0.05", "1", "2", "1.05", "1")]
    assert len(set(rows(path, "commit"))) == 2


def test_a_failed_stage_is_named_and_the_rest_goes_on(repo, capfd):
    path = write_spec(repo, seeds=[7, 0])
    assert run(repo, path) == 1
    assert rows(path, "seed", "score") == [("0", "0.05")]  # nothing of the metrics in Git
    captured = capfd.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith("default, seed 7")]
    assert line.startswith("default, seed 7: train failed: no row; see its clone, ")
    assert (repo / ".work" / "campaign" / "spec" / "default-7" / "dvc.yaml").exists()
    assert captured.out.endswith("1 of 2 runs gave no row; the same command tries them again\n")


def test_an_interrupted_run_goes_on_from_its_finished_stages(repo):
    path = write_spec(repo)
    wait, log = repo.parent / "log.wait", repo.parent / "log"
    wait.touch()
    code, errors = interrupted(
        "from lib import campaign; sys.exit(campaign.main(sys.argv[2:], root, root / '.work'))",
        str(repo),
        str(path),
        waiting=lambda: log.exists() and "train" in log.read_text(),
    )
    assert code == 130
    assert errors.endswith("Interrupted: the same command goes on from the finished stages.\n")
    assert ran(repo) == ["data", "train"] and not path.with_suffix(".csv").exists()
    wait.unlink()
    assert run(repo, path) == 0 and ran(repo) == ["train", "gates"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": [0]}, "seed: unknown key"),
        ({"seeds": []}, "seeds: List should have at least 1 item"),
        ({"seeds": [0, "one"]}, "seeds.1: Input should be a valid integer"),
        ({"seeds": [True]}, "seeds.0: Input should be a valid integer"),
        ({"metrics": {"score": SCORE | {"worst": "low"}}}, "metrics.score.worst: Input should be"),
        ({"metrics": {"score": SCORE | {"key": "a.b"}}}, "metrics.score: no number a.b in metrics"),
        ({"metrics": {"x": SCORE | {"file": "x.json"}}}, "metrics.x: no number a.score in x.json"),
        ({"metrics": {"seed": SCORE}}, "metrics.seed: a column of every row has this name"),
        ({"variants": {"fast": {"seed": 1}}}, "variants.fast.seed: remove it"),
        (
            {"variants": {"fast": {"policy": {"pace": 1}}}},
            "variants.fast: policy.pace: unknown key",
        ),
        ({"variants": {"fast": {"policy": {"lr": "x"}}}}, "variants.fast: policy.lr: Input should"),
        ({"variants": {"../x": {}}}, "variants.../x.[key]: String should match"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_its_key(repo, capfd, values, message):
    path = write_spec(repo, **values)
    assert run(repo, path) == 2
    errors = capfd.readouterr().err
    assert message in errors and errors.count("\n") == 1 and "spec.yaml" in errors
    assert ran(repo) == [] and not path.with_suffix(".csv").exists()


def test_what_is_no_specification_is_one_line(repo, capfd):
    path = repo / "campaigns" / "spec.yaml"
    for text, message in (
        ("seeds: [0", "not valid YAML"),
        ("- 0\n", "not a mapping"),
        ("seeds: [0]\n", "metrics: missing; add it"),
    ):
        path.write_text(text)
        assert run(repo, path) == 2
        assert message in capfd.readouterr().err
    assert run(repo, repo / "none.yaml") == 2 and "none.yaml: not found" in capfd.readouterr().err
    assert campaign.main([]) == 2 and "usage" in capfd.readouterr().err
    path = write_spec(repo, variants={"small": "presets/none.yaml"})
    assert run(repo, path) == 2 and "presets/none.yaml: not found" in capfd.readouterr().err
    path.with_suffix(".csv").write_text("<<<<<<< HEAD\nvariant,seed\n")
    assert run(repo, write_spec(repo)) == 2 and "other columns" in capfd.readouterr().err


def test_a_command_that_fails_without_a_word_is_told_by_its_exit_code(tmp_path):
    """What it wrote last is the reason, where it wrote anything."""
    with pytest.raises(UserError, match=r"`sh -c` failed: exit code 3$"):
        campaign._call(tmp_path, "sh", "-c", "exit 3")
    with pytest.raises(UserError, match=r"`sh -c` failed: why$"):
        campaign._call(tmp_path, "sh", "-c", "echo first >&2; echo why >&2; exit 3")


def test_what_a_clone_would_lack_is_refused(repo, capfd):
    path = write_spec(repo)
    (repo / "raw" / "drawer.bag").write_text("ignored by Git")
    assert run(repo, path) == 2
    assert capfd.readouterr().err.startswith("raw/drawer.bag: Git ignores it")
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "raw/drawer.bag"], cwd=repo)
    assert run(repo, path) == 2
    expected = "raw/drawer.bag.dvc: has changes that are not committed"
    assert capfd.readouterr().err.startswith(expected)
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "A recording")
    (repo / "params.yaml").open("a").write("# another\n")
    assert run(repo, path) == 2 and ran(repo) == []
    assert capfd.readouterr().err.startswith("params.yaml: has changes that are not committed")
    git(repo, "checkout", "params.yaml")
    assert run(repo, path) == 0 and len(rows(path, "score")) == 1  # DVC brought the recording
    (repo / "stage.py").open("a").write("# another\n")
    assert run(repo, path) == 2  # though its row is there
    assert run(repo, path, "--summary") == 0


def test_the_interval_is_students():
    # Three values with standard deviation 1: 4.3027 / sqrt(3), from a table of t with 2 degrees.
    assert campaign.summarise([1.0, 2.0, 3.0], "min") == pytest.approx(
        [2.0, 1.0, 2 - 2.4841, 2 + 2.4841], abs=1e-4
    )
    assert campaign.summarise([4.0], "max") == [4.0, 4.0]
    assert campaign.summarise([], "max") == []
    assert campaign.summarise([2.0, 2.0], "max") == [2.0, 2.0, 2.0, 2.0]


def test_the_committed_campaign_covers_the_results_in_the_readme():
    spec = campaign.read_spec(ROOT / "campaigns" / "seeds.yaml")  # its keys exist
    asked = {(metric.file, metric.key) for metric in spec.metrics.values()}
    shown = re.findall(r"\| `(\w+) ([\w.]+)` \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(shown) >= 10
    assert {(f"metrics/{file}.json", key) for file, key in shown} <= asked
