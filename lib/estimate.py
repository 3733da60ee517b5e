"""Estimates how long `make repro` takes on this machine; `make doctor` prints the estimate.

Two short measurements, one of rendering and one of training, are compared with the same
measurements on the machine of the run in README. If this machine is busy or throttled, both the
measurements and the run are slower.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from lib.learning.device import start
from lib.params import load_params
from lib.sim.env import make_env
from lib.vision.train_backbone import build_backbone

REPEATS = 8
BATCH = 64


class Speed(NamedTuple):
    """Seconds for one piece of work of each kind.

    Attributes:
        draw: Time of a control step with its picture and pixel labels, in one process.
        learn: Time of a forward and backward pass of the backbone on BATCH pictures.
    """

    draw: float
    learn: float


# Figures of the run in README: the times of the two pieces of work on its machine, and the minutes
# that the run spent on work of each kind. Drawing is phase 1 and four tenths of the evaluation, in
# two processes; learning is the rest.
REFERENCE = Speed(draw=0.0057, learn=0.098)
REFERENCE_MINUTES = Speed(draw=9.9, learn=37.7)


def _best(work: Callable[[], object]) -> float:
    """Returns the shortest time of several calls, in seconds; the first call is not counted."""
    seconds = []
    for _ in range(REPEATS + 1):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def measure() -> Speed:
    """Measures the speed of this machine, which takes a few seconds."""
    params = load_params("seed", "compute", "phase1", "vision")
    size = params.phase1.image_size
    env = make_env(image_size=size)
    env.reset(seed=0)

    def draw() -> None:
        for _ in range(10):
            env.step(np.zeros(4))
            env.pixel_labels()

    per_step = _best(draw) / 10
    env.close()
    start(params.compute, params.seed)
    model = build_backbone(params.vision)
    images = torch.rand(BATCH, 3, size, size).to(memory_format=torch.channels_last)

    def learn() -> None:
        model(images)["p4"].square().mean().backward()

    return Speed(per_step, _best(learn))


def minutes(speed: Speed) -> float:
    """Returns the estimated minutes of a run of the whole pipeline with nothing cached.

    Args:
        speed: Measured speed of the machine.
    """
    pairs = zip(speed, REFERENCE, REFERENCE_MINUTES, strict=True)
    return sum(mine / theirs * share for mine, theirs, share in pairs)
