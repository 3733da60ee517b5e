"""Records stress rollouts of the scripted expert as labelled episodes (SIMA-2).

A template says which stress is applied to the robot. The outcome is measured, and the measurement
is the label: an episode counts as a failure because the drawer stayed shut, not because a failure
was planned.
"""

from __future__ import annotations

import atexit
import gc
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from lib.episode import STATE_HAND, Episode
from lib.params import Count, Horizon, Section, Share, check_shares
from lib.sim.env import CONTROL_STEP_S, ManipulationEnv, episode_seed
from lib.sim.experts import ScriptedExpert
from lib.sim.skills import RECOVER
from lib.sim.stress import LOOK_KINDS, SENSED_KINDS, STRESS_KINDS, Stress, stress_kinds
from lib.sim.tasks import Task
from lib.sim.workers import ordered_map
from lib.sim.world import World

TEMPLATES = ("success", "failure", "recovery", "mixed")
SENSED = np.isin(STRESS_KINDS, SENSED_KINDS)
LEGEND = {"labels/stress": STRESS_KINDS}
"""Column names of the rollout's arrays, for the argument ``legend`` of ``lib.episode.write``."""

# In a mixed episode, each kind of stress occurs with this probability and at most this severity.
MIXED_SHARE = 0.35
MIXED_SEVERITY = 0.7

# A detour has at most WAYPOINTS waypoints. The hand goes on to the next one when it is closer than
# NEAR_M or after LEG_STEPS steps.
WAYPOINTS, NEAR_M, LEG_STEPS = 3, 0.02, 18
DETOUR_GAIN = 10.0  # action per metre of distance, as in Meta-World's experts


class Phase1Sima2(Section):
    """Settings of the stress rollouts in the simulator."""

    episodes: Count
    pictures: bool
    horizon: Horizon
    share_success: Share
    share_failure: Share
    share_recovery: Share
    share_mixed: Share
    action_noise: Share
    visual_share: Share
    visual_severity: Share
    dropout_share: Share
    detour_share: Share
    view_rollouts: Annotated[int, Field(ge=0)]
    views: Count

    @model_validator(mode="after")
    def _sums_to_one(self) -> Phase1Sima2:
        shares = (getattr(self, f"share_{name}") for name in TEMPLATES)
        check_shares("share_*: the shares", list(shares))
        return self


class Plan(NamedTuple):
    """Stress and detour that are planned for an episode.

    Attributes:
        template: One of TEMPLATES, or ``given``.
        stress: Stress applied to the robot.
        detour: Waypoints, (x, y, z) in m, that the hand visits before the expert takes over.
    """

    template: str
    stress: Stress
    detour: tuple[tuple[float, ...], ...] = ()


def plan(
    index: int,
    seed: int,
    mix: Mapping[str, float],
    task: Task,
    *,
    world: str = "metaworld",
    stream: str = "plan",
) -> Plan:
    """Draws the plan of an episode; its randomness depends only on (seed, stream, index).

    Args:
        index: Number of the episode.
        seed: The data seed.
        mix: share_success, share_failure, share_recovery, share_mixed, action_noise,
            visual_share, visual_severity, dropout_share, detour_share of params.yaml. Looks
            (LOOK_KINDS) are stressed together.
        task: Task that defines the free space for the waypoints of a detour.
        world: One of WORLDS; it says which kinds of stress there are.
        stream: Purpose of the episodes; each stream has its own plans.
    """
    rng = np.random.default_rng(episode_seed(seed, index, stream))
    kinds = stress_kinds(world)
    shares = [mix[f"share_{name}"] for name in TEMPLATES]
    template = TEMPLATES[int(rng.choice(len(TEMPLATES), p=np.array(shares) / sum(shares)))]
    severities = {"action_noise": rng.uniform(0, mix["action_noise"])}
    if template == "failure":
        severities["misgrasp"] = rng.uniform(0.9, 1.0)
    elif template == "recovery":
        severities["slip"] = rng.uniform(0.7, 1.0)
    elif template == "mixed":
        for kind in kinds:
            if kind not in LOOK_KINDS and rng.random() < MIXED_SHARE:
                severities[kind] = rng.uniform(0, MIXED_SEVERITY)
    if rng.random() < mix["visual_share"]:
        for kind in LOOK_KINDS:
            if kind in kinds:
                severities[kind] = rng.uniform(0, mix["visual_severity"])
    away = rng.random() < mix["detour_share"]
    count = int(rng.integers(1, WAYPOINTS + 1)) if away else 0
    detour = tuple(tuple(rng.uniform(*task.free_space).tolist()) for _ in range(count))
    if rng.random() < mix["dropout_share"]:
        severities["dropout"] = rng.uniform(0, 1)
    return Plan(template, Stress(**severities), detour)


class Detour:
    """Drives the hand past some waypoints, then passes on the expert's actions."""

    def __init__(self, waypoints: Sequence[tuple[float, ...]]) -> None:
        """Stores the waypoints.

        Args:
            waypoints: (x, y, z) of each waypoint, m.
        """
        self._ahead, self._steps = deque(np.asarray(w) for w in waypoints), 0

    def __call__(self, hand_3: np.ndarray, action_4: np.ndarray) -> np.ndarray:
        """Returns the action towards the next waypoint, or the expert's action after the last.

        Args:
            hand_3: Position of the hand, m.
            action_4: Action of the expert; its gripper command is also used during the detour.
        """
        while self._ahead:
            to_go = self._ahead[0] - hand_3
            if self._steps < LEG_STEPS and np.linalg.norm(to_go) > NEAR_M:
                self._steps += 1
                return np.append(np.clip(DETOUR_GAIN * to_go, -1.0, 1.0), action_4[3])
            self._ahead.popleft()
            self._steps = 0
        return action_4


@lru_cache(maxsize=1)
def _cached_env(
    task: str, world: str, image_size: int, pictures: bool, horizon: int, prices: tuple
) -> ManipulationEnv:
    # Each process builds one environment and reuses it. A second environment could disturb the
    # images of the first (Farama-Foundation/Metaworld#448), and building one takes as long as an
    # episode.
    env = ManipulationEnv(
        task,
        world=world,
        image_size=image_size,
        render=pictures,
        horizon=horizon,
        linger=None,  # whoever records says when an episode ends
        prices=dict(prices),
    )
    atexit.register(env.close)  # closes it before the OpenGL library is unloaded
    # The objects loaded so far stay in use: garbage collection among them took a tenth of the time.
    gc.freeze()
    return env


@dataclass(frozen=True)
class RolloutRequest:
    """Settings that all episodes of a source share.

    Attributes:
        task: A name in lib/sim/tasks.py.
        world: One of WORLDS.
        seed: The data seed.
        image_size: Width and height of the images, pixels.
        horizon: Largest number of control steps.
        mix: Settings that ``plan`` reads; not needed if every stress is given.
        prices: The economics section of params.yaml; by default the prices of ``make_env``.
        stream: Stream of the reset seeds; each stream has its own positions.
        pictures: Whether to render; if not, an episode has neither images nor pixel labels.
        pixel_labels: Whether to record pixel labels, which take half of the computing time.
    """

    task: str
    world: str
    seed: int
    image_size: int
    horizon: int
    mix: Mapping[str, float] = field(default_factory=dict)
    prices: Mapping[str, float] = field(default_factory=dict)
    stream: str = "rollout"
    pictures: bool = True
    pixel_labels: bool = True


def worker_env(asked: RolloutRequest) -> ManipulationEnv:
    """Returns the environment of this process; its episodes go on after success.

    Args:
        asked: Settings of the recording.
    """
    prices = tuple(sorted(asked.prices.items()))
    return _cached_env(
        asked.task, asked.world, asked.image_size, asked.pictures, asked.horizon, prices
    )


def rollout(asked: RolloutRequest, index: int, stress: Stress | None = None) -> Episode:
    """Rolls out the expert once under the stress that ``plan`` draws, or under a given stress.

    Args:
        asked: Settings of the recording.
        index: Number of the episode.
        stress: Stress that replaces the plan; the template is then called ``given``.

    Returns:
        The episode. ``actions`` holds the executed actions, ``labels/command`` the commanded
        actions, and ``labels/expert_action`` the expert's actions without noise or sensor error,
        also during a detour. ``labels/state`` is the true state. ``labels/stress`` is the severity
        of each stress that was active when the step's observation was taken or while its action
        was executed. ``labels/segmentation`` labels the image of the same step, delayed or not. If
        that image is black, it labels what the image would have shown.
    """
    labelled = asked.pictures and asked.pixel_labels
    env = worker_env(asked)
    expert = ScriptedExpert(env.task)
    planned = (
        plan(index, asked.seed, asked.mix, env.task, world=asked.world)
        if stress is None
        else Plan("given", stress)
    )
    stress, detour = planned.stress, Detour(planned.detour)
    observation, info = env.reset(
        seed=episode_seed(asked.seed, index, asked.stream), options={"stress": stress}
    )
    steps: dict[str, list[Any]] = defaultdict(list)
    late: deque[np.ndarray] = deque(maxlen=env.latency + 1)  # delayed like the images
    success = truncated = False
    while not (success or truncated):
        if asked.pictures:
            steps["image"].append(observation["image"])
        if labelled:
            late.append(env.pixel_labels())
            steps["segmentation"].append(late[0])
        steps["proprio"].append(observation["proprio"])
        steps["skill"].append(info["skill"])
        steps["state"].append(info["state"])
        sensed = info["stress"]
        action = expert(info["expert_obs"])
        steps["expert_action"].append(expert(info["true_obs"]) if stress.misgrasp else action)
        action = detour(info["state"][STATE_HAND], action)
        observation, reward, _, truncated, info = env.step(action)
        success = info["success"]
        steps["command"].append(action)
        steps["actions"].append(info["executed"])
        steps["vector"].append(reward)
        steps["dones"].append(success)
        steps["stress"].append(np.where(SENSED, sensed, info["stress"]))
        steps["energy_j"].append(info["energy_j"])
        steps["damages"].append(info["damages"])
    return _episode(f"{index:06d}", steps, asked, planned, env.world)


def stressed_rollouts(asked: RolloutRequest, stresses: Iterable[Stress]) -> Iterator[Episode]:
    """Rolls out the expert once under each given stress, for test sets.

    Args:
        asked: Settings of the recordings.
        stresses: One stress per episode.

    Yields:
        The episodes, in order.
    """
    calls = ((asked, index, stress) for index, stress in enumerate(stresses))
    yield from ordered_map(rollout, calls)


def _episode(
    key: str,
    steps: Mapping[str, list[Any]],
    asked: RolloutRequest,
    planned: Plan,
    world: World,
) -> Episode:
    """Combines the steps of a rollout into an episode, with tags for the outcome."""

    def array(name: str, kind: type = np.float32) -> np.ndarray:
        return np.asarray(steps[name], kind)

    success = bool(steps["dones"][-1])
    recovery = success and RECOVER in steps["skill"]
    proprio, vector, at_work = array("proprio"), array("vector"), array("stress")
    obs = {"eef_pos": proprio[:, :3], "gripper": proprio[:, 3:]}
    labels = {
        "skill": array("skill", np.uint8),
        "state": array("state"),
        "expert_action": array("expert_action"),
        "command": array("command"),
        "stress": at_work,
        "energy_j": array("energy_j"),
        "time_s": np.arange(len(vector)) * CONTROL_STEP_S,
    }
    if "image" in steps:
        obs["image"] = array("image", np.uint8)
    if "segmentation" in steps:
        labels["segmentation"] = array("segmentation", np.uint8)
    worst = dict(zip(STRESS_KINDS, at_work.max(0).tolist(), strict=True))
    severity = max(s for kind, s in worst.items() if kind != "action_noise")
    return Episode(
        key=key,
        obs=obs,
        actions=array("actions"),
        rewards=vector[:, 0],
        dones=array("dones", np.uint8),
        vector_rewards=vector,
        labels=labels,
        tags={
            "task": asked.task,
            "backend": "mujoco",
            "world": {"kind": asked.world, **world.facts()},
            "action_space": "eef_delta",
            "template": planned.template,
            "detour": len(planned.detour),
            "outcome": "recovery" if recovery else "success" if success else "failure",
            "success": success,
            "recovery": recovery,
            "stress": {kind: round(s, 6) for kind, s in planned.stress.active().items()},
            "stress_steps": {
                kind: int(count)
                for kind, count in zip(STRESS_KINDS, (at_work > 0).sum(0), strict=True)
                if count
            },
            "ood_severity": round(severity, 6),
            "novelty_tier": 0 if severity == 0 else (1 if severity < 0.5 else 2),
            "visual": any(kind in planned.stress.active() for kind in LOOK_KINDS),
            "labels": "exact",
            "damages": int(sum(steps["damages"])),
        },
    )
