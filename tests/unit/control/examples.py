"""Objects, facts and work that several tests of the control package use."""

from dataclasses import fields, replace
from typing import Any

from optiinfra.api.conversion import effective
from optiinfra.api.v1alpha1 import ClusterResourceOptimization, ResourceOptimization
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.work import ServiceWork, TargetWork
from optiinfra.domain.cost import PriceList
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Direction, Proposal, RecommendationType, Savings
from optiinfra.domain.policy import Limits
from optiinfra.domain.readings import EngineKind, EngineReading, Unknown, UnknownReason
from optiinfra.domain.replica_capacity import Basis, ReplicaCapacity
from optiinfra.domain.replica_load import LoadSample, ReplicaLoad, Resource
from optiinfra.domain.scaler.decision import Alternative, Decision, ScalerReason
from optiinfra.domain.scaler.ledger import Forecaster
from optiinfra.domain.scaling import ScalerMemory, ScalingDecision, ScalingInput
from optiinfra.domain.scaling_rules import Rule
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Money, Ratio, Seconds, UnixTime
from optiinfra.domain.workload import PodFacts, ScalerFacts, WorkloadFacts

NOW = UnixTime(1_800_000_000.0)
UNMEASURED = Unknown(UnknownReason.UNREACHABLE, "no page")
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm"}


def time_text(moment: float) -> str:
    from optiinfra.api.scalars import Time

    return str(Time.of(UnixTime(moment)))


def ro_body(
    name: str = "svc",
    *,
    namespace: str = "inference",
    uid: str = "uid-1",
    generation: int = 1,
    version: str = "10",
    created: float = NOW - 86400,
    annotations: dict[str, str] | None = None,
    status: dict[str, Any] | None = None,
    deleting: bool = False,
    **spec: Any,
) -> dict[str, Any]:
    if "targetRef" not in spec and "variants" not in spec:
        spec["targetRef"] = DEPLOYMENT
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "uid": uid,
        "generation": generation,
        "resourceVersion": version,
        "creationTimestamp": time_text(created),
        "annotations": annotations or {},
    }
    if deleting:
        metadata["deletionTimestamp"] = time_text(NOW)
    return {
        "apiVersion": "optiinfra.io/v1alpha1",
        "kind": "ResourceOptimization",
        "metadata": metadata,
        "spec": spec,
        "status": status or {},
    }


def ro(*args: Any, **parts: Any) -> ResourceOptimization:
    return ResourceOptimization.parse(ro_body(*args, **parts))


def cro_body(name: str = "cluster", *, created: float = NOW - 86400, uid: str = "cuid", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "optiinfra.io/v1alpha1",
        "kind": "ClusterResourceOptimization",
        "metadata": {
            "name": name,
            "uid": uid,
            "generation": 1,
            "resourceVersion": "5",
            "creationTimestamp": time_text(created),
        },
        "spec": spec,
    }


def cro(*args: Any, **parts: Any) -> ClusterResourceOptimization:
    return ClusterResourceOptimization.parse(cro_body(*args, **parts))


def pod(name: str = "vllm-1", **changes: Any) -> PodFacts:
    base = PodFacts(
        name=name,
        uid=f"uid-of-{name}",
        ip="10.0.0.1",
        node="n1",
        phase="Running",
        ready=True,
        terminating=False,
        created=UnixTime(NOW - 3600),
        became_ready=UnixTime(NOW - 3500),
        gpus=1.0,
    )
    return replace(base, **changes)


def pending(name: str = "vllm-9", **changes: Any) -> PodFacts:
    values: dict[str, Any] = {"phase": "Pending", "ready": False, "node": "", "ip": "", "became_ready": None}
    return pod(name, **(values | changes))


def scaler(name: str = "hpa", **changes: Any) -> ScalerFacts:
    base = ScalerFacts(
        name=name,
        uid=f"uid-of-{name}",
        resource_version="7",
        min_replicas=1,
        max_replicas=20,
        current_replicas=4,
        desired_replicas=4,
        scaling_active=True,
        scaling_active_reason="ValidMetricFound",
        owned_by_us=False,
        controller_owner="",
    )
    return replace(base, **changes)


def facts(replicas: int = 4, **changes: Any) -> WorkloadFacts:
    base = WorkloadFacts(
        namespace="inference",
        kind="Deployment",
        name="vllm",
        uid="uid-of-vllm",
        desired_replicas=replicas,
        ready_replicas=replicas,
        pods=tuple(pod(f"vllm-{number}") for number in range(replicas)),
        scaler=None,
    )
    return replace(base, **changes)


def page(at: float) -> EngineReading:
    return EngineReading(time=UnixTime(at), engine=EngineKind.VLLM, version="0.11", model="m")


def signals(**values: Any) -> ServiceSignals:
    known: dict[str, Any] = {field.name: UNMEASURED for field in fields(ServiceSignals)}
    known |= {
        "time": NOW,
        "window": Seconds(60.0),
        "replicas_expected": 4,
        "replicas_reporting": 4,
        "running": 30.0,
        "waiting": 0.0,
        "preemption_rate": 0.0,
        "time_to_first_token_p95": 0.5,
        "inter_token_latency_p95": 0.04,
        "queue_time_p95": 0.1,
        "kv_cache_usage_max": 0.5,
    }
    return ServiceSignals(**(known | values))


def decision(desired: int, *, current: int = 4, floor: int | None = None) -> ScalingDecision:
    learned = Decision(
        desired=desired,
        floor=desired,
        reason=ScalerReason.LEARNED,
        rule="hold 10 min, margin 10 %",
        weight=0.4,
        need=float(desired),
        hpa_target=0.7,
        shrink_delay_s=600.0,
        forecast=float(desired),
        late_share=0.001,
        late_budget_left=0.9,
        cost=1.2,
        alternatives=(Alternative("hold 20 min, margin 10 %", 1.3, 0.0),),
        infeasible=None,
        forecaster=Forecaster.LEVEL,
        forecast_point=float(desired),
        forecast_upper=desired + 0.5,
        forecast_coverage=0.97,
        forecast_error=0.05,
        forecast_level_error=0.05,
        forecast_records=(),
        forecast_added=0.0,
        burst=False,
        changed=False,
    )
    return ScalingDecision(
        desired=desired,
        current=current,
        floor=desired if floor is None else floor,
        rule=Rule.QUEUE_DRAIN if desired > current else Rule.LEARNED,
        message=f"{desired} replicas are needed",
        confidence=Ratio(0.9),
        evidence=(),
        need=float(desired),
        load=ReplicaLoad(float(desired), 0.0, Resource.WORK, ((Resource.WORK, float(desired)),)),
        capacity=ReplicaCapacity(4000.0, Basis.MEASURED, 4000.0, Ratio(0.95)),
        learned=learned,
        history=Seconds(86_400.0),
        start_up=Seconds(180.0),
    )


def scaling_input(*, memory: ScalerMemory, running: float = 40.0, at: float = NOW) -> ScalingInput:
    time = UnixTime(at)
    one = LoadSample(time, 4, 4, running, 0.0, 4000.0, 4.0, 4.0, 0.3)
    return ScalingInput(
        signals=signals(time=time, running=running, running_max=running),
        samples=(one,),
        fresh=None,
        settings=EngineSettings(batch_limit=64.0),
        current=4,
        ready=4,
        minimum=1,
        maximum=20,
        start_up_p50=Seconds(60.0),
        start_up_p95=Seconds(90.0),
        memory=memory,
    )


def limits(**changes: Any) -> Limits:
    return replace(Limits(minimum=1, maximum=20, gpus_per_replica=1.0), **changes)


def proposal(
    current: str = "4",
    proposed: str = "2",
    *,
    subject: str = "vllm",
    type: RecommendationType = RecommendationType.REPLICAS,  # noqa: A002  the field's own name
    direction: Direction = Direction.SCALE_DOWN,
    gpus: float = 2.0,
    per_month: float | None = None,
    confidence: float = 0.9,
    setting: str = "replicas",
) -> Proposal:
    return Proposal(
        type=type,
        reason="Learned",
        message=f"{proposed} is enough",
        setting=setting,
        current=current,
        proposed=proposed,
        lower=proposed,
        upper=proposed,
        direction=direction,
        confidence=Ratio(confidence),
        evidence=(),
        savings=Savings(gpus_freed=gpus, per_month=None if per_month is None else Money(per_month)),
        subject=subject,
    )


def service(obj: ResourceOptimization | None = None, **target: Any) -> ServiceWork:
    """One object in a round; `target` sets fields of its (first) target's work."""
    obj = obj or ro()
    settings = effective(obj.spec)
    memory = ObjectMemory()
    works = [TargetWork(target=item, memory=memory.target(item.name), facts=facts()) for item in settings.targets]
    for work in works:
        work.limits = limits()
    for name, value in target.items():
        setattr(works[0], name, value)
    return ServiceWork(
        key=ObjectKey("ResourceOptimization", obj.metadata.namespace, obj.metadata.name),
        obj=obj,
        settings=settings,
        memory=memory,
        prices=PriceList(),
        currency="",
        targets=works,
        whole=works[0].signals,
    )
