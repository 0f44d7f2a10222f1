"""Leadership by a Lease, so that of several replicas exactly one decides and writes.

Our own, because the client library's elector was measured to let two leaders go on for ever. The rules: only the
monotonic clock of this process measures time (a jumping wall clock must not make a leader); each request has its own
short time-out; a leader that could not renew within the deadline is no leader any more, whatever the server thinks,
and `check()` is called immediately before each write. On SIGTERM the Lease is given back at once.

It refuses to compare its clock with the holder's: a foreign Lease counts as expired only after it stood unchanged for
its whole duration while *we* watched.
"""

import asyncio
import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from optiinfra.cluster.errors import ClusterError, Conflict
from optiinfra.cluster.leases import LeaseRecord
from optiinfra.errors import LeadershipLost, SettingsError

_LOG = logging.getLogger(__name__)
_JITTER = 0.1
_TIE = 0.1
"""Seconds, spread, after the end of a foreign Lease: of several followers one comes first."""


class LeaseStore(Protocol):
    """What the elector needs of the API server; `optiinfra.cluster.leases` is the real one."""

    async def read(self) -> LeaseRecord | None:
        """Return the Lease, or None when there is none yet."""

    async def write(self, record: LeaseRecord, *, previous: LeaseRecord | None) -> LeaseRecord:
        """Create the Lease (previous None) or replace exactly that version; Conflict when somebody was faster."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Durations in seconds: how long a holder is believed, when it gives up itself, and the pause between tries.

    Raises:
        SettingsError: with these times two replicas could lead at once, or none for long.
    """

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0

    def __post_init__(self) -> None:
        if self.renew_deadline >= self.duration:
            raise SettingsError(
                f"OPTIINFRA_RENEW_DEADLINE_SECONDS {self.renew_deadline:g} must be less than "
                f"OPTIINFRA_LEASE_DURATION_SECONDS {self.duration:g}, or two replicas would lead at once"
            )
        if self.retry_period * (1.0 + _JITTER) >= self.renew_deadline:
            raise SettingsError(
                f"OPTIINFRA_RETRY_PERIOD_SECONDS {self.retry_period:g} must be clearly less than "
                f"OPTIINFRA_RENEW_DEADLINE_SECONDS {self.renew_deadline:g}, or no replica would lead for long"
            )


@dataclass(slots=True)
class Elector:
    """Takes, renews and gives back one Lease. `run` ends when leadership was lost or `stop` was called."""

    store: LeaseStore
    identity: str
    times: LeaseTimes
    clock: Callable[[], float]
    """Monotonic seconds."""
    on_leading: Callable[[], None]
    """Called once, when the Lease was taken."""
    on_following: Callable[[], None] = lambda: None
    """Called whenever another replica is seen to hold it."""
    leader: str = ""
    """Identity of the present holder as far as known; may be ourselves."""
    _deadline: float = field(default=float("-inf"))
    _seen: LeaseRecord | None = None
    _seen_at: float = 0.0
    _led: bool = False
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def check(self) -> None:
        """Raise LeadershipLost unless this process may write at this very moment."""
        if self.clock() >= self._deadline:
            raise LeadershipLost("the Lease could not be renewed in time; this replica must not write")

    @property
    def leading(self) -> bool:
        """Whether this process may write at this moment."""
        return self.clock() < self._deadline

    async def run(self) -> None:
        """Take and renew until stopped.

        Raises:
            LeadershipLost: this process led and could not renew; the process must end.
        """
        while not self._stopping.is_set():
            await self._try()
            if self._led and not self.leading:
                raise LeadershipLost(f"lease not renewed within {self.times.renew_deadline:g} s")
            await self._pause()
        await self._release()

    def stop(self) -> None:
        """Ask `run` to give the Lease back and return."""
        self._stopping.set()

    async def _pause(self) -> None:
        spread = random.uniform(1.0 - _JITTER, 1.0 + _JITTER)  # noqa: S311  jitter, not a secret
        pause = self.times.retry_period * spread
        left = self._left()
        if 0.0 < left < pause:  # the next try comes when the foreign Lease has just expired: a takeover waits no longer
            pause = left + _TIE * spread
        try:
            async with asyncio.timeout(pause):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _try(self) -> None:
        # The deadline counts from before the request: the server's clock starts no earlier than that.
        asked_at = self.clock()
        try:
            record = await self.store.read()
            self._note(record, now=self.clock())
            if self._led and record is not None and record.holder != self.identity:
                # The Lease was deleted or edited under a living leader: the rest of the deadline is not ours any more.
                self._deadline = float("-inf")
                return
            if record is not None and record.holder and record.holder != self.identity and not self._expired():
                self.on_following()
                return
            written = await self.store.write(self._wanted(record), previous=record)
        except Conflict:
            return  # another replica was faster; the next try sees it
        except (ClusterError, TimeoutError) as error:
            _LOG.warning("lease not reached", extra={"error": str(error), "leading": self.leading})
            return
        self._note(written, now=self.clock())
        if self._led and not self.leading:
            # A renewal that succeeds too late revives nobody: others may have led, and what we remember may be old.
            return
        self._deadline = asked_at + self.times.renew_deadline
        if not self._led and self.leading:
            self._led = True
            _LOG.info("leading", extra={"identity": self.identity})
            self.on_leading()

    def _wanted(self, record: LeaseRecord | None) -> LeaseRecord:
        transitions = 0 if record is None else record.transitions + (record.holder != self.identity)
        return LeaseRecord(
            holder=self.identity,
            duration_seconds=math.ceil(self.times.duration),  # never believed for less than the deadline assumes
            transitions=transitions,
            annotations={} if record is None else record.annotations,
            resource_version="" if record is None else record.resource_version,
        )

    def _note(self, record: LeaseRecord | None, *, now: float) -> None:
        if record is None:
            self._seen, self.leader = None, ""
            return
        if self._seen is None or record.resource_version != self._seen.resource_version:
            self._seen_at = now
        self._seen, self.leader = record, record.holder

    def _expired(self) -> bool:
        return self._left() < 0.0

    def _left(self) -> float:
        """Return how long the Lease of another holder is still believed; 0 where there is none."""
        if self._seen is None or not self._seen.holder or self._seen.holder == self.identity:
            return 0.0
        return max(float(self._seen.duration_seconds), 1.0) - (self.clock() - self._seen_at)

    async def _release(self) -> None:
        held, self._deadline = self.leading, float("-inf")
        if not held:
            return
        try:
            record = await self.store.read()
            if record is not None and record.holder == self.identity:
                await self.store.write(
                    LeaseRecord(
                        holder="",
                        duration_seconds=1,
                        transitions=record.transitions,
                        annotations=record.annotations,
                        resource_version=record.resource_version,
                    ),
                    previous=record,
                )
        except (ClusterError, TimeoutError) as error:
            _LOG.warning("lease not given back; it expires by itself", extra={"error": str(error)})
