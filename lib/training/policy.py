"""The Hydra policy: cloning warm start, then multi-objective SAC with the recorded data.

The whole algorithm reads from top to bottom here. It is SAC (Haarnoja et al. 2018) with values
that are vectors over the objectives and networks that are told the preference weights w, as in
CAPQL (Lu et al. 2023): targets are vectors, the actor maximises w . Q. Half of each batch is
recorded data (RLPD, Ball et al. 2023), returns span n steps, four critics vote (REDQ, Chen et
al. 2021), and a cloning term that is annealed to a floor holds the actor near the expert while
the critics are young.

Tensor suffixes: B batch, K objectives, N critics, A action.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.agent.agents import PolicyAgent
from lib.agent.closed_loop import ClosedLoop, Trajectory
from lib.condition import CONDITION_DIM, ConditionVector, condition_batch
from lib.console import say, track
from lib.episode import OBJECTIVES, SKILLS
from lib.losses import sac
from lib.manifest import Dataset
from lib.models.hydra import HydraActor, HydraCritic
from lib.params import Policy, Safety
from lib.training.loop import Curve, Optimizer, fit, hold_then_fall
from lib.training.replay import Batch, Replay

ACTOR_TAU = 0.002  # averaging of the actor that is published: over some 500 updates


def record(
    dataset: Dataset, observations: np.ndarray, skills: np.ndarray, settings: Policy
) -> Replay:
    """Turns recorded episodes into transitions.

    Successful episodes also give the expert's clean actions to clone; from failures only the
    critics learn.

    Args:
        dataset: Holds ``actions``, ``vector_rewards``, ``dones`` and ``labels/expert_action``.
        observations: (N, D) of every step.
        skills: (N,) of every step, as the router saw them.
        settings: Returns and discount.
    """
    arrays = dataset.arrays
    replay = Replay(len(dataset), observations.shape[1], settings.n_step, settings.gamma)
    for episode in dataset.episodes:
        rows = episode.rows
        worth_cloning = episode.tags["success"]
        replay.add(
            observations[rows],
            skills[rows],
            arrays["actions"][rows],
            arrays["vector_rewards"][rows],
            bool(arrays["dones"][rows][-1]),
            arrays["labels/expert_action"][rows] if worth_cloning else None,
        )
    return replay


def clone(
    actor: HydraActor,
    replay: Replay,
    condition: ConditionVector,
    settings: Policy,
    safety: Safety,
) -> Curve:
    """Behaviour cloning on clean expert actions of successful episodes.

    Args:
        actor: Trained in place.
        replay: Recorded transitions.
        condition: Conditions; preferences are varied, because the expert serves them all alike.
        settings: The recipe.
        safety: Clipping and NaN guard.

    Returns:
        The curve of ``total``.
    """
    rng = np.random.default_rng(int(torch.randint(2**31, ())))

    def losses_of_step(step: int) -> dict[str, Tensor]:
        batch = replay.sample(settings.batch_size, rng, cloning=True)
        conditions = draw_conditions(batch, condition, settings, rng)[0]
        action = actor.act(batch.obs, conditions, batch.skill)
        return {"total": sac.behaviour_cloning_loss(action, batch.expert)}

    optimizer = Optimizer(
        "policy",
        actor.parameters(),
        settings.lr,
        safety,
        schedule=lambda step: 1 - step / settings.bc_steps,
    )
    return fit("cloning", losses_of_step, optimizer, settings.bc_steps)


def draw_conditions(
    batch: Batch, base: ConditionVector, settings: Policy, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Relabels a batch with preferences: half the published one, half drawn at random.

    Args:
        batch: Transitions.
        base: Everything but skill and preference.
        settings: The published weights.
        rng: Source of randomness.

    Returns:
        Conditions now (B, CONDITION_DIM), conditions next, and the weights (B, K).
    """
    weights = np.repeat(np.array([settings.weights]), len(batch), axis=0)
    drawn = rng.dirichlet(np.ones(len(OBJECTIVES)), len(batch))
    random = rng.random(len(batch)) < 0.5
    weights[random] = drawn[random]
    now = condition_batch(base, batch.skill.numpy(), weights)
    after = condition_batch(base, batch.next_skill.numpy(), weights)
    return (
        torch.from_numpy(now),
        torch.from_numpy(after),
        torch.from_numpy(weights.astype(np.float32)),
    )


class Learner:
    """Actor, critics and temperature with their optimisers; one ``update`` is one step of SAC.

    Attributes:
        actor: Learns and explores.
        average: The same with averaged weights: what is validated and published. The actor wavers
            from update to update, its average much less (Polyak and Juditsky 1992).
    """

    def __init__(
        self,
        actor: HydraActor,
        obs_dim: int,
        condition: ConditionVector,
        settings: Policy,
        safety: Safety,
    ) -> None:
        """Builds the critics.

        Args:
            actor: Trained in place.
            obs_dim: Features of an observation.
            condition: Everything but skill and preference.
            settings: The recipe.
            safety: Clipping and NaN guard.
        """
        self.actor, self.settings, self.condition = actor, settings, condition
        self.critic = HydraCritic(
            obs_dim,
            CONDITION_DIM,
            4,
            len(SKILLS),
            num_objectives=len(OBJECTIVES),
            num_critics=settings.critics,
            hidden=settings.hidden,
        )
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.average = copy.deepcopy(actor).requires_grad_(False)
        self._variance_K: Tensor | None = None
        start = torch.tensor(settings.init_temperature).log()
        self.log_temperature = torch.nn.Parameter(start)
        # Actor and critics come to rest: at a constant rate the policy wavers to the end.
        total = settings.offline_steps + round(settings.online_steps * settings.updates_per_step)
        rest = {"schedule": hold_then_fall(total, settings.lr_hold)}
        self._actor_step = Optimizer("policy", actor.parameters(), settings.lr, safety, **rest)
        self._critic_step = Optimizer(
            "policy", self.critic.parameters(), settings.lr, safety, **rest
        )
        self._temperature_step = Optimizer("policy", [self.log_temperature], settings.lr, safety)
        self._rng = np.random.default_rng(int(torch.randint(2**31, ())))
        self.updates = 0

    def cloning_weight(self) -> float:
        """Weight of the cloning term now: a straight line down to the floor."""
        s = self.settings
        share = min(1.0, self.updates / s.bc_anneal)
        return s.bc_start + share * (s.bc_floor - s.bc_start)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of SAC.

        Args:
            batch: Transitions, recorded and online.

        Returns:
            The losses, the temperature and the mean of w . Q.
        """
        now, after, weights_BK = draw_conditions(batch, self.condition, self.settings, self._rng)
        temperature = self.log_temperature.detach().exp()
        losses = self._critic_losses(batch, now, after, weights_BK, temperature)
        self._critic_step.step(losses["critic"])
        if self.updates >= self.settings.critic_steps:
            losses |= self._actor_losses(batch, now, weights_BK, temperature)
            _follow(self.average, self.actor, ACTOR_TAU)
        _follow(self.target, self.critic, self.settings.tau)
        self.updates += 1
        losses["alpha"] = temperature
        return {name: value.detach() for name, value in losses.items()}

    def _critic_losses(
        self, batch: Batch, now: Tensor, after: Tensor, weights_BK: Tensor, temperature: Tensor
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            action, log_prob, _ = self.actor.sample(batch.next_obs, after, batch.next_skill)
            q_NBK = self.target(batch.next_obs, after, action, batch.next_skill)
            # The worse of two critics by w . Q, and its whole vector: a minimum per objective
            # would mix critics that disagree about what the action leads to.
            pair = torch.from_numpy(self._rng.choice(len(q_NBK), 2, replace=False))
            q_2BK = q_NBK[pair]
            worse_B = (q_2BK * weights_BK).sum(-1).argmin(0)
            next_q_BK = q_2BK[worse_B, torch.arange(len(worse_B))]
            target_BK = sac.td_target(
                batch.reward, batch.discount, batch.terminated, next_q_BK, log_prob, temperature
            )
        q_NBK = self.critic(batch.obs, now, batch.action, batch.skill)
        # In units of each objective's spread, so that none drowns the others: a blow can cost a
        # hundred times the energy of a step. It is also what falls while the targets grow.
        variance_K = target_BK.var(0, correction=0).clamp_min(1e-6)
        if self._variance_K is None:
            self._variance_K = variance_K
        self._variance_K = self._variance_K.lerp(variance_K, self.settings.tau)
        spread_K = self._variance_K.sqrt()
        return {"critic": sac.critic_loss(q_NBK / spread_K, target_BK / spread_K)}

    def _actor_losses(
        self, batch: Batch, now: Tensor, weights_BK: Tensor, temperature: Tensor
    ) -> dict[str, Tensor]:
        action, log_prob, mode = self.actor.sample(batch.obs, now, batch.skill)
        self.critic.requires_grad_(False)
        q_NBK = self.critic(batch.obs, now, action, batch.skill)
        self.critic.requires_grad_(True)
        q_B = (q_NBK.mean(0) * weights_BK).sum(-1)
        actor = sac.actor_loss(log_prob, q_B, temperature, scale=True)
        cloning = sac.behaviour_cloning_loss(mode, batch.expert, batch.has_expert)
        self._actor_step.step(actor + self.cloning_weight() * cloning)
        loss = sac.temperature_loss(self.log_temperature, log_prob, self.settings.target_entropy)
        self._temperature_step.step(loss)
        return {"actor": actor, "bc": cloning, "temperature": loss, "q": q_B.mean()}


@torch.no_grad()
def _follow(slow: torch.nn.Module, fast: torch.nn.Module, share: float) -> None:
    """Moves the weights of one network towards those of another, by a share of the way."""
    for mine, other in zip(slow.parameters(), fast.parameters(), strict=True):
        mine.lerp_(other, share)


def reinforce(
    agent: PolicyAgent,
    replay: Replay,
    env: Any,
    seeds: Callable[[int], int],
    validate: Callable[[], tuple[float, float]],
    settings: Policy,
    safety: Safety,
) -> tuple[dict[str, Tensor], list[dict[str, float]], Curve, dict[str, Any]]:
    """Soft actor-critic from recorded data and the robot's own, from the cloned policy on.

    Args:
        agent: The cloned policy; trained in place.
        replay: Recorded transitions.
        env: Environments, from ``make_vector_env``.
        seeds: Reset seed of training episode i.
        validate: Runs the agent on validation positions: success rate and mean steps.
        settings: The recipe.
        safety: Clipping and NaN guard.

    Returns:
        Weights of the best actor by validation, never worse than the clone; a row a validation;
        the curve of losses; and online_steps with best_step.
    """
    learner = Learner(agent.actor, agent.projector.dim, agent.condition, settings, safety)
    rng = np.random.default_rng(int(torch.randint(2**31, ())))
    explore = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    online = Replay(
        settings.online_steps + 1000, agent.projector.dim, settings.n_step, settings.gamma
    )
    total = settings.offline_steps + round(settings.online_steps * settings.updates_per_step)
    curve = Curve(max(1, total))
    best = {"weights": copy.deepcopy(agent.actor.state_dict()), "score": (-1.0, 0.0), "step": 0}
    rows: list[dict[str, float]] = []

    def check(step: int) -> None:
        agent.explore, agent.actor = None, learner.average
        success, steps = validate()
        agent.actor = learner.actor
        rows.append({"step": step, "success": success, "steps": steps})
        say(f"policy: {step} online steps, validation success {success:.2f}, {steps:.1f} steps")
        # More successes first, then fewer steps; a tie keeps the earlier one.
        if (success, -steps) > best["score"]:
            weights = copy.deepcopy(learner.average.state_dict())
            best.update(weights=weights, score=(success, -steps), step=step)

    def batch() -> Batch:
        half = settings.batch_size // 2
        if online.size < half:
            return replay.sample(settings.batch_size, rng)
        return Batch.join(replay.sample(half, rng), online.sample(half, rng))

    check(0)
    for _ in track(range(settings.offline_steps), "offline SAC", settings.offline_steps, "updates"):
        curve.log(learner.update(batch()))
    next_check, owed = settings.validate_every, 0.0
    loop = None
    steps_each = settings.num_envs
    bar = track(
        range(0, settings.online_steps, steps_each),
        "online SAC",
        -(-settings.online_steps // steps_each),
        f"x{steps_each} steps",
    )
    episode = itertools.count()
    for done in bar:
        if loop is None:
            agent.explore = explore
            loop = ClosedLoop(env, agent, (seeds(i) for i in episode), final=agent.glance)
        for trajectory in loop.step():
            _remember(online, trajectory)
        owed += steps_each * settings.updates_per_step
        while owed >= 1:
            curve.log(learner.update(batch()))
            owed -= 1
        if done + steps_each >= next_check:
            # Validation takes the environments and the agent's memory: begin afresh after it.
            check(done + steps_each)
            next_check += settings.validate_every
            loop = None
    agent.explore = None
    facts = {"online_steps": settings.online_steps, "best_step": best["step"]}
    return best["weights"], rows, curve, facts


def _remember(online: Replay, trajectory: Trajectory) -> None:
    online.add(
        np.stack(trajectory.observation),
        np.array(trajectory.skill),
        np.stack(trajectory.action),
        np.stack(trajectory.reward),
        trajectory.terminated,
    )
