"""Which project modules a file imports, directly or not: what dvc.yaml must list as deps.

``python -m tests.closure`` writes them there (``make deps``).
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ".npz"
CODE = (".py", DATA)


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
    """Returns all project files that a script runs when it is imported, itself included.

    With a module goes the data file of its name, if it has one.
    """
    found, queue = {file}, [file]
    while queue:
        for other in imported(queue.pop()) - found:
            found.add(other)
            queue.append(other)
    found |= {data for path in found if (data := path.with_suffix(DATA)).exists()}
    return {str(path.relative_to(ROOT)) for path in found}


def update(text: str) -> str:
    """Returns the text of a dvc.yaml with the modules among each stage's deps brought up to date.

    The deps that are data keep their lines, below the code.
    """
    lines, listing, script = [], False, ""
    for line in text.splitlines():
        if line.startswith("    cmd: python -m stages."):
            script = line.split(" -m ")[1].replace(".", "/") + ".py"
        if line == "    deps:":
            listing = True
            files = closure(ROOT / script) - {script, "stages/__init__.py"}
            lines += [line, *(f"      - {name}" for name in (script, *sorted(files)))]
        elif listing and line.startswith("      - ") and line.endswith(CODE):
            continue
        else:
            listing = listing and line.startswith("      - ")
            lines.append(line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    GRAPH = ROOT / "dvc.yaml"
    GRAPH.write_text(update(GRAPH.read_text()))
