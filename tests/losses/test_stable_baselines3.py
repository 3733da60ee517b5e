"""Soft actor-critic against Stable-Baselines3's, which requirements-test.lock installs."""

import copy

import gymnasium
import numpy as np
import pytest
import torch

from lib.losses import sac
from tests.losses.test_losses import binary, close, normal

sb3 = pytest.importorskip("stable_baselines3")
logger = pytest.importorskip("stable_baselines3.common.logger")
type_aliases = pytest.importorskip("stable_baselines3.common.type_aliases")


def test_sac_losses_are_those_that_stable_baselines3_logs(monkeypatch):
    """One update of its SAC in float64, on the same transitions, networks and drawn actions.

    Conventions: its critic loss is half of ours, and its temperature loss has log(temperature)
    where ours has the temperature.
    """
    space = gymnasium.spaces.Box(-1, 1, (3,), np.float64)
    env = gymnasium.Env()
    env.observation_space, env.action_space = space, gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    theirs = sb3.SAC(
        "MlpPolicy", env, policy_kwargs={"net_arch": [8], "n_critics": 3}, device="cpu"
    )
    theirs.policy.double()
    # It turns observations into float32.
    monkeypatch.setattr(
        "stable_baselines3.common.policies.preprocess_obs", lambda obs, *_, **__: obs
    )
    theirs.log_ent_coef.data = theirs.log_ent_coef.data.double() - 1.5
    theirs.set_logger(logger.Logger(folder=None, output_formats=[]))
    obs, next_obs, action = normal(16, 3, seed=1), normal(16, 3, seed=2), normal(16, 2, seed=3)
    reward, done = normal(16, 1, seed=4), binary(16, 1, seed=5)
    batch = type_aliases.ReplayBufferSamples(obs, action.tanh(), next_obs, done, reward)
    monkeypatch.setattr(theirs.replay_buffer, "sample", lambda *args, **kwargs: batch)
    actor, critic, target = map(copy.deepcopy, (theirs.actor, theirs.critic, theirs.critic_target))
    log_temperature = theirs.log_ent_coef.detach()[0].clone()
    torch.manual_seed(0)
    theirs.train(gradient_steps=1, batch_size=16)

    torch.manual_seed(0)
    chosen, log_prob = actor.action_log_prob(obs)
    following, next_log_prob = actor.action_log_prob(next_obs)
    next_q = torch.stack(target(next_obs, following)).amin(0)
    discount = torch.full((16,), theirs.gamma, dtype=torch.float64)
    temperature = log_temperature.exp()
    wanted = sac.td_target(reward, discount, done[:, 0], next_q, next_log_prob, temperature)
    critic_loss = sac.critic_loss(torch.stack(critic(obs, batch.actions)), wanted)
    # By then its critics have made their step.
    q = torch.stack(theirs.critic(obs, chosen)).amin(0)[:, 0]
    actor_loss = sac.actor_loss(log_prob, q, temperature)
    loss = sac.temperature_loss(log_temperature, log_prob, theirs.target_entropy)
    logged = theirs.logger.name_to_value
    close(critic_loss / 2, logged["train/critic_loss"])
    close(actor_loss, logged["train/actor_loss"])
    close(loss * log_temperature / temperature, logged["train/ent_coef_loss"])
