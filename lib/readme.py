"""Writes the numbers of README's results table, so that nobody copies them by hand.

    python -m lib.readme

A row ends with the metric that it shows: its value in metrics/, then mean and worst over the runs
of the last campaign. Every number keeps the digits that its row has.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from lib.campaign import read_rows, read_spec, summarise
from lib.errors import UserError
from lib.evaluation.gates import lookup
from lib.files import read_json, write_text
from lib.paths import ROOT

CAMPAIGN = Path("campaigns") / "seeds.yaml"
ROW = re.compile(
    r"^\| (?P<label>[^|]*) \| (?P<value>[-\d.,]+) \|[^|]*\|[^|]*"
    r"\| `(?P<file>\w+) (?P<key>[\w.]+)` \|$",
    re.MULTILINE,
)


def updated(text: str, root: Path = ROOT) -> str:
    """Returns README with the numbers that metrics/ and the campaign have now.

    Args:
        text: README as it is.
        root: The repository root.

    Raises:
        UserError: If a row names a metric that is missing, or one that the campaign does not ask.
    """
    spec, rows = read_spec(root / CAMPAIGN, root), read_rows((root / CAMPAIGN).with_suffix(".csv"))
    asked = {(metric.file, metric.key): (name, metric) for name, metric in spec.metrics.items()}
    variant = next(iter(spec.variants))
    rows = [row for row in rows if row["variant"] == variant]
    rows = [row for row in rows if row["commit"] == rows[-1]["commit"]]

    def line(found: re.Match[str]) -> str:
        file, key = f"metrics/{found['file']}.json", found["key"]
        if (file, key) not in asked:
            raise UserError(f"README.md: {found['label']}: {CAMPAIGN} does not ask {file} {key}")
        column, metric = asked[file, key]
        value = lookup(read_json(root / file), key, root / file)
        values = [float(row[column]) for row in rows if row.get(column)]
        digits = len(found["value"].partition(".")[2])
        shown = [
            f"{number:,.{digits}f}" for number in (value, *summarise(values, metric.worst)[:2])
        ]
        shown += ["–"] * (3 - len(shown))
        return f"| {found['label']} | {' | '.join(shown)} | `{found['file']} {key}` |"

    return ROW.sub(line, text)


def main(root: Path = ROOT) -> int:
    """Rewrites README.md and returns the exit code.

    Args:
        root: The repository root.
    """
    readme = root / "README.md"
    try:
        write_text(readme, updated(readme.read_text(encoding="utf-8"), root))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
