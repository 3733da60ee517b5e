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
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.agent.agents import Observed, PolicyAgent
from lib.agent.closed_loop import ClosedLoop, Trajectory, Trial
from lib.condition import CONDITION_DIM, ConditionVector, condition_batch
from lib.console import say, timed, track
from lib.episode import OBJECTIVES, SKILLS
from lib.halves import small_operations
from lib.losses import sac
from lib.manifest import Dataset
from lib.models.hydra import HydraActor, HydraCritic
from lib.params import Policy, Safety
from lib.perception.segmenter import Autocast
from lib.portable import sqrt
from lib.training.loop import Curve, Optimizer, fit, hold_then_fall
from lib.training.replay import Batch, Replay

ACTOR_TAU = 0.002  # averaging of the actor that is published: over some 500 updates


def record(dataset: Dataset, seen: Observed, settings: Policy) -> Replay:
    """Turns recorded episodes into transitions.

    Successful episodes also give the expert's clean actions to clone; from failures only the
    critics learn.

    Args:
        dataset: Holds ``actions``, ``vector_rewards``, ``dones`` and ``labels/expert_action``.
        seen: What the agent would have observed at every step.
        settings: Returns and discount.
    """
    arrays = dataset.arrays
    replay = Replay(len(dataset), seen.observation.shape[1], settings.n_step, settings.gamma)
    for episode in dataset.episodes:
        rows = episode.rows
        worth_cloning = episode.tags["success"]
        replay.add(
            seen.observation[rows],
            seen.skill[rows],
            seen.severity[rows],
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


def draw_preferences(count: int, settings: Policy, rng: np.random.Generator) -> np.ndarray:
    """Draws preferences: three quarters are one of the presets, the others between them.

    Args:
        count: How many.
        settings: The presets.
        rng: Source of randomness.

    Returns:
        (count, K), shares.
    """
    presets = np.array(list(settings.presets.values()))
    between = rng.dirichlet(np.ones(len(presets)), count) @ presets
    preset = presets[rng.integers(0, len(presets), count)]
    return np.where(rng.random(count)[:, None] < 0.75, preset, between)


def draw_conditions(
    batch: Batch, base: ConditionVector, settings: Policy, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Relabels a batch with drawn preferences.

    Args:
        batch: Transitions.
        base: Everything but skill, preference and novelty.
        settings: The presets.
        rng: Source of randomness.

    Returns:
        Conditions now (B, CONDITION_DIM), conditions next, and the weights (B, K).
    """
    weights = draw_preferences(len(batch), settings, rng)
    now = condition_batch(base, batch.skill.numpy(), weights, batch.severity.numpy())
    after = condition_batch(base, batch.next_skill.numpy(), weights, batch.next_severity.numpy())
    return (
        torch.from_numpy(now),
        torch.from_numpy(after),
        torch.from_numpy(weights.astype(np.float32)),
    )


def count_updates(settings: Policy) -> int:
    """Returns how many steps of SAC a training has.

    Args:
        settings: The recipe.
    """
    return settings.offline_steps + round(settings.online_steps * settings.updates_per_step)


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
        autocast: Autocast = nullcontext,
    ) -> None:
        """Builds the critics.

        Args:
            actor: Trained in place.
            obs_dim: Features of an observation.
            condition: Everything but skill, preference and novelty.
            settings: The recipe.
            safety: Clipping and NaN guard.
            autocast: Context in which the trunks run; heads and probabilities keep full precision.
        """
        self.actor, self.settings, self.condition = actor, settings, condition
        self._autocast = autocast
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
        rest = {"schedule": hold_then_fall(count_updates(settings), settings.lr_hold)}
        self._actor_step = Optimizer(
            "policy", [*actor.parameters(), self.log_temperature], settings.lr, safety, **rest
        )
        self._critic_step = Optimizer(
            "policy", self.critic.parameters(), settings.lr, safety, **rest
        )
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
            # The worse of two critics by w . Q, and its whole vector: a minimum per objective
            # would mix critics that disagree about what the action leads to. Neighbours, because a
            # slice costs no copy of their weights.
            first = int(self._rng.integers(self.settings.critics - 1))
            pair = slice(first, first + 2)
            with self._autocast():
                action, log_prob, _ = self.actor.sample(batch.next_obs, after, batch.next_skill)
                q_2BK = self.target.some(pair, batch.next_obs, after, action, batch.next_skill)
            worse_B = (q_2BK * weights_BK).sum(-1).argmin(0)
            next_q_BK = q_2BK[worse_B, torch.arange(len(worse_B))]
            target_BK = sac.td_target(
                batch.reward, batch.discount, batch.terminated, next_q_BK, log_prob, temperature
            )
        with self._autocast():
            q_NBK = self.critic(batch.obs, now, batch.action, batch.skill)
        # In units of each objective's spread, so that none drowns the others: a blow can cost a
        # hundred times the energy of a step. It is also what falls while the targets grow.
        variance_K = target_BK.var(0, correction=0).clamp_min(1e-6)
        if self._variance_K is None:
            self._variance_K = variance_K
        self._variance_K = self._variance_K.lerp(variance_K, self.settings.tau)
        spread_K = sqrt(self._variance_K)
        return {"critic": sac.critic_loss(q_NBK / spread_K, target_BK / spread_K)}

    def _actor_losses(
        self, batch: Batch, now: Tensor, weights_BK: Tensor, temperature: Tensor
    ) -> dict[str, Tensor]:
        self.critic.requires_grad_(False)
        with self._autocast():
            action, log_prob, mode = self.actor.sample(batch.obs, now, batch.skill)
            q_NBK = self.critic(batch.obs, now, action, batch.skill)
        self.critic.requires_grad_(True)
        q_B = (q_NBK.mean(0) * weights_BK).sum(-1)
        actor = sac.actor_loss(log_prob, q_B, temperature, scale=True)
        cloning = sac.behaviour_cloning_loss(mode, batch.expert, batch.has_expert)
        loss = sac.temperature_loss(self.log_temperature, log_prob, self.settings.target_entropy)
        # They share no weights: one step for actor and temperature is one for each.
        self._actor_step.step(actor + self.cloning_weight() * cloning + loss)
        return {"actor": actor, "bc": cloning, "temperature": loss, "q": q_B.mean()}


@torch.no_grad()
def _follow(slow: torch.nn.Module, fast: torch.nn.Module, share: float) -> None:
    """Moves the weights of one network towards those of another, by a share of the way."""
    for mine, other in zip(slow.parameters(), fast.parameters(), strict=True):
        mine.lerp_(other, share)


class Validation(NamedTuple):
    """What a policy did on validation positions.

    Attributes:
        success_any: Share of them where the task was done at any step.
        success_last: Where it was so at the last step of the test's horizon.
        steps: Control steps until the first success, mean.
        joules: Mechanical work until then, mean.
        utility: w . V, the undiscounted return until then under the preference w, mean.
    """

    success_any: float
    success_last: float
    steps: float
    joules: float
    utility: float


def reinforce(
    agent: PolicyAgent,
    replay: Replay,
    env: Any,
    seeds: Callable[[int], int],
    validate: Callable[[Sequence[float]], Validation],
    settings: Policy,
    safety: Safety,
    autocast: Autocast = nullcontext,
) -> tuple[dict[str, Tensor], list[dict[str, float]], Curve, dict[str, Any]]:
    """Soft actor-critic from recorded data and the robot's own, from the cloned policy on.

    Args:
        agent: The cloned policy; trained in place.
        replay: Recorded transitions.
        env: Environments, from ``make_vector_env``.
        seeds: Reset seed of training episode i.
        validate: Runs the agent under a preference on validation positions.
        settings: The recipe.
        safety: Clipping and NaN guard.
        autocast: Context in which the trunks run.

    Returns:
        Weights of the best actor by validation, never worse than the clone; a row a validation;
        the curve of losses; and online_steps with best_step.
    """
    dim = agent.projector.dim
    learner = Learner(agent.actor, dim, agent.condition, settings, safety, autocast)
    rng = np.random.default_rng(int(torch.randint(2**31, ())))
    explore = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    online = Replay(settings.online_steps + 1000, dim, settings.n_step, settings.gamma)
    curve = Curve(max(1, count_updates(settings)))
    best = {"weights": copy.deepcopy(agent.actor.state_dict()), "score": (-1.0,), "step": 0}
    rows: list[dict[str, float]] = []

    def check(step: int) -> None:
        agent.explore, agent.actor = None, learner.average
        found = {name: validate(weights) for name, weights in settings.presets.items()}
        agent.actor = learner.actor
        for name, v in found.items():
            say(
                f"policy: {step} online steps, {name}: validation success {v.success_any:.2f}, at "
                f"the last step {v.success_last:.2f}, {v.steps:.1f} steps, {v.joules:.1f} J"
            )
        published, worst = found[settings.preset], min(v.success_any for v in found.values())
        rows.append({"step": step, **published._asdict(), "worst_success_any": worst})
        # More successes first, then what the presets are worth; a tie keeps the earlier one.
        utility = float(np.mean([v.utility for v in found.values()]))
        score = (min(worst, published.success_last), utility)
        if score > best["score"]:
            weights = copy.deepcopy(learner.average.state_dict())
            best.update(weights=weights, score=score, step=step)

    def update() -> None:
        with timed("updates"), small_operations():
            curve.log(learner.update(mixed(replay, online, settings.batch_size, rng)))

    owed = 0.0

    def learn() -> None:
        nonlocal owed
        owed += settings.num_envs * settings.updates_per_step
        while owed >= 1:
            update()
            owed -= 1

    check(0)
    for _ in track(range(settings.offline_steps), "offline SAC", settings.offline_steps, "updates"):
        update()
    # The last ones only: an early policy is not published, and to look at it takes as long.
    first_check = settings.online_steps - settings.validate_every * (settings.validations - 1)
    checks = range(first_check, settings.online_steps + 1, settings.validate_every)
    due = [step for step in checks if step > 0]
    loop = None
    steps_each = settings.num_envs
    bar = track(
        range(0, settings.online_steps, steps_each),
        "online SAC",
        -(-settings.online_steps // steps_each),
        f"x{steps_each} steps",
    )
    trials = (
        Trial(
            seeds(i),
            weights=draw_preferences(1, settings, rng)[0].tolist(),
            # The long ones teach that the drawer stays open, the short ones cost fewer steps.
            linger=int(rng.integers(-(-settings.linger // 3), settings.linger + 1)),
            horizon=settings.horizon,
        )
        for i in itertools.count()
    )
    for done in bar:
        if loop is None:
            agent.explore = explore
            loop = ClosedLoop(env, agent, trials, final=agent.glance)
        # The simulators keep no processor busy for long: the learner goes on beside them, without
        # what they are about to give.
        for trajectory in loop.step(meanwhile=learn):
            _remember(online, trajectory)
        if due and done + steps_each >= due[0]:
            # Validation takes the environments and the agent's memory: begin afresh after it.
            check(done + steps_each)
            due = [step for step in due if step > done + steps_each]
            loop = None
    agent.explore = None
    facts = {"online_steps": settings.online_steps, "best_step": best["step"]}
    return best["weights"], rows, curve, facts


def mixed(recorded: Replay, online: Replay, count: int, rng: np.random.Generator) -> Batch:
    """Draws a batch, half of it recorded data and half the robot's own once there is enough.

    Args:
        recorded: Transitions of phase 1.
        online: Of the robot.
        count: Size of the batch.
        rng: Source of randomness.
    """
    half = count // 2
    if online.size < half:
        return recorded.sample(count, rng)
    return Batch.join(recorded.sample(half, rng), online.sample(half, rng))


def _remember(online: Replay, trajectory: Trajectory) -> None:
    """Keeps an episode; a success that held ends it, and what came after is an episode of its own.

    Nothing is better than a drawer that stays open, which costs nothing: so the value of a success
    that held is known from the first day on, as where the episode ends with it. One that did not
    hold goes on, or the robot would learn to let the drawer slam and bounce back.
    """
    names = ("observation", "skill", "severity", "action", "reward")
    arrays = [np.array(getattr(trajectory, name)) for name in names]
    done = trajectory.steps - 1  # the step of the first success, if there is one
    if not all(trajectory.success[done:]):
        online.add(*arrays, terminated=False)
        return
    for part, terminated in ((slice(done + 1), True), (slice(done + 1, None), False)):
        if trajectory.success[part]:
            online.add(*(array[part] for array in arrays), terminated=terminated)
