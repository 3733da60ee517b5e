"""Losses of the policy: multi-objective soft actor-critic and behaviour cloning.

Rewards and values are vectors over K objectives. The preference weights w (K,) condition the
networks, and the actor maximises w . Q, as in CAPQL. If rewards were scalarised before the critic's
target, the values of the single objectives could not be identified. The critic losses therefore
work on vectors.

Papers: Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (arXiv 1812.05905);
Lu et al. 2023, "Multi-Objective Reinforcement Learning: Convexity, Stationarity and Pareto
Optimality" (CAPQL); Fujimoto and Gu 2021, "A Minimalist Approach to Offline Reinforcement
Learning" (TD3+BC, arXiv 2106.06860). With K = 1 these are the losses of CleanRL's SAC.

Tensor suffixes: B batch, K objectives, N critics, A action dimensions.
"""

import torch
from torch import Tensor

# Smallest mean of |Q| by which the actor loss is divided. An untrained critic carries no
# information, so its small values must not scale the loss up further.
SMALLEST_SCALE = 1e-6


def td_target(
    reward_BK: Tensor,
    discount_B: Tensor,
    terminated_B: Tensor,
    next_q_BK: Tensor,
    next_log_prob_B: Tensor,
    temperature: Tensor | float,
) -> Tensor:
    """Computes the soft Bellman target of each objective.

    The target is ``r + discount (1 - terminated) (Q' - temperature log pi')``. The entropy term
    ``temperature log pi'`` is subtracted from *every* objective's value. With weights that sum to
    one, w . target is then the usual soft target of the scalarised reward w . r.

    Args:
        reward_BK: Discounted sum of the n rewards of each transition, per objective.
        discount_B: gamma ** n for the n steps that the transition spans.
        terminated_B: Whether the task ended within these n steps, bool or 0 and 1. Truncation by a
            time limit is not termination: the value of the next state still counts.
        next_q_BK: Value of the next state under an action sampled from the policy.
        next_log_prob_B: Log-probability of the sampled action, in nats.
        temperature: Weight of the entropy term; 0 or more.

    Returns:
        Targets (B, K), without gradient.
    """
    soft_value_BK = next_q_BK - temperature * next_log_prob_B[:, None]
    bootstrap_B = discount_B * (1 - terminated_B.to(discount_B.dtype))
    return (reward_BK + bootstrap_B[:, None] * soft_value_BK).detach()


def critic_loss(q_NBK: Tensor, target_BK: Tensor) -> Tensor:
    """Computes the squared error, summed over critics and objectives, averaged over the batch.

    With two critics and one objective, this is CleanRL's ``mse1 + mse2``, and twice the loss of
    Stable-Baselines3.

    Args:
        q_NBK: Values from each critic.
        target_BK: Targets from ``td_target``.

    Returns:
        A scalar.

    Raises:
        ValueError: If the shapes do not match.
    """
    if q_NBK.ndim != 3 or q_NBK.shape[1:] != target_BK.shape:
        raise ValueError(f"values {tuple(q_NBK.shape)} against targets {tuple(target_BK.shape)}")
    return (q_NBK - target_BK).square().sum((0, 2)).mean()


def actor_loss(
    log_prob_B: Tensor, q_B: Tensor, temperature: Tensor | float, scale: bool = False
) -> Tensor:
    """Computes the policy loss ``mean(temperature log pi - Q)`` (Haarnoja et al. 2018, equation 7).

    Args:
        log_prob_B: Log-probability of an action sampled with gradients.
        q_B: Scalarised value w . Q of the sampled action.
        temperature: Weight of the entropy term, without gradient.
        scale: Whether to divide by the batch mean of |Q|, without gradient, as TD3+BC does. The
            whole loss is divided, so the optimum stays the same. Only the strength of the loss
            relative to a cloning term becomes independent of the unit of the reward.

    Returns:
        A scalar.
    """
    loss = (temperature * log_prob_B - q_B).mean()
    if scale:
        loss = loss / q_B.detach().abs().mean().clamp_min(SMALLEST_SCALE)
    return loss


def temperature_loss(log_temperature: Tensor, log_prob_B: Tensor, target_entropy: float) -> Tensor:
    """Computes the temperature loss ``-exp(log_temperature) mean(log pi + target_entropy)``.

    The exponential is used as in the paper (equation 18) and CleanRL; Stable-Baselines3 multiplies
    by ``log_temperature`` itself. Minimising the loss raises the temperature while the policy's
    entropy is below the target.

    Args:
        log_temperature: Scalar parameter.
        log_prob_B: Log-probability of sampled actions; its gradient is stopped here.
        target_entropy: Target entropy in nats; often minus the number of action dimensions.

    Returns:
        A scalar.
    """
    return -log_temperature.exp() * (log_prob_B.detach() + target_entropy).mean()


def behaviour_cloning_loss(
    mean_BA: Tensor, expert_BA: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Computes the mean squared error between deterministic policy actions and expert actions.

    Args:
        mean_BA: Deterministic actions, the tanh of the Gaussian's mean, in [-1, 1].
        expert_BA: Expert actions, in [-1, 1].
        mask: Which samples have an expert action, (B,), bool or 0 and 1; by default all. If no
            sample has an expert action, the loss is 0.

    Returns:
        A scalar.

    Raises:
        ValueError: If the shapes differ.
    """
    if mean_BA.shape != expert_BA.shape:
        raise ValueError(f"actions {tuple(mean_BA.shape)} against {tuple(expert_BA.shape)}")
    error_B = (mean_BA - expert_BA).square().mean(1)
    return _mean(error_B, None if mask is None else mask.to(error_B.dtype))


def _mean(loss_B: Tensor, weights_B: Tensor | None) -> Tensor:
    """Computes the mean over the batch, or ``sum(w l) / sum(w)``; 0 if all weights are 0."""
    if weights_B is None:
        return loss_B.mean()
    return (weights_B * loss_B).sum() / weights_B.sum().clamp_min(torch.finfo(loss_B.dtype).tiny)
