"""Trust weights in the training of the segmenter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from lib.episode import PRIMITIVES
from lib.learning.device import start
from lib.losses.segmentation import segmentation_loss
from lib.models.heuristic import HeuristicSegmenter
from lib.models.unet import UNet
from lib.params import load_params
from lib.phase1_manifest.trust import (
    FEWEST,
)
from lib.segmenter.train_segmenter import PixelTrust, class_balance, train_segmenter
from tests.factories import ARM, GRIPPER, HANDLE, SIZE, STEPS, TABLE, drawn_dataset


def doubt(label: int, seen: int, trust: float) -> np.ndarray:
    table = np.ones((len(PRIMITIVES),) * 2, np.float32)
    table[label, seen] = trust
    return table


def test_a_pixel_weighs_what_source_and_segment_are_worth():
    """Half for handle from this source, a tenth of that where the table is seen."""
    dataset = drawn_dataset(FEWEST)
    labels = dataset.arrays["labels/segmentation"]
    labels[STEPS : 2 * STEPS] = HANDLE
    row = np.ones(len(PRIMITIVES), np.float32)
    row[HANDLE] = 0.5
    weigh = PixelTrust(dataset, {"sima2": row}, {("sima2", "1"): doubt(HANDLE, TABLE, 0.1)})
    trusted, doubted = weigh(np.array([0, STEPS]))
    assert (trusted == 1).all()
    seen = HeuristicSegmenter().primitives(dataset.arrays["obs/image"][[STEPS]])[0]
    assert_allclose(doubted, np.where(seen == TABLE, 0.05, 0.5))


def test_without_doubts_nobody_is_asked(monkeypatch):
    """Frames of other episodes cost nothing."""

    def ask(*_):
        raise AssertionError("the judge was asked")

    monkeypatch.setattr(HeuristicSegmenter, "primitives", ask)
    table = {"sima2": np.ones(len(PRIMITIVES), np.float32)}
    doubts = {("sima2", "1"): doubt(HANDLE, TABLE, 0.1)}
    assert (PixelTrust(drawn_dataset(FEWEST), table, doubts)(np.array([0, 2 * STEPS])) == 1).all()
    with pytest.raises(AssertionError, match="asked"):
        PixelTrust(drawn_dataset(FEWEST), table, doubts)(np.array([STEPS]))


def test_a_doubted_pixel_has_no_gradient():
    """Of no term: boundary and primitive logits alike; every other pixel has one."""
    dataset = drawn_dataset(FEWEST)
    dataset.arrays["labels/segmentation"][0, 20:26, 4:10] = HANDLE
    table = {"sima2": np.ones(len(PRIMITIVES), np.float32)}
    weigh = PixelTrust(dataset, table, {("sima2", "0"): doubt(HANDLE, GRIPPER, 0.0)})
    labels = torch.from_numpy(dataset.arrays["labels/segmentation"][:1]).long()
    torch.manual_seed(0)
    boundary = torch.randn(1, 1, SIZE, SIZE, requires_grad=True)
    primitive = torch.randn(1, len(PRIMITIVES), SIZE, SIZE, requires_grad=True)
    weights = torch.from_numpy(weigh(np.array([0])))
    settings = {"alpha": 0.5, "gamma": 2.0, "focal_alpha": 0.75}
    settings |= {"lambda_boundary": 1.0, "lambda_primitive": 1.0, "primitive_dice": 1.0}
    loss = segmentation_loss(boundary, primitive, labels == HANDLE, labels, weights, **settings)
    loss["total"].backward()
    square = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    square[20:26, 4:10] = True
    for gradient in (boundary.grad[0, 0], primitive.grad[0].abs().sum(0)):
        assert (gradient[square] == 0).all() and (gradient[~square] != 0).all()


@pytest.mark.parametrize("believed", [False, True])
def test_training_does_not_learn_what_is_not_believed(believed):
    """The square called handle or arm, on the same edges: the same network, if both are doubted."""
    params = load_params("compute", "safety", "segmenter")
    small = {"widths": [4, 8], "steps": 3, "batch_size": 4}
    settings = params.segmenter.model_copy(update=small)
    compute = params.compute.model_copy(update={"threads": torch.get_num_threads()})
    deterministic = torch.are_deterministic_algorithms_enabled()
    table = {"sima2": np.ones(len(PRIMITIVES), np.float32)}
    learnt = []
    for name in (HANDLE, ARM):
        dataset = drawn_dataset(FEWEST)
        dataset.arrays["labels/segmentation"][:, 20:26, 4:10] = name
        doubts = {("sima2", e.key): doubt(name, GRIPPER, 0.0) for e in dataset.episodes}
        fabric = start(compute, 0)
        model = UNet(num_classes=len(PRIMITIVES), widths=settings.widths)
        found = {} if believed else doubts
        train_segmenter(model, dataset, table, settings, params.safety, fabric, 0, found)
        learnt.append([p.detach().cpu() for p in model.parameters()])
    torch.use_deterministic_algorithms(deterministic)
    same = all(torch.equal(a, b) for a, b in zip(*learnt, strict=True))
    assert same is not believed


def test_classes_are_balanced_by_what_is_believed():
    """Wrong names are not counted; trust of one everywhere changes nothing, to the last bit."""
    labels = drawn_dataset(FEWEST).arrays["labels/segmentation"]
    wrong = labels.copy()
    wrong[:, 20:26, 4:10] = HANDLE
    trust = np.ones(labels.shape, np.float32)
    assert torch.equal(class_balance(labels, trust), class_balance(labels))
    trust[:, 20:26, 4:10] = 0
    assert class_balance(wrong)[HANDLE] > 0
    assert class_balance(wrong, trust)[HANDLE] == 0


def test_the_class_weights_are_taken_back_after_training():
    """Without a step worth the name, the biases are those of the start less the log weights."""
    params = load_params("compute", "safety", "segmenter")
    small = {"widths": [4, 8], "steps": 1, "batch_size": 4, "lr": 1e-12}
    settings = params.segmenter.model_copy(update=small)
    compute = params.compute.model_copy(update={"threads": torch.get_num_threads()})
    deterministic = torch.are_deterministic_algorithms_enabled()
    dataset, table = drawn_dataset(FEWEST), {"sima2": np.ones(len(PRIMITIVES), np.float32)}
    fabric = start(compute, 0)
    model = UNet(num_classes=len(PRIMITIVES), widths=settings.widths)
    before = model.primitive_head.bias.detach().clone()
    train_segmenter(model, dataset, table, settings, params.safety, fabric, 0)
    torch.use_deterministic_algorithms(deterministic)
    weights = class_balance(dataset.arrays["labels/segmentation"][dataset.rows(["train"])])
    assert 0 < (weights == 0).sum() < len(PRIMITIVES) - 1
    expected = torch.where(weights > 0, -weights.clamp_min(1e-9).log(), 0.0)
    torch.testing.assert_close(model.primitive_head.bias - before, expected, atol=1e-6, rtol=0)
