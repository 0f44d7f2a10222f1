"""The operator of one replica: caches on every replica, decisions on the one that leads.

Start: client, mirrors, Lease. Leading: checkpoints are restored, then rounds, scrapers, insights, upkeep and the sweep
run until the Lease is lost, which ends the process, or until it is asked to stop, which gives the Lease back first.
What is seen from outside (health, status, decisions) is answered here for the HTTP side.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from optiinfra import metrics
from optiinfra.analysis.round import RoundWorkflow
from optiinfra.cluster.access import Access
from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.errors import ClusterError
from optiinfra.cluster.inventory import Inventory
from optiinfra.cluster.manifests import read_manifest
from optiinfra.cluster.targets import Targets
from optiinfra.control.actuation import Actuator
from optiinfra.control.backfill import Backfill
from optiinfra.control.checkpoint import Checkpointer
from optiinfra.control.decisions import DecisionBoard, Published
from optiinfra.control.external_api import ExternalApi
from optiinfra.control.insights import InsightsWorker
from optiinfra.control.isolation import log_failure, lost_lead
from optiinfra.control.keys import Kind, ObjectKey
from optiinfra.control.kill_switch import OBEYED_WITHIN, SwitchWatch
from optiinfra.control.kv_optkit import PlanBoard
from optiinfra.control.lease import Elector
from optiinfra.control.loop import ControlLoop
from optiinfra.control.model_files import ModelFileTable
from optiinfra.control.prices import PriceBoard
from optiinfra.control.prometheus_source import PrometheusPages
from optiinfra.control.promises import Promise
from optiinfra.control.registry import Broken, Registry
from optiinfra.control.scraper import Scraper
from optiinfra.control.server_nodes import ServerNodes
from optiinfra.control.snapshots import SnapshotStore
from optiinfra.control.sources import Sources
from optiinfra.control.sweep import Sweep
from optiinfra.control.work import Rehearsed, Work
from optiinfra.settings import OperatorSettings, Scope

_LOG = logging.getLogger(__name__)
_SWEEP_INTERVAL = 600.0
_SHORTEST_SWEEP = 60.0
_SWEEP_PER_OBJECT = 0.12
"""Seconds an object: a list of few objects costs little, and what a watch lost is then found within a minute."""
_AFTER_GAP = 3.0
_BETWEEN_GAPS = 15.0
"""A server that expires every watch at once must not be asked for all objects each time."""
_STEP_PAUSE = 15.0
"""Between two steps of giving a floor back: the HPA controller's default sync."""
_MIRROR_LAG = 2.0
_STUCK_MIRROR = 180.0
"""Seconds without a try. A server that does not answer is no reason to be started again, which would not make it
answer; a mirror that does not even ask is."""
_STUCK_ROUNDS = 120.0
_FAREWELL = 5.0
_FIRST_LIST = 5.0
_RESTORE_SECONDS = 30.0
_RESTORE_TRIES = 3
_FIRST_PRICES = 3.0
_HEAD_START = 0.5
SWITCHED_WITHIN: Final = 1.0
"""Seconds over which the rounds of all objects are spread when the kill switch was turned."""
_LONGEST_HEAD_START = 3.0


@dataclass(slots=True)
class Operator:
    """One replica. `optiinfra.control.assembly` builds it."""

    settings: OperatorSettings
    client: KubernetesClient
    inventory: Inventory
    targets: Targets
    access: Access
    elector: Elector
    switch: SwitchWatch
    loop: ControlLoop
    board: DecisionBoard
    registry: Registry
    scraper: Scraper
    prometheus_pages: PrometheusPages
    server_nodes: ServerNodes
    backfill: Backfill
    sources: Sources
    snapshots: SnapshotStore
    actuator: Actuator
    insights: InsightsWorker
    workflow: RoundWorkflow[Work]
    checkpointer: Checkpointer
    plans: PlanBoard
    model_files: ModelFileTable
    prices: PriceBoard
    sweep: Sweep
    external: ExternalApi
    started: float = field(default_factory=time.monotonic)
    told: asyncio.Event = field(default_factory=asyncio.Event)
    """Nobody waits for a first status of this replica's: it leads and every object has one, or another one leads."""

    # life

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set.

        Raises:
            LeadershipLost: the Lease could not be renewed; the process must end at once.
        """
        leading = asyncio.Event()
        self.elector.on_leading = leading.set
        self.elector.on_following = self.told.set
        metrics.SILENT_MIRRORS.set_function(lambda: len(self.inventory.silent()))
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._resilient("mirror", self.inventory.run)),
                group.create_task(self._resilient("targets", self.targets.run)),
                group.create_task(self._resilient("kill-switch", self.switch.run)),
                group.create_task(self._lead(leading)),
            ]
            if self.external.enabled:
                tasks.append(group.create_task(self._resilient("external-metrics", self.external.watch)))
            election = group.create_task(self.elector.run())
            await _first(stop, election)
            # Order matters: what was learned is saved while writes are still allowed, then the Lease is given back,
            # so that the next leader starts with it and at once.
            if self.elector.leading:
                await self._farewell()
            self.elector.stop()
            await election
            for task in tasks:
                task.cancel()

    async def _lead(self, leading: asyncio.Event) -> None:
        await self.inventory.wait_synced()
        # Targets that are mirrored cost no call each. Where they may not be listed they are read one by one instead.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LIST):
                await self.targets.wait_synced()
        # Else the first statuses would say that nobody knows whether acting is allowed.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OBEYED_WITHIN):
                await self.switch.answered.wait()
        await leading.wait()
        metrics.LEADER.set(1)
        await self._look_around()
        restored = await self._restore()
        _LOG.info("rounds begin", extra={"objects": len(self.registry.all_keys()), "restored": restored})
        self.loop.lead()
        async with asyncio.TaskGroup() as group:
            if self.prices.configured:
                group.create_task(self._resilient("prices", self.prices.run))
                # Else the first statuses after a restart would say that nothing has a price.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_FIRST_PRICES):
                        await self.prices.told.wait()
            group.create_task(self.loop.run(self.workflow))
            group.create_task(self._resilient("upkeep", self.loop.upkeep))
            group.create_task(self._resilient("usage", self.loop.keep_usage))
            # A fleet's first pages keep the processor as busy as its first statuses, which people wait for: after them.
            await self._first_statuses()
            group.create_task(self._resilient("scraper", self.scraper.run))
            group.create_task(self._resilient("metrics-servers", self.prometheus_pages.run))
            if self.settings.scope is Scope.CLUSTER:
                group.create_task(self._resilient("nodes", self.server_nodes.run))
            if self.backfill.configured:
                group.create_task(self._resilient("history", self.backfill.run))
            group.create_task(self._resilient("insights", self.insights.run))
            group.create_task(self._resilient("checkpoints", self.checkpointer.run))
            group.create_task(self._resilient("model-files", self.model_files.run))
            if self.plans.read is not None:
                group.create_task(self._resilient("kv-optkit", self.plans.run))
            group.create_task(self._resilient("sweep", self._sweeping))

    async def _restore(self) -> int:
        """Read the checkpoints; a server that does not answer gets a few tries, and rounds wait for it meanwhile."""
        for _ in range(_RESTORE_TRIES):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RESTORE_SECONDS):
                    return await self.checkpointer.restore()
            _LOG.warning("checkpoints are not read in time", extra={"seconds": _RESTORE_SECONDS})
        _LOG.error("checkpoints not read; histories start anew")
        metrics.CHECKPOINTS.labels("unreadable").inc()
        return 0

    async def _first_statuses(self) -> None:
        """Return once no object is without any status, but soon: after a restart at once, for all have one."""
        end = time.monotonic() + _LONGEST_HEAD_START
        while True:
            await asyncio.sleep(_HEAD_START)
            if time.monotonic() >= end or not any(obj.status.last_round is None for _, obj in self.registry.services()):
                break
        self.told.set()

    async def _look_around(self) -> None:
        """Ask the server's version, and who owns the external metrics API."""
        try:
            self.actuator.server_minor = (await self.access.server_version()).minor
        except ClusterError as error:
            _LOG.warning("server not asked", extra={"error": str(error)})
        await self.external.look()

    async def _sweeping(self) -> None:
        while True:
            await self.sweep.run_once()
            self.loop.forget_gone()
            sources = tuple(self.sources.all())
            self.snapshots.forget_except(
                pod_uids=self.sources.pod_uids(),
                nodes=self.inventory.nodes()
                if self.server_nodes.servers.nodes_read
                else [source.key for source in sources if source.kind == "agent"],
            )
            await self._look_around()
            await self._until_next_sweep()

    async def _until_next_sweep(self) -> None:
        """Wait; meanwhile floors go back in steps, and at once when their object goes."""
        began = time.monotonic()
        wanted = _SWEEP_PER_OBJECT * len(self.registry.all_keys())
        due = began + min(_SWEEP_INTERVAL, max(_SHORTEST_SWEEP, wanted))
        while (left := due - time.monotonic()) > 0.0:
            within = min(left, _STEP_PAUSE) if self.sweep.unfinished else left
            await _either(self.sweep.object_gone, self.loop.gap, within=within)
            if self.loop.gap.is_set():
                self.loop.gap.clear()
                due = min(due, max(began + _BETWEEN_GAPS, time.monotonic() + _AFTER_GAP))
            self.sweep.object_gone.clear()
            # A round under way may take a floor in this very moment, and the mirror of HPAs lags a little behind.
            await asyncio.sleep(_MIRROR_LAG)
            await self.sweep.release_orphans()

    @staticmethod
    async def _resilient(name: str, run: Any) -> None:
        """Run a part for ever: if it raises, the others go on and it is started again."""
        while True:
            try:
                await run()
            except Exception as error:  # noqa: BLE001  one part must not end the others; it is logged with its traceback
                log_failure(_LOG, "a part failed and is started again", error, part=name)
                if not lost_lead(error):
                    metrics.OBJECT_FAILURES.labels(name, "restarted").inc()
            await asyncio.sleep(5.0)

    async def _farewell(self) -> None:
        self.board.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self.checkpointer.save_all()

    # as seen from outside (optiinfra.web.ports)

    @property
    def leading(self) -> bool:
        """Whether this replica decides."""
        return self.elector.leading and self.loop.leading

    @property
    def leader_address(self) -> str:
        """host:port of the leader."""
        return self.elector.leader.partition("@")[2]

    def health(self) -> Mapping[str, tuple[bool, str]]:
        """Every part with its real state: (healthy, message)."""
        silent = [f"{path} is silent" for path in self.inventory.silent()]
        due, idle = self.loop.queue.due, time.monotonic() - self.loop.last_round
        stuck = self.loop.leading and due > 0 and idle > _STUCK_ROUNDS
        problems = self.inventory.problems()
        scraping = time.monotonic() - self.scraper.last_progress
        stop = self.switch.stop()
        return {
            "mirrors": (
                self.inventory.synced and not silent,
                "; ".join((*silent, *problems)) or ("listed" if self.inventory.synced else "listing"),
            ),
            "lease": (bool(self.elector.leader), f"held by {self.elector.leader or 'nobody'}"),
            "rounds": (not stuck, f"{due} due, last round {idle:.0f} s ago" if self.loop.leading else "not leading"),
            "scraper": (not self.loop.leading or scraping < 30.0, f"last turn {scraping:.0f} s ago"),
            "kill_switch": (stop is None, "off" if stop is None else f"acts are stopped: {stop.message}"),
            "external_metrics": (
                self.external.state.served or not self.external.enabled,
                self.external.state.message or "served",
            ),
        }

    def ready(self) -> tuple[bool, str]:
        """Whether this replica can answer: mirrors are full and somebody leads."""
        if not self.inventory.synced:
            return False, "the mirrors of the cluster are not full yet"
        if not self.elector.leader:
            return False, "nobody holds the Lease yet"
        return True, "ready"

    def alive(self) -> tuple[bool, str]:
        """Whether the loops make progress; false asks for a restart."""
        health = self.health()
        for part in ("rounds", "scraper"):
            if not health[part][0]:
                return False, f"{part}: {health[part][1]}"
        if self.inventory.longest_pause() > _STUCK_MIRROR:
            return False, f"mirrors do not try any more: {health['mirrors'][1]}"
        return True, "alive"

    def objects(self, namespace: str | None) -> Sequence[Mapping[str, Any]]:
        """Objects as last seen, all or of one namespace."""
        keys = sorted(key for key in self.registry.all_keys() if namespace is None or key.namespace == namespace)
        return [found for key in keys if (found := self._document(key)) is not None]

    def find(self, kind: Kind, namespace: str, name: str) -> Mapping[str, Any] | None:
        """Return one object as last seen."""
        return self._document(ObjectKey(kind, namespace, name))

    def _document(self, key: ObjectKey) -> Mapping[str, Any] | None:
        known = self.registry.get(key)
        if known is None:
            return None
        metadata = {
            "name": key.name,
            "namespace": key.namespace,
            "uid": known.metadata.uid,
            "generation": known.metadata.generation,
        }
        status = known.status if isinstance(known, Broken) else known.status.to_wire()
        return {"apiVersion": "optiinfra.io/v1alpha1", "kind": key.kind, "metadata": metadata, "status": status}

    def switched(self) -> None:
        """Take back what is published when acting is stopped, and let every object say so, or go on, soon."""
        if self.switch.stopped:
            self.board.clear()
        self.loop.visit_all(within=SWITCHED_WITHIN)

    def run_now(self, kind: Kind, namespace: str, name: str) -> str | None:
        """Put an object next in line; returns the id of its round."""
        return self.loop.run_now(ObjectKey(kind, namespace, name))

    def promise(self, kind: Kind, namespace: str, name: str, identifier: str) -> Promise:
        """Say what became of a round that somebody was promised."""
        key = ObjectKey(kind, namespace, name)
        found = self._document(key) or {}
        named = (found.get("status", {}).get("lastRound") or {}).get("requested", ())
        return self.loop.promises.state(identifier, key, named=named)

    async def manifest(self, api_version: str, kind: str, namespace: str, name: str) -> Mapping[str, Any]:
        """Read an object live; raises ClusterError."""
        return await read_manifest(self.client, api_version=api_version, kind=kind, namespace=namespace, name=name)

    async def preview(self, kind: Kind, namespace: str, name: str, *, within: float) -> Rehearsed | None:
        """Work out what the next round would do about an object; see `ControlLoop.preview`."""
        return await self.loop.preview(ObjectKey(kind, namespace, name), within=within)

    def decision(self, namespace: str, name: str) -> Published | None:
        """Return a published decision."""
        return self.board.get(namespace, name) if self.leading else None

    def decisions(self, namespace: str) -> list[Published]:
        """Return all published decisions of a namespace."""
        return self.board.of(namespace) if self.leading else []


async def _either(*events: asyncio.Event, within: float) -> None:
    """Return when one of the events is set, or after so many seconds."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


async def _first(stop: asyncio.Event, task: "asyncio.Task[None]") -> None:
    waiting = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
