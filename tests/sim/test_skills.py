"""Skill phases: the same rule for labels and for the router."""

import numpy as np
import pytest

from lib.episode import SKILLS
from lib.sim.skills import (
    ALIGN_RADIUS_M,
    DROP_HEIGHT_M,
    GRASP_OFFSET_M,
    HOOK,
    PULL,
    REACH,
    RECOVER,
    skill_phase,
)

HANDLE = np.array([0.1, 0.6, 0.15])
GRASP = HANDLE + GRASP_OFFSET_M


def phase(offset, had_hold: bool = False) -> tuple[int, bool]:
    """Phase of a hand that stands ``offset`` from where it takes hold."""
    skills, holds = skill_phase(
        (GRASP + np.array(offset))[None], HANDLE[None], np.array([had_hold])
    )
    return int(skills[0]), bool(holds[0])


def test_indices_name_the_skills():
    """Labels on disk are indices into SKILLS."""
    assert [SKILLS[i] for i in (REACH, HOOK, PULL, RECOVER)] == ["reach", "hook", "pull", "recover"]


@pytest.mark.parametrize(
    ("offset", "skill"),
    [
        ((0.0, 0.0, 0.0), PULL),
        ((0.0, 0.0, DROP_HEIGHT_M - 1e-6), PULL),
        ((0.0, 0.0, 1e-6 - DROP_HEIGHT_M), PULL),
        ((0.0, 0.0, DROP_HEIGHT_M + 1e-6), HOOK),
        ((0.0, 0.0, -DROP_HEIGHT_M - 1e-6), HOOK),
        ((0.0, 0.0, 5.0), HOOK),
        ((ALIGN_RADIUS_M - 1e-6, 0.0, 0.0), PULL),
        ((ALIGN_RADIUS_M + 1e-6, 0.0, 0.0), REACH),
        ((0.0, -ALIGN_RADIUS_M - 1e-6, 0.0), REACH),
        ((0.05, 0.05, 0.0), REACH),  # each within the radius, together not
        ((0.04, 0.04, 0.1), HOOK),
    ],
)
def test_phase_by_place(offset, skill):
    """A cylinder about the handle, cut at the height within which the hand holds."""
    assert phase(offset) == (skill, skill == PULL)


@pytest.mark.parametrize("offset", [(0.2, 0.0, 0.0), (0.0, 0.0, 0.1)])
def test_whoever_lost_the_hold_recovers_wherever_it_is(offset):
    """Not reach or hook a second time; and it stays so."""
    assert phase(offset, had_hold=True) == (RECOVER, True)


def test_a_whole_attempt_with_a_slip():
    """Approach, drop, pull, torn off, above it again, held again."""
    offsets = [(0.3, 0, 0.1), (0, 0, 0.1), (0, 0, 0), (0, 0, 0.1), (0.1, 0, 0.1), (0, 0, 0)]
    had_hold, seen = np.zeros(1, bool), []
    for offset in offsets:
        skills, had_hold = skill_phase((GRASP + np.array(offset))[None], HANDLE[None], had_hold)
        seen.append(int(skills[0]))
    assert seen == [REACH, HOOK, PULL, RECOVER, RECOVER, PULL]


def test_a_batch_is_its_rows():
    """Each hand for itself, with a handle and a memory of its own."""
    rng = np.random.default_rng(0)
    hands = GRASP + rng.uniform(-0.1, 0.1, (200, 3))
    handles, had_hold = HANDLE + rng.uniform(-0.05, 0.05, (200, 3)), rng.random(200) < 0.5
    skills, holds = skill_phase(hands, handles, had_hold)
    assert (skills.shape, skills.dtype, holds.dtype) == ((200,), np.uint8, bool)
    assert set(skills) == {REACH, HOOK, PULL, RECOVER}
    for row in range(200):
        this = slice(row, row + 1)
        one, held = skill_phase(hands[this], handles[this], had_hold[this])
        assert (one[0], held[0]) == (skills[row], holds[row])
