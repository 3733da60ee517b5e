"""Leaves out the triangles of robot and drawer that no camera ever sees.

``lib.sim.survey`` finds these triangles. Software rendering takes time for each triangle, and a
third of them is never visible: insides of joints, backs of links. A test compares images with and
without them.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import mujoco
import numpy as np

FILE = Path(__file__).with_name("faces.npz")


def mesh_key(task: str, model: mujoco.MjModel, mesh: int) -> str:
    """Returns a key for a mesh, made from its task, its name and its content.

    A mesh whose content differs in another version has another key.

    Args:
        task: Name of the task.
        model: Model of the task, with complete meshes.
        mesh: Index of the mesh.
    """
    faces = model.mesh_face[mesh_rows(model, mesh)]
    return f"{task}/{model.mesh(mesh).name}/{zlib.crc32(faces.tobytes()):08x}"


def mesh_rows(model: mujoco.MjModel, mesh: int) -> slice:
    """Returns the slice of a mesh's triangles in the model's arrays of triangles.

    Args:
        model: The model.
        mesh: Index of the mesh.
    """
    start = model.mesh_faceadr[mesh]
    return slice(start, start + model.mesh_facenum[mesh])


def keep_seen(model: mujoco.MjModel, task: str) -> int:
    """Removes the triangles that were never seen from a model's meshes; call before rendering.

    The physics does not use these triangles: contacts use convex hulls, which stay unchanged.

    Args:
        model: Model that is changed in place. A mesh that the survey does not know stays complete.
        task: Name of the model's task.

    Returns:
        The number of meshes that the survey knows.
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
