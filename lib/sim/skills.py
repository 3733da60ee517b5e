"""Determines the phase of a manipulation from the positions of the hand and the handle.

The same rule labels simulator steps (from the true positions) and routes the policy (from the
positions seen in the image), so that the router's accuracy measures only the perception. The
thresholds are taken from Meta-World's scripted expert: align above the handle, drop on it, pull.
"""

from __future__ import annotations

import math

import numpy as np

from lib.episode import SKILLS

REACH, HOOK, PULL, RECOVER = range(len(SKILLS))

ALIGN_RADIUS_M = 0.06
"""Horizontal distance within which the hand counts as above the handle."""
DROP_HEIGHT_M = 0.04
"""Vertical distance within which the hand counts as holding the handle."""
GRASP_OFFSET_M = np.array([0.0, 0.0, -0.02])
"""Offset of the grasp point from the handle's centre."""


def skill_phase(
    hand: np.ndarray, handle: np.ndarray, had_hold: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the phase of each hand.

    Args:
        hand: (B, 3) hand positions, m.
        handle: (B, 3) handle positions, m.
        had_hold: (B,) whether the handle was held at an earlier step of the episode.

    Returns:
        (B,) uint8 indices into SKILLS, and (B,) the new ``had_hold``. A hand that held the handle
        and lost it is in ``recover`` until it holds the handle again.
    """
    phases, holding = [], []
    # For the few hands of a simulation, a loop over numbers is faster than array operations.
    for (x, y, z), held in zip(
        (hand - handle - GRASP_OFFSET_M).tolist(), had_hold.tolist(), strict=True
    ):
        aligned = math.hypot(x, y) <= ALIGN_RADIUS_M
        holds = aligned and abs(z) <= DROP_HEIGHT_M
        if holds:
            phases.append(PULL)
        elif held:
            phases.append(RECOVER)
        else:
            phases.append(HOOK if aligned else REACH)
        holding.append(held or holds)
    return np.array(phases, np.uint8), np.array(holding, bool)
