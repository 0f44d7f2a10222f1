"""What is seen of the demonstration at one moment, read from where a person would read it.

Custom resources, HorizontalPodAutoscaler and Deployments from the API server, the external metric through the
aggregated API, engines from the simulator, the operator's word from its health page. What could not be read is None
with the reason beside it: nothing is filled in.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from hack.cluster.errors import ClusterError
from hack.demo.errors import DemoError

if TYPE_CHECKING:
    from hack.demo.stage import Stage

_T = TypeVar("_T")
_Json = dict[str, Any]
OPTIINFRA = "optiinfra"
INFERENCE = "inference"
METRIC = "optiinfra_desired_replicas"
KINDS = f"/apis/optiinfra.io/v1alpha1/namespaces/{INFERENCE}/resourceoptimizations"
CLUSTER_KIND = "/apis/optiinfra.io/v1alpha1/clusterresourceoptimizations/cluster"
SCALERS = f"/apis/autoscaling/v2/namespaces/{INFERENCE}/horizontalpodautoscalers"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{INFERENCE}/deployments"
METRICS = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{INFERENCE}/{METRIC}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service: what its ResourceOptimization says, what its Deployment asks for, how its engines stand."""

    name: str
    mode: str
    replicas: int
    """Asked for by the Deployment."""
    generation: int
    """Of the Deployment: it counts the changes to its spec."""
    ready: bool
    """Whether the ResourceOptimization is Ready."""
    desired: int | None
    rule: str
    effective: str
    bottleneck: str
    gpu_percent: str
    savings: str
    recommendations: tuple[str, ...]
    """Type, current and proposed of each, such as "Replicas 6 -> 1"."""
    serving: int | None = None
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaler:
    """The HorizontalPodAutoscaler of the busy service."""

    name: str
    owner: str
    """Kind and name of its controlling owner."""
    active: bool
    """Condition ScalingActive."""
    reason: str
    """Reason of that condition."""
    reads: str
    """The metric that it last read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The load of the busy service."""

    seconds: float | None
    """Since it began; None before."""
    length: float
    description: str
    arrived: int
    late_share: float
    ttft_p95: float | None
    done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """Everything at one moment."""

    at: float
    """Monotonic seconds."""
    services: Mapping[str, Service]
    scaler: Scaler | None
    metric: int | None
    """The desired count as external.metrics.k8s.io serves it; None while nobody does."""
    trace: Trace | None
    idle_gpus: str
    emptyable_nodes: str
    cluster_savings: str
    leading: bool | None
    """Whether the operator says it leads; None when it does not answer."""
    troubles: tuple[str, ...] = ()


class Eyes:
    """Looks at one stage."""

    def __init__(self, stage: "Stage", *, busy: str) -> None:
        self._stage = stage
        self._busy = busy
        self._troubles: list[str] = []

    def look(self) -> Sight:
        """Look once."""
        self._troubles = []
        get = self._stage.cluster.request
        objects: list[_Json] = self._read(lambda: get("GET", KINDS)["items"], [])
        deployments: list[_Json] = self._read(lambda: get("GET", DEPLOYMENTS)["items"], [])
        scalers: list[_Json] = self._read(lambda: get("GET", SCALERS)["items"], [])
        summary: _Json = self._read(lambda: get("GET", CLUSTER_KIND).get("status", {}), {})
        played: list[_Json] = self._read(lambda: self._stage.simulator_state()["services"], [])
        try:
            leading = bool(self._stage.health().get("leading"))
        except DemoError:
            leading = None  # it is killed on purpose
        by_name = {item["metadata"]["name"]: item for item in deployments}
        plays = {item["service"]: item for item in played}
        found = [item for item in objects if item["metadata"]["name"] in by_name]
        services = [_service(item, by_name[item["metadata"]["name"]], plays) for item in found]
        return Sight(
            at=time.monotonic(),
            services={service.name: service for service in services},
            scaler=next((_scaler(item) for item in scalers if _target(item) == self._busy), None),
            metric=self._metric(),
            trace=_trace(plays.get(self._busy)),
            idle_gpus=str(summary.get("summary", {}).get("idleGpus", "?")),
            emptyable_nodes=str(summary.get("summary", {}).get("emptyableNodes", "?")),
            cluster_savings=str(summary.get("savings", {}).get("summary", "")),
            leading=leading,
            troubles=tuple(self._troubles),
        )

    def _metric(self) -> int | None:
        try:
            items = self._stage.cluster.request("GET", METRICS)["items"]
        except ClusterError:
            return None  # nobody serves it while the operator is away
        mine = [item for item in items if item["metricLabels"].get("optiinfra.io/name") == self._busy]
        return int(mine[0]["value"]) if mine else None

    def _read(self, what: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return what()
        except (ClusterError, DemoError) as error:
            self._troubles.append(str(error))
            return otherwise


def _service(item: Mapping[str, Any], deployment: Mapping[str, Any], plays: Mapping[str, Any]) -> Service:
    status = item.get("status", {})
    name = item["metadata"]["name"]
    play = plays.get(name, {})
    return Service(
        name=name,
        mode=status.get("mode", item["spec"].get("mode", "Recommend")),
        replicas=int(deployment["spec"]["replicas"]),
        generation=int(deployment["metadata"]["generation"]),
        ready=condition(item, "Ready").get("status") == "True",
        desired=status.get("desired", {}).get("replicas"),
        rule=status.get("desired", {}).get("rule", ""),
        effective=status.get("effective", ""),
        bottleneck=status.get("bottleneck", {}).get("type", ""),
        gpu_percent=str(status.get("utilization", {}).get("gpuPercent", "")),
        savings=status.get("savings", {}).get("summary", ""),
        recommendations=tuple(
            f"{each['type']} {each['current']} -> {each['proposed']}" for each in status.get("recommendations", [])
        ),
        serving=play.get("serving"),
        running=play.get("running"),
        waiting=play.get("waiting"),
        kv_usage=play.get("kv_usage"),
    )


def _scaler(item: Mapping[str, Any]) -> Scaler:
    owners = [owner for owner in item["metadata"].get("ownerReferences", []) if owner.get("controller")]
    active = condition(item, "ScalingActive")
    read = [
        each["external"]["metric"]["name"] for each in item["status"].get("currentMetrics") or [] if "external" in each
    ]
    return Scaler(
        name=item["metadata"]["name"],
        owner=f"{owners[0]['kind']}/{owners[0]['name']}" if owners else "",
        active=active.get("status") == "True",
        reason=active.get("reason", ""),
        reads=read[0] if read else "",
    )


def _target(scaler: Mapping[str, Any]) -> str:
    return str(scaler["spec"]["scaleTargetRef"]["name"])


def _trace(play: Mapping[str, Any] | None) -> Trace | None:
    if play is None or play["trace_length"] is None:
        return None
    return Trace(
        seconds=play["trace_seconds"],
        length=play["trace_length"],
        description=play["trace"],
        arrived=play["arrived"],
        late_share=play["late_share"],
        ttft_p95=play["ttft_p95"],
        done=play["done"],
    )


def condition(item: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The condition of that type of an object as read; empty when there is none."""
    conditions = item.get("status", {}).get("conditions") or []
    return next((each for each in conditions if each["type"] == kind), {})
