"""Resets and steps a Meta-World simulation without Meta-World's redundant computations.

At every reset, Meta-World lets the hand settle twice. At every step, it needs as much time to
assemble its observation as MuJoCo needs for the physics. The physics, the observation, the reward
and the success here are equal to Meta-World's to the last bit (a test compares them). Only
computations with an unused or constant result are left out.
"""

from __future__ import annotations

import math
from typing import Any

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from lib.sim.tasks import Task
from lib.sim.world import furnish, turn_by

FRAME = 18  # values of one time step in Meta-World's observation
SETTLING_STEPS = 50  # control steps in which Meta-World lets the hand come to rest
GRIPPER_SPAN_M = 0.1  # distance between the fingers when the gripper is fully open
OUT_OF_THE_WAY = np.array([0.0, 3.0, 0.0])  # m; there the parts touch nothing
HANDLE_Y = 5  # index into the observation; in the part's frame, opening lowers this value
STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # everything that the next step depends on


def _furnished(kind: Any) -> Any:
    """Returns a class of Meta-World's environments whose model is prepared for the wide world."""

    class Furnished(kind):
        def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
            spec = mujoco.MjSpec.from_file(self.fullpath)
            furnish(spec)
            model = spec.compile()
            return model, mujoco.MjData(model)

    return Furnished


class Simulation:
    """One Meta-World task.

    Attributes:
        world: Meta-World's environment; its own reset and step are not used.
        model: MuJoCo's model.
        data: MuJoCo's state.
    """

    def __init__(self, env_name: str, furnished: Task | None = None) -> None:
        """Builds the model and lets the hand settle once.

        Args:
            env_name: A key of Meta-World's ALL_V3_ENVIRONMENTS.
            furnished: The task, if its parts shall be turned and the hand start anywhere. The model
                then holds what the wide world has beside Meta-World's.
        """
        kind: Any = ALL_V3_ENVIRONMENTS[env_name]
        # Its private parts are used and replaced.
        world: Any = _furnished(kind)() if furnished else kind()
        self.world = world
        # ``reset`` sets the positions: Meta-World draws them from a global random generator.
        world._freeze_rand_vec = True
        world._set_task_called = True
        self.model, self.data = world.model, world.data
        self._hand, self._right, self._left = (
            self.model.body(name).id for name in ("hand", "rightclaw", "leftclaw")
        )
        self._scale = world.action_scale
        self._mocap_low, self._mocap_high = world.mocap_low, world.mocap_high
        space = world.sawyer_observation_space
        self._low, self._high = space.low, space.high
        self._parts: tuple[int, int] | None = None
        if furnished:
            root, part = furnished.root_body, furnished.part_body
            self._parts = self.model.body(root).id, self.model.body(part).id
        self._turn, self._at, self._turned = np.eye(3), np.zeros(3), False
        self._settled_at: np.ndarray | None = None
        self._home = np.array(world.hand_init_pos, np.float64)
        self._settle(self._home)

    def _settle(self, hand: np.ndarray) -> None:
        """Stores the robot's state one substep before the end of Meta-World's reset.

        This state does not depend on the positions of the task's parts, so it is computed only
        once for each start of the hand. ``reset`` runs the last substep, because it computes the
        poses of all bodies.

        Args:
            hand: (3,) position at which the hand comes to rest, m.
        """
        if self._settled_at is not None and np.array_equal(hand, self._settled_at):
            return
        world, substeps = self.world, self.world.frame_skip
        self._settled_at = hand.copy()
        world.hand_init_pos = hand
        # From another start, the hand could meet the parts on its way.
        if self._parts:
            self.model.body_pos[self._parts[0]] += OUT_OF_THE_WAY
        mujoco.mj_resetData(self.model, self.data)
        type(world)._reset_hand(world, SETTLING_STEPS - 1)
        mujoco.mj_step(self.model, self.data, nstep=substeps - 1)
        if self._parts:
            self.model.body_pos[self._parts[0]] -= OUT_OF_THE_WAY
        self._state = np.empty(mujoco.mj_stateSize(self.model, STATE))
        mujoco.mj_getState(self.model, self.data, self._state, STATE)
        mujoco.mj_step(self.model, self.data)
        self._tcp = world.tcp_center

    def _restore_hand(self, *_: int) -> None:
        mujoco.mj_setState(self.model, self.data, self._state, STATE)
        mujoco.mj_step(self.model, self.data)
        self.world.init_tcp = self._tcp.copy()

    @property
    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest position that ``reset`` accepts."""
        return self.world._random_reset_space.low, self.world._random_reset_space.high

    def reset(
        self, position: np.ndarray, yaw: float = 0.0, hand: np.ndarray | None = None
    ) -> np.ndarray:
        """Puts the task's parts in place and the robot in its start state.

        Args:
            position: Position of the parts, m.
            yaw: Angle by which the parts are turned around the vertical axis, radians.
            hand: (3,) position at which the hand starts, m; by default Meta-World's. Other values
                than the defaults need a furnished simulation.

        Returns:
            (39,) Meta-World's observation. The pose of the parts in it is the true one.
        """
        world = self.world
        self._settle(self._home if hand is None else hand)
        if self._parts:
            half = yaw / 2
            self._turn, self._turned = turn_by(yaw), yaw != 0.0
            self._at = np.asarray(position, np.float64)
            self.model.body_quat[self._parts[0]] = math.cos(half), 0.0, 0.0, math.sin(half)
        world._last_rand_vec = position
        # The first reset_model sets the positions of the parts; the second runs with the parts
        # in place.
        world._reset_hand = lambda *_: None
        world.reset_model()
        mujoco.mj_resetData(self.model, self.data)
        world._reset_hand = self._restore_hand
        world.reset_model()
        if self._turned:
            world.init_tcp = self._straight(world.init_tcp)
        self._frame = self._look()
        obs = np.zeros(2 * FRAME + 3)
        obs[:FRAME] = obs[FRAME : 2 * FRAME] = self._frame
        return obs

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Moves the hand's target and the gripper, and simulates one control step.

        Args:
            action: (4,) float64 in [-1, 1].

        Returns:
            (39,) Meta-World's observation, its dense reward in [0, 10], and success. In a furnished
            simulation, a part that is open further than asked counts as open, too.
        """
        model, data = self.model, self.data
        target = data.mocap_pos[0] + action[:3] * self._scale
        data.mocap_pos[0] = np.minimum(np.maximum(target, self._mocap_low), self._mocap_high)
        data.ctrl[:] = action[3], -action[3]
        mujoco.mj_step(model, data, nstep=self.world.frame_skip)
        mujoco.mj_forward(model, data)
        obs = np.zeros(2 * FRAME + 3)
        obs[FRAME : 2 * FRAME] = self._frame
        obs[:FRAME] = self._frame = self._look()
        obs = np.minimum(np.maximum(obs, self._low), self._high)
        judged = obs
        if self._turned:
            # Meta-World measures along its own axes, so it is shown the scene turned straight.
            judged = obs.copy()
            for first in (0, 4):
                judged[first : first + 3] = self._straight(obs[first : first + 3])
        reward, info = self.world.evaluate_state(judged, action)
        success = bool(info["success"])
        if self._parts:
            # Meta-World takes a part that is 3 cm beyond the goal for one that is not open.
            success = success or bool(judged[HANDLE_Y] < self.world._target_pos[1])
        return obs, float(reward), success

    def _straight(self, point: np.ndarray) -> np.ndarray:
        """Returns where a point would be if the parts were not turned."""
        return self._at + (point - self._at) @ self._turn

    def _look(self) -> np.ndarray:
        """Returns one time step: hand position (3), gripper opening, pose of each part."""
        places = self.data.xpos
        fingers = places[self._right] - places[self._left]
        frame = np.zeros(FRAME)
        frame[:3] = places[self._hand]
        frame[3] = min(math.sqrt(fingers.dot(fingers)) / GRIPPER_SPAN_M, 1.0)
        positions, turns = self.world._get_pos_objects(), self.world._get_quat_objects()
        if self._parts and self._turned:
            # Meta-World adds the handle's place in the part along its own axes.
            part = places[self._parts[1]]
            positions = part + self._turn @ (positions - part)
        for part in range(len(positions) // 3):
            at = 4 + 7 * part
            frame[at : at + 3] = positions[3 * part : 3 * part + 3]
            frame[at + 3 : at + 7] = turns[4 * part : 4 * part + 4]
        return frame
