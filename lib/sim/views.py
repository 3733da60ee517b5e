"""Records views: single steps of many rollouts, each picture in another world.

Consecutive pictures of a rollout show one world, so a network that shall see in every world needs
many worlds and not many pictures of each. Each view has the exact labels of its picture, and the
canonical picture of the same scene (``ManipulationEnv.canonical``).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from lib.episode import STATE_HAND, Episode
from lib.sim.env import CONTROL_STEP_S, episode_seed
from lib.sim.experts import ScriptedExpert
from lib.sim.rollout import Detour, RolloutRequest, plan, worker_env
from lib.sim.stress import LOOK_KINDS, Stress

STREAM = "views"


def views(asked: RolloutRequest, index: int, count: int) -> Episode:
    """Rolls out the expert once and records some of its steps, at times drawn uniformly.

    The rollout goes on after success, because the robot sees an open drawer, too.

    Args:
        asked: Settings of the recording; its world must be the wide one.
        index: Number of the rollout.
        count: Number of views.

    Returns:
        An episode whose steps do not follow each other. ``labels/canonical`` is the canonical
        picture, ``labels/state``, ``labels/skill`` and ``labels/segmentation`` are exact.
    """
    env = worker_env(asked)
    expert = ScriptedExpert(env.task)
    planned = plan(index, asked.seed, asked.mix, env.task, world=asked.world, stream=STREAM)
    severities = planned.stress.active()
    look = Stress(**{kind: s for kind, s in severities.items() if kind in LOOK_KINDS})
    rest = Stress(**{kind: s for kind, s in severities.items() if kind not in LOOK_KINDS})
    seed = episode_seed(asked.seed, index, STREAM)
    rng = np.random.default_rng(seed)
    count = min(count, asked.horizon)
    times = np.sort(rng.choice(asked.horizon, count, replace=False))
    _, info = env.reset(seed=seed, options={"stress": rest, "pictures": False})
    detour, steps = Detour(planned.detour), defaultdict[str, list[Any]](list)
    for step in range(times[-1] + 1):
        viewed = step in times
        if viewed:
            steps["canonical"].append(env.canonical())
            env.redress(look, rng)
            steps["image"].append(env.render())
            steps["segmentation"].append(env.pixel_labels())
            for name in ("state", "skill"):
                steps[name].append(info[name])
        action = detour(info["state"][STATE_HAND], expert(info["expert_obs"]))
        _, reward, _, _, info = env.step(action)
        if viewed:
            steps["vector"].append(reward)
            steps["actions"].append(info["executed"])
    vector = np.array(steps["vector"], np.float32)
    state = np.array(steps["state"], np.float32)
    return Episode(
        key=f"{index:06d}",
        obs={"image": np.array(steps["image"]), "eef_pos": state[:, :3], "gripper": state[:, 3:4]},
        actions=np.array(steps["actions"], np.float32),
        rewards=vector[:, 0],
        dones=np.zeros(count, np.uint8),
        vector_rewards=vector,
        labels={
            "canonical": np.array(steps["canonical"]),
            "segmentation": np.array(steps["segmentation"]),
            "skill": np.array(steps["skill"], np.uint8),
            "state": state,
            "time_s": times * CONTROL_STEP_S,
        },
        tags={
            "task": asked.task,
            "backend": "mujoco",
            "action_space": "eef_delta",
            "views": True,
            "labels": "exact",
            "visual": bool(look.active()),
            "stress": {kind: round(s, 6) for kind, s in severities.items()},
        },
    )
