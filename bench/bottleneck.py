"""How often the verdict on a service is right: on recordings of real engines, and on regimes of the simulator.

`python -m bench.bottleneck` prints, for each set, precision, recall and F1 by class over the labelled windows, scrapes
until the verdict, flaps, and CPU a page; `--json` the limits alone, for machines. Three sets are kept apart:

- recordings: pages of a real vLLM 0.32.0. Labels are from what the load generator offered and what the pages show of it
  (`RECORDED` below says how for each part); nothing of the classifier goes into them.
- TUNING: regimes of the simulator that thresholds were chosen on.
- JUDGING: regimes with other settings, loads and seeds that were only ever looked at as figures.

A regime is labelled by construction (see `optiinfra_sim.regime`). Each is judged four times: with and without what an
agent measures around the engine, and with and without the engine's arguments. Windows in transition carry no label.
"""

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import optiinfra_sim
from optiinfra.cli import analyze_pages
from optiinfra.cli.analyze_series import Series
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.readings import EngineReading, Unknown, UnknownReason
from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import ContainerFacts
from optiinfra.engines import page
from optiinfra.engines import settings as engine_settings
from optiinfra_sim import regimes
from optiinfra_sim import settings as sim_settings

RECORDINGS = Path(optiinfra_sim.__file__).parent / "recordings"
_NOT_TOLD = Unknown(UnknownReason.NOT_CONFIGURED)
WANTED_F1 = 0.95
WANTED_SCRAPES = 3
FLAGS = {
    sim_settings.EngineKind.VLLM: ("vllm", "serve", "--max-num-seqs", "--max-num-batched-tokens"),
    sim_settings.EngineKind.SGLANG: (
        "python",
        "-m",
        "sglang.launch_server",
        "--max-running-requests",
        "--chunked-prefill-size",
    ),
    sim_settings.EngineKind.TGI: ("text-generation-launcher", "--max-batch-size", "--max-batch-prefill-tokens"),
}


TOLD = {
    "recordings": "pages of a real vLLM 0.32.0, labelled by what was offered and what the pages show of it",
    "tuning": "regimes of the simulator that thresholds were chosen on",
    "judging": "regimes of the simulator that thresholds were not chosen on",
}


@dataclass(frozen=True, slots=True)
class Part:
    """Pages of a recording from one to another, both included, and what is true of them."""

    first: int
    last: int
    label: str
    why: str


RECORDED: Mapping[str, tuple[Part, ...]] = {
    "vllm-0.32-cpu-batch-bound.tar.gz": (
        Part(0, 5, "Idle", "before the load: nothing runs, waits or is counted"),
        Part(6, 33, "Healthy", "2 requests offered of a batch of 8; nobody waits"),
        Part(35, 75, "Healthy", "6 offered; nobody waits, blocks at most 0.64 used"),
        Part(79, 184, "Batch", "24 offered: up to 16 wait while 8 of 8 run, blocks at most 0.79 used, none preempted"),
        Part(186, 231, "Healthy", "offers ended; what is inside runs to its end and nobody waits"),
        Part(233, 238, "Idle", "after the load: nothing runs, waits or is counted"),
    ),
    "vllm-0.32-cpu-memory-bound-part1.tar.gz": (
        Part(0, 5, "Idle", "before the load: nothing runs, waits or is counted"),
        Part(6, 33, "Healthy", "2 offered of a batch of 32; nobody waits"),
        Part(36, 59, "KVCache", "20 offered: 11 to 16 wait while 3 to 9 of 32 run, blocks 0.70 to 1.00, preempted"),
    ),
}


@dataclass(frozen=True, slots=True)
class Moment:
    """One scrape of a service, ready to be judged."""

    time: UnixTime
    pages: Mapping[str, bytes]
    surroundings: Surroundings
    label: str | None


@dataclass(frozen=True, slots=True)
class Case:
    """One series of scrapes."""

    name: str
    interval: float
    moments: Sequence[Moment]
    containers: tuple[ContainerFacts, ...]
    prefixes_fill: bool = False
    """Whether cached prefixes fill the pool while nothing is short of it."""
    promised: bool = True


@dataclass
class Score:
    """What came of one set."""

    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    late: list[tuple[str, int]] = field(default_factory=list)
    """Case and scrapes until the verdict was right, for each labelled part."""
    flaps: list[tuple[str, int]] = field(default_factory=list)
    false_kv: int = 0
    pages: int = 0
    cpu: float = 0.0
    wrong: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def figures(self, label: str) -> tuple[float, float, float]:
        """Precision, recall and F1 of one class."""
        hits = self.pairs[label, label]
        said = sum(times for (_, verdict), times in self.pairs.items() if verdict == label)
        true = sum(times for (truth, _), times in self.pairs.items() if truth == label)
        precision, recall = hits / said if said else 0.0, hits / true if true else 0.0
        return precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0

    @property
    def labels(self) -> list[str]:
        """Classes that were true at least once."""
        return sorted({truth for truth, _ in self.pairs})

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that were true at least once."""
        return sum(self.figures(label)[2] for label in self.labels) / len(self.labels)


def judge(case: Case, score: Score, *, agent: bool, arguments: bool) -> None:
    """Judge a case scrape by scrape, as the operator would."""
    containers = case.containers if arguments else ()

    def settings(reading: EngineReading) -> EngineSettings:
        return engine_settings.read(containers, reading)

    began = time.process_time()
    series = Series(interval=Seconds(case.interval), settings=settings, promised=case.promised)
    verdicts: list[tuple[str | None, str]] = []
    for moment in case.moments:
        for name, content in moment.pages.items():
            series.add(name, page.read(content, at=moment.time))
            score.pages += 1
        around = moment.surroundings if agent else Surroundings()
        verdicts.append((moment.label, str(series.judge(now=moment.time, surroundings=around).settled.bottleneck)))
    score.cpu += time.process_time() - began
    for label, verdict in verdicts:
        if label is not None:
            score.pairs[label, verdict] += 1
            if label != verdict:
                score.wrong[case.name][f"{label} called {verdict}"] += 1
            score.false_kv += case.prefixes_fill and verdict == "KVCache"
    for part in _parts(verdicts):
        label = part[0][0]
        right = next((index for index, (_, verdict) in enumerate(part) if verdict == label), len(part))
        score.late.append((case.name, right + 1))
        after = [verdict for _, verdict in part[right:]]
        score.flaps.append((case.name, sum(one != other for one, other in pairwise(after))))


def _parts(verdicts: Iterable[tuple[str | None, str]]) -> Iterator[list[tuple[str | None, str]]]:
    """Cut into parts of one label throughout; unlabelled windows are left out."""
    part: list[tuple[str | None, str]] = []
    for one in [*verdicts, (None, "")]:
        if part and one[0] != part[-1][0]:
            yield part
            part = []
        if one[0] is not None:
            part.append(one)


def recorded() -> Iterator[Case]:
    """Recordings of real engines; nobody promised a latency there."""
    for name, parts in RECORDED.items():
        pages = sorted(analyze_pages.read(RECORDINGS / name), key=lambda one: analyze_pages.natural(one.name))
        labels = {index: part.label for part in parts for index in range(part.first, part.last + 1)}
        limit = "8" if "batch" in name else "32"
        yield Case(
            name,
            1.0,
            [Moment(one.time, {"": one.content}, Surroundings(), labels.get(at)) for at, one in enumerate(pages)],
            (_container("vllm", "serve", "tiny-llama", "--max-num-seqs", limit),),
            promised=False,
        )


def labelled(path: Path) -> Iterator[Case]:
    """Recordings beside a file of labels: archive -> truth (its first word is the class) and command."""
    for name, facts in json.loads(path.read_text()).items():
        told = sorted(analyze_pages.read(path.parent / name), key=lambda one: analyze_pages.natural(one.name))
        times, _ = analyze_pages.clock([one.name for one in told], [one.time for one in told], interval=None)
        label = str(facts["truth"]).split(" ", maxsplit=1)[0]
        moments = [Moment(at, {"": one.content}, Surroundings(), label) for one, at in zip(told, times, strict=True)]
        interval = analyze_pages.spacing(times)
        yield Case(name, interval, moments, (_container(*facts["command"]),), promised=False)


def simulated(chosen: Mapping[str, regimes.Regime]) -> Iterator[Case]:
    """Regimes of the simulator, played."""
    for name, regime in chosen.items():
        *program, limit, budget = FLAGS[regime.settings.kind]
        words = (
            *program,
            limit,
            f"{regime.settings.max_num_seqs}",
            budget,
            f"{regime.settings.max_num_batched_tokens}",
        )
        yield Case(
            name,
            regime.interval,
            [_moment(scrape) for scrape in regimes.play(regime)],
            (_container(*words),),
            prefixes_fill="prefix" in name and all(t is None or t.label != "KVCache" for _, t in regime.truths),
        )


def _moment(scrape: regimes.Scrape) -> Moment:
    gpus = list(scrape.gpus.values())
    around = Surroundings(
        gpu_utilization=sum(one.utilization_ratio for one in gpus) / len(gpus),
        gpu_sm_active=sum(one.sm_active_ratio for one in gpus) / len(gpus),
        gpu_memory_usage=max(one.memory_used_bytes / one.memory_total_bytes for one in gpus),
        container_cpu=max(one.host_cpu_ratio for one in gpus),
        starting_replicas=float(scrape.starting_replicas),
    )
    return Moment(
        UnixTime(scrape.time), scrape.pages, around, None if scrape.truth is None else str(scrape.truth.label)
    )


def _container(*words: str) -> ContainerFacts:
    return ContainerFacts("engine", _NOT_TOLD, _NOT_TOLD, _NOT_TOLD, _NOT_TOLD, 1.0, words)


def report(name: str, score: Score, *, full: bool) -> None:
    """Print one set."""
    times = [scrapes for _, scrapes in score.late]
    print(
        f"\n{name}: macro F1 {score.macro_f1:.3f} over {sum(score.pairs.values())} windows; verdict after at most "
        f"{max(times)} scrapes; {sum(count for _, count in score.flaps)} flaps; {score.false_kv} false KVCache "
        f"on cached prefixes; {score.cpu / score.pages * 1e3:.2f} ms CPU a page"
    )
    if not full:
        return
    for label in score.labels:
        precision, recall, f1 = score.figures(label)
        windows = sum(times for (truth, _), times in score.pairs.items() if truth == label)
        print(f"  {label:<10} {windows:>5} windows  precision {precision:.3f}  recall {recall:.3f}  F1 {f1:.3f}")
    for case, wrong in score.wrong.items():
        print(f"  {case}: {', '.join(f'{what} {times}x' for what, times in wrong.most_common())}")
    for case, scrapes in score.late:
        if scrapes > WANTED_SCRAPES:
            print(f"  {case}: verdict after {scrapes} scrapes")
    for case, count in score.flaps:
        if count:
            print(f"  {case}: {count} flaps")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; 1 when a wanted one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--only", choices=tuple(TOLD), help="one set")
    parser.add_argument("--labels", type=Path, metavar="LABELS.json", help="other recordings, instead of all sets")
    options = parser.parse_args(arguments)
    sets: dict[str, Callable[[], Iterator[Case]]] = {
        "recordings": recorded,
        "tuning": lambda: simulated(regimes.TUNING),
        "judging": lambda: simulated(regimes.JUDGING),
    }
    if options.labels is not None:
        sets = {"labelled recordings": partial(labelled, options.labels)}
    rows: list[dict[str, object]] = []
    for name, make in sets.items():
        if options.only not in {None, name}:
            continue
        if not options.json:
            print(f"\n== {name}: {TOLD.get(name, options.labels)}")
        cases = list(make())
        for agent in (True, False) if name in {"tuning", "judging"} else (False,):
            for given in (True, False):
                score = Score()
                for case in cases:
                    judge(case, score, agent=agent, arguments=given)
                what = f"{name}, {'agent' if agent else 'pages alone'}, {'arguments' if given else 'no arguments'}"
                # Without an agent nobody sees hosts or starting replicas; those figures are told, not promised.
                promised = agent or name not in {"tuning", "judging"}
                rows += _rows(what, score, promised=promised)
                if not options.json:
                    report(what, score, full=True)
    if options.json:
        print(json.dumps(rows, indent=1))
    return 1 if any(row["limit"] is not None and row["value"] > row["limit"] for row in rows) else 0  # type: ignore[operator]  # values and limits are numbers


def _rows(what: str, score: Score, *, promised: bool) -> list[dict[str, object]]:
    """The figures that have limits; F1 is told as what is missing of 1, so that less is better."""
    late = max(scrapes for _, scrapes in score.late)
    return [
        {
            "name": f"{what}: 1 - macro F1",
            "value": round(1.0 - score.macro_f1, 4),
            "unit": "",
            "limit": round(1.0 - WANTED_F1, 4) if promised else None,
        },
        {
            "name": f"{what}: scrapes to the verdict, most",
            "value": late,
            "unit": "",
            "limit": WANTED_SCRAPES if promised else None,
        },
        {"name": f"{what}: false KVCache on cached prefixes", "value": score.false_kv, "unit": "", "limit": 0},
        {"name": f"{what}: CPU a page", "value": score.cpu / score.pages * 1e3, "unit": "ms", "limit": None},
    ]


if __name__ == "__main__":
    sys.exit(main())
