"""What the node agents' readings say of the containers of one pod: use between each reading and the one before it.

An agent counts CPU seconds, so that nothing between two readings is missed; memory is the working set at the later
one, as metrics.k8s.io means it. A container that was begun anew has another id, and nothing is said of the time across
its restart.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from optiinfra.cluster.usage import ContainerUsage, PodUsage
from optiinfra.domain.agent_readings import ContainerCounters
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.surroundings_agents import ID_DIGITS
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import AgentReading, PodFacts

_TOO_FEW = Unknown(UnknownReason.TOO_FEW_SAMPLES, "its CPU counter was read once")
_WENT_BACK = Unknown(UnknownReason.INVALID, "its CPU counter went back")


def use_of(pod: PodFacts, readings: Sequence[AgentReading], *, after: UnixTime | None) -> tuple[PodUsage, ...] | None:
    """Return the use of a pod at every reading later than `after`, oldest first; None where no agent measures it."""
    names = dict(pod.container_ids)
    seen: list[tuple[UnixTime, _Rows]] = []
    for one in readings:
        at, rows = one.containers_at or one.time, _rows(pod, one, names)
        # Containers are read more rarely than the rest, and a snapshot in between repeats the last reading.
        if rows and (not seen or at > seen[-1][0]):
            seen.append((at, rows))
    if not seen:
        return None
    return tuple(use for use in _uses(seen, names) if after is None or use.time > after)


_Rows = dict[str, ContainerCounters]


def _rows(pod: PodFacts, reading: AgentReading, names: dict[str, str]) -> _Rows:
    return {
        row.id[:ID_DIGITS]: row for row in reading.containers if row.pod_uid == pod.uid and row.id[:ID_DIGITS] in names
    }


def _uses(seen: Sequence[tuple[UnixTime, _Rows]], names: dict[str, str]) -> Iterator[PodUsage]:
    first: tuple[UnixTime, _Rows] = (seen[0][0], {})
    for (before, earlier), (time, rows) in pairwise([first, *seen]):
        passed = time - before
        yield PodUsage(
            time=time,
            window_s=passed,
            containers={
                names[one]: ContainerUsage(_cores(earlier.get(one), row, passed), row.working_set_bytes)
                for one, row in rows.items()
            },
        )


def _cores(earlier: ContainerCounters | None, row: ContainerCounters, passed: float) -> Value:
    if earlier is None or passed <= 0.0:
        return _TOO_FEW
    before, after = earlier.cpu_seconds, row.cpu_seconds
    if isinstance(before, Unknown) or isinstance(after, Unknown):
        return before if isinstance(before, Unknown) else after
    return _WENT_BACK if after < before else (after - before) / passed
