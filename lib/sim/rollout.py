"""Stress rollouts of the scripted expert, recorded as episodes with labels (SIMA-2).

A template says what is done to the robot; what came of it is measured, and the measurement is
the label: an episode counts as a failure because the drawer stayed shut, not because it was
meant to.
"""

from __future__ import annotations

import atexit
import gc
from collections import defaultdict, deque
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from lib.episode import Episode
from lib.sim.env import CONTROL_STEP_S, ManipulationEnv, episode_seed
from lib.sim.experts import ScriptedExpert
from lib.sim.stress import SENSED_KINDS, STRESS_KINDS, Stress
from lib.skills import RECOVER

TEMPLATES = ("success", "failure", "recovery", "mixed")
VISUAL_KINDS = ("light", "camera")
SENSED = np.isin(STRESS_KINDS, SENSED_KINDS)
LEGEND = {"labels/stress": STRESS_KINDS}
"""What ``lib.episode.write`` is told about the arrays of a rollout."""

# Stress of a mixed episode: each kind with this probability, at most this severe.
MIXED_SHARE = 0.35
MIXED_SEVERITY = 0.7


def plan(index: int, seed: int, settings: Mapping[str, float]) -> tuple[str, Stress]:
    """Draws template and stress of an episode, a function of (seed, index) alone.

    Args:
        index: Number of the episode.
        seed: The data seed.
        settings: share_success, share_failure, share_recovery, share_mixed, action_noise,
            visual_share, visual_severity of params.yaml.
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
    return template, Stress(**severities)


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
            and the episode has neither images nor pixel labels).
        image_size: Pixels, square.
        prices: The economics section of params.yaml.
        stream: Keeps the episodes of two sources apart.
        stress: In place of the plan's; the template is then called ``given``.

    Returns:
        The episode. ``actions`` are those executed, ``labels/expert_action`` what the expert
        would have done without noise or error, ``labels/state`` is the true state,
        ``labels/stress`` the severity of each stress where it was at work: when the step's
        observation was taken or while its action was carried out. ``labels/segmentation`` is of
        the picture beside it, late or not; where that is black, of what it would have shown.
    """
    pictures = settings["pictures"]
    env = _worker_env(
        task, image_size, pictures, settings["horizon"], tuple(sorted(prices.items()))
    )
    expert = ScriptedExpert(env.task)
    template, stress = plan(index, seed, settings) if stress is None else ("given", stress)
    observation, info = env.reset(
        seed=episode_seed(seed, index, stream), options={"stress": stress}
    )
    steps: dict[str, list[Any]] = defaultdict(list)
    late: deque[np.ndarray] = deque(maxlen=env.latency + 1)  # labels belong to their picture
    terminated = truncated = False
    while not (terminated or truncated):
        if pictures:
            steps["image"].append(observation["image"])
            late.append(env.pixel_labels())
            steps["segmentation"].append(late[0])
        steps["proprio"].append(observation["proprio"])
        steps["skill"].append(info["skill"])
        steps["state"].append(info["state"])
        sensed = info["stress"]
        action = expert(info["expert_obs"])
        steps["expert_action"].append(expert(info["true_obs"]) if stress.misgrasp else action)
        observation, reward, terminated, truncated, info = env.step(action)
        steps["actions"].append(info["executed"])
        steps["vector"].append(reward)
        steps["dones"].append(terminated)
        steps["stress"].append(np.where(SENSED, sensed, info["stress"]))
        steps["energy_j"].append(info["energy_j"])
        steps["damages"].append(info["damages"])
    return _episode(f"{index:06d}", steps, task, template, stress, bool(info["success"]))


def _episode(
    key: str,
    steps: Mapping[str, list[Any]],
    task: str,
    template: str,
    stress: Stress,
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
        "stress": at_work,
        "energy_j": array("energy_j"),
        "time_s": np.arange(len(vector)) * CONTROL_STEP_S,
    }
    if "image" in steps:
        obs["image"] = array("image", np.uint8)
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
            "template": template,
            "outcome": "recovery" if recovery else "success" if success else "failure",
            "success": success,
            "recovery": recovery,
            "stress": {kind: round(s, 6) for kind, s in stress.active().items()},
            "stress_steps": {
                kind: int(count)
                for kind, count in zip(STRESS_KINDS, (at_work > 0).sum(0), strict=True)
                if count
            },
            "ood_severity": round(severity, 6),
            "novelty_tier": 0 if severity == 0 else (1 if severity < 0.5 else 2),
            "visual": any(kind in stress.active() for kind in VISUAL_KINDS),
            "labels": "exact",
            "damages": int(sum(steps["damages"])),
        },
    )
