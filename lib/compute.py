"""Device, precision and determinism: set once at the start of a stage."""

from __future__ import annotations

import ctypes
import logging
import os
import sys

import torch
from lightning_fabric import Fabric

from lib import arithmetic
from lib.console import say
from lib.params import Compute

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # start() says it in one line
# cuBLAS is deterministic only with a fixed workspace; see torch.use_deterministic_algorithms.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


def has_fast_bf16() -> bool:
    """Returns whether the processor or GPU multiplies bfloat16 natively."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def start(settings: Compute, seed: int) -> Fabric:
    """Seeds every generator, switches determinism on, and chooses device and precision.

    Args:
        settings: Threads, arithmetic and precision of params.yaml.
        seed: Seeds Python, NumPy and torch.

    Returns:
        Lightning Fabric with the device and the autocast context.
    """
    keep_freed_memory()
    # Sums are split among threads, so their number changes the last bits of every result.
    torch.set_num_threads(settings.threads)
    # CUDA has no deterministic form of some operations (the backward of upsampling): warn there.
    gpu = torch.cuda.is_available()
    torch.use_deterministic_algorithms(True, warn_only=gpu)
    # That mode would fill every new tensor with NaN, to show who reads it too early.
    torch.utils.deterministic.fill_uninitialized_memory = False
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
    """Lets glibc keep what a step frees, instead of a page fault for every page of the next.

    It returns freed blocks to the system above two sizes (mallopt(3)): these are the largest that
    it takes. Training is a fifth faster with them. Elsewhere this does nothing.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        # One heap for all threads: that of a second thread gives its memory back all the same.
        mallopt(M_ARENA_MAX, 1)


def arithmetic_class(settings: Compute) -> str:
    """Returns where the same bytes come out: ``portable``, or which processors and precision.

    Args:
        settings: The compute section of params.yaml.
    """
    if arithmetic.is_portable() and not torch.cuda.is_available():
        return "portable"
    device = "cuda" if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    return f"{settings.arithmetic} {device} {'bf16' if _uses_bf16(settings) else 'fp32'}"


def _uses_bf16(settings: Compute) -> bool:
    if settings.arithmetic == "portable":
        return False
    return settings.precision == "bf16" or (settings.precision == "auto" and has_fast_bf16())
