"""Writes the table of docs/reliability.md: `make soak`, or `python -m hack.reliability FILE` with a run's figures.

The figures are what tests counted (tests/figures.py); this only sorts, aligns and quotes them between two markers, with
the date and the machine, so that nobody writes a number by hand.
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
    rows = {(row["topic"], row["what"]): row for row in map(json.loads, lines)}
    parts = [BEGIN, "", where]
    for topic, keys in groupby(sorted(rows), key=lambda key: key[0]):
        parts += ["", f"### {topic[:1].upper()}{topic[1:]}", "", "| what was counted | |", "|---|---:|"]
        parts += [f"| {what} | {_shown(rows[topic, what])} |" for _, what in keys]
    return "\n".join([*parts, "", END])


def _shown(row: dict[str, Any]) -> str:
    return f"{row['value']:,g} {row['unit']}".rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the figures, as tests/figures.py wrote them")
    path: Path = parser.parse_args(arguments).file
    if path.stat().st_size > _MOST_BYTES:
        parser.error(f"{path.name} is larger than {_MOST_BYTES} bytes: it holds more than one run's figures")
    day = dt.datetime.now(tz=dt.UTC).date()
    where = f"Run on {day}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}."
    lines = path.read_text(encoding="utf-8").splitlines()
    rewrite(DOCUMENT, section(lines, where=where), begin=BEGIN, end=END)
    return 0


if __name__ == "__main__":
    sys.exit(main())
