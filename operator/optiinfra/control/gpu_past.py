"""The past of a cluster's GPUs from a metrics server: what each did by five minutes, lived through and handed over.

A query for each family that the server has and each piece of time, with a pause between two; every step's busiest
moments go into a memory of idleness of their own (`domain.idle`), which a round then puts in front of what it saw
itself (`take`). So a GPU that has done nothing for a week is known as such from the first minutes on, and its pauses
are those of two weeks. A step in which nothing was measured is a hole here as it is there: it ends every quiet time.
Refuses nothing: what the server does not have is said and stays unknown.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.cluster.prometheus_range import RangeQuery
from optiinfra.control.past_questions import PAUSE_S, PastQuestions, RangeReader, Rests
from optiinfra.domain.idle import IdleMemory
from optiinfra.domain.idle.samples import Samples
from optiinfra.domain.idle.states import IdlePolicy
from optiinfra.domain.surroundings_readings import GpuQuantity
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.engines import promql_gpu_history as queries
from optiinfra.engines import series

FloatArray = npt.NDArray[np.float64]
STEP: Final = Seconds(300.0)
_DAY: Final = 86_400.0
_MOST_POINTS: Final = 200_000
"""Of one answer."""
_LEAST_STEPS: Final = 12
_ACTIVITY: Final = (GpuQuantity.UTILIZATION, GpuQuantity.SM_ACTIVE)


@dataclass(slots=True)
class GpuPast:
    """What a past came to."""

    memory: IdleMemory
    gpus: int
    """Of which anything was found."""
    since: UnixTime | None
    """Beginning of what was found; None where nothing was."""
    samples: int
    missing: tuple[str, ...]
    """What was asked for and is not there, in words."""
    taken: bool = False


def take(memory: IdleMemory, past: GpuPast | None) -> bool:
    """Put a past in front of what was seen, once; False where there is none to take."""
    if past is None or past.taken:
        return False
    past.taken = True
    memory.precede(past.memory)
    return True


@dataclass(slots=True)
class GpuPastReader:
    """One reading of some GPUs."""

    server: RangeReader
    gpus: Sequence[tuple[str, str]]
    """(node, GPU) as the memory of idleness names them."""
    matchers: str
    policy: IdlePolicy
    pause_s: float = PAUSE_S
    _questions: PastQuestions = field(init=False)
    _since: float = float("inf")
    _found: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Begin with no question asked."""
        self._questions = PastQuestions(self.server, self.pause_s)

    async def read(self, *, days: float, now: UnixTime) -> GpuPast:
        """Read `days` up to now, the oldest first. Raises `ClusterError` where the server does not answer."""
        end = now // STEP * STEP
        start = end - days * _DAY
        present = await self._present(UnixTime(start), UnixTime(end))
        memory = IdleMemory(self.policy)
        columns = np.array([memory.column(*key) for key in self.gpus], dtype=np.intp)
        rows = {gpu: row for row, (_, gpu) in enumerate(self.gpus)}
        steps = max(_LEAST_STEPS, min(round(_DAY / STEP), _MOST_POINTS // max(1, len(rows))))
        at = start
        while at < end and present:
            until = min(at + steps * STEP, end)
            values = await self._piece(present, rows, at, until)
            await asyncio.to_thread(_live, memory, columns, values, at)
            at = until
        missing = [f"{name}: {why}" for name, why in self._questions.refused.items()]
        if not any(one.quantity in _ACTIVITY for one in present):
            missing.append("activity of GPUs: no series of dcgm-exporter or the agent")
        return GpuPast(
            memory=memory,
            gpus=len(self._found),
            since=UnixTime(self._since) if self._since < float("inf") else None,
            samples=self._questions.samples,
            missing=tuple(missing),
        )

    async def _present(self, start: UnixTime, end: UnixTime) -> tuple[queries.GpuQuestion, ...]:
        step = Seconds(max(float(STEP), (end - start) / 300.0))
        found = await self._questions.ask(
            RangeQuery(queries.present_query(self.matchers), start, end, step), "families"
        )
        names = {value for labels, _, _ in found for label, value in labels if label == series.NAME}
        return tuple(one for one in queries.questions() if one.name in names)

    async def _piece(
        self, present: Sequence[queries.GpuQuestion], rows: Mapping[str, int], at: float, until: float
    ) -> dict[GpuQuantity | None, FloatArray]:
        """Return the highest value of each step, (GPUs, steps) a quantity; NaN where nothing was measured."""
        steps = round((until - at) / STEP)
        values: dict[GpuQuantity | None, FloatArray] = {
            one: np.full((len(rows), steps), np.nan) for one in (*_ACTIVITY, GpuQuantity.MEMORY_USED, None)
        }
        for one in present:
            text = queries.past_query(one.name, matchers=self.matchers, step_s=STEP)
            # A step's value is what was measured up to its end.
            query = RangeQuery(text, UnixTime(at + STEP), UnixTime(until), STEP)
            for labels, times, found in await self._questions.ask(query, one.name):
                row = rows.get(queries.gpu_of(labels))
                if row is None or not len(times):
                    continue
                scaled = found * one.scale
                known = (scaled >= 0.0) & (scaled <= one.largest)
                place = np.rint((times[known] - at) / STEP).astype(np.int64) - 1
                # Of two exporters the busier one counts.
                values[one.quantity][row, place] = np.fmax(values[one.quantity][row, place], scaled[known])
                if one.quantity in _ACTIVITY and known.any():
                    self._found.add(row)
                    self._since = min(self._since, float(times[known][0]))
        return values


def _live(
    memory: IdleMemory, columns: npt.NDArray[np.intp], values: Mapping[GpuQuantity | None, FloatArray], start: float
) -> None:
    """Live through a piece of time, step by step; rests twice as long as it works."""
    rests = Rests()
    steps = next(iter(values.values())).shape[1]
    missing = np.full(len(columns), np.nan)
    for step in range(steps):
        duty, active, used, power = (values[one][:, step] for one in (*_ACTIVITY, GpuQuantity.MEMORY_USED, None))
        seen = np.isfinite(duty) | np.isfinite(active)
        if seen.any():
            memory.observe(
                Samples(
                    gpu=columns[seen],
                    time=np.full(int(seen.sum()), start + (step + 1) * STEP),
                    duty=duty[seen],
                    memory=used[seen],
                    power=power[seen],
                    sm_active=active[seen],
                    power_limit=missing[seen],
                    transfer=missing[seen],
                    working=np.zeros(int(seen.sum()), dtype=np.bool_),
                )
            )
        rests.after_work()
