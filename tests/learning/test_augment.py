"""Augmented views: numbers by hand."""

import pytest
import torch

from lib.learning.augment import Augment, shifted
from lib.models.frozen import to_unit


def generator(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 4) -> torch.Tensor:
    """Random (count, 16, 12, 3) uint8 pictures."""
    return torch.randint(0, 256, (count, 16, 12, 3), dtype=torch.uint8, generator=generator(1))


def test_a_view_without_strength_is_the_picture():
    """Nothing is changed that no parameter asks for; memory is channels last."""
    view = Augment(0, 0.0, 0.0, generator())(pictures())
    torch.testing.assert_close(view, to_unit(pictures()))
    assert view.is_contiguous(memory_format=torch.channels_last)


def test_a_shift_moves_the_content_and_repeats_the_border():
    """Row r, column c of the view is row r + down, column c + right, or the nearest there is."""
    shifts = torch.tensor([[2, -1, 0, 3], [0, 1, -2, -3]])
    view = Augment(3, 0.0, 0.0, generator())(pictures(), shifts)
    torch.testing.assert_close(view, to_unit(shifted(pictures(), shifts)))
    for index, (down, right) in enumerate(shifts.T.tolist()):
        rows = (torch.arange(16) + down).clamp(0, 15)
        columns = (torch.arange(12) + right).clamp(0, 11)
        expected = to_unit(pictures())[index][:, rows][:, :, columns]
        torch.testing.assert_close(view[index], expected)


def test_a_blur_spreads_a_point_by_its_variance_and_keeps_the_light():
    """The second moment along a side is sigma squared; the sum over the picture stays."""
    point = torch.zeros(64, 9, 9, 3, dtype=torch.uint8)
    point[:, 4, 4] = 255
    views = Augment(0, 0.0, 0.0, generator(), blur=0.8)(point)
    torch.testing.assert_close(views.sum((2, 3)), torch.ones(64, 3))
    moment = (views.sum(2) * (torch.arange(9) - 4.0) ** 2).sum(2)
    assert 0.5 < moment.max() <= 0.8**2 + 1e-6
    assert moment.min() < 0.1
    torch.testing.assert_close(moment, (views.sum(3) * (torch.arange(9) - 4.0) ** 2).sum(2))


def test_a_blur_wider_than_its_kernel_is_refused():
    """Three taps have a variance of one at most."""
    with pytest.raises(ValueError, match="blur"):
        Augment(0, 0.0, 0.0, generator(), blur=1.5)


def test_noise_and_colour_have_the_strength_that_was_asked_for():
    """Grey pictures: the noise's standard deviation, brightness within its range, no clipping."""
    grey = torch.full((64, 24, 24, 3), 128, dtype=torch.uint8)
    noisy = Augment(0, 0.0, 0.05, generator())(grey)
    assert noisy.std().item() == pytest.approx(0.05, rel=0.05)
    assert (noisy[0] != noisy[1]).any()
    means = Augment(0, 0.4, 0.0, generator())(grey).mean((1, 2, 3)) / (128 / 255)
    assert means.min() > 1 - 0.4 * 1.25
    assert means.max() < 1 + 0.4 * 1.25
    assert means.std() > 0.1


def test_views_depend_on_the_generator_alone():
    """The same seed gives the same views, the next call others."""
    first, second = (Augment(2, 0.4, 0.03, generator(5), blur=0.6) for _ in range(2))
    view = first(pictures())
    assert (view == second(pictures())).all()
    assert (view != first(pictures())).any()
