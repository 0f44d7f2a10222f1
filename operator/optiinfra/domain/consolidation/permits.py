"""Who may be moved: blockers of single pods, disruption budgets, and pods that go together or not at all.

The rules are those of whoever would refuse or suffer. Budgets are asked as the eviction API asks them: several on one
pod are a refusal, a pod that does not run needs none, an unready one only sometimes. What a budget allows is shared by
the whole plan: nothing is assumed to be given back in between. A group (LeaderWorkerSet, JobSet, Ray, gangs) restarts
when one of its pods goes, so all of its pods are moved in one step, wherever they are.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from optiinfra.domain.consolidation.inputs import ClusterFacts, Serving, counts, stays
from optiinfra.domain.consolidation.results import PodReason, PodRefusal
from optiinfra.domain.label_rules import selects
from optiinfra.domain.pod_rules import DEFAULT_SCHEDULER, DisruptionBudget
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import PodFacts

GroupKey = tuple[str, str, str]
_BLOCKERS: Final[Mapping[str, tuple[PodReason, str]]] = {
    "BarePod": (PodReason.BARE_POD, "nothing would make it again; give it an owner, such as a Deployment"),
    "BatchJob": (
        PodReason.BATCH_JOB,
        "a Job's work would be lost; annotate it cluster-autoscaler.kubernetes.io/safe-to-evict=true if it is not",
    ),
    "LocalStorage": (
        PodReason.LOCAL_STORAGE,
        (
            "data in an emptyDir or hostPath would be lost; name the volumes that may go in "
            "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
        ),
    ),
    "LocalVolume": (PodReason.LOCAL_VOLUME, "its volume lies on this node"),
    "UnknownVolume": (PodReason.UNKNOWN_VOLUME, "it is not known where its volume can be attached"),
    "ResourceClaim": (
        PodReason.RESOURCE_CLAIM,
        "it holds devices by a claim, and only the scheduler can say which other nodes have such devices",
    ),
    "DoNotDisrupt": (PodReason.DO_NOT_DISRUPT, "an annotation forbids to disrupt it"),
}
_NO_BUDGET_PHASES: Final = frozenset({"Pending", "Succeeded", "Failed"})


class Permits:
    """Answers for single pods; keeps what the plan has used of the budgets."""

    def __init__(self, cluster: ClusterFacts, *, now: UnixTime) -> None:
        self._now = now
        self._serving = cluster.serving
        self._budgets: dict[str, list[DisruptionBudget]] = defaultdict(list)
        for budget in cluster.budgets:
            self._budgets[budget.namespace].append(budget)
        self._keys = {
            namespace: sorted({rule.key for budget in found for rule in budget.selector})
            for namespace, found in self._budgets.items()
        }
        self._covering: dict[tuple[str, tuple[str | None, ...]], tuple[DisruptionBudget, ...]] = {}
        self._used: Counter[tuple[str, str]] = Counter()
        self._groups: dict[GroupKey, list[PodFacts]] = defaultdict(list)
        self._mounts: Counter[tuple[str, str]] = Counter()
        self._starts: dict[tuple[str, tuple[str, str]], float] = {}
        self._ready: Counter[tuple[str, tuple[str, str]]] = Counter()
        self._blocked_groups: dict[GroupKey, PodRefusal | None] = {}
        self._waiting = frozenset(pod.uid for pod in cluster.waiting)
        for pod in (*(pod for node in cluster.nodes for pod in node.pods), *cluster.waiting):
            if not counts(pod):
                continue
            for claim in pod.claims:
                self._mounts[pod.namespace, claim] += 1
            if not stays(pod):
                self._learn(pod)

    def _learn(self, pod: PodFacts) -> None:
        key = group_key(pod)
        if key is not None:
            self._groups[key].append(pod)
        owner = (pod.namespace, pod.owner)
        if pod.ready and not pod.terminating:
            self._ready[owner] += 1
        took = _own_start(pod)
        if took is not None:
            # The shortest of an owner's pods: a pod that lost its readiness for a while seems to have started long.
            self._starts[owner] = min(took, self._starts.get(owner, took))

    def group(self, pod: PodFacts) -> Sequence[PodFacts]:
        """Return all pods that go when this one goes; itself alone where it has no group."""
        key = group_key(pod)
        return (pod,) if key is None else self._groups[key]

    def alone(self, pod: PodFacts) -> bool:
        """Tell whether it is the only ready pod of its owner."""
        return pod.ready and bool(pod.owner[0]) and self._ready[pod.namespace, pod.owner] == 1

    def start_up(self, pod: PodFacts) -> Value:
        """Seconds until what replaces it is ready."""
        known = self._serving.get(pod.uid)
        if known is not None and not isinstance(known.start_up, Unknown):
            return known.start_up
        own = self._starts.get((pod.namespace, pod.owner))
        return Unknown(UnknownReason.NOT_MEASURED, "no pod of its owner was seen to start") if own is None else own

    def busy(self, pod: PodFacts) -> Value:
        """Share of what it can serve that it serves now."""
        known = self._serving.get(pod.uid, _NOT_SERVING)
        return known.busy

    def refusal(self, pod: PodFacts) -> PodRefusal | None:
        """Say why a pod may not be moved, budgets aside; None where it may."""
        own = self._own_refusal(pod)
        key = group_key(pod)
        if own is not None or key is None:
            return own
        if key not in self._blocked_groups:
            self._blocked_groups[key] = self._group_refusal(key)
        found = self._blocked_groups[key]
        return None if found is None else PodRefusal(pod.namespace, pod.name, found.reason, found.message)

    def _own_refusal(self, pod: PodFacts) -> PodRefusal | None:
        for blocker in pod.blockers:
            if blocker in _BLOCKERS:
                return _refuse(pod, *_BLOCKERS[blocker])
        if pod.protected_until is not None and pod.protected_until > self._now:
            return _refuse(pod, PodReason.DO_NOT_DISRUPT, "an annotation forbids to disrupt it for some time yet")
        shared = next((claim for claim in pod.claims if self._mounts[pod.namespace, claim] > 1), None)
        if shared is not None:
            return _refuse(
                pod, PodReason.SHARED_VOLUME, f"other pods use {shared}, which one node can attach at a time"
            )
        if pod.rules.unreadable:
            return _refuse(pod, PodReason.UNREADABLE_RULES, pod.rules.unreadable[0])
        if pod.rules.scheduler != DEFAULT_SCHEDULER:
            return _refuse(
                pod, PodReason.OTHER_SCHEDULER, f"scheduler {pod.rules.scheduler} places it by its own rules"
            )
        if pod.gpus > 0.0 and not pod.lost_readiness:
            if not pod.ready:
                return _refuse(pod, PodReason.STARTING, "it is still loading, and would begin anew")
            if isinstance(self.start_up(pod), Unknown):
                return _refuse(pod, PodReason.UNMEASURED_START, "it is not known how long it takes to start")
        return None

    def _group_refusal(self, key: GroupKey) -> PodRefusal | None:
        members = self._groups[key]
        first = members[0]
        group = first.group
        assert group is not None
        name = f"{group.kind} {group.name}"
        if group.size and len(members) != group.size:
            text = f"{name} has {len(members)} of {group.size} pods"
            return _refuse(first, PodReason.INCOMPLETE_GROUP, text)
        absent = next((pod for pod in members if pod.uid in self._waiting or pod.terminating), None)
        if absent is not None:
            return _refuse(first, PodReason.INCOMPLETE_GROUP, f"{absent.name} of {name} has no place of its own now")
        for pod in members:
            own = self._own_refusal(pod)
            if own is not None:
                return _refuse(first, PodReason.BLOCKED_GROUP, f"{name} goes whole or not at all, and {own}")
        return None

    def take(self, pods: Iterable[PodFacts]) -> PodRefusal | Counter[tuple[str, str]]:
        """Use the budgets for these pods: what was used, for `give_back`; or who is refused, and nothing is used."""
        used: Counter[tuple[str, str]] = Counter()
        for pod in pods:
            covering = self.budgets_of(pod)
            if pod.phase in _NO_BUDGET_PHASES or not covering:
                continue
            refusal = self._budget_refusal(pod, covering, used)
            if refusal is not None:
                return refusal
            if self._needs(pod, covering[0], used):
                used[covering[0].namespace, covering[0].name] += 1
        self._used.update(used)
        return used

    def give_back(self, used: Counter[tuple[str, str]]) -> None:
        """Return what `take` used."""
        self._used.subtract(used)

    def budgets_of(self, pod: PodFacts) -> tuple[DisruptionBudget, ...]:
        """Return the budgets that cover a pod."""
        keys = self._keys.get(pod.namespace)
        if keys is None:
            return ()
        signature = (pod.namespace, tuple(pod.labels.get(key) for key in keys))
        found = self._covering.get(signature)
        if found is None:
            here = self._budgets[pod.namespace]
            found = tuple(budget for budget in here if selects(budget.selector, pod.labels))
            self._covering[signature] = found
        return found

    def _budget_refusal(
        self, pod: PodFacts, covering: Sequence[DisruptionBudget], used: Mapping[tuple[str, str], int]
    ) -> PodRefusal | None:
        if len(covering) > 1:
            names = ", ".join(budget.name for budget in covering[:4])
            text = f"several PodDisruptionBudgets cover it ({names}), and the eviction API refuses that"
            return _refuse(pod, PodReason.SEVERAL_BUDGETS, text)
        budget = covering[0]
        if not self._needs(pod, budget, used):
            return None
        if not budget.current:
            text = f"the status of PodDisruptionBudget {budget.name} is older than its spec"
            return _refuse(pod, PodReason.STALE_BUDGET, text)
        taken = self._taken(budget, used)
        if budget.allowed - taken > 0:
            return None
        text = f"PodDisruptionBudget {budget.name} allows {max(0, budget.allowed)} disruptions"
        return _refuse(pod, PodReason.NO_BUDGET, text + (f", and {taken} are planned" if taken else ""))

    def _needs(self, pod: PodFacts, budget: DisruptionBudget, used: Mapping[tuple[str, str], int]) -> bool:
        if pod.ready:
            return True
        healthy = budget.healthy - self._taken(budget, used)
        return not (budget.evicts_unready or (budget.desired > 0 and healthy >= budget.desired))

    def _taken(self, budget: DisruptionBudget, used: Mapping[tuple[str, str], int]) -> int:
        key = (budget.namespace, budget.name)
        return self._used[key] + used.get(key, 0)


def group_key(pod: PodFacts) -> GroupKey | None:
    """Return what a pod's group is known by; None for a pod of its own."""
    return None if pod.group is None else (pod.namespace, pod.group.kind, pod.group.name)


def _own_start(pod: PodFacts) -> float | None:
    """Seconds from its node (or its creation) to readiness, where the pod's own moments tell."""
    if not pod.ready or pod.became_ready is None:
        return None
    took = pod.became_ready - (pod.scheduled if pod.scheduled is not None else pod.created)
    return took if took >= 0.0 else None


def _refuse(pod: PodFacts, reason: PodReason, message: str) -> PodRefusal:
    return PodRefusal(pod.namespace, pod.name, reason, message)


_NOT_SERVING: Final = Serving(
    start_up=Unknown(UnknownReason.NOT_MEASURED), busy=Unknown(UnknownReason.NOT_MEASURED, "no page of an engine")
)
