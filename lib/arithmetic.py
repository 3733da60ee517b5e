"""The same bits on every x86 processor: which instructions the numerical libraries may use.

Each library chooses its kernels by the processor it finds, and another kernel sums in another
order. So their choice is taken from them: AVX2 everywhere. They read these variables when they are
first imported, so ``stages`` calls ``pin`` before anything else; worker processes inherit them.
docs/reproducibility.md says what was tried on which processor.
"""

from __future__ import annotations

import os
import platform
import sys
from functools import cache

X86 = platform.machine().lower() in ("x86_64", "amd64")

# MKL has one code path for all processors, and it is slow: lib.portable goes another way.
PORTABLE = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
    # NumPy's exp, log and pow of float64 have other last bits with AVX-512.
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
ALWAYS = {
    # Threads that wait for each other must not spin: beside a busy neighbour that costs up to a
    # hundred times the work. On a quiet machine sleeping costs 4 to 20 %.
    "OMP_WAIT_POLICY": "passive",
    # OpenBLAS has threads of its own, which spin whatever OMP is told, and split sums.
    "OPENBLAS_NUM_THREADS": "1",
    # Tensors in pages of 2 MB, where Linux has them: a page fault for each 4 KB costs a tenth of
    # a training step.
    "THP_MEM_ALLOC_ENABLE": "1",
}


def pin(arithmetic: str) -> None:
    """Sets what the numerical libraries read when they are imported.

    Args:
        arithmetic: ``portable`` or ``native``, as ``compute.arithmetic`` of params.yaml.

    Raises:
        RuntimeError: If one of them is imported already, and other values are set than asked for.
    """
    wanted = dict.fromkeys(PORTABLE) | ALWAYS
    if arithmetic == "portable" and X86:
        wanted |= PORTABLE
    if all(os.environ.get(name) == value for name, value in wanted.items()):
        return
    late = {"numpy", "torch"} & set(sys.modules)
    if late:
        raise RuntimeError(f"lib.arithmetic.pin must be called before {late} is imported")
    for name, value in wanted.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@cache  # asked at every product; the libraries, too, look only once
def is_portable() -> bool:
    """Returns whether this process computes with the portable instructions."""
    return all(os.environ.get(name) == value for name, value in PORTABLE.items())
