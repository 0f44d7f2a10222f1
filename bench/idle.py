"""Idle GPUs: precision, recall and false verdicts of the operator's verdict, beside the rules that people run today.

`python -m bench.idle` plays synthetic GPUs made from a seed, a short selection of them, and compares with what is
needed; `--full` plays all of them, `--traces FOLDER` adds NAB's CPU utilisation as a stand-in for duty (a rhythm of
people and jobs, but of another resource), and `--docs` rewrites the tables of docs/benchmarks-idle.md. Nothing here was
measured on a GPU.

Precision and recall are by samples, against "no work in the following 30 minutes": work is activity above 5 %, and
samples of which the file does not tell what followed are left out.
"""

import argparse
import math
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bench.idle_cases import KINDS, Case, Kind, made_up, nab_cases
from bench.idle_rules import RULES
from bench.result import Result, shown
from bench.section import rewrite
from optiinfra.domain.idle.fleet import IdleMemory, Samples
from optiinfra.domain.idle.replay import Figures, figures, truth

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent / "docs" / "benchmarks-idle.md"
BEGIN, END = "<!-- idle: written by python -m bench.idle --docs -->", "<!-- idle: end -->"
SEED = 1
JUDGING_SEED = 2
"""Thresholds were chosen with the first seed in sight; the tables are of the second."""
OURS = "OptiInfra"
FLEET = 10_000
QUICK = frozenset(
    {
        "idle, empty",
        "idle, memory held",
        "busy",
        "bursts, pauses of 5-20 min",
        "every 20 min",
        "heart-beat of 1 %",
        "traffic that ends",
        "model loads, duty 0",
        "counters stuck at 0, power high",
        "duty missing throughout",
    }
)


@dataclass(frozen=True, slots=True)
class Judged:
    """One case under every rule."""

    case: str
    gpus: int
    rules: dict[str, Figures]


def judged(cases: Iterable[Case], rules: Sequence[str]) -> list[Judged]:
    """Play cases."""
    found = []
    for case in cases:
        follows = truth(case.history)
        if case.works_unseen:
            follows = np.zeros_like(follows)
        by_rule = {name: figures(case.history, RULES[name](case.history), follows) for name in rules}
        found.append(Judged(case.name, len(case.history.gpus), by_rule))
        print(f"{datetime.now(UTC):%H:%M:%S} {case.name}", file=sys.stderr, flush=True)
    return found


def total(several: Sequence[Judged], rule: str) -> Figures:
    """Add the figures of several cases."""
    parts = [one.rules[rule] for one in several]
    return Figures(**{one.name: sum(getattr(part, one.name) for part in parts) for one in fields(Figures)})


def short(kinds: Sequence[Kind]) -> tuple[Kind, ...]:
    """Return the quick selection: one GPU of each kind at 60 s, one day."""
    return tuple(replace(kind, intervals=(60.0,), days=1.0, gpus=1) for kind in kinds if kind.name in QUICK)


def fleet_milliseconds(gpus: int = FLEET, ticks: int = 60) -> float:
    """CPU time of one tick of a fleet: a sample of each GPU taken in and judged; the median, in milliseconds."""
    memory = IdleMemory()
    columns = np.array([memory.column("n", str(number)) for number in range(gpus)], dtype=np.intp)
    rng = np.random.default_rng(SEED)
    unknown, spent = np.full(gpus, np.nan), []
    for tick in range(ticks):
        samples = Samples(
            gpu=columns,
            time=np.full(gpus, 60.0 * tick),
            duty=np.where(rng.uniform(size=gpus) < 0.01, 0.7, 0.0),
            memory=np.full(gpus, 70 * 2.0**30),
            power=np.full(gpus, 118.0),
            sm_active=unknown,
            power_limit=np.full(gpus, 700.0),
            transfer=unknown,
            working=np.zeros(gpus, dtype=np.bool_),
        )
        began = time.process_time()
        memory.observe(samples)
        memory.judge(columns)
        spent.append(time.process_time() - began)
    return 1000.0 * float(np.median(spent[ticks // 2 :]))


def results(several: Sequence[Judged]) -> list[Result]:
    """Return what is needed of the quick selection."""
    ours = total(several, OURS)
    return [
        Result("idle verdicts followed by work within 30 min, share", 1.0 - ours.precision, "", 0.01),
        Result("idle time not found, share", 1.0 - ours.recall, "", 0.10),
        Result("false verdicts on busy GPUs", float(ours.on_busy), "", 0.0),
        Result(f"a tick of {FLEET} GPUs, CPU", fleet_milliseconds(), "ms", 500.0),
    ]


def document(synthetic: Sequence[Judged], recorded: Sequence[Judged], *, tick_ms: float, seed: int) -> str:
    """Return the generated section."""
    rules = list(RULES)
    head = (
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, numpy {np.__version__}. Synthetic GPUs of "
        f"seed {seed}; thresholds were chosen on seed {SEED}. Cells: precision / recall, with the idle verdicts that "
        "were followed by work in brackets; `-`: nothing was called idle, or nothing was."
    )
    parts = [BEGIN, "", head, "", "## All synthetic cases together", "", _totals(synthetic, rules), ""]
    if recorded:
        parts += ["## NAB's CPU utilisation as duty, together", "", _totals(recorded, rules), ""]
    parts += ["## By case", "", _table([*synthetic, *recorded], rules), ""]
    parts += ["## Cost", "", f"A tick of {FLEET:,} GPUs (a sample taken in, a verdict each): {tick_ms:.0f} ms CPU.", ""]
    return "\n".join([*parts, END])


def _totals(several: Sequence[Judged], rules: Sequence[str]) -> str:
    lines = [
        "| rule | precision | recall | GPU-hours freed | GPU-hours called idle before work | on busy GPUs |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for rule in rules:
        one = total(several, rule)
        lines.append(
            f"| {rule} | {_share(one.precision)} | {_share(one.recall)} | {one.freed_hours:.0f} of "
            f"{one.idle_hours:.0f} | {one.wrong_hours:.1f} | {one.on_busy} |"
        )
    return "\n".join(lines)


def _table(several: Sequence[Judged], rules: Sequence[str]) -> str:
    lines = [f"| case (GPUs) | {' | '.join(rules)} |", f"|---|{'---|' * len(rules)}"]
    for one in several:
        cells = [_cell(one.rules[rule]) for rule in rules]
        lines.append(f"| {one.case} ({one.gpus}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(one: Figures) -> str:
    wrong = f" ({one.wrong})" if one.wrong else ""
    return f"{_share(one.precision)} / {_share(one.recall)}{wrong}"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Play and print; 1 when a needed figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all synthetic cases, under all rules")
    parser.add_argument("--traces", type=Path, help="folder with NAB's ec2_cpu_utilization files")
    parser.add_argument("--seed", type=int, default=JUDGING_SEED, help="of the synthetic GPUs")
    parser.add_argument("--docs", action="store_true", help=f"rewrite the section of {DOCUMENT.name}; means --full")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.full or options.docs or options.traces:
        synthetic = judged(made_up(options.seed), list(RULES)) if options.full or options.docs else []
        recorded = judged(nab_cases(options.traces), list(RULES)) if options.traces else []
        section = document(synthetic, recorded, tick_ms=fleet_milliseconds(), seed=options.seed)
        if options.docs:
            rewrite(DOCUMENT, section, begin=BEGIN, end=END)
        print(section)
        return 0
    found = results(judged(made_up(options.seed, kinds=short(KINDS)), [OURS]))
    return shown(found, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
