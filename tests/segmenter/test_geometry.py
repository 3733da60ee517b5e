"""Geometry of the parts in a segmentation: numbers by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.episode import PRIMITIVES
from lib.segmenter.geometry import NAMES, geometry_of

HANDLE, DRAWER = PRIMITIVES.index("handle"), PRIMITIVES.index("drawer")


def one_hot(classes: np.ndarray) -> torch.Tensor:
    """(B, H, W) classes as probabilities."""
    maps = torch.nn.functional.one_hot(torch.from_numpy(classes).long(), len(PRIMITIVES))
    return maps.movedim(-1, 1).float()


def measured(probabilities: torch.Tensor) -> dict[str, float]:
    """Geometry of one picture by name."""
    (numbers,) = geometry_of(probabilities)
    assert numbers.dtype == torch.float32
    return dict(zip(NAMES, numbers.tolist(), strict=True))


def box(top: int, left: int, height: int, width: int, part: int = HANDLE) -> torch.Tensor:
    """A 20 x 40 picture with one rectangle."""
    classes = np.zeros((1, 20, 40), int)
    classes[0, top : top + height, left : left + width] = part
    return one_hot(classes)


def test_a_rectangle_is_measured_in_shares_of_the_sides():
    """Rows 4 to 7, columns 10 to 19 of 20 x 40: centre, area, and the 5 % of mass at each edge."""
    values = measured(box(4, 10, 4, 10))
    assert values["handle_x"] == pytest.approx(15 / 40)
    assert values["handle_y"] == pytest.approx(6 / 20)
    assert values["handle_area"] == pytest.approx(math.sqrt(40 / 800))
    assert values["handle_left"] == pytest.approx((10 + 0.05 * 10) / 40)
    assert values["handle_bottom"] == pytest.approx((4 + 0.95 * 4) / 20)
    assert values["handle_right"] == pytest.approx((10 + 0.95 * 10) / 40)
    assert values["handle_top"] == pytest.approx((4 + 0.05 * 4) / 20)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 14), st.integers(0, 34), st.integers(2, 6), st.integers(2, 6))
def test_a_rectangle_anywhere(top, left, height, width):
    """The same closed form for all places and sizes, and for another part."""
    values = measured(box(top, left, height, width, DRAWER))
    assert values["drawer_x"] == pytest.approx((left + width / 2) / 40, abs=1e-6)
    assert values["drawer_y"] == pytest.approx((top + height / 2) / 20, abs=1e-6)
    assert values["drawer_left"] == pytest.approx((left + 0.05 * width) / 40, abs=1e-6)
    assert values["drawer_bottom"] == pytest.approx((top + 0.95 * height) / 20, abs=1e-6)
    assert values["handle_area"] == 0


def test_a_part_that_is_not_seen_is_in_the_middle_and_has_no_shape():
    """No division by zero, no NaN."""
    values = measured(one_hot(np.zeros((1, 20, 40), int)))
    shapeless = ("area", "width", "height", "slant")
    assert values == {name: 0.0 if name.endswith(shapeless) else 0.5 for name in NAMES}


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(2, 12), st.integers(-1, 1))
def test_the_shape_is_that_of_the_pixels(height, width, step):
    """Standard deviations and correlation of the pixels' places, as NumPy has them."""
    classes = np.zeros((1, 20, 40), int)
    for row in range(height):
        left = 10 + step * row
        classes[0, 4 + row, left : left + width] = HANDLE
    values = measured(one_hot(classes))
    rows, columns = np.nonzero(classes[0])
    assert values["handle_width"] == pytest.approx(columns.std() / 40, abs=1e-5)
    assert values["handle_height"] == pytest.approx(rows.std() / 20, abs=1e-5)
    assert values["handle_slant"] == pytest.approx(np.corrcoef(columns, rows)[0, 1], abs=1e-3)


def test_a_speck_that_counts_as_unseen_has_no_area():
    """One pixel is too little to say where the part is: all its numbers say so."""
    values = measured(box(4, 10, 1, 1))
    assert values["handle_x"] == 0.5
    assert values["handle_area"] == 0


def test_centroids_are_finer_than_a_pixel_and_doubt_does_not_count():
    """Weights 0.9 and 0.6 in two columns: (0.9 * 5.5 + 0.6 * 6.5) / 1.5; 0.3 everywhere else."""
    probabilities = torch.zeros(1, len(PRIMITIVES), 20, 40)
    probabilities[:, HANDLE] = 0.3
    probabilities[:, HANDLE, :10, 5] = 0.9
    probabilities[:, HANDLE, :10, 6] = 0.6
    values = measured(probabilities)
    assert values["handle_x"] == pytest.approx((0.9 * 5.5 + 0.6 * 6.5) / 1.5 / 40)
    assert values["handle_y"] == pytest.approx(5 / 20)
    assert values["handle_area"] == pytest.approx(math.sqrt(15 / 800))


def test_pictures_of_a_batch_do_not_meet():
    """Each is measured as if it were alone."""
    pictures = torch.cat([box(4, 10, 4, 10), box(0, 0, 20, 40), box(5, 5, 3, 9, DRAWER)])
    alone = torch.cat([geometry_of(picture[None]) for picture in pictures])
    assert torch.equal(geometry_of(pictures), alone)


def picture(*rows: str) -> np.ndarray:
    """(1, H, W) classes from digits."""
    return np.array([[[int(digit) for digit in row] for row in rows]], np.uint8)
