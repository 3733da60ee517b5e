"""Renders images of the scene and exact pixel labels as fast as software rendering allows."""

from __future__ import annotations

import mujoco
import numpy as np

from lib.episode import PRIMITIVES
from lib.sim.faces import keep_seen
from lib.sim.tasks import Camera, Task

HIDDEN_GROUP = 5  # a geom group that no camera draws
COLLISION_GROUP = 4  # Meta-World keeps its collision shapes here
ARM_GROUP = 2  # the arm's shapes, which the canonical picture leaves out


def primitive_of_geoms(model: mujoco.MjModel, task: Task) -> np.ndarray:
    """Returns a lookup table from geom id to primitive.

    Args:
        model: The task's model.
        task: Task that assigns bodies to primitives.

    Returns:
        (ngeom + 1,) uint8 indices into PRIMITIVES; the last entry, which id -1 selects, is the sky.
    """
    table = np.zeros(model.ngeom + 1, np.uint8)
    by_body = {body: name for name, bodies in task.primitives.items() for body in bodies}
    for geom in range(model.ngeom):
        name = by_body.get(model.body(model.geom_bodyid[geom]).name, "background")
        table[geom] = PRIMITIVES.index(name)
    table[model.geom(task.handle_geom).id] = PRIMITIVES.index("handle")
    return table


def view_direction(azimuth: float, elevation: float) -> np.ndarray:
    """Returns the unit vector along which a camera looks, (3,).

    Args:
        azimuth: Angle around the vertical axis, degrees.
        elevation: Elevation angle, degrees; negative looks down.
    """
    azimuth, elevation = np.deg2rad([azimuth, elevation])
    flat = np.cos(elevation)
    return np.array([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])


def camera_place(camera: Camera) -> np.ndarray:
    """Returns the place of a camera, (3,) m.

    Args:
        camera: The camera.
    """
    ahead = view_direction(camera.azimuth, camera.elevation)
    return np.asarray(camera.lookat) - camera.distance * ahead


class Scene:
    """Renders one simulation from one camera.

    Shadows, reflections and multisampling are off. Sites are never drawn, because the goal marker
    is a site. Bodies and triangles that the camera never sees are left out.

    Attributes:
        view: The camera, at the pose that ``disturb`` has set.
        options: MuJoCo's options that say what is drawn.
        without_arm: The same, for pictures that show the hand alone.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        task: Task,
        size: int,
        *,
        cull: bool = True,
    ) -> None:
        """Creates the renderer; this needs a working OpenGL.

        Args:
            model: Model that is changed in place: multisampling is switched off, and parts that
                are never seen are no longer drawn.
            data: Simulation state, which is read for each image.
            task: Task that defines the camera and the labels.
            size: Width and height of the images, pixels.
            cull: Whether to leave out parts that are never seen. It is False in the test of this
                and in the survey that finds these parts.
        """
        self._model, self._data, self._camera = model, data, task.camera
        self._light = model.light_diffuse.copy()
        self._headlight = model.vis.headlight.diffuse.copy(), model.vis.headlight.ambient.copy()
        self._primitives = primitive_of_geoms(model, task)
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        self._hidden = [model.body(name).id for name in task.hidden_bodies]
        if cull:
            self.hide_unseen_bodies()
            keep_seen(model, task.name)
        arm = [model.body(name).id for name in task.primitives["arm"]]
        drawn = model.geom_group <= ARM_GROUP
        model.geom_group[np.isin(model.geom_bodyid, arm) & drawn] = ARM_GROUP
        self.options, self.without_arm = mujoco.MjvOption(), mujoco.MjvOption()
        for options in (self.options, self.without_arm):
            options.sitegroup[:] = 0
            options.geomgroup[ARM_GROUP + 1 :] = 0
        self.without_arm.geomgroup[ARM_GROUP] = 0
        self.view = mujoco.MjvCamera()
        self._renderer = mujoco.Renderer(model, size, size)
        self.disturb(np.ones(3), np.zeros(6))

    def hide_unseen_bodies(self) -> None:
        """Moves the geoms of the bodies that are never seen to a group that is not drawn."""
        of_hidden = np.isin(self._model.geom_bodyid, self._hidden)
        self._model.geom_group[of_hidden] = HIDDEN_GROUP

    def disturb(self, light: np.ndarray, camera: np.ndarray) -> None:
        """Sets the light and the camera pose of an episode.

        Args:
            light: (3,) factors on the brightness of red, green and blue.
            camera: (6,) changes of azimuth, elevation (degrees), distance (share), lookat (m).
        """
        self._model.light_diffuse[:] = self._light * light
        self._model.vis.headlight.diffuse[:] = self._headlight[0] * light
        self._model.vis.headlight.ambient[:] = self._headlight[1] * light
        pose: Camera = self._camera
        self.view.azimuth = pose.azimuth + camera[0]
        self.view.elevation = pose.elevation + camera[1]
        self.view.distance = pose.distance * (1 + camera[2])
        self.view.lookat[:] = np.asarray(pose.lookat) + camera[3:]

    def _render(self, options: mujoco.MjvOption | None = None) -> np.ndarray:
        scene = self._renderer.scene
        self._renderer.update_scene(self._data, self.view, options or self.options)
        scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        return self._renderer.render()

    def rgb(self, *, arm: bool = True) -> np.ndarray:
        """Returns the image, (H, W, 3) uint8.

        Args:
            arm: Whether the arm is drawn; the hand always is.
        """
        return self._render(self.options if arm else self.without_arm).copy()

    def labels(self) -> np.ndarray:
        """Returns the primitive that each pixel shows, (H, W) uint8."""
        self._renderer.enable_segmentation_rendering()
        try:
            geoms = self._render()[..., 0]
        finally:
            self._renderer.disable_segmentation_rendering()
        return self._primitives[geoms]

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._renderer.close()
