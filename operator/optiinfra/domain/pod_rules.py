"""What a pod demands of a node, and what a node repels: the hard rules by which the scheduler places pods.

Only what is stated as hard is here; preferences bind nobody. Rules that many pods share (a Deployment's replicas) are
one object: the reader at the door interns them. A rule that this model cannot express is named in `unreadable`, and
whoever plans must then leave the pod where it is: a rule that is left out would be a rule broken.
"""

from dataclasses import dataclass
from enum import StrEnum

from optiinfra.domain.label_rules import LabelRule, LabelSelector

DEFAULT_SCHEDULER = "default-scheduler"
UNSCHEDULABLE_TAINT = "node.kubernetes.io/unschedulable"


class TaintEffect(StrEnum):
    """What a taint does to pods that do not tolerate it. PreferNoSchedule binds nobody."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


@dataclass(frozen=True, slots=True)
class Taint:
    """What a node repels pods with."""

    key: str
    value: str
    effect: TaintEffect


@dataclass(frozen=True, slots=True)
class Toleration:
    """What a pod bears."""

    key: str
    """Empty with `exists`: every taint."""
    exists: bool
    """Operator Exists; else the values must be equal."""
    value: str = ""
    effect: TaintEffect | None = None
    """None: every effect."""

    def tolerates(self, taint: Taint) -> bool:
        """Tell whether this toleration bears a taint."""
        if self.effect is not None and self.effect is not taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        return self.exists or (bool(self.key) and self.value == taint.value)


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """One alternative of a required node affinity: all of its rules hold for the node."""

    labels: tuple[LabelRule, ...] = ()
    names: tuple[LabelRule, ...] = ()
    """Rules on the node's name (matchFields on metadata.name). A term without any rule matches no node."""


@dataclass(frozen=True, slots=True)
class PodTerm:
    """A required pod affinity or anti-affinity."""

    topology_key: str
    selector: LabelSelector | None
    """None selects nothing."""
    namespaces: frozenset[str] | None
    """None: all namespaces."""


@dataclass(frozen=True, slots=True)
class SpreadRule:
    """A topology spread constraint that forbids (whenUnsatisfiable: DoNotSchedule)."""

    topology_key: str
    max_skew: int
    selector: LabelSelector | None
    min_domains: int = 1
    honours_affinity: bool = True
    """nodeAffinityPolicy: only nodes that the pod's own affinity allows count as domains."""
    honours_taints: bool = False
    """nodeTaintsPolicy: nodes whose taints the pod does not bear do not count as domains."""


@dataclass(frozen=True, slots=True)
class PodRules:
    """The hard rules of one pod template."""

    tolerations: tuple[Toleration, ...] = ()
    node_selector: tuple[LabelRule, ...] = ()
    node_terms: tuple[NodeTerm, ...] = ()
    """Alternatives, one of which must match; empty: any node."""
    affinity: tuple[PodTerm, ...] = ()
    anti_affinity: tuple[PodTerm, ...] = ()
    spread: tuple[SpreadRule, ...] = ()
    resources: tuple[tuple[str, float], ...] = ()
    """Requests by resource name, in base units: all but CPU and memory, the GPUs among them, by name."""
    host_ports: tuple[str, ...] = ()
    """Ports of the node that it takes, as "TCP/8080"."""
    scheduler: str = DEFAULT_SCHEDULER
    unreadable: tuple[str, ...] = ()
    """Rules that cannot be judged here, in words; the pod must stay."""

    def tolerates(self, taint: Taint) -> bool:
        """Tell whether the pod bears a taint; one that merely prefers other pods is always borne."""
        if taint.effect is TaintEffect.PREFER_NO_SCHEDULE:
            return True
        return any(toleration.tolerates(taint) for toleration in self.tolerations)


NO_RULES = PodRules()


@dataclass(frozen=True, slots=True)
class PodGroup:
    """Pods that start and stop together: moved whole or not at all."""

    kind: str
    """What groups them: "LeaderWorkerSet", "JobSet", "RayCluster", "PodGroup" ..."""
    name: str
    """Name of the group in the pod's namespace; of a LeaderWorkerSet one replica of it."""
    size: int = 0
    """How many pods it has to have, where that is stated; 0: not stated."""


@dataclass(frozen=True, slots=True)
class DisruptionBudget:
    """A PodDisruptionBudget: what the eviction API asks before it lets a pod go."""

    namespace: str
    name: str
    selector: LabelSelector
    allowed: int
    """Disruptions that it allows now."""
    expected: int
    """Pods that it counts."""
    healthy: int = 0
    desired: int = 0
    """Healthy pods that must stay."""
    evicts_unready: bool = False
    """unhealthyPodEvictionPolicy AlwaysAllow."""
    current: bool = True
    """Whether its status speaks about its present spec; else the eviction API refuses."""
