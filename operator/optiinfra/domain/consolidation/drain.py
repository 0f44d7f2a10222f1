"""The drain planner: nodes are emptied one after the other, each pod of them gets a place first, or the node stays.

Candidates are tried in the order of what they would cost: those that were emptyable before, then the emptiest, then
the cheapest to move. Pods go first to nodes that stay anyway. A node that receives pods is not emptied after, no pod
moves twice, and nothing is placed on a node that is to be emptied. The order of the plan is the order in which it was
tried, so each step holds at its turn: room, affinity and spread are judged with what was moved before and what was
not yet. Everything is taken back where a node cannot be emptied whole.

It knows the hard rules of kube-scheduler and the eviction API; `permits` and `terrain` say which. Whoever carries a
plan out evicts through the eviction API and lets the scheduler place: those have the last word.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from optiinfra.domain.consolidation.inputs import ClusterFacts, DrainPolicy, counts, evictable, problems, stays
from optiinfra.domain.consolidation.neighbours import Neighbours
from optiinfra.domain.consolidation.permits import Permits, group_key
from optiinfra.domain.consolidation.price import Price, is_warm, price_of
from optiinfra.domain.consolidation.results import (
    ConsolidationPlan,
    DataProblem,
    FreedNode,
    Move,
    NodeReason,
    NodeRefusal,
    PodReason,
    PodRefusal,
)
from optiinfra.domain.consolidation.room import Place, Room
from optiinfra.domain.consolidation.terrain import BoolArray, Terrain
from optiinfra.domain.pod_rules import Taint
from optiinfra.domain.units import Gpus, UnixTime
from optiinfra.domain.workload import NodeFacts, PodFacts

_REMOVING: Final = frozenset({
    "ToBeDeletedByClusterAutoscaler", "DeletionCandidateOfClusterAutoscaler", "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
})  # fmt: skip
_CONTROL_PLANE: Final = frozenset({"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"})
_MOST_NAMED: Final = 8
_STATEFUL: Final = "StatefulSet"


def plan(cluster: ClusterFacts, policy: DrainPolicy, *, now: UnixTime) -> ConsolidationPlan:
    """Plan which nodes to empty. Candidates are nodes with GPUs, and all nodes of a named pool."""
    doubts = problems(cluster)
    if any(not problem.node for problem in doubts):
        return ConsolidationPlan(time=now, problems=doubts)
    return _Planner(cluster, policy, doubts, now=now).run()


@dataclass(slots=True)
class _Trial:
    """What was done for one node, in order, so that it can be undone."""

    used: Counter[tuple[str, str]]
    removed: list[tuple[PodFacts, Place]] = field(default_factory=list)
    placed: list[tuple[PodFacts, Place]] = field(default_factory=list)
    log: list[tuple[bool, PodFacts, Place]] = field(default_factory=list)
    """True: placed, False: removed."""


class _Planner:
    """The state of one planning: arrays that change as pods are moved."""

    def __init__(
        self, cluster: ClusterFacts, policy: DrainPolicy, doubts: Sequence[DataProblem], *, now: UnixTime
    ) -> None:
        self._policy = policy
        self._now = now
        # A DaemonSet's pod that waits is for one node, which it does not hold either.
        waiting = (pod for pod in cluster.waiting if not stays(pod))
        self._waiting = sorted(waiting, key=lambda p: (-p.priority, p.created, p.namespace, p.name))
        self._terrain = Terrain(cluster.nodes)
        self._nodes = self._terrain.nodes
        self._permits = Permits(cluster, now=now)
        self._doubtful = {problem.node: problem.message for problem in doubts}
        self._room = Room(self._nodes, cluster.waiting, doubtful=self._doubtful)
        self._problems = list(doubts)
        size = len(self._nodes)
        self._open: BoolArray = np.ones(size, dtype=np.bool_)
        self._emptied: BoolArray = np.zeros(size, dtype=np.bool_)
        self._receives: dict[int, str] = {}
        """Nodes that get pods, and a word on whose."""
        self._keeps: BoolArray = np.zeros(size, dtype=np.bool_)
        """Nodes that stay for sure: pods go there first."""
        self._places: dict[str, Place] = {}
        """Where the pods are now, by uid; without those of nodes in doubt."""
        self._moved: set[str] = set()
        everybody = [pod for node in self._nodes for pod in node.pods if counts(pod)]
        self._neighbours = Neighbours(self._terrain, (*everybody, *cluster.waiting))
        self._lowest: dict[tuple[str, str], int] = {}
        """Of each StatefulSet, the lowest ordinal that is moved so far."""
        self._freed: list[FreedNode] = []
        self._moves: list[Move] = []
        self._refusals: dict[int, NodeRefusal] = {}
        self._reserved: dict[str, str] = {}
        self._step = 0
        for index, node in enumerate(self._nodes):
            self._settle(index, node)

    def _settle(self, index: int, node: NodeFacts) -> None:
        for pod in node.pods:
            if counts(pod):
                self._neighbours.add(pod, index)
        places = None if node.name in self._doubtful else self._room.settle(index)
        if places is None and node.name not in self._doubtful:
            text = f"node {node.name}: its pods do not fit together on its GPUs, CPU, memory and pod slots"
            self._doubtful[node.name] = text
            self._problems.append(DataProblem(node.name, text))
        self._places.update(places or {})
        # A node with a GPU that is not well may be emptied, and gets nothing.
        if places is None or not node.ready or node.unschedulable or node.troubles or _removing(node) is not None:
            self._open[index] = False

    def run(self) -> ConsolidationPlan:
        """Reserve room for pods that wait, then empty what can be emptied."""
        self._reserve()
        candidates: list[tuple[tuple[object, ...], int]] = []
        for index, node in enumerate(self._nodes):
            if not (node.gpus > 0.0 or node.pool) or _CONTROL_PLANE & node.labels.keys():
                self._keeps[index] = True
                continue
            refusal = self._standing_refusal(index, node)
            if refusal is not None:
                self._refuse(index, refusal)
            else:
                candidates.append((self._order(index, node), index))
        for _, index in sorted(candidates):
            refusal = self._empty(index)
            if refusal is not None:
                self._refuse(index, refusal)
        return ConsolidationPlan(
            time=self._now,
            freed=tuple(self._freed),
            moves=tuple(self._moves),
            refusals=tuple(self._refusals[index] for index in sorted(self._refusals)),
            problems=tuple(self._problems),
            reserved=self._reserved,
        )

    def _refuse(self, index: int, refusal: NodeRefusal) -> None:
        self._refusals[index] = refusal
        self._keeps[index] = True

    def _reserve(self) -> None:
        """Leave the room that waiting pods would take: consolidation never takes a place from those who need it."""
        for pod in self._waiting:
            request = self._room.request(pod)
            allowed = self._allowed(pod, self._terrain.own_rules(pod), certain=False)
            nominated = self._terrain.index.get(pod.nominated)
            if nominated is not None:
                self._receives[nominated] = "a pod that preempts others is to start here"
            choice = self._room.placer.choose(request, allowed)
            if choice is None:
                continue
            self._room.put(pod, choice.node, choice.devices)
            self._neighbours.expect(pod, choice.node)
            name = f"{pod.namespace}/{pod.name}"
            self._receives[choice.node] = f"waiting pod {name} can start here"
            self._reserved[name] = self._nodes[choice.node].name

    def _allowed(self, pod: PodFacts, rules: BoolArray, *, certain: bool = True) -> BoolArray:
        allowed = self._open & rules
        named = self._room.has_named(pod, certain=certain)
        if named is not None:
            allowed &= named
        near = self._neighbours.allowed(pod, self._emptied)
        return allowed if near is None else allowed & near

    def _order(self, index: int, node: NodeFacts) -> tuple[object, ...]:
        pods = evictable(node)
        core = self._room.core
        used = 1.0 - float(np.maximum(core.free_gpu[index], 0).sum()) / (1000.0 * node.gpus) if node.gpus else 0.0
        price = price_of(((pod, index) for pod in pods), room=self._room, permits=self._permits)
        stood = self._policy.standing.get(node.name)
        turn = 2 if stood is None else (0 if stood >= self._policy.window else 1)
        return (turn, used, round(price.node_hours, 6), len(pods), node.name)

    def _standing_refusal(self, index: int, node: NodeFacts) -> NodeRefusal | None:
        """Say what forbids to empty a node whatever else is planned."""
        if node.name in self._doubtful:
            return NodeRefusal(node.name, NodeReason.INVALID_DATA, self._doubtful[node.name])
        if not node.ready:
            return NodeRefusal(node.name, NodeReason.NOT_READY, "the node is not ready")
        if node.unschedulable:
            return NodeRefusal(node.name, NodeReason.UNSCHEDULABLE, "the node is cordoned already")
        taint = _removing(node)
        if taint is not None:
            return NodeRefusal(node.name, NodeReason.UNSCHEDULABLE, f"taint {taint.key}: an autoscaler removes it")
        if node.protection:
            return NodeRefusal(node.name, NodeReason.PROTECTED, f"annotation {node.protection} on the node")
        leaving = [pod for pod in evictable(node) if pod.terminating]
        if leaving:
            text = f"{len(leaving)} pods are terminating, such as {leaving[0].namespace}/{leaving[0].name}"
            return NodeRefusal(node.name, NodeReason.TERMINATING_PODS, text)
        held = [refusal for pod in evictable(node) if (refusal := self._permits.refusal(pod)) is not None]
        if held:
            grouped = all(one.reason in (PodReason.BLOCKED_GROUP, PodReason.INCOMPLETE_GROUP) for one in held)
            reason = NodeReason.POD_GROUP if grouped else NodeReason.BLOCKED_PODS
            text = f"{len(held)} pods may not move, such as {held[0]}"
            return NodeRefusal(node.name, reason, text, tuple(held[:_MOST_NAMED]))
        if index in self._receives:
            return NodeRefusal(node.name, NodeReason.RECEIVES_PODS, self._receives[index])
        return None

    def _empty(self, index: int) -> NodeRefusal | None:
        """Find a place for all pods of a node and take it out; or leave everything as it was and say why."""
        node = self._nodes[index]
        if index in self._receives:
            return NodeRefusal(node.name, NodeReason.RECEIVES_PODS, self._receives[index])
        steps = self._steps(node)
        pods = [pod for step in steps for pod in step]
        astray = next((pod for pod in pods if pod.uid not in self._places), None)
        if astray is not None:
            text = f"{astray.namespace}/{astray.name} of a group is on a node that is left out of the plan"
            return NodeRefusal(node.name, NodeReason.POD_GROUP, text)
        left = self._policy.max_moves - len(self._moves)
        if len(pods) > left:
            return NodeRefusal(node.name, NodeReason.MAX_MOVES, f"{len(pods)} pods to move, {max(0, left)} moves left")
        disorder = self._disorder(steps)
        if disorder is not None:
            return NodeRefusal(node.name, NodeReason.STATEFUL_ORDER, str(disorder), (disorder,))
        used = self._permits.take(pods)
        if isinstance(used, PodRefusal):
            return NodeRefusal(node.name, NodeReason.DISRUPTION_BUDGET, str(used), (used,))
        sources = ((pod, self._places[pod.uid].placement.node) for pod in pods)
        price = price_of(sources, room=self._room, permits=self._permits)
        trial = _Trial(used)
        self._open[index] = False
        self._emptied[index] = True
        refusal = self._try(index, steps, trial)
        if refusal is None:
            refusal = self._headroom(index)
        if refusal is not None:
            self._undo(index, trial)
            return refusal
        self._accept(index, steps, trial, price)
        return None

    def _steps(self, node: NodeFacts) -> list[list[PodFacts]]:
        """Pods to move, step by step: the highest priority and the largest first, each group at once."""
        pods = sorted(
            (pod for pod in evictable(node) if pod.uid not in self._moved),
            key=lambda p: (-p.priority, -p.gpus, -p.memory_request_bytes, p.namespace, p.owner, -_ordinal(p), p.name),
        )
        steps: list[list[PodFacts]] = []
        seen: set[tuple[str, str, str]] = set()
        for pod in pods:
            key = group_key(pod)
            if key is None:
                steps.append([pod])
            elif key not in seen:
                seen.add(key)
                steps.append(sorted(self._permits.group(pod), key=lambda p: (-p.gpus, p.name)))
        return _descending(steps)

    def _disorder(self, steps: Sequence[Sequence[PodFacts]]) -> PodRefusal | None:
        """Return a StatefulSet's pod whose turn has passed: a lower ordinal is moved before it."""
        for pod, *others in steps:
            if others or not _is_stateful(pod):
                continue
            lowest = self._lowest.get((pod.namespace, pod.owner[1]))
            if lowest is not None and _ordinal(pod) > lowest:
                text = f"ordinal {lowest} of its StatefulSet is to move before it; higher ones go first"
                return PodRefusal(pod.namespace, pod.name, PodReason.STATEFUL_ORDER, text)
        return None

    def _try(self, index: int, steps: Sequence[Sequence[PodFacts]], trial: _Trial) -> NodeRefusal | None:
        for step in steps:
            for pod in step:
                self._take_away(pod, trial)
            for pod in step:
                failed = self._put_elsewhere(pod, trial)
                if failed:
                    return NodeRefusal(self._nodes[index].name, NodeReason.NO_ROOM, failed)
        return None

    def _take_away(self, pod: PodFacts, trial: _Trial) -> None:
        place = self._places.pop(pod.uid)
        self._room.remove(place)
        self._neighbours.add(pod, place.placement.node, -1)
        trial.removed.append((pod, place))
        trial.log.append((False, pod, place))

    def _put_elsewhere(self, pod: PodFacts, trial: _Trial) -> str:
        """Place a pod and return nothing, or say why it has no place."""
        source = next(place.placement.node for moved, place in trial.removed if moved is pod)
        alike = self._terrain.alike(source, gpus=pod.gpus > 0.0)
        allowed = self._allowed(pod, self._terrain.own_rules(pod) & alike)
        request = self._room.request(pod)
        choice = self._room.placer.choose(request, allowed & self._keeps) or self._room.placer.choose(request, allowed)
        if choice is None:
            why = self._room.placer.why_not(request, allowed)
            return (
                f"no other node has room for {pod.namespace}/{pod.name} ({pod.gpus:g} GPUs, "
                f"{pod.cpu_request_cores:g} cores, {pod.memory_request_bytes / 2**30:.1f} GiB): {why}"
            )
        place = self._room.put(pod, choice.node, choice.devices)
        self._neighbours.add(pod, choice.node)
        trial.placed.append((pod, place))
        trial.log.append((True, pod, place))
        return ""

    def _undo(self, index: int, trial: _Trial) -> None:
        for placed, pod, place in reversed(trial.log):
            if placed:
                self._room.remove(place)
                self._neighbours.add(pod, place.placement.node, -1)
            else:
                self._room.restore(place)
                self._neighbours.add(pod, place.placement.node)
                self._places[pod.uid] = place
        self._permits.give_back(trial.used)
        self._open[index] = True
        self._emptied[index] = False

    def _headroom(self, index: int) -> NodeRefusal | None:
        node = self._nodes[index]
        if self._policy.headroom <= 0.0:
            return None
        remaining = self._terrain.alike(index, gpus=node.gpus > 0.0) & self._open
        short = self._room.too_full(remaining, self._policy.headroom)
        return NodeRefusal(node.name, NodeReason.HEADROOM, short) if short else None

    def _accept(self, index: int, steps: Sequence[Sequence[PodFacts]], trial: _Trial, price: Price) -> None:
        node = self._nodes[index]
        sources = {pod.uid: place.placement.node for pod, place in trial.removed}
        targets = {pod.uid: place for pod, place in trial.placed}
        self._places.update(targets)
        self._moved.update(targets)
        for step in steps:
            self._step += 1
            for pod in step:
                target = targets[pod.uid].placement.node
                group = f"{pod.group.kind}/{pod.group.name}" if pod.group is not None else ""
                self._receives.setdefault(target, "pods of emptier nodes are to move here")
                self._keeps[target] = True
                if _is_stateful(pod):
                    self._lowest[pod.namespace, pod.owner[1]] = _ordinal(pod)
                self._moves.append(
                    Move(
                        namespace=pod.namespace,
                        pod=pod.name,
                        pod_uid=pod.uid,
                        source=self._nodes[sources[pod.uid]].name,
                        target=self._nodes[target].name,
                        gpus=Gpus(pod.gpus),
                        step=self._step,
                        unready=self._permits.start_up(pod),
                        group=group,
                        warm=is_warm(pod),
                    )
                )
        self._freed.append(
            FreedNode(
                node=node.name,
                pool=node.pool,
                gpu_model=node.gpu_model,
                gpus=Gpus(node.gpus),
                moves=len(trial.placed),
                cpu_cores=node.cpu_cores,
                memory_bytes=node.memory_bytes,
                price=price.node_hours,
                unready=price.unready,
                unmeasured=price.unmeasured,
                warm=price.warm,
                alone=price.alone,
            )
        )


def _removing(node: NodeFacts) -> Taint | None:
    return next((taint for taint in node.taints if taint.key in _REMOVING), None)


def _is_stateful(pod: PodFacts) -> bool:
    return pod.owner[0] == _STATEFUL and pod.group is None


def _ordinal(pod: PodFacts) -> int:
    """The number that a StatefulSet gave its pod; -1 where there is none."""
    number = pod.name.rpartition("-")[2]
    return int(number) if pod.owner[0] == _STATEFUL and number.isascii() and number.isdigit() else -1


def _descending(steps: list[list[PodFacts]]) -> list[list[PodFacts]]:
    """Let each StatefulSet's pods take their turns from the highest ordinal down, whatever their sizes."""
    turns: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, step in enumerate(steps):
        if len(step) == 1 and _is_stateful(step[0]):
            turns[step[0].namespace, step[0].owner[1]].append(number)
    ordered = list(steps)
    for places in turns.values():
        for place, step in zip(places, sorted((steps[n] for n in places), key=lambda s: -_ordinal(s[0])), strict=True):
            ordered[place] = step
    return ordered
