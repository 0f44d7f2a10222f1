"""The round's first step: put together what is known of each object. Snapshots only; the network is never waited for.

What is missing becomes a `Problem` of its object with the reason that a person needs, and ends the matter for that
object in this round. Which HPA drives a target is settled here too: none, one, or too many.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from optiinfra.api.conversion import INTERVAL, effective
from optiinfra.api.reasons import Reason
from optiinfra.api.settings import Settings, Target
from optiinfra.api.v1alpha1 import ClusterResourceOptimization, ResourceOptimization
from optiinfra.api.v1alpha1.cluster_resource_optimization import Pool
from optiinfra.api.v1alpha1.scaling import Actuation, ScalerKind
from optiinfra.cluster.errors import Absent, ClusterError, Invalid, TargetWithoutScale
from optiinfra.cluster.targets import TargetFacts
from optiinfra.control import approvals, gpu_health, past_taking
from optiinfra.control.claims import Claim, Claims
from optiinfra.control.consolidation import serving_of, with_gpu_model
from optiinfra.control.fleet import survey
from optiinfra.control.idle_gpus import engines_of, services_of
from optiinfra.control.keys import ObjectKey
from optiinfra.control.kv_optkit import PlanBoard
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.model_files import ModelFileTable
from optiinfra.control.prices import PriceBoard
from optiinfra.control.registry import DRY_RUN_ANNOTATION, Broken, Registry
from optiinfra.control.sizing import hear
from optiinfra.control.sizing_rules import SizingRulesTable
from optiinfra.control.snapshots import SnapshotStore
from optiinfra.control.targets import TargetTable
from optiinfra.control.usage import UsageTable
from optiinfra.control.work import BrokenWork, ClusterWork, LeftWork, Problem, ServiceWork, TargetWork, Work
from optiinfra.domain import groups
from optiinfra.domain.cost import PriceList
from optiinfra.domain.gpu_health import HealthMemory
from optiinfra.domain.history import DEFAULT_STEP
from optiinfra.domain.list_prices import CURRENCY
from optiinfra.domain.pod_rules import DisruptionBudget
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import NodeFacts, PodFacts, ScalerFacts, WorkloadFacts


class ClusterView(Protocol):
    """The mirrored part of the cluster; `optiinfra.cluster.inventory` is the real one."""

    def pods_of(self, namespace: str, selector: str) -> tuple[PodFacts, ...]:
        """Pods of a namespace that a label selector picks."""

    def nodes(self) -> Mapping[str, NodeFacts]:
        """All nodes with their pods; empty with scope Namespaces."""

    def unplaced(self) -> tuple[PodFacts, ...]:
        """Pods that have no node yet."""

    def budgets(self) -> tuple[DisruptionBudget, ...]:
        """All disruption budgets."""

    def blind(self, namespace: str) -> tuple[str, ...]:
        """Paths of collections that this namespace's counts rest on, and of which nothing is heard any more."""

    def blind_of_nodes(self) -> tuple[str, ...]:
        """The same of what is decided about nodes."""

    def scalers_of(self, namespace: str, kind: str, name: str) -> tuple[ScalerFacts, ...]:
        """HPAs that target a workload."""


@dataclass(frozen=True, slots=True)
class Collector:
    """Builds the work of a round from what is known."""

    registry: Registry
    memories: dict[ObjectKey, ObjectMemory]
    cluster: ClusterView
    targets: TargetTable
    snapshots: SnapshotStore
    usage: UsageTable
    sizing_rules: SizingRulesTable
    plans: PlanBoard
    model_files: ModelFileTable
    clock: Callable[[], float]
    prices: PriceBoard
    health: HealthMemory = field(default_factory=HealthMemory)
    """When GPUs were seen to fall ill."""
    silences: Mapping[ObjectKey, Problem] = field(default_factory=dict)
    """Objects whose engines a metrics server does not tell of, and why."""
    claims: Claims = field(default_factory=Claims)
    """Which objects are ours, where several operators see them."""

    def collect(self, work: Work) -> Work:
        """Fill in services, clusters and broken objects."""
        work.at = UnixTime(self.clock())
        work.nodes = self._nodes()
        cluster = next((known for _, known in self.registry.clusters()), None)
        priced = self.prices.price(work.nodes, cluster.spec if cluster else None)
        work.prices, work.node_prices = priced.pools, priced.nodes
        for key in work.keys:
            known = self.registry.get(key)
            if known is None or known.metadata.deleting:
                work.gone.append(key)
            elif isinstance(known, Broken):
                work.broken.append(BrokenWork(key, known))
            elif isinstance(known, ResourceOptimization):
                work.services.append(self._service(key, known, cluster, work))
            else:
                claim = self.claims.judge(key, known.status, interval=_cluster_interval(known))
                if claim.yields:
                    work.left.append(LeftWork(key, known, claim))
                else:
                    work.clusters.append(self._cluster(key, known, work.nodes, claim))
        work.fleet = survey(work, self.registry, self.memories, self.cluster.budgets)
        return work

    def _nodes(self) -> dict[str, NodeFacts]:
        pools = [pool for _, known in self.registry.clusters() for pool in known.spec.pools]
        joined: dict[str, NodeFacts] = {}
        for name, node in self.cluster.nodes().items():
            readings, error = self.snapshots.agent(name)
            known = dataclasses.replace(node, pool=_pool_of(node, pools), agent=readings, agent_error=error)
            stated = next((pool.gpu_model for pool in pools if pool.name == known.pool), "")
            joined[name] = with_gpu_model(known, stated)
        gpu_health.mark(joined, self.health, now=UnixTime(self.clock()))
        return joined

    def _service(
        self, key: ObjectKey, obj: ResourceOptimization, cluster: ClusterResourceOptimization | None, work: Work
    ) -> ServiceWork:
        memory = self.memories.setdefault(key, ObjectMemory())
        settings = effective(obj.spec, cluster.spec.defaults if cluster else None)
        pool = obj.spec.pool_ref.name if obj.spec.pool_ref else ""
        service = ServiceWork(
            key=key,
            obj=obj,
            settings=settings,
            memory=memory,
            prices=work.prices.get(pool, work.prices[""]),
            currency=str(cluster.spec.currency) if cluster else CURRENCY,
            targets=[
                TargetWork(target=target, memory=memory.target(target.name, step=_step(settings)))
                for target in settings.targets
            ],
            notes=self.plans.notes(),
            model_file=self.model_files.of(key.namespace, obj.spec.model.config_map_ref),
            resizes=obj.status.resizes,
            silence=self.silences.get(key),
            dry_run=obj.metadata.annotations.get(DRY_RUN_ANNOTATION) == "true" or key in work.previews,
        )
        service.claim = self.claims.judge(key, obj.status, interval=settings.interval)
        if service.claim.yields:
            service.problem = Problem(Reason.OTHER_OPERATOR, f"operator {service.claim.holder} looks after it")
            for target in service.targets:
                target.problem = service.problem
            return service
        approvals.read(service, now=UnixTime(self.clock()))
        for target in service.targets:
            self._fill(service, target)
            target.lost = _lost_nodes(target, work.nodes)
        if not pool:
            service.prices = _prices_of_pods(service, work)
        first = next((target.problem for target in service.targets if target.problem is not None), None)
        if all(target.problem is not None for target in service.targets):
            service.problem = first
        return service

    def _fill(self, service: ServiceWork, work: TargetWork) -> None:
        key, target = service.key, work.target
        acting = self.registry.acting(key, target.target_ref)
        if acting != key:
            work.problem = Problem(
                Reason.CONFLICT, f"{acting} is older and acts on {_name(target)}; delete one of them"
            )
            return
        known = self.targets.get(key.namespace, target.target_ref)
        if known is None or (known.facts is None and known.error is None):
            work.problem = Problem(Reason.COLLECTING, f"{_name(target)} is being read")
            return
        if known.error is not None:
            work.problem = target_problem(target, known.error)
            return
        assert known.facts is not None
        if (blind := _blindness(self.cluster.blind(key.namespace))) is not None:
            work.problem = blind
            return
        try:
            pods = self.cluster.pods_of(key.namespace, known.facts.selector) if known.facts.selector else ()
        except ClusterError as error:  # a selector that cannot be used is this object's problem, not the round's
            work.problem = target_problem(target, error)
            return
        work.scalers = self.cluster.scalers_of(key.namespace, known.facts.kind, known.facts.name)
        scaler, problem = choose_scaler(target, work.scalers)
        past_taking.take(work.memory)
        uids = {pod.name: pod.uid for pod in pods}
        work.facts = _facts(known.facts, pods, scaler, self.snapshots, uids)
        work.problem = problem or _no_container(service.obj, work.facts)
        if service.obj.spec.right_sizing.enabled:
            self._hear_use(service, work)

    def _hear_use(self, service: ServiceWork, work: TargetWork) -> None:
        """Take what was measured of a target's containers since its last round."""
        assert work.facts is not None
        key, name = service.key, work.target.name
        hear(work.memory, self.usage.take(key, name), work.facts.pods, now=UnixTime(self.clock()))
        fault = self.usage.fault(key, name)
        work.busiest, work.busiest_source = self.usage.busiest(key, name), self.usage.source(key, name)
        work.usage_unknown = self.usage.unknown.get(key.namespace)
        work.usage_fault = fault.text if fault is not None else ""
        work.sizing_rules = self.sizing_rules.of(key.namespace)

    def _cluster(
        self, key: ObjectKey, obj: ClusterResourceOptimization, nodes: Mapping[str, NodeFacts], claim: Claim
    ) -> ClusterWork:
        memory = self.memories.setdefault(key, ObjectMemory())
        priced = self.prices.price(nodes, obj.spec)
        services = services_of(self.registry.services())
        return ClusterWork(
            key=key,
            obj=obj,
            memory=memory,
            nodes=nodes,
            prices=priced.pools,
            node_prices=priced.nodes,
            waiting=self.cluster.unplaced(),
            budgets=self.cluster.budgets(),
            serving=serving_of(nodes.values(), self.snapshots, now=UnixTime(self.clock())),
            services=services,
            told_by={name: source for name in nodes if (source := self.snapshots.source(name))},
            engines=engines_of(nodes.values(), self.snapshots, services, now=UnixTime(self.clock())),
            claim=claim,
            problem=_blindness(self.cluster.blind_of_nodes()),
        )


def _blindness(silent: Sequence[str]) -> Problem | None:
    """Say what the API server tells nothing of any more; None while everything is heard."""
    if not silent:
        return None
    text = f"the API server has told nothing of {', '.join(silent)} for two minutes; nothing is decided on the past"
    return Problem(Reason.API_ERROR, text)


def _cluster_interval(obj: ClusterResourceOptimization) -> float:
    interval = obj.spec.defaults.interval
    return interval.seconds if interval is not None else INTERVAL


def _step(settings: Settings) -> Seconds:
    """Step of a new history: as fine as the rounds, between 5 s and the usual 15 s."""
    return Seconds(min(max(settings.interval, 5.0), DEFAULT_STEP))


def _name(target: Target) -> str:
    return f"{target.target_ref.kind}/{target.target_ref.name}"


def _pool_of(node: NodeFacts, pools: list[Pool]) -> str:
    for pool in pools:
        if all(node.labels.get(key) == value for key, value in pool.node_selector.items()):
            return pool.name
    return ""


def _lost_nodes(target: TargetWork, nodes: Mapping[str, NodeFacts]) -> tuple[str, ...]:
    """Return the nodes of a target's pods that are known not to be ready, by name."""
    names = {pod.node for pod in target.facts.pods if pod.node} if target.facts is not None else set()
    return tuple(sorted(name for name in names if name in nodes and not nodes[name].ready))


def _prices_of_pods(service: ServiceWork, work: Work) -> PriceList:
    """Prices of the one pool that all its pods run in; those of no pool where there are several, or none yet."""
    names = {pod.node for target in service.targets if target.facts for pod in target.facts.pods if pod.node}
    pools = {work.nodes[name].pool for name in names if name in work.nodes}
    return work.prices.get(pools.pop(), work.prices[""]) if len(pools) == 1 else work.prices[""]


def target_problem(target: Target, error: ClusterError) -> Problem:
    """Say what an error in reading the target means to the person who named it."""
    if isinstance(error, TargetWithoutScale):
        return Problem(
            Reason.TARGET_WITHOUT_SCALE,
            f"{_name(target)} has no scale subresource; point targetRef at the object that owns the pods",
            stalled=True,
        )
    if isinstance(error, Absent):
        return Problem(
            Reason.TARGET_NOT_FOUND,
            f"{_name(target)} does not exist; create it, or name the right one in a new object",
            stalled=True,
        )
    if isinstance(error, Invalid):
        return Problem(Reason.INVALID_SPEC, str(error), stalled=True)
    return Problem(Reason.API_ERROR, f"{_name(target)} could not be read: {error}")


def _no_container(obj: ResourceOptimization, facts: WorkloadFacts) -> Problem | None:
    """Say that the container which the object names is in none of the pods; None where it is, or nobody knows yet."""
    named = str(obj.spec.engine.container_name)
    there = sorted({one.name for pod in facts.pods for one in pod.containers})
    if not named or not there or named in there:
        return None
    text = f"spec.engine.containerName: no pod has a container {named}; they have {', '.join(there[:8])}"
    return Problem(Reason.INVALID_SPEC, text)


def choose_scaler(target: Target, scalers: tuple[ScalerFacts, ...]) -> tuple[ScalerFacts | None, Problem | None]:
    """Settle which HPA drives a target, or why that cannot be said."""
    scaling = target.scaling
    ours = [scaler for scaler in scalers if scaler.owned_by_us]
    others = [scaler for scaler in scalers if not scaler.owned_by_us]
    if scaling.actuation is Actuation.OWN:
        # Others are reported by actuation, which then removes our own: one HPA too many is a fight.
        return (ours[0] if ours else None), None
    named = scaling.scaler_ref
    if named is not None and named.kind is ScalerKind.HPA:
        found = next((scaler for scaler in others if scaler.name == named.name), None)
        if found is None:
            return None, Problem(
                Reason.SCALER_NOT_FOUND,
                f"HorizontalPodAutoscaler {named.name} does not exist or does not target {_name(target)}; "
                "correct spec.scaling.scalerRef, or leave it out",
            )
    if len(others) > 1:
        names = ", ".join(sorted(scaler.name for scaler in others)[:5])
        return None, Problem(Reason.SEVERAL_SCALERS, f"{names} all target {_name(target)}; delete all but one")
    if named is not None and named.kind is ScalerKind.SCALED_OBJECT:
        owned = next((s for s in others if s.controller_owner == f"ScaledObject/{named.name}"), None)
        if owned is None:
            return None, Problem(
                Reason.SCALER_NOT_FOUND,
                f"ScaledObject {named.name} has made no HorizontalPodAutoscaler for the "
                "target; see its conditions, or correct spec.scaling.scalerRef",
            )
        return owned, None
    if scaling.actuation is Actuation.FLOOR and not others:
        return None, Problem(
            Reason.SCALER_NOT_FOUND,
            f"no HorizontalPodAutoscaler targets {_name(target)}; Floor needs one to hold: create it, or "
            "use actuation Own",
        )
    return (others[0] if others else None), None


def _facts(
    target: TargetFacts,
    pods: tuple[PodFacts, ...],
    scaler: ScalerFacts | None,
    snapshots: SnapshotStore,
    uids: Mapping[str, str],
) -> WorkloadFacts:
    return WorkloadFacts(
        namespace=target.namespace,
        kind=target.kind,
        name=target.name,
        uid=target.uid,
        desired_replicas=target.desired_replicas,
        ready_replicas=_ready(target, pods),
        pods=pods,
        scaler=scaler,
        pages=snapshots.pages(uids),
        page_errors=snapshots.page_errors(uids),
        template=target.containers,
        generation=target.generation,
        rollout=target.rollout,
    )


def _ready(target: TargetFacts, pods: tuple[PodFacts, ...]) -> int:
    """Return the replicas that serve; a group of a LeaderWorkerSet does when all its pods do."""
    serving = {pod.name for pod in pods if pod.ready and not pod.terminating}
    if target.kind != groups.KIND:
        return len(serving)
    missing = {groups.group_of(pod.name, workload=target.name)[0] for pod in pods if pod.name not in serving}
    return len({groups.group_of(name, workload=target.name)[0] for name in serving} - missing)
