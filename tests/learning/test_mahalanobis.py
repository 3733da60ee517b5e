"""Mahalanobis distance: against the inverse of the covariance."""

import pytest
import torch

from lib.learning.ridge import Mahalanobis


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers of a generator of their own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_distance_is_one_on_average_where_it_was_fitted_and_grows_with_the_square():
    """Twice as far is four times the squared distance."""
    x = normal(400, 18)
    distance = Mahalanobis.fit(x.numpy(), 4)
    assert distance(x).mean().item() == pytest.approx(1.0, rel=0.05)
    torch.testing.assert_close(distance(2 * x), 4 * distance(x))


@pytest.mark.parametrize("size", [2, 18])
def test_the_distance_is_that_of_mahalanobis_over_the_number_of_dimensions(size):
    """With all axes it is x' C^-1 x / D, whatever the correlations."""
    x = normal(500, size, seed=4) @ normal(size, size, seed=3)
    inverse = torch.linalg.inv((x.T @ x / len(x)).double())
    expected = torch.einsum("bi,ij,bj->b", x.double(), inverse, x.double()) / size
    found = Mahalanobis.fit(x.numpy(), size)(x).double()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_single_number_is_measured_by_its_mean_square():
    """Without any axis, one variance is left."""
    x = torch.tensor([[1.0], [-3.0]])
    assert Mahalanobis.fit(x.numpy(), 8)(x).tolist() == pytest.approx([0.2, 1.8])


def test_an_unusual_direction_is_farther_than_a_usual_one_unless_the_floor_is_high():
    """The mean square calls both alike; the floor bounds how much rarer counts."""
    x = normal(300, 18) * 0.1
    x[:, 0] *= 30
    usual, unusual = torch.eye(18)[0][None] * 3, torch.eye(18)[-1][None] * 3
    distance = Mahalanobis.fit(x.numpy(), 4)
    assert distance(unusual) > 100 * distance(usual)
    distance = Mahalanobis.fit(x.numpy(), 4, floor=1.0)
    assert distance(unusual) < 20 * distance(usual)
