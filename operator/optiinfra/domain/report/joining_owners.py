"""Whose pods they are: from the workload that a pod's name tells to the one that really owns it.

Series come by namespace and the part of the pods' names that is their workload's. kube-state-metrics says who owned
such pods; without it the name is all there is, and that is said. Pods of a group of several nodes (LeaderWorkerSet) are
named `name-0` for the leader and `name-0-1` for its workers, so that the workers look like a workload `name-0` of their
own: they belong to `name` where `name` serves and `name-0` does not.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from optiinfra.domain.report.history import OwnerSource
from optiinfra.domain.report.joining_found import namespace_of
from optiinfra.domain.report.joining_frames import Answers

_SUFFIX: Final = "[b-df-hj-np-tv-xz24-9]"
_REVISION: Final = re.compile(f"(.+)-{_SUFFIX}{{1,10}}")
"""A ReplicaSet's name, as `engines.promql_fleet_parts.REVISION`."""
_GROUP: Final = re.compile(r"(.+)-[0-9]+")
_NOBODY: Final = frozenset({"", "<none>"})
Stem = tuple[str, str]
"""Namespace, and the part of a pod's name that is its workload's."""


@dataclass(frozen=True, slots=True, order=True)
class Owner:
    """A workload."""

    namespace: str
    name: str
    kind: str = field(compare=False, default="")
    """Empty where nobody says."""
    source: OwnerSource = field(compare=False, default=OwnerSource.POD_NAMES)

    @property
    def key(self) -> tuple[str, str]:
        """Return what rows are grouped by."""
        return self.namespace, self.name


@dataclass(slots=True)
class Owners:
    """The owners of all pods that anything is known of."""

    known: dict[Stem, Owner]
    groups: dict[Stem, Stem] = field(default_factory=dict)
    """Workers of a group -> its leaders."""
    workers: dict[Stem, int] = field(default_factory=dict)
    """Leaders -> most workers of one group."""

    def of(self, namespace: str, stem: str) -> Owner:
        """Return the owner of the pods of a stem."""
        at = self.groups.get((namespace, stem), (namespace, stem))
        return self.known.get(at) or Owner(*at)

    @property
    def by_name(self) -> bool:
        """Whether nothing but names is known."""
        return not self.known


def owners(answers: Answers, *, serving: Iterable[Stem]) -> Owners:
    """Read who owns pods. `serving` are those whose engines answer, which makes leaders of groups."""
    sets: dict[tuple[str, str], tuple[str, str]] = {}
    for labels, _, _ in answers.each("state.replicaset_owners"):
        if labels["owner_name"] not in _NOBODY:
            sets[labels["namespace"], labels["workload"]] = labels["owner_kind"], labels["owner_name"]
    counts: dict[Stem, dict[Owner, float]] = {}
    for labels, _, newest in answers.each("state.owners"):
        stem = labels["namespace"], labels["workload"]
        kind, name = _owner(labels["owner_kind"], labels["owner_name"], labels["namespace"], sets)
        if newest > 0.0:
            owner = Owner(stem[0], name or stem[1], kind, OwnerSource.STATE_METRICS)
            mine = counts.setdefault(stem, {})
            mine[owner] = mine.get(owner, 0.0) + newest
    # Where several own pods of the same stem, the one with most of them does.
    found = Owners({stem: max(mine, key=lambda one: mine[one]) for stem, mine in sorted(counts.items())})
    pods = {stem: max(mine.values()) for stem, mine in counts.items()}
    _group(answers, found, set(serving), pods)
    return found


def _owner(kind: str, name: str, namespace: str, sets: dict[tuple[str, str], tuple[str, str]]) -> tuple[str, str]:
    """Return kind and name of the workload; of a ReplicaSet its own owner."""
    if kind in _NOBODY or name in _NOBODY:
        return "", ""
    if kind != "ReplicaSet":
        return kind, name
    revision = _REVISION.fullmatch(name)
    base = revision.group(1) if revision else name
    return sets.get((namespace, base), ("Deployment", base))


def _group(answers: Answers, found: Owners, serving: set[Stem], pods: dict[Stem, float]) -> None:
    """Put workers of a group to their leaders."""
    stems = set(found.known)
    for name in ("dcgm.holders", "agent.holders", "state.gpu_requests", "containers.pods"):
        stems |= {(namespace_of(labels), labels["workload"]) for labels, _, _ in answers.each(name)}
    for stem in stems - serving:
        match = _GROUP.fullmatch(stem[1])
        leader = (stem[0], match.group(1)) if match else None
        if leader is None or leader not in serving:
            continue
        if stem in found.known and found.known[stem].kind != "StatefulSet":
            continue
        found.groups[stem] = leader
        found.workers[leader] = max(found.workers.get(leader, 0), round(pods.get(stem, 1.0)))
        old = found.known.get(leader)
        if old is not None:
            found.known[leader] = Owner(old.namespace, old.name, "LeaderWorkerSet", old.source)
