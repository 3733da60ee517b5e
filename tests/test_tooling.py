"""What is installed is what is pinned, and what is imported is what is declared."""

import ast
import json
import re
import sys
from importlib import metadata

from packaging.requirements import Requirement

from lib.paths import ROOT


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


def test_the_numbers_in_the_readme_are_those_of_the_metrics():
    """Each row of the README's table names its metric; what it shows is that metric, rounded."""
    row = re.compile(r"^\| .* \| ([-\d.,]+) \| `(\w+) ([\w.]+)` \|$", re.MULTILINE)
    rows = row.findall((ROOT / "README.md").read_text())
    assert len(rows) >= 10
    for shown, file, key in rows:
        value = json.loads((ROOT / "metrics" / f"{file}.json").read_text())
        for part in key.split("."):
            value = value[part]
        digits = len(shown.partition(".")[2])
        assert f"{value:,.{digits}f}" == shown, (file, key, value)
