"""State-only stress rollouts at scale: speed, memory, and bytes that no number of workers changes.

    python -m benchmarks.rollouts [EPISODES]

Rolls out EPISODES (10,000) episodes with two workers and again with one, and measures

- simulator steps a second of the whole pipeline (plan, reset, expert, stress, labels, writing)
  beside bare Meta-World's ``env.step`` on as many processes, before and after it;
- the peak memory of the process tree, as the sum of proportional set sizes;
- whether both files are the same byte for byte.

Needs a quiet machine and about ten minutes.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import psutil

from lib import episode
from lib.params import load_params
from lib.sim.rollout import LEGEND, rollout
from lib.sim.tasks import get_task
from lib.workers import ordered_map

WORKERS = 2
BARE_SECONDS = 15.0


def bare_steps_per_second(seconds: float) -> float:
    """Times Meta-World's own ``env.step``, and nothing else, along the expert's way.

    Args:
        seconds: How long to step.
    """
    from metaworld import policies
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    warnings.simplefilter("ignore")
    task = get_task("drawer_open")
    env, expert = ALL_V3_ENVIRONMENTS[task.env_name](), getattr(policies, task.expert)()
    env._freeze_rand_vec, env._set_task_called = False, True
    spent, steps = 0.0, 0
    while spent < seconds:
        obs, _ = env.reset()
        success = False
        while not success:
            action = np.clip(expert.get_action(obs), -1, 1)
            begin = time.perf_counter()
            obs, _, _, _, info = env.step(action)
            spent += time.perf_counter() - begin
            steps, success = steps + 1, bool(info["success"])
    return steps / spent


def bare(workers: int) -> float:
    """Returns the steps a second of bare Meta-World on several processes together.

    Args:
        workers: Processes.
    """
    speeds = joblib.Parallel(workers)(
        joblib.delayed(bare_steps_per_second)(BARE_SECONDS) for _ in range(workers)
    )
    return sum(speeds)


class PeakMemory:
    """Watches the memory of this process and all its children from a thread."""

    def __enter__(self) -> PeakMemory:
        """Begins to watch."""
        self.bytes, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it; ``bytes`` has the peak."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        this = psutil.Process()
        while not self._done.wait(0.5):
            total = 0
            for process in (this, *this.children(recursive=True)):
                try:
                    info = process.memory_full_info()
                    total += getattr(info, "pss", info.rss)
                except psutil.Error:  # it has just ended
                    continue
            self.bytes = max(self.bytes, total)


def write(path: Path, count: int, workers: int) -> tuple[int, float]:
    """Rolls out and writes, as the stage does; returns steps and seconds.

    Args:
        path: The file.
        count: Episodes.
        workers: Processes.
    """
    params = load_params("task", "phase1", "phase1_sima2", "economics", "safety")
    settings = {**params.phase1_sima2.model_dump(), "pictures": False}
    prices, seed, size = params.economics.model_dump(), params.phase1.seed, params.phase1.image_size
    calls = ((params.task, index, seed, settings, size, prices) for index in range(count))
    steps = 0

    def counted():
        nonlocal steps
        results = ordered_map(rollout, calls, params.safety.worker_timeout_s, workers=workers)
        for item in results:
            steps += len(item)
            yield item

    begin = time.perf_counter()
    episode.write(path, counted(), source="sima2", shares=params.phase1.split, legend=LEGEND)
    return steps, time.perf_counter() - begin


def main(count: int) -> int:
    """Prints the figures; returns 1 if the files differ.

    Args:
        count: Episodes.
    """
    digests = []
    with tempfile.TemporaryDirectory() as folder:
        for workers in (WORKERS, 1):
            path = Path(folder) / f"{workers}.hdf5"
            before = bare(workers)
            with PeakMemory() as peak:
                steps, seconds = write(path, count, workers)
            reference = (before + bare(workers)) / 2
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
            print(
                f"{workers} workers: {count} episodes, {steps} steps in {seconds:.0f} s, "
                f"{steps / seconds:.0f} steps/s; bare env.step {reference:.0f}; "
                f"ratio {steps / seconds / reference:.2f}; peak memory "
                f"{peak.bytes / 2**20:.0f} MiB; file {path.stat().st_size / 2**20:.0f} MiB; "
                f"sha256 {digests[-1][:16]}",
                flush=True,
            )
    print("the same bytes" if len(set(digests)) == 1 else "DIFFERENT BYTES")
    return len(set(digests)) - 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
