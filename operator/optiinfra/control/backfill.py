"""Back-fill: a new install, and a new object, decide from the days that a metrics server remembers.

Runs beside the rounds: targets that know next to nothing ask for their past (`past`), some dozens are read together,
and each takes what was learned at the start of a later round. So do the GPUs of a cluster's object, all at once
(`gpu_past`). A target is read once; a server that is away is asked again some minutes later. How much was read and what
was missing is logged and stands in the object's status.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from optiinfra.cluster.errors import ClusterError
from optiinfra.cluster.prometheus import Prometheus
from optiinfra.cluster.prometheus_range import QueryLimits
from optiinfra.control.gpu_past import GpuPastReader
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.metrics_servers import MetricsServers
from optiinfra.control.past import Past
from optiinfra.control.past_reader import PastReader
from optiinfra.control.scraped_pages import Labelling
from optiinfra.domain.units import UnixTime

_LOG = logging.getLogger(__name__)
_LOOK_S: Final = 15.0
_GATHER_S: Final = 20.0
"""Objects of a fleet come one after the other; those of one reading share its queries."""
_AGAIN_S: Final = 300.0
_MOST_TOGETHER: Final = 32
LIMITS: Final = QueryLimits(
    points=1_440, total_points=2_000, bytes=16 << 20, series=5_000, timeout_s=30.0, failures=3, at_once=1
)
GPU_LIMITS: Final = replace(LIMITS, series=20_000)


@dataclass(slots=True)
class Backfill:
    """Answers targets that ask for their past."""

    memories: dict[ObjectKey, ObjectMemory]
    servers: MetricsServers
    days: float
    labelling: Labelling
    matchers: str = ""
    clock: Callable[[], float] = time.time
    learned: Callable[[ObjectKey], None] = lambda _key: None
    """Called for each object whose past was learned."""

    @property
    def configured(self) -> bool:
        """Whether anything is read at all."""
        return self.days > 0.0

    async def run(self) -> None:
        """Answer for ever; cancel to stop."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if any(self._waiting()):
                await asyncio.sleep(_GATHER_S)
                if not await self.turn():
                    await asyncio.sleep(_AGAIN_S)
            if any(self._clusters()):
                await asyncio.sleep(_GATHER_S)
                if not await self.gpu_turn():
                    await asyncio.sleep(_AGAIN_S)

    async def turn(self) -> bool:
        """Read for some of those who wait; False where no server answered."""
        waiting = list(self._waiting())[:_MOST_TOGETHER]
        urls = self.servers.urls()
        if not waiting or not urls:
            return bool(waiting and urls)
        began, trouble = time.monotonic(), ""
        for url in urls:
            try:
                async with Prometheus(self.servers.described(url), limits=LIMITS) as server:
                    reader = PastReader(server, [past for _, past in waiting], self.labelling, self.matchers)
                    found = await reader.read(days=self.days, now=UnixTime(self.clock()))
            except (ClusterError, ValueError) as error:
                trouble = trouble or str(error)
                continue
            for (key, past), learned in zip(waiting, found, strict=True):
                past.learned = learned
                self.learned(key)
            _LOG.info(
                "history read",
                extra={
                    "targets": len(waiting),
                    "with_history": sum(1 for one in found if one.since is not None),
                    "days": self.days,
                    "samples": reader.samples,
                    "seconds": round(time.monotonic() - began, 1),
                    "missing": sorted({one for learned in found for one in learned.missing}),
                },
            )
            return True
        _LOG.warning("history not read; asked again later", extra={"targets": len(waiting), "error": trouble})
        return False

    async def gpu_turn(self) -> bool:
        """Read for the GPUs of one cluster's object; False where no server answered."""
        key, memory = next(self._clusters(), (None, None))
        urls = self.servers.urls()
        if key is None or memory is None or not urls:
            return bool(urls)
        began, trouble = time.monotonic(), ""
        gpus = sorted(memory.gpus.known())
        for url in urls:
            try:
                async with Prometheus(self.servers.described(url), limits=GPU_LIMITS) as server:
                    reader = GpuPastReader(server, gpus, self.matchers, memory.gpus.policy)
                    past = await reader.read(days=self.days, now=UnixTime(self.clock()))
            except (ClusterError, ValueError) as error:
                trouble = trouble or str(error)
                continue
            memory.gpu_past = past
            self.learned(key)
            _LOG.info(
                "history of GPUs read",
                extra={
                    "object": str(key),
                    "gpus": len(gpus),
                    "with_history": past.gpus,
                    "days": self.days,
                    "samples": past.samples,
                    "seconds": round(time.monotonic() - began, 1),
                    "missing": sorted(past.missing),
                },
            )
            return True
        _LOG.warning("history of GPUs not read; asked again later", extra={"gpus": len(gpus), "error": trouble})
        return False

    def _clusters(self) -> Iterator[tuple[ObjectKey, ObjectMemory]]:
        for key, memory in tuple(self.memories.items()):
            if memory.gpu_past is None and len(memory.gpus):
                yield key, memory

    def _waiting(self) -> Iterator[tuple[ObjectKey, Past]]:
        for key, memory in tuple(self.memories.items()):
            for target in tuple(memory.targets.values()):
                if target.past is not None and target.past.learned is None:
                    yield key, target.past
