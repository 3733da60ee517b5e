"""Agents: the learned policy and the scripted baselines behind one interface.

Tensor suffixes: B robots, D observation, A action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from lib.agent.condition import CONDITION_DIM, ConditionVector, condition_batch
from lib.agent.perception import Perception
from lib.agent.projector import Projector
from lib.base.errors import UserError
from lib.base.paths import POLICY, relative
from lib.episode import SKILLS
from lib.learning.checkpoint import load_checkpoint, save_checkpoint
from lib.learning.device import Autocast
from lib.models.hydra import HydraActor
from lib.sim.env import ACTION_SIZE

KIND = "hydra_policy"


@dataclass
class Observed:
    """What an agent knows about the present frame.

    Attributes:
        observation: (B, D) observations; D is 0 for scripts.
        skill: (B,) index of the policy head to use.
        severity: (B,) in [0, 1], how far what is sensed is from what was to be expected.
    """

    observation: np.ndarray
    skill: np.ndarray
    severity: np.ndarray


def nothing_observed(count: int) -> Observed:
    """Returns what agents without an observation know.

    Args:
        count: Number of robots.
    """
    return Observed(np.zeros((count, 0), np.float32), np.zeros(count, np.int64), np.zeros(count))


@dataclass
class Decision:
    """The next action of an agent.

    Attributes:
        action: (B, A) in [-1, 1].
        observed: Observation on which the action is based.
    """

    action: np.ndarray
    observed: Observed


class Agent(Protocol):
    """Controls B robots in parallel."""

    @property
    def needs_pixels(self) -> bool:
        """Whether the agent uses images."""
        ...

    @property
    def weights(self) -> Sequence[float]:
        """Preference over OBJECTIVES if a trial asks for none; scripts ignore it."""
        ...

    def reset(self) -> None:
        """Clears all state of earlier frames."""
        ...

    def act(
        self,
        images: np.ndarray,
        proprio: np.ndarray,
        expert_obs: np.ndarray,
        previous_action: np.ndarray,
        first: np.ndarray,
        weights: np.ndarray,
    ) -> Decision:
        """Decides the next action of each robot.

        Args:
            images: Pictures, (B, H, W, 3) uint8.
            proprio: Hand position and gripper opening, (B, 4).
            expert_obs: Privileged observation, (B, 39); only scripts use it.
            previous_action: Action of the last step, (B, A).
            first: Whether the frame is the first of its episode, (B,).
            weights: Preference of each robot over OBJECTIVES, (B, K).
        """
        ...


class ScriptAgent:
    """A scripted agent that uses the privileged observation instead of pixels."""

    needs_pixels = False
    weights = ConditionVector.weights

    def __init__(self, script: Callable[[np.ndarray], np.ndarray]) -> None:
        """Stores the script.

        Args:
            script: Function from the privileged observation of Meta-World to an action.
        """
        self._script = script

    def reset(self) -> None:
        """Does nothing, because scripts have no memory."""

    def act(self, images, proprio, expert_obs, previous_action, first, weights) -> Decision:
        """Decides the next action of each robot; see ``Agent.act``."""
        action = np.stack([self._script(row) for row in expert_obs])
        return Decision(action, nothing_observed(len(action)))


class PolicyAgent:
    """The Hydra policy with the frozen perception: it uses pixels and proprioception only."""

    needs_pixels = True

    def __init__(
        self,
        perception: Perception,
        projector: Projector,
        actor: HydraActor,
        condition: ConditionVector,
    ) -> None:
        """Combines the parts.

        Args:
            perception: Frozen perception stack.
            projector: Projection of percepts to observations.
            actor: Policy network.
            condition: Conditions under which the policy acts. At every step the router sets the
                skill, and the surprise of the memory sets the novelty.
        """
        self.perception, self.projector, self.actor = perception, projector, actor
        self.condition = condition
        self.explore: torch.Generator | None = None
        """Random generator with which actions are sampled; with None, the action is the mode."""

    @property
    def weights(self) -> tuple[float, ...]:
        """Preference that the policy was published for."""
        return self.condition.weights

    def reset(self) -> None:
        """Clears all state of earlier frames."""
        self.perception.reset()

    def observe(self, images, proprio, previous_action, first) -> Observed:
        """Processes the next frame of each robot; arguments as in ``Agent.act``."""
        percepts = self.perception(images, proprio, previous_action, first)
        return Observed(self.projector(percepts), percepts.skill, percepts.severity)

    def glance(self, images, proprio, previous_action, first) -> Observed:
        """Works like ``observe``, but leaves the memory unchanged."""
        with self.perception.undisturbed():
            return self.observe(images, proprio, previous_action, first)

    def act(self, images, proprio, expert_obs, previous_action, first, weights) -> Decision:
        """Decides the next action of each robot; see ``Agent.act``. Ignores ``expert_obs``."""
        return self.decide(self.observe(images, proprio, previous_action, first), weights)

    @torch.inference_mode()
    def decide(self, seen: Observed, weights: np.ndarray) -> Decision:
        """Decides the next action of each robot from what was observed.

        Args:
            seen: Return value of ``observe``.
            weights: Preference of each robot over OBJECTIVES, (B, K).
        """
        condition = condition_batch(self.condition, seen.skill, weights, seen.severity)
        inputs = (
            torch.from_numpy(seen.observation),
            torch.from_numpy(condition),
            torch.from_numpy(seen.skill),
        )
        if self.explore is None:
            action = self.actor.act(*inputs)
        else:
            action = self.actor.sample(*inputs, generator=self.explore)[0]
        return Decision(action.numpy(), seen)


def build_actor(obs_dim: int, hidden: list[int], action_dim: int = ACTION_SIZE) -> HydraActor:
    """Builds an untrained policy.

    Args:
        obs_dim: Number of features of an observation.
        hidden: Widths of the layers of the trunk.
        action_dim: Number of dimensions of an action.
    """
    return HydraActor(obs_dim, CONDITION_DIM, action_dim, len(SKILLS), hidden)


def save_policy(path: Path, agent: PolicyAgent | None) -> None:
    """Writes a policy with everything that is needed to run it again.

    Args:
        path: Checkpoint file to write.
        agent: Agent with the policy; None if ``policy.use_neural`` is off and the scripted expert
            is used.
    """
    if agent is None:
        save_checkpoint(path, KIND, {"use_neural": False}, {})
        return
    config = {
        "use_neural": True,
        "hidden": agent.actor.hidden,
        "skills": list(SKILLS),
        "condition": agent.condition.to_json(),
        "condition_dim": CONDITION_DIM,
        "stack": agent.perception.digests(),
    }
    parts = {"actor": agent.actor.state_dict(), "projector": agent.projector.tensors()}
    save_checkpoint(path, KIND, config, parts)


def load_policy(path: Path = POLICY, autocast: Autocast = nullcontext) -> PolicyAgent | None:
    """Loads a policy with the frozen perception stack that it was trained on.

    Args:
        path: Checkpoint file.
        autocast: Context in which the U-Net of the stack runs.

    Returns:
        The agent; None if ``policy.use_neural`` was off and the scripted expert is used.

    Raises:
        UserError: If a checkpoint is missing or damaged, or does not match the others.
    """
    checkpoint = load_checkpoint(path, KIND)
    config = checkpoint.config
    if not config["use_neural"]:
        return None
    if tuple(config["skills"]) != SKILLS or config["condition_dim"] != CONDITION_DIM:
        raise UserError(
            f"{relative(path)}: trained with other skills or conditions than this version has; "
            "run `dvc repro policy`"
        )
    perception = Perception(autocast)
    for file, digest in perception.digests().items():
        if config["stack"].get(file) != digest:
            raise UserError(
                f"{relative(path)}: trained on {config['stack'].get(file)}, but {file} holds "
                f"{digest}; run `dvc repro policy`"
            )
    projector = Projector(checkpoint.part("projector"))
    actor = build_actor(projector.dim, config["hidden"])
    actor.load_state_dict(checkpoint.part("actor"))
    actor.eval().requires_grad_(False)
    condition = ConditionVector.from_json(config["condition"])
    return PolicyAgent(perception, projector, actor, condition)
