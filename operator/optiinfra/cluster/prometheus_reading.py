"""Reads planned pieces: from the cache or the server, a few at once, into one array a question.

A piece that the server finds too large is halved and so are the next ones of its question; one that it refuses for
another reason ends its question, not the others. What ends everything (no access, nobody there, too busy for too long,
the budget) is raised once; what was read until then is kept on disk. Answers are parsed in a thread, while the server
works on the next one.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from optiinfra.cluster.errors import ClusterError, Invalid, Malformed
from optiinfra.cluster.prometheus_answer import Piece
from optiinfra.cluster.prometheus_cache import PieceCache, piece_name
from optiinfra.cluster.prometheus_call import Caller
from optiinfra.cluster.prometheus_grid import TimeGrid
from optiinfra.cluster.prometheus_plan import AskLimits, grid_of, is_largest
from optiinfra.cluster.prometheus_refusals import Helps, helps
from optiinfra.cluster.prometheus_rows import Key, Rows
from optiinfra.domain.report.frames import FloatArray, Frame, Question

_MOST_WARNINGS = 8


class OverBudget(Invalid):
    """More samples would be read than allowed."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far reading has come."""

    done: int
    """Series x steps read, from the server or the cache."""
    total: int
    samples: int
    """Read by the server so far."""
    question: str
    """Name of the question of the last piece."""


@dataclass
class Samples:
    """What reading has cost the server."""

    counted: int = 0
    """By the server's own statistics."""
    estimated: int = 0
    """Where it has none: series x steps x samples in the window of each step."""
    kept: int = 0
    """That pieces from the cache had cost when they were read."""

    @property
    def total(self) -> int:
        """Counted and estimated."""
        return self.counted + self.estimated


@dataclass
class Answering:
    """One question while it is answered."""

    question: Question
    whole: TimeGrid
    """That its frame is on."""
    link: str
    most_points: int
    """Of one call; smaller after the server found one too large or took long."""
    rows: dict[Key, FloatArray] = field(default_factory=dict)
    owners: dict[Key, int] = field(default_factory=dict)
    """Part that a row was first seen in."""
    samples: int = 0
    warnings: dict[str, None] = field(default_factory=dict)
    merged: int = 0
    shared: set[Key] = field(default_factory=set)
    refused: ClusterError | None = None
    grid: TimeGrid = field(init=False)
    """At whose moments it is asked."""

    def __post_init__(self) -> None:
        self.grid = grid_of(self.question, self.whole)

    @property
    def rest_s(self) -> float:
        """Seconds of the range behind its last moment: they are asked for besides, as one moment more, at its end."""
        return max(0.0, self.whole.end - self.grid.end)

    @property
    def points(self) -> int:
        """That are asked for."""
        return 1 if self.question.latest else self.grid.points + (self.rest_s > 0.0)

    def _on_the_grid(self, values: FloatArray) -> FloatArray:
        """Put coarse values at all points that they stand for."""
        if self.grid is self.whole:
            return values
        places = self.whole.spread_from(self.grid)
        spread: FloatArray = values[:, places]
        if self.question.events:
            inner = np.zeros(len(places), dtype=np.bool_)
            inner[:-1] = places[:-1] == places[1:]
            spread[np.isfinite(spread) & inner] = 0.0
        return spread

    def add(self, read: Rows, *, first: int, part: int) -> None:
        """Take what came back; where a row has two values at a step, the larger stays."""
        at = 0 if self.question.latest else first
        for key, values in zip(read.keys, read.values, strict=True):
            row = self.rows.get(key)
            if row is None:
                row = self.rows[key] = np.full(self.points, np.nan)
                self.owners[key] = part
            elif self.owners[key] != part and not is_largest(self.question.promql):
                self.shared.add(key)
            place = row[at : at + len(values)]
            np.fmax(place, values, out=place)
        self.merged += read.merged
        self.samples += read.samples or 0
        for warning in read.warnings[: _MOST_WARNINGS - len(self.warnings)]:
            self.warnings[warning] = None

    def frame(self) -> Frame:
        """Return what came back, and let go of it."""
        warnings = list(self.warnings)
        if self.merged:
            warnings.append(f"{self.merged} series had the labels of another one: the larger value was kept")
        if self.shared:
            warnings.append(f"{len(self.shared)} rows came from several parts of the question: the larger was kept")
        keys = tuple(sorted(self.rows))
        values = np.empty((len(keys), self.points), dtype=np.float64)
        for n, key in enumerate(keys):
            values[n] = self.rows.pop(key)
        if self.question.latest:
            times = np.array([self.whole.end])
        else:
            times, values = self.whole.times, self._on_the_grid(values)
        return Frame(self.question, keys, times, values, self.samples, self.link, tuple(warnings))


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of one part."""

    of: Answering
    query: str
    series: int
    a_step: float
    """Samples that a series is read for at one step, as estimated."""
    part: int
    """Which share of the series it is; copies of one share have the same."""
    first: int
    points: int

    @property
    def cells(self) -> int:
        """Series x steps."""
        return self.series * self.points

    @property
    def estimate(self) -> int:
        """Samples that the server will read for it."""
        return round(self.cells * self.a_step)

    @property
    def piece(self) -> Piece:
        """Its range."""
        grid = self.of.grid
        if self.first == grid.points:
            return Piece(self.of.whole.end, grid.step, 1)
        return Piece(grid.start + self.first * grid.step, grid.step, self.points)

    def cut(self) -> tuple["Task", "Task"]:
        """Return its two halves."""
        before, after = self.of.grid.halves(self.first, self.points)
        return self._part_of(*before), self._part_of(*after)

    def _part_of(self, first: int, points: int) -> "Task":
        return Task(self.of, self.query, self.series, self.a_step, self.part, first, points)


class Reading:
    """Works through tasks, a few at once."""

    def __init__(
        self,
        caller: Caller,
        tasks: Sequence[Task],
        *,
        cache: PieceCache | None,
        limits: AskLimits,
        samples: Samples,
        server_now: float,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._caller = caller
        self._waiting = deque(tasks)
        self._cache = cache
        self._limits = limits
        self._samples = samples
        self._server_now = server_now
        self._on_progress = on_progress
        self._total = sum(task.cells for task in tasks)
        self._done = 0

    async def run(self, *, at_once: int) -> None:
        """Read everything. Raises `ClusterError` for what ends it all."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(self._work())
        except BaseExceptionGroup as several:
            # Whichever came first ended the others; an error of our own is never hidden behind it.
            raise several.exceptions[0] from None

    async def _work(self) -> None:
        while self._waiting:
            task = self._waiting.popleft()
            if task.of.refused is not None:
                self._total -= task.cells
            elif task.points > max(task.of.most_points, 1) and task.points > 1:
                self._waiting.extendleft(reversed(task.cut()))
            else:
                await self._one(task)

    async def _one(self, task: Task) -> None:
        name = piece_name(self._caller.http.server, task.query, task.piece, by=task.of.question.by)
        kept = await asyncio.to_thread(self._cache.get, name) if self._cache is not None else None
        if kept is not None:
            self._samples.kept += task.estimate if kept.samples is None else kept.samples
        else:
            kept = await self._asked(task, name)
            if kept is None:
                return
        task.of.add(kept, first=task.first, part=task.part)
        self._done += task.cells
        if self._on_progress is not None:
            self._on_progress(Progress(self._done, self._total, self._samples.total, task.of.question.name))

    async def _asked(self, task: Task, name: str) -> Rows | None:
        """Ask the server; None where the task was cut or its question ended."""
        budget = self._limits.total_samples
        if self._samples.total >= budget:
            raise over_budget(self._samples.total, budget)
        try:
            reply = await self._caller.range(task.query, task.piece)
            read = await asyncio.to_thread(
                self._caller.read, reply, task.piece, by=task.of.question.by, most_series=self._limits.most_series
            )
        except ClusterError as error:
            self._refused(task, error)
            return None
        if read.samples is None:
            self._samples.estimated += task.estimate
        else:
            self._samples.counted += read.samples
        if reply.seconds > self._limits.slow_s:
            task.of.most_points = max(self._limits.least_points, min(task.of.most_points, task.points // 2))
        if self._cache is not None:
            await asyncio.to_thread(self._cache.put, name, read, end=task.piece.end, now=self._server_now)
        return read

    def _refused(self, task: Task, error: ClusterError) -> None:
        """Cut the task, or end its question, or raise."""
        if helps(error) is Helps.LESS and task.points > self._limits.least_points:
            task.of.most_points = min(task.of.most_points, task.points // 2)
            self._waiting.extendleft(reversed(task.cut()))
            return
        if helps(error) is Helps.LESS or isinstance(error, Invalid | Malformed):
            task.of.refused = error
            self._total -= task.cells
            return
        raise error


def over_budget(samples: int, budget: int) -> OverBudget:
    """Build the error, with what can be done."""
    return OverBudget(
        f"{samples / 1e6:,.0f} million samples would be read, the budget is {budget / 1e6:,.0f} million: ask for a "
        "shorter time, fewer namespaces or longer steps, or raise the budget"
    )
