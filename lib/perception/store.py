"""What frozen networks made of every frame, kept for the stages after them.

No picture goes through the same network twice: the vision stage leaves the backbone's maps, the
segmenter stage the geometry of the parts, both by episode and with the digest of their maker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from lib.errors import UserError
from lib.files import atomic
from lib.manifest import Dataset
from lib.paths import BACKBONE, FEATURES, GEOMETRY, SEGMENTER, relative

SCHEMA = 1
MAKERS = {FEATURES: BACKBONE, GEOMETRY: SEGMENTER}  # whose weights made which file


def write_frames(
    path: Path, values: Mapping[str, np.ndarray], dataset: Dataset, made_by: str
) -> None:
    """Writes arrays of every episode.

    Args:
        path: The file.
        values: (N, ...) by name, rows as in the dataset.
        dataset: Says which rows are whose.
        made_by: Digest of the weights that made them.
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
        names: Arrays to load.
        dataset: Says which episodes and in which order.
        made_by: Digest of the weights that must have made them.

    Returns:
        (N, ...) by name.

    Raises:
        UserError: If the file is missing, was made by other weights, or lacks something.
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
