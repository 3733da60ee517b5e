"""Runs the pipeline and reports the result of each stage; ``make repro`` calls it.

    python -m lib.runner                  runs dvc repro, then prints a table of the stages
    python -m lib.runner -f vision        the same with options and targets for dvc repro
    python -m lib.runner doctor           checks that MuJoCo renders, estimates the time of a run

The table combines three sources: ``dvc.yaml`` (the stages and their order), the record that each
stage writes to ``.work/timings`` (whether it ran, and for how long), and the metrics files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from lib.base.errors import UserError, last_line
from lib.base.paths import PARAMS, ROOT, TIMINGS
from lib.params import parse_params, read_yaml

# Software EGL needs about one second. A driver that takes this long is considered broken.
RENDER_LIMIT_S = 60.0

# With these options dvc repro runs no stage, so no table is printed.
SILENT_OPTIONS = {"-h", "--help", "--dry"}

COLOURS = {"ran": "green", "cached": "dim", "failed": "red", "not reached": "yellow"}


class Headline(NamedTuple):
    """The metric that the table shows for a stage.

    Attributes:
        file: Path of the metrics file from the repository root.
        key: Dotted key of the metric in that file.
        label: Name of the metric in the table.
    """

    file: str
    key: str
    label: str


HEADLINES = {
    "phase1_manifest": Headline("metrics/phase1.json", "episodes", "episodes"),
    "vision": Headline("metrics/vision.json", "probe.min_r2", "lowest probe R²"),
    "rnn": Headline("metrics/rnn.json", "skill.k8", "skill, 8 steps ahead"),
    "segmenter": Headline("metrics/segmenter.json", "boundary_f1", "boundary F1"),
    "policy": Headline("metrics/policy.json", "best_step", "best step"),
    "evaluate": Headline("metrics/evaluate.json", "policy.success_any", "success rate"),
    "gates": Headline("metrics/success.json", "passed", "gates passed"),
}


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        stage: Name of the stage in dvc.yaml.
        state: A key of COLOURS.
        seconds: Time that the stage took in this run; None if it did not run.
        metric: Headline metric as text; empty if the stage has none or did not finish.
    """

    stage: str
    state: str
    seconds: float | None
    metric: str


def environment() -> dict[str, str]:
    """Returns the caller's environment with the folder of this Python first in PATH, for stages.

    The commands in dvc.yaml call ``python``. Without an activated .venv that would be another
    interpreter.
    """
    folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([folder, os.environ.get("PATH", "")])}


def render_one_frame() -> None:
    """Renders a lit sphere; runs in a child process, because a broken driver can crash or hang."""
    try:
        import lib.sim  # noqa: F401  Chooses the OpenGL backend.

        import mujoco  # isort: skip

        model = mujoco.MjModel.from_xml_string(
            "<mujoco><worldbody><light pos='0 0 3'/><geom size='.1'/></worldbody></mujoco>"
        )
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        with mujoco.Renderer(model, 16, 16) as renderer:
            renderer.update_scene(data)
            if renderer.render().max() == 0:
                raise RuntimeError("the frame is black")
    except Exception as error:  # Any error means that rendering does not work.
        sys.stdout.write(f"{error}".split(". ")[0])
        sys.exit(1)


PROBE = (sys.executable, "-c", "from lib import runner; runner.render_one_frame()")


# A child process that imports lib first, so that the arithmetic of the numerical libraries is set
# as in a stage.
ESTIMATE = (
    sys.executable,
    "-c",
    "from lib import estimate; print(estimate.minutes(estimate.measure()))",
)


def check_rendering(
    env: Mapping[str, str], probe: Sequence[str] = PROBE, limit_s: float = RENDER_LIMIT_S
) -> None:
    """Checks in a child process that a frame can be rendered.

    Args:
        env: Environment of the child process.
        probe: Command line of the child process, which prints the reason on stdout if it fails.
        limit_s: Time limit of the child process, s.

    Raises:
        UserError: If no frame was rendered; names the packages that provide software rendering.
    """
    try:
        child = subprocess.run(
            probe, cwd=ROOT, env=env, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        reason = f"no frame after {limit_s:g} s"
    else:
        if child.returncode == 0:
            return
        reason = " ".join(child.stdout.split()) or f"exit code {child.returncode}"
    backend = env.get("MUJOCO_GL", "the default")
    message = f"MuJoCo cannot render without a display (MUJOCO_GL: {backend}; {reason})."
    if sys.platform == "linux":
        message += (
            " Debian, Ubuntu: apt-get install libegl1 libgl1-mesa-dri."
            " Fedora: dnf install mesa-libEGL mesa-dri-drivers."
        )
    raise UserError(message)


def estimated_minutes() -> float:
    """Returns the estimated minutes of a run with nothing cached, measured in a child process.

    Raises:
        UserError: If the measurement failed.
    """
    child = subprocess.run(ESTIMATE, cwd=ROOT, env=environment(), capture_output=True, text=True)
    if child.returncode:
        reason = last_line(child.stderr)
        raise UserError(f"the speed of this machine could not be measured: {reason}")
    return float(child.stdout)


def _run_dvc(args: Sequence[str], root: Path, env: Mapping[str, str]) -> int:
    """Runs ``dvc repro`` in this terminal and returns its exit code."""
    process = subprocess.Popen((sys.executable, "-m", "dvc", "repro", *args), cwd=root, env=env)
    try:
        return process.wait()
    except KeyboardInterrupt:
        # DVC and the stage received the same Ctrl-C. Wait until they end and release their locks.
        process.wait()
        raise


def changed_stages(root: Path, env: Mapping[str, str]) -> set[str]:
    """Returns the stages that DVC reports as changed, without those that only depend on them.

    Args:
        root: The repository root.
        env: Environment of the DVC process.
    """
    status = subprocess.run(
        (sys.executable, "-m", "dvc", "status", "--json"),
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(status.stdout))


def paths(entries: Sequence[str | Mapping[str, Any]]) -> Iterator[PurePosixPath]:
    """Yields the paths of a ``deps`` or ``outs`` list; an item may be ``path: {options}``.

    Args:
        entries: The list.
    """
    for entry in entries:
        yield PurePosixPath(entry if isinstance(entry, str) else next(iter(entry)))


def _with_followers(stages: Mapping[str, Any], changed: set[str]) -> set[str]:
    """Returns the changed stages and all stages that depend on them, directly or indirectly.

    ``dvc status`` only compares files. It reports a stage as up to date even if the inputs of that
    stage have yet to be remade.
    """
    stale: set[str] = set()
    stale_outs: list[PurePosixPath] = []
    for name, stage in stages.items():
        deps = paths(stage.get("deps", []))
        if name in changed or any(
            dep.is_relative_to(out) or out.is_relative_to(dep) for dep in deps for out in stale_outs
        ):
            stale.add(name)
            for kind in ("outs", "metrics", "plots"):
                stale_outs += paths(stage.get(kind, []))
    return stale


def _metric(stage: str, root: Path) -> str:
    """Returns the headline metric of a finished stage as text; empty if the stage has none."""
    if stage not in HEADLINES:
        return ""
    file, key, label = HEADLINES[stage]
    try:
        value = json.loads((root / file).read_text())
        for part in key.split("."):
            value = value[part]
    except (FileNotFoundError, KeyError):
        return f"{label}: not in {file}"
    if isinstance(value, bool):
        return f"{label}: {'yes' if value else 'no'}"
    return f"{label}: {value:,}" if isinstance(value, int) else f"{label}: {value:.4g}"


def stage_records(timings: Path, since: float) -> dict[str, dict[str, Any]]:
    """Returns the records that the stages wrote, by name of the stage.

    Args:
        timings: Folder with the records.
        since: Unix time, s. Records of stages that began earlier are left out.
    """
    # Names that begin with a dot are scratch files of stages that were killed while writing.
    records = [json.loads(path.read_text()) for path in timings.glob("[!.]*.json")]
    return {record["stage"]: record for record in records if record["started"] >= since}


def stage_rows(
    stages: Mapping[str, Any],
    records: Mapping[str, Mapping[str, Any]],
    changed: set[str],
    code: int,
    root: Path,
) -> list[Row]:
    """Returns the table row of each stage.

    Args:
        stages: The ``stages`` of dvc.yaml, where each stage stands below those it depends on.
        records: Records of the stages in this run, by name.
        changed: Stages that DVC reports as changed after the run.
        code: Exit code of DVC.
        root: The repository root.
    """
    # If the run failed, a stage that succeeded but is still changed did not write all its outs.
    failed = {
        name
        for name, record in records.items()
        if not record["ok"] or (code != 0 and name in changed)
    }
    stale = _with_followers(stages, changed | failed)
    rows = []
    for name in stages:
        seconds = records[name]["seconds"] if name in records else None
        if name in failed:
            state = "failed"
        elif name in records:
            state = "ran"
        else:
            state = "not reached" if name in stale else "cached"
        done = state in ("ran", "cached")
        rows.append(Row(name, state, seconds, _metric(name, root) if done else ""))
    return rows


def duration(seconds: float) -> str:
    """Returns a duration in readable form: ``4.2 s``, ``3 min 05 s``, ``1 h 20 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _table(rows: Sequence[Row], total_s: float) -> Table:
    """Returns the table to print."""
    table = Table(show_footer=True)
    table.add_column("stage", "total", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("wall time", duration(total_s), justify="right", no_wrap=True)
    table.add_column("headline metric")
    for row in rows:
        seconds = "" if row.seconds is None else duration(row.seconds)
        colour = COLOURS[row.state]
        table.add_row(row.stage, f"[{colour}]{row.state}[/]", seconds, row.metric)
    return table


def repro(args: Sequence[str], root: Path = ROOT, timings: Path = TIMINGS) -> int:
    """Runs ``dvc repro`` and prints the table.

    Args:
        args: Options and targets for ``dvc repro``.
        root: The repository root.
        timings: Folder with the records of the stages.

    Returns:
        DVC's exit code.
    """
    env = environment()
    started, clock = time.time(), time.monotonic()
    code = _run_dvc(args, root, env)
    if SILENT_OPTIONS & set(args):
        return code
    try:
        # After a full run without errors no stage can be changed. Not asking DVC saves a second.
        changed = changed_stages(root, env) if code or args else set()
        stages = read_yaml(root / "dvc.yaml")["stages"]
    except (OSError, UserError, subprocess.CalledProcessError):
        return code  # DVC could not read the pipeline and has printed the reason.
    rows = stage_rows(stages, stage_records(timings, started), changed, code, root)
    console = Console(highlight=False)
    console.print(_table(rows, time.monotonic() - clock))
    if all(row.state == "cached" for row in rows) and code == 0:
        console.print(f"Nothing to do: all {len(rows)} stages are up to date.")
    return code


def main(argv: Sequence[str], root: Path = ROOT, timings: Path = TIMINGS) -> int:
    """Checks the renderer, runs the pipeline, and returns the exit code.

    Args:
        argv: ``doctor``, or the options and targets for ``dvc repro``.
        root: The repository root.
        timings: Folder with the records of the stages.
    """
    try:
        check_rendering(environment())
        if list(argv) == ["doctor"]:
            sys.stdout.write("MuJoCo renders without a display.\n")
            about = f"about {estimated_minutes():.0f} minutes here"
            sys.stdout.write(f"`make repro` takes {about}, from nothing.\n")
            return 0
        if root == ROOT:
            parse_params(read_yaml(PARAMS))  # all sections: a stage checks only its own
        return repro(argv, root, timings)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted: `make repro` goes on from the finished stages.\n")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
