"""The savings ledger to its status and back: what an object's books come to is all that a restart needs.

Numbers are cut to six digits after the point, so a restart costs at most half a millionth of an hour a number. Until
when something is counted is rounded up to the second: what is counted already must not be counted again. Texts that
people chose (names) are cut rather than refused.
"""

import math
from collections.abc import Iterable

from optiinfra.api.scalars import Time
from optiinfra.api.status_from import cut
from optiinfra.api.v1alpha1.savings import (
    MAX_ENTRIES,
    MAX_NODE_ENTRIES,
    MAX_SHAPES,
    AmountsStatus,
    ClosedAccountStatus,
    ClusterLedgerStatus,
    LedgerBaseStatus,
    LedgerEntryStatus,
    LedgerLineStatus,
    LedgerPeriodStatus,
    LedgerStatus,
    NodeEntryStatus,
    ResourcesStatus,
    ShapeStatus,
    ShareStatus,
)
from optiinfra.api.v1alpha1.status_parts import MAX_TARGETS
from optiinfra.domain.savings.account import Account
from optiinfra.domain.savings.amounts import NOTHING, Amounts, Capacity
from optiinfra.domain.savings.cluster import ClusterLedger
from optiinfra.domain.savings.entries import CLAIMED, Basis, Entry, Place
from optiinfra.domain.savings.ledger import HOUR, Ledger
from optiinfra.domain.savings.months import month_of, month_start
from optiinfra.domain.savings.nodes import NodeBooks, NodeEntry, Shape, Share
from optiinfra.domain.savings.periods import ClosedAccount, Line, LineKey, Lines, Periods
from optiinfra.domain.units import Seconds, UnixTime

_DIGITS = 6


def ledger_fields(ledger: Ledger) -> LedgerStatus:
    """Write an object's books; what recommendations could save is filled in elsewhere."""
    freed, free = freed_now([ledger])
    seen = dict(ledger.seen_at)
    open_entries = ledger.entries[:MAX_ENTRIES]
    return LedgerStatus(
        since=Time.of(ledger.since),
        as_of=_rounded_up(ledger.as_of),
        freed=_resources(freed),
        free=_resources(free),
        **_periods(ledger.periods),
        entries=tuple(_entry(entry) for entry in (*open_entries, *ledger.ended))[:MAX_ENTRIES],
        bases=tuple(_base(account, seen.get(account.target)) for account in ledger.accounts[:MAX_TARGETS]),
        unwatched_hours=_number(ledger.unwatched / HOUR),
        next_entry=ledger.next_id,
    )


def freed_now(ledgers: Iterable[Ledger]) -> tuple[Capacity, Capacity]:
    """Return what is claimed to be freed now, measured, and what of it no pod holds any more."""
    freed = free = NOTHING
    for ledger in ledgers:
        for account in ledger.accounts:
            share = account.free_share()
            for entry in account.entries:
                if entry.cause in CLAIMED and entry.basis is Basis.MEASURED:
                    now = account.freed(entry)
                    freed += now
                    free += now.positive.by(share) + (now - now.positive)
    return freed, free


def cluster_ledger_fields(ledger: ClusterLedger, objects: Iterable[Ledger] = ()) -> ClusterLedgerStatus:
    """Write the cluster's books, with what all objects have freed now."""
    freed, free = freed_now(objects)
    shapes = sorted(sorted(ledger.nodes.counts.items(), key=lambda item: -item[1])[:MAX_SHAPES])
    entries = (*ledger.nodes.entries, *ledger.ended)[:MAX_NODE_ENTRIES]
    return ClusterLedgerStatus(
        since=Time.of(ledger.since),
        as_of=_rounded_up(ledger.as_of),
        freed=_resources(freed),
        free=_resources(free),
        **_periods(ledger.periods),
        unwatched_hours=_number(ledger.unwatched / HOUR),
        nodes=tuple(_shape(shape, count) for shape, count in shapes),
        node_entries=tuple(_node_entry(entry) for entry in entries),
        nodes_not_bought=sum(item.nodes for item in ledger.avoided),
        next_entry=ledger.nodes.next_id,
    )


def ledger_from(status: LedgerStatus) -> Ledger | None:
    """Go on from a status; None where it holds no books."""
    if status.since is None or status.as_of is None:
        return None
    entries = [_entry_from(entry) for entry in status.entries]
    accounts = tuple(
        _account_from(base, tuple(entry for entry in entries if entry.open and entry.target == base.target))
        for base in status.bases
    )
    return Ledger(
        since=status.since.unix,
        as_of=status.as_of.unix,
        counted_until=status.as_of.unix,
        periods=_periods_from(status),
        accounts=accounts,
        ended=tuple(entry for entry in entries if not entry.open),
        next_id=max([status.next_entry, 1, *(entry.id + 1 for entry in entries)]),
        unwatched=Seconds(status.unwatched_hours * HOUR),
        seen_at=tuple((base.target, base.seen.unix) for base in status.bases if base.seen is not None),
    )


def cluster_ledger_from(status: ClusterLedgerStatus) -> ClusterLedger | None:
    """Go on from a status; None where it holds no books."""
    if status.since is None or status.as_of is None:
        return None
    entries = [_node_entry_from(entry) for entry in status.node_entries]
    books = NodeBooks(
        counts={_shape_from(shape): shape.nodes for shape in status.nodes},
        entries=tuple(entry for entry in entries if entry.ended is None),
        next_id=max([status.next_entry, 1, *(entry.id + 1 for entry in entries)]),
    )
    return ClusterLedger(
        since=status.since.unix,
        as_of=status.as_of.unix,
        periods=_periods_from(status),
        nodes=books,
        ended=tuple(entry for entry in entries if entry.ended is not None),
        unwatched=Seconds(status.unwatched_hours * HOUR),
        begun=bool(books.counts or entries),
        absorbs_from=status.as_of.unix,
    )


def _rounded_up(at: UnixTime) -> Time:
    return Time.of(math.ceil(at))


def _number(value: float) -> float:
    return round(value, _DIGITS) + 0.0  # no minus zero


def _resources(capacity: Capacity) -> ResourcesStatus:
    return ResourcesStatus(
        gpus=_number(capacity.gpus), cpu_cores=_number(capacity.cpu_cores), memory_gib=_number(capacity.memory_gib)
    )


def _capacity(status: ResourcesStatus) -> Capacity:
    return Capacity(status.gpus, status.cpu_cores, status.memory_gib)


def _amounts(amounts: Amounts) -> AmountsStatus:
    requests, capacity = amounts.requests, amounts.capacity
    return AmountsStatus(
        gpu_hours=_number(requests.gpus),
        cpu_core_hours=_number(requests.cpu_cores),
        memory_gib_hours=_number(requests.memory_gib),
        free_gpu_hours=_number(capacity.gpus),
        free_cpu_core_hours=_number(capacity.cpu_cores),
        free_memory_gib_hours=_number(capacity.memory_gib),
        money=_number(amounts.money),
    )


def _amounts_from(status: AmountsStatus) -> Amounts:
    return Amounts(
        Capacity(status.gpu_hours, status.cpu_core_hours, status.memory_gib_hours),
        Capacity(status.free_gpu_hours, status.free_cpu_core_hours, status.free_memory_gib_hours),
        status.money,
    )


def _period(lines: Lines, *, since: UnixTime) -> LedgerPeriodStatus:
    return LedgerPeriodStatus(
        since=Time.of(since),
        lines=tuple(
            LedgerLineStatus(
                cause=key.cause,
                basis=key.basis,
                verified=key.verified,
                freed=_amounts(line.freed),
                added=_amounts(line.added),
            )
            for key, line in sorted(lines.items())
        ),
    )


def _periods(periods: Periods) -> dict[str, object]:
    start = month_start(periods.month)
    before = month_start(month_of(UnixTime(start - 1.0)))
    return {
        "this_month": _period(periods.this_month, since=UnixTime(max(start, periods.since))),
        "last_month": _period(periods.last_month, since=before) if periods.last_month else None,
        "total": _period(periods.all_time, since=periods.since),
        "money_currency": periods.currency,
        "money_since": Time.of(periods.currency_since),
        "closed": tuple(
            ClosedAccountStatus(
                currency=account.currency,
                since=Time.of(account.since),
                until=Time.of(account.until),
                measured=_number(account.measured),
                counterfactual=_number(account.counterfactual),
            )
            for account in periods.closed
        ),
    }


def _lines_from(status: LedgerPeriodStatus | None) -> Lines:
    if status is None:
        return {}
    return {
        LineKey(line.cause, line.basis, line.verified): Line(_amounts_from(line.freed), _amounts_from(line.added))
        for line in status.lines
    }


def _periods_from(status: LedgerStatus) -> Periods:
    assert status.since is not None
    since = status.since.unix
    return Periods(
        since=since,
        month=month_of(status.this_month.since.unix if status.this_month is not None else since),
        this_month=_lines_from(status.this_month),
        last_month=_lines_from(status.last_month),
        all_time=_lines_from(status.total),
        currency=status.money_currency,
        currency_since=status.money_since.unix if status.money_since is not None else since,
        closed=tuple(
            ClosedAccount(item.currency, item.since.unix, item.until.unix, item.measured, item.counterfactual)
            for item in status.closed
        ),
    )


def _entry(entry: Entry) -> LedgerEntryStatus:
    return LedgerEntryStatus(
        id=entry.id,
        target=cut(entry.target, 253),
        axis=entry.axis,
        cause=entry.cause,
        by=cut(entry.by, 253),
        basis=entry.basis,
        method=cut(entry.method, 256),
        opened=Time.of(entry.opened),
        before=_number(entry.before),
        after=_number(entry.after),
        amount=_number(entry.amount),
        pool=cut(entry.place.pool, 253),
        gpu_model=cut(entry.place.gpu_model, 253),
        verified=entry.verified,
        ended=None if entry.ended is None else Time.of(entry.ended),
        end=entry.end,
        accrued=_amounts(entry.accrued),
    )


def _entry_from(status: LedgerEntryStatus) -> Entry:
    return Entry(
        id=status.id,
        target=status.target,
        axis=status.axis,
        cause=status.cause,
        by=status.by,
        basis=status.basis,
        method=status.method,
        opened=status.opened.unix,
        before=status.before,
        after=status.after,
        amount=status.amount,
        place=Place(status.pool, status.gpu_model),
        verified=status.verified,
        ended=None if status.ended is None else status.ended.unix,
        end=status.end,
        accrued=_amounts_from(status.accrued),
    )


def _base(account: Account, seen: UnixTime | None) -> LedgerBaseStatus:
    return LedgerBaseStatus(
        target=cut(account.target, 253),
        uid=cut(account.uid, 64),
        generation=account.generation,
        base_replicas=account.base_replicas,
        base_size=_resources(account.base_size),
        replicas=account.replicas,
        size=_resources(account.size),
        seen=None if seen is None else Time.of(seen),
        no_counterfactual=cut(account.no_counterfactual, 256),
    )


def _account_from(base: LedgerBaseStatus, entries: tuple[Entry, ...]) -> Account:
    return Account(
        target=base.target,
        uid=base.uid,
        generation=base.generation,
        base_replicas=base.base_replicas,
        base_size=_capacity(base.base_size),
        replicas=base.replicas,
        size=_capacity(base.size),
        entries=entries,
        no_counterfactual=base.no_counterfactual,
    )


def _shape(shape: Shape, nodes: int) -> ShapeStatus:
    return ShapeStatus(
        pool=cut(shape.place.pool, 253),
        gpu_model=cut(shape.place.gpu_model, 253),
        gpus=_number(shape.gpus),
        cpu_cores=_number(shape.cpu_cores),
        memory_gib=_number(shape.memory_gib),
        spot=shape.spot,
        nodes=nodes,
    )


def _shape_from(status: ShapeStatus) -> Shape:
    place = Place(status.pool, status.gpu_model)
    return Shape(place, status.gpus, status.cpu_cores, status.memory_gib, status.spot)


def _node_entry(entry: NodeEntry) -> NodeEntryStatus:
    return NodeEntryStatus(
        id=entry.id,
        shape=_shape(entry.shape, 0),
        nodes=entry.nodes,
        name=cut(entry.name, 253),
        cause=entry.cause,
        by=cut(entry.by, 253),
        opened=_rounded_up(entry.opened),
        before=entry.before,
        after=entry.after,
        per_hour=None if entry.hour is None else _number(entry.hour),
        shares=tuple(
            ShareStatus(object=cut(share.owner, 253), entry=share.entry, fraction=min(1.0, _number(share.fraction)))
            for share in entry.shares
        ),
        ended=None if entry.ended is None else Time.of(entry.ended),
        money=_number(entry.money),
    )


def _node_entry_from(status: NodeEntryStatus) -> NodeEntry:
    return NodeEntry(
        id=status.id,
        shape=_shape_from(status.shape),
        nodes=status.nodes,
        name=status.name,
        cause=status.cause,
        by=status.by,
        opened=status.opened.unix,
        before=status.before,
        after=status.after,
        hour=status.per_hour,
        shares=tuple(Share(share.object, share.entry, share.fraction) for share in status.shares),
        ended=None if status.ended is None else status.ended.unix,
        money=status.money,
    )
