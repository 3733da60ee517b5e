"""Computes the economic value of the robot's work from measured quantities.

All functions are pure, and their names contain the physical units. A unit of work is one finished
task, e.g. one opened drawer. Symbols: p price per unit, w_h wage per hour, c energy price, e energy
per unit, MP units per hour. This module depends neither on the simulator nor on a model. Models,
losses and training see economics only through the vector reward of the environment.
"""

from __future__ import annotations

from lib.params import NonNegative, Positive, Section


class Economics(Section):
    """Prices and scales of the environment's rewards; ``evaluate`` has the report-only prices."""

    unit_price: Positive
    wage_per_hour: Positive
    damage_force_n: Positive
    damage_cost: NonNegative
    energy_scale_j: Positive


SECONDS_PER_HOUR = 3600.0
JOULES_PER_WH = 3600.0


def mpl_units_per_hour(success_rate: float, mean_seconds: float, hand_over_s: float) -> float:
    """Returns the marginal product of the robot's labour, MP: finished units per hour.

    MP = 3600 * success_rate / (mean_seconds + hand_over_s), where ``mean_seconds`` is the mean
    length of *all* attempts: a failed attempt takes time and produces nothing.

    Args:
        success_rate: Share of attempts that finish a unit.
        mean_seconds: Mean duration of an attempt, s.
        hand_over_s: Time between two attempts, s.
    """
    return SECONDS_PER_HOUR * success_rate / (mean_seconds + hand_over_s)


def energy_wh_per_unit(total_joules: float, units: int) -> float:
    """Returns the energy per finished unit, e, in Wh: energy of all attempts / finished units.

    Args:
        total_joules: Mechanical work of all attempts, J.
        units: Number of finished units; with 0, the energy of all attempts is returned.
    """
    return total_joules / JOULES_PER_WH / max(units, 1)


def wage_parity(
    mpl: float,
    wh_per_unit: float,
    damages_per_hour: float,
    *,
    unit_price: float,
    energy_price_kwh: float,
    damage_cost: float,
    wage_per_hour: float,
) -> float:
    """Returns how many hourly wages the robot earns in one hour: (p MP - c e MP - d D) / w_h.

    Damage costs as much here as in ``step_value``, by which the policy is trained.

    Args:
        mpl: MP, units per hour.
        wh_per_unit: e, Wh per unit.
        damages_per_hour: D, damage events per hour.
        unit_price: p, money per unit.
        energy_price_kwh: c, money per kWh.
        damage_cost: d, money per damage event.
        wage_per_hour: w_h, money per hour.
    """
    energy_cost = energy_price_kwh * wh_per_unit / 1000.0
    return (mpl * (unit_price - energy_cost) - damages_per_hour * damage_cost) / wage_per_hour


def step_value(
    *,
    finished: bool,
    seconds: float,
    damages: int,
    unit_price: float,
    wage_per_hour: float,
    damage_cost: float,
) -> float:
    """Returns the economic value of one control step as a multiple of the unit price: r_econ.

    (p [finished] - w_h / 3600 * seconds - damage_cost * damages) / p: a finished unit earns 1,
    each second costs the wage of a person for that time, and each damage event costs its repair.

    Args:
        finished: Whether the unit was finished at this step.
        seconds: Length of the step, s.
        damages: Number of damage events in the step.
        unit_price: p, money per unit.
        wage_per_hour: w_h, money per hour.
        damage_cost: Money for one damage event.
    """
    wage = wage_per_hour / SECONDS_PER_HOUR * seconds
    return (unit_price * finished - wage - damage_cost * damages) / unit_price


def energy_reward(joules: float, energy_scale_j: float) -> float:
    """Returns the energy reward of one step: -joules / scale.

    Args:
        joules: Mechanical work of the step, J.
        energy_scale_j: Work for which the reward is -1, J.
    """
    return -joules / energy_scale_j
