"""Stress rollouts of the scripted expert, recorded as episodes with labels (SIMA-2).

A template says what is done to the robot; what came of it is measured, and the measurement is
the label: an episode counts as a failure because the drawer stayed shut, not because it was
meant to.
"""

from __future__ import annotations

import atexit
import gc
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from lib.episode import Episode
from lib.sim.env import CONTROL_STEP_S, ManipulationEnv, episode_seed
from lib.sim.experts import ScriptedExpert
from lib.sim.stress import SENSED_KINDS, STRESS_KINDS, Stress
from lib.sim.tasks import Task
from lib.skills import RECOVER
from lib.workers import ordered_map

TEMPLATES = ("success", "failure", "recovery", "mixed")
VISUAL_KINDS = ("light", "camera")
SENSED = np.isin(STRESS_KINDS, SENSED_KINDS)
LEGEND = {"labels/stress": STRESS_KINDS}
"""What ``lib.episode.write`` is told about the arrays of a rollout."""

# Stress of a mixed episode: each kind with this probability, at most this severe.
MIXED_SHARE = 0.35
MIXED_SEVERITY = 0.7

# A detour has up to so many waypoints, each left behind at this distance or after so many steps.
WAYPOINTS, NEAR_M, LEG_STEPS = 3, 0.02, 18
DETOUR_GAIN = 10.0  # action for each metre to go, as Meta-World's experts have it


class Plan(NamedTuple):
    """What is done to the robot in an episode.

    Attributes:
        template: One of TEMPLATES, or ``given``.
        stress: What goes wrong.
        detour: (x, y, z) in m of the places where the hand goes before the expert takes over.
    """

    template: str
    stress: Stress
    detour: tuple[tuple[float, ...], ...] = ()


def plan(index: int, seed: int, settings: Mapping[str, float], task: Task) -> Plan:
    """Draws what is done in an episode, a function of (seed, index) alone.

    Args:
        index: Number of the episode.
        seed: The data seed.
        settings: share_success, share_failure, share_recovery, share_mixed, action_noise,
            visual_share, visual_severity, detour_share of params.yaml.
        task: Says where a detour may lead.
    """
    rng = np.random.default_rng(episode_seed(seed, index, "plan"))
    shares = [settings[f"share_{name}"] for name in TEMPLATES]
    template = TEMPLATES[int(rng.choice(len(TEMPLATES), p=np.array(shares) / sum(shares)))]
    severities = {"action_noise": rng.uniform(0, settings["action_noise"])}
    if template == "failure":
        severities["misgrasp"] = rng.uniform(0.9, 1.0)
    elif template == "recovery":
        severities["slip"] = rng.uniform(0.7, 1.0)
    elif template == "mixed":
        for kind in STRESS_KINDS:
            if kind not in VISUAL_KINDS and rng.random() < MIXED_SHARE:
                severities[kind] = rng.uniform(0, MIXED_SEVERITY)
    if rng.random() < settings["visual_share"]:
        for kind in VISUAL_KINDS:
            severities[kind] = rng.uniform(0, settings["visual_severity"])
    away = rng.random() < settings["detour_share"]
    count = int(rng.integers(1, WAYPOINTS + 1)) if away else 0
    detour = tuple(tuple(rng.uniform(*task.free_space).tolist()) for _ in range(count))
    return Plan(template, Stress(**severities), detour)


class Detour:
    """Drives the hand past some places, then leaves the robot to the expert."""

    def __init__(self, waypoints: Sequence[tuple[float, ...]]) -> None:
        """Takes the way.

        Args:
            waypoints: (x, y, z) of each place, m.
        """
        self._ahead, self._steps = deque(np.asarray(w) for w in waypoints), 0

    def __call__(self, hand_3: np.ndarray, action_4: np.ndarray) -> np.ndarray:
        """Returns the action towards the next place, or that of the expert once all are past.

        Args:
            hand_3: Where the hand is, m.
            action_4: What the expert would do; its gripper command holds also on the way.
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
def _worker_env(
    task: str, image_size: int, pictures: bool, horizon: int, prices: tuple
) -> ManipulationEnv:
    # One environment a process, reused: a second one could disturb the first one's pictures
    # (Farama-Foundation/Metaworld#448), and building one costs as much as an episode.
    env = ManipulationEnv(
        task, image_size=image_size, render=pictures, horizon=horizon, prices=dict(prices)
    )
    atexit.register(env.close)  # before the OpenGL library goes
    gc.freeze()  # what is loaded by now stays: collecting garbage there took a tenth of the time
    return env


def rollout(
    task: str,
    index: int,
    seed: int,
    settings: Mapping[str, Any],
    image_size: int,
    prices: Mapping[str, float],
    stream: str = "rollout",
    stress: Stress | None = None,
) -> Episode:
    """Rolls the expert out once under the stress that ``plan`` draws, or under a given one.

    Args:
        task: A name in lib/sim/tasks.py.
        index: Number of the episode.
        seed: The data seed.
        settings: What ``plan`` reads, horizon, and pictures (without them nothing is rendered,
            and the episode has neither images nor pixel labels); ``pixel_labels: false`` leaves
            out the latter alone, which are half the work.
        image_size: Pixels, square.
        prices: The economics section of params.yaml.
        stream: Keeps the episodes of two sources apart.
        stress: In place of the plan; the template is then called ``given``.

    Returns:
        The episode. ``actions`` are those executed, ``labels/command`` those asked for,
        ``labels/expert_action`` what the expert would have done without noise or error, also
        on a detour. ``labels/state`` is the true state, ``labels/stress`` the severity of each
        stress where it was at work: when the step's observation was taken or while its action was
        carried out. ``labels/segmentation`` is of the picture beside it, late or not; where that
        is black, of what it would have shown.
    """
    pictures = settings["pictures"]
    labelled = pictures and settings.get("pixel_labels", True)
    env = _worker_env(
        task, image_size, pictures, settings["horizon"], tuple(sorted(prices.items()))
    )
    expert = ScriptedExpert(env.task)
    planned = plan(index, seed, settings, env.task) if stress is None else Plan("given", stress)
    stress, detour = planned.stress, Detour(planned.detour)
    observation, info = env.reset(
        seed=episode_seed(seed, index, stream), options={"stress": stress}
    )
    steps: dict[str, list[Any]] = defaultdict(list)
    late: deque[np.ndarray] = deque(maxlen=env.latency + 1)  # labels belong to their picture
    terminated = truncated = False
    while not (terminated or truncated):
        if pictures:
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
        action = detour(info["state"][:3], action)
        observation, reward, terminated, truncated, info = env.step(action)
        steps["command"].append(action)
        steps["actions"].append(info["executed"])
        steps["vector"].append(reward)
        steps["dones"].append(terminated)
        steps["stress"].append(np.where(SENSED, sensed, info["stress"]))
        steps["energy_j"].append(info["energy_j"])
        steps["damages"].append(info["damages"])
    return _episode(f"{index:06d}", steps, task, planned, bool(info["success"]))


def stressed_rollouts(
    stresses: Iterable[Stress],
    task: str,
    seed: int,
    stream: str,
    *,
    horizon: int,
    image_size: int,
    timeout_s: float,
    pixel_labels: bool = True,
) -> Iterator[Episode]:
    """Rolls the expert out once under each of some stresses, for test sets.

    Args:
        stresses: One an episode.
        task: A name in lib/sim/tasks.py.
        seed: The data seed.
        stream: Gives the episodes positions of their own.
        horizon: Control steps at most.
        image_size: Pixels, square.
        timeout_s: Longest wait for one episode.
        pixel_labels: Whether to take them.

    Yields:
        The episodes, in order.
    """
    settings = {"pictures": True, "pixel_labels": pixel_labels, "horizon": horizon}
    calls = (
        (task, index, seed, settings, image_size, {}, stream, stress)
        for index, stress in enumerate(stresses)
    )
    yield from ordered_map(rollout, calls, timeout_s)


def _episode(
    key: str,
    steps: Mapping[str, list[Any]],
    task: str,
    planned: Plan,
    success: bool,
) -> Episode:
    """Puts the steps of a rollout together and says what came of it."""

    def array(name: str, kind: type = np.float32) -> np.ndarray:
        return np.asarray(steps[name], kind)

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
            "task": task,
            "backend": "mujoco",
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
            "visual": any(kind in planned.stress.active() for kind in VISUAL_KINDS),
            "labels": "exact",
            "damages": int(sum(steps["damages"])),
        },
    )
