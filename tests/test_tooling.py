"""What is installed is what is pinned, and what is imported is what is declared."""

import ast
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from packaging.requirements import Requirement

from lib import readme
from lib.base.errors import UserError
from lib.base.paths import ROOT
from lib.params import read_yaml
from tests import mutate


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(file):
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return {canonical(r.name): r for r in map(Requirement, filter(None, lines))}


DIRECT = requirements("requirements.in")
LOCK = requirements("requirements.lock")


def test_lock_pins_exactly_and_in_order():
    lines = [
        line for line in (ROOT / "requirements.lock").read_text().splitlines() if line[0] != "#"
    ]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines)
    assert len(lines) == len(LOCK)
    names = [line.split("==")[0].lower() for line in lines]
    assert names == sorted(names)


def test_lock_holds_every_direct_dependency():
    for name, direct in DIRECT.items():
        (pin,) = LOCK[name].specifier
        assert direct.specifier.contains(pin.version)


def test_lock_leaves_the_build_of_torch_to_the_machine():
    assert str(LOCK["torch"]) == "torch==2.13.0"
    assert not [name for name in LOCK if re.match(r"torchvision|nvidia|cuda|triton", name)]


def test_lock_is_what_is_installed_and_nothing_is_missing():
    for name, pinned in LOCK.items():
        (pin,) = pinned.specifier
        assert metadata.version(name).split("+")[0] == pin.version, name
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                known = canonical(needed.name) in LOCK
                assert known or re.match(r"nvidia|cuda|triton", needed.name), f"{name}: {needed}"


def test_imports_are_direct_dependencies():
    declared = set(DIRECT)
    distributions = metadata.packages_distributions()
    for folder in ("lib", "stages", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    modules = [node.module]
                else:
                    continue
                for top in {module.split(".")[0] for module in modules}:
                    if top in sys.stdlib_module_names or (ROOT / top).is_dir():
                        continue
                    owners = {canonical(name) for name in distributions.get(top, [])}
                    assert owners & declared, f"{file.relative_to(ROOT)} imports {top}"


def test_the_numbers_in_the_readme_are_those_of_the_metrics_and_of_the_last_campaign():
    """Each row of the table names its metric; it shows that metric, and mean and worst of seeds."""
    row = re.compile(
        r"^\| [^|]* \| ([^|]+) \| ([^|]+) \| ([^|]+) \| `(\w+) ([\w.]+)` \|$", re.MULTILINE
    )
    rows = row.findall((ROOT / "README.md").read_text())
    assert len(rows) >= 10
    asked = read_yaml(ROOT / "campaigns" / "seeds.yaml")["metrics"]
    with (ROOT / "campaigns" / "seeds.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    runs = [run for run in runs if run["commit"] == runs[-1]["commit"]]
    for one, mean, worst, file, key in rows:
        value = json.loads((ROOT / "metrics" / f"{file}.json").read_text())
        for part in key.split("."):
            value = value[part]
        digits = len(one.partition(".")[2])
        assert f"{value:,.{digits}f}" == one, (file, key, value)
        column, metric = next(
            (c, m) for c, m in asked.items() if file in m["file"] and m["key"] == key
        )
        values = [float(run[column]) for run in runs]
        bad = {"min": min, "max": max}[metric["worst"]](values)
        assert (mean, worst) == (f"{np.mean(values):,.{digits}f}", f"{bad:,.{digits}f}"), column


def test_the_table_in_the_readme_is_written_by_a_program():
    """What ``python -m lib.readme`` would write is what is there, and it mends what is not."""
    text = (ROOT / "README.md").read_text()
    assert readme.updated(text) == text
    wrong = re.sub(
        r"\| [\d.]+ (\|[^|]*\|[^|]*\| `evaluate policy.success_any`)", r"| 0.12 \1", text
    )
    assert wrong != text
    assert readme.updated(wrong) == text


def test_the_readme_takes_no_numbers_of_the_development_positions(tmp_path):
    """A run to choose a recipe by is no result."""
    shutil.copytree(ROOT / "campaigns", tmp_path / "campaigns")
    shutil.copytree(ROOT / "metrics", tmp_path / "metrics")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    file = tmp_path / "metrics" / "evaluate.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"suite": "dev"}))
    with pytest.raises(UserError, match=r"evaluate.json: holds the suite dev; .*make repro"):
        readme.updated("", tmp_path)


def test_a_row_of_an_unknown_metric_is_one_clear_line():
    """It names the row and the campaign that lacks it."""
    with pytest.raises(
        UserError, match=r"README.md: Speed: .*seeds.yaml does not ask .* policy.speed"
    ):
        readme.updated("| Speed | 1.0 | – | – | `evaluate policy.speed` |")


def test_tests_stand_in_folders_as_the_packages_do():
    """A folder of tests is a package of lib, and a test's name occurs once, as pytest needs."""
    tests = list((ROOT / "tests").rglob("test_*.py"))
    folders = {test.parent.name for test in tests} - {"tests", "stages"}
    assert folders <= {package.parent.name for package in (ROOT / "lib").glob("*/__init__.py")}
    assert len({test.name for test in tests}) == len(tests)


def test_every_fault_names_what_it_breaks_and_tests_that_are_there():
    """At least forty; what ``make mutants`` could not run would look as if it were noticed."""
    mutants = [mutate.read(path) for path in mutate.MUTANTS.glob("*.patch")]
    assert len(mutants) >= 40
    for mutant in mutants:
        assert mutant.fault and mutant.tests
        assert all((ROOT / test).exists() for test in mutant.tests), mutant.name
    assert len({mutant.fault for mutant in mutants}) == len(mutants)


def test_every_fault_still_fits_the_code():
    """A change of the code may leave a patch behind that no longer applies."""
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(ROOT.parent)}
    for patch in mutate.MUTANTS.glob("*.patch"):
        check = ("git", "apply", "--check", "--whitespace=nowarn", str(patch))
        done = subprocess.run(check, cwd=ROOT, env=env, capture_output=True, text=True)
        assert not done.returncode, done.stderr
