"""Whether this replica may act at all, by the kill switch: asked every second, on every replica, leading or not.

Fail-safe. An unreadable switch is what it was for `GRACE` seconds, which bridges a restart of the API server; after
that, and before the first answer, it counts as on. A ConfigMap that disappears while the switch is on leaves it on for
the life of the process: an uninstall takes it away while the operator still runs. One that was never there is off.
It stops acts, never status: what is stopped has to be told.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from optiinfra import metrics
from optiinfra.api.reasons import Reason
from optiinfra.cluster.errors import ClusterError, Denied
from optiinfra.cluster.kill_switch import Answer, Said

_LOG = logging.getLogger(__name__)
POLL: Final = 1.0
"""Seconds between two looks. With one look lost to its time-out of 2 s it is still obeyed within 4 s."""
GRACE: Final = 30.0
"""Seconds for which an unreadable switch is what it was."""
OBEYED_WITHIN: Final = 5.0
"""Seconds after which every replica that reaches the API server has seen it."""


class ActsStopped(Denied):
    """The kill switch forbids a write into users' objects at the very moment it was to be sent."""

    def __init__(self, stop: "Stop") -> None:
        super().__init__(stop.message)
        self.reason = stop.reason


class SwitchReader(Protocol):
    """Looks at the switch; `optiinfra.cluster.kill_switch` is the real one."""

    @property
    def shown(self) -> str:
        """Where it is, for people."""

    async def read(self) -> Answer:
        """Look once."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Why nothing may be done."""

    reason: Reason
    message: str


@dataclass(slots=True)
class SwitchWatch:
    """What is known of the switch. `clock` is monotonic; `changed` is called when acting is stopped or goes on."""

    reader: SwitchReader
    clock: Callable[[], float]
    changed: Callable[[], None] = lambda: None
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    """It was read, or could not be read, at least once."""
    _answer: Answer | None = None
    _answered_at: float = 0.0
    _error: str = "it was not read yet"
    _told: Reason | None = Reason.KILL_SWITCH_UNREADABLE

    def stop(self) -> Stop | None:
        """Why this replica may not act now; None when it may."""
        if self._answer is not None and self._answer.said is Said.STOP:
            odd = f"; {self._answer.detail}" if self._answer.detail else ""
            return Stop(Reason.KILL_SWITCH, f'{self.reader.shown} says paused: "true"{odd}')
        if self._answer is None or (self._error and self.clock() - self._answered_at > GRACE):
            return Stop(Reason.KILL_SWITCH_UNREADABLE, f"{self.reader.shown} is not readable: {self._error}"[:500])
        return None

    @property
    def stopped(self) -> bool:
        """Whether this replica may not act."""
        return self.stop() is not None

    def check(self) -> None:
        """Raise ActsStopped unless this replica may act at this very moment."""
        stop = self.stop()
        if stop is not None:
            raise ActsStopped(stop)

    async def run(self) -> None:
        """Look for ever; cancel to stop."""
        while True:
            await self.look()
            await asyncio.sleep(POLL)

    async def look(self) -> None:
        """Look once and tell what changed."""
        try:
            self._note(await self.reader.read())
        except (ClusterError, TimeoutError) as error:
            if not self._error:
                _LOG.warning("kill switch not readable", extra={"where": self.reader.shown, "error": str(error)})
            self._error = str(error)[:300] or "no answer in time"
            metrics.KILL_SWITCH_READS.labels("failed").inc()
        self._tell()
        self.answered.set()

    def _note(self, answer: Answer) -> None:
        if self._error and self._answer is not None:
            _LOG.info("kill switch readable again", extra={"where": self.reader.shown})
        metrics.KILL_SWITCH_READS.labels(str(answer.said).lower()).inc()
        self._answered_at, self._error = self.clock(), ""
        if answer.said is Said.ABSENT and self._answer is not None and self._answer.said is Said.STOP:
            gone = 'the ConfigMap was deleted while it said so: create it with paused: "false" to go on'
            self._answer = Answer(Said.STOP, gone)
            return
        self._answer = answer

    def _tell(self) -> None:
        stop = self.stop()
        reason = stop.reason if stop is not None else None
        metrics.KILL_SWITCH.set(0 if stop is None else 1)
        if reason is self._told:
            return
        self._told = reason
        if stop is None:
            _LOG.info("kill switch is off: acting is allowed", extra={"where": self.reader.shown})
        else:
            _LOG.warning("kill switch stops all acts", extra={"reason": str(reason), "why": stop.message})
        self.changed()
