"""Common handling of errors, timings and signals for every stage script."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from lib.base import arithmetic  # noqa: F401  A dep of every stage: lib/__init__.py calls it.
from lib.base.console import say, spent
from lib.base.errors import UserError
from lib.base.files import write_text
from lib.base.paths import TIMINGS


def run(name: str, main: Callable[[], None]) -> None:
    """Runs a stage and exits: 0 after success, 2 after a user's mistake, 1 after a failed gate.

    Errors that the user can correct are printed as one line. Any other error is a bug and shows its
    traceback.

    The total seconds, and the parts that ``lib.base.console`` counted, are printed and written to
    the git-ignored ``.work/timings``, never into an out.

    Args:
        name: Name of the stage in dvc.yaml.
        main: Function that does the work of the stage.
    """
    started = time.time()
    _record(name, started, ok=False)  # this record remains if the stage is killed
    signal.signal(signal.SIGTERM, _stop)
    code = 1
    try:
        main()
        code = 0
    except UserError as error:
        say(f"{name}: {error}")
        code = error.exit_code
    except KeyboardInterrupt:
        say(f"{name}: stopped; `make repro` goes on from the stages that are finished")
        code = 130
    finally:
        _record(name, started, ok=code == 0)
    if spent:
        parts = sorted(spent.items(), key=lambda part: -part[1])
        told = ", ".join(f"{label} {seconds:.0f}" for label, seconds in parts)
        say(f"{name}: {time.time() - started:.0f} s, of which {told}")
    if code:
        # Worker processes may still be busy. Exit at once instead of waiting for them.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(0)


def _record(name: str, started: float, *, ok: bool) -> None:
    seconds = time.time() - started
    parts = {label: round(value, 1) for label, value in spent.items()}
    values = {"stage": name, "started": started, "seconds": seconds, "ok": ok, "parts": parts}
    write_text(TIMINGS / f"{name}.json", json.dumps(values) + "\n")


def _stop(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
