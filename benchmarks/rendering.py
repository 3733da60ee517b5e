"""Frames per second of this project's renderer and of mujoco.Renderer with Meta-World's defaults.

    python -m benchmarks.rendering

Both draw the same moments of the same episode, RGB at 96x96, on one core. Each runs in its own
process, they take turns, and the fastest round of each counts. Needs a quiet machine.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
import warnings

SIZE, ROUNDS, MOMENTS = 96, 3, 30


def frames_per_second(which: str) -> float:
    """Renders moments of an episode and times only the drawing.

    Args:
        which: ``ours``, or ``default`` for ``mujoco.Renderer`` on Meta-World's unchanged model.
    """
    importlib.import_module("lib.sim")  # before mujoco: it chooses the OpenGL backend

    import mujoco
    from metaworld import policies

    from lib.sim.scene import Scene
    from lib.sim.simulation import Simulation
    from lib.sim.tasks import get_task

    warnings.simplefilter("ignore")
    task = get_task("drawer_open")
    simulation = Simulation(task.env_name)
    model, data = simulation.model, simulation.data
    expert = getattr(policies, task.expert)()
    if which == "ours":
        draw = Scene(model, data, task, SIZE).rgb
    else:
        renderer, view = mujoco.Renderer(model, SIZE, SIZE), mujoco.MjvCamera()
        view.azimuth, view.elevation = task.camera.azimuth, task.camera.elevation
        view.distance, view.lookat[:] = task.camera.distance, task.camera.lookat

        def draw():
            renderer.update_scene(data, view)
            return renderer.render().copy()

    low, high = simulation.positions
    obs, seconds = simulation.reset((low + high) / 2), 0.0
    draw()
    repeats = 10 if which == "ours" else 1
    for _ in range(MOMENTS):
        for _ in range(3):
            obs, _, _ = simulation.step(expert.get_action(obs).clip(-1, 1).astype(float))
        begin = time.perf_counter()
        for _ in range(repeats):
            draw()
        seconds += time.perf_counter() - begin
    return MOMENTS * repeats / seconds


def main() -> None:
    """Prints both speeds and their ratio."""
    best = {"default": 0.0, "ours": 0.0}
    for _ in range(ROUNDS):
        for which in best:
            command = [sys.executable, "-m", "benchmarks.rendering", which]
            environment = {**os.environ, "LP_NUM_THREADS": "1"}
            output = subprocess.run(
                command, env=environment, check=True, capture_output=True, text=True
            ).stdout
            best[which] = max(best[which], float(output))
    for which, speed in best.items():
        print(f"{which:8} {speed:7.1f} frames a second")
    print(f"ratio    {best['ours'] / best['default']:7.1f}")


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if len(sys.argv) > 1:
        print(frames_per_second(sys.argv[1]))
    else:
        main()
