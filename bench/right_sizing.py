"""Right-sizing: the operator's estimates beside the VPA, KRR and perfect knowledge, over recorded use.

`python -m bench.right_sizing --traces FOLDER --docs` plays Google's machines, NAB's CPU series, `*.usage.csv[.gz]` and
a fleet made up from a seed, and rewrites the section of docs/benchmarks-right-sizing.md between its markers. Without
traces, or with `--quick`, thirty recorded containers and a small made-up fleet are played, and the exit status is 1
when a figure is more than 3 % worse than in bench/right_sizing_figures.json; `--accept` writes that file. Everything is
a replay: no request was set on anything that runs.
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bench import right_sizing_tables as tables
from bench.result import Result, shown
from bench.right_sizing_fleet import cost
from bench.right_sizing_loads import Fleet, folder, made_up, own_fleet
from bench.right_sizing_runs import OURS, Judged, judge, ours
from bench.section import rewrite
from optiinfra.cli.replay_rightsizing_source import UsageFileError
from optiinfra.domain.readings import Unknown

HERE = Path(__file__).resolve().parent
FIGURES = HERE / "right_sizing_figures.json"
DOCUMENT = HERE.parent / "docs" / "benchmarks-right-sizing.md"
BEGIN = "<!-- right-sizing: written by python -m bench.right_sizing --docs -->"
END = "<!-- right-sizing: end -->"
CONTAINERS = 10_000
WORSE = 1.03
SLACK = {
    "cpu_provisioned": 0.0,
    "memory_provisioned": 0.0,
    "cpu_over_time": 0.0005,
    "throttled_days": 0.005,
    "oom_days_per_100": 0.3,
}
"""What is gated, and what is added to 3 %: one day of 160 is 0.6 %."""


def quick_fleets() -> list[Fleet]:
    """Return what the gate plays: seconds, and no files but ours."""
    return [own_fleet(), made_up(40, days=45)]


def quick_figures() -> dict[str, float]:
    """Play ours over them."""
    found = {}
    for fleet in quick_fleets():
        _, figures = ours(fleet)
        for name in SLACK:
            value = getattr(figures, name)
            if not isinstance(value, Unknown):
                found[f"{fleet.name}: {name}"] = value
    return found


def gate(found: dict[str, float]) -> list[Result]:
    """Hold figures against the committed ones."""
    committed = json.loads(FIGURES.read_text(encoding="utf-8"))
    return [
        Result(name, value, "", committed[name] * WORSE + SLACK[name.rpartition(": ")[2]])
        for name, value in found.items()
    ]


def quick(*, accept: bool) -> list[Result]:
    """Gate the quality, and measure what a large fleet costs."""
    found = quick_figures()
    if accept:
        FIGURES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    large = cost(CONTAINERS)
    return [
        *gate(found),
        Result(f"update and estimate {CONTAINERS} containers", large.update_s + large.estimate_s, "s", tables.FLEET_S),
        Result("largest checkpoint", float(large.worst_checkpoint_bytes), "B", float(tables.CHECKPOINT_BYTES)),
    ]


def full(fleets: Sequence[Fleet]) -> list[Judged]:
    """Play every rule over every fleet."""
    judged = []
    for fleet in fleets:
        judged.append(judge(fleet))
        mine = judged[-1].of(OURS).figures
        print(f"{datetime.now(UTC):%H:%M:%S} {fleet.name}: {mine.containers} containers", file=sys.stderr, flush=True)
    return judged


def document(judged: Sequence[Judged]) -> str:
    """Return the generated section."""
    head = (
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, numpy {np.__version__}. Every container, "
        "every day that has a yesterday, nothing left out; in brackets 90 % intervals from drawing containers again."
    )
    return "\n".join(
        [
            BEGIN,
            "",
            head,
            "",
            "## What is needed, and what was reached",
            "",
            tables.demands(judged, cost(CONTAINERS)),
            "## Every rule",
            "",
            *(tables.rules(one) for one in judged),
            "## For the same harm",
            "",
            "What others reserve once all their requests are multiplied by the smallest factor (steps of 2 %, chosen",
            "with hindsight) that does as little harm as is wanted of ours.",
            "",
            tables.harm(judged),
            "## Stated and happened",
            "",
            tables.stated(judged),
            END,
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Play and print; 1 when a figure of the quick subset got worse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="folder of trace files")
    parser.add_argument("--quick", action="store_true", help="only what the gate plays")
    parser.add_argument("--docs", action="store_true", help=f"rewrite the section of {DOCUMENT.name}")
    parser.add_argument("--accept", action="store_true", help="commit the figures of the quick subset")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.traces is None or options.quick:
        results = quick(accept=options.accept)
        return shown(results, as_json=options.json)
    try:
        fleets = [*folder(options.traces), made_up()]
    except UsageFileError as error:
        parser.error(str(error))
    section = document(full(fleets))
    if options.docs:
        rewrite(DOCUMENT, section, begin=BEGIN, end=END)
    print(section)
    return 0


if __name__ == "__main__":
    sys.exit(main())
