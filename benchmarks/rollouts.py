"""State-only stress rollouts at scale: speed, memory, and equal bytes for any number of workers.

    python -m benchmarks.rollouts [EPISODES]

Rolls out EPISODES (10,000) episodes with two workers and again with one, and measures

- simulator steps per second of the whole pipeline (plan, reset, expert, stress, labels, writing),
  compared with Meta-World's bare ``env.step`` on as many processes, timed before and after it;
- the peak memory of the process tree, as the sum of proportional set sizes;
- whether the two files are identical byte for byte.

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
from lib.sim.rollout import LEGEND, RolloutRequest, rollout
from lib.sim.tasks import get_task
from lib.sim.workers import ordered_map

WORKERS = 2
BARE_SECONDS = 15.0


def bare_steps_per_second(seconds: float) -> float:
    """Times only Meta-World's own ``env.step``, while the scripted expert acts.

    Args:
        seconds: Time to spend in ``env.step``, s.
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
    """Returns the steps per second of bare Meta-World, summed over several processes.

    Args:
        workers: Number of processes.
    """
    speeds = joblib.Parallel(workers)(
        joblib.delayed(bare_steps_per_second)(BARE_SECONDS) for _ in range(workers)
    )
    return sum(speeds)


class PeakMemory:
    """Records the peak memory of this process and all its children, from a thread."""

    def __enter__(self) -> PeakMemory:
        """Starts recording."""
        self.bytes, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops recording; ``bytes`` holds the peak."""
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
                except psutil.Error:  # the process has just ended
                    continue
            self.bytes = max(self.bytes, total)


def write(path: Path, count: int, workers: int) -> tuple[int, float]:
    """Rolls out episodes and writes them, as the stage does; returns steps and seconds.

    Args:
        path: HDF5 file to write.
        count: Number of episodes.
        workers: Number of processes.
    """
    params = load_params("task", "world", "phase1", "phase1_sima2", "economics")
    asked = RolloutRequest(
        params.task,
        params.world,
        params.phase1.seed,
        params.phase1.image_size,
        params.phase1_sima2.horizon,
        mix=params.phase1_sima2.model_dump(),
        prices=params.economics.model_dump(),
        pictures=False,
    )
    calls = ((asked, index) for index in range(count))
    steps = 0

    def counted():
        nonlocal steps
        results = ordered_map(rollout, calls, workers=workers)
        for item in results:
            steps += len(item)
            yield item

    begin = time.perf_counter()
    episode.write(path, counted(), source="sima2", shares=params.phase1.split, legend=LEGEND)
    return steps, time.perf_counter() - begin


def main(count: int) -> int:
    """Prints the figures; returns 1 if the two files differ, else 0.

    Args:
        count: Number of episodes.
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
