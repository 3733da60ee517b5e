"""Trust in segments: who is doubted, who is not, and what becomes of it in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks.trust import two_sources
from lib.data.dataset import Dataset, Reference
from lib.data.manifest import segment_doubts
from lib.episode import PRIMITIVES
from lib.learning.device import start
from lib.losses.segmentation import segmentation_loss
from lib.models.heuristic import HeuristicSegmenter
from lib.models.unet import UNet
from lib.params import load_params
from lib.phase1_manifest.trust import (
    FEWEST,
    count_pairs,
    doubted_segments,
    segment_trust,
    usual_shares,
)
from lib.segmenter.train_segmenter import PixelTrust, class_balance, train_segmenter

SIZE, STEPS = 32, 3
TABLE, ARM, GRIPPER, HANDLE = (PRIMITIVES.index(n) for n in ("table", "arm", "gripper", "handle"))
BACKGROUND = PRIMITIVES.index("background")
BROWN, GREY, CYAN = (114, 88, 72), (127, 126, 122), (0, 255, 255)


def episodes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of a wall, a table and a cyan square, and labels that err as usual.

    One column of the table is called arm in every episode, which the judge never sees so.
    """
    images = np.zeros((count, STEPS, SIZE, SIZE, 3), np.uint8)
    labels = np.zeros(images.shape[:-1], np.uint8)
    for index in range(count):
        top = 8 + index % 4
        images[index], images[index, :, top:] = GREY, BROWN
        labels[index, :, top:] = TABLE
        labels[index, :, top:, -1] = ARM
        images[index, :, 20:26, 4:10], labels[index, :, 20:26, 4:10] = CYAN, GRIPPER
    return images, labels


def judged(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    pairs = np.array([count_pairs(*one) for one in zip(images, labels, strict=True)])
    usual = usual_shares(pairs)
    return np.array([segment_trust(one, usual) for one in pairs])


# Who is doubted


def test_the_judge_sees_the_scene():
    """Else the other tests prove nothing."""
    images, labels = episodes(4)
    seen = HeuristicSegmenter().primitives(images[:, 0])
    right = labels[:, 0] != ARM
    assert_array_equal(seen[right], labels[:, 0][right])


def test_rightly_labelled_episodes_have_no_doubt():
    """Although labels and judge differ in one pixel in thirty, as they do everywhere."""
    assert (judged(*episodes(FEWEST)) == 1).all()


def test_a_renamed_segment_is_found_and_its_right_neighbours_are_not():
    """The table of one episode is called gripper: gripper is doubted there, on the table alone."""
    images, labels = episodes(FEWEST)
    labels[3][labels[3] == TABLE] = GRIPPER
    trust = judged(images, labels)
    assert trust[3, GRIPPER, TABLE] == 0
    trust[3, GRIPPER, TABLE] = 1
    assert (trust == 1).all()


def test_trust_is_the_share_that_would_be_right():
    """Four times the usual share of the table is called arm: a quarter of it is believed."""
    images, labels = episodes(FEWEST)
    labels[3, :, 12:, -4:] = ARM
    trust = judged(images, labels)[3]
    assert trust[ARM, TABLE] == pytest.approx(0.25, abs=0.03)
    assert doubted_segments(trust) == {"arm": {"table": round(float(trust[ARM, TABLE]), 4)}}


def test_mistakes_are_found_without_a_single_exact_label():
    """A third of the episodes call the table handle, always: most are still right."""
    images, labels = episodes(12)
    wrong = np.arange(12) % 3 == 0
    labels[wrong] = np.where(labels[wrong] == TABLE, HANDLE, labels[wrong])
    trust = judged(images, labels)
    assert (trust[wrong, HANDLE, TABLE] == 0).all()
    trust[wrong, HANDLE, TABLE] = 1
    assert (trust == 1).all()


def test_who_has_seen_little_doubts_nothing():
    """Too few episodes to know what is usual; black pictures; a primitive of a few pixels."""
    images, labels = episodes(FEWEST - 1)
    labels[3][labels[3] == TABLE] = GRIPPER
    assert (judged(images, labels) == 1).all()
    assert not count_pairs(np.zeros_like(images[0]), labels[0]).any()
    assert not count_pairs(images[0][:0], labels[0][:0]).any()
    usual, few = np.eye(len(PRIMITIVES)), np.zeros((len(PRIMITIVES),) * 2, int)
    few[ARM, HANDLE] = 3
    many = few * 100
    assert segment_trust(many, usual * 0.9)[ARM, HANDLE] == 0
    assert segment_trust(few, np.full_like(usual, 0.05))[ARM, HANDLE] == 1


def test_a_manifest_says_who_is_doubted():
    """Names become a table by label and by what is seen; who is not named has none."""
    doubted = {"handle": {"table": 0.25, "arm": 0.0}}
    entries = [{"source": "sima2", "key": "a"}, {"source": "ros", "key": "b", "doubted": doubted}]
    tables = segment_doubts({"episodes": entries})
    assert list(tables) == [("ros", "b")]
    table = tables["ros", "b"]
    assert (table[HANDLE, TABLE], table[HANDLE, ARM]) == (0.25, 0)
    assert table.dtype == np.float32 and (table < 1).sum() == 2


# What becomes of it


def data(count: int = FEWEST) -> Dataset:
    """Episodes one after the other, the last of them to be tested on."""
    images, labels = episodes(count)
    references = [
        Reference(
            "sima2", str(i), "train" if i < count - 1 else "test", i * STEPS, (i + 1) * STEPS, {}
        )
        for i in range(count)
    ]
    arrays = {"obs/image": np.concatenate(images), "labels/segmentation": np.concatenate(labels)}
    return Dataset(arrays, references)


def doubt(label: int, seen: int, trust: float) -> np.ndarray:
    table = np.ones((len(PRIMITIVES),) * 2, np.float32)
    table[label, seen] = trust
    return table


def test_a_pixel_weighs_what_source_and_segment_are_worth():
    """Half for handle from this source, a tenth of that where the table is seen."""
    dataset = data()
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
    assert (PixelTrust(data(), table, doubts)(np.array([0, 2 * STEPS])) == 1).all()
    with pytest.raises(AssertionError, match="asked"):
        PixelTrust(data(), table, doubts)(np.array([STEPS]))


def test_a_doubted_pixel_has_no_gradient():
    """Of no term: boundary and primitive logits alike; every other pixel has one."""
    dataset = data()
    dataset.arrays["labels/segmentation"][0, 20:26, 4:10] = HANDLE
    table = {"sima2": np.ones(len(PRIMITIVES), np.float32)}
    weigh = PixelTrust(dataset, table, {("sima2", "0"): doubt(HANDLE, GRIPPER, 0.0)})
    labels = torch.from_numpy(dataset.arrays["labels/segmentation"][:1]).long()
    torch.manual_seed(0)
    boundary = torch.randn(1, 1, SIZE, SIZE, requires_grad=True)
    primitive = torch.randn(1, len(PRIMITIVES), SIZE, SIZE, requires_grad=True)
    weights = torch.from_numpy(weigh(np.array([0])))
    settings = {"alpha": 0.5, "gamma": 2.0, "focal_alpha": 0.75}
    settings |= {"lambda_boundary": 1.0, "lambda_primitive": 1.0}
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
        dataset = data()
        dataset.arrays["labels/segmentation"][:, 20:26, 4:10] = name
        doubts = {("sima2", e.key): doubt(name, GRIPPER, 0.0) for e in dataset.episodes}
        fabric = start(compute, 0)
        model = UNet(num_classes=len(PRIMITIVES), widths=settings.widths)
        found = {} if believed else doubts
        train_segmenter(model, dataset, table, settings, params.safety, fabric, found)
        learnt.append([p.detach().cpu() for p in model.parameters()])
    torch.use_deterministic_algorithms(deterministic)
    same = all(torch.equal(a, b) for a, b in zip(*learnt, strict=True))
    assert same is not believed


def test_classes_are_balanced_by_what_is_believed():
    """Wrong names are not counted; trust of one everywhere changes nothing, to the last bit."""
    labels = data().arrays["labels/segmentation"]
    wrong = labels.copy()
    wrong[:, 20:26, 4:10] = HANDLE
    trust = np.ones(labels.shape, np.float32)
    assert torch.equal(class_balance(labels, trust), class_balance(labels))
    trust[:, 20:26, 4:10] = 0
    assert class_balance(wrong)[HANDLE] > 0
    assert class_balance(wrong, trust)[HANDLE] == 0


# The benchmark


def test_the_benchmark_doubts_what_it_made_wrong():
    """Without exact episodes: nearly all wrong pixels are found, hardly a right one is blamed."""
    case = two_sources(data(41), 1 / 3, 0, consistent=False)
    assert case.wrong > 0.1
    assert case.found > 0.9 and case.blamed < 0.05
    assert case.weights["uniform"][1] == case.weights["source"][1] == {}
    assert len(case.weights["trust"][1]) > 10
