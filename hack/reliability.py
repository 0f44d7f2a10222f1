"""Writes the tables of docs/reliability.md from figures that tests counted: `python -m hack.reliability FILE ...`.

Each file is one run's (tests/figures.py), or one part's of `hack.soak`, which begins with a line about that part; a
folder stands for the files in it. This only sorts, aligns and quotes them between two markers, with the date and the
machine, so that nobody writes a number by hand.
"""

import argparse
import datetime as dt
import json
import os
import platform
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.section import rewrite

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
BEGIN = "<!-- reliability: written by make soak -->"
END = "<!-- reliability: end -->"
_MOST_BYTES = 4 * 2**20


def section(lines: Sequence[str], *, where: str) -> str:
    """Return the section of all figures; the last of several with the same topic and text counts."""
    read = [json.loads(line) for line in lines]
    rows = {(row["topic"], row["what"]): row for row in read if "topic" in row}
    parts = [BEGIN, "", where, *_runs([row for row in read if "part" in row])]
    for topic, keys in groupby(sorted(rows), key=lambda key: key[0]):
        parts += ["", f"### {topic[:1].upper()}{topic[1:]}", "", "| what was counted | |", "|---|---:|"]
        parts += [f"| {what} | {_shown(rows[topic, what])} |" for _, what in keys]
    return "\n".join([*parts, "", END])


def _runs(heads: Sequence[dict[str, Any]]) -> list[str]:
    if not heads:
        return []
    table = ["", "| part | day | code | minutes | tests passed | failed |", "|---|---|---|---:|---:|---:|"]
    for head in heads:
        name = f"{head['part']} (short)" if head["short"] else head["part"]
        cells = (name, head["day"], f"`{head['code']}`" if head["code"] else "")
        numbers = (head["minutes"], head["passed"], head["failed"])
        table.append(f"| {' | '.join(map(str, (*cells, *numbers)))} |")
    return table


def _shown(row: dict[str, Any]) -> str:
    return f"{round(row['value'], 1):,g} {row['unit']}".rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="file", help="figures, or folders of them")
    given: list[Path] = parser.parse_args(arguments).files
    files = [file for path in given for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]
    for path in files:
        if path.stat().st_size > _MOST_BYTES:
            parser.error(f"{path.name} is larger than {_MOST_BYTES} bytes: it holds more than one run's figures")
    day = dt.datetime.now(tz=dt.UTC).date()
    where = f"Written on {day}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}."
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    rewrite(DOCUMENT, section(lines, where=where), begin=BEGIN, end=END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
