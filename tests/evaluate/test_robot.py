"""Figures of a robot over many episodes: numbers by hand."""

import math

import pytest

from lib.agent.closed_loop import Trajectory, Trial
from lib.evaluate.robot import interval, ratios, summarise
from lib.params import load_params
from lib.sim.economics import Economics

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


def test_wilson_intervals_are_the_published_ones():
    """Wilson (1927) without continuity correction: 10 of 10, 0 of 10, 5 of 10, 45 of 50."""
    assert interval(10, 10) == (0.722467, 1.0)
    assert interval(0, 10) == (0.0, 0.277533)
    assert interval(5, 10) == (0.236593, 0.763407)
    z, p, n = 1.959963984540054, 0.9, 50
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = ((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n))
    assert interval(45, 50) == pytest.approx(expected, abs=1e-6)


def test_a_summary_by_hand():
    """Success at step 80 of 80 and at 40 of 120, one failure of 120 steps, one lost success.

    Counted steps: 80, 40, 120 and 60, mean 75, 1.875 s. MP = 3600 * 0.75 / 1.875 = 1440. Energy
    9 J * 300 = 2700 J = 0.75 Wh, 0.25 Wh a unit. Damage after success does not count.
    """
    lost = attempt(100, 59)
    again = attempt(80, 79, damaged=(3, 70))
    episodes = [again, attempt(120, 39, damaged=(100,)), attempt(120, None, damaged=(119,)), lost]
    summary = summarise(episodes, PRICES, SETTINGS)
    low, high = interval(3, 4)
    parity = 1440 * (0.01 - 0.30 * 0.25 / 1000) / 18
    assert summary == {
        "success_any": 0.75,
        "success_any_low": low,
        "success_any_high": high,
        "success_last": 0.25,
        "steps_mean": 75.0,
        "mpl_units_per_hour": 1440.0,
        "energy_wh_per_unit": 0.25,
        "damage_rate": 0.75,
        "wage_parity": round(parity, 6),
    }


def test_a_summary_without_any_success_is_finite():
    """Nothing produced, the energy is that of all attempts; time between units counts."""
    summary = summarise([attempt(100, None)] * 2, PRICES, SETTINGS)
    assert summary["success_any"] == summary["mpl_units_per_hour"] == summary["wage_parity"] == 0
    assert summary["energy_wh_per_unit"] == 0.5
    slower = SETTINGS.model_copy(update={"hand_over_s": 0.25})
    assert summarise([attempt(80, 79)], PRICES, slower)["mpl_units_per_hour"] == 3600 / 2.25


def test_ratios_are_policy_over_scripted():
    """Twice the units at a quarter of the energy; against nothing there is no ratio."""
    one = {"mpl_units_per_hour": 3000.0, "energy_wh_per_unit": 0.01}
    two = {"mpl_units_per_hour": 1500.0, "energy_wh_per_unit": 0.04}
    assert ratios(one, two) == {"mpl": 2.0, "energy": 0.25}
    assert ratios(one, {**two, "mpl_units_per_hour": 0.0})["mpl"] == 0.0
