"""`optiinfra operator`: one replica of the operator in one process, until SIGTERM.

Everything is put together here and nowhere else: settings, control, Kopf's watch, the HTTP servers. A lost Lease, or a
part that cannot go on, ends the process with an error, so that the kubelet starts a clean one.
"""

import asyncio
import contextlib
import dataclasses
import gc
import importlib
import logging
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click
from aiohttp import web

from optiinfra import footprint, handlers, logs
from optiinfra.cluster.access import Access, Attributes, RequestHeaders
from optiinfra.cluster.errors import Absent, ClusterError, Denied
from optiinfra.cluster.proxy import LeaderProxy
from optiinfra.control.assembly import running
from optiinfra.control.operator import Operator
from optiinfra.errors import OptiInfraError, SettingsError
from optiinfra.settings import OperatorSettings, read_settings
from optiinfra.web.external_metrics import ExternalMetrics, reviewed, tls_context
from optiinfra.web.followers import LeaderDecisions
from optiinfra.web.ports import Caller, Component, Decision, Preview, PreviewedTarget, PreviewedWrite, Promised, Ticket

_LOG = logging.getLogger(__name__)
_HTTP_WAITS = 2.0
"""Seconds that HTTP waits for the first statuses at most."""
_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between the tries to read what external metrics cannot be served without."""


@dataclass(frozen=True, slots=True)
class _View:
    """The operator in the words of the HTTP side."""

    operator: Operator
    beside: Mapping[str, Callable[[], Component]] = field(default_factory=dict)
    """Parts that are no part of control: servers of this process."""

    @property
    def leading(self) -> bool:
        return self.operator.leading

    @property
    def leader_address(self) -> str:
        return self.operator.leader_address

    def ready(self) -> Component:
        return Component(*self.operator.ready())

    def alive(self) -> Component:
        return Component(*self.operator.alive())

    def components(self) -> Mapping[str, Component]:
        parts = {name: Component(*state) for name, state in self.operator.health().items()}
        return parts | {name: health() for name, health in self.beside.items()}

    def objects(self, namespace: str | None) -> Sequence[Mapping[str, Any]]:
        return self.operator.objects(namespace)

    def find(self, kind: Any, namespace: str, name: str) -> Mapping[str, Any] | None:
        return self.operator.find(kind, namespace, name)

    def run_now(self, kind: Any, namespace: str, name: str) -> Ticket | None:
        ticket = self.operator.run_now(kind, namespace, name)
        return None if ticket is None else Ticket(ticket)

    def promised(self, kind: Any, namespace: str, name: str, round_id: str) -> Promised:
        found = self.operator.promise(kind, namespace, name, round_id)
        return Promised(str(found.state), found.message)

    async def manifest(self, api_version: str, kind: str, namespace: str, name: str) -> Mapping[str, Any]:
        return await self.operator.manifest(api_version, kind, namespace, name)

    async def preview(self, kind: Any, namespace: str, name: str, *, within: float) -> Preview | None:
        found = await self.operator.preview(kind, namespace, name, within=within)
        if found is None:
            return None
        return Preview(
            writes=tuple(PreviewedWrite(**dataclasses.asdict(one)) for one in found.writes),
            more=found.more,
            published=found.published,
            targets=tuple(PreviewedTarget(**dataclasses.asdict(one)) for one in found.targets),
            problem=found.problem,
        )

    def decisions(self, namespace: str) -> Sequence[Decision]:
        return [
            Decision(item.namespace, item.name, item.replicas, item.decided_at)
            for item in self.operator.decisions(namespace)
        ]


@dataclass(frozen=True, slots=True)
class _Reviewer:
    """Authentication and authorisation by the API server, in the words of the HTTP side."""

    access: Access

    async def authenticate(self, token: str) -> Caller | None:
        identity = await self.access.review_token(token)
        return None if identity is None else Caller(identity.user, identity.groups, identity.extra)

    async def authorize(
        self, caller: Caller, *, verb: str, group: str, resource: str, namespace: str, name: str, subresource: str
    ) -> bool:
        attributes = Attributes(verb, group, resource, namespace, name, subresource)
        return (await self.access.may(caller, attributes)).allowed


@contextlib.asynccontextmanager
async def _external_metrics(
    settings: OperatorSettings, operator: Operator, reviewer: _Reviewer, proxy: LeaderProxy
) -> AsyncIterator[None]:
    """Serve external.metrics.k8s.io while the context is open, where it is enabled."""
    if not settings.external_metrics_enabled:
        yield
        return
    headers = await _request_headers(operator.access)
    view = _View(operator)
    decisions = LeaderDecisions(view, proxy, settings.proxy_token_file)
    api = ExternalMetrics(decisions=decisions.of, permit=reviewed(reviewer), headers=headers)
    context = tls_context(
        certificate_file=str(settings.tls_certificate_file),
        key_file=str(settings.tls_key_file),
        client_authority=headers.client_authority,
    )
    runner = web.AppRunner(api.application(), access_log=None, keepalive_timeout=60.0)
    await runner.setup()
    try:
        await web.TCPSite(
            runner, settings.http_host, settings.external_metrics_port, ssl_context=context, backlog=64
        ).start()
        _LOG.info("external metrics served", extra={"port": settings.external_metrics_port})
        yield
    finally:
        await runner.cleanup()


async def _request_headers(access: Access) -> RequestHeaders:
    """Read the front proxy's configuration, patiently: an API server in trouble must not end the whole operator."""
    for pause in _PAUSES:
        try:
            return await access.request_headers()
        except (Absent, Denied):
            raise
        except ClusterError as error:
            _LOG.warning("the front proxy's configuration is read again", extra={"error": str(error)})
            await asyncio.sleep(pause)
    return await access.request_headers()


@contextlib.asynccontextmanager
async def _keda_scaler(
    settings: OperatorSettings, operator: Operator, proxy: LeaderProxy
) -> AsyncIterator[Mapping[str, Callable[[], Component]]]:
    """Serve KEDA's external scaler while the context is open, where it is enabled; yields its health."""
    certificate, key = settings.keda_certificate_file, settings.keda_key_file
    if not settings.keda_scaler_enabled or certificate is None or key is None:
        yield {}
        return
    # Not imported by those who do not use it: it takes 5 MiB and a tenth of a second.
    keda, scaler = await asyncio.to_thread(
        lambda: [importlib.import_module(f"optiinfra.web.keda.{name}") for name in ("server", "scaler")]
    )
    view = _View(operator)
    answers = scaler.ExternalScaler(
        LeaderDecisions(view, proxy, settings.proxy_token_file),
        lambda namespace, name: view.find("ResourceOptimization", namespace, name),
    )
    tls = keda.TlsFiles(certificate, key, settings.keda_client_ca_file)
    async with keda.serving(answers, host=settings.http_host, port=settings.keda_scaler_port, tls=tls) as (
        server,
        port,
    ):
        _LOG.info("KEDA external scaler served", extra={"port": port, "mutual_tls": tls.client_authority is not None})
        yield {"keda_scaler": server.health}


async def run(settings: OperatorSettings) -> None:
    """Run one replica until SIGTERM or SIGINT.

    Raises:
        LeadershipLost: and every other error that must end the process.
    """
    stop = asyncio.Event()
    _take_signals(stop)
    async with running(settings) as operator, LeaderProxy() as proxy:
        reviewer = _Reviewer(operator.access)
        async with (
            _external_metrics(settings, operator, reviewer, proxy),
            _keda_scaler(settings, operator, proxy) as beside,
            asyncio.TaskGroup() as group,
        ):
            view = _View(operator, beside)
            work = group.create_task(_until_done(operator.run(stop), stop))
            group.create_task(_until_done(handlers.run(operator.loop, settings, stop=stop), stop))
            group.create_task(_until_done(_serve(settings, view, reviewer, proxy, until=work), stop))


async def _serve(
    settings: OperatorSettings,
    view: _View,
    reviewer: _Reviewer,
    proxy: LeaderProxy,
    *,
    until: "asyncio.Task[None]",
) -> None:
    """Serve health, metrics and the HTTP API until the operator has ended.

    FastAPI takes an eighth of the whole start to import: that waits for the first statuses, though not for long.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_HTTP_WAITS):
            await view.operator.told.wait()
    app_module, server_module = await asyncio.to_thread(_import_web)
    app = app_module.create_app(
        operator=view,
        reviewer=reviewer if settings.http_authentication else None,
        forwarder=proxy,
    )
    async with server_module.serving(app, host=settings.http_host, port=settings.http_port) as port:
        _LOG.info("operator started", extra={"port": port, "identity": settings.identity})
        view.operator.loop.trimmer.after_start()
        await asyncio.wait({until})


def _import_web() -> tuple[Any, Any]:
    with footprint.lean_imports(lasting=False):
        importlib.import_module("fastapi.openapi.models")  # for the document that hardly anybody asks for
    # Not our own models: FastAPI takes aliases amiss of those that are not built yet.
    return importlib.import_module("optiinfra.web.app"), importlib.import_module("optiinfra.web.server")


def _take_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _until_done(work: Any, stop: asyncio.Event) -> None:
    try:
        await work
    finally:
        stop.set()  # whatever ended one of the two ends the other, too


def _first_reason(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@click.command()
def operator() -> None:
    """Run the operator. Its settings are environment variables OPTIINFRA_*; see docs/reference/settings.md."""
    try:
        settings = read_settings()
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    logs.configure(settings.log_level)
    gc.freeze()  # modules and models stay: no later collection walks through them
    footprint.small_tls_buffers()
    if settings.kubeconfig is not None:
        os.environ["KUBECONFIG"] = str(settings.kubeconfig)  # Kopf's own login reads it
    try:
        asyncio.run(run(settings))
    except (OptiInfraError, ClusterError, ssl.SSLError, OSError, BaseExceptionGroup) as error:
        reason = _first_reason(error)
        if not isinstance(reason, OptiInfraError | ClusterError | ssl.SSLError | OSError):
            raise
        _LOG.error("operator ended", extra={"error": f"{type(reason).__name__}: {reason}"})
        sys.exit(1)
