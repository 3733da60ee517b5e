"""Checks whether this machine produces the same bytes as other machines.

    python -m lib.verify                  runs the small preset in a clean clone, compares each out
    python -m lib.verify --update         the same, but saves the hashes as the expected ones
    python -m lib.verify --cpu Haswell    a tiny training of each stage, here and emulated

The clone is made from HEAD, so that other people compare the same code; uncommitted changes are
not included. The clone has its own DVC cache, so that every stage really runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.base.errors import UserError, last_line
from lib.base.files import write_text
from lib.base.paths import ROOT, WORK
from lib.params import read_yaml

PRESET = Path("presets") / "small.yaml"
GOLDENS = ROOT / "tests" / "goldens" / "small.json"

Hashes = dict[str, dict[str, str]]


def hashes_of(lock: Path) -> Hashes:
    """Returns the MD5 hash of every out, metric and plot, by stage and path.

    Args:
        lock: Path of a dvc.lock.
    """
    stages = read_yaml(lock)["stages"]
    return {
        stage: {out["path"]: out["md5"] for out in entry.get("outs", [])}
        for stage, entry in stages.items()
    }


def differences(found: Mapping[str, Mapping[str, str]], golden: Hashes) -> list[str]:
    """Returns ``stage: path`` of each out that differs, in the order of the stages.

    Args:
        found: Hashes of the outs of this run.
        golden: Expected hashes.
    """
    lines = []
    for stage in dict.fromkeys([*golden, *found]):
        mine, theirs = found.get(stage, {}), golden.get(stage, {})
        lines += [f"{stage}: {p}" for p in sorted({*mine, *theirs}) if mine.get(p) != theirs.get(p)]
    return lines


def run_small(folder: Path) -> Hashes:
    """Runs the small preset in a clean clone of HEAD.

    Args:
        folder: Folder of the clone; emptied first.

    Returns:
        The hashes of all outs.

    Raises:
        UserError: If Git or a stage fails.
    """
    shutil.rmtree(folder, ignore_errors=True)
    own = "GOLDEN_PATH_WORK"  # not passed on: the clone uses its own working folder
    env = {name: value for name, value in os.environ.items() if name != own}
    python = (sys.executable, "-m")
    clone = ("git", "clone", "--quiet", "--shared", str(ROOT), str(folder))
    steps = (
        (clone, ROOT),
        ((*python, "lib.params", "apply", str(PRESET)), folder),
        ((*python, "lib.runner"), folder),
    )
    for command, place in steps:
        if subprocess.run(command, cwd=place, env=env, check=False).returncode:
            raise UserError(f"verify: `{' '.join(command[-3:])}` failed in {folder}")
    return hashes_of(folder / "dvc.lock")


def probe(cpu: str = "") -> list[str]:
    """Returns the lines that ``tests.probe`` prints, one per part.

    Args:
        cpu: Name of a processor that ``qemu-x86_64`` emulates; by default the real processor.

    Raises:
        UserError: If the emulator is missing, or the probe fails.
    """
    emulator = ("qemu-x86_64", "-cpu", cpu) if cpu else ()
    command = (*emulator, sys.executable, "-m", "tests.probe")
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError("verify: no qemu-x86_64 here; Debian: apt-get install qemu-user") from None
    if run.returncode:
        raise UserError(f"verify: `{' '.join(command)}` failed: {last_line(run.stderr)}")
    return run.stdout.splitlines()


def compare_with(cpu: str) -> int:
    """Prints whether an emulated processor computes the same hashes; returns 0 if so, else 1.

    Args:
        cpu: Name of the emulated processor for ``qemu-x86_64``.
    """
    print(f"A tiny training of each stage on {processor()}, then as {cpu}: a minute or two")
    here, there = probe(), probe(cpu)
    for mine, theirs in zip(here, there, strict=True):
        print(mine, "equal" if mine == theirs else f"differs: {theirs}")
    return int(here != there)


def processor() -> str:
    """Returns the name of the processor and its widest vector instructions."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return os.uname().machine
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(fields.get("flags", "").split())
    widest = next((f for f in ("avx512f", "avx2", "avx") if f in flags), "no avx")
    return f"{fields.get('model name', 'unknown')}, {widest}"


def main(arguments: Sequence[str]) -> int:
    """Compares the hashes or saves them; returns 0 if all are equal, 1 if not, 2 on an error.

    Args:
        arguments: Nothing, ``--update``, or ``--cpu`` and a name.
    """
    try:
        if len(arguments) == 2 and arguments[0] == "--cpu":
            return compare_with(arguments[1])
        if list(arguments) not in ([], ["--update"]):
            raise UserError("usage: python -m lib.verify [--update | --cpu NAME]")
        found = run_small(WORK / "verify")
        count = sum(map(len, found.values()))
        if arguments:
            write_text(GOLDENS, json.dumps(found, indent=1) + "\n")
            print(f"{count} hashes written on {processor()}")
            return 0
        wrong = differences(found, json.loads(GOLDENS.read_text()))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if wrong:
        print(f"{len(wrong)} of {count} outs differ on {processor()}; the first is {wrong[0]}")
        print("\n".join(wrong[1:]))
        return 1
    print(f"All {count} outs are equal on {processor()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
