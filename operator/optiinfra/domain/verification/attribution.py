"""What else happened while an action was watched: whatever is measured then is not proof of what the action did.

A rollout changes what serves, a lost node takes replicas away, and a person or another scaler may move the count: each
alone explains better and worse numbers, so the verdict is Unknown with that reason. The load is judged apart, by what
came in against what was forecast, because it needs the measurements. Facts in, words out; nothing is read here.
"""

from dataclasses import dataclass, field

from optiinfra.domain.workload import NodeFacts, PodFacts

REVISION_LABELS = (
    "pod-template-hash",
    "controller-revision-hash",
    "leaderworkerset.sigs.k8s.io/template-revision-hash",
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What a workload consists of at one moment."""

    replicas: int
    """Asked for (spec)."""
    revisions: frozenset[str] = frozenset()
    """Of the templates that its living pods were made from."""
    nodes: frozenset[str] = frozenset()
    """That its ready pods run on."""

    @classmethod
    def of(cls, pods: tuple[PodFacts, ...], *, replicas: int) -> "Scene":
        """Take it from the pods."""
        living = [pod for pod in pods if not pod.terminating]
        return cls(
            replicas,
            frozenset(pod.labels[label] for pod in living for label in REVISION_LABELS if label in pod.labels),
            frozenset(pod.node for pod in living if pod.node and pod.ready),
        )


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Something else that happened."""

    reason: str
    """CamelCase reason code: "Rollout", "NodesLost", "ReplicasMoved"."""
    message: str


@dataclass(frozen=True, slots=True)
class Course:
    """How far an action came."""

    begun: Scene
    """As it began."""
    from_replicas: int
    to_replicas: int
    settled: Scene | None = None
    """When the count was reached and ready; None before that."""
    nodes: dict[str, NodeFacts] = field(default_factory=dict)
    """All nodes now; empty where nodes are not seen."""


def disturbance(course: Course, now: Scene) -> Disturbance | None:
    """Return what else happened since the action began, the weightiest first."""
    fresh = now.revisions - course.begun.revisions
    if course.begun.revisions and fresh:
        return Disturbance("Rollout", f"a rollout began: {len(fresh)} new revision(s) of its pods in the verify window")
    if len(now.revisions) > 1:
        return Disturbance("Rollout", "a rollout was in progress: its pods are of several revisions")
    if course.settled is not None and course.nodes:
        lost = sorted(name for name in course.settled.nodes if name not in course.nodes or not course.nodes[name].ready)
        if lost:
            return Disturbance("NodesLost", f"node {', '.join(lost[:3])} with replicas of it was lost")
    return _moved(course, now)


def _moved(course: Course, now: Scene) -> Disturbance | None:
    if course.settled is not None:
        if now.replicas == course.settled.replicas:
            return None
        text = f"somebody else moved the replicas from {course.settled.replicas} to {now.replicas} meanwhile"
        return Disturbance("ReplicasMoved", text)
    lowest, highest = sorted((course.from_replicas, course.to_replicas))
    # What is on its way may pass any count in between; a floor may be exceeded by whoever scales above it.
    beyond = now.replicas < lowest or (now.replicas > highest and course.to_replicas < course.from_replicas)
    if not beyond:
        return None
    text = f"{course.to_replicas} replicas were ordered and somebody else set {now.replicas}"
    return Disturbance("ReplicasMoved", text)
