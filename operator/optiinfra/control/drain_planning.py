"""When a drain plan is made, and on whose time: at once for small clusters, beside the rounds for large ones.

Planning 5,000 nodes takes seconds of CPU, and a round must not wait for it: other objects of the same round decide
about replicas. So a large cluster is planned in a thread of its own, and rounds go on with the last plan until the new
one is there. A plan is made again only after ten times as long as the last one took. What raises there is raised in
the round that fetches it, where it belongs to its object.
"""

import threading
import time
from dataclasses import dataclass, field
from typing import Final

from optiinfra.domain.consolidation import ClusterFacts, ConsolidationPlan, DrainPolicy, plan
from optiinfra.domain.consolidation.scheduling import Habit, habit_of
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import UnixTime

AT_ONCE: Final = 300
"""Clusters of so many nodes are planned within the round: a fraction of a second."""
_SHARE_OF_TIME: Final = 10.0
"""A plan is made again after so many times as long as it took: planning takes at most a tenth of one core."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and how the scheduler was seen to fill nodes when it was made."""

    plan: ConsolidationPlan
    habit: Habit | Unknown
    seconds: float
    """CPU time that it took."""


@dataclass(slots=True)
class _Running:
    thread: threading.Thread
    result: list[Planned | Exception] = field(default_factory=list)


@dataclass(slots=True)
class DrainPlanning:
    """The plans of one object."""

    last: Planned | None = None
    _running: _Running | None = None

    def forget(self) -> None:
        """Throw away what there is, also what is still being made: the clock went astray."""
        self.last = None
        self._running = None

    def latest(self, facts: ClusterFacts, policy: DrainPolicy, *, now: UnixTime) -> Planned | None:
        """Return the newest plan, making one where it is time; None while the first one of a large cluster is made."""
        running = self._running
        if running is not None:
            if not running.result:
                return self.last
            self._running = None
            outcome = running.result[0]
            if isinstance(outcome, Exception):
                raise outcome
            self.last = outcome
            return self.last
        if self.last is not None and now - self.last.plan.time < _SHARE_OF_TIME * self.last.seconds:
            return self.last
        if len(facts.nodes) <= AT_ONCE:
            self.last = _make(facts, policy, now)
            return self.last
        self._running = _start(facts, policy, now)
        return self.last


def _make(facts: ClusterFacts, policy: DrainPolicy, now: UnixTime) -> Planned:
    began = time.thread_time()
    made = plan(facts, policy, now=now)
    habit = habit_of(facts.nodes)
    return Planned(made, habit, time.thread_time() - began)


def _start(facts: ClusterFacts, policy: DrainPolicy, now: UnixTime) -> _Running:
    result: list[Planned | Exception] = []

    def work() -> None:
        try:
            result.append(_make(facts, policy, now))
        except Exception as error:  # noqa: BLE001  handed over to the round, which raises it
            result.append(error)

    # A daemon: the end of the process does not wait for a plan that nobody will read.
    running = _Running(threading.Thread(target=work, name="drain plan", daemon=True), result)
    running.thread.start()
    return running
