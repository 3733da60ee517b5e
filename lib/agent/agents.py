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

from lib.checkpoint import load_checkpoint, save_checkpoint
from lib.condition import CONDITION_DIM, ConditionVector, condition_batch
from lib.episode import SKILLS
from lib.errors import UserError
from lib.models.hydra import HydraActor
from lib.paths import POLICY, relative
from lib.perception.segmenter import Autocast
from lib.perception.stack import Perception, Projector

KIND = "hydra_policy"


@dataclass
class Observed:
    """What an agent knows of the present frame.

    Attributes:
        observation: (B, D); empty for scripts.
        skill: (B,) which head answers.
        severity: (B,) in [0, 1], how far what it last foresaw was from what came.
    """

    observation: np.ndarray
    skill: np.ndarray
    severity: np.ndarray


@dataclass
class Decision:
    """What an agent does next.

    Attributes:
        action: (B, A) in [-1, 1].
        observed: What it based that on.
    """

    action: np.ndarray
    observed: Observed


class Agent(Protocol):
    """Drives B robots side by side.

    Attributes:
        needs_pixels: Whether it looks at images.
        weights: Its preference over OBJECTIVES, where nobody asks for another; scripts have none.
    """

    needs_pixels: bool
    weights: Sequence[float]

    def reset(self) -> None:
        """Forgets everything."""

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
            images: (B, H, W, 3) uint8.
            proprio: (B, 4).
            expert_obs: (B, 39) privileged; only scripts look at it.
            previous_action: (B, A).
            first: (B,) whether an episode begins.
            weights: (B, K) preference of each robot.
        """


class ScriptAgent:
    """A script that sees the true state."""

    needs_pixels = False
    weights = ConditionVector.weights

    def __init__(self, script: Callable[[np.ndarray], np.ndarray]) -> None:
        """Takes the script.

        Args:
            script: Action from Meta-World's privileged observation.
        """
        self._script = script

    def reset(self) -> None:
        """Scripts remember nothing."""

    def act(self, images, proprio, expert_obs, previous_action, first, weights) -> Decision:
        """See Agent."""
        action = np.stack([self._script(row) for row in expert_obs])
        count = len(action)
        blind = np.zeros((count, 0), np.float32)
        return Decision(action, Observed(blind, np.zeros(count, np.int64), np.zeros(count)))


class PolicyAgent:
    """The Hydra policy behind the frozen stack: pixels and proprioception only."""

    needs_pixels = True

    def __init__(
        self,
        perception: Perception,
        projector: Projector,
        actor: HydraActor,
        condition: ConditionVector,
    ) -> None:
        """Puts the parts together.

        Args:
            perception: The frozen stack.
            projector: Percepts to observations.
            actor: The policy.
            condition: Conditions it acts under; at every step the router sets the skill, and the
                memory's surprise the novelty.
        """
        self.perception, self.projector, self.actor = perception, projector, actor
        self.condition = condition
        self.explore: torch.Generator | None = None
        """With a generator, actions are sampled from it; without, they are the mode."""

    @property
    def weights(self) -> tuple[float, ...]:
        """The preference that it was published for."""
        return self.condition.weights

    def reset(self) -> None:
        """Forgets everything."""
        self.perception.reset()

    def observe(self, images, proprio, previous_action, first) -> Observed:
        """Takes in the next frame of each robot; arguments as in ``Agent.act``."""
        percepts = self.perception(images, proprio, previous_action, first)
        return Observed(self.projector(percepts), percepts.skill, percepts.severity)

    def glance(self, images, proprio, previous_action, first) -> Observed:
        """Like ``observe``, but leaves the memory as it was."""
        with self.perception.undisturbed():
            return self.observe(images, proprio, previous_action, first)

    @torch.inference_mode()
    def act(self, images, proprio, expert_obs, previous_action, first, weights) -> Decision:
        """See Agent; ``expert_obs`` is not looked at."""
        seen = self.observe(images, proprio, previous_action, first)
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


def build_actor(obs_dim: int, hidden: list[int], action_dim: int = 4) -> HydraActor:
    """Builds an untrained policy.

    Args:
        obs_dim: Features of an observation.
        hidden: Widths of the trunk.
        action_dim: Dimensions of an action.
    """
    return HydraActor(obs_dim, CONDITION_DIM, action_dim, len(SKILLS), hidden)


def save_policy(path: Path, agent: PolicyAgent | None) -> None:
    """Writes a policy with what is needed to run it again.

    Args:
        path: The checkpoint.
        agent: None where ``policy.use_neural`` is off: the scripted expert serves.
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
    """Loads a policy with the frozen stack it was trained on.

    Args:
        path: Its checkpoint.
        autocast: Context in which the stack's U-Net runs.

    Returns:
        The agent; None where ``policy.use_neural`` was off and the scripted expert serves.

    Raises:
        UserError: If a checkpoint is missing, damaged, or does not belong to the others.
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
