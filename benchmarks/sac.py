"""Times updates of soft actor-critic against those of Stable-Baselines3.

    python -m benchmarks.sac [--threads 2] [--rounds 9] [--updates 50]

Both use the layer widths, number of critics and batch size of params.yaml and observations of the
same size, and do everything from drawing the batch to updating the target networks. The update of
this project also has three objectives, one head per skill, preferences drawn for each sample, a
cloning term, the averaged actor, and targets from a random pair of critics. The critics' trunks run
in bf16 where the processor supports it and the arithmetic is native.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger

from benchmarks.side_by_side import report, side_by_side
from lib.agent.agents import build_actor
from lib.agent.condition import CONDITION_DIM, ConditionVector
from lib.base import arithmetic
from lib.episode import OBJECTIVES, SKILLS
from lib.learning.device import has_fast_bf16
from lib.params import load_params
from lib.policy.replay import Replay
from lib.policy.train_sac import Learner, sample_mixed

OBS_DIM, EPISODE, EPISODES = 100, 100, 100


def main() -> None:
    """Times both implementations and prints the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=50)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    params = load_params("policy", "safety")
    settings = params.policy

    env = gym.Env()
    env.observation_space = gym.spaces.Box(-1, 1, (OBS_DIM + CONDITION_DIM,), np.float32)
    env.action_space = gym.spaces.Box(-1, 1, (4,), np.float32)
    theirs = SAC(
        "MlpPolicy",
        env,
        batch_size=settings.batch_size,
        buffer_size=EPISODE * EPISODES,
        policy_kwargs={"net_arch": settings.hidden, "n_critics": settings.critics},
        device="cpu",
    )
    theirs.set_logger(Logger(folder=None, output_formats=[]))
    for _ in range(EPISODE * EPISODES):
        obs, following = rng.uniform(-1, 1, (2, 1, OBS_DIM + CONDITION_DIM)).astype(np.float32)
        action, reward = rng.uniform(-1, 1, (1, 4)), rng.normal(size=1)
        theirs.replay_buffer.add(obs, following, action, reward, np.zeros(1), [{}])

    recorded, online = (
        Replay(EPISODE * EPISODES, OBS_DIM, settings.n_step, settings.gamma) for _ in range(2)
    )
    for replay in (recorded, online):
        for _ in range(EPISODES):
            obs = rng.uniform(-1, 1, (EPISODE, OBS_DIM))
            action = rng.uniform(-1, 1, (EPISODE, 4))
            reward = rng.normal(size=(EPISODE, len(OBJECTIVES)))
            skill = rng.integers(0, len(SKILLS), EPISODE)
            replay.add(
                obs, skill, np.zeros(EPISODE), action, reward, True, np.stack([action, action], 1)
            )
    bf16 = has_fast_bf16() and not arithmetic.is_portable()
    actor = build_actor(OBS_DIM, settings.hidden)
    learner = Learner(
        actor,
        OBS_DIM,
        ConditionVector(),
        settings,
        params.safety,
        0,
        (lambda: torch.autocast("cpu", torch.bfloat16)) if bf16 else nullcontext,
    )
    learner.updates = settings.imitation_steps  # past the imitation: all parts are updated

    def ours() -> None:
        for _ in range(given.updates):
            learner.update(sample_mixed(recorded, online, settings.batch_size, rng))

    what = f"{given.threads} threads, batch {settings.batch_size}, {settings.critics} critics of"
    print(f"{what} {settings.hidden}, bf16 {'on' if bf16 else 'not available'}")
    seconds = side_by_side(
        lambda: theirs.train(given.updates, settings.batch_size), ours, given.rounds
    )
    report("SAC against Stable-Baselines3", "updates", given.updates, *seconds)


if __name__ == "__main__":
    main()
