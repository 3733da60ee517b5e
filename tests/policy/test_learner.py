"""SAC's learner and its training: what each part is told, in which order, and what is published."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch

from lib.agent.agents import Observed, PolicyAgent, build_actor
from lib.agent.condition import SKILL_SLICE, WEIGHTS_SLICE, ConditionVector
from lib.episode import SKILLS
from lib.losses import sac
from lib.params import load_params
from lib.policy import Policy
from lib.policy.cloning import clone, to_replay
from lib.policy.replay import Batch, Replay
from lib.policy.train_sac import Learner, Validation, choose, train_sac
from tests.agent.fakes import PointPerception, PointRobots
from tests.agent.test_agents import projector
from tests.factories import dataset

PRESETS = {"first": [1.0, 0.0, 0.0], "third": [0.0, 0.0, 1.0]}
DIM = 5


def small(**changes) -> Policy:
    """The settings of params.yaml for a small network and a short training."""
    values = load_params("policy").policy.model_dump()
    values |= {"hidden": [16], "batch_size": 32, "critics": 3, "imitation_steps": 0, "n_step": 1}
    values |= {"presets": PRESETS, "preset": "first", "bc_start": 0.0, "bc_floor": 0.0}
    return Policy(**{**values, **changes})


def learner(settings: Policy, dim: int = DIM) -> Learner:
    torch.manual_seed(0)
    actor = build_actor(dim, settings.hidden)
    return Learner(actor, dim, ConditionVector(), settings, load_params("safety").safety, 0)


def filled(count: int = 200, dim: int = DIM, terminated: bool = False) -> Replay:
    """Transitions of random numbers, one step long each."""
    rng = np.random.default_rng(0)
    replay = Replay(count, dim, 1, 0.9)
    for _ in range(count // 2):
        obs, action = rng.normal(size=(3, dim)), rng.uniform(-1, 1, (2, 4))
        skill = rng.integers(0, 4, 3)
        reward = rng.normal(size=(2, 3))
        taught = rng.uniform(-1, 1, (2, 2, 4))
        replay.add(obs, skill, rng.uniform(size=3), action, reward, terminated, taught)
    return replay


def batches(replay: Replay, size: int = 32):
    rng = np.random.default_rng(1)
    while True:
        yield replay.sample(size, rng)


def told(one: Learner, monkeypatch) -> None:
    """Tells the actor that the value of objective k is the k-th number of its action."""
    valued = one.critic.forward

    def forward(obs, condition, action, skill):
        learns = next(one.critic.parameters()).requires_grad
        return valued(obs, condition, action, skill) if learns else action[None, :, :3]

    monkeypatch.setattr(one.critic, "forward", forward)


@pytest.mark.parametrize(("preset", "rises", "stays"), [("first", 0, 2), ("third", 2, 0)])
def test_the_actor_maximises_what_the_preference_weighs(monkeypatch, preset, rises, stays):
    """The action of the weighed objective rises; that of the other one does not."""
    one = learner(small(presets={preset: PRESETS[preset]}, preset=preset, lr=0.01))
    told(one, monkeypatch)
    stream = batches(filled())
    batch = next(stream)
    weights = torch.tensor([PRESETS[preset]] * 32)
    now = torch.zeros(32, ConditionVector().to_array().size)
    now[:, WEIGHTS_SLICE] = weights
    before = one.actor.act(batch.obs, now, batch.skill).mean(0)
    for _ in range(60):
        one.update(next(stream))
    gained = one.actor.act(batch.obs, now, batch.skill).mean(0) - before
    assert gained[rises] > 0.3
    assert gained[stays] < 0.15


def test_conditions_hold_the_preference_that_the_losses_weigh(monkeypatch):
    """Critic and actor see in the condition what scalarises their values, and their own skills."""
    one, seen = learner(small()), {}
    batch = next(batches(filled()))
    sample, forward = one.actor.sample, one.critic.forward

    def sampled(obs, condition, skill, generator):
        seen["now" if "after" in seen else "after"] = (obs, condition, skill)
        return sample(obs, condition, skill, generator)

    def valued(obs, condition, action, skill):
        seen["judge" if "critic" in seen else "critic"] = (obs, condition, action, skill)
        return forward(obs, condition, action, skill)

    monkeypatch.setattr(one.actor, "sample", sampled)
    monkeypatch.setattr(one.critic, "forward", valued)
    one.update(batch)
    assert torch.equal(seen["now"][0], batch.obs) and torch.equal(seen["now"][2], batch.skill)
    assert torch.equal(seen["after"][0], batch.next_obs)
    assert torch.equal(seen["after"][2], batch.next_skill)
    assert torch.equal(seen["critic"][2], batch.action)
    assert torch.equal(seen["critic"][3], batch.skill)
    assert torch.equal(seen["judge"][0], batch.obs) and torch.equal(seen["judge"][3], batch.skill)
    skills = {"now": batch.skill, "critic": batch.skill, "judge": batch.skill}
    for key, skill in (skills | {"after": batch.next_skill}).items():
        assert torch.equal(seen[key][1][:, SKILL_SLICE].argmax(1), skill)
    drawn = seen["now"][1][:, WEIGHTS_SLICE]
    assert torch.equal(drawn, seen["after"][1][:, WEIGHTS_SLICE])
    assert torch.equal(drawn, seen["critic"][1][:, WEIGHTS_SLICE])
    assert len(drawn.unique(dim=0)) > 2


@pytest.mark.parametrize("better", [0, 1])
def test_a_target_takes_the_whole_value_of_the_worse_critic(monkeypatch, better):
    """By w . Q, for each sample: with preferences that disagree about which critic is worse."""
    one, told = learner(small()), []
    # Of two critics, the better one in the first objective is the worse one in the third.
    values = torch.tensor([[5.0, 1.0, -5.0], [-5.0, 2.0, 5.0]])
    values = values.flip(0) if better else values

    def subset(pair, obs, condition, action, skill):
        told.append((pair, condition[:, WEIGHTS_SLICE]))
        return values[:, None].expand(2, len(obs), 3)

    original = sac.td_target

    def target(reward, discount, terminated, next_q, *rest):
        told.append(next_q)
        return original(reward, discount, terminated, next_q, *rest)

    monkeypatch.setattr(one.target, "subset", subset)
    monkeypatch.setattr(sac, "td_target", target)
    one.update(next(batches(filled())))
    (pair, weights), next_q = told
    assert pair.stop - pair.start == 2
    worse = (weights @ values.T).argmin(1)
    assert set(worse.tolist()) == {0, 1}
    assert torch.equal(next_q, values[worse])


def test_targets_follow_slowly_and_start_as_copies():
    """A share tau of the way to the critics after their step, no more and no less."""
    settings = small(tau=0.03)
    one = learner(settings)
    pairs = list(zip(one.target.parameters(), one.critic.parameters(), strict=True))
    assert all(torch.equal(slow, fast) for slow, fast in pairs)
    old = [slow.clone() for slow, _ in pairs]
    one.update(next(batches(filled())))
    for before, (slow, fast) in zip(old, pairs, strict=True):
        torch.testing.assert_close(slow, before.lerp(fast, 0.03))
    assert not any(p.requires_grad for p in one.target.parameters())


def test_the_target_networks_make_the_targets():
    """Other weights of the target change the critics' loss."""
    batch = next(batches(filled()))
    losses = []
    for changed in (False, True):
        one = learner(small())
        for parameter in one.target.parameters() if changed else ():
            parameter.data = parameter.data * 0.1
        losses.append(one.update(batch)["critic"].item())
    assert losses[1] != losses[0]


@pytest.mark.parametrize("terminated", [False, True])
def test_what_terminated_has_no_value_after_it(monkeypatch, terminated):
    """The target of a terminated step is its reward; that of another one is not."""
    batch = filled(terminated=terminated).sample(400, np.random.default_rng(0))
    assert batch.terminated.any() == terminated and not batch.terminated.all()
    one, found = learner(small()), []
    original = sac.critic_loss

    def loss(values, targets):
        found.append(targets)
        return original(values, targets)

    monkeypatch.setattr(sac, "critic_loss", loss)
    one.update(batch)
    spread = one._variance_K.sqrt()
    is_reward = torch.isclose(found[0] * spread, batch.reward, atol=1e-4).all(1)
    assert torch.equal(is_reward, batch.terminated)


def test_the_actor_only_imitates_at_first():
    """For imitation_steps updates the critics learn, and their values do not move the actor."""
    settings = small(imitation_steps=3, bc_start=1.0)
    actors = []
    for wrong in (0.0, 100.0):
        one, stream = learner(settings), batches(filled())
        for parameter in one.target.parameters():
            parameter.data += wrong
        start = copy.deepcopy(one.critic.state_dict())
        states = []
        for _ in range(4):
            losses = one.update(next(stream))
            states.append(copy.deepcopy(one.average.state_dict()))
        assert "actor" in losses
        assert any(not torch.equal(x, start[n]) for n, x in one.critic.state_dict().items())
        actors.append(states)
    for number, pair in enumerate(zip(*actors, strict=True)):
        same = all(torch.equal(x, pair[1][name]) for name, x in pair[0].items())
        assert same is (number < 3)
    first, third = actors[0][0], actors[0][2]
    assert any(not torch.equal(x, third[name]) for name, x in first.items())


def test_cloning_pulls_the_actor_towards_the_expert_while_it_weighs():
    """After the imitation it falls from bc_start to bc_floor in bc_anneal updates, and it acts."""
    settings = small(bc_start=2.0, bc_floor=0.5, bc_anneal=4, imitation_steps=2)
    one, stream = learner(settings), batches(filled())
    weights = []
    for _ in range(8):
        weights.append(one.cloning_weight())
        one.update(next(stream))
    assert weights == pytest.approx([2.0, 2.0, 2.0, 1.625, 1.25, 0.875, 0.5, 0.5])
    errors = []
    for strength in (0.0, 50.0):
        one = learner(small(bc_start=strength, bc_floor=strength, lr=0.01))
        replay = filled()
        replay._arrays["expert"][:] = 0.5
        stream = batches(replay)
        for _ in range(40):
            errors.append(one.update(next(stream))["bc"].item())
    assert errors[-1] < 0.2 * errors[39]


def recordings(done: bool):
    """Two episodes of three steps; the second one ends as told."""
    rng = np.random.default_rng(0)
    flags = np.array([False, False, False, False, False, done])
    return dataset(
        3,
        3,
        tags=[{"success": True}, {"success": done}],
        actions=rng.uniform(-1, 1, (6, 4)).astype(np.float32),
        vector_rewards=rng.normal(size=(6, 3)).astype(np.float32),
        dones=flags,
        labels__state=rng.uniform(-1, 1, (6, 11)).astype(np.float32),
    )


@pytest.mark.parametrize("done", [False, True])
def test_recordings_become_transitions_with_their_done_flags_and_experts(done):
    """A step before a cut is left out; a failed episode has actions to clone too."""
    data = recordings(done)
    seen = Observed(
        np.arange(12.0).reshape(6, 2).astype(np.float32), np.array([0, 1, 2, 3, 0, 1]), np.zeros(6)
    )
    replay = to_replay(data, seen, small(), lambda seen: np.stack([seen[:4], -seen[:4]]))
    arrays = {name: values[: replay.size] for name, values in replay._arrays.items()}
    assert replay.size == (5 if done else 4)
    assert arrays["terminated"].tolist() == [False] * 4 + [True] * done
    rows = [0, 1, 3, 4, 5][: replay.size]
    np.testing.assert_array_equal(arrays["reward"], data.arrays["vector_rewards"][rows])
    np.testing.assert_array_equal(arrays["action"], data.arrays["actions"][rows])
    np.testing.assert_array_equal(arrays["skill"], seen.skill[rows])
    hand = data.arrays["labels/state"][rows, :4]
    np.testing.assert_array_equal(arrays["expert"], np.stack([hand, -hand], 1))


def test_cloning_learns_the_action_of_each_skill():
    """The expert's action depends on the skill alone: each head learns its own."""
    settings = small(bc_steps=300, lr=0.01)
    torch.manual_seed(0)
    actor = build_actor(DIM, settings.hidden)
    replay = filled()
    wanted = np.linspace(-0.8, 0.8, 16).reshape(4, 4)[:, ::-1]
    replay._arrays["expert"][:] = wanted[replay._arrays["skill"]][:, None]
    safety = load_params("safety").safety
    curve = clone(actor, replay, ConditionVector(), settings, safety, 0)
    assert curve.rows[-1]["total"] < 0.1 * curve.rows[0]["total"]
    obs, skill = torch.zeros(4, DIM), torch.arange(4)
    condition = torch.from_numpy(
        np.stack([ConditionVector(skill_mode=name).to_array() for name in SKILLS])
    )
    acted = actor.act(obs, condition, skill).detach().numpy()
    assert np.abs(acted - wanted).mean() < 0.2


class Training:
    """Runs ``train_sac`` on point robots and notes what happens in which order."""

    def __init__(self, settings: Policy, scores, monkeypatch):
        torch.manual_seed(0)
        perception = PointPerception()
        parts = projector()
        actor = build_actor(parts.dim, settings.hidden)
        self.agent = PolicyAgent(perception, parts, actor, ConditionVector())
        self.clone = copy.deepcopy(actor.state_dict())
        self.env = PointRobots(settings.num_envs, horizon=settings.horizon)
        self.events: list[tuple] = []
        self.validated: list[dict] = []
        update, step = Learner.update, self.env.step_async

        def noted(learner: Learner, batch: Batch):
            self.events.append(("update", learner))
            return update(learner, batch)

        def stepped(actions):
            self.events.append(("step", self.agent.explore is not None))
            step(actions)

        monkeypatch.setattr(Learner, "update", noted)
        self.env.step_async = stepped
        answers = iter(scores)
        count = len(settings.presets)

        def validate(weights) -> Validation:
            self.events.append(("validate", tuple(weights), self.agent.explore))
            self.validated.append(copy.deepcopy(self.agent.actor.state_dict()))
            success, last, value = next(answers)
            return Validation(success, last, 10.0, 5.0, np.full(3, value))

        self.asked: list[int] = []
        self.preferences: list[np.ndarray] = []
        act = self.agent.act

        def acted(*given):
            self.preferences.append(given[-1].copy())
            return act(*given)

        self.agent.act = acted

        def seeds(index: int) -> int:
            self.asked.append(index)
            return 1000 + index

        self.best, self.rows, self.curve, self.facts = train_sac(
            self.agent,
            filled(dim=parts.dim),
            self.env,
            seeds,
            lambda seen: np.stack([seen[:4], seen[:4]]),
            validate,
            settings,
            load_params("safety").safety,
            0,
        )
        self.checks = range(0, count * (settings.validations + 1), count)

    def published(self) -> int:
        """Number of the check whose weights are published."""
        for number, at in enumerate(self.checks):
            if all(torch.equal(self.best[n], x) for n, x in self.validated[at].items()):
                return number
        raise AssertionError("the published weights were never validated")


SHORT = {
    "offline_steps": 6,
    "online_steps": 24,
    "updates_per_step": 0.5,
    "num_envs": 2,
    "horizon": 10,
    "linger": 3,
    "validations": 2,
    "validate_every": 12,
    "batch_size": 8,
    "lr": 0.01,
    "validate_episodes": 40,
}


@pytest.mark.parametrize(
    ("scores", "published"),
    [
        # Both presets of the clone, then of each of two checks: success, success at the last step,
        # value of every objective.
        ([(1, 1, -9)] * 2 + [(1, 1, -8)] * 2 + [(1, 1, -7)] * 2, 2),
        ([(1, 1, -9)] * 2 + [(1, 1, -7)] * 2 + [(1, 1, -8)] * 2, 1),
        ([(1, 1, -9)] * 2 + [(0.9, 1, -7), (1, 1, -7), (1, 0.9, -8), (1, 1, -8)], 0),
        ([(1, 1, -9), (0.5, 1, -9), (0.9, 1, -7), (1, 1, -7), (1, 1, -8), (0.8, 1, -8)], 1),
        ([(0.5, 0.5, -1)] * 2 + [(0.9, 0.6, -7), (1, 1, -7), (1, 0.7, -8), (0.8, 1, -8)], 2),
        ([(1, 1, -9)] * 6, 0),
        ([(1, 1, -9)] * 3 + [(1, 1, -5), (1, 1, -7), (1, 1, -6)], 2),
        # One drawer of forty is what chance opens or leaves shut, two are not.
        ([(1, 1, -9)] * 2 + [(0.975, 1, -7), (1, 1, -7)] + [(0.95, 1, -6)] * 2, 1),
        ([(1, 1, -9)] * 2 + [(1, 0.975, -7), (1, 1, -7), (1, 0.95, -6), (1, 1, -6)], 1),
    ],
)
def test_the_best_validated_policy_is_published(monkeypatch, scores, published):
    """Success that chance does not explain comes first, then utility; ties keep."""
    run = Training(small(**SHORT), scores, monkeypatch)
    assert run.published() == published
    assert run.facts == {"online_steps": 24, "best_step": (0, 12, 24)[published]}
    assert [row["step"] for row in run.rows] == [0, 12, 24]


def test_a_training_goes_through_its_parts_in_order(monkeypatch):
    """The clone is validated, then offline updates, then steps with updates and validations."""
    scores = itertools.repeat((1, 1, -1))
    settings = small(**SHORT)
    run = Training(settings, scores, monkeypatch)
    kinds = [event[0] for event in run.events]
    assert kinds[:8] == [*["validate"] * 2, *["update"] * 6]
    assert kinds[8] == "step"
    assert kinds.count("update") == 6 + 12 and kinds.count("step") == 12
    asked = [event[1] for event in run.events if event[0] == "validate"]
    assert asked == 3 * [tuple(w) for w in PRESETS.values()]
    # Nothing explores while it is validated, everything does while it learns.
    assert all(event[2] is None for event in run.events if event[0] == "validate")
    assert all(event[1] for event in run.events if event[0] == "step")
    at = [number for number, kind in enumerate(kinds) if kind == "validate"]
    assert kinds[: at[2]].count("step") == 6
    # The average is validated, not the policy that fluctuates.
    learner = next(event[1] for event in run.events if event[0] == "update")
    for name, weights in learner.average.state_dict().items():
        assert torch.equal(weights, run.validated[-1][name])
    assert any(
        not torch.equal(weights, run.validated[-1][name])
        for name, weights in learner.actor.state_dict().items()
    )
    assert all(torch.equal(run.clone[n], x) for n, x in run.validated[0].items())


def test_a_training_drives_every_position_once_and_under_all_preferences(monkeypatch):
    """Episodes are numbered; their horizon is the training's; their preferences differ."""
    run = Training(small(**SHORT), itertools.repeat((1, 1, -1)), monkeypatch)
    assert [seed for seed, _ in run.env.resets] == [1000 + i for i in run.asked]
    assert run.asked == list(range(len(run.asked)))
    drawn = {tuple(row) for weights in run.preferences for row in weights.round(3).tolist()}
    assert {tuple(weights) for weights in PRESETS.values()} <= drawn
    assert run.agent.explore is None


def test_a_checkpoint_is_chosen_by_utility_among_those_of_equal_success():
    """One standard error below the best is equal; with more positions, less is."""
    assert choose([1.0, 0.975, 0.9], [-3, -2, -1], 40) == 1
    assert choose([1.0, 0.975, 0.9], [-3, -2, -1], 4000) == 0
    assert choose([1.0, 0.975, 0.9], [-3, -2, -1], 10) == 1
    assert choose([0.975, 1.0], [-1, -1], 40) == 0
