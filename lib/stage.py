"""What every stage script does around its work: errors, timings, signals."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from lib import arithmetic  # noqa: F401  What stages/__init__.py calls is a dep of every stage.
from lib.console import say, spent
from lib.errors import UserError
from lib.files import write_text
from lib.paths import TIMINGS


def run(name: str, main: Callable[[], None]) -> None:
    """Runs a stage and exits: 0 when it succeeded, 2 for a user's mistake, 1 for a failed gate.

    Errors that a user can mend are one line; anything else is a bug and shows its traceback.

    The seconds, in all and of the parts that ``lib.console`` counted, are printed and go to the
    git-ignored ``.work/timings``, never into an out.

    Args:
        name: The stage's name in dvc.yaml.
        main: Its work.
    """
    started = time.time()
    _record(name, started, ok=False)  # a stage that is killed leaves this
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
        # Worker processes may still be busy: leave at once, their parent is gone.
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
