"""Returns of several steps and the replay buffer: numbers by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.policy.replay import Batch, Replay, n_step


def by_hand(reward, observed, terminated, n, gamma):
    """The definition, one step at a time: (return, discount, following observation, done)."""
    rows = []
    steps = len(reward)
    for start in range(steps):
        total, t = np.zeros(reward.shape[1]), start
        while t < start + n and t < steps and (terminated or t + 1 < observed):
            total += gamma ** (t - start) * reward[t]
            t += 1
        if t > start:
            rows.append((total, gamma ** (t - start), t, terminated and t == steps))
    return rows


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 12),
    st.booleans(),
    st.booleans(),
    st.integers(1, 15),
    st.floats(0.1, 0.999),
    st.integers(0, 1000),
)
def test_n_step_is_the_sum_written_out(steps, last_seen, terminated, n, gamma, seed):
    """Any length, horizon and end; with and without a look at the last frame."""
    reward = np.random.default_rng(seed).normal(size=(steps, 3))
    observed = steps + last_seen
    total, discount, follow, done = n_step(reward, observed, terminated, n, gamma)
    expected = by_hand(reward, observed, terminated, n, gamma)
    assert len(total) == len(discount) == len(follow) == len(done) == len(expected)
    for row, (sum_, factor, following, ends) in enumerate(expected):
        np.testing.assert_allclose(total[row], sum_, rtol=1e-12, atol=1e-12)
        assert discount[row] == pytest.approx(factor, rel=1e-12)
        assert done[row] == ends
        assert 0 <= follow[row] < observed
        if not ends:  # nothing is looked up behind the end of a task
            assert follow[row] == following


def test_n_step_on_four_steps():
    """Rewards 1, 2, 3, 4 at gamma 1/2, two steps: the three ways in which an episode ends."""
    reward = np.arange(1.0, 5.0)[:, None]
    total, discount, follow, done = n_step(reward, 5, False, 2, 0.5)  # cut, last frame seen
    np.testing.assert_array_equal(total[:, 0], [2.0, 3.5, 5.0, 4.0])
    np.testing.assert_array_equal(discount, [0.25, 0.25, 0.25, 0.5])
    np.testing.assert_array_equal(follow, [2, 3, 4, 4])
    assert not done.any()
    total, discount, follow, done = n_step(reward, 4, False, 2, 0.5)  # cut, last frame not seen
    np.testing.assert_array_equal(total[:, 0], [2.0, 3.5, 3.0])
    np.testing.assert_array_equal(discount, [0.25, 0.25, 0.5])
    np.testing.assert_array_equal(follow, [2, 3, 3])
    assert not done.any()
    total, _, _, done = n_step(reward, 4, True, 2, 0.5)  # done
    np.testing.assert_array_equal(total[:, 0], [2.0, 3.5, 5.0, 4.0])
    np.testing.assert_array_equal(done, [False, False, True, True])


def fill(replay: Replay, first: int, steps: int) -> None:
    """Adds an episode whose observations, rewards and experts count up from ``first``."""
    count = np.arange(first, first + steps)
    replay.add(
        np.stack([count, -count], 1).astype(np.float32),
        count % 4,
        count / 100,
        np.repeat(count[:, None] / 1000, 4, 1).astype(np.float32),
        np.repeat(count[:, None], 3, 1).astype(np.float32),
        True,
        np.repeat(count, 8).reshape(-1, 2, 4),
    )


def everything(replay: Replay, count: int = 4000) -> Batch:
    """Enough draws to meet each of a few dozen transitions."""
    return replay.sample(count, np.random.default_rng(0))


def test_a_transition_keeps_together_what_belongs_together():
    """Observation, skill, action, reward and what follows are those of one step."""
    replay = Replay(100, 2, n=3, gamma=0.5)
    fill(replay, 10, 8)
    batch = everything(replay)
    t = batch.obs[:, 0]
    assert set(t.tolist()) == set(range(10, 18))
    assert torch.equal(batch.obs[:, 1], -t)
    assert torch.equal(batch.skill, t.long() % 4)
    torch.testing.assert_close(batch.severity, t / 100)
    torch.testing.assert_close(batch.action, (t / 1000)[:, None].expand(-1, 4))
    ends = t >= 15
    assert torch.equal(batch.terminated, ends)
    assert torch.equal(batch.next_obs[~ends, 0], t[~ends] + 3)
    assert torch.equal(batch.next_skill[~ends], (t[~ends].long() + 3) % 4)
    torch.testing.assert_close(batch.next_severity[~ends], (t[~ends] + 3) / 100)
    whole = (t + (t + 1) / 2 + (t + 2) / 4)[~ends]
    torch.testing.assert_close(batch.reward[~ends], whole[:, None].expand(-1, 3))
    assert (batch.discount[~ends] == 0.125).all()
    torch.testing.assert_close(batch.expert, t[:, None, None].expand(-1, 2, 4))


def test_a_cut_episode_drops_the_step_after_which_nothing_was_seen():
    """Its value could not be bootstrapped; with the last frame it stays."""
    for observed, kept in ((5, 4), (6, 5)):
        replay = Replay(100, 1, n=2, gamma=0.9)
        obs = np.arange(observed, dtype=np.float32)[:, None]
        skill, action, reward = np.zeros(observed, int), np.zeros((5, 4)), np.zeros((5, 3))
        taught = np.zeros((5, 2, 4))
        replay.add(obs, skill, np.zeros(observed), action, reward, False, taught)
        assert replay.size == kept
        batch = everything(replay)
        assert not batch.terminated.any()
        assert batch.next_obs.max() == observed - 1


def test_a_full_store_overwrites_the_oldest():
    """12 places, three episodes of five: the first three transitions are gone."""
    replay = Replay(12, 2, n=1, gamma=0.9)
    sizes = []
    for first in (0, 5, 10):
        fill(replay, first, 5)
        sizes.append(replay.size)
    assert sizes == [5, 10, 12]
    batch = everything(replay)
    assert set(batch.obs[:, 0].tolist()) == set(range(3, 15))
    assert torch.equal(batch.obs[:, 0], batch.reward[:, 0])
    fill(replay, 15, 5)
    assert set(everything(replay).obs[:, 0].tolist()) == set(range(8, 20))


def test_an_episode_longer_than_the_store_leaves_its_last_steps():
    """And not a mixture of laps."""
    replay = Replay(7, 2, n=1, gamma=0.9)
    fill(replay, 0, 20)
    batch = everything(replay)
    assert replay.size == 7
    assert set(batch.obs[:, 0].tolist()) == set(range(13, 20))
    assert torch.equal(batch.obs[:, 0], batch.reward[:, 0])


def test_sampling_is_uniform_and_a_function_of_the_generator():
    """Ten transitions, 10,000 draws: each within five standard deviations of a tenth."""
    replay = Replay(50, 2, n=1, gamma=0.9)
    fill(replay, 0, 10)
    batch = everything(replay, 10_000)
    counts = torch.bincount(batch.obs[:, 0].long(), minlength=10)
    assert (counts - 1000).abs().max() < 5 * 30
    assert torch.equal(batch.obs, everything(replay, 10_000).obs)
    other = replay.sample(10_000, np.random.default_rng(1))
    assert not torch.equal(batch.obs, other.obs)


def test_balanced_batches_draw_the_skills_equally_often():
    """Skill 3 is one step in sixty-one, and a third of the batch; skill 2 never happened."""
    replay = Replay(200, 1, n=1, gamma=0.9)
    skill = np.array([0] * 30 + [1] * 30 + [3])
    count = len(skill)
    rest = np.zeros(count), np.zeros((count, 4)), np.zeros((count, 3)), True
    replay.add(np.ones((count, 1)), skill, *rest, np.full((count, 2, 4), 0.25, np.float32))
    batch = replay.sample(6000, np.random.default_rng(0), balanced=True)
    assert len(batch) == 6000
    assert (batch.obs == 1).all()
    assert (batch.expert == 0.25).all()
    counts = torch.bincount(batch.skill, minlength=4)
    assert counts[2] == 0
    assert (counts[[0, 1, 3]] - 2000).abs().max() < 5 * math.sqrt(6000 * 1 / 3 * 2 / 3)


def test_join_puts_one_batch_behind_the_other():
    """Every field, in order."""
    replay = Replay(50, 2, n=2, gamma=0.9)
    fill(replay, 0, 10)
    first, second = (replay.sample(n, np.random.default_rng(n)) for n in (3, 4))
    joined = Batch.join(first, second)
    assert len(joined) == 7
    for name, value in vars(joined).items():
        assert torch.equal(value[:3], getattr(first, name))
        assert torch.equal(value[3:], getattr(second, name))
