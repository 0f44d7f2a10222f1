"""The published decisions: what scalers read as `optiinfra_desired_replicas`.

A decision lives only as long as it is supported: when the operator is unsure, stale, suspended or no longer leads, the
series disappears, so that the scaler's own fallback and second trigger take over. An old constant would hold a cluster
at yesterday's size.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from optiinfra import metrics

_CLOCK_SLACK = 5.0
"""Seconds by which a clock is corrected all the time."""


@dataclass(frozen=True, slots=True)
class Published:
    """One decision and how long it may be believed."""

    namespace: str
    name: str
    replicas: int
    decided_at: float
    expires_at: float

    def holds(self, now: float) -> bool:
        """Whether it may be believed; one from the future may not: the clock was set back, and nothing would end it."""
        return self.decided_at - _CLOCK_SLACK <= now < self.expires_at


@dataclass(slots=True)
class DecisionBoard:
    """Decisions by namespace and name. `clock` is Unix time: readers compare it with their own."""

    clock: Callable[[], float]
    _decisions: dict[tuple[str, str], Published] = field(default_factory=dict)

    def publish(self, namespace: str, name: str, *, replicas: int, lifetime: float) -> None:
        """Publish a decision for at most `lifetime` seconds."""
        now = self.clock()
        self._decisions[namespace, name] = Published(namespace, name, replicas, now, now + lifetime)
        metrics.DESIRED_REPLICAS.labels(namespace, name).set(replicas)

    def withdraw(self, namespace: str, name: str) -> None:
        """Take a decision back: the series disappears."""
        if self._decisions.pop((namespace, name), None) is not None:
            metrics.DESIRED_REPLICAS.remove(namespace, name)

    def clear(self) -> None:
        """Take everything back, as a replica does that no longer leads."""
        for namespace, name in tuple(self._decisions):
            self.withdraw(namespace, name)

    def expire(self) -> None:
        """Take back what nobody renewed in time."""
        now = self.clock()
        for decision in [d for d in self._decisions.values() if not d.holds(now)]:
            self.withdraw(decision.namespace, decision.name)

    def get(self, namespace: str, name: str) -> Published | None:
        """Return a decision that still holds."""
        decision = self._decisions.get((namespace, name))
        return decision if decision is not None and decision.holds(self.clock()) else None

    def of(self, namespace: str) -> list[Published]:
        """All decisions of a namespace that still hold."""
        now = self.clock()
        return [d for d in self._decisions.values() if d.namespace == namespace and d.holds(now)]
