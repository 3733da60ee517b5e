"""The segmenter by rules: boundaries in closed form, coloured shapes, a rendered frame."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lib.episode import PRIMITIVES
from lib.models.heuristic import CHUNK, HeuristicSegmenter, boundary_of

COLOURS = {
    "background": (127, 126, 122),
    "table": (114, 88, 72),
    "arm": (120, 24, 24),
    "gripper": (0, 255, 255),
    "drawer_case": (101, 165, 101),
}


def test_boundary_is_both_sides_of_a_change_and_not_the_rim():
    """A square of 2x2 inside 5x5: its 4 pixels and the 8 that share an edge with it."""
    labels = np.zeros((1, 5, 5), np.uint8)
    labels[0, 1:3, 1:3] = 3
    expected = [
        ".##..",
        "####.",
        "####.",
        ".##..",
        ".....",
    ]
    assert ["".join(".#"[int(v)] for v in row) for row in boundary_of(labels)[0]] == expected


@given(
    arrays.arrays(
        np.uint8,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.integers(0, 2),
    )
)
def test_boundary_follows_its_definition_pixel_by_pixel(labels):
    """Equal to the definition written as a loop over 4-neighbours."""
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            near = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            near = [labels[n] for n in near if 0 <= n[0] < height and 0 <= n[1] < width]
            assert boundary_of(labels)[y, x] == any(n != labels[y, x] for n in near)


def test_plain_colours_are_told_apart():
    """A patch of each colour gets the primitive of that colour."""
    image = np.full((1, 96, 96, 3), COLOURS["background"], np.uint8)
    patches = {
        "arm": np.s_[0, 5:40, 5:20],
        "gripper": np.s_[0, 45:50, 8:12],
        "drawer_case": np.s_[0, 40:60, 60:70],
        "table": np.s_[0, 70:90],
    }
    for name, patch in patches.items():
        image[patch] = COLOURS[name]
    labels = HeuristicSegmenter().primitives(image)
    assert labels.dtype == np.uint8
    # The lower end of the red patch is taken for the palm.
    assert (labels[0, 5:25, 5:20] == PRIMITIVES.index("arm")).all()
    assert (labels[0, 35:40, 5:20] == PRIMITIVES.index("gripper")).all()
    for name in ("gripper", "drawer_case", "table"):
        assert (labels[patches[name]] == PRIMITIVES.index(name)).all(), name
    assert (labels[0, 60:70, :50] == PRIMITIVES.index("background")).all()


def test_the_same_picture_gets_the_same_labels_at_any_place_in_a_batch():
    """Components and statistics never mix pictures, not even across chunks."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (CHUNK + 3, 6, 6, 3), dtype=np.uint8)
    images = blocks.repeat(8, axis=1).repeat(8, axis=2)
    labels = HeuristicSegmenter().primitives(images)
    for index in (0, 1, CHUNK - 1, CHUNK, CHUNK + 2):
        single = HeuristicSegmenter().primitives(images[index : index + 1])
        np.testing.assert_array_equal(labels[index], single[0])


@settings(deadline=None, max_examples=30)
@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(0, 2), st.integers(1, 40), st.integers(1, 40), st.just(3)),
    )
)
def test_any_picture_gets_an_answer(images):
    """No size and no content makes it fail."""
    segmenter = HeuristicSegmenter()
    labels = segmenter.primitives(images)
    assert labels.shape == images.shape[:3]
    assert not len(labels) or labels.max() < len(PRIMITIVES)
    assert boundary_of(labels).dtype == bool


@pytest.mark.parametrize("shape, dtype", [((2, 8, 8), np.uint8), ((2, 8, 8, 3), np.float32)])
def test_other_arrays_are_refused(shape, dtype):
    with pytest.raises(ValueError, match="not uint8"):
        HeuristicSegmenter().primitives(np.zeros(shape, dtype))


def test_a_rendered_frame_is_segmented_as_the_simulator_says():
    """The camera's picture against exact labels: mean IoU of what is in the picture."""
    import lib.sim

    try:
        import mujoco

        mujoco.GLContext(8, 8).free()
    except Exception as error:  # each OpenGL backend has its own
        pytest.skip(f"no rendering here: {error}")
    env = lib.sim.make_env("drawer_open", seed=7, image_size=96).unwrapped
    observation, _ = env.reset(seed=7)
    exact = env.pixel_labels()
    env.close()
    said = HeuristicSegmenter().primitives(observation["image"][None])[0]
    present = np.unique(exact)
    assert len(present) >= 6
    iou = [((said == c) & (exact == c)).sum() / ((said == c) | (exact == c)).sum() for c in present]
    assert np.mean(iou) > 0.8
