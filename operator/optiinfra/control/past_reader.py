"""Reads the past of some workloads from a metrics server, a day at a time, and lives through it.

Six queries a day for the load of all of them together and two for their containers, one after the other with a pause,
and four for how their pods came up (`past_starts`); each answer is used and let go before the next comes. Living
through a day happens in a thread that rests more than it works. What a server refuses is left out and said; only a
server that does not answer ends the reading.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.cluster.prometheus_range import RangeQuery
from optiinfra.control.past import Learned, Past
from optiinfra.control.past_questions import PAUSE_S, PastQuestions, RangeReader, Rests
from optiinfra.control.past_starts import START_STEP, Starts
from optiinfra.control.scraped_pages import Labelling
from optiinfra.domain.history import Column
from optiinfra.domain.right_sizing import START_UP, UsageHistory
from optiinfra.domain.scaler_past import FleetPast, PastLoad
from optiinfra.domain.scaling import ScalerMemory
from optiinfra.domain.start_up import FORGOTTEN_AFTER
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import PodFacts
from optiinfra.engines import promql_history as queries
from optiinfra.engines import series as questions
from optiinfra.engines.alias import Table
from optiinfra.engines.promql_history import PastSignal

FloatArray = npt.NDArray[np.float64]
DAY: Final = 86_400.0
STEP: Final = Seconds(60.0)
USE_STEP: Final = Seconds(300.0)
_RECENT: Final = 6.0 * 3600.0
_MOST_CONTAINERS: Final = 32
_POD: Final = r"-(?:[b-df-hj-np-tv-z0-9]{1,10}-[b-df-hj-np-tv-z0-9]{5}|[0-9]+(?:-[0-9]+)?)"


@dataclass(slots=True)
class PastReader:
    """One reading of some workloads."""

    server: RangeReader
    pasts: Sequence[Past]
    labelling: Labelling
    matchers: str
    pause_s: float = PAUSE_S
    _questions: PastQuestions = field(init=False)
    _found: dict[PastSignal, set[int]] = field(default_factory=dict)
    """Rows that a signal was found of."""
    _usage: list[dict[str, UsageHistory]] = field(default_factory=list)
    _since: list[float] = field(default_factory=list)
    _starts: list[tuple[PodFacts, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with no question asked."""
        self._questions = PastQuestions(self.server, self.pause_s)

    @property
    def samples(self) -> int:
        """That were read so far."""
        return self._questions.samples

    async def read(self, *, days: float, now: UnixTime) -> tuple[Learned, ...]:
        """Read `days` up to now, the oldest first. Raises `ClusterError` where the server does not answer."""
        count = len(self.pasts)
        self._usage, self._since = [{} for _ in range(count)], [float("inf")] * count
        end = UnixTime(now // USE_STEP * USE_STEP)
        start = end - days * DAY
        tables, seen = await self._tables(UnixTime(start), end)
        fleet = FleetPast([past.service for past in self.pasts], step=STEP)
        recent: list[tuple[FloatArray, list[PastLoad]]] = []
        at = start
        while at < end:
            until = min(at + DAY, end)
            if until > seen:
                times, loads = await self._loads(tables, at, until)
                await asyncio.to_thread(_live, fleet, loads, UnixTime(at))
                if until > end - _RECENT:
                    recent.append((times, loads))
            await self._containers(at, until)
            at = until
        await self._came_up(end, days=days)
        return tuple(self._learned(row, scaler, recent, now=now) for row, scaler in enumerate(fleet.memories()))

    async def _tables(self, start: UnixTime, end: UnixTime) -> tuple[tuple[Table, ...], float]:
        """Return the engines that were there, and since when; infinity where none was."""
        step = Seconds(max(300.0, (end - start) / 300.0))
        answer = await self._questions.ask(
            RangeQuery(queries.witness_query(self._where()), start, end, step), "engines"
        )
        names = {value for one in answer for label, value in one[0] if label == questions.NAME}
        return questions.seen(names), min(
            (float(one[1][0]) - step for one in answer if len(one[1])), default=float("inf")
        )

    async def _loads(self, tables: Sequence[Table], at: float, until: float) -> tuple[FloatArray, list[PastLoad]]:
        points = round((until - at) / STEP)
        made = queries.load_queries(
            tables,
            [past.workload for past in self.pasts],
            matchers=self._where(),
            namespace=self.labelling.namespace,
            pod=self.labelling.pod,
        )
        rows = {(past.namespace, past.workload): row for row, past in enumerate(self.pasts)}
        values = {signal: np.full((len(self.pasts), points), np.nan) for signal in PastSignal}
        for signal, text in made.items():
            # A step's value is what was measured at its end.
            query = RangeQuery(text, UnixTime(at + STEP), UnixTime(until), STEP)
            for labels, times, found in await self._questions.ask(query, str(signal)):
                given = dict(labels)
                key = given.get(self.labelling.namespace, ""), given.get(queries.WORKLOAD, "")
                row = rows.get(key)
                if row is None or not len(times):
                    continue
                values[signal][row, np.rint((times - at) / STEP).astype(np.int64) - 1] = np.maximum(found, 0.0)
                self._found.setdefault(signal, set()).add(row)
                self._since[row] = min(self._since[row], float(times[0]))
        loads = [PastLoad(**{str(signal): values[signal][row] for signal in PastSignal}) for row in range(len(rows))]
        return np.arange(points, dtype=np.float64) * float(STEP) + at, loads

    async def _containers(self, at: float, until: float) -> None:
        names = {(past.namespace, past.workload): row for row, past in enumerate(self.pasts)}
        owner = _Owner(names)
        where = ",".join(part for part in (self._namespaces("namespace"), self.matchers) if part)
        cpu_query, memory_query = queries.container_queries(matchers=where, step_s=USE_STEP)
        points = round((until - at) / USE_STEP)
        found: dict[tuple[int, str, str], FloatArray] = {}
        for place, (text, what) in enumerate(((cpu_query, "container CPU"), (memory_query, "container memory"))):
            query = RangeQuery(text, UnixTime(at + USE_STEP), UnixTime(until), USE_STEP)
            for labels, times, values in await self._questions.ask(query, what):
                given = dict(labels)
                pod, container = given.get("pod", ""), given.get("container", "")
                row = owner.of(given.get("namespace", ""), pod)
                if row is None or not container or not len(times):
                    continue
                grid = found.setdefault((row, container, pod), np.full((2, points), np.nan))
                index = np.rint((times - at) / USE_STEP).astype(np.int64) - 1
                begins = index[0] > 0
                kept = times >= times[0] + START_UP if begins else np.ones(len(times), dtype=np.bool_)
                grid[place, index[kept]] = np.maximum(values[kept], 0.0)
        ends = np.arange(1, points + 1, dtype=np.float64) * float(USE_STEP) + at
        await asyncio.to_thread(self._note_use, found, ends)

    def _note_use(self, found: Mapping[tuple[int, str, str], FloatArray], times: FloatArray) -> None:
        by_container: dict[tuple[int, str], list[FloatArray]] = {}
        for (row, container, _), grid in found.items():
            by_container.setdefault((row, container), []).append(grid)
        for (row, container), grids in by_container.items():
            known = self._usage[row]
            if container not in known and len(known) >= _MOST_CONTAINERS:
                continue
            # All pods of one moment, then all of the next.
            cpu, memory = (np.stack([grid[place] for grid in grids], axis=1).reshape(-1) for place in (0, 1))
            known.setdefault(container, UsageHistory()).observe_many(np.repeat(times, len(grids)), cpu, memory)

    async def _came_up(self, end: UnixTime, *, days: float) -> None:
        """Read how pods came up, of as many days as starts are remembered."""
        matchers = ",".join(part for part in (self._namespaces("namespace"), self.matchers) if part)
        names = {(past.namespace, past.workload): row for row, past in enumerate(self.pasts)}
        gathered = Starts(_Owner(names).of)
        start = end - min(days * DAY, float(FORGOTTEN_AFTER))
        for moment, text in queries.start_queries(matchers=matchers, step_s=START_STEP).items():
            query = RangeQuery(text, UnixTime(min(start + START_STEP, end - 1.0)), end, START_STEP)
            for labels, _, values in await self._questions.ask(query, f"pods' {moment}"):
                gathered.add(moment, labels, np.maximum(values, 0.0))
        self._starts = gathered.by_row(len(self.pasts), since=UnixTime(start))

    def _learned(
        self,
        row: int,
        scaler: ScalerMemory | None,
        recent: Sequence[tuple[FloatArray, list[PastLoad]]],
        *,
        now: UnixTime,
    ) -> Learned:
        missing = [f"{what}: {why}" for what, why in self._questions.refused.items()]
        missing += [
            str(one)
            for one in PastSignal
            if row not in self._found.get(one, ()) and str(one) not in self._questions.refused
        ]
        if not self._starts[row] and not any(one.startswith("pods'") for one in self._questions.refused):
            missing.append("starts of its pods")
        if not self._usage[row] and "container CPU" not in self._questions.refused:
            missing.append("use of its containers")
        times = np.concatenate([one for one, _ in recent]) if recent else np.zeros(0)
        columns = {
            Column.RUNNING: "running",
            Column.WAITING: "waiting",
            Column.KV_CACHE_USAGE: "kv_cache",
            Column.WORK_RATE: "served",
            Column.READY: "ready",
        }
        load = (
            np.stack([np.concatenate([getattr(loads[row], columns[one]) for _, loads in recent]) for one in Column])
            if recent
            else np.zeros((len(Column), 0))
        )
        since = self._since[row]
        return Learned(
            scaler=scaler,
            times=times,
            load=load,
            usage=self._usage[row],
            since=UnixTime(since) if since < float("inf") else None,
            samples=self._questions.samples,
            missing=tuple(missing),
            at=now,
            starts=self._starts[row],
        )

    def _where(self) -> str:
        return ",".join(part for part in (self._namespaces(self.labelling.namespace), self.matchers) if part)

    def _namespaces(self, label: str) -> str:
        return questions.one_of(label, sorted({past.namespace for past in self.pasts}))


class _Owner:
    """Tells whose a pod is by its name, as controllers make them."""

    def __init__(self, rows: Mapping[tuple[str, str], int]) -> None:
        names = sorted({name for _, name in rows}, key=lambda name: (-len(name), name))
        self._rows = rows
        self._pattern = re.compile(f"({'|'.join(map(re.escape, names))}){_POD}")

    def of(self, namespace: str, pod: str) -> int | None:
        """Return the row of a pod's workload; None where it is nobody's."""
        found = self._pattern.fullmatch(pod)
        return None if found is None else self._rows.get((namespace, found[1]))


def _live(fleet: FleetPast, loads: Sequence[PastLoad], start: UnixTime) -> None:
    rests = Rests()
    for _ in fleet.live(loads, start=start):
        rests.after_work()
