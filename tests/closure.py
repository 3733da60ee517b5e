"""Which project modules a file imports, directly or not: what dvc.yaml must list as deps."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def module_files(name: str) -> list[Path]:
    """Returns the files that importing a project module runs: its packages, then itself."""
    parts = name.split(".")
    files = []
    for end in range(1, len(parts) + 1):
        base = ROOT.joinpath(*parts[:end])
        for file in (base / "__init__.py", base.with_suffix(".py")):
            if file.exists():
                files.append(file)
    return files


def imported(file: Path) -> set[Path]:
    """Returns the project files that a file imports itself."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            # `from lib import episode` imports a module, `from lib.paths import ROOT` does not.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    own = {name for name in names if name.split(".")[0] == "lib"}
    return {path for name in own for path in module_files(name)}


def closure(file: Path) -> set[str]:
    """Returns all project files that a script runs when it is imported, itself included."""
    found, queue = {file}, [file]
    while queue:
        for other in imported(queue.pop()) - found:
            found.add(other)
            queue.append(other)
    return {str(path.relative_to(ROOT)) for path in found}
