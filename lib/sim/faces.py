"""Leaves out what no camera ever sees of the robot and the drawer, as ``lib.sim.survey`` found it.

Software rendering works a triangle at a time, and a third of them never shows: insides of joints,
backs of links. A test compares pictures with and without them.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import mujoco
import numpy as np

FILE = Path(__file__).with_name("faces.npz")


def mesh_key(task: str, model: mujoco.MjModel, mesh: int) -> str:
    """Names a mesh by its task, its name and its content: another version's is another one.

    Args:
        task: Name of the task.
        model: Its model, the meshes whole.
        mesh: Index of the mesh.
    """
    faces = model.mesh_face[mesh_rows(model, mesh)]
    return f"{task}/{model.mesh(mesh).name}/{zlib.crc32(faces.tobytes()):08x}"


def mesh_rows(model: mujoco.MjModel, mesh: int) -> slice:
    """Returns where the triangles of a mesh are among those of the model.

    Args:
        model: The model.
        mesh: Index of the mesh.
    """
    start = model.mesh_faceadr[mesh]
    return slice(start, start + model.mesh_facenum[mesh])


def keep_seen(model: mujoco.MjModel, task: str) -> int:
    """Leaves out of a model's meshes the triangles that were never seen; call before rendering.

    Physics does not look at them: contacts are those of convex hulls, which stay.

    Args:
        model: Changed. A mesh that the survey does not know stays whole.
        task: Name of its task.

    Returns:
        How many meshes were known.
    """
    known = 0
    with np.load(FILE, allow_pickle=False) as survey:
        for mesh in range(model.nmesh):
            key = mesh_key(task, model, mesh)
            if key not in survey:
                continue
            rows, known = mesh_rows(model, mesh), known + 1
            seen = np.unpackbits(survey[key], count=rows.stop - rows.start).astype(bool)
            for array in (model.mesh_face, model.mesh_facenormal, model.mesh_facetexcoord):
                array[rows] = np.concatenate([array[rows][seen], array[rows][~seen]])
            model.mesh_facenum[mesh] = seen.sum()
    return known
