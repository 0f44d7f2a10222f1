"""What pods use, where metrics.k8s.io is served.

Read for a whole namespace at a time. Where it is not served, refuses or does not answer, the result is an `Unknown`
with that reason: never an empty table, which would read as "uses nothing".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import JsonObject, key_of, mapping, objects, text, time_of
from optiinfra.cluster.errors import Absent, ClusterError, Denied, Malformed
from optiinfra.cluster.quantities import quantity_in, value_in
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import UnixTime

METRICS_API: Final = "kubernetes"
"""metrics.k8s.io, as evidence names it."""
_WINDOW = re.compile(r"(?:(\d{1,6})m)?(\d{1,6}(?:\.\d{1,9})?)s\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """Usage of one container."""

    cpu_cores: Value
    memory_bytes: Value


@dataclass(frozen=True, slots=True)
class PodUsage:
    """Usage of one pod, averaged over a window that ends at `time`."""

    time: UnixTime
    window_s: float
    containers: Mapping[str, ContainerUsage]
    source: str = METRICS_API
    """Who measured it, as evidence names it."""


class Usage:
    """Reads metrics.k8s.io."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def pods(self, namespace: str) -> Mapping[str, PodUsage] | Unknown:
        """Return usage by pod name."""
        path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods"
        try:
            found = await self._client.list(path, page_size=0)
            return {key_of(document).name: _parse(document) for document in found}
        except Absent:
            return Unknown(UnknownReason.NOT_CONFIGURED, "metrics.k8s.io is not served; install metrics-server")
        except Denied as error:
            return Unknown(UnknownReason.REFUSED, error.message)
        except Malformed as error:
            return Unknown(UnknownReason.INVALID, error.message)
        except ClusterError as error:
            return Unknown(UnknownReason.UNREACHABLE, error.message)


def _parse(document: JsonObject) -> PodUsage:
    moment = time_of(document, "timestamp")
    if moment is None:
        raise Malformed(f"metrics of pod {key_of(document)} without timestamp")
    window = _WINDOW.match(text(document, "window"))
    return PodUsage(
        time=moment,
        window_s=60.0 * float(window[1] or 0) + float(window[2]) if window else 0.0,
        containers={
            text(entry, "name"): _container(mapping(entry, "usage")) for entry in objects(document, "containers")
        },
    )


def _container(usage: JsonObject) -> ContainerUsage:
    negative = Unknown(UnknownReason.INVALID, "negative usage")
    cpu = value_in(usage, "cpu", missing="no CPU usage published")
    memory = value_in(usage, "memory", missing="no memory usage published")
    return ContainerUsage(
        negative if (quantity_in(usage, "cpu") or 0.0) < 0.0 else cpu,
        negative if (quantity_in(usage, "memory") or 0.0) < 0.0 else memory,
    )
