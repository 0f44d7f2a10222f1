"""How fast a server is asked: few calls at once, none while it asks for time, fewer after it was too busy.

A server that refuses one call because it is busy is busy for all of them: everybody waits, for as long as it says, else
longer each time, and afterwards calls go one by one until several were answered. Failures in a row are bounded.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from optiinfra.cluster.errors import ClusterError
from optiinfra.cluster.prometheus_range import QueryLimits

_CALLS_TO_GROW: Final = 8
_FIRST_WAIT_S: Final = 0.5


class Pace:
    """Turns to ask one server."""

    def __init__(self, limits: QueryLimits, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._limits = limits
        self._sleep = sleep
        self._changed = asyncio.Condition()
        self._running = 0
        self._at_once = limits.at_once
        self._waiting = False
        self._answered = 0
        self._failures = 0
        self.waited_s = 0.0
        """How long calls were held back because the server was busy."""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold one of the calls that may run at once."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._waiting and self._running < self._at_once)
            self._running += 1
        try:
            yield
        finally:
            async with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def answered(self) -> None:
        """Note an answer: after several of them more calls may run at once again."""
        self._failures = 0
        self._answered += 1
        if self._answered >= _CALLS_TO_GROW:
            self._at_once, self._answered = min(self._limits.at_once, self._at_once + 1), 0

    async def busy(self, error: ClusterError) -> None:
        """Hold all calls back for a while. Raises the error where it came too often in a row."""
        if self._waiting:
            # Refused at the same moment as another call: that is one failure.
            return
        self._failures += 1
        self._answered = 0
        self._at_once = 1
        most = self._limits.failures if error.code else self._limits.connection_failures
        if self._failures >= most:
            raise error
        asked = error.retry_after_s
        seconds = _FIRST_WAIT_S * 2.0 ** (self._failures - 1) if asked is None else asked
        seconds = min(max(seconds, 0.0), self._limits.longest_wait_s)
        self._waiting = True
        try:
            await self._sleep(seconds)
            self.waited_s += seconds
        finally:
            async with self._changed:
                self._waiting = False
                self._changed.notify_all()
