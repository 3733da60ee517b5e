"""Finds what dvc.yaml must list for each stage: the code that it runs, the params that it reads.

``python -m tests.closure`` writes both into dvc.yaml (``make deps``). A package is listed as a
whole if a stage imports most of it. Files named in .dvcignore never count:
they are tools that no stage runs.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from lib.params import SECTIONS

ROOT = Path(__file__).resolve().parents[1]
MODULE = re.compile(r"lib(\.\w+)+")
DATA = ".npz"
CODE = (".py", DATA)
# A package is listed as a whole if a stage imports at least ENOUGH of its files and if at most
# SPARE of them are not imported.
ENOUGH, SPARE = 3, 4


def module_files(name: str) -> list[Path]:
    """Returns the files that run when a project module is imported: its packages, then itself."""
    parts = name.split(".")
    files = []
    for end in range(1, len(parts) + 1):
        base = ROOT.joinpath(*parts[:end])
        for file in (base / "__init__.py", base.with_suffix(".py")):
            if file.exists():
                files.append(file)
    return files


def params_read(file: Path) -> list[str]:
    """Returns the names that a file passes to ``load_params``, in the same order."""
    calls = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load_params"
    ]
    return [argument.value for call in calls for argument in call.args]


def imported(file: Path) -> set[Path]:
    """Returns the project files that a file imports directly.

    They include the modules of the settings that it reads, and modules that it names as text, as
    in ``python -m lib.episode.probe``.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            # `from lib import episode` imports a module; `from lib.base.paths import ROOT` doesn't.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and MODULE.fullmatch(str(node.value)):
            names.add(node.value)
    sections = {name.partition(".")[0] for name in params_read(file)} & set(SECTIONS)
    names |= {SECTIONS[section].partition(":")[0] for section in sections}
    own = {name for name in names if name.split(".")[0] == "lib"}
    return {path for name in own for path in module_files(name)}


def closure(file: Path) -> set[str]:
    """Returns all project files that run when a script is imported, including the script.

    A data file with the same name as a module is included.
    """
    found, queue = {file}, [file]
    while queue:
        for other in imported(queue.pop()) - found:
            found.add(other)
            queue.append(other)
    found |= {data for path in found if (data := path.with_suffix(DATA)).exists()}
    return {str(path.relative_to(ROOT)) for path in found}


@cache
def package(folder: str) -> frozenset[str]:
    """Returns the files of a package of lib that count: code and data, without the ignored ones."""
    ignored = set((ROOT / ".dvcignore").read_text().split())
    files = (path for path in (ROOT / folder).iterdir() if path.suffix in CODE)
    return frozenset({str(path.relative_to(ROOT)) for path in files} - ignored)


def expanded(deps: list[str]) -> set[str]:
    """Returns the code files among deps, including those of whole packages.

    Args:
        deps: Deps of a stage, as dvc.yaml lists them.
    """
    files = {dep for dep in deps if dep.endswith(CODE)}
    return files.union(*map(package, whole_packages(deps)))


def whole_packages(deps: list[str]) -> list[str]:
    """Returns the whole packages among deps.

    Args:
        deps: Deps of a stage, as dvc.yaml lists them.
    """
    return [dep for dep in deps if dep.startswith("lib/") and not dep.endswith(CODE)]


def code_deps(script: str) -> list[str]:
    """Returns what dvc.yaml lists as code of a stage: its script, then packages and files.

    Args:
        script: Path of the script from the repository root.
    """
    files = closure(ROOT / script)
    folders = {str(Path(file).parent) for file in files} - {"lib", "stages"}
    whole = {
        folder
        for folder in folders
        if len(files & package(folder)) >= ENOUGH and len(package(folder) - files) <= SPARE
    }
    single = {file for file in files if str(Path(file).parent) not in whole}
    return [script, *sorted({*single, *whole} - {script})]


def update(text: str) -> str:
    """Returns the text of a dvc.yaml with the code and params of each stage brought up to date.

    Deps that are data keep their lines, below the code.
    """
    lines, block, script = [], "", ""
    for line in text.splitlines():
        item = line.removeprefix("      - ") if line.startswith("      - ") else ""
        if line.startswith("    cmd: python -m stages."):
            script = line.split(" -m ")[1].replace(".", "/") + ".py"
        if line in ("    deps:", "    params:"):
            block = line.strip(" :")
            new = code_deps(script) if block == "deps" else params_read(ROOT / script)
            lines += [line, *(f"      - {name}" for name in new)]
        elif item and (block == "params" or item.endswith(CODE) or item.startswith("lib/")):
            continue  # an item of an old list; data deps are never in lib
        else:
            block = block if item else ""
            lines.append(line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    GRAPH = ROOT / "dvc.yaml"
    GRAPH.write_text(update(GRAPH.read_text()))
