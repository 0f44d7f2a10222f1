"""What each service costs in this round, and each pool, from the prices of the nodes; kept for status and metrics.

Money over tokens is added up from round to round in the object's memory; a restart begins anew. Nothing here decides.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from optiinfra import metrics
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.registry import Registry
from optiinfra.control.work import ClusterWork, ServiceWork, TargetWork, Work
from optiinfra.domain.groups import count_groups
from optiinfra.domain.prices import Origin
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.service_cost import ServiceCost, troubles
from optiinfra.domain.start_up import replica_pods
from optiinfra.domain.token_cost import Charge, Moment
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload_cost import PlacedPod, WorkloadCost, workload_cost

_NO_PAGES = Unknown(UnknownReason.NOT_MEASURED, "no engine says how many tokens it serves")
_NO_NODES = Unknown(
    UnknownReason.NOT_CONFIGURED,
    "the operator sees no nodes (scope Namespaces), and prices are those of nodes; install it with scope Cluster",
)
_NO_PODS = Unknown(UnknownReason.NOT_MEASURED, "no pod has a node")


def measure(service: ServiceWork, work: Work, *, now: UnixTime) -> None:
    """Work out what a service costs now, and add the time since the last round to money and tokens."""
    cost: ServiceCost | None = None
    try:
        cost = _measured(service, work, now=now)
    finally:
        # No old number where this failed.
        service.cost = service.memory.cost = cost


def _measured(service: ServiceWork, work: Work, *, now: UnixTime) -> ServiceCost:
    costs = [_target(service, target, work) for target in service.targets if target.facts is not None]
    placed = [cost for cost, replicas in costs if replicas]
    held, used = _sum([cost.held for cost in placed]), _sum([cost.used for cost in placed])
    if placed and not work.nodes and isinstance(held, Unknown):
        held = used = _NO_NODES
    replicas = sum(count for _, count in costs)
    per_replica: Value = held if isinstance(held, Unknown) else held / replicas
    signals = service.whole
    moment = Moment(
        held_per_hour=held,
        used_per_hour=used,
        prompt_rate=signals.prompt_token_rate if signals else _NO_PAGES,
        generation_rate=signals.generation_token_rate if signals else _NO_PAGES,
        prefill_seconds=signals.prefill_time_mean if signals else _NO_PAGES,
        decode_seconds=signals.decode_time_mean if signals else _NO_PAGES,
    )
    service.memory.tokens.observe(moment, now=now)
    origins: Counter[Origin] = Counter()
    for cost in placed:
        origins.update(dict(cost.origins))
    nodes = {pod.node for target in service.targets if target.facts for pod in target.facts.pods if pod.node}
    bad = troubles(work.node_prices[node] for node in nodes if node in work.node_prices)
    return ServiceCost(
        currency=service.currency,
        held=held,
        used=used,
        per_replica=per_replica,
        tokens=service.memory.tokens.prices(moment),
        origins=tuple(sorted(origins.items(), key=lambda pair: (-pair[1], str(pair[0])))),
        trouble=bad[0] if bad and isinstance(held, Unknown) else None,
    )


def _target(service: ServiceWork, target: TargetWork, work: Work) -> tuple[WorkloadCost, int]:
    facts = target.facts
    assert facts is not None
    pods = [pod for pod in facts.pods if pod.node and pod.phase not in ("Succeeded", "Failed")]
    single = len(replica_pods(facts)) == len(facts.pods)
    replicas = len(pods) if single else count_groups({pod.name for pod in pods}, workload=facts.name)
    use = target.utilization.gpu_ratio_mean if target.utilization is not None else _NO_PAGES
    cost = workload_cost(
        [PlacedPod(pod, work.node_prices.get(pod.node)) for pod in pods],
        replicas=replicas,
        gpu_ratio=use,
        otherwise=service.prices,
    )
    return cost, replicas


def _sum(values: list[Value]) -> Value:
    if not values:
        return _NO_PODS
    unknown = next((value for value in values if isinstance(value, Unknown)), None)
    return unknown or sum(value for value in values if not isinstance(value, Unknown))


def remember_pools(cluster: ClusterWork) -> None:
    """Keep what the nodes of each pool cost an hour, for the metrics; unknown while one of them has no price."""
    found: dict[str, list[Value]] = defaultdict(list)
    for node in cluster.nodes.values():
        price = cluster.node_prices.get(node.name)
        if price is not None:
            found[node.pool].append(price.hour)
    currency = str(cluster.obj.spec.currency)
    cluster.memory.pool_hours = {(pool, currency): _sum(hours) for pool, hours in found.items()}


def show_known(registry: Registry, memories: Mapping[ObjectKey, ObjectMemory]) -> None:
    """Set the gauges for the objects that are there and can be read; what is gone or broken has no cost any more."""
    services = [(key, memories[key].cost) for key, _ in registry.services() if key in memories]
    pools: dict[tuple[str, str], Value] = {}
    for key, _ in registry.clusters():
        if key in memories:
            pools |= memories[key].pool_hours
    show([(key.namespace, key.name, cost) for key, cost in services if cost is not None], pools)


def show(costs: Iterable[tuple[str, str, ServiceCost]], pools: Mapping[tuple[str, str], Value]) -> None:
    """Set the gauges: (namespace, name, cost) of services, and cost an hour by (pool, currency)."""
    metrics.SERVICE_COST.clear()
    metrics.TOKEN_COST.clear()
    metrics.POOL_COST.clear()
    for namespace, name, cost in costs:
        for charge, value in ((Charge.HELD, cost.held), (Charge.USED, cost.used)):
            if not isinstance(value, Unknown):
                metrics.SERVICE_COST.labels(namespace, name, charge, cost.currency).set(value)
        for one in cost.tokens:
            for kind, price in (("prompt", one.prompt), ("generation", one.generation)):
                if not isinstance(price, Unknown):
                    metrics.TOKEN_COST.labels(namespace, name, kind, one.basis, one.charge, cost.currency).set(price)
    for (pool, currency), hour in pools.items():
        if not isinstance(hour, Unknown):
            metrics.POOL_COST.labels(pool, currency).set(hour)
