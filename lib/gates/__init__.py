"""The gates: thresholds that a run must reach before its results are relied on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.base.errors import GateError, UserError
from lib.base.files import read_json
from lib.base.paths import METRICS, relative
from lib.params import Section


class Gates(Section):
    """Thresholds; GATES names the metric that each one is compared with."""

    policy_success_any: float
    probe_min_r2: float
    probe_gain_r2: float
    boundary_f1_1px: float
    rnn_skill_k8: float


@dataclass(frozen=True)
class Gate:
    """One metric and its threshold.

    Attributes:
        param: Key of the threshold in the gates section.
        file: Name of the metrics file.
        metric: Dotted key of the metric.
        minus: Dotted key of another metric in the same file. If given, the difference of the two
            is compared with the threshold.
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
    """Returns the number at a dotted key.

    Args:
        metrics: Content of the metrics file.
        key: Dotted key, e.g. ``policy.success_any``.
        path: Path of the file, for the error message.

    Raises:
        UserError: If there is no number at the key.
    """
    value: Any = metrics
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"{relative(path)}: has no number {key}; run `dvc repro`")
    return float(value)


def judge(thresholds: Gates, folder: Path = METRICS) -> dict[str, Any]:
    """Compares every metric with its threshold.

    Args:
        thresholds: The gates section of params.yaml.
        folder: Folder with the metrics files.

    Returns:
        Content of metrics/success.json.

    Raises:
        GateError: If a gate failed; names each failed gate with its value and threshold.
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
        if not value >= threshold:  # written so that NaN fails
            failures.append(f"{name} is {value:g}, gates.{gate.param} is {threshold:g}")
        passed[gate.param] = {"value": value, "threshold": threshold}
    if failures:
        raise GateError("not passed: " + "; ".join(failures))
    return {"passed": len(passed), "gates": passed}
