"""The network that locates the handle, and the skill that follows."""

import numpy as np
import torch

from lib.episode import STATE_HAND, STATE_HANDLE, STATE_YAW
from lib.params import load_params
from lib.segmenter.geometry import NAMES
from lib.segmenter.router import SkillRouter, train_locator
from tests.factories import dataset

STEPS = 1500
HANDLE_X, HANDLE_Y = NAMES.index("handle_x"), NAMES.index("handle_y")
SLANT = NAMES.index("drawer_slant")


def seen(seed: int, steps: int = STEPS):
    """Steps in which the geometry tells place and turn by a rule that is no straight line."""
    rng = np.random.default_rng(seed)
    geometry = rng.uniform(0, 1, (steps, len(NAMES))).astype(np.float32)
    hand = rng.uniform(-0.2, 0.2, (steps, 3)).astype(np.float32)
    state = np.zeros((steps, 11), np.float32)
    state[:, STATE_HAND] = hand
    state[:, STATE_HANDLE] = hand + 0.1
    state[:, STATE_HANDLE.start] = 0.4 * geometry[:, HANDLE_X] ** 2 + 0.3 * geometry[:, HANDLE_Y]
    state[:, STATE_YAW] = np.sin(3 * geometry[:, SLANT])
    fields = {"obs__eef_pos": hand, "obs__gripper": np.ones((steps, 1), np.float32)}
    return dataset(steps, labels__state=state, **fields), geometry, state


def trained(seed: int, **changes):
    params = load_params("segmenter", "safety")
    settings = params.segmenter.model_copy(update={"locator_steps": 600, **changes})
    data, geometry, _ = seen(0)
    return train_locator(data, geometry, settings, params.safety, seed)


def test_the_network_finds_the_handle_and_its_turn_in_pictures_it_never_saw():
    """Better than the best constant by far, in the units of the robot."""
    router = SkillRouter(trained(0))
    data, geometry, state = seen(1)
    located = router.locate(geometry, data.proprio())
    truth = np.c_[state[:, STATE_HANDLE] - state[:, STATE_HAND], state[:, STATE_YAW]]
    error = np.abs(located - truth).mean(0)
    constant = np.abs(truth - np.median(truth, 0)).mean(0)
    varies = constant > 0.01
    assert varies.sum() >= 2
    assert (error[varies] < 0.5 * constant[varies]).all()
    assert (error[~varies] < 0.005).all()


def test_the_same_seed_gives_the_same_network_whatever_was_drawn_before():
    """Another one another, and the generator of whoever calls stays as it was."""
    one = trained(0).state_dict()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again, other = trained(0).state_dict(), trained(1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_inputs_are_scaled_by_the_training_steps():
    """Mean and deviation stand in the checkpoint, so that serving scales alike."""
    locator = trained(0)
    data, geometry, _ = seen(0)
    inputs = np.concatenate([geometry, data.proprio()[:, :3]], 1)
    np.testing.assert_allclose(locator.mean, inputs.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(locator.scale, inputs.std(0), rtol=1e-4)
    assert {"mean", "scale"} <= set(locator.state_dict())
