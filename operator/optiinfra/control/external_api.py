"""Whether `external.metrics.k8s.io` is ours: the cluster has one owner of it, and whoever has it keeps it.

The operator never writes the APIService: Helm registers it, and the chart refuses while another owner exists. Somebody
may take it over later (KEDA, an adapter). This is asked again every half minute on every replica, and a loss is said at
once where people look: health, a metric, a log line, and the condition of objects whose actuation needs the API.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Protocol

from optiinfra import metrics
from optiinfra.cluster.access import ServiceReference
from optiinfra.cluster.errors import ClusterError
from optiinfra.control.actuation import ExternalMetricsState

_LOG = logging.getLogger(__name__)
API = "external.metrics.k8s.io"
LOOK_SECONDS = 30.0


class OwnerReader(Protocol):
    """Asks the API server; `optiinfra.cluster.access` is the real one."""

    async def external_metrics_owner(self) -> ServiceReference | None:
        """Return the Service behind the APIService, or None when nobody claims it."""


@dataclass(slots=True)
class ExternalApi:
    """What is known of the API's owner."""

    access: OwnerReader
    enabled: bool
    service: ServiceReference
    """Our own Service."""
    state: ExternalMetricsState = field(
        default_factory=lambda: ExternalMetricsState(served=False, message="not asked yet")
    )

    async def look(self) -> None:
        """Ask once. What cannot be asked leaves what was known, and says so in the log."""
        try:
            found = await self._find()
        except ClusterError as error:
            _LOG.warning("owner of the external metrics API not asked", extra={"error": str(error)})
            return
        metrics.EXTERNAL_METRICS_SERVED.set(found.served)
        if found == self.state:
            return
        self.state = found
        if self.enabled:
            level = logging.INFO if found.served else logging.WARNING
            _LOG.log(level, "external metrics API", extra={"served": found.served, "reason": found.message or "ours"})

    async def watch(self) -> None:
        """Ask for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _find(self) -> ExternalMetricsState:
        if not self.enabled:
            return _not_served("the external metrics API is off: set externalMetrics.enabled in the chart's values")
        owner = await self.access.external_metrics_owner()
        if owner is None:
            return _not_served(f"no APIService sends {API} to a Service; upgrade the release to register it")
        if owner != self.service:
            return _not_served(f"Service {owner.namespace}/{owner.name} owns {API}; use actuation Signal")
        return ExternalMetricsState(served=True, message="")


def _not_served(message: str) -> ExternalMetricsState:
    return ExternalMetricsState(served=False, message=message)
