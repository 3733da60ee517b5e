"""Figures of a robot over many episodes: numbers by hand."""

import math

import pytest

from lib.agent.closed_loop import Trajectory, Trial
from lib.evaluate.robot import best_ratios, event_rate, ratios, success_rate, summarise
from lib.params import load_params
from lib.sim import economics
from lib.sim.economics import Economics
from lib.sim.env import CONTROL_STEP_S

PRICES = Economics(
    unit_price=0.01,
    wage_per_hour=18.0,
    damage_force_n=300.0,
    damage_cost=0.01,
    energy_scale_j=1.0,
)

SETTINGS = load_params("evaluate").evaluate


def attempt(steps: int, success_at: int | None, damaged: tuple[int, ...] = ()) -> Trajectory:
    """An episode of 9 J a step that succeeds at one step, or at none."""
    return Trajectory(
        Trial(0),
        success=[step == success_at for step in range(steps)],
        energy_j=[9.0] * steps,
        damages=[int(step in damaged) for step in range(steps)],
    )


def bounds(rate: dict[str, float]) -> tuple[float, float]:
    """The interval of a rate called r."""
    assert rate.keys() == {"r", "r_low", "r_high"}
    return rate["r_low"], rate["r_high"]


def test_wilson_intervals_are_the_published_ones():
    """Wilson (1927) without continuity correction: 10 of 10, 0 of 10, 5 of 10, 45 of 50."""
    assert bounds(success_rate("r", 10, 10)) == (0.722467, 1.0)
    assert bounds(success_rate("r", 0, 10)) == (0.0, 0.277533)
    assert bounds(success_rate("r", 5, 10)) == (0.236593, 0.763407)
    z, p, n = 1.959963984540054, 0.9, 50
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = ((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n))
    assert bounds(success_rate("r", 45, 50)) == pytest.approx(expected, abs=1e-6)
    assert success_rate("r", 45, 50)["r"] == 0.9


def test_intervals_of_event_rates_are_the_published_ones():
    """Garwood (1936), table of exact limits: 0, 1 and 10 events; an attempt gets its share."""
    assert bounds(event_rate("r", 0, 1)) == pytest.approx((0.0, 3.689), abs=1e-3)
    assert bounds(event_rate("r", 1, 1)) == pytest.approx((0.0253, 5.572), abs=1e-3)
    assert bounds(event_rate("r", 10, 1)) == pytest.approx((4.795, 18.390), abs=1e-3)
    assert event_rate("r", 10, 100)["r"] == 0.1
    assert bounds(event_rate("r", 10, 100)) == pytest.approx((0.04795, 0.18390), abs=1e-5)


def test_a_summary_by_hand():
    """Success at step 80 of 80 and at 40 of 120, one failure of 120 steps, one lost success.

    Counted steps: 80, 40, 120 and 60, mean 75, 1.875 s. MP = 3600 * 0.75 / 1.875 = 1440. Energy
    9 J * 300 = 2700 J = 0.75 Wh, 0.25 Wh a unit. Damage after success does not count: 3 blows in
    4 attempts, 1920 attempts an hour, each blow as dear as a unit. With a second between two units
    MP = 3600 * 0.75 / 2.875.
    """
    lost = attempt(100, 59)
    again = attempt(80, 79, damaged=(3, 70))
    episodes = [again, attempt(120, 39, damaged=(100,)), attempt(120, None, damaged=(119,)), lost]
    summary = summarise(episodes, PRICES, SETTINGS)
    parity = (1440 * (0.01 - 0.30 * 0.25 / 1000) - 1920 * 0.75 * 0.01) / 18
    assert summary == {
        "episodes": 4,
        **success_rate("success_any", 3, 4),
        **success_rate("success_last", 1, 4),
        "steps_mean": 75.0,
        "mpl_units_per_hour": 1440.0,
        "mpl_with_pause": round(3600 * 0.75 / 2.875, 6),
        "energy_wh_per_unit": 0.25,
        **event_rate("damage_rate", 3, 4),
        "wage_parity": round(parity, 6),
    }


def test_value_over_the_hour_is_that_of_the_reward():
    """Profit an hour, over the price of a unit: parity and r_econ count the same money.

    The reward leaves power out, so it costs nothing here. An hour holds 1920 attempts of 75 steps.
    """
    free = SETTINGS.model_copy(update={"energy_price_kwh": 0.0, "hand_over_s": 0.0})
    episodes = [attempt(80, 79, damaged=(3, 70)), attempt(70, 69)]
    hour = 3600 / (75 * CONTROL_STEP_S)
    money = {"unit_price": 0.01, "wage_per_hour": 18.0, "damage_cost": 0.01}
    profit = sum(
        economics.step_value(
            finished=t.success[i], seconds=CONTROL_STEP_S, damages=t.damages[i], **money
        )
        for t in episodes
        for i in range(len(t.success))
    )
    parity = summarise(episodes, PRICES, free)["wage_parity"]
    assert (parity - 1) * 18.0 == pytest.approx(profit / 2 * hour * 0.01)


def test_a_summary_without_any_success_is_finite():
    """Nothing produced, the energy is that of all attempts; time between units counts."""
    summary = summarise([attempt(100, None)] * 2, PRICES, SETTINGS)
    assert summary["success_any"] == summary["mpl_units_per_hour"] == summary["wage_parity"] == 0
    assert summary["energy_wh_per_unit"] == 0.5
    slower = SETTINGS.model_copy(update={"hand_over_s": 0.25})
    assert summarise([attempt(80, 79)], PRICES, slower)["mpl_units_per_hour"] == 3600 / 2.25


def test_ratios_are_policy_over_scripted():
    """Twice the units at a quarter of the energy; against nothing there is no ratio."""
    one = {"mpl_units_per_hour": 3000.0, "mpl_with_pause": 1200.0, "energy_wh_per_unit": 0.01}
    two = {"mpl_units_per_hour": 1500.0, "mpl_with_pause": 1000.0, "energy_wh_per_unit": 0.04}
    found = ratios(one, two)
    assert found == {"mpl_ratio": 2.0, "mpl_ratio_with_pause": 1.2, "energy_ratio": 0.25}
    assert ratios(one, {**two, "mpl_units_per_hour": 0.0})["mpl_ratio"] == 0.0


def test_the_best_ratios_name_their_preset():
    """Pace with and without a pause is that of one preset, energy may be another's."""
    presets = {
        "fast": {"mpl_ratio": 2.0, "mpl_ratio_with_pause": 1.3, "energy_ratio": 1.1},
        "slow": {"mpl_ratio": 1.5, "mpl_ratio_with_pause": 1.4, "energy_ratio": 0.8},
    }
    assert best_ratios(presets) == {
        "mpl": 2.0,
        "mpl_with_pause": 1.3,
        "mpl_preset": "fast",
        "energy": 0.8,
        "energy_preset": "slow",
    }
