"""The runner tells the truth about what DVC did, and says what to do where it cannot start."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib import runner
from lib.base.errors import UserError
from lib.base.paths import ROOT
from lib.params import read_yaml
from tests.interrupt import interrupted

# A stage as lib.base.stage makes it: it records itself, and fails where its input says so.
STAGE = """
import json, sys, time
from pathlib import Path

name, source, out = sys.argv[1:]
record = {"stage": name, "started": time.time(), "seconds": 0.1, "ok": True}
text = Path(source).read_text()
if text == "wait":
    Path("waiting").touch()
    time.sleep(60)
record["ok"] = text != "fail"
Path("timings").mkdir(exist_ok=True)
Path("timings", f"{name}.json").write_text(json.dumps(record))
Path(out).parent.mkdir(exist_ok=True)
Path(out).write_text(json.dumps({"probe": {"min_r2": 0.98765}, "skill": {"k8": len(text)}}))
sys.exit(not record["ok"])
"""

PIPELINE = f"""
stages:
  vision:
    cmd: {sys.executable} stage.py vision input metrics/vision.json
    deps: [input]
    metrics: [metrics/vision.json: {{cache: false}}]
  rnn:
    cmd: {sys.executable} stage.py rnn metrics/vision.json metrics/rnn.json
    deps: [metrics/vision.json]
    metrics: [metrics/rnn.json: {{cache: false}}]
  last:
    cmd: {sys.executable} stage.py last metrics/rnn.json last.json
    deps: [metrics/rnn.json]
    outs: [last.json]
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("template")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=root, check=True)
    shutil.copy(ROOT / ".dvc" / "config", root / ".dvc" / "config")
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "input").write_text("good")
    return root


@pytest.fixture
def repo(template, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return shutil.copytree(template, tmp_path / "repo")


def repro(repo, capfd, *args):
    """Returns the exit code, the rows of the table as stage -> (state, metric), and all output."""
    code = runner.repro(args, root=repo, timings=repo / "timings")
    output = capfd.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")] for line in output.splitlines()]
    return code, {row[1]: (row[2], row[4]) for row in cells if len(row) == 6 and row[1]}, output


def test_ran_cached_failed_and_not_reached(repo, capfd):
    code, rows, output = repro(repo, capfd)
    assert code == 0
    assert rows["vision"] == ("ran", "lowest probe R²: 0.9877")
    assert rows["rnn"][0] == "ran" and rows["rnn"][1].startswith("skill, 8 steps ahead: ")
    assert rows["last"] == ("ran", "")
    assert "total" in rows and "Nothing to do" not in output

    (repo / "timings" / ".vision.1.part.json").write_text("{")  # Left by a killed stage.
    code, rows, output = repro(repo, capfd)
    assert code == 0
    assert [rows[name][0] for name in ("vision", "rnn", "last")] == ["cached"] * 3
    assert rows["vision"][1] == "lowest probe R²: 0.9877"
    assert output.endswith("Nothing to do: all 3 stages are up to date.\n")

    # The inputs of `last` are still as dvc.lock has them, but DVC never came that far.
    (repo / "input").write_text("fail")
    code, rows, _ = repro(repo, capfd)
    assert code != 0
    assert rows["vision"] == ("failed", "")
    assert [rows[name][0] for name in ("rnn", "last")] == ["not reached"] * 2


def test_a_target_leaves_what_follows_unreached(repo, capfd):
    code, rows, _ = repro(repo, capfd, "vision")
    assert code == 0
    assert [rows[name][0] for name in ("vision", "rnn", "last")] == ["ran"] + ["not reached"] * 2


def test_broken_pipeline_is_left_to_dvc_to_explain(repo, capfd):
    (repo / "dvc.yaml").write_text("stages: 3\n")
    assert runner.repro([], root=repo, timings=repo / "timings") != 0
    captured = capfd.readouterr()
    assert "dvc.yaml" in captured.err and "stage" not in captured.out


def test_a_pipeline_that_is_gone_is_left_to_dvc_to_explain(tmp_path, monkeypatch):
    """DVC's exit code is the only answer; no second error comes from reading dvc.yaml."""
    monkeypatch.setattr(runner, "_run_dvc", lambda args, root, env: 0)
    assert runner.repro([], tmp_path, tmp_path / "timings") == 0


def test_a_stage_that_ended_well_without_its_outs_has_failed(tmp_path):
    stages = {"a": {"outs": ["data/a"]}, "b": {"deps": ["data"]}, "c": {}}
    records = {"a": {"ok": True, "seconds": 1.0}}
    rows = runner.stage_rows(stages, records, {"a"}, code=1, root=tmp_path)
    assert [row.state for row in rows] == ["failed", "not reached", "cached"]
    # A stage that is always changed is no failure of a run that ended well.
    rows = runner.stage_rows(stages, records, {"a"}, code=0, root=tmp_path)
    assert rows[0].state == "ran"


def test_every_headline_names_a_stage_and_its_metrics_file():
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    for stage, headline in runner.HEADLINES.items():
        entries = stages[stage].get("outs", []) + stages[stage].get("metrics", [])
        assert headline.file in map(str, runner.paths(entries)), stage


def test_interrupt_is_one_line_and_130(repo):
    (repo / "input").write_text("wait")
    code, errors = interrupted(
        "sys.exit(runner.main([], root, root / 'timings'))",
        str(repo),
        waiting=(repo / "waiting").exists,
    )
    assert code == 130
    assert errors.endswith("\nInterrupted: `make repro` goes on from the finished stages.\n")


def test_the_doctor_says_how_long_a_run_takes(capsys):
    assert runner.main(["doctor"]) == 0
    renders, takes = capsys.readouterr().out.splitlines()
    assert renders == "MuJoCo renders without a display."
    assert 1 < int(takes.split("about ")[1].split()[0]) < 2000


@pytest.mark.skipif(sys.platform != "linux", reason="EGL is Linux's way to render")
def test_no_renderer_is_one_line_and_2(tmp_path):
    env = os.environ | {"MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_DIRS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "lib.runner", "doctor"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1
    for part in ("MUJOCO_GL: egl", "libegl1 libgl1-mesa-dri", "mesa-libEGL"):
        assert part in done.stderr


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        ("import time; time.sleep(30)", "no frame after 0.5 s"),
        ("import os; os.kill(os.getpid(), 11)", "exit code -11"),
    ],
)
def test_a_driver_that_hangs_or_crashes_is_reported(probe, reason):
    with pytest.raises(UserError, match=reason):
        runner.check_rendering(dict(os.environ), (sys.executable, "-c", probe), limit_s=0.5)


def test_python_in_a_command_is_this_one(monkeypatch):
    """Without an activated .venv, `python` in dvc.yaml must still be the one that runs DVC."""
    monkeypatch.setenv("PATH", "/usr/bin")
    folder = str(Path(sys.executable).parent)
    assert runner.environment()["PATH"] == f"{folder}{os.pathsep}/usr/bin"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.97, "1 min 00 s"), (3599.6, "1 h 00 min")],
)
def test_duration(seconds, text):
    assert runner.duration(seconds) == text


def test_dry_run_prints_no_table(repo, capfd):
    code, rows, _ = repro(repo, capfd, "--dry", "vision")
    assert code == 0 and rows == {}
    assert not (repo / "timings").exists()
