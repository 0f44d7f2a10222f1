"""Which pages there are to read now: one for each ready engine pod of a service, one for each node's agent.

Addresses come from the API server's pods, never from anything an engine or an agent says. Pods that are not ready are
not asked: their engines load models and would only time out. Engines of objects whose source is Prometheus are named
apart: their pages are asked of a metrics server, and nothing connects to their pods.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from optiinfra.api.v1alpha1 import Engine, ResourceOptimization
from optiinfra.api.v1alpha1.resource_optimization import EngineSource, EngineType
from optiinfra.cluster.errors import ClusterError
from optiinfra.cluster.fetch import Transport, page_url
from optiinfra.cluster.inventory import Inventory
from optiinfra.control.keys import ObjectKey
from optiinfra.control.registry import Registry
from optiinfra.control.scraper import Source
from optiinfra.control.targets import TargetTable
from optiinfra.domain.readings import EngineKind
from optiinfra.domain.workload import PodFacts
from optiinfra.settings import OperatorSettings, Scope

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EnginePod:
    """One pod whose engine's page is asked of a metrics server."""

    owner: ObjectKey
    uid: str
    namespace: str
    name: str
    port: int
    """Port of the page: of several targets in one pod, the one at this port is the engine's."""
    container: str = ""
    """Container of the page, where the object names it."""
    kind: EngineKind | None = None
    """The engine, where the object names it."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Names the pages of engines and agents."""

    settings: OperatorSettings
    registry: Registry
    targets: TargetTable
    inventory: Inventory
    _told: dict[ObjectKey, str] = field(default_factory=dict)
    """What was logged about an object last: this is asked several times a second."""
    pods: set[str] = field(default_factory=set)
    """Pods (uid) of all services as of the last time that sources were named: agents are asked about these."""
    names: set[tuple[str, str]] = field(default_factory=set)
    """Their namespaces and names, for agents that know no uids."""
    agents_read: Callable[[], bool] = lambda: True
    """Whether the agents are asked at all: the cluster's object may name other sources of node metrics."""

    def all(self) -> Iterator[Source]:
        """Every page that is to be read now."""
        if not self.inventory.synced:
            return
        seen: set[str] = set()
        called: set[tuple[str, str]] = set()
        for key, obj in self.registry.services():
            engine: Engine = obj.spec.engine
            read = not obj.spec.suspend and engine.source is EngineSource.PODS
            try:
                for pod in self._pods(key, obj):
                    seen.add(pod.uid)
                    called.add((key.namespace, pod.name))
                    if read and pod.ip and _serves(pod):
                        yield self._page(key, engine, pod)
            except ClusterError as error:  # one object's selector or path must not stop the reading of all others
                self._tell(key, error)
        # In place: the scraper holds on to these sets.
        self.pods.intersection_update(seen)
        self.pods.update(seen)
        self.names.intersection_update(called)
        self.names.update(called)
        if self.settings.scope is Scope.CLUSTER and self.agents_read():
            yield from self._agents()

    def in_prometheus(self) -> Iterator[EnginePod]:
        """Every ready engine pod whose object says that its page is in a metrics server."""
        if not self.inventory.synced:
            return
        for key, obj in self.registry.services():
            engine: Engine = obj.spec.engine
            if obj.spec.suspend or engine.source is not EngineSource.PROMETHEUS:
                continue
            try:
                for pod in self._pods(key, obj):
                    if _serves(pod):
                        yield EnginePod(
                            key,
                            pod.uid,
                            key.namespace,
                            pod.name,
                            engine.port,
                            str(engine.container_name),
                            forced(engine.type),
                        )
            except ClusterError as error:
                self._tell(key, error)

    def pod_uids(self) -> Iterator[str]:
        """Engine pods of both kinds: what is kept of others may go."""
        yield from (source.key for source in self.all() if source.kind == "engine")
        yield from (pod.uid for pod in self.in_prometheus())

    def _pods(self, key: ObjectKey, obj: ResourceOptimization) -> Iterator[PodFacts]:
        references = [obj.spec.target_ref] if obj.spec.target_ref else [v.target_ref for v in obj.spec.variants or ()]
        for reference in references:
            known = self.targets.get(key.namespace, reference)
            if known is not None and known.facts is not None and known.facts.selector:
                yield from self.inventory.pods_of(key.namespace, known.facts.selector)

    def _page(self, key: ObjectKey, engine: Engine, pod: PodFacts) -> Source:
        return Source(
            kind="engine",
            owner=key,
            key=pod.uid,
            url=page_url(host=pod.ip, port=engine.port, path=str(engine.path), scheme=str(engine.scheme)),
            interval=self.settings.scrape_interval_seconds,
            transport=Transport(scheme=str(engine.scheme)),
            engine=forced(engine.type),
        )

    def _tell(self, key: ObjectKey, error: ClusterError) -> None:
        if self._told.get(key) != str(error):
            self._told[key] = str(error)
            _LOG.warning("engines not read", extra={"object": str(key), "error": str(error)})

    def _agents(self) -> Iterator[Source]:
        settings = self.settings
        transport = Transport(
            accept="application/json",
            scheme="http" if settings.agent_tls_ca_file is None else "https",
            token_file=settings.agent_token_file,
            authority_file=settings.agent_tls_ca_file,
            certificate_file=settings.agent_tls_certificate_file,
            key_file=settings.agent_tls_key_file,
        )
        port, scheme = settings.agent_port, transport.scheme
        for pod in self.inventory.pods_of(self.settings.agents_namespace, self.settings.agent_selector):
            if pod.ip and pod.node and pod.ready and not pod.terminating:
                yield Source(
                    kind="agent",
                    key=pod.node,
                    url=page_url(host=pod.ip, port=port, path="/v1/snapshot", scheme=scheme),
                    interval=self.settings.agent_interval_seconds,
                    transport=transport,
                )


def forced(engine: EngineType) -> EngineKind | None:
    """Return the engine that an object names; None where the page decides."""
    return None if engine is EngineType.AUTO else EngineKind(str(engine))


def _serves(pod: PodFacts) -> bool:
    return pod.ready and not pod.terminating
