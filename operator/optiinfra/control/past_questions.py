"""Asks a metrics server about the past, one question after another with a pause, and keeps what it refused.

Both readings of the past (`past_reader` for workloads, `gpu_past` for GPUs) ask through it, so that they count, pause
and give up in the same way. It never asks again what was refused, and never hides it: `refused` is told to people. Only
a server that does not answer at all ends a reading.
"""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from optiinfra import metrics
from optiinfra.cluster.errors import ClusterError, Denied, Throttled, Unavailable, Unconfigured
from optiinfra.cluster.prometheus import RangeAnswer
from optiinfra.cluster.prometheus_range import RangeQuery

FloatArray = npt.NDArray[np.float64]
Row: TypeAlias = tuple[Collection[tuple[str, str]], FloatArray, FloatArray]
"""Labels, times and values of one series."""
PAUSE_S: Final = 0.25
"""Between two questions."""
_FATAL: Final = (Denied, Throttled, Unavailable, Unconfigured)
"""What holds for every question: the others are not asked."""
_WORK_S: Final = 0.02
_REST_S: Final = 0.04
_LONGEST_REASON: Final = 120


class RangeReader(Protocol):
    """Answers range queries; `optiinfra.cluster.prometheus` is the real one."""

    async def query_range(self, query: RangeQuery) -> RangeAnswer:
        """Ask for a range. Raises `ClusterError`."""


@dataclass(slots=True)
class PastQuestions:
    """The questions of one reading."""

    server: RangeReader
    pause_s: float = PAUSE_S
    samples: int = 0
    """That came back so far."""
    refused: dict[str, str] = field(default_factory=dict)
    """What was asked for, and why it did not come."""

    async def ask(self, query: RangeQuery, what: str) -> list[Row]:
        """Return what came; nothing where this was refused. Raises `ClusterError` where no question would be answered.

        `what` names the question for people, and is the same for each piece of time.
        """
        if what in self.refused:
            return []
        await asyncio.sleep(self.pause_s)
        began = time.monotonic()
        try:
            answer = await self.server.query_range(query)
        except ClusterError as error:
            metrics.METRICS_SERVER_QUERIES.labels("history", type(error).__name__).inc()
            if isinstance(error, _FATAL):
                raise
            self.refused[what] = error.message[:_LONGEST_REASON]
            return []
        finally:
            metrics.METRICS_SERVER_SECONDS.labels("history").observe(time.monotonic() - began)
        metrics.METRICS_SERVER_QUERIES.labels("history", "ok").inc()
        read = sum(len(one.values) for one in answer.series)
        metrics.METRICS_SERVER_SAMPLES.labels("history").inc(read)
        self.samples += read
        return [(one.labels, one.times, one.values) for one in answer.series]


@dataclass(slots=True)
class Rests:
    """Rests of a thread that lives through a past, twice as long as it works: rounds come first."""

    _worked: float = field(default_factory=time.monotonic)

    def after_work(self) -> None:
        """Rest where enough was done."""
        if time.monotonic() - self._worked >= _WORK_S:
            time.sleep(_REST_S)
            self._worked = time.monotonic()
