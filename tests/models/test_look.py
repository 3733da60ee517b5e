"""How unusual a picture looks: statistics by hand, distances of real kinds of change."""

import numpy as np
import torch

from lib.models.encoder import LookScale, statistics


def test_the_statistics_are_mean_and_spread_of_each_part():
    """Two parts of 16 pixels: one plain, one of two halves."""
    image = np.zeros((1, 16, 32, 3), np.uint8)
    image[:, :, :16] = 51
    image[:, :8, 16:] = 255
    mean, spread = statistics(image)[0].chunk(2)
    torch.testing.assert_close(mean, torch.tensor([0.2, 0.5]).repeat(3))
    torch.testing.assert_close(spread, torch.tensor([0.0, 0.5]).repeat(3), atol=1e-3, rtol=0)


def test_usual_pictures_are_at_one_and_dark_flat_or_black_ones_far_away():
    """Fitted on random pictures, of which each has a brightness of its own."""
    rng = np.random.default_rng(0)
    bright = rng.uniform(100, 150, (400, 1, 1, 1))
    images = (bright + rng.normal(0, 20, (400, 32, 32, 3))).clip(0, 255).astype(np.uint8)
    scale = LookScale.fit(images, np.arange(300))
    usual = scale(images[300:])
    assert usual.shape == (100, 1)
    assert 0.8 < usual.mean() < 1.3
    for change in (images // 3, np.full_like(images, 125), np.zeros_like(images)):
        assert scale(change).min() > 2 * usual.max()
        assert torch.isfinite(scale(change).half()).all()
    again = LookScale(scale.tensors())
    torch.testing.assert_close(again(images), scale(images))
