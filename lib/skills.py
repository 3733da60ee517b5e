"""The phases of a manipulation, from where the hand is and where the handle is.

The same rule labels simulator steps (from the true positions) and routes the policy (from the
positions seen in the picture), so that the router's accuracy measures sight alone. Thresholds
are those of Meta-World's scripted expert: align above the handle, drop on it, pull.
"""

from __future__ import annotations

import math

import numpy as np

from lib.episode import SKILLS

REACH, HOOK, PULL, RECOVER = range(len(SKILLS))

ALIGN_RADIUS_M = 0.06
"""Horizontal distance within which the hand is above the handle."""
DROP_HEIGHT_M = 0.04
"""Vertical distance within which the hand holds the handle."""
GRASP_OFFSET_M = np.array([0.0, 0.0, -0.02])
"""Where the hand takes hold, from the handle's centre."""


def skill_phase(
    hand: np.ndarray, handle: np.ndarray, had_hold: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Says which phase each hand is in.

    Args:
        hand: (B, 3) hand positions, m.
        handle: (B, 3) handle positions, m.
        had_hold: (B,) whether the handle was held at an earlier step of the episode.

    Returns:
        (B,) uint8 indices into SKILLS, and (B,) the new ``had_hold``. Whoever had hold of the
        handle and lost it is in ``recover`` until it is held again.
    """
    phases, holding = [], []
    # Number by number: for the few hands of a simulation that is faster than arrays.
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
