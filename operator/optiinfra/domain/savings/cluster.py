"""The cluster's ledger: what nodes that went, came or were not bought come to, and the totals of all objects.

Money is made here and nowhere else. A node that went saves its price only as far as no commitment goes on being paid.
Nodes were not bought where what runs, plus what was freed and not given, would not fit: freed capacity that others
have filled, or the replicas that a plain HPA would run. Whole nodes count, and the basis is always counterfactual.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from optiinfra.domain.prices import NO_TERMS, Terms
from optiinfra.domain.savings.account import SETTLE
from optiinfra.domain.savings.amounts import EPSILON, NOTHING, Amounts, Capacity, split
from optiinfra.domain.savings.entries import Basis, Cause, Place
from optiinfra.domain.savings.ledger import HOUR, LONGEST_ADDED, LONGEST_GAP, MOST_ENDED, Accrual, Rate, passed
from optiinfra.domain.savings.months import month_of
from optiinfra.domain.savings.nodes import (
    Claim,
    Departure,
    Moved,
    NodeBooks,
    NodeEntry,
    Shape,
    move,
    relabelled,
    swapped,
    ungiven,
)
from optiinfra.domain.savings.periods import LineKey, Periods
from optiinfra.domain.units import Seconds, UnixTime

NOT_BOUGHT: Final = "nodes that what runs and what was freed would need, and that are not there"
"""Method of money for nodes that were not bought."""
Rates = Mapping[str, Mapping[int, Sequence[Rate]]]


@dataclass(frozen=True, slots=True)
class NodesSeen:
    """All nodes as observed at one moment."""

    at: UnixTime
    counts: Mapping[Shape, int]
    relabelled: tuple[tuple[Shape, Shape], ...] = ()
    """Shapes before and now of nodes that were there before."""
    departures: Mapping[Shape, Sequence[Departure]] = field(default_factory=dict)
    saved_hours: Mapping[Shape, float] = field(default_factory=dict)
    """What is no longer paid an hour when one goes that no commitment covers; absent where it is not known."""
    bought_hours: Mapping[Shape, float] = field(default_factory=dict)
    """What one more would cost an hour."""
    allocated: Mapping[Place, Capacity] = field(default_factory=dict)
    """What pods hold."""
    terms: Mapping[Place, Terms] = field(default_factory=dict)
    """On what terms nodes are bought: what is committed is paid for whether it is there or not."""
    claims: tuple[Claim, ...] = ()
    elapsed: Seconds | None = None
    """By a clock that cannot jump; None at the first observation after a start."""
    currency: str = ""


@dataclass(frozen=True, slots=True)
class Avoided:
    """Nodes that were not bought in one place."""

    shape: Shape
    nodes: int
    since: UnixTime
    hour: float
    parts: tuple[tuple[str, int, float], ...]
    """Owner, entry, fraction."""


@dataclass(frozen=True, slots=True)
class ClusterLedger:
    """The cluster's books."""

    since: UnixTime
    as_of: UnixTime
    periods: Periods
    nodes: NodeBooks = field(default_factory=NodeBooks)
    avoided: tuple[Avoided, ...] = ()
    ended: tuple[NodeEntry, ...] = ()
    rates: Rates = field(default_factory=dict)
    """Money an hour by object and then by entry, as of the last observation."""
    watched: bool = False
    """Whether there was no gap before the last observation."""
    unwatched: Seconds = Seconds(0.0)
    begun: bool = False
    """Whether nodes were ever looked at: what is there at the first look did not come."""
    absorbs_from: UnixTime = UnixTime(0.0)
    """Hours of objects before it are in the totals already."""

    @classmethod
    def opening(cls, at: UnixTime, *, currency: str = "") -> "ClusterLedger":
        """Begin with the first nodes seen: what is there is there."""
        return cls(since=at, as_of=at, periods=Periods.starting(at, currency=currency), absorbs_from=at)

    def rates_of(self, owner: str) -> Mapping[int, Sequence[Rate]]:
        """Money an hour of one object's entries."""
        return self.rates.get(owner, {})


def watch_nodes(ledger: ClusterLedger, seen: NodesSeen) -> ClusterLedger:
    """Take in one observation of all nodes; the same one a second time changes nothing."""
    before = ledger.periods
    periods = before.at(seen.at).in_currency(seen.currency, at=seen.at)
    if before.currency and periods.currency != before.currency:
        ledger = _without_money(ledger)
    turned = (
        relabelled(ledger.nodes, seen.relabelled, at=seen.at)
        if ledger.begun
        else Moved(replace(ledger.nodes, counts=seen.counts), ())
    )
    moved = move(
        turned.books,
        seen.counts,
        at=seen.at,
        departures=seen.departures,
        hours=seen.saved_hours,
        claims=seen.claims,
    )
    moved = replace(moved, ended=(*turned.ended, *moved.ended))
    wall = max(0.0, seen.at - ledger.as_of)
    real = passed(wall, seen.elapsed)
    watched = real <= LONGEST_GAP
    freed, added = (real if watched else 0.0) / HOUR, min(real, LONGEST_ADDED) / HOUR
    start = UnixTime(seen.at - real)
    known = {(claim.owner, claim.entry): claim for claim in seen.claims}
    stand_in = swapped(moved.books.entries)
    was = {entry.id: entry for entry in ledger.nodes.entries}

    def earned(entry: NodeEntry) -> tuple[NodeEntry, list[tuple[LineKey, Amounts]]]:
        # The smaller end of what went, the larger of what was added: neither is flattered by when we looked.
        old = was.get(entry.id)
        count = min(old.nodes if old is not None else 0, entry.nodes)
        factor = paid_off(entry, moved.books, seen.terms)
        money = count * (entry.hour or 0.0) * factor * (added if count < 0 else freed)
        lines = [(key, Amounts(money=money * part)) for key, part in _lines(entry, known, stand_in, at=seen.at)]
        return replace(entry, money=entry.money + money), lines

    entries, ended = [earned(entry) for entry in moved.books.entries], [earned(entry) for entry in moved.ended]
    came = [line for _, lines in (*entries, *ended) for line in lines]
    avoided = _avoided(ledger.avoided, moved.books, seen)
    for item in avoided:
        hours = min(freed, max(0.0, seen.at - item.since) / HOUR)
        for owner, number, part in item.parts:
            key = LineKey(known[owner, number].cause, Basis.COUNTERFACTUAL, verified=False)
            came.append((key, Amounts(money=item.nodes * item.hour * part * hours)))
    for key, amounts in _summed(came):
        periods = periods.book(key, amounts, start=start, end=seen.at)
    nodes = replace(moved.books, entries=tuple(entry for entry, _ in entries))
    return replace(
        ledger,
        as_of=seen.at,
        periods=periods,
        nodes=nodes,
        avoided=avoided,
        ended=(*ledger.ended, *(entry for entry, _ in ended))[-MOST_ENDED:],
        rates=_rates(nodes, avoided, seen, known),
        watched=watched,
        begun=True,
        unwatched=Seconds(ledger.unwatched + max(0.0, wall - (real if watched else 0.0))),
    )


def absorb(ledger: ClusterLedger, accruals: Sequence[Accrual]) -> ClusterLedger:
    """Add the hours that objects came to; their money is counted by nodes.

    Only what came after `absorbs_from`: the totals that a ledger was restored with already hold the time before.
    """
    if not accruals:
        return ledger
    came: dict[tuple[UnixTime, UnixTime], list[tuple[LineKey, Amounts]]] = {}
    first, last = min(accrual.start for accrual in accruals), max(accrual.end for accrual in accruals)
    together = month_of(first) == month_of(last)  # nearly always: what lies in one month needs no splitting
    for accrual in accruals:
        start = UnixTime(max(accrual.start, ledger.absorbs_from))
        span = accrual.end - accrual.start
        share = 1.0 if span <= 0.0 else max(0.0, accrual.end - start) / span
        hours = replace(accrual.amounts, money=0.0).times(share)
        spans = (first, last) if together else (start, accrual.end)
        came.setdefault(spans, []).append((accrual.key, hours))
    periods = ledger.periods.at(last)
    for (start, end), lines in came.items():
        for key, amounts in _summed(lines):
            periods = periods.book(key, amounts, start=start, end=end)
    return replace(ledger, periods=periods)


def _summed(lines: Iterable[tuple[LineKey, Amounts]]) -> Iterable[tuple[LineKey, Amounts]]:
    """Add up the amounts of each line; what was freed and what was added stay apart."""
    sums: dict[tuple[LineKey, bool], Amounts] = {}
    for key, amounts in lines:
        for part, sign in zip(split(amounts), (True, False), strict=True):
            if not part.is_nothing:
                sums[key, sign] = sums.get((key, sign), Amounts()) + part
    return [(key, amounts.times(1.0 if sign else -1.0)) for (key, sign), amounts in sums.items()]


def paid_off(entry: NodeEntry, books: NodeBooks, terms: Mapping[Place, Terms]) -> float:
    """Return which fraction of nodes that went is no longer paid: a commitment is, whether they are there or not."""
    bought = terms.get(entry.shape.place, NO_TERMS)
    if entry.nodes < 0 or entry.shape.spot:
        return 1.0
    here = sum(
        shape.units * count
        for shape, count in books.counts.items()
        if shape.place == entry.shape.place and not shape.spot
    )
    gone = sum(
        other.shape.units * other.nodes
        for other in books.entries
        if other.shape.place == entry.shape.place and other.nodes > 0 and not other.shape.spot
    )
    promised = bought.committed_share * (here + gone)
    if bought.committed_gpus is not None:
        promised = bought.committed_gpus if entry.shape.gpus > 0.0 else 0.0
    return min(1.0, max(0.0, gone - max(0.0, promised - here)) / gone) if gone > 0.0 else 1.0


def own_part(entry: NodeEntry, stand_in: Mapping[Place, tuple[float, float]]) -> float:
    """Return which part of an entry's nodes really went, or really came: the rest were swapped for others."""
    went, came = stand_in.get(entry.shape.place, (0.0, 0.0))
    return 1.0 - (came if entry.nodes < 0 else went)


def _lines(
    entry: NodeEntry,
    known: Mapping[tuple[str, int], Claim],
    stand_in: Mapping[Place, tuple[float, float]],
    *,
    at: UnixTime,
) -> Iterator[tuple[LineKey, float]]:
    """Yield whose money an entry's is, with the fraction of each; what has no owner any more goes back to it."""
    own = own_part(entry, stand_in)
    rest = own
    if own < 1.0:
        yield LineKey(Cause.OTHERS, Basis.MEASURED, at - entry.opened >= SETTLE), 1.0 - own
    for share in entry.shares:
        claim = known.get((share.owner, share.entry))
        if claim is None:
            continue
        measured = claim.basis is Basis.MEASURED
        yield LineKey(claim.cause, claim.basis, claim.verified and measured), share.fraction * own
        rest -= share.fraction * own
    if rest > EPSILON:
        yield LineKey(entry.cause, Basis.MEASURED, at - entry.opened >= SETTLE), rest


def _avoided(before: Sequence[Avoided], books: NodeBooks, seen: NodesSeen) -> tuple[Avoided, ...]:
    """Return the whole nodes that are not there although what runs and what was freed would need them."""
    since = {item.shape.place: (item.nodes, item.since) for item in before}
    found: list[Avoided] = []
    for place in sorted({claim.place for claim in seen.claims}):
        shape = _unit(place, books)
        claims = [(claim, ungiven(claim, books.entries).positive) for claim in seen.claims if claim.place == place]
        if shape is None or shape not in seen.bought_hours:
            continue
        parts = [(claim, shape.part(left)) for claim, left in claims if shape.part(left) > EPSILON]
        whole = sum(part for _, part in parts)
        nodes = math.floor(min(whole, _missing(place, shape, books, seen, claims)) + EPSILON)
        if nodes <= 0:
            continue
        was, began = since.get(place, (0, seen.at))
        found.append(
            Avoided(
                shape=shape,
                nodes=nodes,
                # More nodes than before count from now on; what stood already would lose less than a round.
                since=began if nodes <= was else seen.at,
                hour=seen.bought_hours[shape],
                parts=tuple((claim.owner, claim.entry, part / whole) for claim, part in parts),
            )
        )
    return tuple(found)


def _unit(place: Place, books: NodeBooks) -> Shape | None:
    """The smallest node that is, or was, in a place: the one that would be bought."""
    shapes = [shape for shape in books.counts if shape.place == place]
    shapes += [entry.shape for entry in books.entries if entry.shape.place == place and entry.nodes > 0]
    return min(shapes, key=lambda shape: (shape.units, shape), default=None)


def _missing(
    place: Place, shape: Shape, books: NodeBooks, seen: NodesSeen, claims: Sequence[tuple[Claim, Capacity]]
) -> float:
    """Nodes that would have to be bought, were what is freed and not given still asked for."""
    here = NOTHING
    for other, count in books.counts.items():
        if other.place == place:
            here += other.capacity.times(count)
    wanted = sum((left for _, left in claims), seen.allocated.get(place, NOTHING))
    over = (wanted - here).positive
    if shape.gpus > 0.0:
        return over.gpus / shape.gpus
    return max(
        over.cpu_cores / shape.cpu_cores if shape.cpu_cores > 0.0 else 0.0,
        over.memory_gib / shape.memory_gib if shape.memory_gib > 0.0 else 0.0,
    )


def _rates(
    books: NodeBooks, avoided: Sequence[Avoided], seen: NodesSeen, known: Mapping[tuple[str, int], Claim]
) -> Rates:
    rates: dict[str, dict[int, list[Rate]]] = {}
    stand_in = swapped(books.entries)
    for entry in books.entries:
        if entry.hour is None:
            continue
        hourly = entry.nodes * entry.hour * paid_off(entry, books, seen.terms) * own_part(entry, stand_in)
        if not hourly:
            continue
        for share in entry.shares:
            claim = known.get((share.owner, share.entry))
            if claim is not None:
                rate = Rate(claim.basis, hourly * share.fraction, entry.opened)
                rates.setdefault(share.owner, {}).setdefault(share.entry, []).append(rate)
    for item in avoided:
        for owner, number, part in item.parts:
            rate = Rate(Basis.COUNTERFACTUAL, item.nodes * item.hour * part, item.since)
            rates.setdefault(owner, {}).setdefault(number, []).append(rate)
    return rates


def _without_money(ledger: ClusterLedger) -> ClusterLedger:
    entries = tuple(replace(entry, money=0.0) for entry in ledger.nodes.entries)
    ended = tuple(replace(entry, money=0.0) for entry in ledger.ended)
    return replace(ledger, nodes=replace(ledger.nodes, entries=entries), ended=ended)
