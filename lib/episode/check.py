"""What can be wrong with an episode."""

from __future__ import annotations

import numpy as np

from lib.episode import Episode


def problems(episode: Episode) -> list[str]:
    """Returns what is wrong with an episode, nothing for a sound one.

    Args:
        episode: The episode, all arrays read.
    """
    found = []
    steps = len(episode)
    if steps < 2:
        found.append(f"{steps} steps; at least 2 are needed")
    for name, array in episode.arrays():
        if len(array) != steps:
            found.append(f"{name}: {len(array)} steps, actions have {steps}")
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            found.append(f"{name}: NaN or infinite")
    actions = episode.actions
    if actions.size and np.issubdtype(actions.dtype, np.floating) and np.abs(actions).max() > 1:
        found.append("actions: outside [-1, 1]")
    image = episode.obs.get("image")
    if image is not None and (image.dtype != np.uint8 or image.ndim != 4 or image.shape[-1] != 3):
        found.append(f"obs/image: {image.dtype} {image.shape}, not uint8 (T, H, W, 3)")
    return found
