"""Training of the Hydra policy: multi-objective SAC with recorded data after a cloning warm start.

This file holds the whole algorithm, in reading order. It is SAC (Haarnoja et al. 2018) with values
that are vectors over the objectives. The preference weights w are an input of the networks, as in
CAPQL (Lu et al. 2023): targets are vectors, and the actor maximises w . Q. Half of each batch is
recorded data (RLPD, Ball et al. 2023). Returns span n steps. The critics are an ensemble of four
(REDQ, Chen et al. 2021). At first the actor only imitates the teacher, on recorded states and on
those that the robot visits (DAgger, Ross et al. 2011), while the critics learn from both. Then it
maximises their values too, and the weight of the imitation falls to a floor.

Tensor suffixes: B batch, K objectives, N critics, A action.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.agent.agents import PolicyAgent
from lib.agent.closed_loop import ClosedLoop, Trajectory, Trial
from lib.agent.condition import CONDITION_DIM, ConditionVector
from lib.base.console import say, timed, track
from lib.base.seeds import named_seed
from lib.episode import OBJECTIVES, SKILLS
from lib.learning.device import Autocast
from lib.learning.halves import small_operations
from lib.learning.loop import Curve, Optimizer, hold_then_fall
from lib.learning.portable import sqrt
from lib.losses import sac
from lib.models.hydra import HydraActor, HydraCritic
from lib.params import Safety
from lib.policy import Policy
from lib.policy.cloning import draw_conditions, draw_preferences, taught
from lib.policy.replay import Batch, Replay
from lib.sim.env import ACTION_SIZE

ACTOR_TAU = 0.002  # Polyak average of the published actor, over about 500 updates


def count_updates(settings: Policy) -> int:
    """Returns the number of SAC updates of a training.

    Args:
        settings: Training settings.
    """
    return settings.offline_steps + round(settings.online_steps * settings.updates_per_step)


class Learner:
    """Actor, critics and temperature with their optimisers; one ``update`` is one step of SAC.

    Attributes:
        actor: Policy network that is trained and that explores.
        average: Polyak average of the actor, which is validated and published. The actor
            fluctuates from update to update, its average much less (Polyak and Juditsky 1992).
    """

    def __init__(
        self,
        actor: HydraActor,
        obs_dim: int,
        condition: ConditionVector,
        settings: Policy,
        safety: Safety,
        seed: int,
        autocast: Autocast = nullcontext,
    ) -> None:
        """Builds the critics and the optimisers.

        Args:
            actor: Policy network, trained in place.
            obs_dim: Number of features of an observation.
            condition: Condition that supplies everything except skill, preference and novelty.
            settings: Training settings.
            safety: Settings of the gradient clipping and the NaN guard.
            seed: Seed for drawing preferences and actions.
            autocast: Context in which the trunks run; heads and probabilities keep full precision.
        """
        self.actor, self.settings, self.condition = actor, settings, condition
        self._autocast = autocast
        self.critic = HydraCritic(
            obs_dim,
            CONDITION_DIM,
            ACTION_SIZE,
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
        # The learning rate falls at the end, because at a constant rate the policy keeps
        # fluctuating.
        schedule = hold_then_fall(count_updates(settings), settings.lr_hold)
        trained = [*actor.parameters(), self.log_temperature]
        self._actor_step = Optimizer("policy", trained, settings.lr, safety, schedule=schedule)
        self._critic_step = Optimizer(
            "policy", self.critic.parameters(), settings.lr, safety, schedule=schedule
        )
        self._rng = np.random.default_rng(named_seed(seed, "conditions"))
        self._noise = torch.Generator().manual_seed(named_seed(seed, "noise"))
        self.updates = 0

    def cloning_weight(self) -> float:
        """Returns the present weight of the cloning term, which falls linearly to the floor."""
        s = self.settings
        share = min(1.0, max(0, self.updates - s.imitation_steps) / s.bc_anneal)
        return s.bc_start + share * (s.bc_floor - s.bc_start)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Performs one step of SAC.

        Args:
            batch: Batch of transitions, recorded and online.

        Returns:
            The losses, the temperature and the mean of w . Q.
        """
        now, after, weights_BK = draw_conditions(batch, self.condition, self.settings, self._rng)
        temperature = self.log_temperature.detach().exp()
        losses = self._critic_losses(batch, now, after, weights_BK, temperature)
        self._critic_step.step(losses["critic"])
        if self.updates >= self.settings.imitation_steps:
            losses |= self._actor_losses(batch, now, weights_BK, temperature)
        else:
            losses |= self._imitation_loss(batch, now, weights_BK)
        polyak_update(self.average, self.actor, ACTOR_TAU)
        polyak_update(self.target, self.critic, self.settings.tau)
        self.updates += 1
        losses["alpha"] = temperature
        return {name: value.detach() for name, value in losses.items()}

    def _critic_losses(
        self, batch: Batch, now: Tensor, after: Tensor, weights_BK: Tensor, temperature: Tensor
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            # The target is the whole value vector of the critic with the lower w . Q out of two. A
            # minimum per objective would mix critics that disagree about the result of the action.
            # The two critics are neighbours, because a slice needs no copy of their weights.
            first = int(self._rng.integers(self.settings.critics - 1))
            pair = slice(first, first + 2)
            with self._autocast():
                action, log_prob, _ = self.actor.sample(
                    batch.next_obs, after, batch.next_skill, self._noise
                )
                q_2BK = self.target.subset(pair, batch.next_obs, after, action, batch.next_skill)
            worse_B = (q_2BK * weights_BK).sum(-1).argmin(0)
            next_q_BK = q_2BK[worse_B, torch.arange(len(worse_B))]
            target_BK = sac.td_target(
                batch.reward, batch.discount, batch.terminated, next_q_BK, log_prob, temperature
            )
        with self._autocast():
            q_NBK = self.critic(batch.obs, now, batch.action, batch.skill)
        # Errors are divided by the spread of the targets of each objective, so that no objective
        # dominates: a blow can cost a hundred times the energy of a step. The scaled loss also
        # falls while the targets grow.
        variance_K = target_BK.var(0, correction=0).clamp_min(1e-6)
        if self._variance_K is None:
            self._variance_K = variance_K
        self._variance_K = self._variance_K.lerp(variance_K, self.settings.tau)
        spread_K = sqrt(self._variance_K)
        return {"critic": sac.critic_loss(q_NBK / spread_K, target_BK / spread_K)}

    def _imitation_loss(self, batch: Batch, now: Tensor, weights_BK: Tensor) -> dict[str, Tensor]:
        with self._autocast():
            mode = self.actor.act(batch.obs, now, batch.skill)
        cloning = sac.behaviour_cloning_loss(mode, taught(batch, weights_BK, self.settings))
        self._actor_step.step(self.cloning_weight() * cloning)
        return {"bc": cloning}

    def _actor_losses(
        self, batch: Batch, now: Tensor, weights_BK: Tensor, temperature: Tensor
    ) -> dict[str, Tensor]:
        self.critic.requires_grad_(False)
        with self._autocast():
            action, log_prob, mode = self.actor.sample(batch.obs, now, batch.skill, self._noise)
            q_NBK = self.critic(batch.obs, now, action, batch.skill)
        self.critic.requires_grad_(True)
        q_B = (q_NBK.mean(0) * weights_BK).sum(-1)
        actor = sac.actor_loss(log_prob, q_B, temperature, scale=True)
        cloning = sac.behaviour_cloning_loss(mode, taught(batch, weights_BK, self.settings))
        loss = sac.temperature_loss(self.log_temperature, log_prob, self.settings.target_entropy)
        # Actor and temperature share no weights, so one step on the sum is one step for each.
        self._actor_step.step(actor + self.cloning_weight() * cloning + loss)
        return {"actor": actor, "bc": cloning, "temperature": loss, "q": q_B.mean()}


@torch.no_grad()
def polyak_update(slow: torch.nn.Module, fast: torch.nn.Module, share: float) -> None:
    """Moves the weights of ``slow`` towards those of ``fast`` by a share of the difference."""
    for mine, other in zip(slow.parameters(), fast.parameters(), strict=True):
        mine.lerp_(other, share)


class Validation(NamedTuple):
    """Results of a policy on the validation positions.

    Attributes:
        success_any: Share of positions where the task was done at any step.
        success_last: Share of positions where it was done at the last step of the test horizon.
        steps: Mean number of control steps until the first success.
        joules: Mean mechanical work until the first success, J.
        value: (K,) mean undiscounted return until the first success.
    """

    success_any: float
    success_last: float
    steps: float
    joules: float
    value: np.ndarray


# Columns of plots/policy_online.csv besides the step.
VALIDATED = (*Validation._fields[:-1], "utility", "worst_success_any")


def train_sac(
    agent: PolicyAgent,
    replay: Replay,
    env: Any,
    seeds: Callable[[int], int],
    teacher: Callable[[np.ndarray], np.ndarray],
    validate: Callable[[Sequence[float]], Validation],
    settings: Policy,
    safety: Safety,
    seed: int,
    autocast: Autocast = nullcontext,
) -> tuple[dict[str, Tensor], list[dict[str, float]], Curve, dict[str, Any]]:
    """Trains the cloned policy by SAC on recorded data and on new experience of the robot.

    Args:
        agent: Agent with the cloned policy, trained in place.
        replay: Replay buffer of recorded transitions.
        env: Environments from ``make_vector_env``.
        seeds: Function from the index of a training episode to its reset seed.
        teacher: See ``lib.policy.teacher.Teacher``; the cloning loss makes labels of its actions.
        validate: Function that runs the agent under a preference on the validation positions.
        settings: Training settings.
        safety: Settings of the gradient clipping and the NaN guard.
        seed: Seed for exploration and for drawing transitions and preferences.
        autocast: Context in which the trunks run.

    Returns:
        Weights of the actor that ``choose`` takes from the clone and the validated ones; one row
        for each validation; the curve of the losses; and a dictionary with online_steps and
        best_step.
    """
    dim = agent.projector.dim
    learner = Learner(agent.actor, dim, agent.condition, settings, safety, seed, autocast)
    rng = np.random.default_rng(named_seed(seed, "experience"))
    explore = torch.Generator().manual_seed(named_seed(seed, "exploration"))
    online = Replay(settings.online_steps + 1000, dim, settings.n_step, settings.gamma)
    curve = Curve(max(1, count_updates(settings)))
    checkpoints: list[dict[str, Tensor]] = []
    success: list[float] = []
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
        # The utility is the mean of w . V over the presets.
        values = [np.dot(weights, found[name].value) for name, weights in settings.presets.items()]
        utility = float(np.mean(values))
        figures = (*published[:-1], utility, worst)
        rows.append({"step": step, **dict(zip(VALIDATED, figures, strict=True))})
        checkpoints.append(copy.deepcopy(learner.average.state_dict()))
        success.append(min(worst, published.success_last))

    def update() -> None:
        with timed("updates"), small_operations():
            curve.log(learner.update(sample_mixed(replay, online, settings.batch_size, rng)))

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
    # Validations are placed at the end: an early policy would not be published, but its validation
    # would take as long.
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
            # Long episodes teach to keep the drawer open, short episodes cost fewer steps.
            linger=int(rng.integers(-(-settings.linger // 3), settings.linger + 1)),
            horizon=settings.horizon,
        )
        for i in itertools.count()
    )
    for done in bar:
        if loop is None:
            agent.explore = explore
            loop = ClosedLoop(env, agent, trials, final=agent.glance)
        # The simulators do not use the processors fully, so the learner runs at the same time. It
        # does not yet use the transitions of the present step.
        for trajectory in loop.step(meanwhile=learn):
            _remember(online, trajectory, teacher)
        if due and done + steps_each >= due[0]:
            # Validation uses the environments and the memory of the agent, so a new loop starts.
            check(done + steps_each)
            due = [step for step in due if step > done + steps_each]
            loop = None
    agent.explore = None
    best = choose(success, [row["utility"] for row in rows], settings.validate_episodes)
    facts = {"online_steps": settings.online_steps, "best_step": int(rows[best]["step"])}
    return checkpoints[best], rows, curve, facts


def choose(success: Sequence[float], utility: Sequence[float], positions: int) -> int:
    """Returns which of the validated checkpoints is published.

    It is the one with the highest utility among those whose success the positions cannot tell from
    the highest: not more than one standard error below it (the one-standard-error rule, Breiman et
    al. 1984, "Classification and Regression Trees"). A few positions cannot tell a policy that
    opens 39 drawers of 40 from one that opens 40, but they can tell a fast one from a slow one.

    Args:
        success: Success of each checkpoint, as a share of the positions; the earliest first.
        utility: Utility of each checkpoint; among equal ones the earliest is chosen.
        positions: Number of validation positions.
    """
    best = max(success)
    # Agresti and Coull 1998: with two more successes and failures each, the error is not 0 at 1.
    share = (best * positions + 2) / (positions + 4)
    error = math.sqrt(share * (1 - share) / (positions + 4))
    equal = [index for index, value in enumerate(success) if value >= best - error]
    return max(equal, key=lambda index: utility[index])


def sample_mixed(recorded: Replay, online: Replay, count: int, rng: np.random.Generator) -> Batch:
    """Draws a batch: half recorded data, half online data.

    Until there is enough online data for half a batch, all of the batch is recorded data.

    Args:
        recorded: Replay buffer of the transitions of phase 1.
        online: Replay buffer of the online transitions of the robot.
        count: Batch size.
        rng: Random generator.
    """
    half = count // 2
    if online.size < half:
        return recorded.sample(count, rng)
    return Batch.join(recorded.sample(half, rng), online.sample(half, rng))


def _remember(
    online: Replay, trajectory: Trajectory, teacher: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Adds an episode to the replay buffer, in two parts if its success lasted to the end.

    A lasting success terminates the first part; the steps after it are the second part. A drawer
    that stays open costs nothing, and no outcome is better. So the value after a lasting success
    is known to be zero from the start of training, as if the episode ended there. A success that
    did not last does not terminate the episode; otherwise the robot would learn to let the drawer
    slam and bounce back.

    The cloning loss also gets what the teacher would have done at each of these steps (DAgger, Ross
    et al. 2011, arXiv 1011.0686). Recorded successes hold neither the states into which the policy
    gets itself nor those after a success; without the teacher's word on them it forgot both.
    """
    names = ("observation", "skill", "severity", "action", "reward")
    arrays = [np.array(getattr(trajectory, name)) for name in names]
    expert = np.stack([teacher(seen) for seen in trajectory.expert_obs])
    done = trajectory.steps - 1  # the step of the first success, if there is one
    if not all(trajectory.success[done:]):
        online.add(*arrays, terminated=False, expert_T2A=expert)
        return
    for part, terminated in ((slice(done + 1), True), (slice(done + 1, None), False)):
        if trajectory.success[part]:
            values = (array[part] for array in arrays)
            online.add(*values, terminated=terminated, expert_T2A=expert[part])
