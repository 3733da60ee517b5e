"""Finds the triangles of the robot and the drawer that a camera ever sees, for ``lib.sim.faces``.

    python -m lib.sim.survey         surveys every task in every world again, some minutes each

The survey looks at thousands of poses from stressed cameras, with and without the arm. A triangle
counts as seen if it faces the camera and one of its points is at most TOLERANCE_M behind the
nearest surface at that pixel. In doubtful cases the triangle is kept and drawn.
"""

from __future__ import annotations

import itertools

import mujoco
import numpy as np

from lib.base.files import atomic
from lib.sim.env import ManipulationEnv
from lib.sim.experts import ScriptedExpert
from lib.sim.faces import FILE, mesh_key, mesh_rows
from lib.sim.scene import Scene, view_direction
from lib.sim.stress import Stress, draw, stress_kinds
from lib.sim.tasks import TASKS
from lib.sim.world import WORLDS

EPISODES, EVERY, CAMERAS = 120, 4, 2  # CAMERAS cameras look at the scene every EVERY steps
SIZE = 384  # pixels of the depth pictures
TOLERANCE_M = 0.003
MOVED = ("action_noise", "misgrasp", "slip", "push", "hand_start")  # stress that moves the robot


class Survey:
    """Records which triangles of one simulation are seen."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Starts with all triangles unseen.

        Args:
            model: Model of a task, with complete meshes.
            data: Simulation state, which each call of ``look`` reads.
        """
        self._model, self._data = model, data
        self._renderer = mujoco.Renderer(model, SIZE, SIZE)
        self._renderer.enable_depth_rendering()
        self._half = np.tan(np.deg2rad(model.vis.global_.fovy) / 2)
        self.seen: dict[int, np.ndarray] = {}
        self._points, self._normals = {}, {}
        for mesh in set(model.geom_dataid[model.geom_type == mujoco.mjtGeom.mjGEOM_MESH].tolist()):
            start = model.mesh_vertadr[mesh]
            vertices = model.mesh_vert[start : start + model.mesh_vertnum[mesh]].astype(float)
            corners = vertices[model.mesh_face[mesh_rows(model, mesh)]]
            a, b, c = corners.transpose(1, 0, 2)
            normals = np.cross(b - a, c - a)
            self._normals[mesh] = normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-30)
            self._points[mesh] = np.stack(
                [a, b, c, (a + b) / 2, (b + c) / 2, (c + a) / 2, (a + b + c) / 3], 1
            )
            self.seen[mesh] = np.zeros(len(corners), bool)

    def look(self, view: mujoco.MjvCamera, options: mujoco.MjvOption) -> None:
        """Marks the triangles that one camera sees now.

        Args:
            view: A free camera.
            options: MuJoCo's options that say which geoms are drawn.
        """
        self._renderer.update_scene(self._data, view, options)
        # Takes the largest depth among the neighbouring pixels, so that a point beside an edge is
        # not missed.
        depth = np.pad(self._renderer.render(), 1, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(depth, (3, 3))
        depth = windows.max((2, 3)) + TOLERANCE_M
        forward = view_direction(view.azimuth, view.elevation)
        right = np.cross(forward, [0, 0, 1]) / np.hypot(*forward[:2])
        axes = np.stack([forward, right, np.cross(right, forward)], 1)
        eye = view.lookat - view.distance * forward
        model, data = self._model, self._data
        for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_MESH):
            mesh = int(model.geom_dataid[geom])
            if not options.geomgroup[model.geom_group[geom]]:
                continue
            turn, place = data.geom_xmat[geom].reshape(3, 3), data.geom_xpos[geom]
            todo = np.flatnonzero(~self.seen[mesh])
            points = self._points[mesh][todo] - (eye - place) @ turn
            first = points[:, 0]
            cosine = -(first * self._normals[mesh][todo]).sum(1) / np.linalg.norm(first, axis=1)
            todo, points = todo[cosine > -0.02], points[cosine > -0.02]
            ahead, x, y = np.moveaxis(points @ (turn.T @ axes), -1, 0)
            scale = SIZE / 2 / self._half / np.maximum(ahead, 1e-6)
            column, row = SIZE / 2 + x * scale, SIZE / 2 - y * scale
            offset = np.abs(np.stack([column, row]) - SIZE / 2)
            inside = (ahead > 0) & (offset < 0.51 * SIZE).all(0)
            at = tuple(np.clip(i, 0, SIZE - 1).astype(int) for i in (row, column))
            self.seen[mesh][todo[(inside & (ahead <= depth[at])).any(1)]] = True


def survey_task(name: str, world: str) -> dict[str, np.ndarray]:
    """Surveys a task: random motion in a third of the episodes, the stressed expert in the others.

    Args:
        name: Name of the task.
        world: One of WORLDS.

    Returns:
        Whether each triangle was seen, by mesh key.
    """
    env = ManipulationEnv(name, render=False, horizon=75, linger=None, world=world)
    model, data = env._sim.model, env._sim.data
    scene = Scene(model, data, env.task, 16, cull=False)
    scene.hide_unseen_bodies()
    survey, expert = Survey(model, data), ScriptedExpert(env.task)
    rng, action = np.random.default_rng(0), np.zeros(4)
    kinds = [kind for kind in MOVED if kind in stress_kinds(world)]
    for episode in range(EPISODES):
        drawn = rng.random(len(kinds)) * (rng.random(len(kinds)) < [1, *[0.5] * (len(kinds) - 1)])
        stress = Stress(**dict(zip(kinds, drawn, strict=True)))
        _, info = env.reset(seed=episode, options={"stress": stress})
        for step in range(150):
            if episode % 3:
                action = expert(info["expert_obs"])
            elif step % 25 == 0:
                action = rng.uniform(-1, 1, 4)
            _, _, _, _, info = env.step(action)
            for camera in range(CAMERAS if step % EVERY == 0 else 0):
                pose = draw(Stress(camera=1.0), rng).camera if camera else np.zeros(6)
                scene.disturb(np.ones(3), env.world.camera + pose)
                survey.look(scene.view, scene.options)
            if world == "wide" and step % EVERY == 0:
                scene.disturb(np.ones(3), np.zeros(6))
                survey.look(scene.view, scene.without_arm)
    return {mesh_key(name, model, mesh): seen for mesh, seen in survey.seen.items()}


def main() -> None:
    """Surveys every task in every world and writes the survey's file."""
    seen: dict[str, np.ndarray] = {}
    for name, world in itertools.product(TASKS, WORLDS):
        for key, triangles in survey_task(name, world).items():
            seen[key] = triangles | seen.get(key, triangles)
    found = {key: np.packbits(triangles) for key, triangles in sorted(seen.items())}
    with atomic(FILE) as scratch, scratch.open("wb") as file:
        np.savez_compressed(file, **found)  # ty: ignore[invalid-argument-type]


if __name__ == "__main__":
    main()
