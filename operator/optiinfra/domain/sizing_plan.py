"""From an estimate to a request that may be written: floors, ranges, limits, the class of the pod, and the HPA's pair.

The estimate says what a container uses; this module says what a request may become. In this order: who else sets it
(a VerticalPodAutoscaler, the pod's own resources), what its memory may come to (a JVM's heap, pinned host memory, what
passes through on the way to a GPU), what the namespace allows, and what the limit does. A Guaranteed pod stays
Guaranteed: its limit moves with its request, so both go to the upper bound, because a limit that is hit kills or
throttles. No limit is ever lowered otherwise; one that use is about to hit is raised with the request. It refuses what
is too small a change, and a cut of memory whose floor nobody knows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from optiinfra.domain import pod_shape
from optiinfra.domain.container_kinds import ContainerNature, recognise
from optiinfra.domain.cost import PriceList
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import RecommendationType, Refusal
from optiinfra.domain.pod_shape import PodShape, QosClass, Resource, limit_of, request_of
from optiinfra.domain.readings import Unknown
from optiinfra.domain.resource_patch import HpaPair, WorkloadName, pairs_of
from optiinfra.domain.right_sizing import SizingEstimate, SizingReason
from optiinfra.domain.sizing_rules import AllowedRange, NamespaceRules
from optiinfra.domain.sizing_words import amount, rounded_up
from optiinfra.domain.units import Ratio
from optiinfra.domain.workload import ContainerFacts, ScalerFacts

LEAST_CHANGE: Final = Ratio(0.1)
STAYS_WITHIN: Final = Ratio(0.1)
"""What was proposed before stands while the new target lies no farther from it."""
_RESOURCES: Final = RecommendationType.RESOURCES


@dataclass(frozen=True, slots=True)
class SizingCase:
    """One workload whose containers are sized."""

    workload: WorkloadName
    shape: PodShape
    replicas: int
    prices: PriceList = field(default_factory=PriceList)
    engine: EngineSettings = field(default_factory=EngineSettings)
    scalers: tuple[ScalerFacts, ...] = ()
    """HPAs that target it."""
    rules: NamespaceRules = field(default_factory=NamespaceRules)
    template: tuple[str, ...] = ()
    """Names of the containers of the pod template; empty where it is not known."""
    vertically_scaled: bool = False
    """Its pods bear the mark of a VerticalPodAutoscaler that changed them."""
    measured_by: str = "kubernetes"
    """Who measured what its containers use, as evidence names it: "kubernetes" (metrics.k8s.io) or "agent"."""
    standing: Mapping[tuple[str, Resource], float] = field(default_factory=dict)
    """Requests that were proposed before and still stand, by container and resource."""
    qos: QosClass = field(init=False)
    """Class of its pods now."""

    def __post_init__(self) -> None:
        """Look at the class once; every proposal speaks of it."""
        object.__setattr__(self, "qos", pod_shape.qos_class(self.shape))

    def injected(self, container: str) -> bool:
        """Tell whether somebody put a container into the pods that the template does not have."""
        return bool(self.template) and container not in self.template


@dataclass(frozen=True, slots=True)
class Change:
    """Another request, and limit, of one container's resource."""

    container: ContainerFacts
    nature: ContainerNature
    resource: Resource
    estimate: SizingEstimate
    current: float | None
    """Request now, cores or bytes; None where there is none."""
    request: float
    limit: float | None
    """None: the limit stays as it is."""
    after: PodShape
    qos: QosClass
    """Class of the pod then."""
    pairs: tuple[tuple[ScalerFacts, tuple[HpaPair, ...]], ...] = ()
    unpaired: str = ""
    """Why an HPA's percentage could not be computed; empty where there is nothing to say."""
    notes: tuple[str, ...] = ()

    @property
    def limit_only(self) -> bool:
        """Whether the request is well and only the limit has to rise."""
        return self.current is not None and _small(self.request, self.current) and self.limit is not None


def nature_of(case: SizingCase, container: ContainerFacts) -> ContainerNature:
    """Say what a container is, among those that run beside it."""
    others = [one for one in case.shape.running if one.name != container.name]
    return recognise(container, others=others, engine=case.engine)


def change_of(
    case: SizingCase,
    container: ContainerFacts,
    nature: ContainerNature,
    resource: Resource,
    estimate: SizingEstimate,
) -> Change | Refusal:
    """Return what to change, or why nothing is."""
    where = f"containers[{container.name}].requests.{resource}"
    if (why := _set_by_others(case, container, resource)) is not None:
        return Refusal(_RESOURCES, why[0], f"{where}: {why[1]}")
    current = _known(request_of(container, resource))
    target, notes = _steady(case, container, resource, estimate), list[str]()
    if resource is Resource.MEMORY:
        floored = _above_floors(nature, estimate, target, current=current)
        if isinstance(floored, str):
            return Refusal(_RESOURCES, "MemoryFloorUnknown", f"{where}: {floored}; its request is not cut")
        target, said = floored
        notes += said
    allowed = case.rules.range_of(resource)
    request, limit, said = _with_limit(case, container, resource, estimate, target=target, allowed=allowed)
    notes += said
    if current is not None and _small(request, current) and limit is None:
        text = f"{where}: {amount(resource, request)} is within {LEAST_CHANGE:.0%} of {amount(resource, current)}"
        return Refusal(_RESOURCES, "SmallChange", "; ".join([text, *notes]))
    after = pod_shape.changed(case.shape, container.name, resource, request=request, limit=limit)
    pairs, unpaired = _pairs(case, container.name, resource, after)
    then = pod_shape.qos_class(after)
    return Change(
        container, nature, resource, estimate, current, request, limit, after, then, pairs, unpaired, tuple(notes)
    )


def _set_by_others(case: SizingCase, container: ContainerFacts, resource: Resource) -> tuple[str, str] | None:
    vertical = case.rules.acting(
        kind=case.workload.kind, name=case.workload.name, container=container.name, resource=resource
    )
    if vertical is not None:
        return "VerticalScalerActs", (
            f"VerticalPodAutoscaler {vertical.name} in mode {vertical.mode} sets it; set its updateMode to Off to "
            "decide by what is proposed here"
        )
    if isinstance(case.rules.vertical_scalers, Unknown) and case.vertically_scaled:
        return "VerticalScalerActs", "a VerticalPodAutoscaler changed these pods when they were admitted (vpaUpdates)"
    whole = case.shape.pod_level
    if whole is not None and not isinstance(request_of(whole, resource), Unknown):
        return "PodLevelResources", "the pod's own resources (spec.resources) go before those of its containers"
    return None


def _steady(case: SizingCase, container: ContainerFacts, resource: Resource, estimate: SizingEstimate) -> float:
    """Return the target, or what was proposed before while it is as good: a number that wanders is no proposal."""
    before = case.standing.get((container.name, resource))
    near = before is not None and abs(before - estimate.target) <= STAYS_WITHIN * estimate.target
    if before is not None and near and estimate.lower <= before <= estimate.upper:
        return before
    return rounded_up(resource, estimate.target)


def _above_floors(
    nature: ContainerNature, estimate: SizingEstimate, target: float, *, current: float | None
) -> tuple[float, list[str]] | str:
    """Lift a target above what the memory may come to; a text where that is not known and the target is a cut."""
    notes: list[str] = []
    for floor in nature.floors:
        if isinstance(floor.memory, Unknown):
            if current is None or target < current:
                return floor.why
            continue
        if floor.memory > target:
            notes.append(f"held at {floor.why}, which it may come to take")
            target = rounded_up(Resource.MEMORY, floor.memory)
    start = estimate.start_up_peak
    if (nature.model_server or nature.cuda) and not isinstance(start, Unknown) and start > target:
        notes.append("held at its peak while it starts: what is loaded onto a GPU passes through the host's memory")
        target = rounded_up(Resource.MEMORY, start)
    return target, notes


def _with_limit(
    case: SizingCase,
    container: ContainerFacts,
    resource: Resource,
    estimate: SizingEstimate,
    *,
    target: float,
    allowed: AllowedRange,
) -> tuple[float, float | None, list[str]]:
    """Return request, limit (None: as it is), and what has to be said about them."""
    notes: list[str] = []
    name, limit = ", ".join(allowed.names), limit_of(container, resource)
    request = min(max(target, allowed.least), allowed.most)
    if request != target:
        notes.append(f"held at {amount(resource, request)} by LimitRange {name}")
    if isinstance(limit, Unknown):
        return request, None, notes
    if case.qos is QosClass.GUARANTEED:
        both = rounded_up(resource, max(request, estimate.upper, estimate.limit if resource is Resource.MEMORY else 0))
        both = min(both, allowed.most)
        notes.append("request and limit move together to the upper bound, so that the pod stays Guaranteed")
        return both, both if both != limit else None, notes
    near = resource is Resource.MEMORY and (limit < estimate.upper or estimate.reason is SizingReason.OUT_OF_MEMORY)
    raised: float | None = None
    if request > limit or near:
        raised = min(max(rounded_up(resource, estimate.limit), request), allowed.most)
        raised = raised if raised > limit else None
        if raised is not None:
            notes.append(f"the limit {amount(resource, limit)} rises to {amount(resource, raised)} with it")
    top = limit if raised is None else raised
    if request > top:
        notes.append(f"held at the limit {amount(resource, top)}, which LimitRange {name} does not let rise")
        request = top
    if top > request * allowed.ratio:
        request = rounded_up(resource, top / allowed.ratio)
        notes.append(f"held at {amount(resource, request)}: LimitRange {name} allows {allowed.ratio:g} x as limit")
    return request, raised, notes


def _pairs(
    case: SizingCase, container: str, resource: Resource, after: PodShape
) -> tuple[tuple[tuple[ScalerFacts, tuple[HpaPair, ...]], ...], str]:
    found: list[tuple[ScalerFacts, tuple[HpaPair, ...]]] = []
    for scaler in case.scalers:
        pairs = pairs_of(scaler.metrics, before=case.shape, after=after, resource=resource, container=container)
        if isinstance(pairs, Unknown):
            return (), f"HPA {scaler.name} scales on {resource} utilisation and cannot compute it: {pairs.detail}"
        if pairs:
            found.append((scaler, pairs))
    return tuple(found), ""


def weighs_most(changes: Sequence[Change]) -> tuple[list[Change], list[tuple[Change, Change]]]:
    """Return the changes that may stand side by side, and those that wait, each with the one it waits for.

    Changes of several containers that one HPA adds up would each need a percentage that knows of the others: the one
    that frees (or adds) the most goes first.
    """
    stand: list[Change] = []
    wait: list[tuple[Change, Change]] = []
    for resource in Resource:
        own = [one for one in changes if one.resource is resource]
        bound = [one for one in own if any(not pair.metric.container for _, pairs in one.pairs for pair in pairs)]
        first = max(bound, key=_weight, default=None)
        for change in own:
            if first is None or change is first or change not in bound:
                stand.append(change)
            else:
                wait.append((change, first))
    return stand, wait


def _weight(change: Change) -> float:
    return abs(change.request - (change.current or 0.0))


def _small(request: float, current: float) -> bool:
    return current > 0.0 and abs(request - current) < LEAST_CHANGE * current


def _known(value: float | Unknown) -> float | None:
    return None if isinstance(value, Unknown) else value
