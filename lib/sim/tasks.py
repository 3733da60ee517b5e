"""Defines the tasks as data: the bodies of each primitive, the camera and the scripted expert.

The other simulator code takes all names of bodies and joints from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lib.base.errors import UserError


@dataclass(frozen=True)
class Camera:
    """A free camera that looks at a point.

    Attributes:
        azimuth: Angle around the vertical axis, degrees.
        elevation: Elevation angle, degrees; negative looks down.
        distance: Distance from the camera to the point, m.
        lookat: Position of the point, m.
    """

    azimuth: float
    elevation: float
    distance: float
    lookat: tuple[float, float, float]


# Names of bodies by primitive, for the parts that every Sawyer task shares. A name stands for that
# body alone, not for its children. A body that is not listed is background.
ROBOT_AND_SCENE: Mapping[str, tuple[str, ...]] = {
    "table": ("tablelink",),
    "arm": (
        "base",
        "controller_box",
        "pedestal_feet",
        "torso",
        "pedestal",
        "right_arm_base_link",
        "head",
        "screen",
        "right_l0",
        "right_l1",
        "right_l1_2",
        "right_l2",
        "right_l2_2",
        "right_l3",
        "right_l4",
        "right_l4_2",
        "right_l5",
        "right_l6",
    ),
    "gripper": (
        "right_hand",
        "hand",
        "rightclaw",
        "rightpad",
        "leftclaw",
        "leftpad",
    ),
}

# Bodies that are outside the camera's view in every pose of the arm. They are not drawn; a test
# checks that leaving them out changes no pixel.
NEVER_SEEN = (
    "controller_box",
    "pedestal_feet",
    "torso",
    "pedestal",
    "right_arm_base_link",
    "head",
    "screen",
    "right_l0",
    "right_l1",
    "right_l1_2",
)


@dataclass(frozen=True)
class Task:
    """One manipulation task.

    Attributes:
        name: Name of the task in this repository.
        env_name: Name of Meta-World's environment.
        expert: Class name of the scripted expert in ``metaworld.policies``.
        root_body: The body that holds the task's parts and stands somewhere in the world.
        case_body: The body out of which the part moves.
        part_body: The body that has to move.
        part_joint: Joint of that body.
        travel_m: Largest travel of that joint, m.
        primitives: Names of bodies by primitive.
        handle_geom: The visible geom that the gripper takes hold of.
        camera: Camera that takes the images.
        hidden_bodies: Bodies that the camera never sees.
        free_space: Lowest and highest corner of a box in which the hand touches nothing, m.
    """

    name: str
    env_name: str
    expert: str
    root_body: str
    case_body: str
    part_body: str
    part_joint: str
    travel_m: float
    primitives: Mapping[str, tuple[str, ...]]
    handle_geom: str
    camera: Camera = field(default=Camera(135.0, -30.0, 0.95, (-0.035, 0.735, 0.207)))
    hidden_bodies: tuple[str, ...] = NEVER_SEEN
    free_space: tuple[tuple[float, ...], tuple[float, ...]] = ((-0.2, 0.52, 0.1), (0.2, 0.68, 0.35))


TASKS: Mapping[str, Task] = {
    "drawer_open": Task(
        name="drawer_open",
        env_name="drawer-open-v3",
        expert="SawyerDrawerOpenV3Policy",
        root_body="drawer",
        case_body="drawercase_link",
        part_body="drawer_link",
        part_joint="goal_slidey",
        travel_m=0.16,
        primitives={
            **ROBOT_AND_SCENE,
            "drawer_case": ("drawercase_link",),
            "drawer": ("drawer_link",),
        },
        handle_geom="objGeom",
    ),
}


def get_task(name: str) -> Task:
    """Returns a task by name.

    Args:
        name: The value of ``task`` in params.yaml.

    Raises:
        UserError: If there is no such task.
    """
    try:
        return TASKS[name]
    except KeyError:
        raise UserError(
            f"params.yaml: task: {name!r} is not known; choose one of: {', '.join(TASKS)}"
        ) from None
