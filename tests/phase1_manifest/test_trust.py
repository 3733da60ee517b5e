"""Trust in segments: which are doubted and which are not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from lib.data.manifest import segment_doubts
from lib.episode import PRIMITIVES, Episode
from lib.models.heuristic import HeuristicSegmenter
from lib.phase1_manifest.builder import HeuristicJudge
from lib.phase1_manifest.trust import (
    FEWEST,
    count_pairs,
    doubted_segments,
    segment_trust,
    usual_shares,
)
from tests.factories import ARM, GRIPPER, HANDLE, TABLE, drawn_episodes


def judged(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    pairs = np.array([count_pairs(*one) for one in zip(images, labels, strict=True)])
    usual = usual_shares(pairs)
    return np.array([segment_trust(one, usual) for one in pairs])


def test_the_judge_sees_the_scene():
    """Else the other tests prove nothing."""
    images, labels = drawn_episodes(4)
    seen = HeuristicSegmenter().primitives(images[:, 0])
    right = labels[:, 0] != ARM
    assert_array_equal(seen[right], labels[:, 0][right])


def recorded(images: np.ndarray, labels: np.ndarray) -> Episode:
    """An episode that holds pictures and labels, and nothing else that matters."""
    steps = np.zeros(len(images), np.float32)
    return Episode(
        key="a",
        obs={"image": images},
        actions=steps[:, None],
        rewards=steps,
        dones=steps.astype(np.uint8),
        vector_rewards=np.zeros((len(images), 3), np.float32),
        labels={"segmentation": labels},
        tags={},
    )


def test_labels_of_the_heuristic_are_trusted_as_often_as_they_are_right():
    """The precision on exact labels: what it calls table is the arm in one column of 32.

    Of a primitive that it never saw, the prior is left. Exact labels are trusted in full.
    """
    images, labels = drawn_episodes(4)
    judge = HeuristicJudge(frames=100)
    for image, label in zip(images, labels, strict=True):
        judge.see(recorded(image, label))
    said = HeuristicSegmenter().primitives(images.reshape(-1, *images.shape[2:]))
    called = labels.reshape(said.shape)[said == TABLE]
    silver = judge.silver(prior=0.5)
    assert 0.9 < (called == TABLE).mean() < 0.99
    assert silver["table"]["trust"] == pytest.approx((called == TABLE).mean(), abs=1e-4)
    assert silver["gripper"]["trust"] == 1 and silver["drawer"] == {"trust": 0.5, "pixels": 0}
    assert {cell["trust"] for cell in judge.exact().values()} == {1.0}


def test_rightly_labelled_episodes_have_no_doubt():
    """Although labels and judge differ in one pixel in thirty, as they do everywhere."""
    assert (judged(*drawn_episodes(FEWEST)) == 1).all()


def test_a_renamed_segment_is_found_and_its_right_neighbours_are_not():
    """The table of one episode is called gripper: gripper is doubted there, on the table alone."""
    images, labels = drawn_episodes(FEWEST)
    labels[3][labels[3] == TABLE] = GRIPPER
    trust = judged(images, labels)
    assert trust[3, GRIPPER, TABLE] == 0
    trust[3, GRIPPER, TABLE] = 1
    assert (trust == 1).all()


def test_trust_is_the_share_that_would_be_right():
    """Four times the usual share of the table is called arm: a quarter of it is believed."""
    images, labels = drawn_episodes(FEWEST)
    labels[3, :, 12:, -4:] = ARM
    trust = judged(images, labels)[3]
    assert trust[ARM, TABLE] == pytest.approx(0.25, abs=0.03)
    assert doubted_segments(trust) == {"arm": {"table": round(float(trust[ARM, TABLE]), 4)}}


def test_mistakes_are_found_without_a_single_exact_label():
    """A third of the episodes call the table handle, always: most are still right."""
    images, labels = drawn_episodes(12)
    wrong = np.arange(12) % 3 == 0
    labels[wrong] = np.where(labels[wrong] == TABLE, HANDLE, labels[wrong])
    trust = judged(images, labels)
    assert (trust[wrong, HANDLE, TABLE] == 0).all()
    trust[wrong, HANDLE, TABLE] = 1
    assert (trust == 1).all()


def test_who_has_seen_little_doubts_nothing():
    """Too few episodes to know what is usual; black pictures; a primitive of a few pixels."""
    images, labels = drawn_episodes(FEWEST - 1)
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
