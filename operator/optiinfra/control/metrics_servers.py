"""The metrics servers that are asked: those that the cluster's object names, else the installation's own.

A server is opened when it is first needed and closed when nobody names it any more. Credentials belong to the address
that the settings name and go nowhere else: whoever may write a ClusterResourceOptimization must not learn the token of
the installation's server. How each server answers is a gauge, and a log line when it changes; nothing is retried here.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from yarl import URL

from optiinfra import metrics
from optiinfra.api.v1alpha1.cluster_resource_optimization import MetricsSource, MetricsSourceType
from optiinfra.cluster.errors import ClusterError, Denied, Invalid, Malformed, Unconfigured
from optiinfra.cluster.prometheus_http import PrometheusHttp
from optiinfra.cluster.prometheus_range import QueryLimits
from optiinfra.cluster.prometheus_server import PrometheusServer
from optiinfra.cluster.series_window import RawWindow, ask_window
from optiinfra.control.registry import Registry
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.settings import OperatorSettings

_LOG = logging.getLogger(__name__)
_MOST_BYTES: Final = 16 << 20


@dataclass(slots=True)
class MetricsServer:
    """One server with open connections, and how it answered last."""

    url: str
    http: PrometheusHttp
    timeout_s: float
    trouble: Unknown | None = None
    """Why it did not answer last; None while it does."""
    _asked: bool = False

    @property
    def shown(self) -> str:
        """Its address without what may be secret in it."""
        return self.http.server.shown

    async def window(self, selector: str, *, seconds: float, purpose: str) -> RawWindow:
        """Ask for the raw samples of a window. Raises `ClusterError`."""
        began = time.monotonic()
        try:
            answer = await ask_window(self.http, selector, seconds=seconds, timeout_s=self.timeout_s)
        except ClusterError as error:
            metrics.METRICS_SERVER_QUERIES.labels(purpose, type(error).__name__).inc()
            raise
        finally:
            metrics.METRICS_SERVER_SECONDS.labels(purpose).observe(time.monotonic() - began)
        metrics.METRICS_SERVER_QUERIES.labels(purpose, "ok").inc()
        metrics.METRICS_SERVER_SAMPLES.labels(purpose).inc(answer.samples)
        return answer

    def answered(self, trouble: Unknown | None) -> None:
        """Note how a whole turn of questions ended: the gauge, and a line when that is news."""
        metrics.METRICS_SERVER_UP.labels(self.shown).set(0 if trouble else 1)
        if trouble is not None and (self.trouble is None or self.trouble.reason is not trouble.reason):
            _LOG.warning("metrics server not read", extra={"server": self.shown, "error": trouble.detail})
        elif trouble is None and (self.trouble is not None or not self._asked):
            _LOG.info("metrics server read", extra={"server": self.shown})
        self.trouble, self._asked = trouble, True


@dataclass(slots=True)
class MetricsServers:
    """Opens what is named. Close it at the end."""

    settings: OperatorSettings
    registry: Registry
    connect: Callable[[PrometheusServer, QueryLimits], PrometheusHttp] = lambda server, limits: PrometheusHttp(
        server, limits=limits
    )
    _open: dict[str, MetricsServer] = field(default_factory=dict)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)

    def sources(self) -> tuple[MetricsSource, ...]:
        """What the cluster's object lists, in the order of preference; empty without one."""
        cluster = next((known for _, known in self.registry.clusters()), None)
        return cluster.spec.metrics_sources if cluster is not None else ()

    def urls(self) -> tuple[str, ...]:
        """Addresses in the order in which they are asked: the cluster's object's, else the settings'."""
        named = [str(one.url) for one in self.sources() if one.type is MetricsSourceType.PROMETHEUS and one.url]
        own = self.settings.prometheus_url
        return tuple(dict.fromkeys(named or ([own] if own else [])))

    @property
    def agents_read(self) -> bool:
        """Whether the node agents are asked: where nothing is listed, or they are."""
        listed = self.sources()
        return not listed or any(one.type is MetricsSourceType.AGENT for one in listed)

    @property
    def agents_rank(self) -> int:
        """Place of the agents in the list: the lowest is preferred."""
        kinds = [one.type for one in self.sources()]
        return kinds.index(MetricsSourceType.AGENT) if MetricsSourceType.AGENT in kinds else 0

    def rank_of(self, url: str) -> int:
        """Place of a server in the list."""
        urls = [str(one.url) for one in self.sources()]
        return urls.index(url) if url in urls else len(urls)

    @property
    def nodes_read(self) -> bool:
        """Whether servers are asked about nodes: only where the cluster's object lists one."""
        return any(one.type is MetricsSourceType.PROMETHEUS for one in self.sources())

    async def all(self) -> tuple[tuple[MetricsServer, ...], Unknown | None]:
        """Return every named server that could be opened, and why the first of the others could not."""
        async with self._opening:
            urls = self.urls()
            for gone in [url for url in self._open if url not in urls]:
                await self._close(gone)
            failed: Unknown | None = None
            for url in urls:
                if url not in self._open:
                    try:
                        self._open[url] = await self._connected(url)
                    except (ClusterError, ValueError) as error:
                        failed = failed or Unknown(UnknownReason.NOT_CONFIGURED, str(error)[:256])
            return tuple(self._open[url] for url in urls if url in self._open), failed

    async def aclose(self) -> None:
        """Close all connections."""
        for url in tuple(self._open):
            await self._close(url)

    async def _connected(self, url: str) -> MetricsServer:
        settings = self.settings
        limits = QueryLimits(
            timeout_s=settings.prometheus_timeout_seconds, at_once=settings.prometheus_concurrency, bytes=_MOST_BYTES
        )
        http = self.connect(self.described(url), limits)
        await http.__aenter__()
        return MetricsServer(url, http, settings.prometheus_timeout_seconds)

    def described(self, url: str) -> PrometheusServer:
        """Return where a server is and how to be let in: with credentials only where the settings name it."""
        settings = self.settings
        if url.rstrip("/") != settings.prometheus_url.rstrip("/"):
            return PrometheusServer(URL(url))
        return PrometheusServer(
            URL(url),
            token_file=settings.prometheus_token_file,
            authority_file=settings.prometheus_ca_file,
            user=settings.prometheus_user,
            password_file=settings.prometheus_password_file,
            certificate_file=settings.prometheus_certificate_file,
            key_file=settings.prometheus_key_file,
            tenant=settings.prometheus_tenant,
        )

    async def _close(self, url: str) -> None:
        server = self._open.pop(url)
        await server.http.__aexit__(None, None, None)
        metrics.METRICS_SERVER_UP.remove(server.shown)


def unknown_of(error: ClusterError) -> Unknown:
    """Return what a server's error means for what was asked of it."""
    reason = UnknownReason.UNREACHABLE
    if isinstance(error, Denied):
        reason = UnknownReason.REFUSED
    elif isinstance(error, Malformed | Invalid):
        reason = UnknownReason.INVALID
    elif isinstance(error, Unconfigured):
        reason = UnknownReason.NOT_CONFIGURED
    return Unknown(reason, str(error)[:256])
