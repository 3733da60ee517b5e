"""Learning before the robot moves: recorded transitions and behaviour cloning of the teacher.

Tensor suffixes: B batch, K objectives.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lib.agent.agents import Observed
from lib.agent.condition import ConditionVector, condition_batch
from lib.base.seeds import named_seed
from lib.data.dataset import Dataset
from lib.learning.loop import Curve, Optimizer, fit
from lib.losses import sac
from lib.models.hydra import HydraActor
from lib.params import Safety
from lib.policy import Policy
from lib.policy.replay import Batch, Replay
from lib.policy.teacher import at_pace, recorded_obs


def to_replay(
    dataset: Dataset,
    seen: Observed,
    settings: Policy,
    teacher: Callable[[np.ndarray], np.ndarray],
) -> Replay:
    """Converts recorded episodes to transitions.

    Every step also gets what the teacher would have done in its state. So failed episodes show the
    way out of situations into which no successful one gets.

    Args:
        dataset: Dataset with ``actions``, ``vector_rewards``, ``dones`` and
            ``labels/state``.
        seen: Observations of the agent at every step.
        settings: Settings with the number of steps of a return and the discount.
        teacher: See ``lib.policy.teacher.Teacher``.
    """
    arrays = dataset.arrays
    replay = Replay(len(dataset), seen.observation.shape[1], settings.n_step, settings.gamma)
    for episode in dataset.episodes:
        rows = episode.rows
        replay.add(
            seen.observation[rows],
            seen.skill[rows],
            seen.severity[rows],
            arrays["actions"][rows],
            arrays["vector_rewards"][rows],
            bool(arrays["dones"][rows][-1]),
            np.stack([teacher(seen) for seen in recorded_obs(arrays["labels/state"][rows])]),
        )
    return replay


def clone(
    actor: HydraActor,
    replay: Replay,
    condition: ConditionVector,
    settings: Policy,
    safety: Safety,
    seed: int,
) -> Curve:
    """Trains a policy by behaviour cloning of the teacher, in the states of recorded episodes.

    Args:
        actor: Policy network, trained in place.
        replay: Replay buffer of recorded transitions.
        condition: Base of the conditions. Preferences are varied: the teacher's pace follows them.
        settings: Training settings.
        safety: Settings of the gradient clipping and the NaN guard.
        seed: Seed for the choice of the transitions and their preferences.

    Returns:
        Loss curve of ``total``.
    """
    rng = np.random.default_rng(named_seed(seed, "cloning"))

    def losses_of_step(step: int) -> dict[str, Tensor]:
        batch = replay.sample(settings.batch_size, rng, balanced=True)
        conditions, _, weights = draw_conditions(batch, condition, settings, rng)
        action = actor.act(batch.obs, conditions, batch.skill)
        return {"total": sac.behaviour_cloning_loss(action, taught(batch, weights, settings))}

    optimizer = Optimizer(
        "policy",
        actor.parameters(),
        settings.lr,
        safety,
        schedule=lambda step: 1 - step / settings.bc_steps,
    )
    return fit("cloning", losses_of_step, optimizer, settings.bc_steps)


def taught(batch: Batch, weights_BK: Tensor, settings: Policy) -> Tensor:
    """Returns the teacher's action for each transition, at the pace that the preference asks for.

    The more a situation surprises, the gentler it is: the gentle teacher opens more of the drawers
    that run hard.

    Args:
        batch: Batch of transitions.
        weights_BK: Preferences over OBJECTIVES.
        settings: Settings with the presets.
    """
    pace_B = settings.pace_at(weights_BK[:, -1].numpy()) * (1 - batch.severity.numpy())
    return torch.from_numpy(at_pace(batch.expert.numpy(), pace_B.astype(np.float32)))


def draw_preferences(count: int, settings: Policy, rng: np.random.Generator) -> np.ndarray:
    """Draws preferences: three quarters are presets, the others are mixtures of the presets.

    Args:
        count: Number of preferences.
        settings: Settings with the presets.
        rng: Random generator.

    Returns:
        Preferences (count, K), shares that sum to one.
    """
    presets = np.array(list(settings.presets.values()))
    between = rng.dirichlet(np.ones(len(presets)), count) @ presets
    preset = presets[rng.integers(0, len(presets), count)]
    return np.where(rng.random(count)[:, None] < 0.75, preset, between)


def draw_conditions(
    batch: Batch, base: ConditionVector, settings: Policy, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Relabels a batch with randomly drawn preferences.

    Args:
        batch: Batch of transitions.
        base: Condition that supplies everything except skill, preference and novelty.
        settings: Settings with the presets.
        rng: Random generator.

    Returns:
        Conditions of the present step (B, CONDITION_DIM), conditions of the next step, and the
        preference weights (B, K).
    """
    weights = draw_preferences(len(batch), settings, rng)
    now = condition_batch(base, batch.skill.numpy(), weights, batch.severity.numpy())
    after = condition_batch(base, batch.next_skill.numpy(), weights, batch.next_severity.numpy())
    return (
        torch.from_numpy(now),
        torch.from_numpy(after),
        torch.from_numpy(weights.astype(np.float32)),
    )
