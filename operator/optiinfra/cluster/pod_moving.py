"""What a pod says about being moved: annotations, owner, volumes, priority, group; joined to its facts.

A blocker is a word for a rule that forbids moving. Where Karpenter and the cluster autoscaler differ, both are
honoured: the operator advises the one without knowing whether the other runs. Two of their rules are read more
carefully than by themselves: a bare pod stays even where `safe-to-evict` allows to evict it, because nobody would make
it again, and a `do-not-disrupt` that Karpenter ignores as malformed counts, because somebody meant it.
"""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from optiinfra.cluster.document import JsonObject, integer, labels_of, mapping, objects, text, time_of
from optiinfra.cluster.pod_rules import group_of, pod_rules
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import PodFacts

DO_NOT_DISRUPT: Final = "karpenter.sh/do-not-disrupt"
SAFE_TO_EVICT: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict"
SAFE_VOLUMES: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
_STAYS: Final = frozenset({"DaemonSet", "Node"})
"""Owners whose pods stay with their node: a mirror pod is owned by its Node."""
_DURATION: Final = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ms|us|µs|ns|h|m|s))+")
_PART: Final = re.compile(r"([\d.]+)(ms|us|µs|ns|h|m|s)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
Measure = Callable[[JsonObject, str], float]


def with_moving(facts: PodFacts, document: JsonObject, *, owner: tuple[str, str], measure: Measure) -> PodFacts:
    """Return the facts with what matters for moving the pod; `measure` counts a resource as the scheduler does."""
    spec = mapping(document, "spec")
    labels = labels_of(document, "metadata", "labels")
    blockers = _blockers(document, spec, owner)
    if "DaemonSet" in blockers:
        return replace(facts, labels=labels, owner=owner, blockers=blockers)
    resources = {name: found for name in _names(spec) if (found := measure(spec, name)) > 0.0}
    return replace(
        facts,
        labels=labels,
        owner=owner,
        blockers=blockers,
        rules=pod_rules(document, spec, resources),
        priority=integer(spec, "priority"),
        group=group_of(document, spec),
        protected_until=_protected_until(document),
        claims=tuple(
            sys.intern(name)
            for volume in objects(spec, "volumes")
            if (name := text(volume, "persistentVolumeClaim", "claimName"))
        ),
        nominated=sys.intern(text(document, "status", "nominatedNodeName")),
    )


def _blockers(document: JsonObject, spec: JsonObject, owner: tuple[str, str]) -> tuple[str, ...]:
    annotations = mapping(document, "metadata", "annotations")
    if owner[0] in _STAYS:
        return ("DaemonSet",)
    blockers: list[str] = []
    safe = annotations.get(SAFE_TO_EVICT)
    if not owner[0]:
        blockers.append("BarePod")
    if safe != "true":
        if owner[0] == "Job":
            blockers.append("BatchJob")
        if _local_volumes(spec, str(annotations.get(SAFE_VOLUMES, ""))):
            blockers.append("LocalStorage")
    if safe == "false" or (DO_NOT_DISRUPT in annotations and _limited(annotations[DO_NOT_DISRUPT]) is None):
        blockers.append("DoNotDisrupt")
    if objects(spec, "resourceClaims"):
        blockers.append("ResourceClaim")
    return tuple(blockers)


def _limited(written: object) -> float | None:
    """Return for how many seconds the annotation holds; None for ever, 0 for not at all."""
    if written == "false":
        return 0.0
    if not isinstance(written, str) or len(written) > 64 or not _DURATION.fullmatch(written):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(written))


def _protected_until(document: JsonObject) -> UnixTime | None:
    written = mapping(document, "metadata", "annotations").get(DO_NOT_DISRUPT)
    seconds = None if written is None else _limited(written)
    if not seconds:
        return None
    start = time_of(document, "status", "startTime") or time_of(document, "metadata", "creationTimestamp")
    return UnixTime((start or 0.0) + seconds)


def _names(spec: JsonObject) -> set[str]:
    """Return the names of all resources that are asked for, but CPU and memory."""
    names: set[str] = set(mapping(spec, "overhead"))
    parts: list[Mapping[str, Any]] = [spec, *objects(spec, "containers"), *objects(spec, "initContainers")]
    for part in parts:
        names |= mapping(part, "resources", "requests").keys() | mapping(part, "resources", "limits").keys()
    return {sys.intern(name) for name in names} - {"cpu", "memory"}


def _local_volumes(spec: JsonObject, declared_safe: str) -> bool:
    safe = {name.strip() for name in declared_safe.split(",")}
    for volume in objects(spec, "volumes"):
        local = "hostPath" in volume or ("emptyDir" in volume and text(volume, "emptyDir", "medium") != "Memory")
        if local and text(volume, "name") not in safe:
            return True
    return False
