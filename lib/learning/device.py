"""Device, precision and determinism: set once at the start of a stage."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from lightning_fabric import Fabric

from lib.base import arithmetic
from lib.base.console import say
from lib.params import Compute

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # start() prints one line instead
# cuBLAS is deterministic only with a fixed workspace; see torch.use_deterministic_algorithms.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

Autocast = Callable[[], AbstractContextManager]
"""Maker of the context in which a forward pass runs in the precision of the run."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # constants in glibc's malloc.h


def has_fast_bf16() -> bool:
    """Returns whether the processor or GPU multiplies bfloat16 natively."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def start(settings: Compute, seed: int) -> Fabric:
    """Seeds the global generators, enables determinism, and chooses device and precision.

    Args:
        settings: Compute section of params.yaml: threads, arithmetic and precision.
        seed: Seed of the global generators of Python, NumPy and torch.

    Returns:
        Lightning Fabric with the device and the autocast context.

    Raises:
        RuntimeError: If portable arithmetic is set, but NumPy or torch was imported before ``lib``
            could pin the arithmetic.
    """
    wants_portable = settings.arithmetic == "portable" and arithmetic.X86
    if wants_portable and not arithmetic.is_portable():
        raise RuntimeError("numpy or torch was imported before lib: the arithmetic is not pinned")
    keep_freed_memory()
    # Sums are split among threads, so the thread count changes the last bits of every result.
    torch.set_num_threads(settings.threads)
    # On CUDA, some operations have no deterministic form (the backward pass of upsampling). There,
    # a warning replaces the error.
    gpu = torch.cuda.is_available()
    torch.use_deterministic_algorithms(True, warn_only=gpu)
    # Deterministic mode would also fill every new tensor with NaN, to reveal reads of uninitialised
    # memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # ty: ignore[missing-attribute]
    torch.backends.cudnn.benchmark = False
    precision = "bf16-mixed" if _uses_bf16(settings) else "32-true"
    fabric = Fabric(accelerator="cuda" if gpu else "cpu", devices=1, precision=precision)
    fabric.seed_everything(seed, verbose=False)
    say(
        f"device {fabric.device}, {arithmetic_class(settings)}, {settings.threads} threads, "
        f"seed {seed}"
    )
    if settings.arithmetic == "portable" and (
        gpu or torch.backends.cpu.get_cpu_capability() != "AVX2"
    ):
        say("arithmetic: portable holds on x86 processors with AVX2; here other bytes may come out")
    return fabric


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory, so that the next step causes no page fault for every page.

    glibc returns freed blocks above two size thresholds to the system (mallopt(3)). The values set
    here are the largest that it accepts. Training is a fifth faster with them. On systems other
    than Linux, or without ``mallopt``, this function does nothing.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        # All threads share one heap, because the heap of a second thread would still return its
        # memory to the system.
        mallopt(M_ARENA_MAX, 1)


def arithmetic_class(settings: Compute) -> str:
    """Returns on which machines results are equal: ``portable``, or the device and precision.

    Args:
        settings: Compute section of params.yaml.
    """
    if arithmetic.is_portable() and not torch.cuda.is_available():
        return "portable"
    device = "cuda" if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    return f"{settings.arithmetic} {device} {'bf16' if _uses_bf16(settings) else 'fp32'}"


def _uses_bf16(settings: Compute) -> bool:
    if settings.arithmetic == "portable":
        return False
    return settings.precision == "bf16" or (settings.precision == "auto" and has_fast_bf16())
