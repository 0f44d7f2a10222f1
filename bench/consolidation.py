"""Placement: the operator's rule beside FGD and what schedulers do today, on lists of real pods and nodes.

`python -m bench.consolidation --traces FOLDER --docs` fills the nodes with every pod list below a folder (openb names
and columns), ten seeds, and rewrites the section of docs/benchmarks-consolidation.md between its markers; this
takes about an hour on one core, and `--results FILE` keeps what is done, so that it can go on. Without a folder, or
with `--quick`, the lists in bench/data/openb are placed, and the exit status is 1 when a figure is more than 3 % worse
than in bench/consolidation_figures.json; `--accept` writes that file. All of it is computed from lists: nothing is
measured on a cluster.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from bench import consolidation_runs as runs
from bench import consolidation_tables as tables
from bench.result import Result, shown
from bench.section import rewrite
from optiinfra.cli.replay_consolidation import OURS
from optiinfra.cli.replay_openb import read_nodes, read_pods
from optiinfra.errors import OptiInfraError

HERE = Path(__file__).resolve().parent
DATA = HERE / "data" / "openb"
FIGURES = HERE / "consolidation_figures.json"
DOCUMENT = HERE.parent / "docs" / "benchmarks-consolidation.md"
BEGIN = "<!-- consolidation: written by python -m bench.consolidation --docs -->"
END = "<!-- consolidation: end -->"
WORSE: Final = 1.03
QUICK_SEEDS: Final = (42, 43)
PART_SEEDS: Final = (42,)
LOADS: Final = (0.3, 0.5, 0.7)
MOVES: Final = 0.1
CENTRE: Final = "default"
"""The list that the paper's other figures are about."""
PROFILES: Final = ("leastallocated", "mostallocated", "first-fit", runs.FGD, OURS)


Figures = TypeVar("Figures", runs.Full, runs.Part, runs.Large)


class Kept:
    """Results by name, written down as they come when a file is named; frozen, nothing new is computed."""

    def __init__(self, path: Path | None, *, frozen: bool) -> None:
        self._path = path
        self._frozen = frozen
        self._found: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.exists() else {}

    def get(self, kind: type[Figures], name: str, compute: Callable[[], Figures]) -> Figures | None:
        """Return a result, computed unless it is there; None where it is not and nothing may be computed."""
        if name not in self._found:
            if self._frozen:
                return None
            print(f"{datetime.now(UTC):%H:%M:%S} {name}", file=sys.stderr, flush=True)
            self._found[name] = asdict(compute())
            if self._path is not None:
                self._path.write_text(json.dumps(self._found, indent=1), encoding="utf-8")
        return kind(**self._found[name])


def quick(*, accept: bool) -> list[Result]:
    """Place the committed lists and compare with the committed figures."""
    nodes = read_nodes(DATA / "nodes.csv.gz")
    lists = {name: read_pods(DATA / f"pods_{name}.csv.gz") for name in ("default", "gpuspec25")}
    figures: dict[str, float] = {}
    for name, pods in lists.items():
        ours = runs.full_load(nodes, pods, rule=OURS, seeds=QUICK_SEEDS)
        figures[f"{name}: GPUs not allocated when all are asked for"] = 100.0 - ours.at_100
        figures[f"{name}: GPUs not allocated at the end"] = 100.0 - ours.end
    lived = runs.churned(
        nodes, lists["default"], rule=OURS, load=0.5, moves=MOVES, hours=24, lifetime_h=12.0, seeds=QUICK_SEEDS[:1]
    )
    figures["half load, pods come and go: GPUs idle on nodes in use"] = 100.0 - lived.active
    if accept:
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    committed = json.loads(FIGURES.read_text(encoding="utf-8"))
    results = [Result(name, value, "%", committed[name] * WORSE) for name, value in figures.items()]
    results.append(Result("half load, pods come and go: moves for each pod", lived.moves, "", MOVES * 1.01))
    return results


def seeds_of(name: str, count: int) -> tuple[int, ...]:
    """Return the seeds of a list: all where a mean of ten was published, half where both sides are our own."""
    return runs.SEEDS[: count if name in tables.PUBLISHED else max(1, count // 2)]


class Full:
    """All that the tables show, in the order in which it is wanted should there be too little time."""

    def __init__(self, folder: Path, kept: Kept, *, only: str, seeds: int) -> None:
        self._nodes, self._lists = runs.node_list(folder), runs.pod_lists(folder)
        self._chosen = [name for name in self._lists if only in name]
        self._kept = kept
        self._seeds = seeds
        self._centre = CENTRE if CENTRE in self._lists else self._chosen[0]
        self._filled: dict[tuple[str, str], runs.Full] = {}
        self._part: dict[tuple[str, float, float | None], runs.Part] = {}

    def judged(self) -> tables.Judged:
        """Run everything."""
        published = [name for name in self._chosen if name in tables.PUBLISHED]
        for name in published:
            self._fill(name, OURS)
        for load in LOADS:
            self._live(OURS, load, MOVES)
        work = partial(runs.large, self._nodes, self._lists[self._centre])
        size = self._kept.get(runs.Large, "large", work)
        for name in self._chosen:
            if name not in published:
                self._fill(name, OURS)
                self._fill(name, runs.FGD)
        for rule in reversed(PROFILES):
            for load in LOADS:
                for moves in (None, 0.0, MOVES):
                    self._live(rule, load, moves)
        for rule in runs.BASELINES:
            self._fill(self._centre, rule)
        for name in published:
            self._fill(name, runs.FGD)
        return tables.Judged(tuple(self._chosen), self._filled, self._part, size)

    def _fill(self, name: str, rule: str) -> None:
        chosen = seeds_of(name, self._seeds)
        work = partial(runs.full_load, self._nodes, self._lists[name], rule=rule, seeds=chosen)
        if (found := self._kept.get(runs.Full, f"full {name} {rule}", work)) is not None:
            self._filled[name, rule] = found

    def _live(self, rule: str, load: float, moves: float | None) -> None:
        pods = self._lists[self._centre]
        work: Callable[[], runs.Part]
        if moves is None:
            work = partial(runs.part_load, self._nodes, pods, rule=rule, load=load, moves=0.0, seeds=PART_SEEDS)
        else:
            work = partial(runs.churned, self._nodes, pods, rule=rule, load=load, moves=moves, seeds=PART_SEEDS)
        if (found := self._kept.get(runs.Part, f"part {rule} {load} {moves}", work)) is not None:
            self._part[rule, load, moves] = found


def section(judged: tables.Judged) -> str:
    """Return the generated part of the document."""
    head = (
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, numpy {np.__version__}. Full load: means "
        f"of the seeds from {runs.SEEDS[0]} on, how many in brackets; part load: seed {PART_SEEDS[0]}. `-`: not played."
    )
    return "\n".join([BEGIN, "", head, "", tables.document(judged), END])


def main(arguments: Sequence[str] | None = None) -> int:
    """Place and print; 1 when a figure of the quick subset got worse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="folder with openb lists")
    parser.add_argument("--only", default="", help="part of the names of the lists to place")
    parser.add_argument("--quick", action="store_true", help="only the committed lists")
    parser.add_argument("--accept", action="store_true", help="commit the figures of the quick subset")
    parser.add_argument("--docs", action="store_true", help=f"rewrite the section of {DOCUMENT.name}")
    parser.add_argument("--results", type=Path, help="keep results in this file, and go on from it")
    parser.add_argument("--frozen", action="store_true", help="only tables of what --results has")
    parser.add_argument("--seeds", type=int, choices=range(1, 11), default=10, metavar="N", help="1 to 10; default 10")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.traces is None or options.quick:
        results = quick(accept=options.accept)
        return shown(results, as_json=options.json)
    try:
        kept = Kept(options.results, frozen=options.frozen)
        judged = Full(options.traces, kept, only=options.only, seeds=options.seeds).judged()
    except (OptiInfraError, FileNotFoundError) as error:
        parser.error(str(error))
    text = section(judged)
    if options.docs:
        rewrite(DOCUMENT, text, begin=BEGIN, end=END)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
