"""Which pods a resize is about, and which of them have the size that was asked for.

Read from the mirror of pods and from the record in the status alone, so that a new leader sees the same. Pods count by
the revision of their template: a rollout makes others, which have the size of the template.
"""

import math
from dataclasses import dataclass

from optiinfra.api.v1alpha1.status_parts import ResizeStatus
from optiinfra.cluster.quantities import quantity
from optiinfra.cluster.resize import Wish
from optiinfra.control.work import TargetWork
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.verification.attribution import REVISION_LABELS
from optiinfra.domain.workload import PodFacts


@dataclass(frozen=True, slots=True)
class SizeChange:
    """What a resize is about, as read from its record."""

    wish: Wish
    back: Wish


def revision_of(target: TargetWork) -> str:
    """Return the revision of the newest pod that stays; empty where pods bear none."""
    assert target.facts is not None
    staying = [pod for pod in target.facts.pods if not pod.terminating]
    newest = max(staying, key=lambda pod: (pod.created, pod.name), default=None)
    return "" if newest is None else revision_label(newest)


def revision_label(pod: PodFacts) -> str:
    """Return the revision that a pod bears; empty where it bears none."""
    return next((pod.labels[label] for label in REVISION_LABELS if pod.labels.get(label)), "")


def change_of(record: ResizeStatus) -> SizeChange:
    """Read the wish and the way back out of a record: what `_size` wrote."""
    container, resource = (
        record.setting.partition("containers[")[2].partition("]")[0],
        record.setting.rsplit(".", 1)[-1],
    )

    def wish(size: str) -> Wish:
        parts = dict(part.split(" ", 1) for part in size.split(", ") if " " in part)
        return Wish(container, resource, parts.get("request", "" if parts else size), parts.get("limit", ""))

    return SizeChange(wish(record.to), wish(record.from_))


def pods_of(target: TargetWork, record: ResizeStatus) -> list[PodFacts]:
    """Return the pods of a record's revision that run, by name."""
    assert target.facts is not None
    found = [
        pod
        for pod in target.facts.pods
        if not pod.terminating and pod.phase == "Running" and revision_label(pod) == record.revision
    ]
    return sorted(found, key=lambda pod: pod.name)


def pods_with(target: TargetWork, record: ResizeStatus, wish: Wish) -> list[PodFacts]:
    """Return the pods whose spec has a size, as mirrored."""
    return [pod for pod in pods_of(target, record) if _mirrored(pod, wish)]


def pods_lacking(target: TargetWork, record: ResizeStatus) -> list[PodFacts]:
    """Return the pods of a record that do not have its size yet."""
    wish = change_of(record).wish
    return [pod for pod in pods_of(target, record) if not _mirrored(pod, wish)]


def _mirrored(pod: PodFacts, wish: Wish) -> bool:
    for one in (*pod.containers, *pod.init_containers):
        if one.name == wish.container:
            cpu = wish.resource == "cpu"
            request = one.cpu_request_cores if cpu else one.memory_request_bytes
            limit = one.cpu_limit_cores if cpu else one.memory_limit_bytes
            pairs = ((request, wish.request), (limit, wish.limit))
            return all(not value or _alike(known, value) for known, value in pairs)
    return True  # it has no such container: there is nothing to ask for


def _alike(known: Value, written: str) -> bool:
    # Read as floats: 0.7 and 700 x 0.001 differ in the last bit.
    return not isinstance(known, Unknown) and math.isclose(known, quantity(written), rel_tol=1e-9)
