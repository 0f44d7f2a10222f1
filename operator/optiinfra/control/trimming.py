"""Gives memory that a burst left free back to the system: after the start, and after rounds of many objects.

The allocator keeps what it was given once, and what is free lies between what is used, so the largest moment of the
process would be its size for ever. Giving back takes a millisecond, and taking it again is a page fault each 4 KiB; so
it is done seldom, and only where much was used. It collects no garbage and knows nothing of what is remembered.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from optiinfra import footprint, metrics

_LOG = logging.getLogger(__name__)
LARGE_ROUND: Final = 25
"""Objects of a round after which it is worth it: each leaves some 100 KiB."""
PAUSE: Final = 30.0
"""Seconds at least between two times."""


@dataclass(slots=True)
class Trimmer:
    """Trims the heap after bursts. Once a burst is enough: it knows when it did so last."""

    trim: Callable[[], bool] = footprint.trim
    """Gives back what is free; tells whether that was anything."""
    clock: Callable[[], float] = time.monotonic
    _last: float = field(default=float("-inf"))
    _told: bool = False

    def after_round(self, objects: int) -> None:
        """A round of so many objects has ended, and nothing holds on to it any more."""
        if objects >= LARGE_ROUND and self.clock() - self._last >= PAUSE:
            self._trim("round")

    def after_start(self) -> None:
        """Everything is imported, and the first statuses are written."""
        self._trim("start")

    def _trim(self, burst: str) -> None:
        began = time.perf_counter()
        given = self.trim()
        took_ms = 1000.0 * (time.perf_counter() - began)
        self._last = self.clock()
        metrics.MEMORY_TRIMS.labels(burst, "given" if given else "nothing").inc()
        if not self._told:
            self._told = True
            _LOG.info("memory given back", extra={"burst": burst, "given": given, "took_ms": round(took_ms, 1)})
