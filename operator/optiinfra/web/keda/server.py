"""Listens for KEDA: TLS always, a client certificate where a CA for it is given, certificates renewed in place.

There is no plain port: whoever answers this call sizes people's services. KEDA's protocol has no token, so mutual TLS
(`caCert`, `tlsClientCert`, `tlsClientKey` of a TriggerAuthentication) and a NetworkPolicy are all there can be.
Files are looked at every half minute; new ones hold for connections from then on, ones that do not fit are said
(health, log) and the old ones stay.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from optiinfra import metrics
from optiinfra.errors import OptiInfraError
from optiinfra.web.keda.connection import Connection, Limits, Service
from optiinfra.web.keda.scaler import ExternalScaler
from optiinfra.web.ports import Component

_LOG = logging.getLogger(__name__)
_SERVICE = "/externalscaler.ExternalScaler/"
LOOK_SECONDS = 30.0


class KedaServerError(OptiInfraError):
    """The external scaler could not be served."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files."""

    certificate: Path
    key: Path
    client_authority: Path | None = None
    """CA of client certificates; None asks for none."""

    def context(self) -> ssl.SSLContext:
        """Read the files.

        Raises:
            KedaServerError: naming what cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        try:
            context.load_cert_chain(self.certificate, self.key)
            if self.client_authority is not None:
                context.load_verify_locations(self.client_authority)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            names = ", ".join(str(path) for path in (self.certificate, self.key, self.client_authority) if path)
            raise KedaServerError(f"certificates of the KEDA scaler ({names}): {error}") from error
        return context

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Tell one state of the files from another; a file that is away is a state, too."""
        found = []
        for path in (self.certificate, self.key, self.client_authority):
            if path is None:
                continue
            try:
                stat = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return tuple(found)


@dataclass(slots=True)
class KedaServer:
    """The listener. Use `serving`."""

    service: Service
    tls: TlsFiles
    limits: Limits
    problem: str = ""
    """Why the newest certificates are not in use; empty when they are."""
    accepted: int = 0
    """Connections so far."""
    _listener: socket.socket | None = None
    _server: asyncio.Server | None = None
    _connections: dict["asyncio.Task[None]", Connection] = field(default_factory=dict)

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port really used."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise KedaServerError(f"KEDA scaler on {host}:{port} did not start: {error.strerror or error}") from error
        try:
            await self._listen(self.tls.context())
        except BaseException:
            self._listener.close()
            raise
        return int(self._listener.getsockname()[1])

    async def _listen(self, context: ssl.SSLContext) -> None:
        # The socket stays open while certificates change hands, so that no connection is refused meanwhile.
        assert self._listener is not None
        before = self._server
        self._server = await asyncio.start_server(
            self._serve,
            sock=self._listener.dup(),
            ssl=context,
            ssl_handshake_timeout=self.limits.handshake_seconds,
            ssl_shutdown_timeout=1.0,
        )
        if before is not None:
            before.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        spoken = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        if len(self._connections) >= self.limits.connections or spoken != "h2":
            reason = "too many connections" if spoken == "h2" else "the peer does not speak HTTP/2"
            _LOG.warning("KEDA connection refused", extra={"reason": reason})
            writer.transport.abort()
            return
        connection = self._connections[task] = Connection(reader, writer, service=self.service, limits=self.limits)
        self.accepted += 1
        metrics.KEDA_CONNECTIONS.set(len(self._connections))
        try:
            await connection.run()
        finally:
            del self._connections[task]
            metrics.KEDA_CONNECTIONS.set(len(self._connections))

    async def renew(self, *, every: float = LOOK_SECONDS) -> None:
        """Take new certificates into use, for ever."""
        seen = self.tls.stamp()
        while True:
            await asyncio.sleep(every)
            now = self.tls.stamp()
            if now == seen and not self.problem:
                continue
            try:
                await self._listen(self.tls.context())
            except (KedaServerError, OSError) as error:
                if str(error) != self.problem:
                    self.problem = str(error)
                    _LOG.warning("new certificates of the KEDA scaler not used", extra={"error": self.problem})
                continue
            seen, self.problem = now, ""
            _LOG.info("new certificates of the KEDA scaler in use")

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        if self._listener is not None:
            self._listener.close()
        # Not cancelled: asyncio's streams would log each as a failure.
        for connection in self._connections.values():
            connection.leave()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def health(self) -> Component:
        """Whether it is served with the certificates that are there."""
        connections = len(self._connections)
        return Component(not self.problem, self.problem or f"{connections} connections")


def service_of(scaler: ExternalScaler) -> Service:
    """Map KEDA's paths to the scaler. StreamMetricSpec, which is optional, is left out: the metric never changes."""
    return Service(
        unary={
            f"{_SERVICE}IsActive": scaler.is_active,
            f"{_SERVICE}GetMetricSpec": scaler.get_metric_spec,
            f"{_SERVICE}GetMetrics": scaler.get_metrics,
        },
        streaming={f"{_SERVICE}StreamIsActive": scaler.stream_is_active},
    )


@contextlib.asynccontextmanager
async def serving(
    scaler: ExternalScaler,
    *,
    host: str,
    port: int,
    tls: TlsFiles,
    limits: Limits | None = None,
    look_seconds: float = LOOK_SECONDS,
) -> AsyncIterator[tuple[KedaServer, int]]:
    """Serve while the context is open; yields the server and its port (0 asks for a free one).

    Raises:
        KedaServerError: the port is taken, or the certificates cannot be used.
    """
    server = KedaServer(service_of(scaler), tls, limits or Limits())
    used = await server.start(host, port)
    renewal = asyncio.create_task(server.renew(every=look_seconds), name="keda-certificates")
    try:
        yield server, used
    finally:
        renewal.cancel()
        await asyncio.gather(renewal, return_exceptions=True)
        await server.stop()
