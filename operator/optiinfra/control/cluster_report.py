"""What a round found about nodes, as the status of a ClusterResourceOptimization: pure."""

from collections import Counter
from collections.abc import Collection, Sequence

from optiinfra.api.conditions import merge
from optiinfra.api.scalars import Time
from optiinfra.api.status_cost import to_sources
from optiinfra.api.status_from import round_number, to_percent, to_refusal
from optiinfra.api.v1alpha1 import ClusterResourceOptimizationStatus, ClusterSummary, PoolStatus
from optiinfra.api.v1alpha1.cluster_resource_optimization import MetricsSourceStatus
from optiinfra.api.v1alpha1.savings import ClusterLedgerStatus
from optiinfra.api.v1alpha1.status_parts import MAX_REFUSALS, RoundStatus
from optiinfra.control.conditions import cluster_conditions
from optiinfra.control.consolidation_report import consolidation_status
from optiinfra.control.idle_report import idle_status
from optiinfra.control.recommend import ledger_of, recommendations_of
from optiinfra.control.work import ClusterWork
from optiinfra.domain.cost import hourly
from optiinfra.domain.evidence import RecommendationType, Refusal
from optiinfra.domain.idle import IDLE_STATES, GpuState, GpuVerdict
from optiinfra.domain.prices import Origin
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import HOURS_PER_MONTH, UnixTime
from optiinfra.domain.workload import NodeFacts


def cluster_status(cluster: ClusterWork, *, round_id: str, now: UnixTime) -> ClusterResourceOptimizationStatus:
    """Build the status after a round."""
    old, metadata, spec = cluster.obj.status, cluster.obj.metadata, cluster.obj.spec
    # What could not be looked at again still stands until it expires, as with services; a plan's steps do not.
    recommendations = (
        recommendations_of(
            [("", proposal) for proposal in cluster.proposals],
            old.recommendations,
            object_uid=metadata.uid,
            texts={},
            now=now,
        )
        if cluster.problem is None
        else tuple(item for item in old.recommendations if item.expires_at.unix > now)
    )
    nodes = list(cluster.nodes.values())
    return ClusterResourceOptimizationStatus(
        observed_generation=metadata.generation,
        conditions=merge(old.conditions, cluster_conditions(cluster), generation=metadata.generation, now=now),
        summary=_summary(cluster, nodes, now=now),
        pools=tuple(_pool(cluster, pool.name) for pool in spec.pools),
        recommendations=recommendations,
        refusals=tuple(to_refusal(refusal) for refusal in _refusals(cluster))[:MAX_REFUSALS],
        idle_gpus=idle_status(cluster),
        consolidation=consolidation_status(cluster),
        metrics_sources=_told_by(cluster),
        actions=old.actions,
        used_approvals=old.used_approvals,
        savings=ledger_of(
            recommendations,
            cluster.ledger or old.savings or ClusterLedgerStatus(),
            old.savings,
            currency=str(spec.currency),
            now=now,
        ),
        operator=cluster.claim.operator,
        other_operator=cluster.claim.other,
        last_round=RoundStatus(id=round_id, at=Time.of(now)),
    )


def _told_by(cluster: ClusterWork) -> tuple[MetricsSourceStatus, ...]:
    """Count the nodes of each source, the most common first."""
    counted = Counter(source for node, source in cluster.told_by.items() if node in cluster.heard)
    found = sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple(MetricsSourceStatus(source=source[:1024], nodes=count) for source, count in found[:8])


def _refusals(cluster: ClusterWork) -> list[Refusal]:
    planned = cluster.plan.refusals if cluster.plan is not None else ()
    refused = [Refusal(RecommendationType.CONSOLIDATION, str(item.reason), item.message) for item in planned]
    return [*cluster.refusals, *refused]


def _allocated(nodes: Sequence[NodeFacts]) -> float:
    return sum(pod.gpus for node in nodes for pod in node.pods if pod.phase not in ("Succeeded", "Failed"))


def _busy(nodes: Sequence[NodeFacts]) -> Value:
    """Mean utilisation of all GPUs whose agents are heard, from the newest snapshots."""
    values = [
        gpu.utilization_ratio
        for node in nodes
        if node.agent
        for gpu in node.agent[-1].gpus
        if not isinstance(gpu.utilization_ratio, Unknown)
    ]
    if not values:
        return Unknown(UnknownReason.NOT_MEASURED, "no agent reports GPU utilisation")
    return sum(values) / len(values)


def _idle(verdicts: Sequence[GpuVerdict], idle: Collection[str]) -> Value:
    """GPUs that were idle for the whole window; unknown while nobody was watched for so long."""
    if not verdicts:
        return Unknown(UnknownReason.NOT_MEASURED, "no agent reports GPUs")
    if all(verdict.state is GpuState.UNKNOWN for verdict in verdicts):
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, verdicts[0].message)
    count = sum(1 for verdict in verdicts if verdict.uuid in idle)
    if not count and any(verdict.state in IDLE_STATES for verdict in verdicts):
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "idle, but not yet for the whole window")
    return float(count)


def _emptyable(cluster: ClusterWork) -> int | str:
    """Count the nodes that could be emptied, or say why that is not known."""
    if cluster.plan is not None:
        return len(cluster.plan.freed)
    if cluster.problem is not None:
        return str(UnknownReason.STALE)
    if not cluster.obj.spec.consolidation.enabled:
        return str(UnknownReason.NOT_CONFIGURED)
    return str(UnknownReason.NOT_MEASURED) if cluster.nodes else 0


def _emptyable_of(cluster: ClusterWork, names: Collection[str]) -> int | None:
    """Count those of a pool; None where that is not known."""
    if cluster.plan is None:
        return None if names else 0
    return sum(1 for node in cluster.plan.freed if node.node in names)


def _summary(cluster: ClusterWork, nodes: Sequence[NodeFacts], *, now: UnixTime) -> ClusterSummary:
    idle_count = _idle(cluster.verdicts, cluster.idle)
    times = [node.agent[-1].time for node in nodes if node.agent]
    return ClusterSummary(
        pools=len(cluster.obj.spec.pools),
        nodes=len(nodes),
        gpus=sum(node.gpus for node in nodes),
        gpus_allocated=_allocated(nodes),
        idle_gpus=str(idle_count.reason) if isinstance(idle_count, Unknown) else int(idle_count),
        emptyable_nodes=_emptyable(cluster),
        gpu_percent=to_percent(_busy(nodes)),
        measured_at=Time.of(max(times, default=now)),
    )


def _pool(cluster: ClusterWork, name: str) -> PoolStatus:
    nodes = [node for node in cluster.nodes.values() if node.pool == name]
    names = {node.name for node in nodes}
    verdicts = [verdict for verdict in cluster.verdicts if verdict.node in names]
    idle_count = _idle(verdicts, cluster.idle)
    gpus = sum(node.gpus for node in nodes)
    hours = [_node_hour(cluster, node) for node in nodes]
    priced = [hour for hour in hours if not isinstance(hour, Unknown)]
    return PoolStatus(
        name=name,
        nodes=len(nodes),
        gpus=gpus,
        gpus_allocated=_allocated(nodes),
        gpus_idle=None if isinstance(idle_count, Unknown) else idle_count,
        emptyable_nodes=_emptyable_of(cluster, names),
        gpu_percent=to_percent(_busy(nodes)),
        per_month=round_number(sum(priced) * HOURS_PER_MONTH) if nodes and len(priced) == len(nodes) else None,
        price_sources=to_sources(_sources(cluster, nodes)),
    )


def _sources(cluster: ClusterWork, nodes: Sequence[NodeFacts]) -> list[tuple[Origin, int]]:
    """Whose prices the nodes have, and how many of them; the most common first."""
    known = (cluster.node_prices.get(node.name) for node in nodes)
    found = Counter(price.origin for price in known if price is not None and price.fault is None)
    return sorted(found.items(), key=lambda pair: (-pair[1], str(pair[0])))


def _node_hour(cluster: ClusterWork, node: NodeFacts) -> Value:
    """What a node costs an hour, commitments included: its own price, else the unit prices of its pool."""
    own = cluster.node_prices.get(node.name)
    if own is not None:
        return own.hour
    return hourly(
        cluster.prices[node.pool],
        gpus=node.gpus,
        gpu_model=node.gpu_model,
        cpu_cores=node.cpu_cores,
        memory_bytes=node.memory_bytes,
    )
