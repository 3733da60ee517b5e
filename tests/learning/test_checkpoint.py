"""Checkpoints: exact, byte-stable, and refused in one line when they are not sound."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.base.errors import UserError
from lib.learning.checkpoint import METADATA_KEY, digest_of, load_checkpoint, save_checkpoint

CONFIG = {"size": "tiny", "flags": {"use_neural": True}, "lr": 0.1, "widths": [8, 16], "n": None}


def parts() -> dict[str, dict[str, torch.Tensor]]:
    """State dicts of several types and shapes, a scalar and a view among them."""
    numbers = torch.Generator().manual_seed(0)
    weights = torch.randn(4, 6, generator=numbers)
    return {
        "actor": {"weight": weights, "bias": weights.T[1:3], "scale": torch.tensor(2.5)},
        "critic": {
            "half": weights.bfloat16(),
            "count": torch.tensor([3, -1]),
            "mask": torch.tensor([True, False]),
            "double": weights.double().requires_grad_(),
        },
    }


@pytest.fixture
def path(tmp_path) -> Path:
    """A sound checkpoint."""
    file = tmp_path / "x.safetensors"
    save_checkpoint(file, "policy", CONFIG, parts())
    return file


def refusal(path: Path, kind: str = "policy") -> str:
    """The message with which load_checkpoint refuses; one line that begins with the file."""
    with pytest.raises(UserError) as caught:
        load_checkpoint(path, kind)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def rewrite(path: Path, header: dict, **tensors: torch.Tensor) -> None:
    """Writes a checkpoint again with parts of its header or some weights replaced."""
    loaded = load_checkpoint(path, "policy")
    whole = {"kind": "policy", "schema": 1, "digest": loaded.digest, "config": loaded.config}
    save_file({**load_file(path), **tensors}, path, {METADATA_KEY: json.dumps({**whole, **header})})


def test_round_trip_is_exact(path):
    """Types, shapes, values and configuration; nothing carries a gradient."""
    loaded = load_checkpoint(path, "policy")
    assert (loaded.kind, loaded.config) == ("policy", CONFIG)
    for part, state in parts().items():
        back = loaded.part(part)
        assert back.keys() == state.keys()
        for name, tensor in state.items():
            assert back[name].dtype == tensor.dtype
            assert back[name].shape == tensor.shape
            assert torch.equal(back[name], tensor.detach())
            assert not back[name].requires_grad


def test_a_part_is_not_one_whose_name_begins_alike(tmp_path):
    """`actor` does not take what belongs to `actor_target`."""
    path = tmp_path / "x.safetensors"
    one, two = torch.ones(1), torch.zeros(1)
    save_checkpoint(path, "policy", {}, {"actor": {"w": one}, "actor_target": {"w": two}})
    assert list(load_checkpoint(path, "policy").part("actor")) == ["w"]
    assert torch.equal(load_checkpoint(path, "policy").part("actor")["w"], one)


def test_the_same_content_gives_the_same_bytes(path, tmp_path):
    """Whatever the order of parts, names and keys; the returned digest is the stored one."""
    again = tmp_path / "y.safetensors"
    reordered = {part: dict(reversed(state.items())) for part, state in reversed(parts().items())}
    digest = save_checkpoint(again, "policy", dict(reversed(CONFIG.items())), reordered)
    assert again.read_bytes() == path.read_bytes()
    assert digest == load_checkpoint(path, "policy").digest
    assert len(digest) == 16
    assert {file.name for file in tmp_path.iterdir()} == {"x.safetensors", "y.safetensors"}


def test_the_digest_changes_with_name_type_shape_and_value():
    """And with nothing else: strides and gradients are not content."""
    w = torch.arange(6.0).reshape(2, 3)
    digests = [
        digest_of({"a": w}),
        digest_of({"b": w}),
        digest_of({"a": w.double()}),
        digest_of({"a": w.reshape(3, 2)}),
        digest_of({"a": w.view(torch.int32)}),
        digest_of({"a": torch.nextafter(w, w + 1)}),
        digest_of({"a": w, "b": w}),
        digest_of({}),
    ]
    assert len(set(digests)) == len(digests)
    strided = w.T.contiguous().T
    assert not strided.is_contiguous()
    assert digest_of({"a": strided.requires_grad_()}) == digests[0]


def test_another_kind_is_refused(path):
    """A segmenter is no policy."""
    assert refusal(path, "segmenter") == f"{path}: holds a policy, not a segmenter"


def test_another_schema_is_refused(path):
    """Named together with what this version reads and what to do."""
    rewrite(path, {"schema": 2})
    assert "checkpoint schema 2, this version reads 1; run `dvc repro`" in refusal(path)


@pytest.mark.parametrize(
    "change",
    [
        {"critic.count": torch.tensor([3, -2])},
        {"actor.extra": torch.zeros(1)},
        {"actor.scale": torch.tensor(2.5).double()},
    ],
)
def test_changed_weights_are_refused(path, change):
    """A value, a tensor more, another type."""
    rewrite(path, {}, **change)
    assert "weights do not match their digest" in refusal(path)


def test_one_flipped_bit_is_refused(path):
    """In the file itself, behind the header."""
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert "weights do not match their digest" in refusal(path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(path, keep):
    """Nothing, part of the head, part of the header, all but a byte."""
    path.write_bytes(path.read_bytes()[:keep])
    assert "not a checkpoint of this project" in refusal(path)


def test_a_pickle_is_refused_and_never_run(tmp_path):
    """What torch.save writes can run code when it is loaded; this one would leave a trace."""
    trace, path = tmp_path / "trace", tmp_path / "x.safetensors"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trace,)

    torch.save({"actor": torch.ones(2)}, path)
    assert "not a checkpoint of this project" in refusal(path)
    path.write_bytes(pickle.dumps(Trap()))
    assert "not a checkpoint of this project" in refusal(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {METADATA_KEY: "{"}])
def test_somebody_elses_safetensors_are_refused(tmp_path, metadata):
    """Without our header, or with one that is no JSON."""
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(2)}, path, metadata)
    assert "not a checkpoint of this project" in refusal(path)


@pytest.mark.parametrize("header", ["[]", "1", "no config"])
def test_a_header_of_another_form_is_refused(path, header):
    """JSON, but not ours."""
    if header == "no config":
        digest = load_checkpoint(path, "policy").digest
        header = json.dumps({"kind": "policy", "schema": 1, "digest": digest})
    save_file(load_file(path), path, {METADATA_KEY: header})
    refusal(path)


def test_a_missing_file_is_named(tmp_path):
    """And who trains it."""
    path = tmp_path / "none.safetensors"
    assert refusal(path) == f"{path}: not found; `dvc repro` trains it"


def test_a_configuration_that_is_not_json_is_refused_and_leaves_the_old_file(path):
    """NaN in the configuration: nothing is written."""
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(path, "policy", {"lr": float("nan")}, parts())
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
