"""Writes the numbers of README's results table, so that nobody copies them by hand.

    python -m lib.readme

The last cell of a row names the metric that the row shows. Its numbers are the value in metrics/,
then the mean and the worst value over the runs of the last campaign. All numbers of a row get as
many decimal places as its first number has now.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from lib.base.errors import UserError
from lib.base.files import read_json, write_text
from lib.base.paths import ROOT
from lib.campaign import read_rows, read_spec, summarise
from lib.gates import lookup

CAMPAIGN = Path("campaigns") / "seeds.yaml"
EVALUATED = Path("metrics") / "evaluate.json"
ROW = re.compile(
    r"^\| (?P<label>[^|]*) \| (?P<value>[-\d.,]+) \|[^|]*\|[^|]*"
    r"\| `(?P<file>\w+) (?P<key>[\w.]+)` \|$",
    re.MULTILINE,
)


def updated(text: str, root: Path = ROOT) -> str:
    """Returns README's text with the present numbers of metrics/ and of the campaign.

    Args:
        text: Present text of README.
        root: The repository root.

    Raises:
        UserError: If a row names a metric that is missing or that the campaign does not list, or if
            the metrics are those of the development positions.
    """
    suite = read_json(root / EVALUATED).get("suite")
    if suite != "test":
        raise UserError(
            f"{EVALUATED}: holds the suite {suite}; README states numbers of the suite test: "
            "set evaluate.suite to it and `make repro`"
        )
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
