"""From an address to a history: two rounds of questions, joined; and the scaler played in processes of its own.

The questions are those of `engines.promql_fleet`, asked gently by `cluster.prometheus_ask`. A question that was not
answered is told as missing with its reason, and the report is made of the others.
"""

import asyncio
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from optiinfra.cluster.prometheus_ask import Asked, Matcher, MetricsServer, PieceCache, Progress, TimeGrid
from optiinfra.cluster.prometheus_plan import AskLimits
from optiinfra.cluster.prometheus_range import QueryLimits
from optiinfra.cluster.prometheus_server import PrometheusServer
from optiinfra.domain.readings import UnknownReason
from optiinfra.domain.report.cases import chunks
from optiinfra.domain.report.frames import Question
from optiinfra.domain.report.history import FleetHistory
from optiinfra.domain.report.joining import join
from optiinfra.domain.report.joining_found import Found, found, single
from optiinfra.domain.report.scaling import Case, Played, play, syncs_of
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.engines.promql_fleet import (
    LABELLED,
    discovery_questions,
    fleet_questions,
    label_questions,
    sharing_questions,
)

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

SIMULATED: Final = Question(
    name="found.simulated",
    promql="max(optiinfra_simulated{$matchers})",
    by=(),
    metrics=("optiinfra_simulated",),
    split_by="",
    coarse_s=3600.0,
)
"""Pages of simulated engines and GPUs carry it, so that nothing of them passes for a measurement."""
_EVERY: Final = 200
"""Syncs between two words on progress."""
_LOOK_S: Final = 0.3
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read, and how gently."""

    server: PrometheusServer
    since: Seconds
    until: UnixTime | None
    """End of what is read; None: now, by the server's clock."""
    step: Seconds
    namespaces: tuple[str, ...]
    matchers: tuple[Matcher, ...]
    limits: AskLimits
    calls: QueryLimits
    cache: PieceCache | None


@dataclass(frozen=True, slots=True)
class Read:
    """What came of it."""

    history: FleetHistory
    samples: int
    """That the server read for this report, now or when the answers were kept."""
    now: UnixTime
    simulated: bool
    notes: tuple[str, ...]


async def read(wanted: Wanted, *, on_progress: Callable[[Progress], None]) -> Read:
    """Ask and join. Raises `ClusterError`."""
    async with MetricsServer(
        wanted.server, limits=wanted.limits, call_limits=wanted.calls, cache=wanted.cache
    ) as server:
        now = UnixTime(await server.now())
        grid = TimeGrid.ending(now if wanted.until is None else wanted.until, since=wanted.since, step=wanted.step)
        first, between, seen = await _look(server, grid, wanted, on_progress=on_progress)
        second = await server.ask(
            fleet_questions(seen), grid, matchers=wanted.matchers, namespaces=wanted.namespaces, on_progress=on_progress
        )
        history = await asyncio.to_thread(
            join, second.frames, now=now, found=seen, unanswered=_unanswered(first, second)
        )
    marks = [one.values for one in first.frames if one.question.name == SIMULATED.name]
    return Read(
        history=history,
        samples=sum(_samples(asked) for asked in (first, between, second)),
        now=now,
        simulated=any(bool((values > 0.0).any()) for values in marks),
        notes=tuple(dict.fromkeys((*first.notes, *second.notes))),
    )


async def _look(
    server: MetricsServer, grid: TimeGrid, wanted: Wanted, *, on_progress: Callable[[Progress], None]
) -> tuple[Asked, Asked, Found]:
    """Ask what is there and what labels are called, by the index where that is open; then whether pages come once."""
    days = wanted.since / _DAY_S
    labels = {kind: await server.labels(metrics, grid, matchers=wanted.matchers) for kind, metrics in LABELLED.items()}
    told = {kind: names for kind, names in labels.items() if names is not None}
    asked = await server.ask(
        (*discovery_questions(days), *(label_questions(days) if len(told) < len(labels) else ()), SIMULATED),
        grid,
        matchers=wanted.matchers,
        namespaces=wanted.namespaces,
        on_progress=on_progress,
    )
    seen = found([one for one in asked.frames if one.question.name != SIMULATED.name], labels=told)
    names = dict.fromkeys(name for question in fleet_questions(seen) for name in question.metrics)
    existing = await server.names(tuple(names), grid, matchers=wanted.matchers)
    between = await server.ask(sharing_questions(seen), grid, matchers=wanted.matchers, namespaces=wanted.namespaces)
    return asked, between, replace(seen, existing=existing, single=single(between.frames))


def _samples(asked: Asked) -> int:
    return asked.samples.total + asked.samples.kept


def _unanswered(*rounds: Asked) -> tuple[tuple[str, str], ...]:
    """Return questions that exist on the server and were not answered; what does not exist is told by what it means."""
    return tuple(
        (one.question.name, one.reason.detail)
        for asked in rounds
        for one in asked.not_asked
        if one.reason.reason is not UnknownReason.NOT_MEASURED
    )


_done: "Synchronized[Any] | None" = None
"""Of a worker: syncs done by all, shared."""


def _begin(done: "Synchronized[Any]") -> None:
    global _done  # noqa: PLW0603  a worker process is told once where to count
    _done = done


def _counted(sync: int) -> None:
    if _done is not None and sync % _EVERY == _EVERY - 1:
        with _done.get_lock():
            _done.value += _EVERY


def _work(cases: list[Case]) -> list[Played]:
    return play(cases, on_sync=_counted)


def play_all(cases: Sequence[Case], *, jobs: int, on_share: Callable[[float], None]) -> list[Played]:
    """Play all cases, in so many processes; `on_share` is told how much of it is done."""
    parts = chunks(cases, parts=max(1, jobs))
    if not parts:
        return []
    syncs = max(1, sum(map(syncs_of, parts)))
    if len(parts) == 1:
        return play(parts[0], on_sync=lambda sync: on_share((sync + 1) / syncs))
    context = multiprocessing.get_context("spawn")  # threads of the reading may still end: no fork
    done = context.Value("q", 0)
    with ProcessPoolExecutor(len(parts), mp_context=context, initializer=_begin, initargs=(done,)) as pool:
        futures = [pool.submit(_work, part) for part in parts]
        waiting = set(futures)
        while waiting:
            _, waiting = wait(waiting, timeout=_LOOK_S)
            on_share(min(1.0, done.value / syncs))
        return [one for future in futures for one in future.result()]
