"""A Gymnasium environment around a Meta-World task, with a MO-Gymnasium vector reward.

It differs from Meta-World in three points. The reset seed alone determines an episode, and the
positions are drawn from the whole continuous range. The observation holds only pixels and
proprioception: no privileged values, and no goal marker in the image. Termination (the task is
done) and truncation (the time is up) are reported separately.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.utils import seeding
from scipy.stats import qmc

from lib.base.seeds import named_seed
from lib.episode import OBJECTIVES, STATE_HAND, STATE_HANDLE, STATE_OPENING
from lib.sim import economics
from lib.sim.scene import Scene, camera_place
from lib.sim.simulation import Simulation
from lib.sim.skills import skill_phase
from lib.sim.stress import DROPOUT_STEPS, PUSH_STEPS, STRESS_KINDS, Disturbance, Stress, draw
from lib.sim.tasks import get_task
from lib.sim.world import PLAIN, WORLDS, Furniture, World, disturb, draw_world, starts

ACTION_REPEAT = 2  # Meta-World steps per action; each is five simulation steps of 2.5 ms
WORLD_STEP_S = 0.0125
CONTROL_STEP_S = ACTION_REPEAT * WORLD_STEP_S
PROPRIO = 4  # hand x, y, z (m) and the gripper's opening in [0, 1]
MAX_HORIZON = 500 // ACTION_REPEAT  # Meta-World allows 500 of its steps per episode
POOL = 50  # candidate seeds for each seed that is chosen

SLIP, PUSH, DROPOUT, LATENCY = map(STRESS_KINDS.index, ("slip", "push", "dropout", "latency"))

DEFAULT_PRICES = {
    "unit_price": 0.01,
    "wage_per_hour": 18.0,
    "damage_force_n": 300.0,
    "damage_cost": 0.01,
    "energy_scale_j": 8.0,
}


NOTHING = draw(Stress(), np.random.default_rng(0))  # the disturbances of an undisturbed episode
ACTION_SIZE = 4  # displacement of the hand (3) and the gripper, in [-1, 1]
EXPERT_OBS_SIZE = 39  # size of Meta-World's own observation, which only scripted experts receive


def episode_seed(seed: int, index: int, stream: str = "rollout") -> int:
    """Returns the reset seed of an episode, which depends only on (seed, stream, index).

    Args:
        seed: One of the seeds of params.yaml.
        index: Number of the episode.
        stream: Purpose of the episodes; each stream has its own positions.
    """
    return named_seed(seed, stream, index)


def spread_seeds(
    seed: int,
    count: int,
    stream: str,
    positions: tuple[np.ndarray, np.ndarray],
    *,
    ends: bool = False,
) -> list[int]:
    """Returns reset seeds whose positions cover the whole range evenly (Hammersley points).

    A policy often fails in only one corner of its workspace. A few positions drawn at random would
    miss that corner.

    Args:
        seed: One of the seeds of params.yaml.
        count: Number of seeds.
        stream: Purpose of the episodes.
        positions: Lowest and highest position, see ``ManipulationEnv.positions``.
        ends: For training. The positions are denser towards the limits, like Chebyshev nodes,
            because learning from examples is worst where the examples lie on one side only. They
            are ordered so that every prefix of the list covers the whole range (Halton points).
    """
    low, high = positions
    varies = high > low
    pool = [episode_seed(seed, index, stream) for index in range(POOL * count)]
    drawn = np.array([start_of(one, low, high) for one in pool])
    drawn = (drawn - low)[:, varies] / (high - low)[varies]
    dimensions = int(varies.sum())
    if ends:
        # The first point of the Halton sequence is a corner of the range and is skipped.
        even = qmc.Halton(dimensions, scramble=False).random(count + 1)[1:]
        wanted = (1 - np.cos(np.pi * even)) / 2
    else:
        wanted = np.empty((count, dimensions))
        wanted[:, :1] = np.arange(count)[:, None] / count
        if dimensions > 1:
            wanted[:, 1:] = qmc.Halton(dimensions - 1, scramble=False).random(count)
        wanted += 0.5 / count
    free = np.ones(len(pool), bool)
    chosen: list[int] = []
    for point in wanted:
        distances = np.where(free, np.square(drawn - point).sum(1), np.inf)
        nearest = int(distances.argmin())
        free[nearest] = False
        chosen.append(pool[nearest])
    return chosen


def start_of(seed: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns the start that a reset with this seed draws, see ``lib.sim.world.starts``.

    Args:
        seed: Reset seed.
        low: Lowest start, see ``ManipulationEnv.positions``.
        high: Highest start.
    """
    return seeding.np_random(seed)[0].uniform(low, high)


class ManipulationEnv(gym.Env):
    """One Sawyer manipulation task, observed by a camera.

    Observation: ``image`` (H, W, 3) uint8 and ``proprio`` (4,) float32. Action: (4,) in [-1, 1],
    hand displacement (1 is 2 cm per step) and gripper. Reward: (3,) in the order of OBJECTIVES:
    task progress (Meta-World's dense reward / 10 - 1, in [-1, 0]), economic value, energy.

    ``info`` holds values that only labels, baselines and metrics may use: ``success``, ``skill``,
    ``state`` (columns as of labels/state in lib/episode), ``expert_obs`` (Meta-World's observation,
    (39,), with the hand position that the sensor reports), ``true_obs`` (the same with the true
    hand position), ``energy_j``, ``damages``, ``executed`` (the action after noise), and
    ``stress``, (14,), the severity of each of STRESS_KINDS that is active, else 0. For the kinds in
    SENSED_KINDS it refers to this observation, for the other kinds to the step before it.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / CONTROL_STEP_S)}

    def __init__(
        self,
        task: str = "drawer_open",
        *,
        image_size: int = 96,
        horizon: int = 75,
        linger: int | None = 0,
        render: bool = True,
        world: str = "metaworld",
        stress: Stress | None = None,
        prices: dict[str, float] | None = None,
    ) -> None:
        """Builds the simulation.

        Args:
            task: A name in lib/sim/tasks.py.
            image_size: Width and height of the image, pixels.
            horizon: Number of control steps until truncation.
            linger: With 0, success terminates the episode. Otherwise the episode is truncated this
                many steps after the first success, or at the horizon if None. After the first
                success the result must be kept: progress is 0 while the task is still done and -1
                while it is undone, and the economic value counts only damages.
            render: Whether to render images; if not, ``image`` stays black.
            world: One of WORLDS: what differs from episode to episode without any stress.
            stress: Disturbances of the episodes; ``reset(options={"stress": ...})`` overrides them.
            prices: Prices that replace entries of DEFAULT_PRICES.

        Raises:
            UserError: If the task is not known.
            ValueError: If the horizon or the world is not possible.
        """
        if world not in WORLDS:
            raise ValueError(f"world {world!r} is none of {', '.join(WORLDS)}")
        if not 1 <= horizon <= MAX_HORIZON:
            raise ValueError(f"horizon {horizon} is outside [1, {MAX_HORIZON}]")
        self.task = get_task(task)
        self._world_kind = world
        wide = world == "wide"
        self._sim = Simulation(self.task.env_name, self.task if wide else None)
        model = self._sim.model
        self._dof = int(model.joint(self.task.part_joint).dofadr[0])
        self._qpos = int(model.joint(self.task.part_joint).qposadr[0])
        self._damping = float(model.dof_damping[self._dof])
        self._closed = float(model.joint(self.task.part_joint).qpos0[0])
        self._part = model.body(self.task.part_body).id
        self._hand = model.body("hand").id
        self._of_gripper = _geoms_of(model, self.task.primitives["gripper"])
        self._robot_dofs = np.array([d for d in range(model.nv) if d != self._dof])
        self._furniture = Furniture(model, self.task) if wide else None
        self._scene: Scene | None = None
        if render:
            self._scene = Scene(model, self._sim.data, self.task, image_size)
        self._stress = stress or Stress()
        self._prices = {**DEFAULT_PRICES, **(prices or {})}
        self._horizon, self._linger = horizon, linger
        self.render_mode = "rgb_array" if render else None
        self.action_space = Box(-1.0, 1.0, (4,), np.float32)
        self._black = np.zeros((image_size, image_size, 3), np.uint8)
        self.observation_space = Dict(
            image=Box(0, 255, self._black.shape, np.uint8),
            # The hand position is in metres around the robot's base, the gripper opening is a
            # share. The limits leave room for sensor errors.
            proprio=Box(-2.0, 2.0, (PROPRIO,), np.float32),
        )
        self.reward_space = Box(
            np.array([-1.0, -np.inf, -np.inf], np.float32), np.array([0.0, 1.0, 0.0], np.float32)
        )
        self.reward_dim = len(OBJECTIVES)

    @property
    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest start that a reset can draw, see ``lib.sim.world.starts``."""
        return starts(self._world_kind, *self._sim.positions)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: Seed of everything random in the episode; ``None`` continues with the current
                random generator.
            options: ``stress``: a Stress for this and the following episodes. ``pictures``: whether
                this episode's observations hold pictures (by default they do); ``render`` and
                ``canonical`` work in any case.
        """
        super().reset(seed=seed)
        self._stress = (options or {}).get("stress", self._stress)
        self._pictures = (options or {}).get("pictures", True)
        self._start = self.np_random.uniform(*self.positions)
        self._drawn = drawn = draw(self._stress, self.np_random)
        self._world = world = self._draw_world(self._stress, self.np_random)
        model = self._sim.model
        model.dof_damping[self._dof] = self._damping * drawn.damping * world.damping
        model.dof_frictionloss[self._dof] = drawn.friction + world.friction
        self._dress(world, drawn)
        raw = self._sim.reset(world.position, world.yaw, world.hand)
        self._step, self._slip_left, self._slipped = 0, 0, False
        self._had_hold = np.zeros(1, bool)
        self._damaged = self._dark = False
        self._done_at: int | None = None
        self._late: deque[tuple[dict[str, np.ndarray], bool]] = deque(maxlen=drawn.latency + 1)
        self._constant = np.array([getattr(self._stress, k) for k in STRESS_KINDS], np.float32)
        self._constant[[SLIP, PUSH, DROPOUT]] = 0
        self._constant[LATENCY] *= drawn.latency > 0
        self._at_work = self._constant.copy()
        observation = self._observe(raw)
        return observation, self._info(raw, np.zeros(4, np.float32), 0.0, 0, False)

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, bool, bool, dict[str, Any]]:
        """Moves the robot for one control step.

        Progress and success are measured at the end of the step; energy and damages are summed
        over the step.

        Args:
            action: (4,), clipped to [-1, 1].

        Returns:
            Observation, (3,) float32 reward, terminated, truncated, info.
        """
        self._at_work = self._constant.copy()
        executed = self._disturbed(np.asarray(action, np.float64))
        if self._step >= MAX_HORIZON:
            raise ValueError(f"the episode has {MAX_HORIZON} steps; reset the environment")
        energy, damages = 0.0, 0
        for _ in range(ACTION_REPEAT):
            raw, dense, success = self._sim.step(executed)
            energy += self._mechanical_power() * WORLD_STEP_S
            damages += self._new_damages()
        if self._at_work[PUSH]:
            self._sim.data.xfrc_applied[:] = 0
        self._step += 1
        over = self._done_at is not None
        if success and not over:
            self._done_at = self._step
        terminated = success and self._linger == 0
        prices = self._prices
        reward = np.array(
            [
                # A unit that was finished and is undone again earns nothing, even if it is
                # still almost finished.
                float(success) - 1.0 if over else dense / 10.0 - 1.0,
                economics.step_value(
                    finished=success and not over,
                    # Time costs nothing after the unit is finished: nobody waits for it.
                    seconds=0.0 if over else CONTROL_STEP_S,
                    damages=damages,
                    unit_price=prices["unit_price"],
                    wage_per_hour=prices["wage_per_hour"],
                    damage_cost=prices["damage_cost"],
                ),
                economics.energy_reward(energy, prices["energy_scale_j"]),
            ],
            np.float32,
        )
        end = self._horizon
        if self._linger and self._done_at is not None:
            end = min(end, self._done_at + self._linger)
        truncated = self._step >= end and not terminated
        observation = self._observe(raw)
        info = self._info(raw, executed.astype(np.float32), energy, damages, success)
        return observation, reward, terminated, truncated, info

    def _draw_world(self, stress: Stress, rng: np.random.Generator) -> World:
        world = draw_world(self._world_kind, self._start, rng)
        return disturb(world, stress, camera_place(self.task.camera), rng)

    def _dress(self, world: World, drawn: Disturbance) -> None:
        if self._furniture:
            self._furniture.arrange(world)
        if self._scene:
            self._scene.disturb(drawn.light * world.light, drawn.camera + world.camera)

    def _redress(self, world: World, drawn: Disturbance) -> None:
        self._dress(world, drawn)
        mujoco.mj_kinematics(self._sim.model, self._sim.data)

    def redress(self, stress: Stress, rng: np.random.Generator) -> None:
        """Gives the scene another look in the middle of an episode, as if it were another world.

        Colours, textures, light, camera and the objects that stand about are drawn anew. Hand and
        parts stay where they are.

        Args:
            stress: Severities of LOOK_KINDS.
            rng: Random generator.

        Raises:
            ValueError: If the world is Meta-World's own, which has one look only.
        """
        if not self._furniture:
            raise ValueError("the world of Meta-World has one look only")
        drawn = draw(stress, rng)
        self._redress(self._draw_world(stress, rng), drawn)

    def canonical(self) -> np.ndarray:
        """Returns the canonical picture of the scene as it is now, (H, W, 3) uint8.

        It shows hand and parts as they stand, always in the same vivid colours, under the same
        light, from the same camera, without arm and without objects that stand about: what a
        picture holds that does not depend on its look (James et al. 2019, "Sim-to-Real via
        Sim-to-Sim", arXiv 1812.07252). Afterwards the scene has this look; ``redress`` gives it
        another one.

        Raises:
            ValueError: If the environment renders nothing, or the world is Meta-World's own.
        """
        if self._scene is None or not self._furniture:
            raise ValueError("a canonical picture needs render=True and the wide world")
        empty = np.zeros_like(self._world.clutter)
        self._redress(World(self._world.position, look=PLAIN, clutter=empty), NOTHING)
        return self._scene.rgb(arm=False)

    @property
    def world(self) -> World:
        """What was drawn for this episode."""
        return self._world

    def _disturbed(self, action: np.ndarray) -> np.ndarray:
        drawn = self._drawn
        noise = self.np_random.normal(size=4) * drawn.action_noise_std
        # The gripper action commands a position, not a motion: noise would only make it rattle.
        noise[3] = 0.0
        action = np.minimum(np.maximum(action + noise, -1.0), 1.0)
        if not self._slipped and self._opening() >= drawn.slip_at * self.task.travel_m:
            self._slip_left, self._slipped = drawn.slip_steps, True
        if self._slip_left > 0:
            self._slip_left -= 1
            self._at_work[SLIP] = self._stress.slip
            action = np.array([0.0, 0.0, 1.0, action[3]])
        if drawn.push_at <= self._step < drawn.push_at + PUSH_STEPS and drawn.push_at >= 0:
            body = self._part if drawn.push_part else self._hand
            self._sim.data.xfrc_applied[body, :3] = drawn.push_force
            self._at_work[PUSH] = self._stress.push
        return action

    def _opening(self) -> float:
        return abs(float(self._sim.data.qpos[self._qpos]) - self._closed)

    def _mechanical_power(self) -> float:
        """Returns the sum of |torque * velocity| over the robot's joints, W.

        A weld constraint between the hand and its target drives the arm. The drive torque of the
        joints is therefore the weld's generalised force J^T f plus the force of the finger motors.
        Inverse dynamics gives the same torque for ideal motors in the joints:
        M a + bias - passive - contact.
        """
        model, data = self._sim.model, self._sim.data
        torque, welds = np.zeros(model.nv), data.efc_force.copy()
        welds[data.ne :] = 0.0  # equality constraints come first
        mujoco.mj_mulJacTVec(model, data, torque, welds)
        power = np.abs((torque + data.qfrc_actuator) * data.qvel)
        return float(power[self._robot_dofs].sum())

    def _new_damages(self) -> int:
        """Returns 1 when a contact force of the gripper rises above the damage force, else 0."""
        model, data = self._sim.model, self._sim.data
        limit, above = self._prices["damage_force_n"], False
        if data.ncon:
            force = np.zeros(6)
            for index in np.flatnonzero(self._of_gripper[data.contact.geom].any(1)):
                mujoco.mj_contactForce(model, data, index, force)
                above = above or float(np.linalg.norm(force[:3])) > limit
        new = above and not self._damaged
        self._damaged = above
        return int(new)

    def _observe(self, raw: np.ndarray) -> dict[str, np.ndarray]:
        drawn = self._drawn
        proprio = raw[:PROPRIO].astype(np.float32)
        proprio[:3] += drawn.hand_offset.astype(np.float32)
        # Drawn even if no images are rendered: the motion must not depend on rendering.
        self._dark = self.np_random.random() < self._dropping(drawn.dropout)
        if self._scene is None or self._dark or not self._pictures:
            image = self._black.copy()
        else:
            image = self._scene.rgb()
        self._late.append(({"image": image, "proprio": proprio}, self._dark))
        observation, black = self._late[0]
        if black:
            self._at_work[DROPOUT] = self._stress.dropout
        return observation

    def _dropping(self, share: float) -> float:
        """Returns the probability that this frame is black, as the last one was or was not.

        Black frames come in runs of DROPOUT_STEPS on average, as from a loose cable: a two-state
        Markov chain (Gilbert 1960, "Capacity of a Burst-Noise Channel").

        Args:
            share: Share of the frames that are black in the long run.
        """
        if self._dark:
            return 1 - 1 / DROPOUT_STEPS
        return share / (1 - share) / DROPOUT_STEPS

    def _info(
        self, raw: np.ndarray, executed: np.ndarray, energy: float, damages: int, success: bool
    ) -> dict[str, Any]:
        hand, handle = raw[STATE_HAND], raw[STATE_HANDLE]
        skill, self._had_hold = skill_phase(hand[None], handle[None], self._had_hold)
        expert_obs = raw.copy()
        expert_obs[STATE_HAND] += self._drawn.hand_offset
        return {
            "success": success,
            "skill": int(skill[0]),
            "state": np.array(
                [
                    *raw[:STATE_OPENING],
                    self._opening(),
                    *self._world.position[:2],
                    self._world.yaw,
                ],
                np.float32,
            ),
            "expert_obs": expert_obs,
            "true_obs": raw,
            "energy_j": energy,
            "damages": damages,
            "executed": executed,
            "stress": self._at_work,
        }

    @property
    def latency(self) -> int:
        """Number of control steps by which this episode's observations are delayed."""
        return self._drawn.latency

    def pixel_labels(self) -> np.ndarray:
        """Returns the exact primitive of each pixel of the current scene, (H, W) uint8.

        The labels describe the scene as it is now. The observation's image may be delayed or black.
        """
        if self._scene is None:
            raise ValueError("pixel_labels needs an environment made with render=True")
        return self._scene.labels()

    def render(self) -> np.ndarray | None:
        """Returns the current image, (H, W, 3) uint8, without drop-out or latency."""
        return self._scene.rgb() if self._scene else None

    def close(self) -> None:
        """Frees the renderer."""
        if self._scene:
            self._scene.close()
            self._scene = None


def _geoms_of(model: mujoco.MjModel, bodies: tuple[str, ...]) -> np.ndarray:
    return np.isin(model.geom_bodyid, [model.body(name).id for name in bodies])


def make_env(task: str = "drawer_open", seed: int = 0, **options: Any) -> ManipulationEnv:
    """Makes an environment whose first reset without a seed equals a reset with ``seed``.

    Args:
        task: A name in lib/sim/tasks.py.
        seed: Seed of the environment's random generator.
        **options: Further arguments of ManipulationEnv.

    Raises:
        UserError: If the task is not known.
    """
    env = ManipulationEnv(task, **options)
    env._np_random, env._np_random_seed = seeding.np_random(seed)
    return env
