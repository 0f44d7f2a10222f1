"""What a metrics server holds at all, and how its series name pods: read from the first, small questions.

The questions of the second round are made from this: only of exporters that are there, with the labels that are
there. Scrape configurations rename labels (`kubernetes_pod_name`, `pod_name`), and where a target has the labels of its
own pod they are written over those of the pod that a series is about, which survive as `exported_pod`. A label that was
not found is not asked for, because every `label_replace` costs the server time at every step.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain.report.frames import Frame

NAMESPACE_LABELS: Final = ("k8s_namespace_name", "kubernetes_namespace", "namespace", "exported_namespace")
"""Weakest first: a later one that is not empty wins."""
POD_LABELS: Final = ("k8s_pod_name", "kubernetes_pod_name", "pod_name", "pod", "exported_pod")
CONTAINER_LABELS: Final = ("k8s_container_name", "container_name", "container", "exported_container")
NODE_LABELS: Final = ("kubernetes_node", "nodename", "node", "exported_node")
SERVICE_LABELS: Final = ("job", "service")
"""What remains where no series names its pod: the weakest first."""
REPLICA_LABELS: Final = ("prometheus_replica", "replica", "prometheus")
"""Labels by which highly available metrics servers tell their copies apart."""
CLUSTER_LABELS: Final = ("cluster", "k8s_cluster", "cluster_name")
SEVERAL: Final = 20
"""Names listed at most."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """The labels by which one kind of series names what it is about; of each the weakest first."""

    namespace: tuple[str, ...] = ("namespace",)
    pod: tuple[str, ...] = ("pod",)
    container: tuple[str, ...] = ("container",)
    node: tuple[str, ...] = ("node",)
    by_service: bool = False
    """No series names a pod: `pod` holds the label of the service or of the scrape job instead."""

    @property
    def unusual(self) -> tuple[str, ...]:
        """Return the labels used that are not the usual ones."""
        usual = {"namespace", "pod", "container", "node"}
        return tuple(sorted({*self.namespace, *self.pod, *self.container, *self.node} - usual))


@dataclass(frozen=True, slots=True)
class Found:
    """What a server holds. The default is a server that holds everything under the usual labels."""

    names: frozenset[str] | None = None
    """Those of the names that were looked for; None: not looked."""
    engines: Spelling = Spelling()
    gpus: Spelling = Spelling()
    state: Spelling = Spelling()
    """kube-state-metrics."""
    containers: Spelling = Spelling()
    """cAdvisor."""
    namespaces: tuple[str, ...] = ()
    """With model servers or held GPUs; empty: not looked, all count."""
    clusters: tuple[str, ...] = ()
    """Values of the label that tells clusters apart, where a namespace with models or GPUs is in several."""
    copies: tuple[str, ...] = ()
    """Values of the label that tells copies of the metrics server apart, where there are several."""
    looked: bool = False
    existing: frozenset[str] | None = None
    """Which of the names that questions read exist; None: not looked up, all may."""
    single: frozenset[str] = frozenset()
    """Engines whose pages came once wherever it was looked: of them nothing has to become one before it is added up,
    which is half of a server's work at each step."""

    def has(self, *names: str) -> bool:
        """Tell whether one of some series is there, or may be."""
        return self.names is None or bool(self.names & set(names))

    def may_exist(self, name: str) -> bool:
        """Tell whether a series is there, or may be, of any name."""
        return self.existing is None or name in self.existing


def single(frames: Iterable[Frame]) -> frozenset[str]:
    """Read the answers to `engines.promql_fleet.sharing_questions`: engines whose pages came once."""
    return frozenset(
        frame.question.name.rpartition(".")[2]
        for frame in frames
        if np.isfinite(frame.values).any() and float(np.nanmax(frame.values)) <= 1.0
    )


def namespace_of(labels: Mapping[str, str]) -> str:
    """Return the namespace that a series is about, of all labels that may tell it."""
    return _strongest(labels, NAMESPACE_LABELS)


def container_of(labels: Mapping[str, str]) -> str:
    """Return the container that a series is about."""
    return _strongest(labels, CONTAINER_LABELS)


def _strongest(labels: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((labels[name] for name in reversed(names) if labels.get(name)), "")


def found(frames: Iterable[Frame], *, labels: Mapping[str, frozenset[str]] | None = None) -> Found:
    """Read the answers to `engines.promql_fleet.discovery_questions`.

    `labels`: kind of series (engines, gpus, state, containers) -> labels that they have, as the server's index tells;
    of what it does not tell, the answers to `found.labels.*` count.
    """
    indexed = {} if labels is None else labels
    given = {frame.question.name: frame for frame in frames}
    names = {key for frame in given.values() for key in _values(frame, "__name__")}
    return Found(
        names=frozenset(names),
        engines=_spelling(_there(given, indexed, "engines"), services=True),
        gpus=_spelling(_there(given, indexed, "gpus"), services=False),
        state=_spelling(_there(given, indexed, "state"), services=False),
        containers=_spelling(_there(given, indexed, "containers"), services=False),
        namespaces=_namespaces(given),
        clusters=_clusters(given),
        copies=_several(given, REPLICA_LABELS),
        looked=True,
    )


def _values(frame: Frame | None, label: str) -> set[str]:
    if frame is None or label not in frame.question.by:
        return set()
    at = frame.question.by.index(label)
    seen = np.isfinite(frame.values)
    return {key[at] for row, key in enumerate(frame.keys) if key[at] and bool(seen[row].any())}


def _there(given: Mapping[str, Frame], indexed: Mapping[str, frozenset[str]], kind: str) -> frozenset[str]:
    told = indexed.get(kind)
    return frozenset(_values(given.get(f"found.labels.{kind}"), "label")) if told is None else told


def _spelling(there: frozenset[str], *, services: bool) -> Spelling:
    if not there:
        return Spelling()
    pods: tuple[str, ...] = tuple(label for label in POD_LABELS if label in there)
    by_service = services and not pods
    if by_service:
        pods = tuple(label for label in SERVICE_LABELS if label in there)
    return Spelling(
        namespace=tuple(label for label in NAMESPACE_LABELS if label in there) or ("namespace",),
        pod=pods or ("pod",),
        container=tuple(label for label in CONTAINER_LABELS if label in there) or ("container",),
        node=tuple(label for label in NODE_LABELS if label in there) or ("node",),
        by_service=by_service,
    )


def _namespaces(given: Mapping[str, Frame]) -> tuple[str, ...]:
    """Return the namespaces of model servers and of those who hold GPUs, without those of exporters alone."""
    engines, exporters = _told(given.get("found.engines")), _told(given.get("found.gpus"))
    names = {told[-1] for told in engines if told}
    names |= {told[-1] for told in exporters if len(told) > 1}
    # Where the scrape writes the exporter's namespace beside a holder's, it is no holder's where it stands alone.
    own = {one for told in exporters if len(told) > 1 for one in told[:-1]}
    names |= {told[0] for told in exporters if len(told) == 1 and told[0] not in own}
    return tuple(sorted(names))


def _told(frame: Frame | None) -> list[tuple[str, ...]]:
    """Return the namespaces that each row names, the weakest label first."""
    if frame is None:
        return []
    places = [frame.question.by.index(label) for label in NAMESPACE_LABELS if label in frame.question.by]
    return [tuple(key[at] for at in places if key[at]) for key in frame.keys]


def _clusters(given: Mapping[str, Frame]) -> tuple[str, ...]:
    """Return clusters that share a namespace: what is called alike in it cannot be told apart."""
    homes: dict[tuple[str, str], set[str]] = {}
    wanted = set(_namespaces(given))
    for source in ("found.engines", "found.gpus"):
        frame = given.get(source)
        if frame is None:
            continue
        for key in frame.keys:
            labels = dict(zip(frame.question.by, key, strict=True))
            for label in CLUSTER_LABELS:
                if labels.get(label) and namespace_of(labels) in wanted:
                    homes.setdefault((namespace_of(labels), label), set()).add(labels[label])
    shared = {one for clusters in homes.values() if len(clusters) > 1 for one in clusters}
    return tuple(sorted(shared))[:SEVERAL]


def _several(given: Mapping[str, Frame], labels: tuple[str, ...]) -> tuple[str, ...]:
    for label in labels:
        values: set[str] = set()
        for source in ("found.engines", "found.gpus", "found.state"):
            values |= _values(given.get(source), label)
        if len(values) > 1:
            return tuple(sorted(values))[:SEVERAL]
    return ()
