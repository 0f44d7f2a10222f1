"""When it is too early to say something of a service: a new leader retracts nothing that the one before it said.

A process that has just begun to lead has read no target and no page. To say so would turn Ready of every object to
False and back at each upgrade, which Flux, Argo CD and alerts take for trouble of the object's. So the status of before
stands until something is known, be it that nothing can be read, and for a bounded time.
"""

from collections.abc import Iterable
from typing import Final

from optiinfra.api.conditions import Condition, ConditionType
from optiinfra.api.reasons import Reason
from optiinfra.api.v1alpha1 import ResourceOptimizationStatus
from optiinfra.control.work import ServiceWork
from optiinfra.domain.units import UnixTime

LONGEST: Final = 30.0
"""Seconds; pages of all pods come within two readings, or fail."""


def too_early(service: ServiceWork, status: ResourceOptimizationStatus, *, now: UnixTime) -> bool:
    """Tell whether nothing is known yet, and what was said of the same spec is to stand meanwhile."""
    memory, before = service.memory, service.obj.status
    if not _collects(status.conditions):
        memory.collecting_since = None
        return False
    if memory.collecting_since is None:
        memory.collecting_since = now
    told = any(one.type is ConditionType.READY for one in before.conditions) and not _collects(before.conditions)
    same = before.observed_generation == status.observed_generation
    return told and same and 0.0 <= now - memory.collecting_since < LONGEST


def _collects(conditions: Iterable[Condition]) -> bool:
    return any(one.type is ConditionType.READY and one.reason == Reason.COLLECTING for one in conditions)
