"""The books of all objects and of the cluster, brought up to date by each round. Leader only, as rounds are.

Books live in memory and in the status, which is what a new leader goes on from; nothing else is written for them. The
oldest ClusterResourceOptimization keeps the cluster's: without one, or without a view of nodes, requests and capacity
are counted and no money is.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from optiinfra import metrics
from optiinfra.api.ledger import cluster_ledger_fields, cluster_ledger_from, ledger_fields, ledger_from
from optiinfra.api.v1alpha1 import ClusterResourceOptimization, ResourceOptimization
from optiinfra.api.v1alpha1.savings import ClusterLedgerStatus, LedgerStatus
from optiinfra.control.isolation import isolated
from optiinfra.control.keys import ObjectKey
from optiinfra.control.registry import Registry
from optiinfra.control.savings_seen import (
    Held,
    allocated,
    departures,
    prices_of_shapes,
    relabelled,
    shapes_of,
    target_seen,
    terms_of,
)
from optiinfra.control.work import ServiceWork, Work
from optiinfra.domain.savings.cluster import ClusterLedger, NodesSeen, absorb, watch_nodes
from optiinfra.domain.savings.entries import CLAIMED, Basis, Cause
from optiinfra.domain.savings.ledger import Accrual, Ledger, Rate, Seen, money_per_hour, watch
from optiinfra.domain.savings.nodes import Claim, Shape
from optiinfra.domain.savings.periods import Lines
from optiinfra.domain.units import HOURS_PER_MONTH, Seconds, UnixTime

_LOG = logging.getLogger(__name__)
NODE_INTERVAL: Final = 30.0
"""Nodes are counted so often, and whenever one came or went."""
COUNT_INTERVAL: Final = 10.0
NO_CLUSTER: Final = "no ClusterResourceOptimization prices the cluster's nodes: create one"
NO_NODES: Final = "nodes are not seen: with scope Namespaces nobody can tell whether one goes"


@dataclass(slots=True)
class _Kept:
    """One object's books."""

    uid: str
    ledger: Ledger
    claims: tuple[Claim, ...]
    """What its open entries free now; worked out once an observation, as there may be thousands of objects."""
    watched_at: float | None = None
    """By the monotonic clock; None before the first observation of this process."""


@dataclass(slots=True)
class _ClusterKept:
    """The cluster's books, and what was seen last."""

    key: ObjectKey
    uid: str
    ledger: ClusterLedger
    watched_at: float | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    saved_hours: Mapping[Shape, float] = field(default_factory=dict)
    bought_hours: Mapping[Shape, float] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    """By node: its pods, and what they hold; most nodes' pods stay the same from look to look."""


@dataclass(slots=True)
class SavingsBooks:
    """All ledgers of this process."""

    registry: Registry
    clock: Callable[[], float]
    """Monotonic seconds."""
    _kept: dict[ObjectKey, _Kept] = field(default_factory=dict)
    _cluster: _ClusterKept | None = None
    _potential: dict[ObjectKey, tuple[float | None, float, str]] = field(default_factory=dict)
    _counted_at: float = float("-inf")
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """An object that left its round brings its books up to date beside the next round, each in a thread."""

    async def observe(self, work: Work) -> None:
        """Bring the books up to date with a round, and put what the status is to show into its work.

        Books that fail stop no status: those of before are shown then.
        """
        try:
            async with self._turn:
                # The registry belongs to the event loop; the rest may take long and needs nothing of it.
                self._open(work)
                await asyncio.to_thread(self.bring_up, work)
        except Exception as error:  # noqa: BLE001  one part must not end the round; it is logged with its traceback
            metrics.OBJECT_FAILURES.labels("savings", type(error).__name__).inc()
            _LOG.exception("the savings ledgers were not brought up to date", extra={"round": work.round_id})

    def _open(self, work: Work) -> None:
        """Open the books of the cluster, and of every object before nodes are shared out among them."""
        self._of_cluster(work)
        if self._cluster is not None and self._due(self._cluster, work):
            for key, obj in self.registry.services():
                self._of(key, obj, work.at)

    def bring_up(self, work: Work) -> None:
        """Do the reckoning, in a thread of its own."""
        cluster = self._cluster
        if cluster is not None and self._due(cluster, work):
            self._nodes(cluster, work)
        accruals: list[Accrual] = []
        for service in work.services:
            with isolated(service, step="savings"):
                accruals += self._service(service, work)
        if cluster is not None:
            cluster.ledger = absorb(cluster.ledger, accruals)
        _count_hours(accruals)
        for item in work.clusters:
            if cluster is not None and item.key == cluster.key:
                item.ledger = self._cluster_status(cluster, work)
        if self.clock() - self._counted_at >= COUNT_INTERVAL:
            self._counted_at = self.clock()
            self._count()

    def forget(self, key: ObjectKey) -> None:
        """Drop the books of an object that is gone; what it came to stays in the cluster's totals."""
        self._kept.pop(key, None)
        self._potential.pop(key, None)
        if self._cluster is not None and self._cluster.key == key:
            self._cluster = None

    def shown(self, key: ObjectKey, status: LedgerStatus | None) -> None:
        """Take note of what a status says could be saved, for the metrics."""
        if status is None:
            self._potential.pop(key, None)
        else:
            self._potential[key] = status.per_month_potential, status.gpus_potential, status.currency

    def _count(self) -> None:
        """Set the gauges to what stands now."""
        metrics.SAVINGS_POTENTIAL.clear()
        metrics.SAVINGS_OPEN.clear()
        money: dict[tuple[str, str], float] = {}
        gpus: dict[str, float] = {}
        for key, (per_month, freed, currency) in tuple(self._potential.items()):
            gpus[key.kind] = gpus.get(key.kind, 0.0) + freed
            if per_month is not None:
                money[key.kind, currency] = money.get((key.kind, currency), 0.0) + per_month
        for (kind, currency), amount in money.items():
            metrics.SAVINGS_POTENTIAL.labels(kind, currency).set(amount)
        for kind in ("ResourceOptimization", "ClusterResourceOptimization"):
            metrics.SAVINGS_POTENTIAL_GPUS.labels(kind).set(gpus.get(kind, 0.0))
        entries: dict[tuple[str, str], int] = {}
        for kept in tuple(self._kept.values()):
            for entry in kept.ledger.entries:
                label = str(entry.cause), str(entry.basis)
                entries[label] = entries.get(label, 0) + 1
        for label, count in entries.items():
            metrics.SAVINGS_OPEN.labels(*label).set(count)

    # the books

    def _of(self, key: ObjectKey, obj: ResourceOptimization, at: UnixTime) -> _Kept:
        kept = self._kept.get(key)
        if kept is None or kept.uid != obj.metadata.uid:
            before = ledger_from(obj.status.savings) if obj.status.savings is not None else None
            ledger = before or Ledger.opening(at)
            kept = self._kept[key] = _Kept(obj.metadata.uid, ledger, _claims(key, ledger))
        return kept

    def _of_cluster(self, work: Work) -> None:
        first = next(iter(self.registry.clusters()), None)
        if first is None:
            self._cluster = None
            return
        key, obj = first
        if self._cluster is None or (self._cluster.key, self._cluster.uid) != (key, obj.metadata.uid):
            before = cluster_ledger_from(obj.status.savings) if obj.status.savings is not None else None
            opening = ClusterLedger.opening(work.at, currency=str(obj.spec.currency))
            self._cluster = _ClusterKept(key, obj.metadata.uid, before or opening)

    def _due(self, kept: _ClusterKept, work: Work) -> bool:
        fresh = kept.watched_at is None or self.clock() - kept.watched_at >= NODE_INTERVAL
        return bool(work.nodes) and (fresh or kept.shapes.keys() != work.nodes.keys())

    def _nodes(self, kept: _ClusterKept, work: Work) -> None:
        """Count nodes, and let go and come what did."""
        now, obj = self.clock(), self.registry.get(kept.key)
        if not isinstance(obj, ClusterResourceOptimization):
            return  # it was deleted a moment ago
        if not {str(pool.name) for pool in obj.spec.pools} <= work.prices.keys():
            return  # the round began before these pools were known: its nodes are in none of them
        shapes = shapes_of(work.nodes, before=kept.shapes, books=kept.ledger.nodes)
        kept.saved_hours = {**kept.saved_hours, **prices_of_shapes(shapes, work.node_prices, marginal=True)}
        kept.bought_hours = {**kept.bought_hours, **prices_of_shapes(shapes, work.node_prices, marginal=False)}
        counts: dict[Shape, int] = {}
        for shape in shapes.values():
            counts[shape] = counts.get(shape, 0) + 1
        before = kept.ledger.periods.all_time
        kept.ledger = watch_nodes(
            kept.ledger,
            NodesSeen(
                at=work.at,
                counts=counts,
                relabelled=relabelled(kept.shapes, shapes),
                departures=departures(kept.shapes, shapes, obj),
                saved_hours=kept.saved_hours,
                bought_hours=kept.bought_hours,
                allocated=allocated(work.nodes, shapes, kept.held),
                terms=terms_of(shapes, obj),
                claims=tuple(claim for item in tuple(self._kept.values()) for claim in item.claims),
                elapsed=None if kept.watched_at is None else Seconds(now - kept.watched_at),
                currency=str(obj.spec.currency),
            ),
        )
        kept.watched_at, kept.shapes = now, shapes
        _count_money(before, kept.ledger.periods.all_time, kept.ledger.periods.currency)

    def _service(self, service: ServiceWork, work: Work) -> tuple[Accrual, ...]:
        kept = self._of(service.key, service.obj, work.at)
        now = self.clock()
        cluster = self._cluster
        rates = cluster.ledger.rates_of(owner_of(service.key)) if cluster is not None else {}
        watched = cluster is not None and cluster.ledger.watched
        seen = self._seen(service, work, kept, now=now, nodes_watched=watched, rates=rates)
        kept.ledger, accruals = watch(kept.ledger, seen)
        kept.watched_at, kept.claims = now, _claims(service.key, kept.ledger)
        service.ledger = self._status(kept.ledger, work, rates)
        return accruals

    def _seen(
        self,
        service: ServiceWork,
        work: Work,
        kept: _Kept,
        *,
        now: float,
        nodes_watched: bool,
        rates: Mapping[int, Sequence[Rate]],
    ) -> Seen:
        targets = [
            target_seen(service, target, work.nodes, kept.ledger.account(target.target.name))
            for target in service.targets
        ]
        return Seen(
            at=work.at,
            targets=tuple(target for target in targets if target is not None),
            named=frozenset(target.target.name for target in service.targets),
            interval=service.settings.interval,
            elapsed=None if kept.watched_at is None else Seconds(now - kept.watched_at),
            rates=rates,
            nodes_watched=nodes_watched,
            currency=service.currency,
        )

    def _status(self, ledger: Ledger, work: Work, rates: Mapping[int, Sequence[Rate]]) -> LedgerStatus | None:
        if not ledger.entries and not ledger.ended and not ledger.periods.all_time:
            return None
        unknown = self._no_money(work)
        return ledger_fields(ledger).model_copy(
            update={
                "per_month_realised": _per_month(rates, ledger, Basis.MEASURED, unknown),
                "per_month_counterfactual": _per_month(rates, ledger, Basis.COUNTERFACTUAL, unknown),
                "money_unknown": unknown,
            }
        )

    def _no_money(self, work: Work) -> str:
        if self._cluster is None:
            return NO_CLUSTER
        if not work.nodes:
            return NO_NODES
        if not self._cluster.saved_hours:
            return "no node has a price: set prices for their pools"
        return ""

    def _cluster_status(self, kept: _ClusterKept, work: Work) -> ClusterLedgerStatus | None:
        if not kept.ledger.begun:
            return None
        unknown = self._no_money(work)
        rates = [
            rate
            for key, item in tuple(self._kept.items())
            for entry in item.ledger.entries
            if entry.cause in CLAIMED
            for rate in kept.ledger.rates_of(owner_of(key)).get(entry.id, ())
            if entry.verified or rate.basis is Basis.COUNTERFACTUAL
        ]
        measured = sum(rate.per_hour for rate in rates if rate.basis is Basis.MEASURED)
        measured += _adopted_per_hour(kept.ledger, work.at)
        counter = sum(rate.per_hour for rate in rates if rate.basis is Basis.COUNTERFACTUAL)
        return cluster_ledger_fields(kept.ledger, [item.ledger for item in tuple(self._kept.values())]).model_copy(
            update={
                "per_month_realised": None if unknown else round(measured * HOURS_PER_MONTH, 2),
                "per_month_counterfactual": None if unknown else round(counter * HOURS_PER_MONTH, 2),
                "money_unknown": unknown,
            }
        )


def owner_of(key: ObjectKey) -> str:
    """Name an object in the cluster's books."""
    return f"{key.namespace}/{key.name}"


def _claims(key: ObjectKey, ledger: Ledger) -> tuple[Claim, ...]:
    """What the open entries of an object free now. Where a plain HPA is the measure, the scaler's own moves are not."""
    claims: list[Claim] = []
    for account in ledger.accounts:
        compared = any(entry.basis is Basis.COUNTERFACTUAL for entry in account.entries)
        share = account.free_share()
        for entry in account.entries:
            if compared and entry.cause is Cause.SCALER:
                continue
            freed = account.freed(entry)
            free = freed.positive.by(share) + (freed - freed.positive)
            if not free.is_nothing:
                claims.append(
                    Claim(owner_of(key), entry.id, entry.cause, entry.basis, entry.verified, entry.place, free)
                )
    return tuple(claims)


def _adopted_per_hour(ledger: ClusterLedger, at: UnixTime) -> float:
    return sum(
        entry.nodes * (entry.hour or 0.0) * entry.unshared
        for entry in ledger.nodes.entries
        if entry.cause is Cause.ADOPTED and at - entry.opened >= 600.0
    )


def _per_month(rates: Mapping[int, Sequence[Rate]], ledger: Ledger, basis: Basis, unknown: str) -> float | None:
    if unknown:
        return None
    return round(money_per_hour(rates, ledger.entries, basis=basis) * HOURS_PER_MONTH, 2) + 0.0


def _count_hours(accruals: Sequence[Accrual]) -> None:
    for accrual in accruals:
        for direction, sign in (("freed", 1.0), ("added", -1.0)):
            hours = accrual.amounts.requests.times(sign).positive
            labels = str(accrual.key.cause), str(accrual.key.basis), direction
            if hours.gpus:
                metrics.SAVINGS_GPU_HOURS.labels(*labels).inc(hours.gpus)
            if hours.cpu_cores:
                metrics.SAVINGS_CORE_HOURS.labels(*labels).inc(hours.cpu_cores)
            if hours.memory_gib:
                metrics.SAVINGS_GIB_HOURS.labels(*labels).inc(hours.memory_gib)


def _count_money(before: Lines, after: Lines, currency: str) -> None:
    for key, line in after.items():
        old = before.get(key)
        for direction in ("freed", "added"):
            money = getattr(line, direction).money - (getattr(old, direction).money if old is not None else 0.0)
            if money > 0.0:  # less than before only where another currency began
                metrics.SAVINGS_MONEY.labels(str(key.cause), str(key.basis), direction, currency).inc(money)
