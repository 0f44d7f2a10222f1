"""A namespace with scaled workloads and the metrics they are scaled on, from start to end.

    with fast_cluster() as cluster, Stage(cluster) as stage:
        stage.add("a", replicas=4, answer=lambda question: 5000.0)
        stage.ready()
        stage.begin("a", minimum=1, maximum=20, average=1000.0)

An HPA is created by `begin` and not before: the controller remembers what ran when it first saw it.
"""

import itertools
import os
from types import TracebackType
from typing import Any, Final, Self

from hack.cluster import Cluster
from hack.cluster.errors import ClusterError
from hack.cluster.sessions import session_folder, sweep
from hack.real_hpa.clock import CONTROLLER_FLAGS
from hack.real_hpa.metrics_api import Answer, MetricsApi, Question
from hack.real_hpa.scalers import RealScalers

_numbers: Final = itertools.count(1)


def fast_cluster(**settings: Any) -> Cluster:
    """Return a full control plane, not yet started, whose HPA controller runs fifteen times as fast."""
    sweep()
    return Cluster(session_folder("real-hpa"), controller_flags=CONTROLLER_FLAGS, **settings)


class Stage:
    """Workloads by name in `namespace`, each with the function that answers for its metric; a context manager."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.namespace = f"real-hpa-{os.getpid()}-{next(_numbers)}"
        self._answers: dict[str, Answer] = {}
        self._api: MetricsApi | None = None
        self.scalers = RealScalers(cluster, namespace=self.namespace)

    def __enter__(self) -> Self:
        self._cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        api = MetricsApi(self._cluster, namespace=self.namespace, answer=self._answer)
        api.__enter__()
        self._api = api
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._api is not None
        self._api.__exit__(kind, error, trace)
        self._cluster.request("DELETE", f"/api/v1/namespaces/{self.namespace}")

    def add(self, name: str, *, replicas: int, answer: Answer) -> None:
        """Create a workload; nobody scales it yet."""
        self._answers[name] = answer
        self.scalers.deploy(name, replicas=replicas)

    def ready(self) -> None:
        """Wait until all pods are there."""
        self.scalers.wait_for_pods()

    def demand(self) -> None:
        """Raise ClusterError when an answer failed or a process of the cluster ended."""
        assert self._api is not None
        if self._api.failures:
            raise ClusterError(f"the metrics double failed: {self._api.failures[0]}")
        ended = [name for name, alive in self._cluster.status().items() if not alive]
        if ended:
            raise ClusterError(f"{', '.join(ended)} ended: see {self._cluster.log(ended[0])}")

    def _answer(self, question: Question) -> float | None:
        return self._answers[question.workload](question)
