"""Runs the pipeline and says what came of it; ``make repro`` calls it.

    python -m lib.runner                  dvc repro, then a table of the stages
    python -m lib.runner -f vision        the same with options and targets for dvc repro
    python -m lib.runner doctor           checks that MuJoCo renders, and says how long a run takes

The table comes from three places: ``dvc.yaml`` (the stages, in order), the record that each stage
leaves in ``.work/timings`` (whether it ran, and how long), and the metrics files.
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
from ruamel.yaml import YAML

from lib.errors import UserError
from lib.paths import ROOT, TIMINGS

# Software EGL needs about a second; a driver that hangs is broken.
RENDER_LIMIT_S = 60.0

# With these, dvc repro runs nothing that a table could tell of.
SILENT_OPTIONS = {"-h", "--help", "--dry"}

COLOURS = {"ran": "green", "cached": "dim", "failed": "red", "not reached": "yellow"}


class Headline(NamedTuple):
    """The one number that stands for a stage.

    Attributes:
        file: Metrics file, from the repository root.
        key: Dotted path into it.
        label: What the number is.
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
        stage: Its name in dvc.yaml.
        state: A key of COLOURS.
        seconds: How long it took in this run, None if it did not run.
        metric: Its headline, empty if it has none or did not finish.
    """

    stage: str
    state: str
    seconds: float | None
    metric: str


def environment() -> dict[str, str]:
    """Returns the environment for the stages: the caller's, this Python's folder first in PATH.

    The commands in dvc.yaml say ``python``; without an activated .venv that is another one.
    """
    folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([folder, os.environ.get("PATH", "")])}


def render_one_frame() -> None:
    """Renders a lit sphere; run in a child, because a broken driver can crash or hang."""
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
    except Exception as error:  # Whatever it is, it is the answer.
        sys.stdout.write(f"{error}".split(". ")[0])
        sys.exit(1)


PROBE = (sys.executable, "-c", "from lib import runner; runner.render_one_frame()")


# Stages set how the libraries compute before those are imported: so does this.
ESTIMATE = (
    sys.executable,
    "-c",
    "import stages; from lib import estimate; print(estimate.minutes(estimate.measure()))",
)


def check_rendering(
    env: Mapping[str, str], probe: Sequence[str] = PROBE, limit_s: float = RENDER_LIMIT_S
) -> None:
    """Renders one frame in a child process.

    Args:
        env: Environment of the child.
        probe: Its command line; it prints the reason on stdout if it fails.
        limit_s: Seconds until it is given up.

    Raises:
        UserError: If no frame came, with the packages that bring software rendering.
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
    """Returns about how many minutes a run takes from nothing; measured in a child process.

    Raises:
        UserError: If the measurement failed.
    """
    child = subprocess.run(ESTIMATE, cwd=ROOT, env=environment(), capture_output=True, text=True)
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the speed of this machine could not be measured: {reason}")
    return float(child.stdout)


def _run_dvc(args: Sequence[str], root: Path, env: Mapping[str, str]) -> int:
    """Runs ``dvc repro`` on this terminal and returns its exit code."""
    process = subprocess.Popen((sys.executable, "-m", "dvc", "repro", *args), cwd=root, env=env)
    try:
        return process.wait()
    except KeyboardInterrupt:
        # DVC and the stage got the same Ctrl-C: let them write their snapshot, drop their locks.
        process.wait()
        raise


def changed_stages(root: Path, env: Mapping[str, str]) -> set[str]:
    """Returns the stages that DVC would run now, not counting those that only follow from them.

    Args:
        root: The repository root.
        env: Environment of DVC.
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
    """Yields the paths of a ``deps`` or ``outs`` list, whose items may be ``path: {options}``.

    Args:
        entries: The list.
    """
    for entry in entries:
        yield PurePosixPath(entry if isinstance(entry, str) else next(iter(entry)))


def _with_followers(stages: Mapping[str, Any], changed: set[str]) -> set[str]:
    """Returns ``changed`` and every stage below one of them in the graph.

    ``dvc status`` compares files: it calls a stage up to date whose inputs are yet to be remade.
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
    """Returns the headline of a finished stage as text, empty if it has none."""
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
    """Returns what the stages wrote down, by name.

    Args:
        timings: Folder with the records.
        since: Unix seconds; stages that began earlier are left out.
    """
    # A dot begins the scratch file of a stage that was killed while it wrote.
    records = [json.loads(path.read_text()) for path in timings.glob("[!.]*.json")]
    return {record["stage"]: record for record in records if record["started"] >= since}


def stage_rows(
    stages: Mapping[str, Any],
    records: Mapping[str, Mapping[str, Any]],
    changed: set[str],
    code: int,
    root: Path,
) -> list[Row]:
    """Returns what became of each stage.

    Args:
        stages: The ``stages`` of dvc.yaml; a stage stands below those it depends on.
        records: What the stages of this run wrote down, by name.
        changed: Stages that DVC finds changed after the run.
        code: DVC's exit code.
        root: The repository root.
    """
    # In a run that failed, a stage that ended well and is still changed lacks one of its outs.
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
    """Returns seconds as a person says them: ``4.2 s``, ``3 min 05 s``, ``1 h 20 min``."""
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
        # After a plain success nothing is left to ask, and a second is saved.
        changed = changed_stages(root, env) if code or args else set()
        stages = YAML(typ="safe").load(root / "dvc.yaml")["stages"]
    except (OSError, subprocess.CalledProcessError):
        return code  # DVC could not read the pipeline and has said why.
    rows = stage_rows(stages, stage_records(timings, started), changed, code, root)
    console = Console(highlight=False)
    console.print(_table(rows, time.monotonic() - clock))
    if all(row.state == "cached" for row in rows) and code == 0:
        console.print(f"Nothing to do: all {len(rows)} stages are up to date.")
    return code


def main(argv: Sequence[str], root: Path = ROOT, timings: Path = TIMINGS) -> int:
    """Checks the renderer, runs the pipeline, and returns the exit code.

    Args:
        argv: ``doctor``, or what goes to ``dvc repro``.
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
        return repro(argv, root, timings)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted: `make repro` goes on from the finished stages.\n")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
