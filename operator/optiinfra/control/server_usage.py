"""What containers use by the series of cAdvisor in a metrics server, where metrics.k8s.io says nothing.

The kubelet's own counters, scraped by whoever scrapes it: CPU seconds between the first and the last scrape of a short
window, and the working set at the last one, as metrics.k8s.io means them. Asked for a namespace at a time, and only
where metrics.k8s.io is not served or refuses. A counter that went back (a restarted container) says nothing of that
window; of copies of one series the freshest counts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

from optiinfra.cluster.errors import ClusterError
from optiinfra.cluster.series_window import RawSeries
from optiinfra.cluster.usage import ContainerUsage, PodUsage
from optiinfra.control.metrics_servers import MetricsServers, unknown_of
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import UnixTime
from optiinfra.engines.series import NAME, one_of, selector

PROMETHEUS: Final = "prometheus"
"""Source of these, as evidence names it."""
CPU_SECONDS: Final = "container_cpu_usage_seconds_total"
WORKING_SET: Final = "container_memory_working_set_bytes"
_WINDOW: Final = 180.0
_NO_CONTAINERS: Final = 'container!="",container!="POD"'
_TOO_FEW: Final = Unknown(UnknownReason.TOO_FEW_SAMPLES, "its CPU counter was scraped once in three minutes")
_WENT_BACK: Final = Unknown(UnknownReason.TOO_FEW_SAMPLES, "its CPU counter went back: the container began anew")
_NO_MEMORY: Final = Unknown(UnknownReason.NOT_MEASURED, "no working set in the metrics server")


class NamespaceUsage(Protocol):
    """Reads the use of a namespace's pods; `optiinfra.cluster.usage` is the real one."""

    async def pods(self, namespace: str) -> Mapping[str, PodUsage] | Unknown:
        """Return the use of every pod of a namespace by name, or why it is not known."""


@dataclass(frozen=True, slots=True)
class UsageWithServer:
    """metrics.k8s.io first; where it is silent, a metrics server if one is named."""

    first: NamespaceUsage
    servers: MetricsServers
    matchers: str = ""

    async def pods(self, namespace: str) -> Mapping[str, PodUsage] | Unknown:
        """Return the use of every pod of a namespace by name, or why neither knows it."""
        answer = await self.first.pods(namespace)
        if not isinstance(answer, Unknown) or not self.servers.urls():
            return answer
        servers, failed = await self.servers.all()
        why = failed
        where = ",".join(part for part in (one_of("namespace", [namespace]), _NO_CONTAINERS, self.matchers) if part)
        for server in servers:
            try:
                found = await server.window(
                    selector((CPU_SECONDS, WORKING_SET), matchers=where), seconds=_WINDOW, purpose="containers"
                )
            except ClusterError as error:
                why = why or unknown_of(error)
                continue
            used = used_by(found.series)
            if used:
                return used
        if why is not None:
            return Unknown(why.reason, f"{answer.detail}; {why.detail}"[:256])
        detail = f"{answer.detail}; no {CPU_SECONDS} of namespace {namespace} in a metrics server"
        return Unknown(answer.reason, detail[:256])


def used_by(series: Iterable[RawSeries]) -> dict[str, PodUsage]:
    """Return the use of each pod, by name, from the raw samples of one window."""
    freshest: dict[tuple[str, str, str], RawSeries] = {}
    for one in series:
        labels = dict(one.labels)
        key = labels.get("pod", ""), labels.get("container", ""), labels.get(NAME, "")
        known = freshest.get(key)
        if all(key) and one.times and (known is None or (one.times[-1], len(one.times)) > (known.times[-1], 0)):
            freshest[key] = one
    pods: dict[str, dict[str, tuple[RawSeries | None, RawSeries | None]]] = {}
    for (pod, container, name), one in freshest.items():
        cpu, memory = pods.setdefault(pod, {}).get(container, (None, None))
        pods[pod][container] = (one, memory) if name == CPU_SECONDS else (cpu, one)
    return {pod: used for pod, containers in pods.items() if (used := _pod(containers)) is not None}


def _pod(containers: Mapping[str, tuple[RawSeries | None, RawSeries | None]]) -> PodUsage | None:
    counters = [cpu for cpu, _ in containers.values() if cpu is not None]
    times = [one.times[-1] for pair in containers.values() for one in pair if one is not None]
    if not times:
        return None
    window = max((one.times[-1] - one.times[0] for one in counters), default=0.0)
    return PodUsage(
        time=UnixTime(max(times)),
        window_s=window,
        containers={
            name: ContainerUsage(_cores(cpu), _working_set(memory)) for name, (cpu, memory) in containers.items()
        },
        source=PROMETHEUS,
    )


def _cores(series: RawSeries | None) -> Value:
    if series is None or len(series.times) < 2:
        return _TOO_FEW
    if not all(later >= before for before, later in pairwise(series.values)):
        return _WENT_BACK
    cores = (series.values[-1] - series.values[0]) / (series.times[-1] - series.times[0])
    return cores if cores >= 0.0 else _TOO_FEW


def _working_set(series: RawSeries | None) -> Value:
    return series.values[-1] if series is not None and series.values[-1] >= 0.0 else _NO_MEMORY
