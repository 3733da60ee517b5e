"""Reads the manifest of phase 1: the source, the split and the permitted stages of each episode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lib.base.errors import UserError
from lib.base.files import read_json
from lib.base.paths import (
    ISAAC_EPISODES,
    MANIFEST,
    ROS_EPISODES,
    SIMA2_EPISODES,
    VIEWS,
    relative,
)
from lib.episode import PRIMITIVES

SCHEMA = 2
CONSUMERS = ("vision", "rnn", "segmenter", "policy")
SOURCES: dict[str, Path] = {
    "sima2": SIMA2_EPISODES,
    "views": VIEWS,
    "ros": ROS_EPISODES,
    "isaac": ISAAC_EPISODES,
}
SIMULATED = ("sima2", "views")
"""Sources whose episodes hold the true state and exact pixel labels."""


def read_manifest(path: Path = MANIFEST) -> dict[str, Any]:
    """Reads the manifest.

    Args:
        path: The file.

    Raises:
        UserError: If the file is missing or has another schema.
    """
    manifest = read_json(path)
    if manifest.get("schema") != SCHEMA:
        raise UserError(
            f"{relative(path)}: manifest schema {manifest.get('schema')}, this version reads "
            f"{SCHEMA}; run `dvc repro` to rebuild it"
        )
    return manifest


def _usable(manifest: dict[str, Any], consumer: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in manifest["episodes"]:
        if entry["usable"][consumer] is True:
            yield f"{entry['source']}/{entry['key']}", entry


def trust_table(manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the TrustMatrix: for each source, the trust in the labels of each primitive.

    Args:
        manifest: Result of ``read_manifest``.

    Returns:
        (len(PRIMITIVES),) float32 in [0, 1] by source.
    """
    return {
        source: np.array([cells[name]["trust"] for name in PRIMITIVES], np.float32)
        for source, cells in manifest["trust"].items()
    }


def segment_doubts(manifest: dict[str, Any]) -> dict[tuple[str, str], np.ndarray]:
    """Returns the trust in pixels of episodes with a doubted segment (phase1_manifest/trust.py).

    Args:
        manifest: Result of ``read_manifest``.

    Returns:
        A float32 table for each of these episodes, by (source, key). Its axes are the given label
        and the primitive that the heuristic sees; its values are 1 where nothing is doubted.
    """
    tables = {}
    for entry in manifest["episodes"]:
        if "doubted" in entry:
            table = np.ones((len(PRIMITIVES), len(PRIMITIVES)), np.float32)
            for label, row in entry["doubted"].items():
                for seen, trust in row.items():
                    table[PRIMITIVES.index(label), PRIMITIVES.index(seen)] = trust
            tables[entry["source"], entry["key"]] = table
    return tables
