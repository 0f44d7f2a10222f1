"""Scaling: the operator's decision beside every scaler that people run, on real loads, in the fluid model.

`python -m bench.scaling --traces FOLDER --docs` plays all traces below a folder (ServeGen, Azure, Mooncake, BurstGPT,
`*.load.csv`; see bench/traces.py) and rewrites the section of docs/benchmarks.md between its markers; this takes about
half an hour on one core. Without traces, or with `--quick`, loads made up from a seed are played, and the exit status
is 1 when a figure is more than 3 % worse than in bench/scaling_figures.json; `--accept` writes that file. Nothing is
measured on a real service here: docs/benchmarks.md says what the model leaves out.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bench import scaling_tables as tables
from bench.result import Result, shown
from bench.scaling_loads import SEED, made_up
from bench.scaling_runs import (
    OURS,
    Case,
    Outcome,
    fleet_of,
    hpa_rules,
    known_future,
    other_rules,
    outcomes,
    static_peak,
    timed_fleet,
)
from bench.section import rewrite
from bench.traces import Trace, TraceError, folder
from optiinfra.domain.replay.figures import Ledger
from optiinfra.domain.replay.fluid import play
from optiinfra.domain.replay.learned import Learned

HERE = Path(__file__).resolve().parent
FIGURES = HERE / "scaling_figures.json"
DOCUMENT = HERE.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- scaling: written by python -m bench.scaling --docs -->", "<!-- scaling: end -->"
START_UPS = (60.0, 180.0, 300.0, 600.0, 960.0)
SIZES = (2.0, 8.0, 32.0)
MIDDLE = (8.0, 180.0)
BESIDE = (
    "HPA rate 0.7",
    "KEDA in flight 0.7",
    "predictive-HPA linear 0.7",
    "predictive-HPA Holt-Winters 0.7",
    "WVA v1",
    "WVA v2",
    "Dynamo load planner",
    "KPA 0.7",
    "static peak",
)
"""Rules that are played at every size and start-up on the traces of several days."""
WORSE = 1.03
SLACK = {"cost": 0.0, "late10": 0.0005, "incidents": 20.0, "actions_per_day": 4.0}
"""Added to 3 %: one incident of a day and a half is 20 a month."""
WORKLOADS = 10_000


def cases_of(traces: Sequence[Trace]) -> list[Case]:
    """All start-ups at the middle size, all sizes at the middle start-up."""
    pairs = [(MIDDLE[0], start_up) for start_up in START_UPS]
    pairs += [(size, MIDDLE[1]) for size in SIZES if size != MIDDLE[0]]
    return [Case(trace.name, size, start_up) for trace in traces for size, start_up in pairs]


def quick(*, accept: bool) -> list[Result]:
    """Play the made-up loads and compare with the committed figures."""
    traces = {trace.name: trace for trace in made_up()}
    cases = [Case(name, *MIDDLE) for name in traces] + [Case("wave", 8.0, 600.0), Case("bursts", 2.0, 60.0)]
    found = outcomes(OURS, cases, traces)
    figures = {
        f"{case.trace}, R {case.replicas:g}, {case.start_up_s:g} s: {name}": getattr(one.figures, name)
        for case, one in found.items()
        for name in SLACK
    }
    if accept:
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    committed = json.loads(FIGURES.read_text(encoding="utf-8"))
    results = [
        Result(name, value, "", committed[name] * WORSE + SLACK[name.rpartition(": ")[2]])
        for name, value in figures.items()
    ]
    results.append(Result(f"decide for {WORKLOADS} workloads", timed_fleet(WORKLOADS), "s", 10.0))
    return results


def full(traces: Sequence[Trace], *, thorough: bool) -> tables.Judged:
    """Play every rule; beside HPA, some at all sizes on long traces, and else in the middle unless `thorough`."""
    by_name = {trace.name: trace for trace in traces}
    cases = cases_of(traces)
    middle = [case for case in cases if (case.replicas, case.start_up_s) == MIDDLE]
    swept = {rule.name: _told(rule.name, outcomes(rule, cases, by_name)) for rule in hpa_rules()}
    ours = _told(OURS.name, outcomes(OURS, cases, by_name))
    many = cases if thorough else [case for case in cases if case in middle or _long(by_name[case.trace])]
    others = {
        rule.name: _told(rule.name, outcomes(rule, many if rule.name in BESIDE else middle, by_name))
        for rule in other_rules()
    }
    others["static peak"] = _told("static peak", static_peak(many, by_name))
    future = _told("known future", known_future(cases if thorough else middle, by_name))
    return tables.Judged(tuple(cases), {trace.name: trace.days for trace in traces}, ours, swept, others, future)


def _long(trace: Trace) -> bool:
    return trace.days >= tables.MULTI_DAY


def _told(name: str, found: dict[Case, Outcome]) -> dict[Case, Outcome]:
    print(f"{datetime.now(UTC):%H:%M:%S} {name}: {len(found)} runs", file=sys.stderr, flush=True)
    return found


def infeasible(traces: Sequence[Trace]) -> list[str]:
    """What the operator says of each trace in the middle where nothing causal holds the objective."""
    lines = []
    for trace in traces:
        fleet = fleet_of([Case(trace.name, *MIDDLE)], {trace.name: trace})
        learned = Learned(fleet)
        play(fleet, learned)
        told = learned.last.of(0).infeasible
        figures = Ledger.of(fleet).figures()[0]
        if told is None:
            continue
        lines.append(
            f"- {trace.name} ({tables.cell(figures)}): infeasible at a bearable price, {told.late_share:.1%} late of "
            f"the last two days. The safest rule would have {told.best_late_share:.1%} at cost {told.best_cost:.2f}; "
            f"with a quarter of the start-up {told.shorter_start_late_share:.1%}, with {told.spares} warm spares "
            f"{told.spares_late_share:.1%}."
        )
    return lines


def document(judged: tables.Judged, traces: Sequence[Trace], *, fleet_s: float, seed: int) -> str:
    """Return the generated section."""
    demands = tables.demands(judged, replicas=MIDDLE[0], start_up_s=MIDDLE[1], fleet_s=fleet_s)
    said = infeasible([trace for trace in traces if 0.5 <= trace.days < 7.0])
    head = (
        f"{datetime.now(UTC):%Y-%m-%d}, seed {seed}, Python {platform.python_version()}, numpy {np.__version__}. "
        "Every trace from its first second, nothing left out; 90 % intervals from resampling whole days."
    )
    return "\n".join(
        [
            BEGIN,
            "",
            head,
            "",
            "## What is needed, and what was reached",
            "",
            f"R = {MIDDLE[0]:g}, start-up {MIDDLE[1]:g} s.",
            "",
            tables.demand_table(demands),
            *(["Said by the operator itself:", "", *said, ""] if said else []),
            "## Start-ups and sizes",
            "",
            "cost (late10, incidents per 30 days, worst hour); `-`: no setting holds the limits, or not played.",
            "",
            tables.by_start_up(judged),
            "## What else people run, by start-up and size",
            "",
            "cost (late10, incidents per 30 days), traces of three days and more. A static peak knows the future.",
            "",
            tables.by_baseline(judged, rules=BESIDE),
            f"## Every rule, R = {MIDDLE[0]:g}, start-up {MIDDLE[1]:g} s",
            tables.by_rule(judged, replicas=MIDDLE[0], start_up_s=MIDDLE[1]),
            END,
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Play and print; 1 when a figure of the quick subset got worse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="folder of trace files")
    parser.add_argument("--only", default="", help="part of the names of the traces to play")
    parser.add_argument("--quick", action="store_true", help="only the made-up loads")
    parser.add_argument("--thorough", action="store_true", help="every rule at every size and start-up")
    parser.add_argument("--docs", action="store_true", help=f"rewrite the section of {DOCUMENT.name}")
    parser.add_argument("--accept", action="store_true", help="commit the figures of the quick subset")
    parser.add_argument("--seed", type=int, default=SEED, help="of drawn arrivals")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.traces is None or options.quick:
        results = quick(accept=options.accept)
        return shown(results, as_json=options.json)
    began = time.monotonic()
    try:
        traces = [one for one in folder(options.traces, bursty_seed=options.seed) if options.only in one.name]
    except TraceError as error:
        parser.error(str(error))
    fleet_s = timed_fleet(WORKLOADS)
    judged = full(traces, thorough=options.thorough)
    section = document(judged, traces, fleet_s=fleet_s, seed=options.seed)
    if options.docs:
        rewrite(DOCUMENT, section, begin=BEGIN, end=END)
    print(section)
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
