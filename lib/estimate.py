"""About how long `make repro` takes on this machine: what `make doctor` says.

Two small measurements, of drawing and of learning, are set against the same two on the machine
whose run README reports. A machine that is busy, or throttled, is slower now and later alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from lib.compute import start
from lib.models.backbone import Backbone
from lib.params import load_params
from lib.sim.env import make_env

REPEATS = 8
BATCH = 64


class Speed(NamedTuple):
    """Seconds for a piece of work.

    Attributes:
        draw: A control step with its picture and labels, one process.
        learn: A training step of the backbone on BATCH pictures, forward and backward.
    """

    draw: float
    learn: float


# Of the run in README: what it took for the two pieces, and how many minutes went into work like
# each. Drawing is phase 1 and four tenths of the evaluation, in two processes; learning the rest.
REFERENCE = Speed(draw=0.0059, learn=0.1355)
REFERENCE_MINUTES = Speed(draw=1.7, learn=17.0)


def _best(work: Callable[[], object]) -> float:
    """Returns the shortest of some tries, the first one left out."""
    seconds = []
    for _ in range(REPEATS + 1):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def measure() -> Speed:
    """Measures this machine, some seconds long."""
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
    vision = params.vision
    model = Backbone(vision.size, vision.block, vision.pyramid_channels)
    model = model.to(memory_format=torch.channels_last)
    images = torch.rand(BATCH, 3, size, size).to(memory_format=torch.channels_last)

    def learn() -> None:
        model(images)["p4"].square().mean().backward()

    return Speed(per_step, _best(learn))


def minutes(speed: Speed) -> float:
    """Returns about how long a run takes from nothing.

    Args:
        speed: Of the machine.
    """
    pairs = zip(speed, REFERENCE, REFERENCE_MINUTES, strict=True)
    return sum(mine / theirs * share for mine, theirs, share in pairs)
