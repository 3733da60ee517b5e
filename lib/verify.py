"""Does this machine give the bytes that others got?

    python -m lib.verify                  run the small preset in a clean clone, compare every out
    python -m lib.verify --update         write what came out as what must come out
    python -m lib.verify --cpu Haswell    a tiny training of each stage, here and emulated

The clone is of HEAD, so that a stranger compares the same thing; what is not committed is not
looked at. It has a cache of its own, so that every stage really runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.errors import UserError
from lib.files import write_text
from lib.params import read_yaml
from lib.paths import ROOT, WORK

PRESET = Path("presets") / "small.yaml"
GOLDENS = ROOT / "tests" / "goldens" / "small.json"

Hashes = dict[str, dict[str, str]]


def hashes_of(lock: Path) -> Hashes:
    """Returns the MD5 of every out, metric and plot by stage and path.

    Args:
        lock: A dvc.lock.
    """
    stages = read_yaml(lock)["stages"]
    return {
        stage: {out["path"]: out["md5"] for out in entry.get("outs", [])}
        for stage, entry in stages.items()
    }


def differences(found: Mapping[str, Mapping[str, str]], golden: Hashes) -> list[str]:
    """Returns ``stage: path`` of whatever is not as it must be, in the order of the stages.

    Args:
        found: What came out.
        golden: What must come out.
    """
    lines = []
    for stage in dict.fromkeys([*golden, *found]):
        mine, theirs = found.get(stage, {}), golden.get(stage, {})
        lines += [f"{stage}: {p}" for p in sorted({*mine, *theirs}) if mine.get(p) != theirs.get(p)]
    return lines


def run_small(folder: Path) -> Hashes:
    """Runs the small preset in a clean clone of HEAD.

    Args:
        folder: Where; emptied first.

    Returns:
        The hashes of what came out.

    Raises:
        UserError: If Git or a stage fails.
    """
    shutil.rmtree(folder, ignore_errors=True)
    own = "GOLDEN_PATH_WORK"  # the clone has a working folder of its own
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
    """Returns what ``tests.probe`` prints, a line a part.

    Args:
        cpu: A processor that ``qemu-x86_64`` knows; by default this one.

    Raises:
        UserError: If the emulator is missing, or it fails.
    """
    emulator = ("qemu-x86_64", "-cpu", cpu) if cpu else ()
    command = (*emulator, sys.executable, "-m", "tests.probe")
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError("verify: no qemu-x86_64 here; Debian: apt-get install qemu-user") from None
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"verify: `{' '.join(command)}` failed: {last}")
    return run.stdout.splitlines()


def compare_with(cpu: str) -> int:
    """Says whether an emulated processor computes as this one does; 0 if so, else 1.

    Args:
        cpu: Its name for ``qemu-x86_64``.
    """
    print(f"A tiny training of each stage on {processor()}, then as {cpu}: a minute or two")
    here, there = probe(), probe(cpu)
    for mine, theirs in zip(here, there, strict=True):
        print(mine, "equal" if mine == theirs else f"differs: {theirs}")
    return int(here != there)


def processor() -> str:
    """Returns the processor's name and its widest vectors, as a person would tell them."""
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
    """Compares, or writes the goldens; 0 if all is equal, 1 if not, 2 if it could not be run.

    Args:
        arguments: Nothing, ``--update``, or ``--cpu`` with a name.
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
