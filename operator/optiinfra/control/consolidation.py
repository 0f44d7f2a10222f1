"""Consolidation in the round: a drain plan from what is mirrored, and what of it has stood long enough to be proposed.

A node is proposed once it could be emptied for the whole window, and for twice what emptying it costs: what has stood
for so long may be expected to stand as long again. A clock that jumps, and mirrors of nodes and pods that hear nothing
any more (`hold`), prove nothing about the time between: the windows begin anew. When a plan is made is the matter of
`drain_planning`.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from optiinfra.control.snapshots import SnapshotStore
from optiinfra.control.work import ClusterWork
from optiinfra.domain.consolidation import WORTH, ClusterFacts, DrainPolicy, FreedNode, Serving
from optiinfra.domain.consolidation.advice import autoscaler_advice, deletion_cost_advice, scheduler_advice
from optiinfra.domain.evidence import (
    Direction,
    Evidence,
    FindingType,
    Proposal,
    RecommendationType,
    Savings,
)
from optiinfra.domain.prices import saved_by_removal
from optiinfra.domain.readings import EngineReading, Signal, Unknown, UnknownReason, Value
from optiinfra.domain.units import HOURS_PER_MONTH, Money, Ratio, Seconds, UnixTime
from optiinfra.domain.workload import NodeFacts

_LONGEST_GAP: Final = Seconds(7200.0)
"""Rounds further apart than any interval: nobody watched in between."""
_MOST_PROPOSED: Final = 20
"""More would not all fit among the recommendations, and which of them do would change from round to round."""
_STALE: Final = Seconds(120.0)


def serving_of(nodes: Iterable[NodeFacts], snapshots: SnapshotStore, *, now: UnixTime) -> dict[str, Serving]:
    """Return what the engines' newest pages say about how loaded each pod with GPUs is, by uid."""
    found: dict[str, Serving] = {}
    unmeasured = Unknown(UnknownReason.NOT_MEASURED, "taken from the pod's own start")
    for node in nodes:
        for pod in node.pods:
            if pod.gpus <= 0.0:
                continue
            pages = snapshots.pages({pod.name: pod.uid}).get(pod.name)
            if pages and now - pages[-1].time <= _STALE:
                found[pod.uid] = Serving(start_up=unmeasured, busy=_busy(pages[-1]))
    return found


def _busy(page: EngineReading) -> Value:
    """Share of its capacity that an engine uses: the fuller of its KV cache and its batch; 0 while it sleeps."""
    if page.gauge(Signal.SLEEPING) == 1.0:
        return 0.0
    cache, running = page.gauge(Signal.KV_CACHE_USAGE), page.gauge(Signal.REQUESTS_RUNNING)
    limit = page.gauge(Signal.BATCH_LIMIT)
    shares = [] if isinstance(cache, Unknown) else [cache]
    if not isinstance(running, Unknown) and not isinstance(limit, Unknown) and limit > 0.0:
        shares.append(running / limit)
    if not shares:
        return Unknown(UnknownReason.NOT_MEASURED, "the page tells neither its cache nor its batch limit")
    return min(1.0, max(shares))


def hold(cluster: ClusterWork) -> None:
    """Plan nothing, because it is not seen what runs where: windows begin anew, and so does a plan in the making."""
    cluster.memory.emptyable_since.clear()
    cluster.memory.drain.forget()


def consolidate(cluster: ClusterWork, *, now: UnixTime) -> list[Proposal]:
    """Plan, remember since when each node could be emptied, and propose those that are due."""
    memory, spec = cluster.memory, cluster.obj.spec.consolidation
    since, window = memory.emptyable_since, spec.window.seconds
    before = memory.drain.last
    if before is not None and not 0.0 <= now - before.plan.time <= _LONGEST_GAP:
        went = "back" if now < before.plan.time else "on"
        cluster.doubts += (f"the clock went {went} by {abs(now - before.plan.time):.0f} s since the last plan",)
        since.clear()
        memory.drain.forget()
        if went == "back":
            return []
    facts = ClusterFacts(
        nodes=tuple(cluster.nodes.values()),
        waiting=cluster.waiting,
        budgets=cluster.budgets,
        serving=cluster.serving,
    )
    policy = DrainPolicy(
        max_moves=_most_moves(len(cluster.nodes)),
        headroom=float(spec.headroom.ratio),
        standing={name: Seconds(now - first) for name, first in since.items()},
        window=Seconds(window),
    )
    planned = memory.drain.latest(facts, policy, now=now)
    if planned is None:
        return []
    cluster.plan, cluster.habit = planned.plan, planned.habit
    cluster.doubts += tuple(problem.message for problem in cluster.plan.problems)
    freed = {node.node: node for node in cluster.plan.freed}
    for gone in [name for name in since if name not in freed]:
        del since[gone]
    for name in freed:
        since.setdefault(name, cluster.plan.time)
    # As of the plan, not of now: these are the nodes that it tried first, so that their moves are its first.
    cluster.due = tuple(name for name in freed if cluster.plan.time - since[name] >= window and name in cluster.nodes)
    gone_before: list[str] = []
    proposals: list[Proposal] = []
    for name in cluster.due:
        stood = Seconds(cluster.plan.time - since[name])
        if stood >= WORTH * freed[name].price * 3600.0 and len(proposals) < _MOST_PROPOSED:
            proposals.append(_proposal(cluster, freed[name], gone_before, stood=stood))
            gone_before.append(name)
    return [*proposals, *_advice(cluster)]


def _advice(cluster: ClusterWork) -> list[Proposal]:
    """Say what keeps nodes from staying half empty: the scheduler, the autoscaler, the order of scaling in."""
    assert cluster.plan is not None
    assert cluster.habit is not None
    nodes = tuple(cluster.nodes.values())
    due = set(cluster.due)
    standing = replace(cluster.plan, freed=tuple(node for node in cluster.plan.freed if node.node in due))
    return [
        *scheduler_advice(cluster.habit, nodes),
        *autoscaler_advice(nodes, standing),
        *deletion_cost_advice(nodes, standing),
    ]


def _most_moves(nodes: int) -> int:
    # A plan that moves more pods than there are nodes is a migration, not a clean-up.
    return max(16, nodes)


def _proposal(cluster: ClusterWork, freed: FreedNode, gone_before: list[str], *, stood: Seconds) -> Proposal:
    moves = "; it is empty" if not freed.moves else f" by moving {freed.moves} pods elsewhere"
    evidence = [
        Evidence("node_gpus", float(freed.gpus), "gpus", Seconds(0.0), "kubernetes"),
        Evidence("pods_to_move", float(freed.moves), "", Seconds(0.0), "derived"),
        Evidence("emptyable_for", stood, "seconds", stood, "derived"),
        Evidence("unready_seconds", float(freed.unready), "seconds", Seconds(0.0), "kubernetes", "sum"),
        Evidence("warm_servers", float(freed.warm), "", Seconds(0.0), "kubernetes"),
        Evidence("price_of_moving", freed.price, "node-hours", Seconds(0.0), "derived"),
    ]
    return Proposal(
        type=RecommendationType.CONSOLIDATION,
        reason=str(FindingType.EMPTYABLE_NODE),
        message=f"node {freed.node} with {freed.gpus:g} GPUs could be emptied{moves}",
        setting="node",
        current="in use",
        proposed="removed",
        lower="removed",
        upper="removed",
        direction=Direction.NONE,
        confidence=Ratio(0.8 if freed.moves else 0.9),
        evidence=tuple(evidence),
        savings=_savings(cluster, freed, gone_before),
        subject=freed.node,
        risk=_risk(freed),
        verification=f"kubectl get pods --all-namespaces --field-selector spec.nodeName={freed.node} shows only "
        "DaemonSet pods, and no pod is Pending; the money is saved when the node is gone",
        undo=f"kubectl uncordon {freed.node}, until the node is removed",
    )


def _risk(freed: FreedNode) -> str:
    said = []
    if freed.warm:
        said.append(
            f"{freed.warm} model servers load again, {freed.unready:.0f} s of unreadiness in all, worth "
            f"{freed.price:.2f} hours of this node"
        )
    if freed.unmeasured:
        said.append(f"nobody saw {freed.unmeasured} of the pods start")
    if freed.alone:
        said.append(f"{', '.join(freed.alone[:3])} serve nothing meanwhile: their only ready pod moves")
    return "; ".join(said)


def _savings(cluster: ClusterWork, freed: FreedNode, gone_before: list[str]) -> Savings:
    """What is no longer paid when this node goes after those before it; capacity alone where no price is known."""
    prices = cluster.node_prices
    own = prices.get(freed.node)
    money: Money | None = None
    if own is not None:
        pool = {name for name, node in cluster.nodes.items() if node.pool == freed.pool and name in prices}
        gone = [prices[name] for name in (*gone_before, freed.node) if name in pool]
        before = [price for price in gone if price is not own]
        staying = [prices[name] for name in pool if name != freed.node and name not in gone_before]
        with_it = saved_by_removal(gone, staying)
        without = saved_by_removal(before, [*staying, own])
        if not isinstance(with_it, Unknown) and not isinstance(without, Unknown):
            money = Money(max(0.0, with_it - without) * HOURS_PER_MONTH)
    return Savings(
        gpus_freed=float(freed.gpus),
        cpu_cores_freed=freed.cpu_cores,
        memory_bytes_freed=freed.memory_bytes,
        per_month=money,
    )


def with_gpu_model(node: NodeFacts, pool_model: str) -> NodeFacts:
    """Return a node with the GPU model that its pool states, or its agent reports, where its labels tell none."""
    if node.gpu_model or node.gpus <= 0.0:
        return node
    seen = {gpu.model for gpu in node.agent[-1].gpus if gpu.model} if node.agent else set()
    model = pool_model or (next(iter(seen)) if len(seen) == 1 else "")
    return replace(node, gpu_model=model) if model else node
