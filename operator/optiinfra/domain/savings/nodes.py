"""Nodes that went, came, or were not bought: the only place in which the ledger makes money.

Nodes are counted by shape. One that goes opens an entry, one of its shape that comes ends the latest. The money of an
entry is shared among the ledger entries whose capacity let it go, each by what it had freed and not yet given; what
nobody had freed stays with whoever removed the node. Shares are settled in the moment of the change.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from optiinfra.domain.savings.amounts import EPSILON, NOTHING, Capacity
from optiinfra.domain.savings.entries import Basis, Cause, Place
from optiinfra.domain.units import UnixTime

MOST_NODE_ENTRIES: Final = 24
MOST_SHARES: Final = 8


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What nodes are told apart by."""

    place: Place
    gpus: float
    cpu_cores: float
    """In steps of a tenth: what the kubelet keeps for itself differs by a little."""
    memory_gib: float
    """In whole GiB."""
    spot: bool = False

    @property
    def capacity(self) -> Capacity:
        """Of one node."""
        return Capacity(self.gpus, self.cpu_cores, self.memory_gib)

    @property
    def units(self) -> float:
        """What commitments are counted in: GPUs where it has some, else cores."""
        return self.gpus if self.gpus > 0.0 else self.cpu_cores

    def part(self, freed: Capacity) -> float:
        """How many such nodes this much capacity is: by GPUs where it has some, else by the mean of both others."""
        if self.gpus > 0.0:
            return freed.gpus / self.gpus
        parts = [
            amount / whole
            for amount, whole in ((freed.cpu_cores, self.cpu_cores), (freed.memory_gib, self.memory_gib))
            if whole > 0.0
        ]
        return sum(parts) / len(parts) if parts else 0.0


ALIKE: Final = 0.1
"""Nodes of the same GPUs whose cores and memory differ by less are the same kind: what a kubelet keeps differs."""


def like(shape: Shape, known: Iterable[Shape]) -> Shape:
    """Return the known shape that this one is a version of, else itself: an upgrade of nodes frees nothing."""
    for other in sorted(known):
        same = (other.place, other.gpus, other.spot) == (shape.place, shape.gpus, shape.spot)
        if same and _near(other.cpu_cores, shape.cpu_cores) and _near(other.memory_gib, shape.memory_gib):
            return other
    return shape


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= ALIKE * max(one, other)


@dataclass(frozen=True, slots=True)
class Claim:
    """What one open entry of an object frees now in one place, for the sharing."""

    owner: str
    """namespace/name of the object."""
    entry: int
    cause: Cause
    basis: Basis
    verified: bool
    place: Place
    freed: Capacity
    """Really free, or really added where negative."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a node entry's money that belongs to one entry of an object."""

    owner: str
    entry: int
    fraction: float


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """Nodes of one shape that went (positive) or came (negative) at one moment."""

    id: int
    shape: Shape
    nodes: int
    """Still gone; negative for nodes that were added."""
    name: str
    """Of the node, or of one of several; empty when nobody watched it go."""
    cause: Cause
    by: str
    opened: UnixTime
    before: int
    """Nodes of the shape."""
    after: int
    hour: float | None
    """Last known price of such a node that goes; None while none was ever known."""
    shares: tuple[Share, ...] = ()
    ended: UnixTime | None = None
    money: float = 0.0
    """What it has come to."""

    @property
    def unshared(self) -> float:
        """Fraction that nobody's entry had freed."""
        return max(0.0, 1.0 - sum(share.fraction for share in self.shares))


@dataclass(frozen=True, slots=True)
class NodeBooks:
    """What is known of all nodes by shape, and the entries."""

    counts: Mapping[Shape, int] = field(default_factory=dict)
    entries: tuple[NodeEntry, ...] = ()
    """Open ones, oldest first."""
    next_id: int = 1


@dataclass(frozen=True, slots=True)
class Moved:
    """Node books after an observation."""

    books: NodeBooks
    ended: tuple[NodeEntry, ...]


@dataclass(frozen=True, slots=True)
class Departure:
    """Who removed a node, as far as anybody can tell."""

    name: str
    cause: Cause = Cause.OTHERS
    by: str = ""


def relabelled(books: NodeBooks, changes: Iterable[tuple[Shape, Shape]], *, at: UnixTime) -> Moved:
    """Let nodes that are still there be of another shape: a pool was defined anew, or a driver came up late.

    They neither went nor came. Where a node had just come, it came as what it turned out to be, and ends the latest
    entry of such a node that went: a node is often seen before its device plugin has told its GPUs.
    """
    counts, entries, next_id = dict(books.counts), list(books.entries), books.next_id
    ended: list[NodeEntry] = []
    for old, new in changes:
        if counts.get(old, 0) <= 0:
            continue
        counts[old] -= 1
        counts[new] = counts.get(new, 0) + 1
        place = max((i for i, entry in enumerate(entries) if entry.shape == old and entry.nodes < 0), default=None)
        if place is None:
            continue
        entry, rest = entries[place], entries[place].nodes + 1
        kept, gone, left = _cancel(entries, new, -1, at=at)
        if not left:
            # What it came to while it counted as another shape was booked already; the entry it ends tells both.
            tail = entry.money if not rest else 0.0
            gone = [replace(one, money=one.money + tail) for one in gone]
            ended += gone
            entries = [replace(one, nodes=rest) if one.id == entry.id else one for one in kept]
            entries = [one for one in entries if one.nodes]
        elif not rest:
            entries[place] = replace(entry, shape=new, hour=None)
        else:
            entries[place] = replace(entry, nodes=rest)
            entries.append(replace(entry, id=next_id, shape=new, nodes=-1, hour=None, shares=(), money=0.0))
            next_id += 1
    counted = {shape: count for shape, count in counts.items() if count}
    return Moved(NodeBooks(counted, tuple(_bounded(entries)), next_id), tuple(ended))


def move(
    books: NodeBooks,
    now: Mapping[Shape, int],
    *,
    at: UnixTime,
    departures: Mapping[Shape, Sequence[Departure]],
    hours: Mapping[Shape, float],
    claims: Sequence[Claim],
) -> Moved:
    """Write down which nodes went and came since the last observation."""
    entries, ended, next_id = list(books.entries), [], books.next_id
    for shape in sorted({*books.counts, *now}):
        was, here = books.counts.get(shape, 0), now.get(shape, 0)
        left = was - here
        entries, gone, left = _cancel(entries, shape, left, at=at)
        ended += gone
        if not left:
            continue
        who = next(iter(departures.get(shape, ())), Departure("")) if left > 0 else Departure("")
        entry = NodeEntry(
            id=next_id,
            shape=shape,
            nodes=left,
            name=who.name,
            cause=who.cause,
            by=who.by,
            opened=at,
            before=was,
            after=here,
            hour=hours.get(shape),
            shares=shares_of(shape, left, claims, entries),
        )
        entries.append(entry)
        next_id += 1
    entries = [replace(entry, hour=hours.get(entry.shape, entry.hour)) for entry in _bounded(entries)]
    counts = {shape: count for shape, count in now.items() if count}
    return Moved(NodeBooks(counts, tuple(entries), next_id), tuple(ended))


def _cancel(
    entries: list[NodeEntry], shape: Shape, left: int, *, at: UnixTime
) -> tuple[list[NodeEntry], list[NodeEntry], int]:
    """Let nodes that come end the latest entries of nodes that went, and the other way round."""
    kept: list[NodeEntry] = []
    ended: list[NodeEntry] = []
    for entry in reversed(entries):
        if not left or entry.shape != shape or entry.nodes * left >= 0:
            kept.append(entry)
            continue
        taken = min(abs(entry.nodes), abs(left))
        left += taken if left < 0 else -taken
        rest = entry.nodes + (taken if entry.nodes < 0 else -taken)
        if rest:
            kept.append(replace(entry, nodes=rest))
        else:
            ended.append(replace(entry, nodes=0, ended=at))
    return kept[::-1], ended, left


def shares_of(shape: Shape, nodes: int, claims: Sequence[Claim], entries: Sequence[NodeEntry]) -> tuple[Share, ...]:
    """Share nodes that went among what was freed where they were; nodes that came, among what was added there."""
    sign = 1.0 if nodes > 0 else -1.0
    parts = [
        (claim, shape.part(ungiven(claim, entries).times(sign).positive))
        for claim in claims
        if claim.place == shape.place
    ]
    parts = sorted(((c, p) for c, p in parts if p > EPSILON), key=lambda pair: -pair[1])[:MOST_SHARES]
    whole = max(sum(part for _, part in parts), float(abs(nodes)))
    return tuple(Share(claim.owner, claim.entry, part / whole) for claim, part in parts)


def swapped(entries: Sequence[NodeEntry]) -> dict[Place, tuple[float, float]]:
    """By place: the part of the nodes that went, and of those that came, that only stand in for each other.

    Eight GPUs that went and two nodes of four that came save nobody a node; what is left of their prices is theirs who
    swapped them.
    """
    sums: dict[Place, tuple[float, float]] = {}
    for entry in entries:
        went, came = sums.get(entry.shape.place, (0.0, 0.0))
        units = entry.nodes * entry.shape.units
        sums[entry.shape.place] = went + max(units, 0.0), came + max(-units, 0.0)
    return {
        place: (min(went, came) / went if went else 0.0, min(went, came) / came if came else 0.0)
        for place, (went, came) in sums.items()
    }


def ungiven(claim: Claim, entries: Sequence[NodeEntry]) -> Capacity:
    """What a claim has freed and no node that went has taken yet; negative for what was added."""
    given = NOTHING
    for entry in entries:
        fraction = sum(
            share.fraction for share in entry.shares if (share.owner, share.entry) == (claim.owner, claim.entry)
        )
        if fraction:
            given += entry.shape.capacity.times(entry.nodes * fraction)
    rest = claim.freed - given
    # Each resource for itself: what went as a GPU node may have had fewer cores than were freed.
    return Capacity(
        _toward_zero(rest.gpus, claim.freed.gpus),
        _toward_zero(rest.cpu_cores, claim.freed.cpu_cores),
        _toward_zero(rest.memory_gib, claim.freed.memory_gib),
    )


def _toward_zero(rest: float, freed: float) -> float:
    return rest if rest * freed > 0.0 else 0.0


def _bounded(entries: list[NodeEntry]) -> list[NodeEntry]:
    """Join the two oldest of one shape and sign while there are too many."""
    while len(entries) > MOST_NODE_ENTRIES:
        pair = _pair(entries)
        if pair is None:
            # Two dozen shapes at once: the oldest stop counting rather than being told wrongly.
            entries = entries[1:]
            continue
        older, newer = entries[pair[0]], entries[pair[1]]
        entries = [
            joined(older, newer) if at == pair[0] else entry for at, entry in enumerate(entries) if at != pair[1]
        ]
    return entries


def _pair(entries: Sequence[NodeEntry]) -> tuple[int, int] | None:
    seen: dict[tuple[Shape, bool, Cause], int] = {}
    for at, entry in enumerate(entries):
        kind = entry.shape, entry.nodes > 0, entry.cause
        if kind in seen:
            return seen[kind], at
        seen[kind] = at
    return None


def joined(older: NodeEntry, newer: NodeEntry) -> NodeEntry:
    """Make one entry of two: everybody keeps as many nodes as before."""
    total = older.nodes + newer.nodes
    fractions: dict[tuple[str, int], float] = {}
    for entry in (older, newer):
        for share in entry.shares:
            key = share.owner, share.entry
            fractions[key] = fractions.get(key, 0.0) + share.fraction * entry.nodes / total
    largest = sorted(fractions.items(), key=lambda item: -item[1])[:MOST_SHARES]
    return replace(
        older,
        nodes=total,
        after=newer.after,
        money=older.money + newer.money,
        shares=tuple(Share(owner, entry, fraction) for (owner, entry), fraction in largest),
    )
