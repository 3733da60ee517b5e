"""What every stage script does around its work: errors, timings, signals."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from lib.console import say
from lib.errors import UserError
from lib.files import write_text
from lib.paths import TIMINGS


def run(name: str, main: Callable[[], None]) -> None:
    """Runs a stage and exits: 0 when it succeeded, 2 for a user's mistake (one line).

    The wall time goes to the git-ignored ``.work/timings``, never into an out.

    Args:
        name: The stage's name in dvc.yaml.
        main: Its work.
    """
    started = time.time()
    signal.signal(signal.SIGTERM, _stop)
    code = 1
    try:
        main()
        code = 0
    except UserError as error:
        say(f"{name}: {error}")
        code = 2
    except KeyboardInterrupt:
        say(f"{name}: stopped; `make repro` goes on from the stages that are finished")
        code = 130
    finally:
        record = {
            "stage": name,
            "started": started,
            "seconds": time.time() - started,
            "ok": code == 0,
        }
        write_text(TIMINGS / f"{name}.json", json.dumps(record) + "\n")
    if code:
        # Worker processes may still be busy: leave at once, their parent is gone.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(0)


def _stop(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
