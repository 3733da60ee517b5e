"""Every path of the repository, in one place.

Paths are absolute and derived from the location of this file. A stage therefore behaves the same
from any working directory and inside the scratch copies that ``dvc exp run --temp`` makes.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PARAMS = ROOT / "params.yaml"

RAW_ROS = ROOT / "data" / "raw" / "ros"
RAW_ISAAC = ROOT / "data" / "raw" / "isaac"

PHASE1 = ROOT / "data" / "phase1"
SIMA2_EPISODES = PHASE1 / "sima2.hdf5"
VIEWS = PHASE1 / "views.hdf5"
ROS_EPISODES = PHASE1 / "ros.hdf5"
ISAAC_EPISODES = PHASE1 / "isaac.hdf5"
MANIFEST = PHASE1 / "manifest.json"
FEATURES = ROOT / "data" / "features.hdf5"
GEOMETRY = ROOT / "data" / "geometry.hdf5"

CHECKPOINTS = ROOT / "checkpoints"
BACKBONE = CHECKPOINTS / "vision_backbone.safetensors"
SPATIAL_RNN = CHECKPOINTS / "spatial_rnn.safetensors"
SEGMENTER = CHECKPOINTS / "sima2_segmenter.safetensors"
POLICY = CHECKPOINTS / "hydra_policy.safetensors"
CLONED_POLICY = CHECKPOINTS / "hydra_policy_cloned.safetensors"

METRICS = ROOT / "metrics"
PLOTS = METRICS / "plots"
SUCCESS = METRICS / "success.json"
VIDEOS = METRICS / "videos"

# Timings and scratch files, which are not outs. Git ignores the folder; queue runs may move it.
WORK = Path(os.environ.get("GOLDEN_PATH_WORK", ROOT / ".work"))
TIMINGS = WORK / "timings"


def relative(path: Path) -> str:
    """Returns ``path`` for a message: relative to the repository root if it lies inside.

    Args:
        path: Any path.
    """
    try:
        return str(Path(path).resolve().relative_to(ROOT))
    except ValueError:
        return str(path)
