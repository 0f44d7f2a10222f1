"""Advice to those who place and remove pods and nodes: the scheduler, the node autoscaler, the ReplicaSet controller.

Emptying nodes by hand is a cure; these settings keep them from filling half. All of it is advice with a ready snippet:
nothing here is written into a cluster. The measured figures are GPUs in use on nodes that are not empty, on the openb
traces at 30, 50 and 70 % of the cluster's GPUs asked for (`optiinfra replay consolidation --rule leastallocated` and
`mostallocated`, default list, mean of seeds 42 to 44, nothing moved).
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Final

from optiinfra.domain.consolidation.inputs import evictable
from optiinfra.domain.consolidation.results import ConsolidationPlan, NodeReason
from optiinfra.domain.consolidation.scheduling import LEAST_PLACEMENTS, Habit, HabitKind
from optiinfra.domain.evidence import Direction, Evidence, Proposal, RecommendationType
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import Ratio, Seconds
from optiinfra.domain.workload import NodeFacts, PodFacts

LOADS: Final = (0.3, 0.5, 0.7)
SPREAD_UTILIZATION: Final = (0.29, 0.48, 0.66)
"""With NodeResourcesFit LeastAllocated, at each of the loads."""
PACKED_UTILIZATION: Final = (0.90, 0.92, 0.93)
"""With MostAllocated, GPUs weighing five times as much as CPU or memory."""
FULL_ENOUGH: Final = 0.85
"""From this use of the nodes that are not empty, packing has little left to gain."""
_CHANCE: Final = 0.6
"""A scheduler that does not look at GPUs comes to a mean rank of a half."""
DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
_LEAVES_FIRST: Final = -100
_MOST_NAMED: Final = 16
_KARPENTER_POOL: Final = "karpenter.sh/nodepool"
_MANAGED_POOLS: Final = (
    "cloud.google.com/gke-nodepool",
    "eks.amazonaws.com/nodegroup",
    "kubernetes.azure.com/agentpool",
)

PACKING_PROFILE: Final = """\
# Replace the resource by what your pods ask for, such as amd.com/gpu. Pods choose it by schedulerName: gpu-packing;
# to change the default scheduler, give its profile the same pluginConfig.
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
  - schedulerName: default-scheduler
  - schedulerName: gpu-packing
    plugins:
      score:
        disabled:
          - name: NodeResourcesBalancedAllocation
    pluginConfig:
      - name: NodeResourcesFit
        args:
          scoringStrategy:
            type: MostAllocated
            resources:
              - {name: nvidia.com/gpu, weight: 5}
              - {name: cpu, weight: 1}
              - {name: memory, weight: 1}
      - name: PodTopologySpread
        args:
          defaultingType: List
          defaultConstraints: []
"""
"""Without the last part, soft spreading by default constraints works against the packing."""


def scheduler_advice(habit: Habit | Unknown, nodes: Sequence[NodeFacts]) -> list[Proposal]:
    """Advise packing where the scheduler is seen not to pack and nodes are half empty."""
    if isinstance(habit, Unknown) or habit.kind is HabitKind.PACKS:
        return []
    use = _use(nodes)
    if use is None or use >= FULL_ENOUGH:
        return []
    spreads = habit.kind is HabitKind.SPREADS
    if not spreads and (habit.fullness > _CHANCE or habit.placements < 2 * LEAST_PLACEMENTS):
        return []  # pods that have gone blur packing: between chance and packing nothing is said
    seen = "spreads pods with GPUs" if spreads else "fills nodes with GPUs by chance (by default it scores no GPUs)"
    nearest = min(range(len(LOADS)), key=lambda one: abs(LOADS[one] - use))
    figures = " / ".join(f"{share:.0%}" for share in SPREAD_UTILIZATION)
    better = " / ".join(f"{share:.0%}" for share in PACKED_UTILIZATION)
    return [
        Proposal(
            type=RecommendationType.CONSOLIDATION,
            reason="SchedulerSpreads" if spreads else "SchedulerIgnoresGpus",
            message=(
                f"The scheduler {seen}: the mean rank of the {habit.placements} latest placements is "
                f"{habit.fullness:.2f}, 0 being the emptiest node with room. Packing keeps nodes empty that can go: "
                f"on public traces at loads of 30 / 50 / 70 %, nodes in use were {better} full with MostAllocated "
                f"and {figures} with LeastAllocated. RequestedToCapacityRatio with a rising shape packs as well"
            ),
            setting="KubeSchedulerConfiguration NodeResourcesFit",
            current="LeastAllocated" if spreads else "without GPUs",
            proposed="MostAllocated",
            lower="MostAllocated",
            upper="MostAllocated",
            direction=Direction.NONE,
            confidence=Ratio(min(0.9, 0.5 + habit.placements / 100.0) if spreads else 0.5),
            evidence=(
                Evidence("placement_rank", habit.fullness, "ratio", Seconds(0.0), "kubernetes", "mean"),
                Evidence("placements", float(habit.placements), "", Seconds(0.0), "kubernetes"),
                Evidence("gpu_use_of_nodes_in_use", use, "ratio", Seconds(0.0), "kubernetes"),
                Evidence("gpu_use_when_packed", PACKED_UTILIZATION[nearest], "ratio", Seconds(0.0), "derived"),
            ),
            patch=PACKING_PROFILE,
            risk="Replicas share nodes more often: state with anti-affinity or spread which may not. Not every managed "
            "control plane lets its scheduler be configured; a second scheduler in the cluster can carry the profile",
            verification="New pods with GPUs go to the fullest node with room: status.consolidation.scheduler.habit "
            "turns from Spreads to Packs as pods are replaced",
            undo="Take the schedulerName out of the pod templates again",
        )
    ]


def _use(nodes: Sequence[NodeFacts]) -> float | None:
    """GPUs asked for as a share of those on nodes that hold any of them."""
    used = size = 0.0
    for node in nodes:
        here = sum(pod.gpus for pod in evictable(node))
        if node.gpus > 0.0 and here > 0.0:
            used += here
            size += node.gpus
    return used / size if size else None


def autoscaler_advice(nodes: Sequence[NodeFacts], plan: ConsolidationPlan) -> list[Proposal]:
    """Say what lets a node autoscaler remove what could go, where it is seen which one runs."""
    freed = {node.node for node in plan.freed}
    by_kind: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        if node.name in freed:
            if _KARPENTER_POOL in node.labels:
                by_kind[_KARPENTER_POOL].append(node.labels[_KARPENTER_POOL])
            elif any(label in node.labels for label in _MANAGED_POOLS):
                label = next(label for label in _MANAGED_POOLS if label in node.labels)
                by_kind["cluster-autoscaler"].append(node.labels[label])
    found = []
    for kind, pools in sorted(by_kind.items()):
        names = sorted(set(pools))
        found.append(
            _karpenter(names, len(pools)) if kind == _KARPENTER_POOL else _cluster_autoscaler(names, len(pools))
        )
    return found


def _karpenter(pools: Sequence[str], count: int) -> Proposal:
    return Proposal(
        type=RecommendationType.CONSOLIDATION,
        reason="AutoscalerCanEmpty",
        message=f"{count} nodes of the NodePools {', '.join(pools[:4])} could be emptied. Where their disruption "
        "policy is WhenEmpty, Karpenter waits until a node is empty by itself; WhenEmptyOrUnderutilized also moves "
        "pods. "
        "Budgets and a long consolidateAfter keep it from reloading models for little",
        setting="NodePool spec.disruption",
        current="as it is",
        proposed="WhenEmptyOrUnderutilized",
        lower="WhenEmpty",
        upper="WhenEmptyOrUnderutilized",
        direction=Direction.NONE,
        confidence=Ratio(0.5),
        evidence=(Evidence("emptyable_nodes", float(count), "", Seconds(0.0), "derived"),),
        subject=pools[0] if len(pools) == 1 else "",
        patch=(
            f"# for the NodePools {', '.join(pools[:4])}\n"
            "spec:\n"
            "  disruption:\n"
            "    consolidationPolicy: WhenEmptyOrUnderutilized\n"
            "    consolidateAfter: 30m\n"
            "    budgets:\n"
            '      - nodes: "1"\n'
        ),
        risk="Karpenter weighs prices, not model load times: give servers that are dear to move "
        "karpenter.sh/do-not-disrupt with a duration, such as 4h",
        verification="kubectl get nodeclaims: nodes go one at a time, and no server is moved twice within the hour",
        undo="Set consolidationPolicy back to WhenEmpty",
    )


def _cluster_autoscaler(pools: Sequence[str], count: int) -> Proposal:
    return Proposal(
        type=RecommendationType.CONSOLIDATION,
        reason="AutoscalerCanEmpty",
        message=f"{count} nodes of the groups {', '.join(pools[:4])} could be emptied. The cluster autoscaler "
        "removes a node only below its thresholds; nodes with GPUs have one of their own, by the "
        "share of GPUs asked for",
        setting="cluster-autoscaler --scale-down-gpu-utilization-threshold",
        current="as it is",
        proposed="0.7",
        lower="0.5",
        upper="0.8",
        direction=Direction.NONE,
        confidence=Ratio(0.5),
        evidence=(Evidence("emptyable_nodes", float(count), "", Seconds(0.0), "derived"),),
        subject=pools[0] if len(pools) == 1 else "",
        patch=(
            "# arguments of the cluster autoscaler\n"
            "# --scale-down-gpu-utilization-threshold=0.7\n"
            "# --scale-down-utilization-threshold=0.6\n"
            "# --scale-down-unneeded-time=30m\n"
            "# pods whose emptyDir may go, in their template:\n"
            "metadata:\n"
            "  annotations:\n"
            "    cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes: cache,tmp\n"
        ),
        risk="It moves pods from any node below the threshold: budgets and safe-to-evict=false protect servers that "
        "are dear to move. Managed clusters offer these settings as profiles of the node pool",
        verification="The autoscaler's ConfigMap cluster-autoscaler-status lists scale-down candidates",
        undo="Take the arguments out again",
    )


def deletion_cost_advice(nodes: Sequence[NodeFacts], plan: ConsolidationPlan) -> list[Proposal]:
    """Say which replicas should go first when a workload scales in, so that nodes become empty, not half empty."""
    leaving = _leaving(nodes, plan)
    found = []
    for (namespace, owner), pods in sorted(leaving.items()):
        names = [pod.name for pod in pods]
        listed = " ".join(names)
        found.append(
            Proposal(
                type=RecommendationType.CONSOLIDATION,
                reason="ScaleInOrder",
                message=f"When {namespace}/{owner} scales in, {len(names)} of its pods should go first: they are on "
                "nodes that are nearly empty. The ReplicaSet controller deletes the lowest cost first",
                setting=DELETION_COST,
                current="0",
                proposed=str(_LEAVES_FIRST),
                lower=str(_LEAVES_FIRST),
                upper=str(_LEAVES_FIRST),
                direction=Direction.NONE,
                confidence=Ratio(0.6),
                evidence=(Evidence("pods_on_nearly_empty_nodes", float(len(names)), "", Seconds(0.0), "kubernetes"),),
                subject=f"{namespace}/{owner}",
                patch=(
                    f"# kubectl annotate --overwrite --namespace={namespace} pod {listed} "
                    f"{DELETION_COST}={_LEAVES_FIRST}\n"
                    "metadata:\n"
                    "  annotations:\n"
                    f'    {DELETION_COST}: "{_LEAVES_FIRST}"\n'
                ),
                risk="Best effort: only ReplicaSets (Deployments) look at it, after pods that are not ready; "
                "StatefulSets, LeaderWorkerSets and Jobs do not. It is not kept by the pods that replace these; "
                "do not set it often",
                verification=f"kubectl get pods --namespace={namespace} --output=wide after the next scale-in",
                undo=f"kubectl annotate --namespace={namespace} pod {listed} {DELETION_COST}-"[:512],
            )
        )
    return found


def _leaving(nodes: Sequence[NodeFacts], plan: ConsolidationPlan) -> dict[tuple[str, str], list[PodFacts]]:
    """Replicas on nearly empty nodes, by namespace and owner; only of owners that also have pods elsewhere."""
    sparse = _sparse(nodes, plan)
    here: dict[tuple[str, str], list[PodFacts]] = defaultdict(list)
    elsewhere: set[tuple[str, str]] = set()
    for node in nodes:
        for pod in evictable(node):
            if pod.owner[0] != "ReplicaSet" or pod.gpus <= 0.0:
                continue
            key = (pod.namespace, pod.owner[1])
            if node.name in sparse:
                here[key].append(pod)
            else:
                elsewhere.add(key)
    kept = {key: sorted(pods, key=lambda pod: pod.name)[:_MOST_NAMED] for key, pods in here.items() if key in elsewhere}
    return dict(sorted(kept.items(), key=lambda item: (-len(item[1]), item[0]))[: _MOST_NAMED // 4])


def _sparse(nodes: Sequence[NodeFacts], plan: ConsolidationPlan) -> Collection[str]:
    """Nodes that could be emptied, or would be if there were room: those at most half full."""
    stuck = {
        refusal.node
        for refusal in plan.refusals
        if refusal.reason in (NodeReason.NO_ROOM, NodeReason.HEADROOM, NodeReason.DISRUPTION_BUDGET)
    }
    half = {node.name for node in nodes if 0.0 < sum(pod.gpus for pod in evictable(node)) <= node.gpus / 2.0}
    return {node.node for node in plan.freed} | (stuck & half)
