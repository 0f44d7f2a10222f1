"""Which pages there are to read now: one for each ready engine pod of a service, one for each node's agent.

Addresses come from the API server's pods, never from anything an engine or an agent says. Pods that are not ready are
not asked: their engines load models and would only time out.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from optiinfra.api.v1alpha1 import Engine, ResourceOptimization
from optiinfra.api.v1alpha1.resource_optimization import EngineSource
from optiinfra.cluster.errors import ClusterError
from optiinfra.cluster.fetch import Transport, page_url
from optiinfra.cluster.inventory import Inventory
from optiinfra.control.keys import ObjectKey
from optiinfra.control.registry import Registry
from optiinfra.control.scraper import Source
from optiinfra.control.targets import TargetTable
from optiinfra.settings import OperatorSettings, Scope

_LOG = logging.getLogger(__name__)


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

    def all(self) -> Iterator[Source]:
        """Every page that is to be read now."""
        if not self.inventory.synced:
            return
        seen: set[str] = set()
        for key, obj in self.registry.services():
            try:
                yield from self._engines(key, obj, seen)
            except ClusterError as error:  # one object's selector or path must not stop the reading of all others
                if self._told.get(key) != str(error):
                    self._told[key] = str(error)
                    _LOG.warning("engines not read", extra={"object": str(key), "error": str(error)})
        self.pods.intersection_update(seen)
        self.pods.update(seen)
        if self.settings.scope is Scope.CLUSTER:
            yield from self._agents()

    def _engines(self, key: ObjectKey, obj: ResourceOptimization, seen: set[str]) -> Iterator[Source]:
        engine: Engine = obj.spec.engine
        read = not obj.spec.suspend and engine.source is EngineSource.PODS
        references = [obj.spec.target_ref] if obj.spec.target_ref else [v.target_ref for v in obj.spec.variants or ()]
        for reference in references:
            known = self.targets.get(key.namespace, reference)
            if known is None or known.facts is None or not known.facts.selector:
                continue
            for pod in self.inventory.pods_of(key.namespace, known.facts.selector):
                seen.add(pod.uid)
                if read and pod.ip and pod.ready and not pod.terminating:
                    url = page_url(host=pod.ip, port=engine.port, path=str(engine.path), scheme=str(engine.scheme))
                    yield Source(
                        kind="engine",
                        owner=key,
                        key=pod.uid,
                        url=url,
                        interval=self.settings.scrape_interval_seconds,
                        transport=Transport(scheme=str(engine.scheme)),
                    )

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
