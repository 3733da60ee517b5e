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

FRAME = 18  # values of one time step in Meta-World's observation
SETTLING_STEPS = 50  # control steps in which Meta-World lets the hand come to rest
GRIPPER_SPAN_M = 0.1  # distance between the fingers when the gripper is fully open
STATE = mujoco.mjtState.mjSTATE_INTEGRATION  # everything that the next step depends on


class Simulation:
    """One Meta-World task.

    Attributes:
        world: Meta-World's environment; its own reset and step are not used.
        model: MuJoCo's model.
        data: MuJoCo's state.
    """

    def __init__(self, env_name: str) -> None:
        """Builds the model and lets the hand settle once.

        Args:
            env_name: A key of Meta-World's ALL_V3_ENVIRONMENTS.
        """
        world: Any = ALL_V3_ENVIRONMENTS[env_name]()  # its private parts are used and replaced
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
        self._settle()

    def _settle(self) -> None:
        """Stores the robot's state one substep before the end of Meta-World's reset.

        This state does not depend on the positions of the task's parts, so it is computed only
        once. ``reset`` runs the last substep, because it computes the poses of all bodies.
        """
        world, substeps = self.world, self.world.frame_skip
        mujoco.mj_resetData(self.model, self.data)
        world._reset_hand(SETTLING_STEPS - 1)
        mujoco.mj_step(self.model, self.data, nstep=substeps - 1)
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

    def reset(self, position: np.ndarray) -> np.ndarray:
        """Puts the task's parts in place and the robot in its start state.

        Args:
            position: Position of the parts, within ``positions``.

        Returns:
            (39,) Meta-World's observation.
        """
        world = self.world
        world._last_rand_vec = position
        # The first reset_model sets the positions of the parts; the second runs with the parts
        # in place.
        world._reset_hand = lambda *_: None
        world.reset_model()
        mujoco.mj_resetData(self.model, self.data)
        world._reset_hand = self._restore_hand
        world.reset_model()
        self._frame = self._look()
        obs = np.zeros(2 * FRAME + 3)
        obs[:FRAME] = obs[FRAME : 2 * FRAME] = self._frame
        return obs

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Moves the hand's target and the gripper, and simulates one control step.

        Args:
            action: (4,) float64 in [-1, 1].

        Returns:
            (39,) Meta-World's observation, its dense reward in [0, 10], and success.
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
        reward, info = self.world.evaluate_state(obs, action)
        return obs, float(reward), bool(info["success"])

    def _look(self) -> np.ndarray:
        """Returns one time step: hand position (3), gripper opening, pose of each part."""
        places = self.data.xpos
        fingers = places[self._right] - places[self._left]
        frame = np.zeros(FRAME)
        frame[:3] = places[self._hand]
        frame[3] = min(math.sqrt(fingers.dot(fingers)) / GRIPPER_SPAN_M, 1.0)
        positions, turns = self.world._get_pos_objects(), self.world._get_quat_objects()
        for part in range(len(positions) // 3):
            at = 4 + 7 * part
            frame[at : at + 3] = positions[3 * part : 3 * part + 3]
            frame[at + 3 : at + 7] = turns[4 * part : 4 * part + 4]
        return frame
