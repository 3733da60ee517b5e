"""Runs the pipeline over seeds and variants, and says what came of it: mean, worst, interval.

    python -m lib.campaign campaigns/seeds.yaml              every seed of every variant, in turn
    python -m lib.campaign campaigns/seeds.yaml --summary    what the rows there say; runs nothing

A run is ``dvc repro`` in a clean clone of HEAD, so that the working tree and its dvc.lock stay as
they are. The clone uses the repository's DVC cache, which holds the run cache too: a stage that
depends on neither seed nor variant runs once, and a run that was made before costs nothing.

Each run that ends adds a row to the CSV beside the file; a row that is there is not made again. It
belongs to the last commit that changed what the pipeline reads: committing the CSV makes none old.
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

from pydantic import Field, ValidationError
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from lib import runner
from lib.errors import UserError
from lib.evaluation.gates import lookup
from lib.files import read_json, write_csv, write_text
from lib.params import Section, Seed, apply, read_yaml
from lib.paths import ROOT, WORK, relative
from lib.verify import processor

# Besides the sources among the deps in dvc.yaml. Not all of lib: a test holds the deps exact.
ALWAYS_READ = ("dvc.yaml", "params.yaml", "requirements.lock", "stages")

# What makes a row, and then how the run went. The params are there because a variant may get other
# ones under the same name.
IDENTITY = ("variant", "seed", "commit", "params")
COLUMNS = (*IDENTITY, "processor", "date", "minutes", "passed")

Row = dict[str, Any]


class Metric(Section):
    """Where a column comes from, and which end of it is the bad one."""

    file: str
    key: str
    worst: Literal["min", "max"]


class Spec(Section):
    """What is asked; a variant is the params that differ, nested as in params.yaml."""

    seeds: Annotated[list[Seed], Field(min_length=1)]
    variants: dict[Annotated[str, Field(pattern=r"^\w[\w.-]*$")], dict[str, Any]]
    metrics: Annotated[dict[str, Metric], Field(min_length=1)]


def read_spec(path: Path, root: Path = ROOT) -> Spec:
    """Reads what is asked and checks it against params.yaml and the metrics files.

    Args:
        path: The YAML file.
        root: The repository root.

    Raises:
        UserError: On the first mistake, naming the file and the key.
    """
    name, values = relative(path), read_yaml(path)
    if not isinstance(values, Mapping):
        raise UserError(f"{name}: not a mapping; it needs the keys seeds and metrics")
    values = {"variants": {"default": {}}, **values}
    if isinstance(values["variants"], Mapping):
        values["variants"] = {
            variant: (read_yaml(root / params) or {}) if isinstance(params, str) else params
            for variant, params in values["variants"].items()  # text is the path of a preset
        }
    try:
        spec = Spec.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        known = {"extra_forbidden": "unknown key; remove it", "missing": "missing; add it"}
        what = known.get(first["type"]) or f"{first['msg']} (given: {first['input']!r})"
        raise UserError(f"{name}: {'.'.join(map(str, first['loc']))}: {what}") from None
    for variant, params in spec.variants.items():
        if "seed" in params:
            raise UserError(f"{name}: variants.{variant}.seed: remove it; `seeds` sets the seed")
        with TemporaryDirectory() as folder:
            scratch = Path(shutil.copy(root / "params.yaml", folder))
            _set_params(params, scratch, f"{name}: variants.{variant}")
    for column, metric in spec.metrics.items():
        if column in COLUMNS:
            raise UserError(f"{name}: metrics.{column}: the column is taken; give another name")
        if _number(root, metric) is None:
            where = f"{name}: metrics.{column}: no number {metric.key} in {metric.file}"
            raise UserError(f"{where}; correct it, or `make repro` first if it is new")
    return spec


def _number(root: Path, metric: Metric) -> float | None:
    """Returns a metric of the repository at ``root``, None if it has no such number."""
    try:
        return lookup(read_json(root / metric.file), metric.key, root / metric.file)
    except (OSError, UserError):
        return None


def _set_params(values: Mapping[str, Any], params: Path, name: str) -> None:
    """Writes values over a parameter file; ``name`` says in an error where they are from."""
    with TemporaryDirectory() as folder:
        preset = Path(folder) / "preset.yaml"
        write_text(preset, json.dumps(values, default=str))  # JSON is YAML
        try:
            apply(preset, params)
        except UserError as error:
            raise UserError(str(error).replace(relative(preset), name)) from None


def _call(root: Path, *command: str) -> str:
    """Returns what a command prints; ``dvc`` is that of this Python."""
    python = (sys.executable, "-m") if command[0] == "dvc" else ()
    done = subprocess.run(
        (*python, *command), cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"`{' '.join(command[:2])}` failed: {reason}")
    return done.stdout.rstrip("\n")


def _files(root: Path, *options: str) -> set[str]:
    """Returns what ``git ls-files`` lists."""
    return set(_call(root, "git", "ls-files", "-z", *options).split("\0")) - {""}


def _sources(root: Path) -> list[str]:
    """Returns the deps in dvc.yaml that no stage makes: code and recordings."""
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
    """Refuses a working tree in which the pipeline reads what a clone of HEAD lacks."""
    changed = _call(root, "git", "status", "--porcelain", "-z", "--", *ALWAYS_READ, *read)
    if changed:
        file = changed.split("\0")[0][3:]
        raise UserError(f"{file}: not committed as it is; commit or stash it: a row is of a commit")
    # Of what Git ignores, DVC ignores some too, and has some whose .dvc file is in the commit.
    ignored = _files(root, "-oi", "--exclude-standard", "--", *read)
    ignored -= _files(root, "-oi", "--exclude-from=.dvcignore", "--", *read)
    tracked = {file.removesuffix(".dvc") for file in _files(root, "--", "*.dvc")}
    for file in sorted(ignored):
        if not tracked & {file, *map(str, Path(file).parents)}:
            way_out = "`dvc add` it and commit its .dvc file"
            raise UserError(f"{file}: Git ignores it, so a clone lacks it; {way_out}")


def read_rows(path: Path) -> list[Row]:
    """Returns the rows of a campaign's CSV, none if it is not there.

    Args:
        path: The CSV.

    Raises:
        UserError: If a row lacks a column.
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
        params: What differs from params.yaml, the seed included.
        head: The commit to clone.
        folder: Where; emptied first.
        root: The repository root.

    Raises:
        UserError: If anything but the gates failed.
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
    # Without a pass the gates leave no out. With all else up to date, the metrics are this run's.
    if runner.changed_stages(folder, runner.environment()) == {"gates"}:
        return False
    records = runner.stage_records(timings, since=0)
    stages = ", ".join(sorted(name for name, record in records.items() if not record["ok"]))
    raise UserError(f"{stages or 'dvc repro'} failed: no row; see its clone, {relative(folder)}")


def summarise(values: Sequence[float], worst: str) -> list[float]:
    """Returns mean, worst, and from two values on Student's 95 % interval of the mean.

    Args:
        values: One a run.
        worst: ``min`` or ``max``: the bad end.
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
    """Prints a table a variant over the rows of a commit."""
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
    """Returns the params of a variant as they stand in its rows."""
    return json.dumps(spec.variants[variant], default=str)


def _identity(row: Row) -> tuple[str, ...]:
    return tuple(str(row[column]) for column in IDENTITY)


def campaign(path: Path, *, run: bool, root: Path = ROOT, work: Path = WORK) -> int:
    """Makes the rows that are missing and prints the summary; 1 if a run gave no row, else 0.

    Args:
        path: The YAML file; the CSV has the same name.
        run: False for the summary alone.
        root: The repository root.
        work: Folder for the clones.

    Raises:
        UserError: If nothing can be run.
    """
    spec, csv_file, read = read_spec(path, root), path.with_suffix(".csv"), _sources(root)
    last = ("git", "log", "-1", "--format=%h", "--abbrev=12", "--")
    commit = _call(root, *last, *ALWAYS_READ, *read)
    if run:
        _check_committed(root, read)
    done = {_identity(row) for row in read_rows(csv_file)}
    asked = [
        dict(zip(IDENTITY, (variant, seed, commit, _text(spec, variant)), strict=True))
        for variant in spec.variants
        for seed in dict.fromkeys(spec.seeds)
    ]
    missing = [row for row in asked if _identity(row) not in done] if run else []
    if missing:
        head = _call(root, "git", "rev-parse", "HEAD")  # whoever commits meanwhile changes nothing
        os.environ.pop("GOLDEN_PATH_WORK", None)  # each clone has a working folder of its own
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
        # A variant may have no such number: an empty cell, and a smaller n in the summary.
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
        argv: The YAML file, and maybe ``--summary``.
        root: The repository root.
        work: Folder for the clones.
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
