"""What the robot's work is worth: pure functions of measured quantities, units in every name.

Symbols: p price of a unit, w_h wage per hour, c price of energy, e energy of a unit, MP units an
hour. Nothing here knows the simulator or a model; models, losses and training reach economics
only through the vector reward of the environment.
"""

from __future__ import annotations

SECONDS_PER_HOUR = 3600.0
JOULES_PER_WH = 3600.0


def mpl_units_per_hour(success_rate: float, mean_seconds: float, hand_over_s: float) -> float:
    """Marginal product of the robot's labour, MP: finished units an hour.

    MP = 3600 * success_rate / (mean_seconds + hand_over_s), where ``mean_seconds`` is the mean
    length of *all* attempts: a failure costs its time and gives nothing.

    Args:
        success_rate: Share of attempts that finish a unit.
        mean_seconds: Mean time of an attempt, s.
        hand_over_s: Time between two attempts, s.
    """
    return SECONDS_PER_HOUR * success_rate / (mean_seconds + hand_over_s)


def energy_wh_per_unit(total_joules: float, units: int) -> float:
    """Energy of a finished unit, e, in Wh: that of all attempts, over the finished ones.

    Args:
        total_joules: Mechanical work of all attempts, J.
        units: Finished units; with none, the energy of all attempts is given.
    """
    return total_joules / JOULES_PER_WH / max(units, 1)


def wage_parity(
    mpl: float, wh_per_unit: float, unit_price: float, energy_price_kwh: float, wage_per_hour: float
) -> float:
    """How many hourly wages an hour of the robot earns: (p MP - c e MP) / w_h.

    Args:
        mpl: MP, units an hour.
        wh_per_unit: e, Wh a unit.
        unit_price: p, money a unit.
        energy_price_kwh: c, money a kWh.
        wage_per_hour: w_h, money an hour.
    """
    energy_cost = energy_price_kwh * wh_per_unit / 1000.0
    return mpl * (unit_price - energy_cost) / wage_per_hour


def step_value(
    *,
    finished: bool,
    seconds: float,
    damages: int,
    unit_price: float,
    wage_per_hour: float,
    damage_cost: float,
) -> float:
    """Economic value of one control step, in units of the price: r_econ.

    (p [finished] - w_h / 3600 * seconds - damage_cost * damages) / p: a unit earns 1, each second
    costs what a person would have been paid for it, each damage event its repair.

    Args:
        finished: Whether the unit was finished at this step.
        seconds: Length of the step, s.
        damages: Damage events in the step.
        unit_price: p.
        wage_per_hour: w_h.
        damage_cost: Money for one event.
    """
    wage = wage_per_hour / SECONDS_PER_HOUR * seconds
    return (unit_price * finished - wage - damage_cost * damages) / unit_price


def energy_reward(joules: float, energy_scale_j: float) -> float:
    """Energy reward of one step: -joules / scale.

    Args:
        joules: Mechanical work of the step, J.
        energy_scale_j: Work that costs 1, J.
    """
    return -joules / energy_scale_j
