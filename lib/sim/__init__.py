"""Simulator: Meta-World tasks in MuJoCo with a camera, disturbances and exact labels.

``lib.sim.make_env`` is the public entry point.
"""

import importlib
import os
import sys
import warnings

# This must run before anything imports mujoco, because mujoco chooses its OpenGL backend at
# import. A Linux machine without a screen renders through EGL. Each process gets one rasteriser
# thread: two processes with one thread each render faster than one process with two threads.
if sys.platform.startswith("linux") and "MUJOCO_GL" not in os.environ:
    if "mujoco" in sys.modules:
        warnings.warn("import lib.sim before mujoco, or set MUJOCO_GL=egl", stacklevel=2)
    os.environ["MUJOCO_GL"] = "egl"
os.environ.setdefault("LP_NUM_THREADS", "1")


_HOME = {"make_env": "lib.sim.env"}

__all__ = ["make_env"]


def __getattr__(name: str) -> object:
    # Imported lazily, so that a stage that needs only lib.sim.tasks depends on no other module.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
