"""The frozen backbone is loaded frozen, or not at all."""

import numpy as np
import pytest
import torch

from lib.base.errors import UserError
from lib.learning.checkpoint import load_checkpoint, save_checkpoint
from lib.models.backbone import Backbone
from lib.models.encoder import LookScale, load_backbone


def test_the_frozen_backbone_has_no_gradients_and_one_that_is_not_frozen_is_refused(tmp_path):
    """Evaluation mode, flag and digest; the flag decides."""
    path = tmp_path / "backbone.safetensors"
    config = {"size": "tiny", "block": "X", "pyramid_channels": 8, "image_size": 32}
    usual = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
    weights = torch.zeros(8 * 2 * 2 + 1, 3)
    weights[-1] = torch.tensor([0.1, 0.2, 0.3])
    parts = {
        "backbone": Backbone("tiny", "X", 8).state_dict(),
        "look": LookScale.fit(usual, np.arange(8)).tensors(),
        "hand": {"weights": weights},
    }
    digest = save_checkpoint(path, "backbone", {**config, "frozen": True}, parts)
    frozen = load_backbone(path)
    assert frozen.digest == digest == load_checkpoint(path, "backbone").digest
    assert not frozen.model.training
    assert not any(p.requires_grad for p in frozen.model.parameters())
    seen = frozen(np.zeros((1, 32, 32, 3), np.uint8))
    assert set(seen) == {"p3", "p4", "p5", "look", "hand"}
    assert not seen["p4"].requires_grad
    torch.testing.assert_close(seen["hand"], weights[-1:])
    save_checkpoint(path, "backbone", {**config, "frozen": False}, parts)
    with pytest.raises(UserError, match="not frozen"):
        load_backbone(path)
