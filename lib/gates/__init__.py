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
    policy_success_last: float
    policy_steps: float
    policy_drawers: float
    policy_drawers_ratio: float
    policy_drawers_ratio_with_pause: float
    policy_pace_over_script: float
    policy_blows: float
    policy_wages: float
    energy_success_any: float
    energy_ratio: float
    energy_drawers_ratio: float
    energy_blows: float
    energy_wages: float
    stress_success_lowest: float
    stress_misgrasp: float
    wide_scripted: float
    wide_cloned: float
    wide_replay: float
    wide_replay_third: float
    wide_black: float
    wide_black_third: float
    wide_proprio: float
    wide_proprio_third: float
    metaworld_policy: float
    probe_min_r2: float
    probe_gain_r2: float
    probe_stress_min_r2: float
    rnn_skill_k8: float
    rnn_skill_of_actions: float
    surprise_auroc: float
    boundary_f1: float
    boundary_f1_1px: float
    primitive_miou: float
    primitive_miou_gain: float
    router_accuracy: float


@dataclass(frozen=True)
class Gate:
    """One metric and its threshold.

    Attributes:
        param: Key of the threshold in the gates section.
        file: Name of the metrics file.
        metric: Dotted key of the metric. One part may be ``*``: then the worst of all keys there
            counts.
        minus: Dotted key of another metric in the same file. If given, the difference of the two
            is compared with the threshold.
        over: Dotted key of another metric in the same file. If given, the quotient of the two is
            compared with the threshold.
        at_most: Whether the threshold is the highest value that passes, instead of the lowest.
    """

    param: str
    file: str
    metric: str
    minus: str | None = None
    over: str | None = None
    at_most: bool = False


GATES = (
    Gate("policy_success_any", "evaluate.json", "policy.success_any"),
    Gate("policy_success_last", "evaluate.json", "policy.success_last"),
    Gate("policy_steps", "evaluate.json", "policy.steps_mean", at_most=True),
    Gate("policy_drawers", "evaluate.json", "policy.mpl_units_per_hour"),
    Gate("policy_drawers_ratio", "evaluate.json", "ratio.mpl"),
    Gate("policy_drawers_ratio_with_pause", "evaluate.json", "ratio.mpl_with_pause"),
    Gate(
        "policy_pace_over_script",
        "evaluate.json",
        "policy.mpl_units_per_hour",
        over="fast_script.mpl_units_per_hour",
    ),
    Gate("policy_blows", "evaluate.json", "policy.damage_rate", at_most=True),
    Gate("policy_wages", "evaluate.json", "policy.wage_parity"),
    Gate("energy_success_any", "evaluate.json", "presets.energy.success_any"),
    Gate("energy_ratio", "evaluate.json", "presets.energy.energy_ratio", at_most=True),
    Gate("energy_drawers_ratio", "evaluate.json", "presets.energy.mpl_ratio"),
    Gate("energy_blows", "evaluate.json", "presets.energy.damage_rate", at_most=True),
    Gate("energy_wages", "evaluate.json", "presets.energy.wage_parity"),
    Gate("stress_success_lowest", "evaluate.json", "stress.*.success_any"),
    Gate("stress_misgrasp", "evaluate.json", "stress.misgrasp.success_any"),
    Gate("wide_scripted", "evaluate.json", "wide.scripted.success_any"),
    Gate("wide_cloned", "evaluate.json", "wide.cloned.success_any"),
    Gate("wide_replay", "evaluate.json", "wide.replay.success_any", at_most=True),
    Gate("wide_replay_third", "evaluate.json", "wide.replay.best_third", at_most=True),
    Gate("wide_black", "evaluate.json", "wide.black.success_any", at_most=True),
    Gate("wide_black_third", "evaluate.json", "wide.black.best_third", at_most=True),
    Gate("wide_proprio", "evaluate.json", "wide.proprio_only.success_any", at_most=True),
    Gate("wide_proprio_third", "evaluate.json", "wide.proprio_only.best_third", at_most=True),
    Gate("metaworld_policy", "evaluate.json", "metaworld.policy.success_any"),
    Gate("probe_min_r2", "vision.json", "probe.min_r2"),
    Gate("probe_gain_r2", "vision.json", "probe.min_r2", minus="probe_random.min_r2"),
    Gate("probe_stress_min_r2", "vision.json", "probe_stress.min_r2"),
    Gate("rnn_skill_k8", "rnn.json", "skill.k8"),
    Gate("rnn_skill_of_actions", "rnn.json", "skill.k8", minus="skill_shuffled_actions.k8"),
    Gate("surprise_auroc", "rnn.json", "surprise.auroc"),
    Gate("boundary_f1", "segmenter.json", "boundary_f1"),
    Gate("boundary_f1_1px", "segmenter.json", "boundary_f1_1px"),
    Gate("primitive_miou", "segmenter.json", "primitive_miou"),
    Gate(
        "primitive_miou_gain", "segmenter.json", "primitive_miou", minus="heuristic.primitive_miou"
    ),
    Gate("router_accuracy", "segmenter.json", "router_accuracy"),
)


def lookup(metrics: dict[str, Any], key: str, path: Path, *, highest: bool = False) -> float:
    """Returns the number at a dotted key.

    Args:
        metrics: Content of the metrics file.
        key: Dotted key, e.g. ``policy.success_any``. At a part ``*``, all keys are looked up.
        path: Path of the file, for the error message.
        highest: Whether the highest number of several is returned, instead of the lowest.

    Raises:
        UserError: If there is no number at the key.
    """
    found: list[Any] = [metrics]
    for part in key.split("."):
        found = [
            inner
            for value in found
            for inner in (
                (value.values() if part == "*" else [value.get(part)])
                if isinstance(value, dict)
                else [None]
            )
        ]
    numbers = [v for v in found if isinstance(v, int | float) and not isinstance(v, bool)]
    if not found or len(numbers) < len(found):
        raise UserError(f"{relative(path)}: has no number {key}; run `dvc repro`")
    return float(max(numbers) if highest else min(numbers))


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
        value = lookup(metrics, gate.metric, path, highest=gate.at_most)
        threshold = getattr(thresholds, gate.param)
        name, bound = f"{relative(path)} {gate.metric}", "at most" if gate.at_most else "at least"
        if gate.minus:
            value = round(value - lookup(metrics, gate.minus, path), 6)
            name += f" - {gate.minus}"
        if gate.over:
            value = round(value / max(lookup(metrics, gate.over, path), 1e-9), 6)
            name += f" / {gate.over}"
        if not (value <= threshold if gate.at_most else value >= threshold):  # NaN fails
            failures.append(f"{name} is {value:g}, gates.{gate.param} is {bound} {threshold:g}")
        passed[gate.param] = {"value": value, bound.replace(" ", "_"): threshold}
    if failures:
        raise GateError("not passed: " + "; ".join(failures))
    return {"passed": len(passed), "gates": passed}
