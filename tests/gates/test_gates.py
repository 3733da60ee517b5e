"""Gates: which metric fails, how it is told, and that a regression cannot pass."""

import copy
import json
import math
import re

import pytest

from lib.base.errors import GateError, UserError
from lib.base.paths import METRICS, ROOT
from lib.gates import GATES, Gates, judge
from lib.params import load_params

FILES = sorted({gate.file for gate in GATES})
REACHED = {name: json.loads((METRICS / name).read_text()) for name in FILES}
THRESHOLDS = load_params("gates").gates

# Rows of README's table that no gate holds: other robots and other networks beside ours, and a
# setting.
BASELINES = {
    "evaluate cloned.steps_mean",
    "evaluate metaworld.replay.success_any",
    "evaluate scripted.steps_mean",
    "evaluate fast_script.steps_mean",
    "evaluate teacher.steps_mean",
    "evaluate scripted.wage_parity",
    "evaluate fast_script.wage_parity",
    "evaluate stress.misgrasp.scripted",
    "policy online_steps",
    "vision probe_random.min_r2",
    "rnn skill_shuffled_actions.k8",
    "segmenter heuristic.primitive_miou",
}


@pytest.fixture
def metrics(tmp_path):
    """A folder with the metrics that are committed; the function replaces one number of them."""
    found = copy.deepcopy(REACHED)

    def replace(name: str, key: str, value: object) -> None:
        inner, (*parts, last) = found[name], key.split(".")
        for part in parts:
            inner = inner[part]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
        (tmp_path / name).write_text(json.dumps(found[name]))

    for name, value in found.items():
        (tmp_path / name).write_text(json.dumps(value))
    replace.folder, replace.found = tmp_path, found
    return replace


def verdict(folder) -> str:
    """The message of the gates that failed; empty if all passed."""
    try:
        judge(THRESHOLDS, folder)
    except GateError as error:
        assert error.exit_code == 1 and "\n" not in str(error)
        return str(error)
    return ""


def test_the_committed_run_passes_and_every_gate_is_listed(metrics):
    """With value, threshold and the side that passes."""
    result = judge(THRESHOLDS, metrics.folder)
    assert result["passed"] == len(GATES) == len(result["gates"])
    for gate in GATES:
        listed = result["gates"][gate.param]
        side = "at_most" if gate.at_most else "at_least"
        assert listed.keys() == {"value", side}
        assert listed[side] == getattr(THRESHOLDS, gate.param)


def test_every_threshold_of_the_params_has_its_gate():
    """None is written down and never looked at."""
    assert sorted(gate.param for gate in GATES) == sorted(Gates.model_fields)


def test_every_number_that_the_readme_claims_has_a_gate():
    """But those of baselines."""
    rows = re.findall(r"^\|.*\| `(\w+ [\w.]+)` \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    held = {f"{gate.file.removesuffix('.json')} {gate.metric}" for gate in GATES}
    assert set(rows) - BASELINES <= held
    assert set(rows) >= BASELINES


def test_every_gate_fails_just_beyond_its_threshold_and_passes_on_it(metrics):
    """Each alone, and it is named with its value."""
    for gate in GATES:
        threshold = getattr(THRESHOLDS, gate.param)
        key = gate.metric.replace("*", "push")
        name, found = gate.file, copy.deepcopy(metrics.found[gate.file])
        values = {}
        for other in (gate.minus, gate.over):
            if other:
                inner = found
                for part in other.split("."):
                    inner = inner[part]
                values[other] = inner
        wanted = threshold + values.get(gate.minus, 0)
        wanted *= values.get(gate.over, 1)
        step = 1e-4 * max(1.0, abs(wanted))
        for beyond, fails in ((step, gate.at_most), (-step, not gate.at_most)):
            metrics(name, key, wanted + beyond)
            assert (f"gates.{gate.param} is" in verdict(metrics.folder)) is fails, gate
        metrics.found[name] = found
        (metrics.folder / name).write_text(json.dumps(found))
    assert verdict(metrics.folder) == ""


def test_all_gates_that_fail_are_named_at_once(metrics):
    """In one line."""
    metrics("rnn.json", "skill.k8", 0.1)
    metrics("segmenter.json", "boundary_f1_1px", 0.1)
    assert re.search("skill.k8 is 0.1.*; .*boundary_f1_1px is 0.1", verdict(metrics.folder))


def test_the_worst_of_several_numbers_counts(metrics):
    """One kind of stress that the robot cannot bear is enough."""
    metrics("evaluate.json", "stress.latency.success_any", 0.1)
    assert "stress.*.success_any is 0.1" in verdict(metrics.folder)


@pytest.mark.parametrize(
    ("name", "now", "baseline"),
    [
        ("evaluate.json", "policy", "cloned"),
        ("evaluate.json", "policy", "scripted"),
        ("vision.json", "probe", "probe_random"),
        ("vision.json", "probe_stress", "probe_stress_random"),
        ("rnn.json", "skill", "skill_shuffled_actions"),
        ("segmenter.json", "", "heuristic"),
    ],
)
def test_a_regression_to_a_baseline_fails(metrics, name, now, baseline):
    """The policy becomes its clone or a script, a network its untrained counterpart."""
    published = json.loads((METRICS / "policy.json").read_text())["best_step"]
    if now == "policy" and published == 0:
        pytest.skip("no online step was better: the published policy is a clone of the script")
    worse = metrics.found[name][baseline]
    if now:
        metrics(name, now, worse)
    else:
        for key, value in worse.items():
            metrics(name, key, value)
    assert verdict(metrics.folder)


@pytest.mark.parametrize("value", [None, "0.9", [0.9], True])
def test_a_metric_that_is_not_there_is_bad_input(metrics, value):
    """Neither passed nor failed: nobody measured it."""
    metrics("rnn.json", "skill.k8", value)
    with pytest.raises(UserError, match=r"rnn.json: has no number skill\.k8") as caught:
        judge(THRESHOLDS, metrics.folder)
    assert caught.value.exit_code == 2


def test_no_kind_of_stress_is_bad_input(metrics):
    """An empty table has no worst number."""
    metrics("evaluate.json", "stress", {})
    with pytest.raises(UserError, match="has no number stress"):
        judge(THRESHOLDS, metrics.folder)


def test_nan_never_passes(metrics):
    """Python's JSON reader takes it, whoever wrote it."""
    metrics("rnn.json", "skill.k8", math.nan)
    with pytest.raises((UserError, GateError)):
        judge(THRESHOLDS, metrics.folder)
