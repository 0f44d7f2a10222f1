"""Which of several operators in one cluster looks after an object: settled in its status, without a third party.

Two installations by mistake would publish, take floors and write statuses against each other. So an operator writes its
name (namespace and Lease) into the status of an object that nobody looks after, and acts only once that has stood for a
moment. Another one that meets a foreign name asks, by a line of its own in that status; the one that looks after the
object marks the question as answered in its next round, and shows it as a condition. A question that nobody answers in
time means that the other operator is gone, and the asker takes its place. No clock is compared between the two, idle
objects cost no writes, and no permission is needed but the one to write statuses. Replicas of one installation have one
name. Who finds a ClusterResourceOptimization claimed still takes defaults and prices from its spec; that is no writing.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1 import ClusterResourceOptimizationStatus, ResourceOptimizationStatus
from optiinfra.api.v1alpha1.status_parts import OtherOperatorStatus
from optiinfra.control.keys import ObjectKey
from optiinfra.domain.units import UnixTime

_LOG = logging.getLogger(__name__)
ClaimedStatus: TypeAlias = ResourceOptimizationStatus | ClusterResourceOptimizationStatus
SETTLE = 2.0
"""Seconds for which our name must have stood before we act: longer than a watch lags behind."""
LEAST_PATIENCE = 60.0
_PATIENCE_INTERVALS = 3.0
ASK_AGAIN = 900.0
"""Seconds after which an operator that was answered asks anew."""
FORGET = 2400.0
"""Seconds without a new question after which the other operator counts as gone."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who looks after an object."""

    operator: str = ""
    """For the status; empty: operators are not told apart."""
    other: OtherOperatorStatus | None = None
    """For the status: the other operator that sees the object."""
    acts: bool = True
    """Our name has stood long enough."""
    holder: str = ""
    """The operator that it is left to; empty: it is ours."""

    @property
    def yields(self) -> bool:
        """Whether the object is left to another operator: nothing is written but a question now and then."""
        return bool(self.holder)


@dataclass(slots=True)
class Claims:
    """What one operator remembers of its claims. `own` is its name; without one nothing is claimed."""

    own: str = ""
    clock: Callable[[], float] = lambda: 0.0
    steady: Callable[[], float] | None = None
    """A clock that nobody sets, to tell how long our name has stood; None takes the other one."""
    _since: dict[ObjectKey, float] = field(default_factory=dict)
    """Since when our name is seen in the stored status."""

    def judge(self, key: ObjectKey, status: ClaimedStatus, *, interval: float) -> Claim:
        """Settle the claim to an object from its stored status."""
        if not self.own:
            return Claim()
        now = self.clock()
        if status.operator and status.operator != self.own:
            self._since.pop(key, None)
            return self._foreign(key, status, interval=interval, now=now)
        if not status.operator:
            self._since.pop(key, None)
            return Claim(self.own, acts=False)
        moment = now if self.steady is None else self.steady()
        stood = moment - self._since.setdefault(key, moment)
        return Claim(self.own, self._answered(status.other_operator, now=now), acts=stood >= SETTLE)

    def forget(self, key: ObjectKey) -> None:
        """Drop what is remembered of an object that is gone."""
        self._since.pop(key, None)

    def _answered(self, other: OtherOperatorStatus | None, *, now: float) -> OtherOperatorStatus | None:
        if other is None or other.name == self.own or now - other.at.unix > FORGET:
            return None
        return other if other.answered else other.model_copy(update={"answered": True})

    def _foreign(self, key: ObjectKey, status: ClaimedStatus, *, interval: float, now: float) -> Claim:
        asked, holder = status.other_operator, status.operator
        question = OtherOperatorStatus(name=self.own, at=Time.of(UnixTime(now)))
        if asked is None or asked.name != self.own or (asked.answered and now - asked.at.unix >= ASK_AGAIN):
            _LOG.warning("another operator looks after an object", extra={"object": str(key), "operator": holder})
            return Claim(holder, question, acts=False, holder=holder)
        if not asked.answered and now - asked.at.unix >= max(LEAST_PATIENCE, _PATIENCE_INTERVALS * interval):
            _LOG.warning("an operator is gone, its object is ours", extra={"object": str(key), "operator": holder})
            return Claim(self.own, acts=False)
        return Claim(holder, asked, acts=False, holder=holder)
