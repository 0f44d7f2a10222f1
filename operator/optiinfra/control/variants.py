"""Variants of one service: from the decisions that each target got alone to the cheapest mix of those of one role.

Each target's decision says how much work its own load needs. Added up in work per second that is what the role needs,
and `domain/scaler/mix` says which variants give it for the least money. Prefill and decode are mixed apart: neither can
do the other's work. Nothing is mixed where a role has one target, or where of no target it is known what a replica
serves; each keeps its own decision then.

Load moves with the replicas, but a decision remembers the load that its target had. A target that lost its load to
another one would go on asking for it, beside the one that has it now. So no target is believed to need more, in
proportion to its load of this moment, than the one with most of the load, unless requests wait for it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType
from typing import Final

from optiinfra.api.v1alpha1.resource_optimization import CapacityType as DeclaredCapacity
from optiinfra.control.work import ServiceWork, TargetWork
from optiinfra.domain.cost import PriceList, node_hourly, workload_cost_per_hour
from optiinfra.domain.groups import count_groups
from optiinfra.domain.policy import Limits
from optiinfra.domain.prices import NodePrice
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.replica_capacity import Basis
from optiinfra.domain.scaler.mix import mix
from optiinfra.domain.scaler.mix_states import MOST_REPLICAS
from optiinfra.domain.scaler.tuning import DEFAULT
from optiinfra.domain.scaler.variant import CapacityType, Choice, Mix, Variant
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.scaling_rules import Rule
from optiinfra.domain.start_up import replica_pods
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import NodeFacts, PodFacts, WorkloadFacts

STOCKED_OUT_AFTER: Final = Seconds(300.0)
"""A pod that waits longer for a node waits for one that does not come: node autoscalers bring what there is sooner."""
_LEAST_LOAD: Final = 0.05
"""Replicas; what a smaller load needs in proportion says nothing."""
_CAPACITY: Final = {
    DeclaredCapacity.ON_DEMAND: CapacityType.ON_DEMAND,
    DeclaredCapacity.SPOT: CapacityType.SPOT,
}
_UNMIXED: Final = frozenset({Rule.PAUSED, Rule.ASLEEP, Rule.WAKING})
"""Rules of targets that keep what they have: paused ones, and those of which no replica can be heard."""
_NO_PODS: Final = Unknown(UnknownReason.NOT_MEASURED, "no pod runs that would tell")
_NO_PRICES: Final[Mapping[str, PriceList]] = MappingProxyType({})
_NO_NODE_PRICES: Final[Mapping[str, NodePrice]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class MixedTarget:
    """What the mix of its role asks of one target."""

    choice: Choice
    mix: Mix

    @property
    def desired(self) -> int:
        """Replicas to ask for now."""
        return self.choice.desired


@dataclass(frozen=True, slots=True)
class _Known:
    """Nodes and prices: by node name, by pool, by node name."""

    nodes: Mapping[str, NodeFacts]
    prices: Mapping[str, PriceList]
    node_prices: Mapping[str, NodePrice]


@dataclass(frozen=True, slots=True)
class _Judged:
    """One target of a role with what its variant is made of."""

    work: TargetWork
    decision: ScalingDecision
    facts: WorkloadFacts
    limits: Limits

    @property
    def capacity(self) -> Value:
        """What one replica serves. A guess may size a target by itself, but it moves no work elsewhere."""
        known = self.decision.capacity
        if known.basis is Basis.OCCUPANCY:
            return Unknown(UnknownReason.TOO_FEW_SAMPLES, "what one replica serves is a guess yet")
        if not isinstance(known.work, Unknown) and not 0.0 < known.work < float("inf"):
            return Unknown(UnknownReason.INVALID, "a replica that serves nothing cannot be weighed")
        return known.work


def mixed_targets(
    service: ServiceWork,
    nodes: Mapping[str, NodeFacts],
    *,
    now: UnixTime,
    prices: Mapping[str, PriceList] = _NO_PRICES,
    node_prices: Mapping[str, NodePrice] = _NO_NODE_PRICES,
) -> dict[str, MixedTarget] | None:
    """Return what to ask of each target that was mixed, by its name; None where nothing was.

    Args:
        service: its targets are decided; those without a decision, or that are paused, keep what they have, and so does
            one whose capacity was never measured: what it lacks is asked of the others first.
        nodes: by name, for the GPU model and pool of the nodes that pods run on.
        now: the time, for how long pods have waited for a node.
        prices: by pool of the nodes; the service's own prices where a pool has none.
        node_prices: by node; they count before those of the pool.
    """
    roles: dict[str, list[_Judged]] = defaultdict(list)
    for work in service.targets:
        decision = work.decision
        if not isinstance(decision, ScalingDecision) or decision.rule in _UNMIXED:
            continue
        if work.facts is not None and work.limits is not None:
            roles[work.target.role].append(_Judged(work, decision, work.facts, work.limits))
    found: dict[str, MixedTarget] = {}
    for judged in roles.values():
        known = [one for one in judged if not isinstance(one.capacity, Unknown)]
        if len(judged) < 2 or not known:
            continue
        known_prices = _Known(nodes, prices, node_prices)
        variants = [_variant(one, service, known_prices, now=now) for one in judged]
        chosen = mix(needed(judged), variants)
        found |= {choice.name: MixedTarget(choice, chosen) for choice in chosen.choices}
    return found or None


def needed(judged: Sequence[_Judged]) -> float:
    """Return the work per second that variants of known capacity are to serve, headroom included.

    It rises with the need, except for a small fraction of a replica. It falls below what runs only as far as no
    decision knows a reason against it, with the room to spare and in the lumps that a single target would want.
    """
    rows = [(one, one.capacity) for one in judged if not isinstance(one.capacity, Unknown)]
    smallest = min(capacity for _, capacity in rows)
    ratio = _headroom(rows)
    wanted = kept = runs = 0.0
    for one, capacity in rows:
        need = _need(one, ratio)
        wanted += need * capacity
        kept += max(need, _held(one)) * capacity
        runs += one.decision.current * capacity
    # A variant that nobody can weigh does not grow while another can: what it lacks is asked of the others.
    lacks = (max(0, one.decision.desired - one.decision.current) for one in judged if isinstance(one.capacity, Unknown))
    wanted += sum(lacks) * smallest
    if wanted > runs:
        return max(runs, wanted - DEFAULT.rounding * smallest)
    slack = min(DEFAULT.shrink_slack * smallest, DEFAULT.shrink_slack_share * runs)
    less = max(kept, wanted + slack)
    return less if runs - less >= DEFAULT.shrink_lump * runs else runs


def _headroom(rows: Sequence[tuple[_Judged, float]]) -> float | None:
    """Return need over load of the target with most of the load; None while there is hardly any."""
    loads = [(one.decision.load.replicas * capacity, one) for one, capacity in rows]
    most = max(loads, key=lambda pair: pair[0])[1].decision
    return max(1.0, most.need / most.load.replicas) if most.load.replicas >= _LEAST_LOAD else None


def _need(one: _Judged, headroom: float | None) -> float:
    """Return the replicas that a target's present load needs."""
    decision = one.decision
    if headroom is None or decision.load.backlog > 0.0 or decision.rule is Rule.QUEUE_DRAIN:
        return max(0.0, decision.need)
    return max(0.0, min(decision.need, decision.load.replicas * headroom))


def _held(one: _Judged) -> float:
    """Return the replicas that must not be given back yet, by what this moment shows and not by a remembered load."""
    decision = one.decision
    if decision.shrink_blocked:
        return decision.current
    return decision.desired if decision.rule in (Rule.HOLD, Rule.PEAKS) else 0.0


def _variant(
    one: _Judged,
    service: ServiceWork,
    known: _Known,
    *,
    now: UnixTime,
) -> Variant:
    work, decision, facts = one.work, one.decision, one.facts
    pods = [pod for pod in replica_pods(facts) if not pod.terminating]
    maximum = min(one.limits.maximum, MOST_REPLICAS)
    current = facts.desired_replicas
    by_hand = decision.rule is Rule.CHANGED_BY_OTHERS and work.memory.ordered != current
    # What is not weighed goes by its own decision, but does not grow by it.
    kept = min(current, decision.desired) if isinstance(one.capacity, Unknown) else current
    measured = work.start_up.p50 if work.start_up is not None else _NO_PODS
    return Variant(
        name=work.target.name,
        capacity=one.capacity,
        price=_price(one, service, known),
        gpus=_gpus(facts),
        minimum=min(max(one.limits.minimum, current) if by_hand else one.limits.minimum, maximum),
        maximum=maximum,
        current=kept,
        ready=facts.ready_replicas,
        starting=sum(bool(pod.node) and not pod.ready for pod in pods),
        start_up_p50=decision.start_up if isinstance(measured, Unknown) else Seconds(min(measured, decision.start_up)),
        start_up_p95=decision.start_up,
        capacity_type=_CAPACITY[work.target.capacity_type],
        max_share=work.target.max_share,
        stocked_out=any(not pod.node and now - _waits_since(pod) > STOCKED_OUT_AFTER for pod in pods),
    )


def _waits_since(pod: PodFacts) -> UnixTime:
    return pod.created if pod.unschedulable_since is None else pod.unschedulable_since


def _replicas(facts: WorkloadFacts, pods: Sequence[PodFacts]) -> int:
    """Return how many replicas some pods are; the pods of a group are one."""
    return (
        len(pods)
        if len(replica_pods(facts)) == len(facts.pods)
        else count_groups({pod.name for pod in pods}, workload=facts.name)
    )


def _gpus(facts: WorkloadFacts) -> Value:
    """Return the GPUs of one replica."""
    replicas = _replicas(facts, facts.pods)
    return sum(pod.gpus for pod in facts.pods) / replicas if replicas else _NO_PODS


def _price(one: _Judged, service: ServiceWork, known: _Known) -> Value:
    """Return what a replica costs an hour, by the requests of its pods and the prices of the nodes they run on."""
    placed = [pod for pod in one.facts.pods if pod.node and not pod.terminating]
    pods = placed or [pod for pod in one.facts.pods if not pod.terminating]
    if not pods:
        return _NO_PODS
    costs: list[float] = []
    for pod in pods:
        cost = _pod_price(pod, service, known)
        if isinstance(cost, Unknown):
            return cost
        costs.append(cost)
    return fmean(costs) * len(costs) / _replicas(one.facts, pods)


def _pod_price(pod: PodFacts, service: ServiceWork, known: _Known) -> Value:
    own = known.node_prices.get(pod.node)
    if own is not None:
        return node_hourly(own, gpus=pod.gpus, cpu_cores=pod.cpu_request_cores, memory_bytes=pod.memory_request_bytes)
    node = known.nodes.get(pod.node)
    return workload_cost_per_hour(
        service.prices if node is None else known.prices.get(node.pool, service.prices),
        gpus=pod.gpus,
        gpu_model="" if node is None else node.gpu_model,
        cpu_cores=pod.cpu_request_cores,
        memory_bytes=pod.memory_request_bytes,
    )
