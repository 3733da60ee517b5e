"""Small datasets and pictures that several test files use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lib.data.dataset import Dataset, Reference
from lib.episode import PRIMITIVES

# The size of the drawn pictures, and the steps of each of their episodes.
SIZE, STEPS = 32, 3
TABLE, ARM, GRIPPER, HANDLE = (PRIMITIVES.index(n) for n in ("table", "arm", "gripper", "handle"))
BROWN, GREY, CYAN = (114, 88, 72), (127, 126, 122), (0, 255, 255)


def dataset(
    *lengths: int,
    splits: str = "train",
    tags: Sequence[Mapping[str, Any]] = ({},),
    keys: Sequence[str] = (),
    **arrays: np.ndarray,
) -> Dataset:
    """Builds a dataset of a few episodes.

    Args:
        *lengths: Steps of each episode.
        splits: Split of each episode, separated by spaces; repeated if there are fewer.
        tags: Tags of each episode; repeated if there are fewer.
        keys: Key of each episode; by default its number.
        **arrays: The arrays, with ``__`` for ``/`` in their names; by default random actions.
    """
    stops = np.cumsum(lengths).tolist()
    named = splits.split()
    episodes = [
        Reference(
            "sima2",
            keys[i] if keys else str(i),
            named[i % len(named)],
            stop - length,
            stop,
            dict(tags[i % len(tags)]),
        )
        for i, (length, stop) in enumerate(zip(lengths, stops, strict=True))
    ]
    if not arrays:
        rng = np.random.default_rng(0)
        arrays = {"actions": rng.normal(size=(stops[-1], 2)).astype(np.float32)}
    return Dataset({name.replace("__", "/"): array for name, array in arrays.items()}, episodes)


def drawn_episodes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws pictures of a wall, a table and a cyan square, and labels that err as usual.

    One column of the table is called arm in every episode, which the heuristic never sees so.

    Args:
        count: Number of episodes.

    Returns:
        Pictures (count, STEPS, SIZE, SIZE, 3) and their primitives (count, STEPS, SIZE, SIZE).
    """
    images = np.zeros((count, STEPS, SIZE, SIZE, 3), np.uint8)
    labels = np.zeros(images.shape[:-1], np.uint8)
    for index in range(count):
        top = 8 + index % 4
        images[index], images[index, :, top:] = GREY, BROWN
        labels[index, :, top:] = TABLE
        labels[index, :, top:, -1] = ARM
        images[index, :, 20:26, 4:10], labels[index, :, 20:26, 4:10] = CYAN, GRIPPER
    return images, labels


def drawn_dataset(count: int) -> Dataset:
    """Builds a dataset of ``drawn_episodes``, of which the last one is a test episode.

    Args:
        count: Number of episodes.
    """
    images, labels = drawn_episodes(count)
    return dataset(
        *[STEPS] * count,
        splits="train " * (count - 1) + "test",
        obs__image=np.concatenate(images),
        labels__segmentation=np.concatenate(labels),
    )
