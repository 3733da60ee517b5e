"""The ConditionVector: inputs of the policy besides its observation.

The numbers have a fixed, versioned order. Categories are one-hot. Any unknown value is an error:
for a skill or task without training, the policy must not act under a default instead.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lib.episode import OBJECTIVES, SKILLS

SCHEMA = 1
TASKS = ("drawer_open",)
NOVELTY_TIERS = 3
CURRICULUM_PHASES = ("offline", "online", "deployed")
ECON_FIELDS = ("target_mpl", "wage_parity", "energy_budget")

# Divisors that bring the values of an econ_slice to order one: they are thousands of units an
# hour, parities of order ten, and hundredths of a Wh.
ECON_SCALES = np.array([1e4, 10.0, 0.01])


@dataclass(frozen=True)
class ConditionVector:
    """Conditions of one step.

    Attributes:
        task: One of TASKS.
        skill_mode: One of SKILLS; set by the router, never by the policy.
        weights: Preference over OBJECTIVES; non-negative, sums to one.
        econ_slice: target_mpl (units an hour), wage_parity, energy_budget (Wh a unit).
        novelty_tier: 0 known, 1 unusual, 2 unknown; ``novelty_tiers`` computes it from severity.
        ood_severity: Severity in [0, 1] from the surprise of the memory (lib/rnn/surprise.py).
        trust: Trust in the labels or sources behind the situation, in [0, 1].
        curriculum: One of CURRICULUM_PHASES.
    """

    task: str = "drawer_open"
    skill_mode: str = "reach"
    weights: tuple[float, ...] = (1.0, 0.0, 0.0)
    econ_slice: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ECON_FIELDS, 0.0))
    novelty_tier: int = 0
    ood_severity: float = 0.0
    trust: float = 1.0
    curriculum: str = "deployed"

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: If a value is invalid; names the field, the value and what is allowed.
        """
        _one_of("task", self.task, TASKS)
        _one_of("skill_mode", self.skill_mode, SKILLS)
        _one_of("curriculum", self.curriculum, CURRICULUM_PHASES)
        _one_of("novelty_tier", self.novelty_tier, range(NOVELTY_TIERS))
        weights = tuple(float(w) for w in self.weights)
        sound = len(weights) == len(OBJECTIVES) and all(w >= 0 for w in weights)
        if not sound or not abs(sum(weights) - 1) <= 1e-6:
            raise ValueError(f"weights: {self.weights} must be 3 shares that sum to one")
        object.__setattr__(self, "weights", weights)
        if set(self.econ_slice) != set(ECON_FIELDS):
            raise ValueError(f"econ_slice: needs exactly {', '.join(ECON_FIELDS)}")
        if not np.isfinite(list(self.econ_slice.values())).all():
            raise ValueError(f"econ_slice: {self.econ_slice} must be finite")
        for name in ("ood_severity", "trust"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)} is outside [0, 1]")

    def skill_index(self) -> int:
        """Returns the index of the policy head for the skill."""
        return SKILLS.index(self.skill_mode)

    def to_array(self) -> np.ndarray:
        """Returns the numbers in their fixed order, (CONDITION_DIM,) float32."""
        return np.concatenate(
            [
                np.eye(len(TASKS))[TASKS.index(self.task)],
                np.eye(len(SKILLS))[self.skill_index()],
                np.array(self.weights),
                np.array([self.econ_slice[name] for name in ECON_FIELDS]) / ECON_SCALES,
                np.eye(NOVELTY_TIERS)[self.novelty_tier],
                [self.ood_severity, self.trust],
                np.eye(len(CURRICULUM_PHASES))[CURRICULUM_PHASES.index(self.curriculum)],
            ]
        ).astype(np.float32)

    def to_json(self) -> str:
        """Returns the condition as JSON, with the schema version."""
        return json.dumps({"schema": SCHEMA, **dataclasses.asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ConditionVector:
        """Reads what ``to_json`` wrote.

        Args:
            text: JSON text.

        Raises:
            ValueError: If the schema is another, a field is unknown or a value is invalid.
        """
        values: Any = json.loads(text)
        if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
            raise ValueError(f"condition schema: this version reads {SCHEMA}")
        unknown = set(values) - {f.name for f in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"unknown condition fields: {', '.join(sorted(unknown))}")
        return cls(**values)


def _one_of(name: str, value: Any, allowed: Any) -> None:
    if value not in allowed or isinstance(value, float | bool):
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(map(str, allowed))}")


CONDITION_DIM = len(ConditionVector().to_array())

# Positions in the array of the parts that vary between the samples of a batch.
SKILL_SLICE = slice(len(TASKS), len(TASKS) + len(SKILLS))
WEIGHTS_SLICE = slice(SKILL_SLICE.stop, SKILL_SLICE.stop + len(OBJECTIVES))
ECON_SLICE = slice(WEIGHTS_SLICE.stop, WEIGHTS_SLICE.stop + len(ECON_FIELDS))
NOVELTY_SLICE = slice(ECON_SLICE.stop, ECON_SLICE.stop + NOVELTY_TIERS)
SEVERITY = NOVELTY_SLICE.stop


def novelty_tiers(severity_B: np.ndarray) -> np.ndarray:
    """Returns the novelty tier of each severity: 0 at severity 0, 2 at severity 1, else 1.

    Args:
        severity_B: Severities in [0, 1].
    """
    severity_B = np.asarray(severity_B)
    return (severity_B > 0).astype(np.int64) + (severity_B >= 1)


def condition_batch(
    base: ConditionVector, skills_B: np.ndarray, weights_BK: np.ndarray, severity_B: np.ndarray
) -> np.ndarray:
    """Returns conditions that differ in skill, preference and novelty only.

    Args:
        base: Condition that supplies all other fields.
        skills_B: Skill indices.
        weights_BK: Preferences over OBJECTIVES.
        severity_B: Severities in [0, 1], which determine ood_severity and novelty_tier.

    Returns:
        Conditions (B, CONDITION_DIM) float32.

    Raises:
        ValueError: If a skill index is unknown.
    """
    skills_B = np.asarray(skills_B)
    if skills_B.size and (skills_B.min() < 0 or skills_B.max() >= len(SKILLS)):
        raise ValueError(f"skill_mode: index outside 0 to {len(SKILLS) - 1}")
    batch = np.repeat(base.to_array()[None], len(skills_B), axis=0)
    batch[:, SKILL_SLICE] = np.eye(len(SKILLS), dtype=np.float32)[skills_B]
    batch[:, WEIGHTS_SLICE] = weights_BK
    batch[:, NOVELTY_SLICE] = np.eye(NOVELTY_TIERS, dtype=np.float32)[novelty_tiers(severity_B)]
    batch[:, SEVERITY] = severity_B
    return batch
