"""A double of `external.metrics.k8s.io`: the controller's questions for our metric, answered by a function.

It knows one label selector, `workload=NAME`. Where the function has no answer the list is empty, which the controller
reports as a metric that failed; nothing is made up and no old value is repeated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from hack.cluster import Cluster
from hack.cluster.aggregated import AggregatedApi, Reply, Request, refusal

GROUP: Final = "external.metrics.k8s.io"
VERSION: Final = "v1beta1"
LABEL: Final = "workload"
METRIC: Final = "asked"


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the controller."""

    workload: str
    at: float
    """time.monotonic() when it arrived."""


Answer = Callable[[Question], float | None]
"""The metric's total for a workload; None: there is none now."""


class MetricsApi(AggregatedApi):
    """The server and its registration; a context manager. `answer` is called in threads, one at a time a workload."""

    def __init__(self, cluster: Cluster, *, namespace: str, answer: Answer) -> None:
        self._total = answer
        super().__init__(
            cluster,
            namespace=namespace,
            group_version=f"{GROUP}/{VERSION}",
            resources=_RESOURCES,
            answer=self._answered,
        )

    def _answered(self, request: Request) -> Reply:
        selector = request.query.get("labelSelector", "")
        key, _, workload = selector.partition("=")
        if request.path.rpartition("/")[2] != METRIC or key != LABEL or not workload:
            return refusal(f"{request.path}: only {METRIC} with the label selector {LABEL}=NAME is known")
        return HTTPStatus.OK, values(workload, self._total(Question(workload, request.at)))


_RESOURCES: Final[list[dict[str, Any]]] = [
    {"name": METRIC, "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}
]


def values(workload: str, total: float | None) -> dict[str, Any]:
    """Return the answer's body; totals are told to a thousandth, which is as precise as the controller reads them."""
    items = []
    if total is not None:
        items = [
            {
                "metricName": METRIC,
                "metricLabels": {LABEL: workload},
                "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "value": f"{round(total * 1000.0)}m",
            }
        ]
    return {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": items}
