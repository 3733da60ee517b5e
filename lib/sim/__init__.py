"""The simulator: Meta-World tasks in MuJoCo, seen through a camera, stressed and labelled.

``lib.sim.make_env`` is the public entrance.
"""

import os
import sys

# Before anything imports mujoco, which chooses its OpenGL backend at import: a Linux machine
# without a screen renders through EGL. One rasteriser thread a process: two processes with one
# thread each render faster than one with two.
if sys.platform.startswith("linux"):
    os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "1")


def __getattr__(name: str):
    # Lazy, so that a module that needs only, say, lib.sim.skills depends on nothing else.
    if name == "make_env":
        from lib.sim.env import make_env

        return make_env
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
