"""Where a pod's volumes let it go: PersistentVolumeClaims and their volumes, mirrored.

A volume may be bound to a node, a zone or nothing, and only its PersistentVolume says so. What cannot be looked up (a
claim that is not bound, rights that an older chart did not give) becomes the blocker "UnknownVolume": the pod stays.
The mirror is never waited for, because a plan without these pods is still a plan. Nothing else is read of a volume.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import JsonObject, Key, mapping, text, texts
from optiinfra.cluster.pod_rules import node_terms
from optiinfra.cluster.watch import Reflector
from optiinfra.domain.pod_rules import NodeTerm
from optiinfra.domain.workload import PodFacts

_HOSTNAME: Final = "kubernetes.io/hostname"
_MANY_NODES: Final = frozenset({"ReadWriteMany", "ReadOnlyMany"})


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """One PersistentVolume."""

    local: bool
    """Its data lies on one node."""
    terms: tuple[NodeTerm, ...]
    """Nodes that can attach it; empty: all."""


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """One PersistentVolumeClaim."""

    volume: str
    """Empty while it is not bound."""
    many_nodes: bool
    """Pods on several nodes may use it at a time."""


def parse_volume(document: JsonObject) -> VolumeRecord:
    """Parse a v1 PersistentVolume."""
    spec = mapping(document, "spec")
    terms = node_terms(mapping(spec, "nodeAffinity", "required"))
    one_node = any(rule.key == _HOSTNAME for term in terms for rule in term.labels) or any(t.names for t in terms)
    return VolumeRecord("local" in spec or "hostPath" in spec or one_node, terms)


def parse_claim(document: JsonObject) -> ClaimRecord:
    """Parse a v1 PersistentVolumeClaim."""
    bound = text(document, "status", "phase") == "Bound"
    modes = frozenset(texts(document, "status", "accessModes") or texts(document, "spec", "accessModes"))
    return ClaimRecord(text(document, "spec", "volumeName") if bound else "", bool(modes & _MANY_NODES))


class Volumes:
    """Mirrors both kinds. `run()` goes on until cancelled."""

    def __init__(self, client: KubernetesClient, *, on_change: Callable[[], None]) -> None:
        self._claims = Reflector(
            client, "/api/v1/persistentvolumeclaims", parse=parse_claim, on_change=lambda *_: on_change()
        )
        self._volumes = Reflector(
            client, "/api/v1/persistentvolumes", parse=parse_volume, on_change=lambda *_: on_change()
        )

    async def run(self) -> None:
        """Mirror until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._claims.run(), name="mirror claims")
            group.create_task(self._volumes.run(), name="mirror volumes")

    def problems(self) -> tuple[str, ...]:
        """Say in words why a mirror fails now."""
        return tuple(
            f"{mirror.path}: {mirror.last_error}"
            for mirror in (self._claims, self._volumes)
            if mirror.last_error is not None
        )

    def joined(self, namespace: str, facts: PodFacts) -> PodFacts:
        """Return a pod's facts with what its claims demand; `claims` keeps those that one node at a time can use."""
        terms: list[tuple[NodeTerm, ...]] = []
        blockers: list[str] = []
        single: list[str] = []
        for name in facts.claims:
            claim = self._claims.items.get(Key(namespace, name)) if self._claims.synced else None
            volume = None
            if claim is not None and claim.volume and self._volumes.synced:
                volume = self._volumes.items.get(Key("", claim.volume))
            if claim is None or volume is None:
                blockers.append("UnknownVolume")
                continue
            if volume.local:
                blockers.append("LocalVolume")
            if volume.terms:
                terms.append(volume.terms)
            if not claim.many_nodes:
                single.append(name)
        return replace(
            facts,
            blockers=(*facts.blockers, *dict.fromkeys(blockers)),
            volume_terms=tuple(terms),
            claims=tuple(single),
        )
