"""Runs the pipeline for several seeds and variants; prints mean, worst value and interval.

    python -m lib.campaign campaigns/seeds.yaml              runs each seed of each variant, in turn
    python -m lib.campaign campaigns/seeds.yaml --summary    prints the existing rows' summary only

A run is ``dvc repro`` in a clean clone of HEAD, so that the working tree and its dvc.lock stay
unchanged. The clone uses the repository's DVC cache, which includes the run cache. So a stage that
depends on neither seed nor variant runs once, and a run that was made before costs nothing.

Each completed run adds a row to the CSV file beside the YAML file. An existing row is not made
again. A row belongs to the last commit that changed a file that the pipeline reads, so committing
the CSV file makes no row outdated.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from pydantic import Field
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from lib import runner
from lib.base.errors import UserError, last_line
from lib.base.files import read_json, write_csv, write_text
from lib.base.paths import ROOT, WORK, relative
from lib.gates import lookup
from lib.params import Section, Seed, apply, read_yaml, validate
from lib.verify import processor

# The pipeline reads these in addition to the sources among the deps in dvc.yaml. lib is not listed
# as a whole: the deps name its modules, and a test checks that they are exact.
ALWAYS_READ = ("dvc.yaml", "params.yaml", "requirements.lock", "stages")

# IDENTITY holds the columns that distinguish rows; the other columns describe the run. The params
# distinguish rows too, because a variant may later be given other params under the same name.
IDENTITY = ("variant", "seed", "commit", "params")
COLUMNS = (*IDENTITY, "processor", "date", "minutes", "passed")

Row = dict[str, Any]


class Metric(Section):
    """Source of a CSV column, and which end of its range is bad."""

    file: str
    key: str
    worst: Literal["min", "max"]


class Spec(Section):
    """Content of a campaign file; a variant holds the params that differ, as in params.yaml."""

    seeds: Annotated[list[Seed], Field(min_length=1)]
    variants: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$")], dict[str, Any]]
    metrics: Annotated[dict[str, Metric], Field(min_length=1)]


def read_spec(path: Path, root: Path = ROOT) -> Spec:
    """Reads a campaign file and checks it against params.yaml and the metrics files.

    Args:
        path: The YAML file.
        root: The repository root.

    Raises:
        UserError: On the first mistake; names the file and the key.
    """
    name, values = relative(path), read_yaml(path)
    if not isinstance(values, Mapping):
        raise UserError(f"{name}: not a mapping; it needs the keys seeds and metrics")
    values = {"variants": {"default": {}}, **values}
    if isinstance(values["variants"], Mapping):
        values["variants"] = {
            variant: (read_yaml(root / params) or {}) if isinstance(params, str) else params
            for variant, params in values["variants"].items()  # a string is the path of a preset
        }
    spec = validate(Spec, values, name)
    for variant, params in spec.variants.items():
        if "seed" in params:
            raise UserError(f"{name}: variants.{variant}.seed: remove it; `seeds` sets the seed")
        with TemporaryDirectory() as folder:
            scratch = Path(shutil.copy(root / "params.yaml", folder))
            _set_params(params, scratch, f"{name}: variants.{variant}")
    for column, metric in spec.metrics.items():
        if column in COLUMNS:
            raise UserError(
                f"{name}: metrics.{column}: a column of every row has this name; choose another one"
            )
        if _number(root, metric) is None:
            where = f"{name}: metrics.{column}: no number {metric.key} in {metric.file}"
            raise UserError(f"{where}; correct it, or `make repro` first if it is new")
    return spec


def _number(root: Path, metric: Metric) -> float | None:
    """Returns a metric of the repository at ``root``, or None if the file has no such number."""
    try:
        return lookup(read_json(root / metric.file), metric.key, root / metric.file)
    except (OSError, UserError):
        return None


def _set_params(values: Mapping[str, Any], params: Path, name: str) -> None:
    """Writes values over a parameter file; error messages give ``name`` as their origin."""
    with TemporaryDirectory() as folder:
        preset = Path(folder) / "preset.yaml"
        write_text(preset, json.dumps(values, default=str))  # JSON is YAML
        try:
            apply(preset, params)
        except UserError as error:
            raise UserError(str(error).replace(relative(preset), name)) from None


def _call(root: Path, *command: str) -> str:
    """Returns what a command prints; ``dvc`` runs with this Python interpreter."""
    python = (sys.executable, "-m") if command[0] == "dvc" else ()
    done = subprocess.run(
        (*python, *command), cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip()
        reason = last_line(said) if said else f"exit code {done.returncode}"
        raise UserError(f"`{' '.join(command[:2])}` failed: {reason}")
    return done.stdout.rstrip("\n")


def _files(root: Path, *options: str) -> set[str]:
    """Returns the paths that ``git ls-files`` lists."""
    return set(_call(root, "git", "ls-files", "-z", *options).split("\0")) - {""}


def _sources(root: Path) -> list[str]:
    """Returns the deps in dvc.yaml that no stage produces: code and recordings."""
    stages = read_yaml(root / "dvc.yaml")["stages"].values()
    kinds = ("outs", "metrics", "plots")
    outs = [out for stage in stages for kind in kinds for out in runner.paths(stage.get(kind, []))]
    deps = {dep for stage in stages for dep in runner.paths(stage.get("deps", []))}
    return sorted(
        str(dep)
        for dep in deps
        if not any(dep.is_relative_to(out) or out.is_relative_to(dep) for out in outs)
    )


def _check_committed(root: Path, read: Sequence[str]) -> None:
    """Raises an error if the pipeline reads files or changes that a clone of HEAD would lack."""
    changed = _call(root, "git", "status", "--porcelain", "-z", "--", *ALWAYS_READ, *read)
    if changed:
        file = changed.split("\0")[0][3:]
        raise UserError(
            f"{file}: has changes that are not committed; commit or stash them, because a row "
            "belongs to a commit"
        )
    # A file that Git ignores is no problem if DVC ignores it too, or if DVC can restore it because
    # its .dvc file is in the commit.
    ignored = _files(root, "-oi", "--exclude-standard", "--", *read)
    ignored -= _files(root, "-oi", "--exclude-from=.dvcignore", "--", *read)
    tracked = {file.removesuffix(".dvc") for file in _files(root, "--", "*.dvc")}
    for file in sorted(ignored):
        if not tracked & {file, *map(str, Path(file).parents)}:
            way_out = "`dvc add` it and commit its .dvc file"
            raise UserError(f"{file}: Git ignores it, so a clone lacks it; {way_out}")


def read_rows(path: Path) -> list[Row]:
    """Returns the rows of a campaign's CSV file; an empty list if the file does not exist.

    Args:
        path: The CSV file.

    Raises:
        UserError: If a row lacks a column or has surplus cells.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values() or not set(COLUMNS) <= set(row):
            raise UserError(f"{relative(path)}: row {number} has other columns; mend or remove it")
    return rows


def run_one(params: Mapping[str, Any], head: str, folder: Path, root: Path = ROOT) -> bool:
    """Runs the pipeline in a clean clone and returns whether the gates passed.

    Args:
        params: Params that differ from params.yaml, including the seed.
        head: The commit to clone.
        folder: Folder of the clone; emptied first.
        root: The repository root.

    Raises:
        UserError: If anything other than the gates failed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    _call(root, "git", "clone", "--quiet", "--shared", "--no-checkout", str(root), str(folder))
    _call(folder, "git", "checkout", "--quiet", "--detach", head)
    _call(folder, "dvc", "cache", "dir", "--local", _call(root, "dvc", "cache", "dir"))
    if recordings := _files(folder, "--", "*.dvc"):
        _call(folder, "dvc", "checkout", *recordings)
    _set_params(params, folder / "params.yaml", "params.yaml")
    timings = folder / ".work" / "timings"
    if runner.repro([], folder, timings) == 0:
        return True
    # Gates that fail write no output, so their stage stays unfinished. If all other stages are up
    # to date, the metrics are those of this run.
    if runner.changed_stages(folder, runner.environment()) == {"gates"}:
        return False
    records = runner.stage_records(timings, since=0)
    stages = ", ".join(sorted(name for name, record in records.items() if not record["ok"]))
    raise UserError(f"{stages or 'dvc repro'} failed: no row; see its clone, {relative(folder)}")


def summarise(values: Sequence[float], worst: str) -> list[float]:
    """Returns mean, worst value and, for two or more values, Student's 95 % interval of the mean.

    Args:
        values: One value per run.
        worst: Which end of the range is bad: ``min`` or ``max``.
    """
    n = len(values)
    if n == 0:
        return []
    numbers = [fmean(values), min(values) if worst == "min" else max(values)]
    if n == 1:
        return numbers
    half = float(student.ppf(0.975, n - 1)) * stdev(values) / n**0.5
    return [*numbers, numbers[0] - half, numbers[0] + half]


def _print_summary(spec: Spec, csv_file: Path, commit: str) -> None:
    """Prints one table per variant, from the rows of one commit."""
    rows = read_rows(csv_file)
    for variant in spec.variants:
        wanted = (variant, commit, _text(spec, variant))
        mine = [row for row in rows if (row["variant"], row["commit"], row["params"]) == wanted]
        passed = sum(row["passed"] == "yes" for row in mine)
        table = Table()
        table.add_column("metric")
        for heading in ("n", "mean", "worst", "95 % from", "to"):
            table.add_column(heading, justify="right", no_wrap=True)
        for column, metric in spec.metrics.items():
            try:
                values = [float(row[column]) for row in mine if row.get(column)]
            except ValueError as error:
                raise UserError(f"{relative(csv_file)}: {column}: {error}; mend the cell") from None
            numbers = summarise(values, metric.worst)
            table.add_row(column, str(len(values)), *(f"{number:.4g}" for number in numbers))
        print(f"\n{variant}, commit {commit}: {passed} of {len(mine)} passed the gates", flush=True)
        Console(highlight=False).print(table)


def _text(spec: Spec, variant: str) -> str:
    """Returns the params of a variant as its rows hold them: as JSON text."""
    return json.dumps(spec.variants[variant], default=str)


def _identity(row: Row) -> tuple[str, ...]:
    return tuple(str(row[column]) for column in IDENTITY)


def campaign(path: Path, *, run: bool, root: Path = ROOT, work: Path = WORK) -> int:
    """Makes the missing rows and prints the summary; returns 1 if a run gave no row, else 0.

    Args:
        path: The YAML file; the CSV file has the same name.
        run: Whether to make the missing rows; False prints the summary only.
        root: The repository root.
        work: Folder in which the clones are made.

    Raises:
        UserError: If the campaign cannot be run.
    """
    spec, csv_file, read = read_spec(path, root), path.with_suffix(".csv"), _sources(root)
    last = ("git", "log", "-1", "--format=%h", "--abbrev=12", "--")
    commit = _call(root, *last, *ALWAYS_READ, *read)
    if run:
        _check_committed(root, read)
    done = {_identity(row) for row in read_rows(csv_file)}
    asked: list[Row] = [
        dict(zip(IDENTITY, (variant, seed, commit, _text(spec, variant)), strict=True))
        for variant in spec.variants
        for seed in dict.fromkeys(spec.seeds)
    ]
    missing = [row for row in asked if _identity(row) not in done] if run else []
    if missing:
        head = _call(root, "git", "rev-parse", "HEAD")  # a commit made meanwhile has no effect
        os.environ.pop("GOLDEN_PATH_WORK", None)  # each clone uses its own working folder
        runner.check_rendering(runner.environment())
    failures = 0
    for number, row in enumerate(missing, start=1):
        name, started = f"{row['variant']}, seed {row['seed']}", time.monotonic()
        print(f"{name}: run {number} of {len(missing)}", flush=True)
        folder = work / "campaign" / path.stem / f"{row['variant']}-{row['seed']}"
        try:
            passed = run_one(
                spec.variants[row["variant"]] | {"seed": row["seed"]}, head, folder, root
            )
        except (UserError, subprocess.CalledProcessError) as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            failures += 1
            continue
        row |= {"processor": processor(), "date": date.today().isoformat()}
        row |= {"minutes": round((time.monotonic() - started) / 60, 1)}
        row |= {"passed": "yes" if passed else "no"}
        # A variant may lack a metric: its cell stays empty, and n in the summary is smaller.
        row |= {column: _number(folder, metric) for column, metric in spec.metrics.items()}
        write_csv(csv_file, [*read_rows(csv_file), row])
        shutil.rmtree(folder)
    _print_summary(spec, csv_file, commit)
    if failures:
        print(f"{failures} of {len(missing)} runs gave no row; the same command tries them again")
    return int(failures > 0)


def main(argv: Sequence[str], root: Path = ROOT, work: Path = WORK) -> int:
    """Runs a campaign and returns the exit code: 2 for a user's mistake, 130 for Ctrl-C.

    Args:
        argv: The YAML file, and optionally ``--summary``.
        root: The repository root.
        work: Folder in which the clones are made.
    """
    files = [word for word in argv if word != "--summary"]
    try:
        if len(files) != 1 or files[0].startswith("-"):
            raise UserError("usage: python -m lib.campaign SPEC [--summary]")
        return campaign(Path(files[0]), run="--summary" not in argv, root=root, work=work)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nInterrupted: the same command goes on from the finished stages.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
