"""Baselines that show how hard the test is: robots without eyes, or without any sense.

If one of them opens many drawers, the test does not need what it takes away. ``Exchanged`` takes
one part of the policy's observation away instead, and ``Unsurprised`` the severity that it is told:
they show what the policy uses.

Tensor suffixes: B robots, T steps, A action, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import TypeVar

import numpy as np

from lib.agent.agents import (
    Agent,
    Decision,
    Observed,
    PolicyAgent,
    ScriptAgent,
    nothing_observed,
)
from lib.agent.closed_loop import Trajectory
from lib.agent.projector import GROUPS
from lib.data.dataset import load_dataset
from lib.episode import STATE_HAND, STATE_HANDLE
from lib.evaluate.robot import opened
from lib.evaluate.suite import Suite
from lib.models.encoder import FrozenBackbone
from lib.sim.env import ACTION_SIZE, EXPERT_OBS_SIZE
from lib.sim.experts import TURN, FastScript
from lib.sim.skills import GRASP_OFFSET_M, skill_phase
from lib.sim.stress import NOMINAL, Stress

T = TypeVar("T")

NEAREST_LEVEL = "p4"  # pyramid level whose features tell which training episode is alike
FIRST_POSITIONS = 3  # positions on which every recording is replayed
FINALISTS = 4  # recordings that are then replayed on all positions
# Parts are exchanged in the world as it is, and where pictures are missing: there memory can help.
EXCHANGE_SUITES = {"nominal": NOMINAL, "dropout": Stress(dropout=1.0)}


class Blindfolded:
    """A policy whose camera shows black pictures."""

    needs_pixels = False

    def __init__(self, policy: Agent, image_size: int) -> None:
        """Stores the policy.

        Args:
            policy: The policy.
            image_size: Side of the pictures, pixels.
        """
        self._policy, self._size = policy, image_size
        self.weights = policy.weights

    def reset(self) -> None:
        """Clears all state of earlier frames."""
        self._policy.reset()

    def act(self, images, proprio, expert_obs, previous_action, first, weights) -> Decision:
        """Decides the next action of each robot; see ``Agent.act``."""
        black = np.zeros((len(proprio), self._size, self._size, 3), np.uint8)
        return self._policy.act(black, proprio, expert_obs, previous_action, first, weights)


class Unsurprised:
    """A policy that is always told that nothing is unusual."""

    needs_pixels = True

    def __init__(self, policy: PolicyAgent) -> None:
        """Stores the policy.

        Args:
            policy: The policy.
        """
        self._policy = policy
        self.weights = policy.weights

    def reset(self) -> None:
        """Clears all state of earlier frames."""
        self._policy.reset()

    def act(self, images, proprio, expert_obs, previous_action, first, weights) -> Decision:
        """Decides the next action of each robot; see ``Agent.act``."""
        seen = self._policy.observe(images, proprio, previous_action, first)
        return self._policy.decide(replace(seen, severity=np.zeros_like(seen.severity)), weights)


class ProprioceptionAlone:
    """The fast script with the position of the hand as its only sense.

    It takes for granted that the drawer is not turned, that the handle is where it usually is, and
    that the handle moves along once the hand has arrived there.
    """

    needs_pixels = False
    weights = ScriptAgent.weights

    def __init__(self, handle_3: np.ndarray) -> None:
        """Stores where the handle is taken to be.

        Args:
            handle_3: Mean place of the handle at the start of the training episodes, m.
        """
        self._script, self._handle = FastScript(), handle_3
        self.reset()

    def reset(self) -> None:
        """Forgets which hands have arrived."""
        self._arrived = np.zeros(0, bool)

    def act(self, images, proprio, expert_obs, previous_action, first, weights) -> Decision:
        """Decides the next action of each robot; see ``Agent.act``."""
        count = len(proprio)
        if not len(self._arrived):
            self._arrived = np.zeros(count, bool)
        hand = proprio[:, :3].astype(np.float64)
        usual = np.broadcast_to(self._handle, hand.shape)
        _, self._arrived = skill_phase(hand, usual, self._arrived & ~first)
        assumed = np.zeros((count, EXPERT_OBS_SIZE))
        assumed[:, STATE_HAND] = hand
        held = self._arrived[:, None]
        assumed[:, STATE_HANDLE] = np.where(held, hand - GRASP_OFFSET_M, usual)
        assumed[:, TURN] = 1.0, 0.0, 0.0, 0.0
        action = np.stack([self._script(row) for row in assumed])
        return Decision(action, nothing_observed(count))


class Replay:
    """Repeats recorded actions, open loop; the start of an episode says which."""

    weights = ScriptAgent.weights

    def __init__(self, choose: Callable[..., list[np.ndarray]], *, needs_pixels: bool) -> None:
        """Stores how recordings are chosen.

        Args:
            choose: Function from the pictures and the proprioception of the robots that start to
                one recording of actions (T, A) for each.
            needs_pixels: Whether ``choose`` looks at the pictures.
        """
        self.needs_pixels, self._choose = needs_pixels, choose
        self._ahead: dict[int, Iterator[np.ndarray]] = {}

    def reset(self) -> None:
        """Forgets what is being repeated."""
        self._ahead = {}

    def act(self, images, proprio, expert_obs, previous_action, first, weights) -> Decision:
        """Decides the next action of each robot; see ``Agent.act``."""
        starting = np.flatnonzero(first)
        if len(starting):
            chosen = self._choose(images[starting], proprio[starting])
            for robot, recording in zip(starting.tolist(), chosen, strict=True):
                self._ahead[robot] = _and_its_last(list(recording))
        count = len(proprio)
        action = np.stack([next(self._ahead[robot]) for robot in range(count)])
        return Decision(action, nothing_observed(count))


def _and_its_last(steps: Sequence[T]) -> Iterator[T]:
    """Yields the steps of an episode, then its last one again and again."""
    return chain(steps, repeat(steps[-1]))


def in_turn(recordings: Iterable[np.ndarray]) -> Replay:
    """Returns an agent that replays one recording after the other, one for each episode.

    Args:
        recordings: Actions (T, A) of each episode, in the order of the trials.
    """
    ahead: Iterator[np.ndarray] = iter(recordings)
    rest = np.zeros((1, ACTION_SIZE), np.float32)  # for environments that idle at the end
    return Replay(
        lambda images, proprio: [next(ahead, rest) for _ in proprio],
        needs_pixels=False,
    )


def best_replay(suite: Suite, recordings: Sequence[np.ndarray]) -> list[Trajectory]:
    """Replays recordings open loop, and returns the episodes of the one that opens most drawers.

    All recordings are tried on a few positions, the best of them on all. That the best is chosen on
    the test positions themselves makes the rate an upper bound.

    Args:
        suite: Test positions and environments.
        recordings: Actions (T, A) of the training episodes.
    """
    few = suite.trials(FIRST_POSITIONS, linger=0)
    every = [recording for recording in recordings for _ in few]
    runs = suite.run("replays", in_turn(every), few * len(recordings))
    counts = np.array([t.succeeded for t in runs]).reshape(len(recordings), len(few)).sum(1)
    finals = []
    for index in np.argsort(-counts, kind="stable")[:FINALISTS]:
        trials = suite.trials(linger=0)
        again = in_turn([recordings[index]] * len(trials))
        finals.append(suite.run(f"replay {index}", again, trials))
    return max(finals, key=lambda runs: sum(t.succeeded for t in runs))


def nearest_replay(
    backbone: FrozenBackbone,
    pictures_N: np.ndarray,
    proprio_NP: np.ndarray,
    recordings: Sequence[np.ndarray],
    level: str,
) -> Replay:
    """Returns an agent that replays the training episode that begins most alike.

    Alike are frozen features and hand position, each scaled to unit variance and weighted equally
    (nearest neighbour, as in Pari et al. 2022, "The Surprising Effectiveness of Representation
    Learning for Visual Imitation", arXiv 2112.01511, but open loop).

    Args:
        backbone: Frozen backbone.
        pictures_N: First pictures of the training episodes, (N, H, W, 3) uint8.
        proprio_NP: First proprioception of the training episodes.
        recordings: Actions (T, A) of the training episodes.
        level: Pyramid level of the features.
    """
    known = backbone(pictures_N)[level].flatten(1).numpy()
    mean, scale = known.mean(0), known.std(0) + 1e-6
    centre, spread = proprio_NP[:, :3].mean(0), proprio_NP[:, :3].std(0) + 1e-6

    def scaled(maps: np.ndarray, proprio: np.ndarray) -> np.ndarray:
        seen, felt = (maps - mean) / scale, (proprio[:, :3] - centre) / spread
        return np.concatenate([seen / np.sqrt(seen.shape[1]), felt / np.sqrt(3)], 1)

    table = scaled(known, proprio_NP)

    def choose(images: np.ndarray, proprio: np.ndarray) -> list[np.ndarray]:
        maps = backbone(images)[level].flatten(1).numpy()
        apart = np.square(scaled(maps, proprio)[:, None] - table[None]).sum(2)
        return [recordings[index] for index in apart.argmin(1)]

    return Replay(choose, needs_pixels=True)


@dataclass(frozen=True)
class Recordings:
    """The training episodes of phase 1, as far as a robot without eyes can use them.

    Attributes:
        actions: Executed actions (T, A) of each episode.
        pictures: First picture of each episode, (N, H, W, 3) uint8.
        proprio: First proprioception of each episode, (N, P).
        handle: Mean place of the handle at their starts, (3,) m.
    """

    actions: list[np.ndarray]
    pictures: np.ndarray
    proprio: np.ndarray
    handle: np.ndarray


def load_recordings() -> Recordings:
    """Loads the successful training episodes of phase 1."""
    fields = ["obs/image", "obs/eef_pos", "obs/gripper", "actions", "labels/state"]
    dataset = load_dataset("policy", fields, ["train"])
    chosen = [e for e in dataset.episodes if e.tags.get("success")]
    first = np.array([e.start for e in chosen])
    return Recordings(
        [dataset.arrays["actions"][e.rows] for e in chosen],
        dataset.arrays["obs/image"][first],
        dataset.proprio()[first],
        dataset.arrays["labels/state"][first, STATE_HANDLE].mean(0, dtype=np.float64),
    )


def run_baselines(
    suite: Suite, policy: Agent, backbone: FrozenBackbone, recordings: Recordings, count: int
) -> dict[str, list[Trajectory]]:
    """Runs every baseline that lacks something; each episode ends at its first success.

    Args:
        suite: Test positions and environments.
        policy: The policy that is blindfolded.
        backbone: Frozen backbone.
        recordings: Training episodes.
        count: Number of positions for the baselines that are slow, from the first one.

    Returns:
        Trajectories by name: ``black``, ``nearest_replay``, ``proprio_only`` and ``replay``.
    """
    few, every = suite.trials(count, linger=0), suite.trials(linger=0)
    nearest = nearest_replay(
        backbone, recordings.pictures, recordings.proprio, recordings.actions, NEAREST_LEVEL
    )
    alone = ProprioceptionAlone(recordings.handle)
    return {
        "black": suite.run("black pictures", Blindfolded(policy, backbone.image_size), few),
        "nearest_replay": suite.run("nearest replay", nearest, few),
        "proprio_only": suite.run("proprioception alone", alone, every),
        "replay": best_replay(suite, recordings.actions),
    }


class Exchanged:
    """A policy that gets one group of its observation from another episode, step by step."""

    needs_pixels = True

    def __init__(self, policy: PolicyAgent, group: str, donors: Sequence[Trajectory]) -> None:
        """Stores where the group comes from.

        Args:
            policy: The policy.
            group: One of GROUPS.
            donors: The policy's own episodes on the same positions. Episode i gets the group of
                episode i + 1.
        """
        self._policy, self._group = policy, group
        self._columns = policy.projector.columns(group)
        self._donors = [*donors[1:], donors[0]]
        self.weights = policy.weights
        self.reset()

    def reset(self) -> None:
        """Clears all state of earlier frames."""
        self._policy.reset()
        self._waiting = iter(self._donors)
        self._ahead: dict[int, Iterator[tuple[np.ndarray, int, float]]] = {}

    def act(self, images, proprio, expert_obs, previous_action, first, weights) -> Decision:
        """Decides the next action of each robot; see ``Agent.act``."""
        for robot in np.flatnonzero(first).tolist():
            donor = next(self._waiting, self._donors[0])
            steps = list(zip(donor.observation, donor.skill, donor.severity, strict=False))
            self._ahead[robot] = _and_its_last(steps)
        seen = self._policy.observe(images, proprio, previous_action, first)
        observation, skill = seen.observation.copy(), seen.skill.copy()
        severity = seen.severity.copy()
        for robot in range(len(proprio)):
            given, its_skill, its_severity = next(self._ahead[robot])
            observation[robot, self._columns] = given[self._columns]
            if self._group == "geometry":  # the router reads the skill off the geometry
                skill[robot] = its_skill
            elif self._group == "memory":  # the memory's prediction errors are the severity
                severity[robot] = its_severity
        return self._policy.decide(Observed(observation, skill, severity), weights)


def exchanged(
    suite: Suite, policy: Agent, own: Sequence[Trajectory], count: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Runs the policy with one group of its observation after the other exchanged.

    Args:
        suite: Test positions and environments.
        policy: The policy; a script has no observation, so nothing is exchanged.
        own: The policy's episodes on the positions of the suite.
        count: Number of positions, from the first one.

    Returns:
        Success with its interval and mean steps by name of EXCHANGE_SUITES and by group;
        ``nothing`` is the policy itself on the same positions.
    """
    if not isinstance(policy, PolicyAgent):
        return {}
    found = {}
    for name, stress in EXCHANGE_SUITES.items():
        trials = suite.trials(count, linger=0, stress=stress)
        donors = own[:count] if stress == NOMINAL else suite.run(name, policy, trials)
        runs = {"nothing": donors}
        for group in GROUPS:
            agent = Exchanged(policy, group, donors)
            runs[group] = suite.run(f"{name}, {group} exchanged", agent, trials)
        found[name] = {
            group: {
                **opened(some),
                "steps_mean": round(float(np.mean([t.steps for t in some])), 6),
            }
            for group, some in runs.items()
        }
    return found
