"""Trained weights as safetensors files, with the settings needed to use them in the metadata.

A checkpoint contains nothing that could run code. The metadata is one JSON object with the kind of
model, the schema version, the configuration and flags, and a digest of the weights.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lib.base.errors import UserError
from lib.base.files import atomic
from lib.base.paths import relative

SCHEMA = 1
# A single key, because safetensors keeps its metadata in a hash map, which has no stable order.
METADATA_KEY = "golden_path"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        kind: Kind of model, e.g. ``"backbone"``.
        config: JSON-safe configuration and flags.
        tensors: Weights by name, on the CPU.
        digest: SHA-256 of the weights, the first 16 hex digits.
    """

    kind: str
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    digest: str

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """Returns the tensors under ``prefix.``, without the prefix.

        Args:
            prefix: Name of a part, e.g. ``"actor"``.
        """
        start = len(prefix) + 1
        return {k[start:]: v for k, v in self.tensors.items() if k.startswith(f"{prefix}.")}


def digest_of(tensors: dict[str, torch.Tensor]) -> str:
    """Returns the first 16 hex digits of the SHA-256 of names, types, shapes and values.

    Args:
        tensors: Weights by name.
    """
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


def save_checkpoint(
    path: Path, kind: str, config: dict[str, Any], parts: dict[str, dict[str, torch.Tensor]]
) -> str:
    """Writes a checkpoint atomically.

    Args:
        path: Path of the file.
        kind: Kind of model.
        config: JSON-safe configuration and flags.
        parts: State dicts by part name.

    Returns:
        The digest of the weights.
    """
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous().clone()
        for part, state in parts.items()
        for name, tensor in state.items()
    }
    digest = digest_of(tensors)
    header = {"kind": kind, "schema": SCHEMA, "digest": digest, "config": config}
    metadata = {METADATA_KEY: json.dumps(header, sort_keys=True, allow_nan=False)}
    with atomic(path) as scratch:
        scratch.write_bytes(save(tensors, metadata))
    return digest


def load_checkpoint(path: Path, kind: str) -> Checkpoint:
    """Reads a checkpoint and checks that it is what the caller expects.

    Args:
        path: Path of the file.
        kind: Kind of model that the file must hold.

    Raises:
        UserError: If the file is missing, damaged, of another kind or of another schema.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{relative(path)}: not found; `dvc repro` trains it")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[METADATA_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{relative(path)}: not a checkpoint of this project ({error})") from None
    if not isinstance(header, dict) or not isinstance(header.get("config"), dict):
        raise UserError(
            f"{relative(path)}: not a checkpoint of this project (its header is of another form)"
        )
    if header.get("schema") != SCHEMA:
        raise UserError(
            f"{relative(path)}: checkpoint schema {header.get('schema')}, this version reads "
            f"{SCHEMA}; run `dvc repro` to train it again"
        )
    if header.get("kind") != kind:
        raise UserError(f"{relative(path)}: holds a {header.get('kind')}, not a {kind}")
    if digest_of(tensors) != header.get("digest"):
        raise UserError(f"{relative(path)}: weights do not match their digest; run `dvc repro`")
    return Checkpoint(kind, header["config"], tensors, header["digest"])
