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
from typing import Any, Final

import numpy as np

from bench import consolidation_runs as runs
from bench import consolidation_tables as tables
from bench.domain import Result
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
PART_SEEDS: Final = (42, 43)
LOADS: Final = (0.3, 0.5, 0.7)
MOVES: Final = 0.1
CENTRE: Final = "default"
"""The list that the paper's other figures are about."""
PROFILES: Final = ("leastallocated", "mostallocated", "first-fit", runs.FGD, OURS)


class Kept:
    """Results by name, written down as they come when a file is named."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._found: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.exists() else {}

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return a result, computed unless it is there."""
        if name not in self._found:
            print(f"{datetime.now(UTC):%H:%M:%S} {name}", file=sys.stderr, flush=True)
            self._found[name] = asdict(compute())
            if self._path is not None:
                self._path.write_text(json.dumps(self._found, indent=1), encoding="utf-8")
        return self._found[name]


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


def full(folder: Path, kept: Kept, *, only: str, seeds: int) -> tables.Judged:
    """Run everything that the tables show."""
    nodes, lists = runs.node_list(folder), runs.pod_lists(folder)
    chosen = {name: pods for name, pods in lists.items() if only in name}
    filled: dict[tuple[str, str], runs.Full] = {}
    order = [
        *((name, OURS) for name in chosen if name in tables.PUBLISHED),
        *((name, rule) for name in chosen if name not in tables.PUBLISHED for rule in (OURS, runs.FGD)),
        *((name, runs.FGD) for name in chosen if name in tables.PUBLISHED),
    ]
    for name, rule in order:
        work = partial(runs.full_load, nodes, chosen[name], rule=rule, seeds=seeds_of(name, seeds))
        filled[name, rule] = runs.Full(**kept.get(f"full {name} {rule}", work))
    centre = lists.get(CENTRE) or next(iter(chosen.values()))
    part: dict[tuple[str, float, float | None], runs.Part] = {}
    for rule in reversed(PROFILES):
        drawn = PART_SEEDS if rule == OURS else PART_SEEDS[:1]
        for load in LOADS:
            for moves in (MOVES, 0.0):
                lived = partial(runs.churned, nodes, centre, rule=rule, load=load, moves=moves, seeds=drawn)
                part[rule, load, moves] = runs.Part(**kept.get(f"churn {rule} {load} {moves}", lived))
            still = partial(runs.part_load, nodes, centre, rule=rule, load=load, moves=0.0, seeds=drawn)
            part[rule, load, None] = runs.Part(**kept.get(f"still {rule} {load}", still))
    for rule in runs.BASELINES:
        work = partial(runs.full_load, nodes, centre, rule=rule, seeds=seeds_of(CENTRE, seeds))
        filled[CENTRE, rule] = runs.Full(**kept.get(f"full {CENTRE} {rule}", work))
    size = runs.Large(**kept.get("large", partial(runs.large, nodes, centre)))
    return tables.Judged(tuple(chosen), filled, part, size)


def section(judged: tables.Judged, *, seeds: int) -> str:
    """Return the generated part of the document."""
    head = (
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, numpy {np.__version__}. Full load: means "
        f"of {seeds} seeds from {runs.SEEDS[0]} on lists whose figures were published, of {max(1, seeds // 2)} on the "
        f"others; part load: of {len(PART_SEEDS)} seeds for OptiInfra, of one for the other rules."
    )
    return "\n".join([BEGIN, "", head, "", tables.document(judged), END])


def rewrite(path: Path, text: str) -> None:
    """Replace what stands between the markers."""
    whole = path.read_text(encoding="utf-8")
    begin, end = whole.index(BEGIN), whole.index(END) + len(END)
    path.write_text(whole[:begin] + text + whole[end:], encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Place and print; 1 when a figure of the quick subset got worse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="folder with openb lists")
    parser.add_argument("--only", default="", help="part of the names of the lists to place")
    parser.add_argument("--quick", action="store_true", help="only the committed lists")
    parser.add_argument("--accept", action="store_true", help="commit the figures of the quick subset")
    parser.add_argument("--docs", action="store_true", help=f"rewrite the section of {DOCUMENT.name}")
    parser.add_argument("--results", type=Path, help="keep results in this file, and go on from it")
    parser.add_argument("--seeds", type=int, choices=range(1, 11), default=10, metavar="N", help="1 to 10; default 10")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.traces is None or options.quick:
        results = quick(accept=options.accept)
        if options.json:
            print(json.dumps([{"name": r.name, "value": r.value, "unit": r.unit, "limit": r.limit} for r in results]))
        else:
            for one in results:
                print(
                    f"{one.name:<64} {one.value:>8.4g} {one.unit:<2} <= {one.limit:.4g}{'' if one.kept else '  WORSE'}"
                )
        return 0 if all(one.kept for one in results) else 1
    try:
        text = section(
            full(options.traces, Kept(options.results), only=options.only, seeds=options.seeds), seeds=options.seeds
        )
    except (OptiInfraError, FileNotFoundError) as error:
        parser.error(str(error))
    if options.docs:
        rewrite(DOCUMENT, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
