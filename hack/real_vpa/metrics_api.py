"""A double of metrics-server: `metrics.k8s.io` for the recommender, one sample of the trace for each time it asks.

The recommender takes the time of a sample from the answer, not from its clock: so a trace of days can be told in a
minute without bending a single time. Before a sample is told, the recommender has finished with the one before, its
writes to the VPA objects included; `before` is called at that moment, which is how anybody looks at them without a
race. Others than the recommender are told nothing. As with metrics-server, a container without both values is left out.
"""

import math
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from hack.cluster import Cluster
from hack.cluster.aggregated import AggregatedApi, Reply, Request, refusal
from hack.real_vpa.series import Series

GROUP_VERSION: Final = "metrics.k8s.io/v1beta1"
RECOMMENDER: Final = "vpa-recommender"
"""The user that the recommender is, by its client certificate."""
_RESOURCES: Final[list[dict[str, Any]]] = [
    {"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics", "verbs": ["get", "list"]}
]


class MetricsApi(AggregatedApi):
    """The server and its registration; a context manager."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        series: Sequence[Series],
        times: Sequence[float],
        names: Callable[[str], str],
        before: Callable[[int], None],
    ) -> None:
        """Tell the samples of `times`, in order. `names` gives a workload's pod, `before(n)` comes before the n-th.

        After the last, `before(len(times))` is called once and nothing is told any more.
        """
        self._namespace_told, self._series, self._times = namespace, series, times
        self._names, self._before = names, before
        self._count = 0
        self._lock = threading.Lock()
        super().__init__(
            cluster, namespace=namespace, group_version=GROUP_VERSION, resources=_RESOURCES, answer=self._answered
        )

    def _answered(self, request: Request) -> Reply:
        if request.path.rpartition("/")[2] != "pods":
            return refusal(f"{request.path}: only the metrics of pods are known")
        items = self._next() if request.user == RECOMMENDER else []
        return HTTPStatus.OK, {"kind": "PodMetricsList", "apiVersion": GROUP_VERSION, "metadata": {}, "items": items}

    def _next(self) -> list[dict[str, Any]]:
        with self._lock:
            number, self._count = self._count, self._count + 1
            if number <= len(self._times):
                self._before(number)
            if number >= len(self._times):
                return []
            return self._items(self._times[number])

    def _items(self, time: float) -> list[dict[str, Any]]:
        by_workload: dict[str, list[dict[str, Any]]] = {}
        for one in self._series:
            sample = one.latest(at=time, within=1.0)
            if sample is not None and sample.cpu_cores is not None and sample.memory_bytes is not None:
                one.told.append(sample)
                usage = usage_of(sample.cpu_cores, sample.memory_bytes)
                by_workload.setdefault(one.workload, []).append({"name": one.container, "usage": usage})
        stamp = datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return [
            {
                "metadata": {"name": self._names(workload), "namespace": self._namespace_told},
                "timestamp": stamp,
                "window": "5m0s",
                "containers": containers,
            }
            for workload, containers in by_workload.items()
        ]


def usage_of(cpu_cores: float, memory_bytes: float) -> dict[str, str]:
    """Write a sample as metrics-server does: whole nanocores, and memory in kibibytes where that loses nothing."""
    amount = math.trunc(memory_bytes)
    memory = f"{amount // 1024}Ki" if amount % 1024 == 0 else str(amount)
    return {"cpu": f"{round(cpu_cores * 1e9)}n", "memory": memory}
