"""Economics: numbers worked out by hand, units and all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.sim import economics
from lib.sim.env import CONTROL_STEP_S

rates = st.floats(0.01, 1.0)
seconds = st.floats(0.1, 1000.0)
money = st.floats(0.001, 1000.0)


def close(value: float) -> object:
    """Equal up to rounding."""
    return pytest.approx(value, rel=1e-12, abs=1e-12)


def test_units_an_hour():
    """A sure unit every 1.25 s: 2880 an hour. Half of them fail: 1440. 0.75 s between: 1800."""
    assert economics.mpl_units_per_hour(1.0, 1.25, 0.0) == close(2880.0)
    assert economics.mpl_units_per_hour(0.5, 1.25, 0.0) == close(1440.0)
    assert economics.mpl_units_per_hour(1.0, 1.25, 0.75) == close(1800.0)
    assert economics.mpl_units_per_hour(0.0, 1.25, 0.0) == 0.0


def test_energy_of_a_unit():
    """72 kJ are 20 Wh: 2 Wh for each of 10 units; with no unit the energy is all spent."""
    assert economics.energy_wh_per_unit(72_000.0, 10) == close(2.0)
    assert economics.energy_wh_per_unit(72_000.0, 0) == close(20.0)


def parity(mpl: float, wh_per_unit: float, damages_per_hour: float = 0.0) -> float:
    """Wage parity at 0.01 a unit, 0.30 a kWh, 0.02 a damage and 18 an hour."""
    return economics.wage_parity(
        mpl,
        wh_per_unit,
        damages_per_hour,
        unit_price=0.01,
        energy_price_kwh=0.30,
        damage_cost=0.02,
        wage_per_hour=18.0,
    )


def test_wage_parity():
    """2880 units at 0.01 are 28.80; at 5 Wh and 0.30 a kWh, 4.32 go to power; 24.48 / 18 = 1.36."""
    assert parity(2880.0, 5.0) == close(1.36)
    assert parity(2880.0, 0.0) == close(1.6)
    assert parity(0.0, 5.0) == 0.0


def test_damage_is_paid_for():
    """720 damages of 0.02 an hour are 14.40 of the 24.48; who makes nothing pays too."""
    assert parity(2880.0, 5.0, 720.0) == close(0.56)
    assert parity(0.0, 5.0, 900.0) == close(-1.0)


def test_a_unit_worth_less_than_its_energy_is_a_loss():
    """100 Wh at 0.30 a kWh are 0.03, three times the price: 100 units lose 2, a ninth of 18."""
    assert parity(100.0, 100.0) == close(-1 / 9)


def test_value_of_a_step():
    """A unit earns 1; a second at 18 an hour costs 0.005 = half a price of 0.01; a damage of 0.02
    costs two.
    """
    prices = {"unit_price": 0.01, "wage_per_hour": 18.0, "damage_cost": 0.02}
    value = economics.step_value
    assert value(finished=True, seconds=0.0, damages=0, **prices) == close(1.0)
    assert value(finished=False, seconds=1.0, damages=0, **prices) == close(-0.5)
    assert value(finished=False, seconds=0.0, damages=1, **prices) == close(-2.0)
    assert value(finished=True, seconds=1.0, damages=2, **prices) == close(1 - 0.5 - 4)


def test_energy_reward():
    """-joules / scale: 0.5 J at a scale of 2 J."""
    assert economics.energy_reward(0.5, 2.0) == close(-0.25)
    assert economics.energy_reward(0.0, 2.0) == 0.0


@given(rates, st.integers(1, 500), money, money)
def test_the_rewards_of_an_episode_sum_to_its_profit(rate, steps, unit_price, wage):
    """Steps with no damage: one price minus the wage of the whole time, over the price."""
    kinds = {"unit_price": unit_price, "wage_per_hour": wage, "damage_cost": rate, "damages": 0}
    total = sum(
        economics.step_value(finished=step == steps - 1, seconds=CONTROL_STEP_S, **kinds)
        for step in range(steps)
    )
    profit = unit_price - wage * steps * CONTROL_STEP_S / 3600
    assert total == pytest.approx(profit / unit_price, rel=1e-9, abs=1e-9)


@given(rates, seconds, seconds, seconds)
def test_more_success_is_more_and_more_time_is_less(rate, mean, hand_over, more):
    """Units an hour are proportional to the rate and fall with either time."""
    mpl = economics.mpl_units_per_hour
    assert mpl(rate, mean, hand_over) == pytest.approx(rate * mpl(1.0, mean, hand_over))
    assert mpl(rate, mean + more, hand_over) < mpl(rate, mean, hand_over)
    assert mpl(rate, mean, hand_over + more) == pytest.approx(mpl(rate, mean + more, hand_over))


@given(money, st.floats(0, 100), money, st.floats(0.01, 10), money, st.floats(0.01, 10))
def test_parity_rises_with_the_price_and_falls_with_energy_damage_and_wage(
    mpl, energy, price, energy_price, wage, more
):
    """The sign of each argument's influence, for all prices."""
    prices = {"unit_price": price, "energy_price_kwh": energy_price, "damage_cost": price / 2}
    prices["wage_per_hour"] = wage

    def parity(mpl=mpl, energy=energy, damages=mpl, **other):
        return economics.wage_parity(mpl, energy, damages, **(prices | other))

    base = parity()
    assert parity(unit_price=price + more) > base
    assert parity(energy=energy + more) <= base
    assert parity(energy_price_kwh=energy_price + more) <= base
    assert parity(damages=mpl + more) < base
    assert parity(damage_cost=price / 2 + more) < base
    assert abs(parity(wage_per_hour=wage + more)) <= abs(base)
    assert parity(2 * mpl, damages=2 * mpl) == pytest.approx(2 * base)
