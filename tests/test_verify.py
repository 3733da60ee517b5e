"""What ``make verify`` calls different."""

from __future__ import annotations

import json

from lib.base.paths import ROOT
from lib.params import read_yaml
from lib.verify import GOLDENS, differences, hashes_of


def test_a_changed_a_missing_and_a_new_out_are_named_in_the_order_of_the_stages():
    golden = {"vision": {"a": "1", "b": "2"}, "rnn": {"c": "3"}, "gates": {"d": "4"}}
    found = {"vision": {"a": "1", "b": "9"}, "rnn": {}, "gates": {"d": "4", "e": "5"}}
    assert differences(found, golden) == ["vision: b", "rnn: c", "gates: e"]
    assert differences(golden, golden) == []


def test_hashes_are_those_of_the_lock(tmp_path):
    lock = tmp_path / "dvc.lock"
    lock.write_text(
        "schema: '2.0'\nstages:\n  vision:\n    cmd: x\n    outs:\n"
        "    - path: features.h5\n      md5: abc\n      size: 3\n  gates:\n    cmd: y\n"
    )
    assert hashes_of(lock) == {"vision": {"features.h5": "abc"}, "gates": {}}


def test_the_goldens_hold_every_out_of_the_graph():
    """A new stage or out needs ``python -m lib.verify --update``."""
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    names = {
        stage: {
            next(iter(out)) if isinstance(out, dict) else out
            for kind in ("outs", "metrics", "plots")
            for out in entry.get(kind, [])
        }
        for stage, entry in stages.items()
    }
    golden = json.loads(GOLDENS.read_text())
    assert {stage: set(hashes) for stage, hashes in golden.items()} == names
