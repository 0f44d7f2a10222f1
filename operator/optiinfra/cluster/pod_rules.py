"""The hard rules in a pod's spec: tolerations, selectors, affinity, spread, ports, resources, and what groups it.

Rules are interned: the replicas of a Deployment share one object. A rule that the planner's model cannot express is
not dropped but named in `unreadable`, so that the pod is left where it is. Preferences are not read: they bind nobody.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from optiinfra.cluster.document import (
    JsonObject,
    integer,
    integer_or_none,
    labels_of,
    mapping,
    objects,
    text,
    texts,
)
from optiinfra.cluster.errors import Malformed
from optiinfra.cluster.quantities import quantity_in
from optiinfra.domain.label_rules import LabelOperator, LabelRule, LabelSelector
from optiinfra.domain.pod_rules import (
    DEFAULT_SCHEDULER,
    NodeTerm,
    PodGroup,
    PodRules,
    PodTerm,
    SpreadRule,
    TaintEffect,
    Toleration,
)

_GROUPS: Final = (
    # (kind, label or annotation that names the group, that which tells its parts apart, that which tells its size)
    ("LeaderWorkerSet", "leaderworkerset.sigs.k8s.io/name", "leaderworkerset.sigs.k8s.io/group-index",
     "leaderworkerset.sigs.k8s.io/size"),
    ("JobSet", "jobset.sigs.k8s.io/jobset-name", "", ""),
    ("RayCluster", "ray.io/cluster", "", ""),
    ("PodGang", "grove.io/podgang", "", ""),
    ("PodGroup", "scheduling.x-k8s.io/pod-group", "", ""),
    ("PodGroup", "pod-group.scheduling.sigs.k8s.io/name", "", ""),
    ("PodGroup", "pod-group.scheduling.sigs.k8s.io", "", ""),
    ("PodGroup", "kueue.x-k8s.io/pod-group-name", "", "kueue.x-k8s.io/pod-group-total-count"),
    ("VolcanoJob", "volcano.sh/job-name", "", ""),
    ("PodGroup", "scheduling.k8s.io/group-name", "", ""),
    ("TrainingJob", "training.kubeflow.org/job-name", "", ""),
)  # fmt: skip
_SHARED_GPU: Final = ("gpu-fraction", "gpu-memory", "alibabacloud.com/gpu-milli", "run.ai/gpu-fraction")
"""Annotations by which schedulers of their own hand out parts of a GPU."""
_EXCLUSIVE: Final = ("leaderworkerset.sigs.k8s.io/exclusive-topology", "alpha.jobset.sigs.k8s.io/exclusive-topology")
_OWN_FIELDS: Final = frozenset({"cpu", "memory", "pods"})
_NODE_NAME_FIELD: Final = "metadata.name"


@lru_cache(maxsize=32768)
def _shared(rules: PodRules) -> PodRules:
    return rules


def pod_rules(document: JsonObject, spec: JsonObject, resources: Mapping[str, float]) -> PodRules:
    """Read the rules of a pod; `resources` are its requests beyond CPU and memory, as the scheduler counts them."""
    unreadable = list(_beyond_the_model(document, spec))
    named = tuple(sorted(resources.items()))
    scheduler = text(spec, "schedulerName") or DEFAULT_SCHEDULER
    try:
        rules = _read(document, spec, unreadable)
    except Malformed as error:
        # The pod is still there and everything else about it holds: it only cannot be placed anew.
        rules = PodRules(unreadable=(*unreadable, str(error)))
    return _shared(replace(rules, resources=named, host_ports=_host_ports(spec), scheduler=scheduler))


def _beyond_the_model(document: JsonObject, spec: JsonObject) -> Iterator[str]:
    annotations = mapping(document, "metadata", "annotations")
    if objects(spec, "resourceClaims"):
        yield "it claims devices (spec.resourceClaims), which this plan cannot place"
    for name in _SHARED_GPU:
        if name in annotations:
            yield f"annotation {name} shares GPUs by a scheduler of its own"
    for name in _EXCLUSIVE:
        if name in annotations:
            yield f"annotation {name} needs a topology of its own"


def _read(document: JsonObject, spec: JsonObject, unreadable: list[str]) -> PodRules:
    labels = labels_of(document, "metadata", "labels")
    namespace = text(document, "metadata", "namespace")
    affinity = mapping(spec, "affinity")
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    near, far = (
        tuple(_pod_term(term, labels, namespace, unreadable) for term in objects(affinity, kind, required))
        for kind in ("podAffinity", "podAntiAffinity")
    )
    tolerations = (_toleration(entry) for entry in objects(spec, "tolerations"))
    return PodRules(
        tolerations=tuple(toleration for toleration in tolerations if toleration is not None),
        node_selector=tuple(
            LabelRule(key, LabelOperator.IN, frozenset({value}))
            for key, value in sorted(labels_of(spec, "nodeSelector").items())
        ),
        node_terms=node_terms(mapping(affinity, "nodeAffinity", required)),
        affinity=near,
        anti_affinity=far,
        spread=tuple(
            _spread(entry, labels)
            for entry in objects(spec, "topologySpreadConstraints")
            if text(entry, "whenUnsatisfiable") != "ScheduleAnyway"
        ),
        unreadable=tuple(unreadable),
    )


def node_terms(selector: JsonObject) -> tuple[NodeTerm, ...]:
    """Read a v1 NodeSelector: alternatives, of which one must match."""
    return tuple(
        NodeTerm(
            labels=tuple(_rule(rule) for rule in objects(term, "matchExpressions")),
            names=tuple(_name_rule(rule) for rule in objects(term, "matchFields")),
        )
        for term in objects(selector, "nodeSelectorTerms")
    )


def group_of(document: JsonObject, spec: JsonObject) -> PodGroup | None:
    """Return what a pod starts and stops with, or None."""
    labels = mapping(document, "metadata", "labels")
    annotations = mapping(document, "metadata", "annotations")
    native = text(spec, "schedulingGroup", "podGroupName") or text(spec, "workloadRef", "name")
    if native:
        return PodGroup("PodGroup", f"{native}/{text(spec, 'workloadRef', 'podGroup')}".rstrip("/"))
    for kind, name, part, size in _GROUPS:
        found = labels.get(name) or annotations.get(name)
        if isinstance(found, str) and found:
            index = labels.get(part, "") if part else ""
            stated = str(annotations.get(size) or labels.get(size) or "") if size else ""
            count = int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 7 else 0
            return PodGroup(kind, f"{found}-{index}" if index else found, count)
    return None


def named_resources(resources: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
    """Return a ResourceList by name: all but CPU, memory and pods, which have fields of their own."""
    found = [(name, quantity_in(resources, name) or 0.0) for name in resources if name not in _OWN_FIELDS]
    return _shared_resources(tuple(sorted(found)))


@lru_cache(maxsize=4096)
def _shared_resources(found: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    return found


def _toleration(entry: JsonObject) -> Toleration | None:
    effect, operator = text(entry, "effect"), text(entry, "operator")
    if operator not in {"", "Equal", "Exists"} or (effect and effect not in set(TaintEffect)):
        return None  # newer than this: what it bears is not known, so it bears nothing
    return Toleration(
        key=text(entry, "key"),
        exists=operator == "Exists",
        value=text(entry, "value"),
        effect=TaintEffect(effect) if effect else None,
    )


def _rule(entry: JsonObject) -> LabelRule:
    written = text(entry, "operator")
    try:
        operator = LabelOperator(written)
    except ValueError as error:
        raise Malformed(f"operator {written[:32]!r} of a selector") from error
    return LabelRule(text(entry, "key"), operator, frozenset(texts(entry, "values")))


def _name_rule(entry: JsonObject) -> LabelRule:
    rule = _rule(entry)
    if rule.key != _NODE_NAME_FIELD:
        raise Malformed(f"matchFields on {rule.key[:64]!r}; only {_NODE_NAME_FIELD} exists")
    return rule


def selector_in(document: JsonObject, field: str) -> LabelSelector | None:
    """Read a metav1.LabelSelector; None where the field is missing, which selects nothing."""
    if document.get(field) is None:
        return None
    selector = mapping(document, field)
    exact = [
        LabelRule(key, LabelOperator.IN, frozenset({value}))
        for key, value in sorted(labels_of(selector, "matchLabels").items())
    ]
    return (*exact, *(_rule(rule) for rule in objects(selector, "matchExpressions")))


def _with_own_labels(
    selector: LabelSelector | None, entry: JsonObject, labels: Mapping[str, str]
) -> LabelSelector | None:
    """Add what matchLabelKeys and mismatchLabelKeys say; newer API servers have merged them in already."""
    if selector is None:
        return None
    found = list(selector)
    for field, operator in (("matchLabelKeys", LabelOperator.IN), ("mismatchLabelKeys", LabelOperator.NOT_IN)):
        for key in texts(entry, field):
            rule = LabelRule(key, operator, frozenset({labels[key]})) if key in labels else None
            if rule is not None and rule not in found:
                found.append(rule)
    return tuple(found)


def _pod_term(entry: JsonObject, labels: Mapping[str, str], namespace: str, unreadable: list[str]) -> PodTerm:
    selector = _with_own_labels(selector_in(entry, "labelSelector"), entry, labels)
    names = frozenset(texts(entry, "namespaces"))
    by_label = entry.get("namespaceSelector")
    everywhere = isinstance(by_label, dict) and not any(by_label.values())
    if by_label is not None and not everywhere:
        unreadable.append("an affinity chooses namespaces by their labels, which are not read")
    if not names and by_label is None:
        names = frozenset({namespace})
    return PodTerm(text(entry, "topologyKey"), selector, None if everywhere else names)


def _spread(entry: JsonObject, labels: Mapping[str, str]) -> SpreadRule:
    return SpreadRule(
        topology_key=text(entry, "topologyKey"),
        max_skew=max(1, integer(entry, "maxSkew")),
        selector=_with_own_labels(selector_in(entry, "labelSelector"), entry, labels),
        min_domains=max(1, integer_or_none(entry, "minDomains") or 1),
        honours_affinity=text(entry, "nodeAffinityPolicy") != "Ignore",
        honours_taints=text(entry, "nodeTaintsPolicy") == "Honor",
    )


def _host_ports(spec: JsonObject) -> tuple[str, ...]:
    taken = {
        f"{text(port, 'protocol') or 'TCP'}/{number}"
        for field in ("containers", "initContainers")
        for container in objects(spec, field)
        # On the host's network every container port is one of the host's: the API server copies it.
        for port in objects(container, "ports")
        if (number := integer(port, "hostPort"))
    }
    return tuple(sorted(taken))
