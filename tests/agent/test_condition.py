"""The ConditionVector: a fixed order of numbers, and no answer to what is unknown."""

import dataclasses
import json

import numpy as np
import pytest

from lib.agent.condition import (
    CONDITION_DIM,
    CURRICULUM_PHASES,
    NOVELTY_TIERS,
    SKILL_SLICE,
    TASKS,
    WEIGHTS_SLICE,
    ConditionVector,
    condition_batch,
)
from lib.episode import SKILLS
from lib.sim import tasks

FULL = ConditionVector(
    task="drawer_open",
    skill_mode="pull",
    weights=(0.5, 0.25, 0.25),
    econ_slice={"target_mpl": 5000.0, "wage_parity": 2.0, "energy_budget": 0.003},
    novelty_tier=2,
    ood_severity=0.75,
    trust=0.5,
    curriculum="online",
)


def test_the_order_of_the_numbers_is_this_one():
    """Written out by hand: a checkpoint trained on one order is wrong under any other."""
    expected = [
        *(1,),  # task
        *(0, 0, 1, 0),  # reach, hook, pull, recover
        *(0.5, 0.25, 0.25),  # task, econ, energy
        *(0.5, 0.2, 0.3),  # 5000 / 10000 units an hour, 2 / 10, 0.003 / 0.01 Wh
        *(0, 0, 1),  # novelty
        *(0.75, 0.5),  # severity, trust
        *(0, 1, 0),  # offline, online, deployed
    ]
    assert FULL.to_array().dtype == np.float32
    np.testing.assert_array_equal(FULL.to_array(), np.array(expected, np.float32))
    assert len(expected) == CONDITION_DIM


def test_categories_are_one_hot_and_all_differ():
    """Each value of a category has a place of its own."""
    for name, allowed in (
        ("skill_mode", SKILLS),
        ("novelty_tier", range(NOVELTY_TIERS)),
        ("curriculum", CURRICULUM_PHASES),
    ):
        arrays = np.array([dataclasses.replace(FULL, **{name: v}).to_array() for v in allowed])
        varying = arrays[:, np.ptp(arrays, axis=0) > 0]
        np.testing.assert_array_equal(varying, np.eye(len(allowed)))


def test_slices_point_at_skill_and_preference():
    """What training overwrites is what the array holds there."""
    array = FULL.to_array()
    np.testing.assert_array_equal(array[SKILL_SLICE], np.eye(4)[FULL.skill_index()])
    np.testing.assert_array_equal(array[WEIGHTS_SLICE], FULL.weights)
    assert SKILLS[FULL.skill_index()] == "pull"


def test_every_task_of_the_simulator_can_be_named():
    """The two lists may not drift apart."""
    assert tuple(tasks.TASKS) == TASKS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", "door_open"),
        ("skill_mode", "push"),
        ("skill_mode", 2),
        ("curriculum", "Online"),
        ("novelty_tier", 3),
        ("novelty_tier", -1),
        ("weights", (0.5, 0.5)),
        ("weights", (0.5, 0.25, 0.2)),
        ("weights", (1.5, -0.5, 0.0)),
        ("econ_slice", {}),
        (
            "econ_slice",
            {"target_mpl": 0.0, "wage_parity": 0.0, "energy_budget": 0.0, "other": 0.0},
        ),
        ("ood_severity", 1.5),
        ("ood_severity", float("nan")),
        ("trust", -0.1),
    ],
)
def test_what_is_unknown_is_an_error_that_names_the_field(field, value):
    """No default stands in for a skill or task that nobody trained."""
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(FULL, **{field: value})


def test_a_preference_that_is_no_number_is_refused():
    """NaN compares with nothing, so the rule has to be one that NaN fails."""
    with pytest.raises(ValueError, match="weights"):
        ConditionVector(weights=(float("nan"), 0.5, 0.5))


def test_json_round_trip_is_exact_and_sorted():
    """The text holds the schema, and reading it gives the same condition."""
    text = FULL.to_json()
    assert json.loads(text)["schema"] == 1
    assert text == json.dumps(json.loads(text), sort_keys=True)
    assert ConditionVector.from_json(text) == FULL


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema"),
        ({"colour": 1}, "unknown condition fields: colour"),
        ({"trust": 2}, "trust"),
    ],
)
def test_json_of_another_kind_is_refused(change, words):
    """Another version, a field nobody knows, a value out of range."""
    with pytest.raises(ValueError, match=words):
        ConditionVector.from_json(json.dumps({**json.loads(FULL.to_json()), **change}))


def test_json_without_a_schema_is_refused():
    """It may be of any version."""
    values = json.loads(FULL.to_json())
    del values["schema"]
    with pytest.raises(ValueError, match="schema"):
        ConditionVector.from_json(json.dumps(values))


def test_a_batch_differs_in_skill_preference_and_novelty_alone():
    """Row by row what one condition after the other would give."""
    skills = np.array([0, 3, 2])
    weights = np.array([[1.0, 0, 0], [0, 0.5, 0.5], [0.25, 0.25, 0.5]])
    severity = np.array([0.0, 0.25, 1.0])
    batch = condition_batch(FULL, skills, weights, severity)
    singles = [
        dataclasses.replace(
            FULL, skill_mode=SKILLS[s], weights=tuple(w), novelty_tier=tier, ood_severity=o
        ).to_array()
        for tier, (s, w, o) in enumerate(zip(skills, weights, severity, strict=True))
    ]
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch, np.array(singles))


def test_an_empty_batch_has_the_width_of_the_others():
    """No case of its own for whoever calls."""
    assert condition_batch(FULL, np.zeros(0, int), np.zeros((0, 3)), np.zeros(0)).shape == (
        0,
        CONDITION_DIM,
    )


@pytest.mark.parametrize("skill", [-1, len(SKILLS)])
def test_a_batch_refuses_unknown_skills(skill):
    """-1 would silently be the last one."""
    with pytest.raises(ValueError, match="skill_mode"):
        condition_batch(FULL, np.array([0, skill]), np.ones((2, 3)) / 3, np.zeros(2))
