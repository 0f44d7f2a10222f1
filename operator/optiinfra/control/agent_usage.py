"""What the node agents' readings say of the containers of one pod: use between each reading and the one before it.

An agent counts CPU seconds, so that nothing between two readings is missed; memory is the working set at the later
one, as metrics.k8s.io means it. A container that was begun anew has another id, and nothing is said of the time across
its restart. Where an agent knows containers by name alone (tier 0), or the API server did not tell their ids yet, names
stand for ids: a counter that went back is then a restart, and what was read before the pod was made is another's.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from optiinfra.cluster.usage import ContainerUsage, PodUsage
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.surroundings_agents import ID_DIGITS
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import AgentReading, PodFacts

_TOO_FEW = Unknown(UnknownReason.TOO_FEW_SAMPLES, "its CPU counter was read once")
_WENT_BACK = Unknown(UnknownReason.INVALID, "its CPU counter went back")


class _Row(NamedTuple):
    """One container at one moment."""

    container: str
    cpu_seconds: Value
    working_set_bytes: Value
    by_name: bool


_Rows = dict[str, _Row]
"""By what tells a container from the one before its restart: its id; its name where that is not known."""


def use_of(pod: PodFacts, readings: Sequence[AgentReading], *, after: UnixTime | None) -> tuple[PodUsage, ...] | None:
    """Return the use of a pod at every reading later than `after`, oldest first; None where no agent measures it."""
    names = dict(pod.container_ids)
    seen: list[tuple[UnixTime, _Rows]] = []
    for one in readings:
        at = one.containers_at or one.time
        rows = _rows(pod, one, names) or (_named(pod, one) if at >= pod.created else {})
        # Containers are read more rarely than the rest, and a snapshot in between repeats the last reading.
        if rows and (not seen or at > seen[-1][0]):
            seen.append((at, rows))
    if not seen:
        return None
    return tuple(use for use in _uses(seen) if after is None or use.time > after)


def _rows(pod: PodFacts, reading: AgentReading, names: dict[str, str]) -> _Rows:
    return {
        row.id[:ID_DIGITS]: _Row(names[row.id[:ID_DIGITS]], row.cpu_seconds, row.working_set_bytes, by_name=False)
        for row in reading.containers
        if row.pod_uid == pod.uid and row.id[:ID_DIGITS] in names
    }


def _named(pod: PodFacts, reading: AgentReading) -> _Rows:
    own = {one.name for one in (*pod.containers, *pod.init_containers)}
    return {
        f"name {one.name}": _Row(one.name, one.cpu_seconds, one.working_set_bytes, by_name=True)
        for one in reading.named
        if (one.namespace, one.pod) == (pod.namespace, pod.name) and one.name in own
    }


def _uses(seen: Sequence[tuple[UnixTime, _Rows]]) -> Iterator[PodUsage]:
    first: tuple[UnixTime, _Rows] = (seen[0][0], {})
    for (before, earlier), (time, rows) in pairwise([first, *seen]):
        passed = time - before
        yield PodUsage(
            time=time,
            window_s=passed,
            containers={
                row.container: ContainerUsage(_cores(earlier.get(one), row, passed), row.working_set_bytes)
                for one, row in rows.items()
            },
        )


def _cores(earlier: _Row | None, row: _Row, passed: float) -> Value:
    if earlier is None or passed <= 0.0:
        return _TOO_FEW
    before, after = earlier.cpu_seconds, row.cpu_seconds
    if isinstance(before, Unknown) or isinstance(after, Unknown):
        return before if isinstance(before, Unknown) else after
    if after < before:
        return _TOO_FEW if row.by_name else _WENT_BACK
    return (after - before) / passed
