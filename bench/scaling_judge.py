"""The second judge of scaling decisions: the traces' requests through simulated engines instead of a fluid queue.

`python -m bench.scaling_judge --traces FOLDER` plays every decider over requests out of the trace files, on replicas
that batch, hold KV caches, preempt and drain, and prints cost, lateness, first-token and inter-token times beside what
the fluid model says of the same decider on the same load. `--docs` rewrites the tables of docs/second-judge.md.
Without `--traces` requests are made up from a seed: a quick check that the judge works and how fast it is, which is
what `python -m bench judge` runs. What is simplified is said in docs/second-judge.md; nothing was measured on a GPU.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import optiinfra
from bench.scaling_judge_cases import Case, Span, prepared
from bench.scaling_judge_drawn import Source, folder
from bench.scaling_judge_engines import REGIMES, SHORT
from bench.scaling_judge_operator import operator_paths
from bench.scaling_judge_requests import Requests
from bench.scaling_judge_rules import OURS, Decider, deciders
from bench.scaling_judge_runs import Judged, in_fluid, judge
from bench.scaling_judge_tables import as_dict, fluid_table, section
from bench.traces import TraceError
from optiinfra.domain.replay.fluid import FloatArray
from optiinfra_sim.routing import Routing

DOCUMENT = Path(__file__).parents[1] / "docs" / "second-judge.md"
BEGIN = "<!-- second judge: written by python -m bench.scaling_judge --docs -->"
END = "<!-- second judge: end -->"
SEED = 1
TABLE_FROM = 6
"""Lines of a section before the rows of its table: name, blank, description, blank, header, rule."""
DAY_CPU_S = 150.0
"""CPU time in which a day of eight replicas must be simulated."""
QUICK_HOURS = 3.0


def made_up(hours: float = QUICK_HOURS) -> Source:
    """Requests of nobody: Poisson arrivals that swing and jump, lognormal lengths."""

    def make(work: float) -> Requests:
        draw = np.random.default_rng(SEED)
        prompt_mean, output_mean = 1200, 200
        rate = work / (prompt_mean + 4.0 * output_mean)
        length = hours * 3600.0
        at = np.sort(draw.uniform(0.0, length, draw.poisson(1.7 * rate * length)))
        at = at[draw.random(len(at)) < _shape(at / 3600.0) / 1.7]
        sizes = [
            np.maximum(draw.lognormal(np.log(mean) - 0.32, 0.8, len(at)), 1.0).astype(np.int64)
            for mean in (prompt_mean, output_mean)
        ]
        return Requests("made-up", at, sizes[0], sizes[1], length, f"made up from seed {SEED}")

    return Source("made-up", make)


def _shape(hour: FloatArray) -> FloatArray:
    """Load over its mean by hour: a wave of an hour and a half, and a third more from half past one to two."""
    wave: FloatArray = 0.95 + 0.35 * np.sin(hour * 2.0 * np.pi / 1.5) + 0.4 * ((hour >= 1.5) & (hour < 2.0))
    return wave


def quick() -> tuple[list[Judged], float]:
    """Play two deciders over made-up requests; and CPU seconds of one simulated day at R = 8."""
    case = prepared(made_up(), replicas=8.0, start_up_s=180.0, span=Span(0.0, QUICK_HOURS * 3600.0), seed=SEED)
    began = time.process_time()
    found = [judge(case, one) for one in deciders() if one.name in {"HPA rate 0.7", OURS}]
    spent = (time.process_time() - began) / len(found)
    return found, spent * 24.0 / QUICK_HOURS


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the quick check, as the runner of all benches wants it."""

    name: str
    value: float
    unit: str
    limit: float | None


def quick_rows() -> list[Row]:
    """The quick check: how long a day takes, and what both deciders came to."""
    found, day = quick()
    rows = [Row("CPU time to simulate a day of 8 replicas", day, "s", DAY_CPU_S)]
    for one in found:
        # No limit: three hours without history, with a jump within the start-up, are late for every rule.
        name = f"made-up, {one.decider}"
        rows += [
            Row(f"{name}: late10", one.figures.late10 * 100.0, "%", None),
            Row(f"{name}: cost", one.figures.cost, "", None),
            Row(f"{name}: TTFT p95", one.first_token[1], "s", None),
            Row(f"{name}: ITL p95", one.inter_token[1], "s", None),
        ]
    return rows


def made_with(*, seed: int) -> str:
    """Date, seed and versions of a run."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, seed {seed}, OptiInfra {optiinfra.__version__}, "
        f"Python {platform.python_version()}, numpy {np.__version__}."
    )


def merged(old: str, new: str) -> str:
    """Add the rows of an old section that a new one of the same case has not; a section ends with its table."""
    before, after = old.splitlines(), new.splitlines()
    if before[:TABLE_FROM] != after[:TABLE_FROM]:
        return new
    fresh = {line.split(" | ")[0]: line for line in after[TABLE_FROM:]}
    rows = [fresh.pop(line.split(" | ")[0], line) for line in before[TABLE_FROM:]]
    return "\n".join([*after[:TABLE_FROM], *rows, *fresh.values()])


def rewrite(path: Path, sections: Sequence[str]) -> None:
    """Replace the sections of the traces that were played, between the markers; the others stay as they are.

    Where only some deciders were played over the very same case, the rows of the others stay as well.
    """
    page = path.read_text(encoding="utf-8")
    begin, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    kept = [f"### {part.strip()}" for part in page[begin:end].split("### ")[1:]]
    by_name = {part.partition("\n")[0]: part for part in kept}
    for text in sections:
        part = text.strip()
        name = part.partition("\n")[0]
        by_name[name] = merged(by_name.get(name, ""), part)
    path.write_text(
        page[:begin] + "\n\n" + "\n\n".join(by_name[name] for name in sorted(by_name)) + "\n\n" + page[end:],
        encoding="utf-8",
    )


def played(case: Case, rules: Sequence[Decider]) -> list[Judged]:
    """All deciders over one case, told as they go."""
    found = []
    for rule in rules:
        began = time.process_time()
        found.append(judge(case, rule))
        spent = time.process_time() - began
        print(f"{datetime.now(UTC):%H:%M:%S} {case.name}, {rule.name}: {spent:.0f} s", file=sys.stderr, flush=True)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="folder of trace files")
    parser.add_argument("--only", default="", help="part of the names of the traces to play")
    parser.add_argument("--deciders", default="", help="parts of the names of the deciders to play, with commas")
    parser.add_argument("--replicas", type=float, default=8.0, help="mean number of busy replicas (default 8)")
    parser.add_argument("--start-up", type=float, default=180.0, metavar="SECONDS", help="default 180")
    parser.add_argument("--history-hours", type=float, default=53.0, help="before the judged span, in the fluid model")
    parser.add_argument("--hours", type=float, default=6.0, help="judged span of a long trace (default 6)")
    parser.add_argument("--most-requests", type=int, default=400_000, help="shorten the span by hours to hold no more")
    parser.add_argument("--engine", choices=sorted(REGIMES), help=f"default: {SHORT}, the larger one for long requests")
    parser.add_argument("--round-robin", action="store_true", help="route in turn instead of to the fewest requests")
    parser.add_argument("--gateway", action="store_true", help="hold the queue at the router, not in the replicas")
    parser.add_argument("--fluid", action="store_true", help="only the fluid model, on the load of the same requests")
    parser.add_argument("--docs", action="store_true", help=f"rewrite the tables of {DOCUMENT.name}")
    parser.add_argument("--seed", type=int, default=SEED, help="of all that is drawn")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Play and print; 1 when a limit of the quick check is missed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.traces is None:
        rows = quick_rows()
        if options.json:
            print(json.dumps([asdict(one) for one in rows], indent=1))
        else:
            for one in rows:
                print(f"{one.name:<60} {one.value:>10.4g} {one.unit}")
        return int(any(one.limit is not None and one.value > one.limit for one in rows))
    span = Span(options.history_hours * 3600.0, options.hours * 3600.0, options.most_requests)
    wanted = options.deciders.split(",")
    rules = [one for one in (*deciders(), *operator_paths()) if any(part in one.name for part in wanted)]
    sections, told = [], []
    try:
        until = span.history_s + span.length_s
        for source in folder(options.traces, until_s=until, seed=options.seed, only=options.only):
            case = prepared(
                source,
                replicas=options.replicas,
                start_up_s=options.start_up,
                span=span,
                seed=options.seed,
                regime=REGIMES[options.engine] if options.engine else None,
                routing=Routing.ROUND_ROBIN if options.round_robin else Routing.LEAST_LOADED,
                gateway=options.gateway,
            )
            if options.fluid:
                print(fluid_table(case, {rule.name: in_fluid(case, rule) for rule in rules}), flush=True)
                continue
            found = played(case, rules)
            sections.append(section(case, found, made_with=made_with(seed=options.seed)))
            told.append(as_dict(case, found))
            if options.docs:
                rewrite(DOCUMENT, sections)
            if not options.json:
                print(sections[-1], flush=True)
    except TraceError as error:
        parser.error(str(error))
    if options.json:
        print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
