"""Networks prepared for inference."""

from __future__ import annotations

import pytest
import torch
from numpy.testing import assert_allclose

from lib.episode import PRIMITIVES
from lib.models.backbone import Backbone
from lib.models.frozen import folded
from lib.models.unet import UNet

SIZE = 32


def unet(seed: int = 0) -> UNet:
    """A small network whose normalisations have seen something, in evaluation mode."""
    torch.manual_seed(seed)
    model = UNet(num_classes=len(PRIMITIVES), widths=(4, 6, 8))
    for _ in range(3):
        model(torch.rand(4, 3, SIZE, SIZE) * 0.5)
    return model.eval()


@pytest.mark.parametrize("build", [unet, lambda: Backbone("tiny", "Y", 24)])
def test_a_folded_network_computes_the_same(build):
    """To rounding, in double precision; no normalisation is left, the original is untouched."""
    model = build().double().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -1, 1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(2, 3, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        found, truth = (net(images) for net in (folded(model), model))
    for key in truth if isinstance(truth, dict) else (0, 1):
        assert_allclose(found[key], truth[key], rtol=0, atol=1e-11)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded(model).modules())
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
