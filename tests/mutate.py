"""Puts known faults into the code, one at a time, and checks that a test notices each.

    python -m tests.mutate                  all faults
    python -m tests.mutate NAME...          some of them
    python -m tests.mutate --share 10       a tenth, drawn at random

A fault is a patch, tests/mutants/NAME.patch. It begins with two lines, ``Fault: what it breaks``
and ``Tests: the test files that must notice it``. The repository is copied to a scratch folder,
where the patch is applied and these tests run. The exit code is 1 if a fault survived.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from tests.copies import ROOT, copy_of_the_files

MUTANTS = ROOT / "tests" / "mutants"
COPIES = 2  # faults that are tried at the same time
FAILED = 1  # exit code of pytest if a test failed


class Mutant(NamedTuple):
    """A fault.

    Attributes:
        name: Name of the patch file.
        fault: What it breaks, in words.
        tests: Test files, and options of pytest.
        path: The patch.
    """

    name: str
    fault: str
    tests: list[str]
    path: Path


def read(path: Path) -> Mutant:
    """Reads a patch file.

    Args:
        path: The patch.

    Raises:
        ValueError: If one of the two lines at its beginning is missing.
    """
    first, second, *_ = path.read_text(encoding="utf-8").splitlines()
    if not (first.startswith("Fault: ") and second.startswith("Tests: ")):
        raise ValueError(f"{path.name}: must begin with the lines Fault: and Tests:")
    return Mutant(path.stem, first.removeprefix("Fault: "), second.split()[1:], path)


def try_out(mutant: Mutant, folder: Path) -> str:
    """Applies a fault to a copy, runs its tests, and takes it back.

    Args:
        mutant: The fault.
        folder: The copy.

    Returns:
        ``killed``, ``survived``, or why it could not be tried.
    """
    # Git must not take the copy for a part of a repository around it.
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    apply = ("git", "apply", "--whitespace=nowarn")
    done = subprocess.run(
        (*apply, str(mutant.path)), cwd=folder, env=env, capture_output=True, text=True
    )
    if done.returncode:
        return f"does not apply: {done.stderr.strip()}"
    run = (sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant.tests)
    try:
        tests = subprocess.run(run, cwd=folder, env=env, capture_output=True, text=True)
    finally:
        subprocess.run((*apply, "-R", str(mutant.path)), cwd=folder, env=env, check=True)
    if tests.returncode == FAILED:
        return "killed"
    if tests.returncode == 0:
        return "survived"
    return f"the tests did not run: {tests.stdout.strip().splitlines()[-1:]}"


def chosen(arguments: Sequence[str]) -> list[Mutant]:
    """Returns the faults that the command line asks for.

    Args:
        arguments: Names, or ``--share N`` for one in N.
    """
    every = [read(path) for path in sorted(MUTANTS.glob("*.patch"))]
    if arguments[:1] == ["--share"]:
        count = -(-len(every) // int(arguments[1]))
        return sorted(random.sample(every, count))
    named = [mutant for mutant in every if not arguments or mutant.name in arguments]
    if len(named) < len(set(arguments)):
        raise SystemExit(f"not in {MUTANTS}: {set(arguments) - {m.name for m in named}}")
    return named


def main(arguments: Sequence[str]) -> int:
    """Tries out faults and prints what became of each.

    Args:
        arguments: The command line.
    """
    mutants = chosen(arguments)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(COPIES) as pool:
        folders: SimpleQueue[Path] = SimpleQueue()
        for number in range(COPIES):
            folders.put(copy_of_the_files(Path(scratch) / str(number)))

        def attempt(mutant: Mutant) -> str:
            folder = folders.get()
            try:
                return try_out(mutant, folder)
            finally:
                folders.put(folder)

        left = 0
        for mutant, fate in zip(mutants, pool.map(attempt, mutants), strict=True):
            left += fate != "killed"
            print(f"{fate:10} {mutant.name}: {mutant.fault}", flush=True)
    print(f"{len(mutants) - left} of {len(mutants)} faults were noticed")
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
