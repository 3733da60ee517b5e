"""Ctrl-C for a command that tests start in a process group of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from lib.base.paths import ROOT

# A shell's background job inherits an ignored SIGINT, and would hand it on.
PREPARE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "import sys; from pathlib import Path; from lib import runner;"
    "runner.check_rendering = lambda env: None; root = Path(sys.argv[1]);"
)


def interrupted(code: str, *arguments: str, waiting: Callable[[], bool]) -> tuple[int, str]:
    """Runs Python code, and presses Ctrl-C when it waits.

    Args:
        code: After PREPARE; ``root`` is the first argument as a path.
        *arguments: Of the process.
        waiting: Asked until it is true, for half a minute at most.

    Returns:
        Exit code and what went to stderr.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", PREPARE + code, *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        limit = time.monotonic() + 30
        while not waiting() and time.monotonic() < limit:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # As a terminal does: to the stage, DVC and us.
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, errors
