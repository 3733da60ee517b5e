"""Restricts the instructions of the numerical libraries for equal bits on every x86 processor.

Each library chooses its kernels by the processor that it finds, and different kernels sum in
different orders. This module therefore makes every library use AVX2 kernels on every processor. The
libraries read environment variables when they are first imported, so ``lib`` calls ``pin`` when it
is imported. Worker processes inherit the variables. docs/reproducibility.md lists what was tested
on which processor.
"""

from __future__ import annotations

import os
import platform
import sys
from functools import cache

import yaml

from lib.base.paths import PARAMS

X86 = platform.machine().lower() in ("x86_64", "amd64")

# MKL has only one code path for all processors, and it is slow. lib.learning.portable avoids MKL.
PORTABLE = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
    # With AVX-512, NumPy's exp, log and pow of float64 differ in the last bits.
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
ALWAYS = {
    # Threads that wait for each other must sleep, not spin. Beside another busy process, spinning
    # costs up to a hundred times the work. On an idle machine, sleeping costs 4 to 20 %.
    "OMP_WAIT_POLICY": "passive",
    # OpenBLAS has its own threads. They spin regardless of OMP_WAIT_POLICY, and they split sums.
    "OPENBLAS_NUM_THREADS": "1",
    # Tensors use pages of 2 MB where Linux offers them. A page fault for every 4 KB would cost a
    # tenth of a training step.
    "THP_MEM_ALLOC_ENABLE": "1",
}


def asked_for() -> str:
    """Returns ``compute.arithmetic`` of params.yaml; ``portable`` if that cannot be read.

    Errors are ignored here, because a stage reads the parameters again later and reports them.
    """
    try:
        return str(yaml.safe_load(PARAMS.read_text())["compute"]["arithmetic"])
    except (OSError, ValueError, RecursionError, TypeError, KeyError, yaml.YAMLError):
        return "portable"


def pin(arithmetic: str) -> None:
    """Sets the environment variables that the numerical libraries read when they are imported.

    If NumPy or torch is already imported, it is too late and nothing is set. ``is_portable`` then
    returns False, unless the variables were set before, and a stage refuses to start.

    Args:
        arithmetic: ``portable`` or ``native``, as in ``compute.arithmetic`` of params.yaml.
    """
    wanted = dict.fromkeys(PORTABLE) | ALWAYS
    if arithmetic == "portable" and X86:
        wanted |= PORTABLE
    if {"numpy", "torch"} & set(sys.modules):
        return
    for name, value in wanted.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@cache  # called for every matrix product; the libraries also read the variables only once
def is_portable() -> bool:
    """Returns whether this process uses the portable instructions."""
    return all(os.environ.get(name) == value for name, value in PORTABLE.items())
