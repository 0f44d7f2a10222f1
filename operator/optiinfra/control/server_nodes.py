"""Nodes and GPUs by metrics servers, where the cluster's object lists one in `metricsSources`.

Two queries a turn for all nodes, GPUs and hosts; what comes back of a node becomes a reading as its agent's would be,
so that idle GPUs and utilisation are judged alike. The order of the list decides: a source is taken for a node only
while no earlier one tells of it, and the snapshot store keeps one source's readings a node, because counters of two
sources are not one. A node that no server knows is said to be so.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from optiinfra import metrics
from optiinfra.cluster.errors import ClusterError
from optiinfra.control.metrics_servers import MetricsServer, MetricsServers, unknown_of
from optiinfra.control.snapshots import SnapshotStore
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import AgentReading, NodeFacts
from optiinfra.engines import node_series
from optiinfra.engines.errors import PageError
from optiinfra.engines.series import selector

_LOG = logging.getLogger(__name__)
_LOOK_S: Final = 5.0
_LEAST_SKEW: Final = 2.5


@dataclass(slots=True)
class ServerNodes:
    """Reads all nodes, over and over, while a server is listed."""

    nodes: Callable[[], Mapping[str, NodeFacts]]
    servers: MetricsServers
    store: SnapshotStore
    interval_s: float
    window_s: float
    """Of one question: two scrapes of an exporter at least."""
    stale_after_s: float
    matchers: str = ""
    attributed: Callable[[AgentReading], AgentReading] = lambda reading: reading
    """Completes what is said of who holds which GPU."""
    clock: Callable[[], float] = time.time
    _told: set[str] = field(default_factory=set)

    async def run(self) -> None:
        """Read for ever; cancel to stop."""
        while True:
            if not self.servers.nodes_read:
                await asyncio.sleep(_LOOK_S)
                continue
            began = time.monotonic()
            await self.turn()
            await asyncio.sleep(max(1.0, self.interval_s - (time.monotonic() - began)))

    async def turn(self) -> None:
        """Ask every listed server once about all nodes."""
        nodes = self.nodes()
        if not nodes:
            return
        servers, failed = await self.servers.all()
        unheard = dict.fromkeys(nodes, failed or Unknown(UnknownReason.NOT_CONFIGURED, "no metrics server is named"))
        for server in servers:
            try:
                heard = await self._from(server, nodes)
            except ClusterError as error:
                trouble = unknown_of(error)
                server.answered(trouble)
                unheard = dict.fromkeys(unheard, trouble)
                continue
            server.answered(None)
            for node in heard:
                unheard.pop(node, None)
            detail = f"{server.shown} has no fresh series of node"
            unheard = {node: Unknown(UnknownReason.NOT_MEASURED, f"{detail} {node}") for node in unheard}
        for node, why in unheard.items():
            if not self.servers.agents_read:
                self.store.agent_failed(node, why, at=UnixTime(self.clock()))

    async def _from(self, server: MetricsServer, nodes: Mapping[str, NodeFacts]) -> set[str]:
        series: list[node_series.Sampled] = []
        skew = 0.0
        for names in (node_series.GPU_NAMES, node_series.NODE_NAMES):
            answer = await server.window(
                selector(names, matchers=self.matchers), seconds=self.window_s, purpose="nodes"
            )
            series += [(one.labels, one.times, one.values) for one in answer.series]
            ahead = (answer.server_time or self.clock()) - self.clock()
            skew = ahead if abs(ahead) > _LEAST_SKEW else 0.0
        where = {(pod.namespace, pod.name): node.name for node in nodes.values() for pod in node.pods}
        sorted_out = node_series.by_node(
            series, nodes=nodes, node_of_pod=lambda namespace, pod: where.get((namespace, pod), "")
        )
        rank = self.servers.rank_of(server.url)
        heard: set[str] = set()
        for node, found in sorted_out.items():
            try:
                reading = node_series.reading_of(node, found, skew=skew)
            except PageError as error:
                self._tell(f"{server.shown}: node {node}: {error}")
                continue
            if self.clock() - reading.time > self.stale_after_s:
                continue
            heard.add(node)
            if self.store.offered(self.attributed(reading), source=server.shown, rank=rank):
                metrics.SCRAPES.labels("agent", "ok").inc()
        return heard

    def _tell(self, text: str) -> None:
        if text not in self._told and len(self._told) < 256:
            self._told.add(text)
            _LOG.warning("node not read", extra={"error": text})
