"""Puts an operator together: every part made once, from the settings, each handed what it needs and no more.

The only place that knows which real thing stands behind each protocol of `control`. Nothing is started here and
nothing is sent: that is `Operator.run`.
"""

import contextlib
import functools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from optiinfra import metrics
from optiinfra.analysis.factory import AdviserSettings, build_adviser
from optiinfra.analysis.insights import InsightsWorkflow
from optiinfra.analysis.retry import RetryPolicy
from optiinfra.analysis.round import RoundWorkflow
from optiinfra.cluster.access import Access, ServiceReference
from optiinfra.cluster.checkpoints import Checkpoints
from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.events import EventRecorder
from optiinfra.cluster.fetch import Fetcher
from optiinfra.cluster.floor import Floor
from optiinfra.cluster.inventory import Inventory
from optiinfra.cluster.kill_switch import KillSwitch
from optiinfra.cluster.kv_optkit import read_plan
from optiinfra.cluster.leases import Leases
from optiinfra.cluster.model_files import ModelFiles
from optiinfra.cluster.objects import Objects
from optiinfra.cluster.own_scaler import OwnScalers
from optiinfra.cluster.price_map import PriceMap
from optiinfra.cluster.price_opencost import read_opencost
from optiinfra.cluster.price_prometheus import read_prometheus
from optiinfra.cluster.resize import PodResizer
from optiinfra.cluster.sizing_rules import SizingRules
from optiinfra.cluster.status import StatusWriter
from optiinfra.cluster.targets import Targets
from optiinfra.cluster.usage import Usage
from optiinfra.control import attribution
from optiinfra.control.actuation import Actuator
from optiinfra.control.analyze import AnalysisTimes
from optiinfra.control.asking_floor import AskingFloor
from optiinfra.control.backfill import Backfill
from optiinfra.control.checkpoint import Checkpointer
from optiinfra.control.claims import Claims
from optiinfra.control.collect import Collector
from optiinfra.control.decisions import DecisionBoard
from optiinfra.control.external_api import ExternalApi
from optiinfra.control.floor_keeper import FloorKeeper
from optiinfra.control.insights import InsightsWorker
from optiinfra.control.keys import ObjectKey
from optiinfra.control.kill_switch import SwitchWatch
from optiinfra.control.kv_optkit import PlanBoard
from optiinfra.control.lease import Elector, LeaseTimes
from optiinfra.control.loop import ControlLoop
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.metrics_servers import MetricsServers
from optiinfra.control.model_files import ModelFileTable
from optiinfra.control.operator import Operator
from optiinfra.control.prices import PriceBoard, ReadLive
from optiinfra.control.prometheus_source import PrometheusPages
from optiinfra.control.queue import KeyedQueue
from optiinfra.control.registry import Registry
from optiinfra.control.resize import Resizer
from optiinfra.control.savings import SavingsBooks
from optiinfra.control.scraped_pages import Labelling
from optiinfra.control.scraper import Scraper
from optiinfra.control.server_nodes import ServerNodes
from optiinfra.control.server_usage import UsageWithServer
from optiinfra.control.sizing_rules import SizingRulesTable
from optiinfra.control.snapshots import SnapshotStore
from optiinfra.control.sources import Sources
from optiinfra.control.steps import Steps
from optiinfra.control.sweep import Sweep
from optiinfra.control.targets import TargetTable
from optiinfra.control.usage import UsageTable
from optiinfra.control.work import Problem, Work
from optiinfra.control.writer import Reporter
from optiinfra.domain.price_resolution import LivePrices
from optiinfra.domain.prices import PriceSource
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.settings import OperatorSettings, Scope


@contextlib.asynccontextmanager
async def running(settings: OperatorSettings) -> AsyncIterator[Operator]:
    """Assemble an operator with open connections; the caller runs it."""
    kubeconfig = str(settings.kubeconfig) if settings.kubeconfig is not None else None
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(KubernetesClient.from_environment(kubeconfig, observe=_observe_call))
        fetcher = await stack.enter_async_context(Fetcher(concurrency=settings.scrape_concurrency))
        operator = assemble(settings, client, fetcher)
        stack.push_async_callback(operator.insights.workflow.aclose)
        yield operator


@dataclass(slots=True)
class _Shared:
    """What several parts hold on to."""

    settings: OperatorSettings
    client: KubernetesClient
    namespaces: tuple[str, ...]
    registry: Registry
    memories: dict[ObjectKey, ObjectMemory]
    snapshots: SnapshotStore
    inventory: Inventory
    access: Access
    targets: Targets
    board: DecisionBoard
    floor: Floor
    acting: KubernetesClient
    """For writes into users' objects: the kill switch stops them, too."""
    switch: SwitchWatch
    queue: KeyedQueue[ObjectKey]
    model_files: ModelFileTable
    books: SavingsBooks
    claims: Claims
    silences: dict[ObjectKey, Problem]
    """Objects whose engines a metrics server does not tell of."""


def _shared(settings: OperatorSettings, client: KubernetesClient, elector: Elector) -> _Shared:
    namespaces = settings.watch_namespaces if settings.scope is Scope.NAMESPACES else ()
    registry, queue = Registry(), KeyedQueue[ObjectKey](clock=time.monotonic)
    switch = SwitchWatch(
        KillSwitch(client, namespace=settings.namespace, name=settings.control_config_map), clock=time.monotonic
    )

    def may_act() -> None:
        elector.check()
        switch.check()

    # Whatever writes into users' objects gets this one, and asks both in the moment before the bytes leave.
    acting = client.fenced(may_act)
    return _Shared(
        settings=settings,
        client=client,
        namespaces=namespaces,
        registry=registry,
        memories={},
        snapshots=SnapshotStore(keep_pages_seconds=max(240.0, 2.0 * settings.signal_window_seconds)),
        inventory=Inventory(client, namespaces=namespaces, claims=settings.dra_enabled),
        access=Access(client, audience=settings.token_audience),
        targets=Targets(client, namespaces=namespaces),
        board=DecisionBoard(clock=time.time),
        floor=Floor(acting),
        acting=acting,
        switch=switch,
        queue=queue,
        model_files=ModelFileTable(ModelFiles(client), registry, clock=time.monotonic, changed=queue.add),
        books=SavingsBooks(registry=registry, clock=time.monotonic),
        claims=Claims(f"{settings.namespace}/{settings.lease_name}", clock=time.time, steady=time.monotonic),
        silences={},
    )


def assemble(settings: OperatorSettings, client: KubernetesClient, fetcher: Fetcher) -> Operator:
    """Put the parts together."""
    elector = _elector(settings, client)
    client.before_write = elector.check
    shared = _shared(settings, client, elector)
    insights = _insights(settings, shared.queue)
    # Some parts ask the operator that holds them; it exists by the time they do.
    state: list[Operator] = []
    actuator = Actuator(
        board=shared.board,
        floors=FloorKeeper(shared.floor),
        own=OwnScalers(shared.acting),
        access=shared.access,
        external=lambda: state[0].external.state,
        stopped=lambda: shared.switch.stopped,
    )

    def forget(key: ObjectKey) -> None:
        insights.forget(key)
        actuator.forget(key)
        shared.books.forget(key)
        shared.claims.forget(key)
        state[0].sweep.object_gone.set()

    servers = MetricsServers(settings=settings, registry=shared.registry)
    used = UsageWithServer(Usage(client), servers, settings.prometheus_matchers)
    loop = ControlLoop(
        registry=shared.registry,
        memories=shared.memories,
        queue=shared.queue,
        targets=TargetTable(reader=shared.targets, clock=time.monotonic),
        usage=UsageTable(reader=used, clock=time.time, agents=lambda node: shared.snapshots.agent(node)[0]),
        sizing_rules=SizingRulesTable(reader=SizingRules(client), clock=time.monotonic),
        board=shared.board,
        inventory=shared.inventory,
        forget=forget,
        interval_override=settings.interval_seconds,
    )
    sources = Sources(
        settings=settings,
        registry=shared.registry,
        targets=loop.targets,
        inventory=shared.inventory,
        agents_read=lambda: servers.agents_read,
    )
    plans, prices = _plans(settings), price_board(settings, client)
    steps = _steps(shared, loop, plans, prices, actuator, insights)
    operator = Operator(
        settings=settings,
        client=client,
        inventory=shared.inventory,
        targets=shared.targets,
        access=shared.access,
        elector=elector,
        switch=shared.switch,
        loop=loop,
        board=shared.board,
        registry=shared.registry,
        scraper=_scraper(shared, loop, sources, fetcher, servers),
        server_nodes=_server_nodes(shared, servers),
        prometheus_pages=_prometheus_pages(shared, loop, sources, servers),
        backfill=Backfill(
            memories=shared.memories,
            servers=servers,
            days=settings.prometheus_history_days,
            labelling=Labelling(settings.prometheus_namespace_label, settings.prometheus_pod_label),
            matchers=settings.prometheus_matchers,
            learned=shared.queue.add,
        ),
        sources=sources,
        snapshots=shared.snapshots,
        actuator=actuator,
        insights=insights,
        workflow=RoundWorkflow[Work](steps, observe=_observe_step, clock=time.monotonic),
        checkpointer=Checkpointer(
            store=Checkpoints(client, namespaces=shared.namespaces),
            registry=shared.registry,
            memories=shared.memories,
            clock=time.time,
            namespace=settings.namespace,
        ),
        plans=plans,
        model_files=shared.model_files,
        prices=prices,
        sweep=_sweep(shared, loop),
        external=ExternalApi(
            shared.access,
            enabled=settings.external_metrics_enabled,
            service=ServiceReference(settings.namespace, settings.external_metrics_service),
        ),
    )
    state.append(operator)
    shared.switch.changed = operator.switched
    return operator


def _plans(settings: OperatorSettings) -> PlanBoard:
    url = settings.kv_optkit_url
    return PlanBoard(functools.partial(read_plan, url) if url else None)


def price_board(settings: OperatorSettings, client: KubernetesClient) -> PriceBoard:
    """Put together the sources of prices that the settings name, in the order of precedence."""
    live: list[tuple[PriceSource, ReadLive]] = []
    if settings.opencost_url:

        async def opencost() -> LivePrices | Unknown:
            return await read_opencost(settings.opencost_url, currency=settings.price_currency, as_of=_today())

        live.append((PriceSource.OPENCOST, opencost))
    if settings.price_prometheus_url:

        async def prometheus() -> LivePrices | Unknown:
            return await read_prometheus(
                settings.price_prometheus_url,
                token_file=settings.price_prometheus_token_file,
                currency=settings.price_currency,
                as_of=_today(),
                now=UnixTime(time.time()),
            )

        live.append((PriceSource.PROMETHEUS, prometheus))
    name = settings.price_config_map
    return PriceBoard(
        table=PriceMap(client, namespace=settings.namespace, name=name).read if name else None,
        live=live,
        list_prices=settings.list_prices_enabled,
        clock=time.monotonic,
    )


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def _elector(settings: OperatorSettings, client: KubernetesClient) -> Elector:
    return Elector(
        store=Leases(client, namespace=settings.namespace, name=settings.lease_name, clock=time.time),
        identity=settings.identity,
        times=LeaseTimes(
            settings.lease_duration_seconds, settings.renew_deadline_seconds, settings.retry_period_seconds
        ),
        clock=time.monotonic,
        on_leading=lambda: None,
    )


def _insights(settings: OperatorSettings, queue: KeyedQueue[ObjectKey]) -> InsightsWorker:
    adviser = _adviser(settings)
    return InsightsWorker(
        workflow=InsightsWorkflow(build_adviser(adviser), observe=_observe_step, clock=time.monotonic),
        configured=adviser is not None,
        clock=time.time,
        answered=queue.add,
    )


def _adviser(settings: OperatorSettings) -> AdviserSettings | None:
    if not settings.llm_enabled or settings.llm_key_file is None:
        return None
    return AdviserSettings(
        endpoint=settings.llm_endpoint,
        completions_path=settings.llm_path,
        proxy=settings.llm_proxy,
        model=settings.llm_model,
        key_file=settings.llm_key_file,
        retry=RetryPolicy(deadline=settings.llm_timeout_seconds, attempt_timeout=settings.llm_timeout_seconds * 0.6),
    )


def _steps(
    shared: _Shared,
    loop: ControlLoop,
    plans: PlanBoard,
    prices: PriceBoard,
    actuator: Actuator,
    insights: InsightsWorker,
) -> Steps:
    settings = shared.settings
    return Steps(
        collector=Collector(
            shared.registry,
            shared.memories,
            shared.inventory,
            loop.targets,
            shared.snapshots,
            loop.usage,
            loop.sizing_rules,
            plans,
            shared.model_files,
            time.time,
            prices=prices,
            silences=shared.silences,
            claims=shared.claims,
        ),
        actuator=actuator,
        resizer=Resizer(
            pods=PodResizer(shared.acting),
            access=shared.access,
            enabled=settings.resize_enabled,
            stopped=actuator.stopped,
        ),
        reporter=Reporter(sink=StatusWriter(shared.client), registry=shared.registry),
        events=EventRecorder(shared.client, instance=settings.pod_name, clock=time.time),
        insights=insights,
        savings=shared.books,
        times=AnalysisTimes(
            window=Seconds(settings.signal_window_seconds),
            stale_after=Seconds(settings.stale_after_seconds),
            tick=Seconds(settings.tick_seconds),
            hold=Seconds(settings.hold_seconds),
            idle_span=Seconds(settings.idle_span_seconds),
            past=settings.prometheus_history_days > 0.0,
        ),
        patience=Seconds(settings.patience_seconds),
        actuation_enabled=settings.actuation_enabled,
        stop=shared.switch.stop,
    )


def _server_nodes(shared: _Shared, servers: MetricsServers) -> ServerNodes:
    settings = shared.settings
    return ServerNodes(
        nodes=lambda: shared.inventory.nodes() if shared.inventory.synced else {},
        servers=servers,
        store=shared.snapshots,
        interval_s=settings.agent_interval_seconds,
        window_s=max(150.0, settings.stale_after_seconds),
        stale_after_s=settings.stale_after_seconds,
        matchers=settings.prometheus_matchers,
        attributed=lambda reading: attribution.completed(reading, shared.inventory),
    )


def _scraper(
    shared: _Shared, loop: ControlLoop, sources: Sources, fetcher: Fetcher, servers: MetricsServers
) -> Scraper:
    return Scraper(
        sources=sources.all,
        fetcher=fetcher,
        store=shared.snapshots,
        concurrency=shared.settings.scrape_concurrency,
        timeout_s=shared.settings.scrape_timeout_seconds,
        limit_bytes=shared.settings.page_limit_bytes,
        read=loop.page_read,
        pods=sources.pods,
        names=sources.names,
        agents_rank=lambda: servers.agents_rank,
        attributed=lambda reading: attribution.completed(reading, shared.inventory),
    )


def _prometheus_pages(shared: _Shared, loop: ControlLoop, sources: Sources, servers: MetricsServers) -> PrometheusPages:
    settings = shared.settings
    return PrometheusPages(
        pods=sources.in_prometheus,
        servers=servers,
        store=shared.snapshots,
        interval_s=settings.prometheus_interval_seconds,
        stale_after_s=settings.stale_after_seconds,
        labelling=Labelling(settings.prometheus_namespace_label, settings.prometheus_pod_label),
        matchers=settings.prometheus_matchers,
        read=loop.page_read,
        troubles=shared.silences,
    )


def _sweep(shared: _Shared, loop: ControlLoop) -> Sweep:
    return Sweep(
        lister=Objects(shared.client, namespaces=shared.namespaces),
        held=shared.inventory,
        floor=AskingFloor(shared.floor, shared.access, clock=time.monotonic),
        registry=shared.registry,
        events=loop,
        cluster_kind=shared.settings.scope is Scope.CLUSTER,
        actuation_enabled=shared.settings.actuation_enabled,
        kill_switch=lambda: shared.switch.stopped,
    )


def _observe_call(verb: str, resource: str, code: int, seconds: float) -> None:
    metrics.API_CALLS.labels(verb, resource, str(code)).inc()
    metrics.API_SECONDS.labels(verb).observe(seconds)


def _observe_step(step: str, seconds: float) -> None:
    metrics.STEP_SECONDS.labels(step).observe(seconds)
