"""The world of an episode: where things stand at the start, what they look like, how they move.

``metaworld`` is the distribution of Meta-World: the drawer moves along one axis by 0.2 m, and all
else is always the same. A robot that neither sees nor feels opens many of these drawers. In
``wide``, the drawer is also shifted in depth and turned, the hand starts anywhere in the free
space, and colours, textures, light, camera, friction and objects that stand about differ. A world
depends only on the episode's random generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import mujoco
import numpy as np

from lib.sim.stress import WORLD_KINDS, Stress, draw_camera, draw_light
from lib.sim.tasks import Task

WORLDS = ("wide", "metaworld")

# Ranges of the wide world. Lengths are metres.
X_M, Y_M, YAW_DEG = 0.16, 0.13, 35.0  # drawer: largest deviation from Meta-World's middle
HAND_LOW, HAND_HIGH = (-0.2, 0.45, 0.1), (0.2, 0.62, 0.35)
LIGHT_SHARE = 0.25  # the brightness of each colour is multiplied by 1 +- at most this
CAMERA_DEG, CAMERA_SHARE, CAMERA_M = 2.0, 0.02, 0.01  # a camera that was taken off and put back
DAMPING_FACTOR = 10.0  # the part's joint damping is multiplied by up to this
FRICTION_N = 10.0  # largest dry friction of the part's joint
# Meta-World's back wall stands where a turned drawer would be, and would push the drawer open.
WALL_SHIFT_M = 0.2
CLUTTER = ("box", "cylinder", "ball")
CLUTTER_SHARE = 0.8  # probability of each object
CLUTTER_M = (0.02, 0.045)  # half width
CLUTTER_HEIGHT_M = (0.04, 0.10)  # half height; the cylinder, a bottle, is higher by BOTTLE
BOTTLE = 1.6
CLUTTER_LOW, CLUTTER_HIGH = (-0.45, 0.38), (0.45, 0.85)
# The bottle stands this far from the handle, towards the camera, where it hides the handle.
BOTTLE_M = (0.24, 0.42)
TO_CAMERA = np.array([0.69, -0.72])
# Objects keep these distances from the part's way (half of its width, and theirs) and the hand's.
PART_CLEARANCE_M, HAND_CLEARANCE_M = 0.17, 0.13
TRIES = 12
REACH_M = 0.17  # from the middle of the parts to the handle, along the part's way
FAR = (0.0, 0.0, -5.0)  # place of an object that is absent
TEXTURES = ("", "T_table", "T_wallmetal")  # Meta-World's that fit any mesh; the first is none
SURFACES = ("case", "drawer", "handle", "table")
BRIGHTNESS = (0.15, 0.9)  # of red, green and blue of each surface
# Surfaces that touch in a picture, by index into SURFACES, and the least distance of their colours:
# a handle in the colour of its drawer is a matter of stress, not of every day.
TOUCHING = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
CONTRAST = 0.35
COLOUR_TRIES = 40
# Magnitudes of stress at severity 1; the kinds stand in lib/sim/stress.py.
CHEQUERS = 4  # steps of contrast of the chequered pattern; the last is black and white
DISTRACTORS = 5  # number of bars
DISTRACTOR_M = (0.05, 0.012)  # half width and half height of a bar, as of the handle
HAND_M = np.array([0.25, 0.0, 0.15])  # how far beyond the usual space the hand starts
OCCLUDER_M = 0.055  # radius of the object between camera and handle
OCCLUDER_AT = 0.45  # share of the way from the handle to the camera at which it floats
HANDLE_HEIGHT_M = 0.09
DRAWN_GROUP = 1  # geom group in which Meta-World keeps the visible shapes of parts and table
# Red, green and blue of the canonical look, in the order of SURFACES, then of clutter.
CANONICAL = ((0.15, 0.3, 0.9), (0.9, 0.85, 0.1), (0.9, 0.1, 0.1), (0.25, 0.25, 0.25), (0.0,) * 3)


@dataclass(frozen=True)
class Look:
    """Colours and textures of an episode.

    Attributes:
        colours: (5, 3) red, green and blue in [0, 1] of case, drawer, handle, table and clutter.
        textures: (4,) index into PATTERNS of case, drawer, handle and table.
    """

    colours: np.ndarray
    textures: np.ndarray


PATTERNS = (*TEXTURES, *(f"chequers_{step}" for step in range(1, CHEQUERS + 1)))
PLAIN = Look(np.array(CANONICAL), np.zeros(len(SURFACES), np.int64))
"""The canonical look: every surface always has the same colour, and none has a texture."""


@dataclass(frozen=True)
class World:
    """Start and properties of one episode.

    Attributes:
        position: (3,) place of the task's parts, m.
        yaw: Angle by which they are turned around the vertical axis, radians.
        hand: (3,) place at which the hand starts, m; None is Meta-World's.
        damping: Factor on the damping of the part's joint.
        friction: Dry friction of the part's joint, N.
        light: (3,) factors on the light's red, green and blue.
        camera: (6,) changes of azimuth, elevation (degrees), distance (share), lookat (m).
        look: Colours and textures; None is Meta-World's.
        clutter: (N, 5) x, y (m), half width, half height (m) and turn (radians) of each object;
            an object of width 0 is absent.
        distractors: (DISTRACTORS, 5) the same of bars; only stress puts them there.
        occluder: (4,) x, y, z and radius (m) of an object that floats before the camera; with
            radius 0 it is absent.
    """

    position: np.ndarray
    yaw: float = 0.0
    hand: np.ndarray | None = None
    damping: float = 1.0
    friction: float = 0.0
    light: np.ndarray = field(default_factory=lambda: np.ones(3))
    camera: np.ndarray = field(default_factory=lambda: np.zeros(6))
    look: Look | None = None
    clutter: np.ndarray = field(default_factory=lambda: np.zeros((0, 5)))
    distractors: np.ndarray = field(default_factory=lambda: np.zeros((DISTRACTORS, 5)))
    occluder: np.ndarray = field(default_factory=lambda: np.zeros(4))

    def facts(self) -> dict[str, float]:
        """Returns what differs from episode to episode, for the tags of a recording."""
        x, y, _ = self.position.tolist()
        facts = {"x": x, "y": y, "yaw_deg": math.degrees(self.yaw)}
        if self.hand is not None:
            names = ("hand_x", "hand_y", "hand_z")
            facts |= dict(zip(names, self.hand.tolist(), strict=True))
        facts |= {"damping": self.damping, "friction_n": self.friction}
        facts["objects"] = int((self.clutter[:, 2] > 0).sum() + (self.distractors[:, 2] > 0).sum())
        return {name: round(value, 4) for name, value in facts.items()}


def turn_by(yaw: float) -> np.ndarray:
    """Returns the matrix of a turn around the vertical axis, (3, 3).

    Args:
        yaw: Angle, radians.
    """
    cos, sin = math.cos(yaw), math.sin(yaw)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def starts(kind: str, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and the highest start of an episode.

    A start is the place of the task's parts, (3,) m; in the wide world also their turn (radians)
    and the place of the hand (3) m.

    Args:
        kind: One of WORLDS.
        low: (3,) lowest place of the parts in Meta-World.
        high: (3,) highest place of the parts in Meta-World.
    """
    if kind == "metaworld":
        return low, high
    middle, reach = (low + high) / 2, np.array([X_M, Y_M, 0.0])
    yaw = [math.radians(YAW_DEG)]
    return (
        np.concatenate([middle - reach, np.negative(yaw), HAND_LOW]),
        np.concatenate([middle + reach, yaw, HAND_HIGH]),
    )


def draw_world(kind: str, start: np.ndarray, rng: np.random.Generator) -> World:
    """Draws the world of an episode.

    Args:
        kind: One of WORLDS.
        start: The start, drawn within ``starts``.
        rng: The episode's random generator; for ``metaworld``, nothing is drawn from it.
    """
    if kind == "metaworld":
        return World(start)
    light = draw_light(LIGHT_SHARE, rng)
    camera = draw_camera(CAMERA_DEG, CAMERA_SHARE, CAMERA_M, rng)
    colours = _draw_colours(rng)
    textures = rng.integers(0, len(TEXTURES), len(SURFACES))
    clutter = _draw_clutter(start, rng)
    return World(
        position=start[:3],
        yaw=float(start[3]),
        hand=start[4:7],
        damping=float(rng.uniform(1.0, DAMPING_FACTOR)),
        friction=float(rng.uniform(0.0, FRICTION_N)),
        light=light,
        camera=camera,
        look=Look(colours, textures),
        clutter=clutter,
    )


def _draw_colours(rng: np.random.Generator) -> np.ndarray:
    """Draws colours in which surfaces that touch can be told apart; see ``Look.colours``."""
    sets = rng.uniform(*BRIGHTNESS, (COLOUR_TRIES, len(SURFACES) + 1, 3))
    one, other = np.array(TOUCHING).T
    contrast = np.linalg.norm(sets[:, one] - sets[:, other], axis=2).min(1)
    enough = contrast >= CONTRAST
    return sets[enough.argmax() if enough.any() else contrast.argmax()]


class _Floor:
    """Finds places for objects that stand in nobody's way."""

    def __init__(self, start: np.ndarray) -> None:
        """Takes the ways of part and hand.

        Args:
            start: The start, drawn within ``starts``.
        """
        (x, y, _), yaw = start[:3], start[3]
        way = np.array([math.sin(yaw), -math.cos(yaw)])
        self.handle = np.array([x, y]) + REACH_M * way
        self._part = np.array([x, y]), self.handle + 0.2 * way
        self._hand = start[4:6], self.handle

    def place(
        self, places_N2: np.ndarray, size: tuple[float, float], turn: float, others_N5: np.ndarray
    ) -> np.ndarray:
        """Returns an object at the first place that is free, as a row of ``World.clutter``.

        Args:
            places_N2: Places to try, m.
            size: Half width and half height, m.
            turn: Angle around the vertical axis, radians.
            others_N5: Objects that stand already.

        Returns:
            Zeros if no place is free.
        """
        clear = (_distance(places_N2, *self._part) > PART_CLEARANCE_M) & (
            _distance(places_N2, *self._hand) > HAND_CLEARANCE_M
        )
        for other in others_N5:
            clear &= (other[2] == 0) | (np.linalg.norm(places_N2 - other[:2], axis=1) > 0.1)
        if not clear.any():
            return np.zeros(5)
        return np.array([*places_N2[clear.argmax()], *size, turn])


def _draw_clutter(start: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws objects that stand in nobody's way; see ``World.clutter``."""
    floor, clutter = _Floor(start), np.zeros((len(CLUTTER), 5))
    for index, name in enumerate(CLUTTER):
        there = rng.random() < CLUTTER_SHARE
        width, height = rng.uniform(*CLUTTER_M), rng.uniform(*CLUTTER_HEIGHT_M)
        turn = rng.uniform(-math.pi, math.pi)
        places = rng.uniform(CLUTTER_LOW, CLUTTER_HIGH, (TRIES, 2))
        if name == "cylinder":
            height *= BOTTLE
            far, aside = rng.uniform(*BOTTLE_M, TRIES), rng.normal(0, 0.03, (TRIES, 2))
            places = floor.handle + far[:, None] * TO_CAMERA + aside
        if there:
            clutter[index] = floor.place(places, (width, height), turn, clutter[:index])
    return clutter


def disturb(world: World, stress: Stress, camera: np.ndarray, rng: np.random.Generator) -> World:
    """Applies the stress that only the wide world has.

    Random numbers are drawn for every kind, even if it is not active. Switching on one kind
    therefore leaves the others unchanged. In Meta-World's own world, nothing is drawn.

    Args:
        world: The world as it was drawn.
        stress: Severity of each kind.
        camera: (3,) place of the camera, m.
        rng: The episode's random generator.

    Raises:
        ValueError: If a kind is active that the world does not have.
    """
    active = any(getattr(stress, kind) for kind in WORLD_KINDS)
    if world.look is None or world.hand is None:
        if active:
            raise ValueError(f"only the wide world has the stress {', '.join(WORLD_KINDS)}")
        return world
    common, strip = rng.uniform(*BRIGHTNESS, 3), rng.integers(0, 2, 3)
    places = rng.uniform(CLUTTER_LOW, CLUTTER_HIGH, (DISTRACTORS, TRIES, 2))
    turns = rng.uniform(-math.pi, math.pi, DISTRACTORS)
    if not active:
        return world
    colours, textures = world.look.colours.copy(), world.look.textures
    parts = colours[: len(SURFACES)]
    parts += stress.colours * (common - parts)
    # The pattern multiplies the colour of a surface, and white shows the pattern alone.
    parts += stress.texture * (1 - parts)
    contrast = math.ceil(stress.texture * CHEQUERS)
    if contrast:
        textures = np.full(len(SURFACES), len(TEXTURES) - 1 + contrast)
    hand = world.hand + stress.hand_start * HAND_M * np.where(strip, 1, -1)
    floor = _Floor(np.array([*world.position, world.yaw, *hand]))
    distractors = np.zeros((DISTRACTORS, 5))
    for index in range(round(stress.distractors * DISTRACTORS)):
        others = np.concatenate([world.clutter, distractors[:index]])
        distractors[index] = floor.place(places[index], DISTRACTOR_M, turns[index], others)
    handle = np.array([*floor.handle, HANDLE_HEIGHT_M])
    at = handle + OCCLUDER_AT * (camera - handle)
    return replace(
        world,
        hand=hand,
        look=Look(colours, textures),
        distractors=distractors,
        occluder=np.array([*at, OCCLUDER_M * stress.occlusion]),
    )


def _distance(points_N2: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the distance of each point from the segment between two points, (N,)."""
    along = b - a
    share = np.clip((points_N2 - a) @ along / max(float(along @ along), 1e-12), 0, 1)
    return np.linalg.norm(points_N2 - a - share[:, None] * along, axis=1)


def furnish(spec: mujoco.MjSpec) -> None:
    """Adds clutter and materials to a model, and moves the back wall out of a turned drawer's way.

    Args:
        spec: Model of a task; changed in place.
    """
    kinds = {
        "box": mujoco.mjtGeom.mjGEOM_BOX,
        "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
        "ball": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    }
    for name in CLUTTER:
        body = spec.worldbody.add_body(name=f"clutter_{name}", pos=FAR)
        body.add_geom(name=f"clutter_{name}", type=kinds[name], size=[0.04] * 3, group=DRAWN_GROUP)
    for index in range(DISTRACTORS):
        body = spec.worldbody.add_body(name=f"distractor_{index}", pos=FAR)
        width, height = DISTRACTOR_M
        body.add_geom(type=kinds["box"], size=[width, height, height], group=DRAWN_GROUP)
    body = spec.worldbody.add_body(name="occluder", pos=FAR)
    # Nothing can touch it: it hides the scene, and must not get into the arm's way.
    sphere = mujoco.mjtGeom.mjGEOM_SPHERE
    body.add_geom(type=sphere, size=[0.01] * 3, group=DRAWN_GROUP, contype=0, conaffinity=0)
    for step in range(1, CHEQUERS + 1):
        light, dark = 0.5 + 0.5 * step / CHEQUERS, 0.5 - 0.5 * step / CHEQUERS
        spec.add_texture(
            name=f"chequers_{step}",
            type=mujoco.mjtTexture.mjTEXTURE_CUBE,
            builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
            rgb1=[light] * 3,
            rgb2=[dark] * 3,
            width=64,
            height=64,
        )
    for surface in SURFACES:
        for texture in PATTERNS:
            material = spec.add_material(name=f"{surface}_{texture or 'plain'}")
            material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = texture
    for wall in spec.body("RetainingWall").geoms:
        (x, y, z), (width, length, height) = wall.pos, wall.size
        if y > 0:  # the one at the back
            wall.pos = [x, y + WALL_SHIFT_M, z]
        elif x:  # the two at the sides, which end there
            wall.pos = [x, y + WALL_SHIFT_M / 2, z]
            wall.size = [width, length + WALL_SHIFT_M / 2, height]


class Furniture:
    """Puts the clutter and the colours of an episode into a model that ``furnish`` prepared."""

    def __init__(self, model: mujoco.MjModel, task: Task) -> None:
        """Finds what is changed from episode to episode.

        Args:
            model: The model.
            task: Task that names the bodies.
        """
        self._model = model
        self._clutter = [model.body(f"clutter_{name}").id for name in CLUTTER]
        self._distractors = [model.body(f"distractor_{i}").id for i in range(DISTRACTORS)]
        self._occluder = model.body("occluder").id
        handle = model.geom(task.handle_geom).id
        drawn = (model.geom_group == DRAWN_GROUP) & (np.arange(model.ngeom) != handle)
        bodies = (task.case_body, task.part_body, "tablelink")
        case, part, table = (
            np.flatnonzero(drawn & (model.geom_bodyid == model.body(body).id)) for body in bodies
        )
        self._geoms = (case, part, np.array([handle]), table)
        self._materials = [
            [model.mat(f"{surface}_{texture or 'plain'}").id for texture in PATTERNS]
            for surface in SURFACES
        ]

    def arrange(self, world: World) -> None:
        """Puts clutter and colours of an episode into the model.

        Args:
            world: The episode's world, with a ``look``.
        """
        model, look = self._model, world.look
        if look is None:
            raise ValueError("the world of Meta-World has no colours of its own")
        for row, body in zip(world.clutter, self._clutter, strict=True):
            geom = self._stand(row, body)
            _, _, width, height, _ = row
            if width:
                round_ = model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CYLINDER
                model.geom_size[geom] = (width, height, 0) if round_ else (width, width, height)
                model.geom_rbound[geom] = math.sqrt(2 * width**2 + height**2)
            model.geom_rgba[geom, :3] = look.colours[-1]
        for row, body in zip(world.distractors, self._distractors, strict=True):
            model.geom_rgba[self._stand(row, body), :3] = look.colours[SURFACES.index("handle")]
        *place, radius = world.occluder.tolist()
        geom = int(model.body_geomadr[self._occluder])
        model.body_pos[self._occluder] = place if radius else FAR
        if radius:
            model.geom_size[geom, 0] = model.geom_rbound[geom] = radius
        model.geom_rgba[geom, :3] = look.colours[-1]
        # The renderer copies a material's texture when it starts, so each texture has a material.
        surfaces = zip(self._geoms, self._materials, look.colours[:-1], look.textures, strict=True)
        for geoms, materials, colour, texture in surfaces:
            model.geom_matid[geoms] = materials[texture]
            model.mat_rgba[materials[texture]] = *colour, 1.0

    def _stand(self, row: np.ndarray, body: int) -> int:
        """Puts an object on its place, or far away if it is absent; returns its geom."""
        x, y, width, height, turn = row.tolist()
        self._model.body_pos[body] = (x, y, height) if width else FAR
        self._model.body_quat[body] = math.cos(turn / 2), 0.0, 0.0, math.sin(turn / 2)
        return int(self._model.body_geomadr[body])
