"""Requests and limits as proposals: words, evidence, price, patch, and what they do to QoS class and to an HPA.

One answer for each container and resource: a proposal with its bounds, or the reason why there is none. Where an HPA
acts on utilisation, its new percentage is part of the proposal and of its patch; where that cannot be written down,
there is no patch. Memory of a model server is recommended only, whatever the mode: too small a request costs a reload
of the model. Nothing is applied from here.
"""

from collections.abc import Mapping
from typing import Final

from optiinfra.domain import pod_shape, resource_patch
from optiinfra.domain.container_kinds import ContainerNature
from optiinfra.domain.cost import saving
from optiinfra.domain.evidence import (
    Direction,
    Effect,
    Evidence,
    InPlace,
    Proposal,
    RecommendationType,
    Refusal,
    Savings,
)
from optiinfra.domain.pod_shape import QosClass, Resource, limit_of, request_of
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.right_sizing import ContainerEstimate, SizingReason
from optiinfra.domain.sizing_plan import Change, SizingCase, change_of, nature_of, weighs_most
from optiinfra.domain.sizing_words import amount
from optiinfra.domain.units import Ratio, Seconds
from optiinfra.domain.workload import ContainerFacts, Place

DAY: Final = 86_400.0
LEAST_HISTORY: Final = Seconds(3600.0)
MODEL_SERVER_TRUST: Final = 0.5
"""Confidence in another memory request of a model server, over that of any container: loads are rare and costly."""
_RESOURCES: Final = RecommendationType.RESOURCES
_UNITS: Final = {Resource.CPU: "cores", Resource.MEMORY: "bytes"}
_PERCENTILES: Final = (0.5, 0.9, 0.95, 0.99, 1.0)
_SHIFT_WORTH_TELLING: Final = 0.02


def advise(
    case: SizingCase, estimates: Mapping[str, ContainerEstimate | Unknown], *, known_for: Mapping[str, Seconds]
) -> tuple[Proposal | Refusal, ...]:
    """Answer for every container that runs in the pod: CPU, then memory.

    `estimates` and `known_for` (how long use has been measured) are by container name; init containers that end are
    not sized, because nobody measures them, but their requests count in what a change frees.
    """
    changes: list[Change] = []
    answers: list[Proposal | Refusal] = []
    for container in case.shape.running:
        estimate = estimates.get(container.name, Unknown(UnknownReason.NOT_MEASURED, "no use was measured"))
        known = known_for.get(container.name, Seconds(0.0))
        nature = nature_of(case, container)
        for resource in Resource:
            found = _change(case, container, nature, resource, estimate, known=known)
            if isinstance(found, Change):
                changes.append(found)
            else:
                answers.append(found)
    stand, wait = weighs_most(changes)
    answers += [_proposal(case, change) for change in stand]
    for change, first in wait:
        text = (
            f"containers[{change.container.name}].requests.{change.resource}: {first.container.name} comes first; an "
            f"HPA adds up the {change.resource} of both, and its percentage can follow one change at a time"
        )
        answers.append(Refusal(_RESOURCES, "OneAtATime", text))
    order = {container.name: place for place, container in enumerate(case.shape.running)}
    return tuple(sorted(answers, key=lambda one: _place(one, order)))


def _place(answer: Proposal | Refusal, order: Mapping[str, int]) -> tuple[int, int]:
    setting = answer.setting if isinstance(answer, Proposal) else answer.message
    name = setting.partition("[")[2].partition("]")[0]
    return order.get(name, len(order)), int(".memory" in setting.partition(":")[0])


def _change(
    case: SizingCase,
    container: ContainerFacts,
    nature: ContainerNature,
    resource: Resource,
    estimate: ContainerEstimate | Unknown,
    *,
    known: Seconds,
) -> Change | Refusal:
    where = f"containers[{container.name}].requests.{resource}"
    if isinstance(estimate, Unknown):
        return Refusal(_RESOURCES, str(estimate.reason), f"{where}: {estimate.detail or estimate.reason}")
    own = estimate.cpu if resource is Resource.CPU else estimate.memory
    if isinstance(own, Unknown):
        return Refusal(_RESOURCES, str(own.reason), f"{where}: use is not measured ({own.detail or own.reason})")
    if known < LEAST_HISTORY:
        text = f"{where}: use is known for {known:.0f} s, {LEAST_HISTORY:.0f} s are needed"
        return Refusal(_RESOURCES, str(UnknownReason.TOO_FEW_SAMPLES), text)
    return change_of(case, container, nature, resource, own)


def _proposal(case: SizingCase, change: Change) -> Proposal:
    resource, estimate, name = change.resource, change.estimate, change.container.name
    recommend_only = change.nature.model_server and resource is Resource.MEMORY
    kind = "limits" if change.limit_only else "requests"
    before, proposed = (_limit(change), change.limit or 0.0) if change.limit_only else (change.current, change.request)
    trust = estimate.confidence * (MODEL_SERVER_TRUST if recommend_only else 1.0)
    setting = f"containers[{name}].{kind}.{resource}"
    return Proposal(
        type=_RESOURCES,
        reason=_reason(change, recommend_only=recommend_only),
        message=_message(case, change, setting),
        setting=setting,
        current="" if before is None else amount(resource, before),
        proposed=amount(resource, proposed),
        lower=amount(resource, min(estimate.lower, proposed)),
        upper=amount(resource, max(estimate.upper, proposed)),
        direction=Direction.RESIZE,
        confidence=Ratio(round(min(1.0, trust), 3)),
        evidence=_evidence(change, by=case.measured_by),
        savings=_savings(case, change),
        subject=name,
        patch=_patch(case, change),
        effects=_effects(case, change),
        risk=_risk(case, change, recommend_only=recommend_only),
        verification=_verification(change),
        undo=_undo(change, kind=kind, before=before),
        in_place=_in_place(case, change),
    )


def _in_place(case: SizingCase, change: Change) -> InPlace:
    """Return the change as running pods would be given it, or why they are not."""
    resource, limit = change.resource, _limit(change)
    request = "" if change.limit_only else amount(resource, change.request)
    return InPlace(
        container=change.container.name,
        resource=str(resource),
        request=request,
        limit="" if change.limit is None else amount(resource, change.limit),
        old_request="" if not request or change.current is None else amount(resource, change.current),
        old_limit="" if change.limit is None or limit is None else amount(resource, limit),
        refused=_not_in_place(case, change),
    )


def _not_in_place(case: SizingCase, change: Change) -> str:
    limit = _limit(change)
    lowers = change.limit is not None and limit is not None and change.limit < limit
    memory = change.resource is Resource.MEMORY
    reasons = (
        (memory and change.nature.model_server, "memory of a model server is recommended only"),
        (
            bool(change.pairs or change.unpaired),
            "an HPA divides by this request, and both would have to change at once",
        ),
        (change.qos is not case.qos, f"a pod keeps its QoS class, and this would make {change.qos} of {case.qos}"),
        (change.container.place is Place.INIT, "it is an init container, which has ended in a running pod"),
        (case.injected(change.container.name), "it is injected: the pod template does not hold its size"),
        (change.current is None, "it has no request yet, and one that a running pod was given cannot be taken back"),
        (memory and lowers, "its memory limit would fall, and what uses more in that moment is killed"),
    )
    return next((why for holds, why in reasons if holds), "")


def _message(case: SizingCase, change: Change, setting: str) -> str:
    where = _where(case, change.container.name)
    parts = [_because(change), *change.notes, _qos(case, change), *_hpa_words(change), *where]
    return f"{setting}: {'; '.join(parts)}"


def _reason(change: Change, *, recommend_only: bool) -> str:
    estimate = change.estimate
    if estimate.reason is SizingReason.OUT_OF_MEMORY and change.request >= (change.current or 0.0):
        return "OutOfMemory"
    if change.limit_only:
        return "LimitTooLow"
    if change.current is None:
        return "RequestMissing"
    if recommend_only:
        return "ModelServerMemory"
    return "OverRequested" if change.request < change.current else "UnderRequested"


def _because(change: Change) -> str:
    resource, estimate = change.resource, change.estimate
    if resource is Resource.CPU:
        text = f"use lies above {amount(resource, estimate.target)} for {estimate.exceedance:.1%} of the time"
    else:
        text = (
            f"a day's peak exceeds {amount(resource, estimate.target)} with a probability of {estimate.exceedance:.1%}"
        )
    text += f" ({estimate.samples} samples of {estimate.days:.2g} days, {_SEEN[estimate.reason]}"
    if estimate.growth_per_day:
        text += f", growing {estimate.growth_per_day:.1%} a day"
    asked = "no request is set" if change.current is None else f"{amount(resource, change.current)} is requested"
    return f"{text}); {asked}"


_SEEN: Final[Mapping[SizingReason, str]] = {
    SizingReason.COLD_START: "still little, so with a wide margin",
    SizingReason.SETTLED: "steady",
    SizingReason.GROWTH: "by its trend",
    SizingReason.WEEKLY_PEAK: "by the week's peak",
    SizingReason.OUT_OF_MEMORY: "with kills for memory",
    SizingReason.BURSTY: "with bursts",
}


def _qos(case: SizingCase, change: Change) -> str:
    before, after = case.qos, change.qos
    if before is after:
        return f"QoS class stays {before}"
    return f"QoS class changes from {before} to {after}"


def _hpa_words(change: Change) -> list[str]:
    if change.unpaired:
        return [f"{change.unpaired}; no percentage is proposed"]
    words = []
    for scaler, pairs in change.pairs:
        for pair in pairs:
            text = (
                f"with it HPA {scaler.name} goes from {pair.before} % to {pair.after} % of the request, so that it "
                f"still acts at {amount(change.resource, pair.threshold_before)} a pod"
            )
            off = abs(pair.threshold_after / pair.threshold_before - 1.0) if pair.threshold_before > 0.0 else 0.0
            if off > _SHIFT_WORTH_TELLING:
                text += f" ({amount(change.resource, pair.threshold_after)} after rounding to whole percents)"
            words.append(text)
        if scaler.controller_owner:
            words.append(f"write that percentage into {scaler.controller_owner}, which owns the HPA")
        elif scaler.owned_by_us:
            words.append("write that percentage where the ResourceOptimization adds the metric")
    return words


def _where(case: SizingCase, container: str) -> list[str]:
    """Say where a size has to be written that the workload's own template does not hold."""
    return [_INJECTED] if case.injected(container) else []


_INJECTED: Final = (
    "it is injected and not in the pod template, so there is no patch: set its size where it is injected (Istio: "
    "annotations sidecar.istio.io/proxyCPU and proxyMemory; Linkerd: config.linkerd.io/proxy-cpu-request)"
)


def _evidence(change: Change, *, by: str) -> tuple[Evidence, ...]:
    resource, estimate = change.resource, change.estimate
    unit, window = _UNITS[resource], Seconds(estimate.days * DAY)
    signal = "container_cpu_usage" if resource is Resource.CPU else "container_memory_daily_peak"
    known = {round(float(share), 4): value for share, value in estimate.percentiles}
    facts = [
        Evidence(signal, known[share], unit, window, by, "max" if share == 1.0 else f"p{share * 100:g}")
        for share in _PERCENTILES
        if share in known
    ]
    facts.append(Evidence("samples", float(estimate.samples), "", window, by, "sum"))
    facts.append(Evidence("exceedance", float(estimate.exceedance), "ratio", window, "derived"))
    if not isinstance(estimate.start_up_peak, Unknown):
        facts.append(Evidence("start_up_peak", estimate.start_up_peak, unit, window, by, "max"))
    asked, limit = request_of(change.container, resource), limit_of(change.container, resource)
    if resource is Resource.CPU:
        facts.append(Evidence("cpu_request", asked, unit, Seconds(0.0), "kubernetes"))
        facts.append(Evidence("cpu_limit", limit, unit, Seconds(0.0), "kubernetes"))
    else:
        facts.append(Evidence("memory_request", asked, unit, Seconds(0.0), "kubernetes"))
        facts.append(Evidence("memory_limit", limit, unit, Seconds(0.0), "kubernetes"))
    return tuple(facts)


def _savings(case: SizingCase, change: Change) -> Savings:
    """Return what the scheduler gets back: of the pod's effective request, which an init container may hold up.

    More capacity costs money, and frees nothing: its price is negative, and no capacity is counted.
    """
    freed = _freed(case, change) * case.replicas
    if change.resource is Resource.CPU:
        priced = saving(case.prices, cpu_cores=freed)
        return Savings(cpu_cores_freed=max(0.0, freed), per_month=priced.per_month)
    priced = saving(case.prices, memory_bytes=freed)
    return Savings(memory_bytes_freed=max(0.0, freed), per_month=priced.per_month)


def _freed(case: SizingCase, change: Change) -> float:
    before = pod_shape.effective_request(case.shape, change.resource)
    return before - pod_shape.effective_request(change.after, change.resource)


def _patch(case: SizingCase, change: Change) -> str:
    if case.injected(change.container.name):
        return ""
    resource = change.resource
    requests = {} if change.limit_only else {str(resource): amount(resource, change.request)}
    limits = {} if change.limit is None else {str(resource): amount(resource, change.limit)}
    workload = resource_patch.workload_document(
        case.workload,
        container=change.container.name,
        place=change.container.place,
        resources={"requests": requests, "limits": limits},
    )
    scalers = [
        resource_patch.scaler_document(scaler, pairs, namespace=case.workload.namespace)
        for scaler, pairs in change.pairs
    ]
    return resource_patch.joined(workload, *scalers)


def _effects(case: SizingCase, change: Change) -> tuple[Effect, ...]:
    unit = _UNITS[change.resource]
    before = pod_shape.effective_request(case.shape, change.resource)
    after = pod_shape.effective_request(change.after, change.resource)
    effects = [
        Effect(f"pod_{change.resource}_request", unit, before, after, after, after, "as the scheduler counts it")
    ]
    for _, pairs in change.pairs:
        effects += [
            Effect(
                f"hpa_{change.resource}_threshold",
                unit,
                pair.threshold_before,
                pair.threshold_after,
                pair.threshold_after,
                pair.threshold_after,
                "percentage x requests of a pod",
            )
            for pair in pairs
        ]
    return tuple(effects)


def _risk(case: SizingCase, change: Change, *, recommend_only: bool) -> str:
    risks = []
    if recommend_only:
        risks.append("recommendation only: a request too small costs a reload of the model, so watch one restart first")
    elif change.resource is Resource.MEMORY and change.request < (change.current or 0.0):
        risks.append("a pod above its request is evicted first when its node runs out of memory")
    elif change.request < (change.current or 0.0):
        risks.append("above its request a pod has only what its neighbours leave of the CPU")
    before, after = case.qos, change.qos
    if before is QosClass.GUARANTEED and after is not before:
        risks.append("a pod that is no longer Guaranteed loses exclusive cores and is evicted before those that are")
    if change.nature.heap is not None and change.nature.heap.follows_limit and change.limit is not None:
        risks.append("the heap is a share of the limit, and changes with it")
    if change.pairs:
        risks.append("apply both documents together: with one alone the HPA acts at another load")
    if isinstance(case.rules.vertical_scalers, Unknown):
        why = case.rules.vertical_scalers.detail or str(case.rules.vertical_scalers.reason)
        risks.append(f"whether a VerticalPodAutoscaler sets it is not known ({why})")
    held = _freed(case, change) == 0.0 and change.current is not None and change.request < change.current
    if held:
        risks.append("an init container asks for as much, so that the scheduler gets nothing back")
    return "; ".join(risks)


def _verification(change: Change) -> str:
    if change.resource is Resource.CPU:
        text = f"CPU use stays above the request for at most {change.estimate.exceedance:.1%} of the next days"
    else:
        text = "no container of it is OOMKilled or evicted over the next days, restarts included"
    return f"{text}; change nothing else of this workload meanwhile, replicas and engine settings too"


def _undo(change: Change, *, kind: str, before: float | None) -> str:
    resource = change.resource
    if before is None:
        parts = [f"Remove the {resource} request from container {change.container.name}"]
    else:
        parts = [f"Put {kind}.{resource} of container {change.container.name} back to {amount(resource, before)}"]
    limit = _limit(change)
    if change.limit is not None and not change.limit_only and limit is not None:
        parts.append(f"its limit to {amount(resource, limit)}")
    parts += [f"HPA {scaler.name} to {pair.before} %" for scaler, pairs in change.pairs for pair in pairs]
    return f"{', '.join(parts)}; each replica restarts once."


def _limit(change: Change) -> float | None:
    limit = limit_of(change.container, change.resource)
    return None if isinstance(limit, Unknown) else limit
