"""The gates: thresholds that a run has to pass before anyone relies on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.errors import GateError, UserError
from lib.files import read_json
from lib.params import Gates
from lib.paths import METRICS, relative


@dataclass(frozen=True)
class Gate:
    """One threshold.

    Attributes:
        param: Its key in the gates section.
        file: Metrics file.
        metric: Dotted key of the value.
        minus: Dotted key of another value in the same file; the difference is judged.
    """

    param: str
    file: str
    metric: str
    minus: str | None = None


GATES = (
    Gate("policy_success_any", "evaluate.json", "policy.success_any"),
    Gate("probe_min_r2", "vision.json", "probe.min_r2"),
    Gate("probe_gain_r2", "vision.json", "probe.min_r2", minus="probe_random.min_r2"),
    Gate("boundary_f1_1px", "segmenter.json", "boundary_f1_1px"),
    Gate("rnn_skill_k8", "rnn.json", "skill.k8"),
)


def lookup(metrics: dict[str, Any], key: str, path: Path) -> float:
    """Returns a value by its dotted key.

    Args:
        metrics: What the file holds.
        key: E.g. ``policy.success_any``.
        path: The file, for the error.

    Raises:
        UserError: If there is no such number.
    """
    value: Any = metrics
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"{relative(path)}: has no number {key}; run `dvc repro`")
    return float(value)


def judge(thresholds: Gates, folder: Path = METRICS) -> dict[str, Any]:
    """Holds every metric against its threshold.

    Args:
        thresholds: The gates section of params.yaml.
        folder: Where the metrics files are.

    Returns:
        What metrics/success.json holds.

    Raises:
        GateError: Naming each gate that failed, its value and its threshold.
    """
    passed: dict[str, Any] = {}
    failures = []
    for gate in GATES:
        path = folder / gate.file
        metrics = read_json(path)
        value, threshold = lookup(metrics, gate.metric, path), getattr(thresholds, gate.param)
        name = f"{relative(path)} {gate.metric}"
        if gate.minus:
            value = round(value - lookup(metrics, gate.minus, path), 6)
            name += f" - {gate.minus}"
        if not value >= threshold:  # NaN passes no gate
            failures.append(f"{name} is {value:g}, gates.{gate.param} is {threshold:g}")
        passed[gate.param] = {"value": value, "threshold": threshold}
    if failures:
        raise GateError("not passed: " + "; ".join(failures))
    return {"passed": len(passed), "gates": passed}
