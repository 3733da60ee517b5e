"""Defines the kinds of stress (disturbances) in a rollout, each with a severity in [0, 1].

The severity scales the magnitudes below. The time and the direction of a disturbance are drawn
from the episode's own random generator, so a rollout depends only on its seed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

# Magnitudes at severity 1.
ACTION_NOISE_STD = 0.3  # standard deviation of the noise on actions in [-1, 1]
MISGRASP_M = 0.12  # distance between the true and the sensed hand position
SLIP_M = 0.10  # distance by which the hand is torn off upwards
SLIP_STEP_M = 0.02  # upward motion in one control step
PUSH_N = 600.0  # force on the hand, or on the part towards closing, for PUSH_STEPS
PUSH_STEPS = 4
DAMPING_FACTOR = 600.0  # the part's joint damping is multiplied by up to 1 + this
FRICTION_N = 300.0  # largest dry friction of the part's joint
LIGHT_FACTOR = 5.0  # the light is this many times as bright or as dark, at most
TINT_SHARE = 0.3  # of that change, which the colours of the light do not share
CAMERA_DEG = 8.0  # largest change of azimuth and elevation
CAMERA_SHARE = 0.08  # largest relative change of the distance
CAMERA_M = 0.02  # largest shift of the point looked at, along each axis
DROPOUT_SHARE = 0.4  # share of the frames that are black
DROPOUT_STEPS = 8  # mean number of black frames in a row
LATENCY_STEPS = 5  # control steps by which observations are delayed
LEAST = 0.5  # a light or a camera differs by at least this share of the most
# Those of the kinds of WORLD_KINDS stand in lib/sim/world.py.


@dataclass(frozen=True)
class Stress:
    """Severities in [0, 1] by kind; all zero is the nominal task.

    Attributes:
        action_noise: Gaussian noise on every action.
        misgrasp: A constant error of the sensed hand position.
        slip: After the part has begun to move, the hand is torn off it.
        push: A short force on the hand or the part.
        dynamics: More damping and dry friction in the part's joint.
        light: A dark or a glaring light, and another tint of it.
        camera: Changed camera pose.
        dropout: Black frames, several in a row.
        latency: Delayed observations.
        colours: Parts and table in the same colour.
        texture: A chequered pattern instead of the colours of parts and table.
        distractors: Bars in the colour of the handle that stand about.
        hand_start: A start of the hand outside the usual space.
        occlusion: An object that floats between the camera and the handle.
    """

    action_noise: float = 0.0
    misgrasp: float = 0.0
    slip: float = 0.0
    push: float = 0.0
    dynamics: float = 0.0
    light: float = 0.0
    camera: float = 0.0
    dropout: float = 0.0
    latency: float = 0.0
    colours: float = 0.0
    texture: float = 0.0
    distractors: float = 0.0
    hand_start: float = 0.0
    occlusion: float = 0.0

    def __post_init__(self) -> None:
        """Checks the range.

        Raises:
            ValueError: If a severity is outside [0, 1].
        """
        for kind, severity in self.active().items():
            if not 0 <= severity <= 1:
                raise ValueError(f"stress {kind}: severity {severity} is outside [0, 1]")

    def active(self) -> dict[str, float]:
        """Returns the kinds with a severity other than zero."""
        return {k: getattr(self, k) for k in STRESS_KINDS if getattr(self, k) != 0}


STRESS_KINDS = tuple(item.name for item in fields(Stress))
NOMINAL = Stress()

# Kinds that only the wide world has: Meta-World's own has no colours, objects or starts to change.
WORLD_KINDS = ("colours", "texture", "distractors", "hand_start", "occlusion")
# Kinds that change what the scene looks like, and nothing else.
LOOK_KINDS = ("light", "camera", "colours", "texture", "distractors", "occlusion")
# Kinds that change the observation itself; the others change the step that follows it.
SENSED_KINDS = ("misgrasp", "dropout", "latency", *LOOK_KINDS)


def stress_kinds(world: str) -> tuple[str, ...]:
    """Returns the kinds of stress that a world has.

    Args:
        world: One of ``lib.sim.world.WORLDS``.
    """
    return tuple(kind for kind in STRESS_KINDS if world == "wide" or kind not in WORLD_KINDS)


@dataclass(frozen=True)
class Disturbance:
    """Disturbances of one episode, as drawn from the severities.

    Attributes:
        action_noise_std: Standard deviation of the noise on actions in [-1, 1].
        hand_offset: (3,) sensed minus true hand position, m.
        slip_at: Opening of the part at which the hand is torn off, as a share of the part's
            travel; infinite means never.
        slip_steps: Number of steps in which the hand is driven upwards.
        push_at: Step at which the push begins; -1 means never.
        push_force: (3,) force of the push, N.
        push_part: Whether the push acts on the part instead of the hand.
        damping: Factor on the damping of the part's joint.
        friction: Dry friction of the part's joint, N.
        light: (3,) factors on the light's red, green and blue.
        camera: (6,) changes of azimuth, elevation (degrees), distance (share), lookat (m).
        dropout: Share of black frames.
        latency: Delay of the observations, control steps.
    """

    action_noise_std: float
    hand_offset: np.ndarray
    slip_at: float
    slip_steps: int
    push_at: int
    push_force: np.ndarray
    push_part: bool
    damping: float
    friction: float
    light: np.ndarray
    camera: np.ndarray
    dropout: float
    latency: int


def draw_light(share: float, rng: np.random.Generator) -> np.ndarray:
    """Draws factors on the light's red, green and blue, (3,): mostly brightness, partly a tint.

    Args:
        share: The brightness of each colour is multiplied by 1 +- at most this.
        rng: Random generator.
    """
    return 1 + share * (rng.uniform(-1, 1) * 0.7 + rng.uniform(-1, 1, 3) * 0.3)


def draw_camera(
    degrees: float, share: float, metres: float, rng: np.random.Generator, least: float = 0.0
) -> np.ndarray:
    """Draws changes of a camera's azimuth, elevation (degrees), distance (share), lookat (m), (6,).

    Args:
        degrees: Largest change of azimuth and elevation.
        share: Largest relative change of the distance.
        metres: Largest shift of the point looked at, along each axis.
        rng: Random generator.
        least: Smallest size of each change, as a share of its largest.
    """
    largest = np.array([degrees, degrees, share, metres, metres, metres])
    return _far(rng.uniform(-1, 1, 6), least) * largest


def _far(x: Any, least: float) -> Any:
    """Moves numbers in [-1, 1] away from 0, to where their magnitude is ``least`` or more."""
    return np.sign(x) * (least + (1 - least) * np.abs(x))


def _times(most: float, share: np.ndarray) -> np.ndarray:
    """Returns factors between 1 / most (share -1), 1 (share 0) and most (share 1)."""
    size = 1 + (most - 1) * np.abs(share)
    return np.where(share < 0, 1 / size, size)


def draw(stress: Stress, rng: np.random.Generator) -> Disturbance:
    """Draws the disturbances of one episode.

    Random numbers are drawn for every kind, even if it is not active. Switching on one kind
    therefore leaves the others unchanged.

    Args:
        stress: Severity of each kind.
        rng: The episode's random generator.
    """
    # The misgrasp offset displaces the true hand sideways or upwards: downwards the table would
    # stop the hand, and forwards the handle would.
    angle = rng.uniform(0.0, np.pi)
    direction = np.array([np.cos(angle), 0.0, -np.sin(angle)])
    slip_at, push_at = rng.uniform(0.15, 0.6), int(rng.integers(3, 35))
    push_part, heading = bool(rng.random() < 0.3), rng.normal(size=3)
    push = np.array([0.0, 1.0, 0.0]) if push_part else heading / np.linalg.norm(heading)
    brighter, tint = _far(rng.uniform(-1, 1), LEAST), rng.uniform(-1, 1, 3)
    camera = draw_camera(CAMERA_DEG, CAMERA_SHARE, CAMERA_M, rng, LEAST)
    damping, friction = rng.uniform(0.5, 1) * DAMPING_FACTOR, rng.uniform(0.5, 1) * FRICTION_N
    return Disturbance(
        action_noise_std=stress.action_noise * ACTION_NOISE_STD,
        hand_offset=stress.misgrasp * MISGRASP_M * direction,
        slip_at=slip_at if stress.slip > 0 else np.inf,
        slip_steps=round(stress.slip * SLIP_M / SLIP_STEP_M),
        push_at=push_at if stress.push > 0 else -1,
        push_force=stress.push * PUSH_N * push,
        push_part=push_part,
        damping=1 + stress.dynamics * damping,
        friction=stress.dynamics * friction,
        light=_times(LIGHT_FACTOR, stress.light * (brighter + TINT_SHARE * tint)),
        camera=stress.camera * camera,
        dropout=stress.dropout * DROPOUT_SHARE,
        latency=round(stress.latency * LATENCY_STEPS),
    )
