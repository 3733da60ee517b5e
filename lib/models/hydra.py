"""Policy networks: an actor and an ensemble of vector critics, with one head for each skill.

Observation and condition (econ signals, novelty, preference weights) pass through a shared trunk.
The skill of each sample selects the head that gives its output. Every head is computed for every
sample, and the output of the selected head is gathered. The heads are small, and this way needs no
loop over samples or skills.

Papers: Haarnoja et al. 2018, "Soft Actor-Critic" (squashed Gaussian, appendix C, arXiv
1801.01290); Hiraoka et al. 2022, "Dropout Q-Functions for Doubly Efficient Reinforcement
Learning" (layer normalisation in the critic, arXiv 2110.02034).

Tensor suffixes: B batch, D observation, K condition (in the critic's output: objectives),
A action dimensions, S skills, N critics, I inputs, O outputs, H hidden features.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.learning.portable import Linear, product, takes

# Bounds of the Gaussian's log standard deviation, as in Spinning Up and CleanRL.
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


class EnsembleLinear(nn.Module):
    """N parallel linear layers of equal shape, each initialised like ``torch.nn.Linear``."""

    def __init__(self, num: int, inputs: int, outputs: int):
        """Builds ``num`` layers from ``inputs`` to ``outputs`` features."""
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(num, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num, 1, outputs).uniform_(-bound, bound))

    def forward(self, x_NBI: Tensor) -> Tensor:
        """Maps (N, B, inputs) to (N, B, outputs); layer n is applied to slice n."""
        if takes(x_NBI, self.weight):
            return product(x_NBI, self.weight) + self.bias
        return torch.baddbmm(self.bias, x_NBI, self.weight)


class Normalise(nn.Module):
    """Layer normalisation without gain and bias, which the neighbouring layers already have."""

    def forward(self, x_NBH: Tensor) -> Tensor:
        """Normalises (N, B, features) over the features."""
        return F.layer_norm(x_NBH, x_NBH.shape[-1:])


def require_known_skills(skill_B: Tensor, num_skills: int) -> None:
    """Raises ValueError if a skill index is outside [0, num_skills).

    The check is skipped in compiled graphs, because reading values would break the graph.
    """
    if torch.compiler.is_compiling() or skill_B.numel() == 0:
        return
    low, high = (int(bound) for bound in skill_B.aminmax())
    if low < 0 or high >= num_skills:
        raise ValueError(f"skills {low} to {high} asked of heads 0 to {num_skills - 1}")


class HydraActor(nn.Module):
    """Squashed Gaussian policy with a shared trunk and one head for each skill."""

    def __init__(
        self,
        obs_dim: int,
        condition_dim: int,
        action_dim: int,
        num_skills: int,
        hidden: Sequence[int] = (256, 256),
    ):
        """Builds the network.

        Args:
            obs_dim: Number of features of an observation.
            condition_dim: Number of features of a condition vector.
            action_dim: Dimensions of an action.
            num_skills: Number of skills, which is the number of heads.
            hidden: Widths of the trunk's layers.
        """
        super().__init__()
        self.num_skills = num_skills
        self.hidden = list(hidden)
        layers: list[nn.Module] = []
        inputs = obs_dim + condition_dim
        for width in hidden:
            layers += [Linear(inputs, width), nn.LayerNorm(width), nn.ReLU()]
            inputs = width
        self.trunk = nn.Sequential(*layers)
        self.heads = Linear(inputs, num_skills * 2 * action_dim)

    def forward(
        self, obs_BD: Tensor, condition_BK: Tensor, skill_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the Gaussian of each sample's skill, before squashing.

        Args:
            obs_BD: Observations.
            condition_BK: Condition vectors.
            skill_B: Skill indices, int64.

        Returns:
            Mean and log standard deviation, both (B, A), in float32 or wider. The log standard
            deviation lies in [-5, 2].

        Raises:
            ValueError: If a skill is unknown.
        """
        require_known_skills(skill_B, self.num_skills)
        x_BH = self.trunk(torch.cat([obs_BD, condition_BK], dim=-1))
        outputs_BSO = self.heads(x_BH).unflatten(-1, (self.num_skills, -1))
        pick_B1O = skill_B[:, None, None].expand(-1, 1, outputs_BSO.shape[-1])
        outputs_BO = outputs_BSO.gather(1, pick_B1O)[:, 0]
        # Log-probabilities need full precision even under autocast.
        outputs_BO = outputs_BO.to(torch.promote_types(outputs_BO.dtype, torch.float32))
        mean_BA, log_std_BA = outputs_BO.chunk(2, dim=-1)
        span = LOG_STD_MAX - LOG_STD_MIN
        return mean_BA, LOG_STD_MIN + 0.5 * span * (log_std_BA.tanh() + 1)

    def sample(
        self,
        obs_BD: Tensor,
        condition_BK: Tensor,
        skill_B: Tensor,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Samples actions with gradients (reparameterisation).

        Args:
            obs_BD: Observations.
            condition_BK: Condition vectors.
            skill_B: Skill indices, int64.
            generator: Random generator of the noise; by default torch's global generator.

        Returns:
            Actions (B, A) in (-1, 1), up to rounding; their log-probabilities (B,) in nats; and
            the deterministic actions tanh(mean), (B, A).

        Raises:
            ValueError: If a skill is unknown.
        """
        mean_BA, log_std_BA = self(obs_BD, condition_BK, skill_B)
        noise_BA = torch.randn(
            mean_BA.shape, generator=generator, device=mean_BA.device, dtype=mean_BA.dtype
        )
        u_BA = mean_BA + log_std_BA.exp() * noise_BA
        return u_BA.tanh(), squashed_log_prob(noise_BA, log_std_BA, u_BA), mean_BA.tanh()

    def act(self, obs_BD: Tensor, condition_BK: Tensor, skill_B: Tensor) -> Tensor:
        """Returns the deterministic action tanh(mean), (B, A).

        Arguments and errors are the same as in ``forward``.
        """
        return self(obs_BD, condition_BK, skill_B)[0].tanh()


def squashed_log_prob(noise_BA: Tensor, log_std_BA: Tensor, u_BA: Tensor) -> Tensor:
    """Returns the log-density of tanh(u) with u = mean + exp(log_std) noise.

    This is equation 21 of Haarnoja et al. The log-Jacobian is computed as
    ``log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u))``, which stays finite where tanh(u) rounds
    to 1.

    Returns:
        Log-densities (B,) in nats, summed over the action's dimensions.
    """
    gaussian_BA = -0.5 * (noise_BA.square() + math.log(2 * math.pi)) - log_std_BA
    jacobian_BA = 2 * (math.log(2) - u_BA - F.softplus(-2 * u_BA))
    return (gaussian_BA - jacobian_BA).sum(-1)


class HydraCritic(nn.Module):
    """Ensemble of critics with vector values and one head for each skill in every critic."""

    def __init__(
        self,
        obs_dim: int,
        condition_dim: int,
        action_dim: int,
        num_skills: int,
        num_objectives: int = 3,
        num_critics: int = 2,
        hidden: Sequence[int] = (256, 256),
    ):
        """Builds the ensemble.

        Args:
            obs_dim: Number of features of an observation.
            condition_dim: Number of features of a condition vector.
            action_dim: Dimensions of an action.
            num_skills: Number of skills, which is the number of heads of each critic.
            num_objectives: Number of objectives, which is the length of a value vector.
            num_critics: Number of critics, which share no weights.
            hidden: Widths of the trunk's layers.
        """
        super().__init__()
        self.num_skills = num_skills
        layers: list[nn.Module] = []
        inputs = obs_dim + condition_dim + action_dim
        for width in hidden:
            layers += [
                EnsembleLinear(num_critics, inputs, width),
                Normalise(),
                nn.ReLU(),
            ]
            inputs = width
        self.trunk = nn.Sequential(*layers)
        self.heads = EnsembleLinear(num_critics, inputs, num_skills * num_objectives)

    def forward(
        self, obs_BD: Tensor, condition_BK: Tensor, action_BA: Tensor, skill_B: Tensor
    ) -> Tensor:
        """Returns the value of each action under each sample's skill.

        Args:
            obs_BD: Observations.
            condition_BK: Condition vectors.
            action_BA: Actions in [-1, 1].
            skill_B: Skill indices, int64.

        Returns:
            Values (N, B, K) by critic, sample and objective, in float32 or wider.

        Raises:
            ValueError: If a skill is unknown.
        """
        require_known_skills(skill_B, self.num_skills)
        x_BI = torch.cat([obs_BD, condition_BK, action_BA], dim=-1)
        weight, members = self.heads.weight, len(self.heads.weight)
        x_NBH = self.trunk(x_BI.expand(members, *x_BI.shape))
        # The heads run in full precision even under autocast: near -10, neighbouring bfloat16
        # numbers are .06 apart.
        with torch.autocast(weight.device.type, enabled=False):
            q_NBSK = self.heads(x_NBH.to(weight.dtype)).unflatten(-1, (self.num_skills, -1))
        pick_NB1K = skill_B[None, :, None, None].expand(members, -1, 1, q_NBSK.shape[-1])
        return q_NBSK.gather(2, pick_NB1K)[:, :, 0]

    def subset(
        self,
        members: slice,
        obs_BD: Tensor,
        condition_BK: Tensor,
        action_BA: Tensor,
        skill_B: Tensor,
    ) -> Tensor:
        """Returns ``self(...)[members]`` without computing the other critics.

        Args:
            members: Slice of M neighbouring critics. A slice of the weights makes no copy.
            obs_BD: Observations.
            condition_BK: Condition vectors.
            action_BA: Actions in [-1, 1].
            skill_B: Skill indices, int64.

        Returns:
            Values (M, B, K) by critic, sample and objective.
        """
        chosen = {name: weights[members] for name, weights in self.named_parameters()}
        inputs = (obs_BD, condition_BK, action_BA, skill_B)
        return torch.func.functional_call(self, chosen, inputs)
