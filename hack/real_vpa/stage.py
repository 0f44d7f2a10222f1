"""A namespace with workloads under VerticalPodAutoscalers, and the published recommender over doubles of its sources.

    with vpa_cluster() as cluster:
        played = play(cluster, workloads, live_from=..., every=12)

The recommender is held while anybody looks or does something: a run comes out the same on a slow machine.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hack.cluster import Cluster, Node
from hack.cluster.errors import ApiError, ClusterError
from hack.cluster.sessions import session_folder, sweep
from hack.demo.programs import Programs
from hack.real_vpa.metrics_api import RECOMMENDER, MetricsApi
from hack.real_vpa.prometheus import LABELS_METRIC, Prometheus
from hack.real_vpa.workloads import Kill, Recommended, Workload, autoscaler, labels_of, recommendations, replica_set

CRDS: Final = Path(__file__).with_name("crds.yaml")
READY_SECONDS: Final = 120.0
STEP_SECONDS: Final = 60.0
"""A sample takes some hundredths of a second; a run in which nothing moves for this long is given up."""
KILL_SECONDS: Final = 1.0
NOTICE_SECONDS: Final = 1.0
"""Wall time that the recommender gets to hear of a kill from its watch before it is told the next sample."""
RESOLUTION: Final = "5m"
"""--history-resolution; the default is 1h."""
_VPAS: Final = "/apis/autoscaling.k8s.io/v1"
_NAME: Final = "vpa-recommender"
_numbers: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Look:
    """All VPA objects after one sample of the live part was told."""

    number: int
    time: float
    """Of the sample, wall clock of the trace."""
    recommended: Mapping[tuple[str, str], Recommended]
    """By workload and container."""


@dataclass(frozen=True, slots=True)
class Played:
    """What one run left."""

    looks: tuple[Look, ...]
    killed: tuple[float, ...]
    """When containers were killed, wall clock of the trace."""
    samples: int
    """Moments of the live part."""
    queries: tuple[str, ...]
    """What the recommender asked the double of Prometheus."""
    seconds: float


def vpa_cluster(**settings: Any) -> Cluster:
    """Return a control plane, not yet started, with one large node for the pods."""
    sweep()
    return Cluster(session_folder("real-vpa"), nodes=(Node(name="node-1", gpus=0),), **settings)


def play(
    cluster: Cluster,
    workloads: Sequence[Workload],
    *,
    history_days: int,
    live_from: float,
    every: int,
    kills: Sequence[Kill] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Played:
    """Tell the recommender everything before `live_from` as history and the rest one by one; raise ClusterError.

    It asks for `history_days` (--history-length, by default 8d), which end now. The VPA objects are read after the
    first sample of the live part, after each `every`-th and after the last.
    """
    began = time.monotonic()
    run = _Run(cluster, workloads, live_from=live_from, every=every, kills=kills, say=say, history=f"{history_days}d")
    return run.play(began)


class _Run:
    """One run: what the threads of the doubles and the caller share."""

    def __init__(
        self,
        cluster: Cluster,
        workloads: Sequence[Workload],
        *,
        live_from: float,
        every: int,
        kills: Sequence[Kill],
        say: Callable[[str], None],
        history: str,
    ) -> None:
        self._history = history
        self._cluster, self._workloads, self._live_from, self._say = cluster, workloads, live_from, say
        self._every, self._kills = every, kills
        self._namespace = f"real-vpa-{os.getpid()}-{next(_numbers)}"
        self._series = [one for workload in workloads for one in workload.series]
        times = {sample.time for one in self._series for sample in one.samples if sample.time >= live_from}
        self._times = sorted(times)
        if not self._times or any(kill.number >= len(self._times) for kill in kills):
            raise ClusterError(f"{len(self._times)} samples are too few for the live part")
        self._pods: dict[str, str] = {}
        self._looks: list[Look] = []
        self._progress = 0
        self._finished = threading.Event()

    def play(self, began: float) -> Played:
        self._prepare()
        prometheus = Prometheus(
            self._series,
            namespace=self._namespace,
            names=lambda workload: (self._pods[workload], labels_of(workload)),
            until=self._live_from,
        )
        metrics = MetricsApi(
            self._cluster,
            namespace=self._namespace,
            series=self._series,
            times=self._times,
            names=self._pods.__getitem__,
            before=self._before,
        )
        programs = Programs(self._cluster.folder / "recommender")
        with prometheus, metrics:
            try:
                programs.start(_NAME, self._command(prometheus.url), {})
                self._wait(programs, failures=lambda: [*prometheus.failures, *metrics.failures])
            finally:
                programs.stop()
        lost = [line for line in programs.log(_NAME).read_text().splitlines() if "Error adding metric sample" in line]
        if lost:
            raise ClusterError(f"the recommender did not take {len(lost)} samples, the first: {lost[0]}")
        self._cluster.request("DELETE", f"/api/v1/namespaces/{self._namespace}")
        return Played(
            looks=tuple(self._looks),
            killed=tuple(self._times[kill.number] + KILL_SECONDS for kill in self._kills),
            samples=len(self._times),
            queries=tuple(prometheus.asked),
            seconds=time.monotonic() - began,
        )

    def _command(self, prometheus: str) -> list[str]:
        kubeconfig = self._cluster.kubeconfig_for(RECOMMENDER, ("system:masters",))
        return [
            str(self._cluster.binary(_NAME)),
            f"--kubeconfig={kubeconfig}",
            "--address=localhost:0",
            f"--vpa-object-namespace={self._namespace}",
            "--storage=prometheus",
            f"--prometheus-address={prometheus}",
            f"--history-length={self._history}",
            f"--history-resolution={RESOLUTION}",
            f"--metric-for-pod-labels={LABELS_METRIC}[{self._history}]",
            # As often as it can: it is told the time of a sample with the sample.
            "--recommender-interval=5ms",
            "--kube-api-qps=5000",
            "--kube-api-burst=5000",
            "--v=3",
        ]

    def _prepare(self) -> None:
        self._cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": self._namespace}})
        self._cluster.kubectl("apply", "--server-side", "--filename", str(CRDS))
        vpas = f"{_VPAS}/namespaces/{self._namespace}/verticalpodautoscalers"
        _wait("the VPA's custom resources", lambda: self._answers(vpas))
        for workload in self._workloads:
            sets = f"/apis/apps/v1/namespaces/{self._namespace}/replicasets"
            self._cluster.request("POST", sets, replica_set(workload))
            self._cluster.request("POST", vpas, autoscaler(workload.name))

        def run() -> bool:
            items = self._cluster.request("GET", f"/api/v1/namespaces/{self._namespace}/pods")["items"]
            self._pods = {
                item["metadata"]["labels"]["app"]: item["metadata"]["name"]
                for item in items
                if item["status"].get("phase") == "Running"
            }
            return len(self._pods) == len(self._workloads)

        _wait("the pods", run)

    def _answers(self, path: str) -> bool:
        try:
            self._cluster.request("GET", path)
        except ApiError:
            return False
        return True

    def _wait(self, programs: Programs, *, failures: Callable[[], list[str]]) -> None:
        seen, moved = -1, time.monotonic()
        while not self._finished.wait(0.2):
            programs.demand()
            if self._progress != seen:
                seen, moved = self._progress, time.monotonic()
            limit = READY_SECONDS if seen <= 0 else STEP_SECONDS
            if failures() or time.monotonic() - moved > limit:
                reason = failures()[0] if failures() else f"nothing after sample {seen}: see {programs.log(_NAME)}"
                raise ClusterError(f"the recommender was not told everything: {reason}")
        if failures():
            raise ClusterError(f"the recommender was not told everything: {failures()[0]}")

    def _before(self, number: int) -> None:
        """Look at the VPA objects and do what happens between two samples; the recommender waits meanwhile."""
        self._progress = number
        done = number - 1
        if done >= 0 and (done % self._every == 0 or number == len(self._times)):
            self._looks.append(Look(done, self._times[done], self._recommended()))
        for kill in self._kills:
            if kill.number == done:
                self._kill(kill)
        if number and number % 100 == 0:
            self._say(f"{number} of {len(self._times)} samples are told")
        if number == len(self._times):
            self._finished.set()

    def _recommended(self) -> dict[tuple[str, str], Recommended]:
        path = f"{_VPAS}/namespaces/{self._namespace}/verticalpodautoscalers"
        found = {}
        for item in self._cluster.request("GET", path)["items"]:
            for container, recommended in recommendations(item).items():
                found[item["metadata"]["name"], container] = recommended
        return found

    def _kill(self, kill: Kill) -> None:
        """Let the pod's status say what a kubelet's would after a kill for memory."""
        path = f"/api/v1/namespaces/{self._namespace}/pods/{self._pods[kill.workload]}/status"
        at = datetime.fromtimestamp(self._times[kill.number] + KILL_SECONDS, UTC)
        stamp = at.strftime("%Y-%m-%dT%H:%M:%SZ")
        terminated = {"reason": "OOMKilled", "exitCode": 137, "startedAt": stamp, "finishedAt": stamp}
        statuses = self._cluster.request("GET", path)["status"]["containerStatuses"]
        for status in statuses:
            if status["name"] == kill.container:
                status["restartCount"] += 1
                status["lastState"] = {"terminated": terminated}
        body = {"status": {"containerStatuses": statuses}}
        self._cluster.request("PATCH", path, body, content_type="application/merge-patch+json")
        time.sleep(NOTICE_SECONDS)


def _wait(what: str, is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not is_ready():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not there after {READY_SECONDS:.0f} s")
        time.sleep(0.1)
