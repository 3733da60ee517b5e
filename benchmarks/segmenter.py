"""Milliseconds per picture of the segmenter that serves and of a plain U-Net of base width 64.

    python -m benchmarks.segmenter

One 96x96 picture on one core, as in closed loop. The plain U-Net is the textbook version: widths
64, 128, 256, 512, and once more with a level of 1,024; float32, batch normalisation not folded, the
default memory layout. Ours is ``Segmenter.probabilities``, from uint8 to probabilities, with the
widths of params.yaml and the precision of a stage. All take turns; times are medians over all
rounds. Weights are random, which does not affect the timing. Needs a quiet machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from lib.base import arithmetic
from lib.episode import PRIMITIVES
from lib.learning.device import start
from lib.models.unet import UNet
from lib.params import load_params
from lib.segmenter.serving import Segmenter

ROUNDS, CALLS, SIZE = 15, 8, 96
PLAIN = {
    "plain U-Net 64 to 512, fp32": (64, 128, 256, 512),
    "plain U-Net 64 to 1024, fp32": (64, 128, 256, 512, 1024),
}
OURS = "Segmenter.probabilities"


def runners() -> dict[str, Callable[[], object]]:
    """Returns the functions to time, by name."""
    params = load_params("seed", "compute", "segmenter")
    kind = "portable" if arithmetic.is_portable() else "native"
    asked = {"threads": 1, "arithmetic": kind}
    fabric = start(params.compute.model_copy(update=asked), params.seed)
    picture = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    single = torch.from_numpy(picture).permute(0, 3, 1, 2).float().contiguous() / 255

    def plain(widths: tuple[int, ...]) -> Callable[[], object]:
        model = UNet(num_classes=len(PRIMITIVES), widths=widths).eval().requires_grad_(False)
        return torch.inference_mode()(lambda: model(single))

    model = UNet(num_classes=len(PRIMITIVES), widths=params.segmenter.widths)
    segmenter = Segmenter(model, fabric.autocast)
    ours = {OURS: lambda: segmenter.probabilities(picture)}
    return {**ours, **{name: plain(widths) for name, widths in PLAIN.items()}}


def main() -> None:
    """Prints the median time of each function, and its ratio to ours."""
    timed = runners()
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for call in timed.values():
        call()
    for _ in range(ROUNDS):
        for name, call in timed.items():
            for _ in range(CALLS):
                begin = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - begin)
    ours = median(seconds[OURS])
    for name, times in seconds.items():
        print(f"{name:30} {1000 * median(times):8.2f} ms   {median(times) / ours:6.1f} x")


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    main()
