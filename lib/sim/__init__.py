"""The simulator: Meta-World tasks in MuJoCo, seen through a camera, stressed and labelled.

``lib.sim.make_env`` is the public entrance.
"""

import importlib
import os
import sys
import warnings

# Before anything imports mujoco, which chooses its OpenGL backend at import: a Linux machine
# without a screen renders through EGL. One rasteriser thread a process: two processes with one
# thread each render faster than one with two.
if sys.platform.startswith("linux") and "MUJOCO_GL" not in os.environ:
    if "mujoco" in sys.modules:
        warnings.warn("import lib.sim before mujoco, or set MUJOCO_GL=egl", stacklevel=2)
    os.environ["MUJOCO_GL"] = "egl"
os.environ.setdefault("LP_NUM_THREADS", "1")


_HOME = {"make_env": "lib.sim.env"}

__all__ = ["make_env"]


def __getattr__(name: str) -> object:
    # Lazy, so that a stage that needs only lib.sim.tasks depends on nothing else.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
