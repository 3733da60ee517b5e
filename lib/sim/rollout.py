"""Stress rollouts of the scripted expert, recorded as episodes with labels (SIMA-2).

A template says what is done to the robot; what came of it is measured, and the measurement is
the label: an episode counts as a failure because the drawer stayed shut, not because it was
meant to.
"""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from lib.episode import Episode
from lib.sim.env import ManipulationEnv, episode_seed
from lib.sim.experts import ScriptedExpert
from lib.sim.stress import STRESS_KINDS, Stress
from lib.skills import RECOVER

TEMPLATES = ("success", "failure", "recovery", "mixed")
VISUAL_KINDS = ("light", "camera")

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
def _worker_env(task: str, image_size: int, horizon: int, prices: tuple) -> ManipulationEnv:
    # One environment a process, reused: a second one could disturb the first one's pictures
    # (Farama-Foundation/Metaworld#448), and building one costs as much as an episode.
    env = ManipulationEnv(task, image_size=image_size, horizon=horizon, prices=dict(prices))
    atexit.register(env.close)  # before the OpenGL library goes
    return env


def rollout(
    task: str,
    index: int,
    seed: int,
    settings: Mapping[str, Any],
    image_size: int,
    prices: Mapping[str, float],
    stream: str = "rollout",
) -> Episode:
    """Rolls the expert out once under the stress that ``plan`` draws.

    Args:
        task: A name in lib/sim/tasks.py.
        index: Number of the episode.
        seed: The data seed.
        settings: What ``plan`` reads, and horizon.
        image_size: Pixels, square.
        prices: The economics section of params.yaml.
        stream: Keeps the episodes of two sources apart.

    Returns:
        The episode. ``actions`` are those executed, ``labels/expert_action`` what the expert
        would have done without noise or error, ``labels/state`` is the true state.
    """
    env = _worker_env(task, image_size, settings["horizon"], tuple(sorted(prices.items())))
    expert = ScriptedExpert(env.task)
    template, stress = plan(index, seed, settings)
    observation, info = env.reset(
        seed=episode_seed(seed, index, stream), options={"stress": stress}
    )
    steps: dict[str, list[Any]] = {}

    def record(name: str, value: Any) -> None:
        steps.setdefault(name, []).append(value)

    terminated = truncated = False
    while not (terminated or truncated):
        record("image", observation["image"])
        record("proprio", observation["proprio"])
        record("segmentation", env.pixel_labels())
        record("skill", info["skill"])
        record("state", info["state"])
        true_obs = info["expert_obs"].copy()
        true_obs[:3] = info["state"][:3]
        record("expert_action", expert(true_obs))
        observation, reward, terminated, truncated, info = env.step(expert(info["expert_obs"]))
        record("actions", info["executed"])
        record("vector", reward)
        record("dones", terminated)
        record("energy_j", info["energy_j"])
        record("damages", info["damages"])
    recovered = RECOVER in steps["skill"]
    outcome = ("recovery" if recovered else "success") if info["success"] else "failure"
    proprio = np.asarray(steps["proprio"], np.float32)
    vector = np.asarray(steps["vector"], np.float32)
    severity = max((s for k, s in stress.active().items() if k != "action_noise"), default=0.0)
    return Episode(
        key=f"{index:06d}",
        obs={
            "image": np.asarray(steps["image"], np.uint8),
            "eef_pos": proprio[:, :3],
            "gripper": proprio[:, 3:],
        },
        actions=np.asarray(steps["actions"], np.float32),
        rewards=vector[:, 0],
        dones=np.asarray(steps["dones"], np.uint8),
        vector_rewards=vector,
        labels={
            "segmentation": np.asarray(steps["segmentation"], np.uint8),
            "skill": np.asarray(steps["skill"], np.uint8),
            "state": np.asarray(steps["state"], np.float32),
            "expert_action": np.asarray(steps["expert_action"], np.float32),
            "energy_j": np.asarray(steps["energy_j"], np.float32),
        },
        tags={
            "task": task,
            "backend": "mujoco",
            "action_space": "eef_delta",
            "template": template,
            "outcome": outcome,
            "success": bool(info["success"]),
            "stress": {kind: round(s, 6) for kind, s in stress.active().items()},
            "ood_severity": round(severity, 6),
            "novelty_tier": 0 if severity == 0 else (1 if severity < 0.5 else 2),
            "visual": any(kind in stress.active() for kind in VISUAL_KINDS),
            "labels": "exact",
            "damages": int(sum(steps["damages"])),
        },
    )
