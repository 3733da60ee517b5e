"""Stores the outputs of frozen networks for every frame, for use by later stages.

No image goes through the same network twice. The vision stage stores the backbone's feature maps,
and the segmenter stage stores the geometry of the parts. Both are stored by episode, with the
digest of the weights that made them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from lib.base.errors import UserError
from lib.base.files import atomic
from lib.base.paths import BACKBONE, FEATURES, GEOMETRY, SEGMENTER, relative
from lib.data.dataset import Dataset

SCHEMA = 1
MAKERS = {FEATURES: BACKBONE, GEOMETRY: SEGMENTER}  # checkpoint that makes each file


def write_frames(
    path: Path, values: Mapping[str, np.ndarray], dataset: Dataset, made_by: str
) -> None:
    """Writes arrays of every episode.

    Args:
        path: The file.
        values: (N, ...) arrays by name, with rows as in the dataset.
        dataset: Dataset that gives the rows of each episode.
        made_by: Digest of the weights that made the arrays.
    """
    with atomic(path) as scratch, h5py.File(scratch, "w") as file:
        file.attrs["schema"], file.attrs["made_by"] = SCHEMA, made_by
        for item in dataset.episodes:
            for name, array in values.items():
                file.create_dataset(f"{item.source}/{item.key}/{name}", data=array[item.rows])


def load_frames(
    path: Path, names: Sequence[str], dataset: Dataset, made_by: str
) -> dict[str, np.ndarray]:
    """Loads arrays in the row order of a dataset.

    Args:
        path: The file.
        names: Names of the arrays to load.
        dataset: Dataset that gives the episodes and their order.
        made_by: Digest of the weights that must have made the arrays.

    Returns:
        (N, ...) arrays by name.

    Raises:
        UserError: If the file is missing, has another schema, was made by other weights, or lacks
            an array.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{relative(path)}: not readable ({error}); run `dvc repro`") from None
    with file:
        if file.attrs.get("schema") != SCHEMA:
            raise UserError(
                f"{relative(path)}: schema {file.attrs.get('schema')}, this version reads "
                f"{SCHEMA}; run `dvc repro`"
            )
        if file.attrs.get("made_by") != made_by:
            maker = relative(MAKERS[path]) if path in MAKERS else "the checkpoint"
            raise UserError(
                f"{relative(path)}: made by weights {file.attrs.get('made_by')}, but {maker} holds "
                f"{made_by}; run `dvc repro`"
            )
        out: dict[str, np.ndarray] = {}
        for name in names:
            for item in dataset.episodes:
                full = f"{item.source}/{item.key}/{name}"
                if full not in file:
                    raise UserError(
                        f"{relative(path)}: holds no {name} of {item.source}/{item.key}; "
                        "vision.feature_levels must name every level of rnn.levels"
                    )
                stored = file[full]
                if name not in out:
                    out[name] = np.empty((len(dataset), *stored.shape[1:]), stored.dtype)
                stored.read_direct(out[name], dest_sel=np.s_[item.start : item.stop])
    return out
