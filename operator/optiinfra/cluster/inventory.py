"""What is in the cluster, joined: pods, nodes, scalers and disruption budgets, mirrored and indexed.

Questions are answered from memory and never scan the cluster: pods are indexed by their labels and by their node,
scalers by their target. It covers the whole cluster, or a list of namespaces; then there are no nodes to see. It
refuses to answer before everything was listed once: an empty answer would look like an idle cluster.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from optiinfra.cluster.budgets import BudgetRecord, parse_budget
from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import Unavailable
from optiinfra.cluster.labels import Operator, Selector, parse_selector
from optiinfra.cluster.nodes import parse_node
from optiinfra.cluster.pods import PodRecord, parse_pod
from optiinfra.cluster.resource_slices import ResourceSlices
from optiinfra.cluster.scalers import ScalerRecord, parse_scaler
from optiinfra.cluster.volumes import Volumes
from optiinfra.cluster.watch import Reflector
from optiinfra.domain.agent_readings import PhysicalDevice
from optiinfra.domain.pod_rules import DisruptionBudget
from optiinfra.domain.workload import NodeFacts, PodFacts, ScalerFacts

_K = TypeVar("_K")

SILENT_AFTER_S = 120.0
"""A mirror hears something every 40 s, if only that its watch is over, and a dead connection is given up after 48 s;
the longest pause between two tries is 30 s. Who heard nothing for as long as all of them shows the past."""

_RUNNING = "status.phase!=Succeeded,status.phase!=Failed"
_NOT_INDEXED = frozenset(
    {
        # Nearly one value a pod: an index of them costs more than it saves.
        "pod-template-hash",
        "controller-revision-hash",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-name",
        "controller-uid",
        "job-name",
    }
)


class Inventory:
    """Mirrors and joins. `run()` goes on until cancelled; wait for `wait_synced` before asking."""

    def __init__(
        self,
        client: KubernetesClient,
        *,
        namespaces: Sequence[str] = (),
        pool_of: Callable[[Mapping[str, str]], str] | None = None,
        claims: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """No namespaces means the whole cluster. `pool_of` names the pool of a node from its labels.

        `claims` mirrors what DRA hands out too, where the server has it.
        """
        self._clock = clock
        self._pool_of = pool_of
        self._pods: dict[Key, PodRecord] = {}
        self._by_label: dict[tuple[str, str, str], set[Key]] = defaultdict(set)
        self._by_namespace: dict[str, set[Key]] = defaultdict(set)
        self._by_node: dict[str, set[Key]] = defaultdict(set)
        self._by_target: dict[tuple[str, str, str], dict[Key, ScalerFacts]] = defaultdict(dict)
        self._unplaced: set[Key] = set()
        self._nodes: dict[str, NodeFacts] = {}
        self._joined: dict[str, NodeFacts] = {}
        prefixes = [f"/namespaces/{namespace}" for namespace in namespaces] or [""]
        self._pod_mirrors = [
            Reflector(
                client,
                f"/api/v1{prefix}/pods",
                parse=parse_pod,
                on_change=self._pod_changed,
                field_selector=_RUNNING,
                clock=clock,
            )
            for prefix in prefixes
        ]
        self._scaler_mirrors = [
            Reflector(
                client,
                f"/apis/autoscaling/v2{prefix}/horizontalpodautoscalers",
                parse=parse_scaler,
                on_change=self._scaler_changed,
                clock=clock,
            )
            for prefix in prefixes
        ]
        self._budget_mirrors = [
            Reflector(
                client,
                f"/apis/policy/v1{prefix}/poddisruptionbudgets",
                parse=parse_budget,
                clock=clock,
            )
            for prefix in prefixes
        ]
        # Only plans for nodes ask for volumes, and only the whole cluster has nodes.
        self._volumes = None if namespaces else Volumes(client, on_change=self._joined.clear)
        self._slices = ResourceSlices(client, on_change=self._joined.clear) if claims and not namespaces else None
        self._node_mirrors = (
            []
            if namespaces
            else [Reflector(client, "/api/v1/nodes", parse=parse_node, on_change=self._node_changed, clock=clock)]
        )

    @property
    def _mirrors(
        self,
    ) -> list[Reflector[PodRecord] | Reflector[ScalerRecord] | Reflector[BudgetRecord] | Reflector[NodeFacts]]:
        return [*self._pod_mirrors, *self._scaler_mirrors, *self._budget_mirrors, *self._node_mirrors]

    async def run(self) -> None:
        """Mirror until cancelled."""
        async with asyncio.TaskGroup() as group:
            for mirror in self._mirrors:
                group.create_task(mirror.run(), name=f"mirror {mirror.path}")
            if self._volumes is not None:
                group.create_task(self._volumes.run(), name="mirror volumes")
            if self._slices is not None:
                group.create_task(self._slices.run(), name="mirror claims of devices")

    @property
    def synced(self) -> bool:
        """Whether everything was listed at least once."""
        return all(mirror.synced for mirror in self._mirrors)

    async def wait_synced(self) -> None:
        """Wait until everything was listed once; bound it with asyncio.timeout."""
        for mirror in self._mirrors:
            await mirror.wait_synced()

    def silent(self) -> tuple[str, ...]:
        """Return the paths of mirrors that the server tells nothing any more; none before all were listed once."""
        return _silent(self._mirrors, now=self._clock()) if self.synced else ()

    def blind(self, namespace: str) -> tuple[str, ...]:
        """Return those without which no count of this namespace may be decided: its pods, and what scales them."""
        deciding: tuple[Reflector[PodRecord] | Reflector[ScalerRecord], ...] = (
            *self._pod_mirrors,
            *self._scaler_mirrors,
        )
        own = [
            mirror
            for mirror in deciding
            if f"{mirror.path}/".partition("/namespaces/")[2].partition("/")[0] in {"", namespace}
        ]
        return _silent(own, now=self._clock())

    def blind_of_nodes(self) -> tuple[str, ...]:
        """Return those without which nothing of nodes may be decided: what runs there, and what may be moved.

        Volumes and devices are not among them: what these mirrors do not know keeps a pod where it is.
        """
        deciding: tuple[Reflector[NodeFacts] | Reflector[PodRecord] | Reflector[BudgetRecord], ...] = (
            *self._node_mirrors,
            *self._pod_mirrors,
            *self._budget_mirrors,
        )
        return _silent(deciding, now=self._clock()) if self._node_mirrors else ()

    def longest_pause(self) -> float:
        """Return for how many seconds the laziest mirror has not even tried to hear anything."""
        now = self._clock()
        return max(now - mirror.last_try for mirror in self._mirrors)

    def problems(self) -> tuple[str, ...]:
        """Say in words which mirrors fail now, and which objects could not be read (at most ten)."""
        failing = [f"{mirror.path}: {mirror.last_error}" for mirror in self._mirrors if mirror.last_error is not None]
        unreadable = [
            f"{mirror.path} {key}: {why}" for mirror in self._mirrors for key, why in list(mirror.rejected.items())[:10]
        ]
        volumes = self._volumes.problems() if self._volumes is not None else ()
        slices = self._slices.problems() if self._slices is not None else ()
        return (*failing, *volumes, *slices, *unreadable[:10])

    def pods_of(self, namespace: str, selector: str) -> tuple[PodFacts, ...]:
        """Return the pods that a label selector picks, by name. An empty selector picks none: it is no answer."""
        self._demand_synced()
        parsed = parse_selector(selector)
        if not parsed.requirements:
            return ()
        keys = [key for key in self._candidates(namespace, parsed) if parsed.matches(self._pods[key].labels)]
        return tuple(self._facts(self._pods[key]) for key in sorted(keys))

    def pod(self, namespace: str, name: str) -> PodFacts | None:
        """Return one pod."""
        self._demand_synced()
        record = self._pods.get(Key(namespace, name))
        return None if record is None else self._facts(record)

    def pod_labels(self, namespace: str, name: str) -> Mapping[str, str]:
        """Return the labels of one pod; empty when it is not there."""
        record = self._pods.get(Key(namespace, name))
        return {} if record is None else record.labels

    def nodes(self) -> Mapping[str, NodeFacts]:
        """Return all nodes with the pods on them; empty in scope Namespaces. Do not change it."""
        self._demand_synced()
        for name, node in self._nodes.items():
            if name not in self._joined:
                pods = tuple(self._facts(self._pods[key]) for key in sorted(self._by_node.get(name, ())))
                pool = self._pool_of(node.labels) if self._pool_of is not None else ""
                offered = node if self._slices is None else self._slices.joined_node(node)
                self._joined[name] = replace(offered, pods=pods, pool=pool)
        return dict(self._joined)

    def unplaced(self) -> tuple[PodFacts, ...]:
        """Return the pods that have no node yet, by namespace and name; those that go away are left out."""
        self._demand_synced()
        waiting = (self._pods[key] for key in sorted(self._unplaced))
        return tuple(self._facts(record) for record in waiting if not record.facts.terminating)

    def budgets(self) -> tuple[DisruptionBudget, ...]:
        """Return all disruption budgets that cover any pod, by namespace and name."""
        self._demand_synced()
        found = ((key, record.budget) for mirror in self._budget_mirrors for key, record in mirror.items.items())
        return tuple(budget for _, budget in sorted(found, key=lambda one: one[0]) if budget is not None)

    def scalers_of(self, namespace: str, kind: str, name: str) -> tuple[ScalerFacts, ...]:
        """Return the HPAs that target a workload, by name."""
        self._demand_synced()
        found = self._by_target.get((namespace, kind, name), {})
        return tuple(found[key] for key in sorted(found))

    def scaler(self, namespace: str, name: str) -> ScalerRecord | None:
        """Return one HPA and its target."""
        self._demand_synced()
        key = Key(namespace, name)
        return next((mirror.items[key] for mirror in self._scaler_mirrors if key in mirror.items), None)

    def held_scalers(self) -> tuple[ScalerRecord, ...]:
        """Return all HPAs that carry our label: the sweep releases those without a living object."""
        self._demand_synced()
        return tuple(record for mirror in self._scaler_mirrors for record in mirror.items.values() if record.facts.held)

    def _demand_synced(self) -> None:
        if not self.synced:
            missing = ", ".join(mirror.path for mirror in self._mirrors if not mirror.synced)
            raise Unavailable(f"not everything was listed yet: {missing}")

    def _candidates(self, namespace: str, selector: Selector) -> set[Key]:
        best = self._by_namespace.get(namespace, set())
        for requirement in selector.requirements:
            if requirement.operator is Operator.IN and requirement.key not in _NOT_INDEXED:
                sets = [self._by_label.get((namespace, requirement.key, value), set()) for value in requirement.values]
                found = sets[0] if len(sets) == 1 else set().union(*sets)
                best = min(best, found, key=len)
        return best

    def _facts(self, record: PodRecord) -> PodFacts:
        facts = record.facts if self._slices is None else self._slices.joined(record.facts)
        if self._volumes is None or not facts.claims:
            return facts
        return self._volumes.joined(record.key.namespace, facts)

    def device(self, driver: str, pool: str, name: str) -> PhysicalDevice | None:
        """Return the GPU that a device claimed by DRA is; None where that is not known."""
        return None if self._slices is None else self._slices.device(driver, pool, name)

    def _pod_changed(self, key: Key, old: PodRecord | None, new: PodRecord | None) -> None:
        if old is not None:
            self._unindex(key, old)
        if new is not None:
            self._pods[key] = new
            self._by_namespace[key.namespace].add(key)
            for label, value in new.labels.items():
                if label not in _NOT_INDEXED:
                    self._by_label[key.namespace, label, value].add(key)
            if new.facts.node:
                self._by_node[new.facts.node].add(key)
                self._joined.pop(new.facts.node, None)
            else:
                self._unplaced.add(key)

    def _unindex(self, key: Key, old: PodRecord) -> None:
        self._pods.pop(key, None)
        _discard(self._by_namespace, key.namespace, key)
        for label, value in old.labels.items():
            _discard(self._by_label, (key.namespace, label, value), key)
        if old.facts.node:
            _discard(self._by_node, old.facts.node, key)
            self._joined.pop(old.facts.node, None)
        self._unplaced.discard(key)

    def _node_changed(self, key: Key, _old: NodeFacts | None, new: NodeFacts | None) -> None:
        self._joined.pop(key.name, None)
        if new is None:
            self._nodes.pop(key.name, None)
        else:
            self._nodes[key.name] = new

    def _scaler_changed(self, key: Key, old: ScalerRecord | None, new: ScalerRecord | None) -> None:
        if old is not None:
            target = (key.namespace, old.target_kind, old.target_name)
            self._by_target[target].pop(key, None)
            if not self._by_target[target]:
                del self._by_target[target]
        if new is not None:
            self._by_target[key.namespace, new.target_kind, new.target_name][key] = new.facts


def _silent(mirrors: Sequence[Reflector[Any]], *, now: float) -> tuple[str, ...]:
    heard = ((mirror.path, mirror.last_activity) for mirror in mirrors)
    return tuple(path for path, moment in heard if moment is not None and now - moment > SILENT_AFTER_S)


def _discard(index: dict[_K, set[Key]], entry: _K, key: Key) -> None:
    members = index.get(entry)
    if members is not None:
        members.discard(key)
        if not members:
            del index[entry]
