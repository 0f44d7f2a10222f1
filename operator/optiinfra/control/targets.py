"""Where targets stand: their replicas and selectors, read in the background so that no round waits for the network.

A target is read when its object appears and then once per interval of the object. The last good answer is kept with
its time; an error is kept beside it, and which of the two counts is for collect to say.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from optiinfra.api.v1alpha1 import TargetRef
from optiinfra.cluster.errors import ClusterError, Throttled, Unavailable
from optiinfra.cluster.targets import TargetFacts

_LOG = logging.getLogger(__name__)
_BELIEVED_SECONDS = 180.0
_BELIEVED_FAILURES = 3
"""What was read is believed for so long without an answer, and at least over so many tries: intervals differ."""


class TargetReader(Protocol):
    """Reads one target; `optiinfra.cluster.targets` is the real one."""

    async def read(self, *, api_version: str, kind: str, namespace: str, name: str) -> TargetFacts:
        """Return the target as it stands, or raise a ClusterError."""


@dataclass(slots=True)
class KnownTarget:
    """The last good answer and the last error about one target."""

    facts: TargetFacts | None = None
    read_at: float = float("-inf")
    error: ClusterError | None = None
    reading: bool = False
    heard_at: float = float("-inf")
    """When it was last read with success."""
    failures: int = 0
    """Tries in a row that brought no answer."""


@dataclass(slots=True)
class TargetTable:
    """Known targets by (namespace, reference)."""

    reader: TargetReader
    clock: Callable[[], float]
    concurrency: int = 16
    _known: dict[tuple[str, TargetRef], KnownTarget] = field(default_factory=dict)
    _slots: asyncio.Semaphore | None = None

    def get(self, namespace: str, reference: TargetRef) -> KnownTarget | None:
        """Return what is known about a target; None when it was never asked for."""
        return self._known.get((namespace, reference))

    def age(self, namespace: str, reference: TargetRef) -> float:
        """Seconds since the target was last read with success or failure; infinite when never."""
        known = self._known.get((namespace, reference))
        return float("inf") if known is None else self.clock() - known.read_at

    async def refresh(self, namespace: str, reference: TargetRef) -> None:
        """Read a target now; concurrent requests for the same one are one request."""
        known = self._known.setdefault((namespace, reference), KnownTarget())
        if known.reading:
            return
        self._slots = self._slots or asyncio.Semaphore(self.concurrency)
        known.reading = True
        try:
            async with self._slots:
                known.facts = await self.reader.read(
                    api_version=reference.api_version, kind=reference.kind, namespace=namespace, name=reference.name
                )
                known.error, known.failures, known.heard_at = None, 0, self.clock()
        except (Unavailable, Throttled) as error:
            # No answer is no news: what was said for certain before still stands, but not for ever.
            known.failures += 1
            believed = known.failures < _BELIEVED_FAILURES or self.clock() - known.heard_at < _BELIEVED_SECONDS
            known.error = known.error or (None if known.facts is not None and believed else error)
            _LOG.info("target not read", extra={"namespace": namespace, "error": str(error)})
        except ClusterError as error:
            known.error = error
            _LOG.info("target not read", extra={"namespace": namespace, "error": str(error)})
        finally:
            known.reading = False
            known.read_at = self.clock()

    def forget_except(self, alive: set[tuple[str, TargetRef]]) -> None:
        """Drop targets that no object points at any more."""
        for key in [key for key in self._known if key not in alive]:
            del self._known[key]
