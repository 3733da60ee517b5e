"""Runs a stage on a few small frames, in a scratch folder, without the outs of other stages."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch

from lib.data.dataset import Dataset
from lib.episode import PRIMITIVES, SPLITS
from lib.learning.checkpoint import load_checkpoint
from lib.params import load_params
from stages import segmenter
from tests.factories import dataset

SIDE = 32  # of the square pictures, pixels
STEPS = 16
SPLIT = "train train train train train valid valid test test"


def recorded() -> Dataset:
    """Builds nine episodes in which a bright square moves over a grey picture.

    The states are those of the square, so that a probe can find them in the picture.
    """
    rng = np.random.default_rng(0)
    count = len(SPLIT.split())
    total = count * STEPS
    images = rng.integers(60, 80, (total, SIDE, SIDE, 3), dtype=np.uint8)
    labels = np.zeros((total, SIDE, SIDE), np.uint8)
    state = np.zeros((total, 11), np.float32)
    for row in range(total):
        top, left = rng.integers(2, SIDE - 10, 2)
        images[row, top : top + 8, left : left + 8] = 230
        labels[row, top : top + 8, left : left + 8] = PRIMITIVES.index("handle")
        place = [left, top, top - left]
        state[row] = np.array([top, left, top + left, 0, left, top, top - left, top, *place]) / SIDE
    return dataset(
        *[STEPS] * count,
        splits=SPLIT,
        tags=[{"labels": "exact", "visual": False, "stress": {}, "success": True}],
        obs__image=images,
        labels__segmentation=labels,
        labels__state=state,
        labels__skill=rng.integers(0, 4, total).astype(np.uint8),
        obs__eef_pos=state[:, :3].copy(),
        obs__gripper=rng.random((total, 1)).astype(np.float32),
        actions=rng.uniform(-1, 1, (total, 4)).astype(np.float32),
        vector_rewards=-rng.random((total, 3)).astype(np.float32),
        dones=np.arange(total) % STEPS == STEPS - 1,
    )


def spoiled(data: Dataset, split: str, *names: str) -> Dataset:
    """Copies a dataset and replaces some arrays of one split by noise.

    Args:
        data: The dataset, not changed.
        split: Split whose rows are replaced.
        *names: Names of the arrays; by default all of them.
    """
    rng = np.random.default_rng(7)
    rows = data.rows([split])
    arrays = {name: array.copy() for name, array in data.arrays.items()}
    for name in names or arrays:
        values = arrays[name]
        if values.dtype == bool:
            values[rows] = ~values[rows]
        elif values.dtype == np.uint8:
            top = {"labels/segmentation": len(PRIMITIVES), "labels/skill": 4}.get(name, 256)
            values[rows] = rng.integers(0, top, values[rows].shape)
        else:
            values[rows] = rng.uniform(-1, 1, values[rows].shape)
    return Dataset(arrays, data.episodes)


def loader(data: Dataset) -> Callable[..., Dataset]:
    """Returns a function that takes the place of ``load_dataset``.

    Args:
        data: All episodes. As with the real function, only those of the splits asked for come.
    """

    def load(
        consumer: str,
        fields: Sequence[str],
        splits: Sequence[str] = SPLITS,
        sources: Sequence[str] = ("sima2",),
    ) -> Dataset:
        kept = [e for e in data.episodes if e.split in splits]
        rows = np.concatenate([np.arange(e.start, e.stop) for e in kept])
        return dataset(
            *[len(e) for e in kept],
            splits=" ".join(e.split for e in kept),
            tags=[e.tags for e in kept],
            keys=[e.key for e in kept],
            **{name.replace("/", "__"): data.arrays[name][rows].copy() for name in fields},
        )

    return load


def manifest_of(data: Dataset, doubted: dict[str, Any] | None = None) -> dict[str, Any]:
    """Returns a manifest of a dataset in which every label is trusted.

    Args:
        data: The dataset; its only source is ``sima2``.
        doubted: Doubted segments of its first episode.
    """
    entries: list[dict[str, Any]] = [{"source": "sima2", "key": e.key} for e in data.episodes]
    if doubted is not None:
        entries[0]["doubted"] = doubted
    trust = {"sima2": {name: {"trust": 1.0} for name in PRIMITIVES}}
    return {"trust": trust, "episodes": entries}


def nothing(*_args: Any, **_options: Any) -> None:
    """Takes the place of figures and films, which take seconds and prove nothing here."""


def run_segmenter(
    folder: Path,
    monkeypatch: Any,
    data: Dataset,
    stressed: Dataset,
    changes: dict[str, Any],
    *,
    doubted: dict[str, Any] | None = None,
    **replaced: Any,
) -> SimpleNamespace:
    """Runs the segmenter's stage with a small network.

    Args:
        folder: Folder for the outs.
        monkeypatch: pytest's fixture.
        data: What takes the place of phase 1.
        stressed: What takes the place of the rollouts under stress.
        changes: Further values that replace those of the segmenter's section.
        doubted: Doubted segments of the first episode.
        **replaced: Further names in the module of the stage and what takes their place.

    Returns:
        As ``run_stage``, with the ``path`` of the checkpoint and what it holds as ``saved``.
    """
    path = folder / "segmenter.safetensors"
    small = {"widths": [4, 8], "steps": 2, "batch_size": 2, "stress_episodes": 1, **changes}
    left = run_stage(
        segmenter,
        folder,
        monkeypatch,
        data,
        {"segmenter": small},
        read_manifest=lambda: manifest_of(data, doubted),
        stressed_episodes=lambda *_: stressed,
        SEGMENTER=path,
        GEOMETRY=folder / "geometry.hdf5",
        **replaced,
    )
    left.path, left.saved = path, load_checkpoint(path, "segmenter")
    return left


def run_stage(
    stage: ModuleType,
    folder: Path,
    monkeypatch: Any,
    data: Dataset,
    changes: dict[str, dict[str, Any]],
    **replaced: Any,
) -> SimpleNamespace:
    """Runs a stage.

    Args:
        stage: Module of the stage.
        folder: Empty folder for the outs.
        monkeypatch: pytest's fixture.
        data: What takes the place of phase 1.
        changes: Values that replace those of params.yaml, by section and key.
        **replaced: Names in the module of the stage and what takes their place.

    Returns:
        ``metrics`` of the stage, what it ``said``, and its ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    said: list[str] = []

    def params(*sections: str) -> SimpleNamespace:
        found = load_params(*sections)
        asked = {"compute": {"threads": torch.get_num_threads()}, **changes}
        for section, values in asked.items():
            old = getattr(found, section, None)
            if isinstance(old, SimpleNamespace):
                vars(old).update({k: v for k, v in values.items() if k in vars(old)})
            elif old is not None:
                setattr(found, section, old.model_copy(update=values))
        return found

    names = {
        "load_params": params,
        "load_dataset": loader(data),
        "say": said.append,
        "METRICS": folder,
        "PLOTS": folder,
        **replaced,
    }
    deterministic = torch.are_deterministic_algorithms_enabled()
    with monkeypatch.context() as patch:
        for name, value in names.items():
            if hasattr(stage, name):
                patch.setattr(stage, name, value)
        try:
            stage.main()
        finally:
            torch.use_deterministic_algorithms(deterministic)
    name = stage.__name__.rpartition(".")[2]
    metrics = json.loads((folder / f"{name}.json").read_text())
    return SimpleNamespace(metrics=metrics, said="\n".join(said), folder=folder)
