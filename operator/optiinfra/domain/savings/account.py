"""The account of one workload: what it asked for at the beginning, what it asks for now, and the entries in between.

Always n0 s0 - n s = sum over the open, measured entries, with n replicas of size s. What a counterfactual claims (the
replicas that a plain HPA would run on the same load, less those that run) stands beside that sum and is no part of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.savings.amounts import ALL, NOTHING, Capacity
from optiinfra.domain.savings.booking import BY_OTHERS, Change, Maker, book
from optiinfra.domain.savings.entries import CLAIMED, HPA_METHOD, NOWHERE, Axis, Basis, Cause, End, Entry, Place
from optiinfra.domain.units import Seconds, UnixTime

SETTLE = Seconds(600.0)
"""A change that stood for so long, with no pod left that holds what it freed, counts as verified."""
NOT_FOLLOWING = Unknown(UnknownReason.NOT_CONFIGURED, "no scaler of the workload follows the operator")


@dataclass(frozen=True, slots=True)
class TargetSeen:
    """One workload as observed at one moment."""

    target: str
    uid: str
    generation: int
    """Of the workload's spec, which moves with each change of it; 0 where it is not known."""
    replicas: int
    """Asked for."""
    size: Capacity
    """What a replica of the newest template asks for."""
    held: Capacity
    """What pods on nodes hold, those that are ending too."""
    place: Place = NOWHERE
    replicas_by: Maker = BY_OTHERS
    """Who changed the replicas, if they changed."""
    size_by: Mapping[Axis, Maker] = field(default_factory=dict)
    """Who changed what a replica asks for; others where nothing is said."""
    verified: frozenset[str] = frozenset()
    """Actions that were verified."""
    reference: Value = NOT_FOLLOWING
    """Replicas that a plain HPA would run now on the same load, where the workload's scaler follows the operator."""
    reference_by: str = ""
    """Id of the operator's latest action, for the counterfactual entry."""
    follows: bool = False
    """The workload has a scaler that follows the operator: its replicas move with the load anyway."""


@dataclass(frozen=True, slots=True)
class Account:
    """One workload's books."""

    target: str
    uid: str
    generation: int
    base_replicas: int
    base_size: Capacity
    replicas: int
    size: Capacity
    shortfall: Capacity = NOTHING
    """What pods still hold beyond what is asked for."""
    entries: tuple[Entry, ...] = ()
    """Open ones, oldest first within their axis."""
    no_counterfactual: str = ""
    """Why nothing is claimed against a plain HPA; empty where it is, or where none is needed."""

    @classmethod
    def opening(cls, seen: TargetSeen) -> "Account":
        """Begin with what runs now: nothing is freed yet."""
        return cls(
            target=seen.target,
            uid=seen.uid,
            generation=seen.generation,
            base_replicas=seen.replicas,
            base_size=seen.size,
            replicas=seen.replicas,
            size=seen.size,
            shortfall=_shortfall(seen),
        )

    def of(self, axis: Axis) -> tuple[Entry, ...]:
        """Open, measured entries of one axis, oldest first."""
        return tuple(entry for entry in self.entries if entry.axis is axis and entry.basis is Basis.MEASURED)

    def freed(self, entry: Entry) -> Capacity:
        """What an entry frees now."""
        return entry.freed(replicas=self.replicas, base_size=self.base_size)

    @property
    def measured(self) -> Capacity:
        """What is freed now: the sum of the measured entries, and n0 s0 - n s."""
        return self.base_size.times(self.base_replicas) - self.size.times(self.replicas)

    def free_share(self) -> Capacity:
        """Share of what is freed that no pod holds any more, by resource."""
        plus = sum((self.freed(entry).positive for entry in self.entries if entry.basis is Basis.MEASURED), NOTHING)
        counter = sum((self.freed(e).positive for e in self.entries if e.basis is Basis.COUNTERFACTUAL), NOTHING)
        # Whichever is smaller bears the whole shortfall: claims are never larger than what both bases allow.
        return Capacity(
            _free(self.shortfall.gpus, plus.gpus, counter.gpus),
            _free(self.shortfall.cpu_cores, plus.cpu_cores, counter.cpu_cores),
            _free(self.shortfall.memory_gib, plus.memory_gib, counter.memory_gib),
        )


def _shortfall(seen: TargetSeen) -> Capacity:
    return (seen.held - seen.size.times(seen.replicas)).positive


def _free(shortfall: float, *bases: float) -> float:
    claimed = [base for base in bases if base > 0.0]
    return min((max(0.0, 1.0 - shortfall / base) for base in claimed), default=1.0)


@dataclass(frozen=True, slots=True)
class Step:
    """An account after an observation."""

    account: Account
    ended: tuple[Entry, ...] = ()
    next_id: int = 1
    compared: bool = field(default=True)
    """False when the workload was replaced: nothing can be said of the time in between."""


def observe(account: Account, seen: TargetSeen, *, at: UnixTime, next_id: int) -> Step:
    """Write down what changed since the last observation."""
    if seen.uid != account.uid:
        replaced = tuple(entry.closed(at, End.REPLACED) for entry in account.entries)
        return Step(Account.opening(seen), replaced, next_id, compared=False)
    measured, ended, next_id = _booked(account, seen, at=at, next_id=next_id)
    counter, gone, why, next_id = _counterfactual(account, seen, at=at, next_id=next_id)
    fresh = replace(
        account,
        generation=seen.generation,
        replicas=seen.replicas,
        size=seen.size,
        shortfall=_shortfall(seen),
        entries=(*measured, *counter),
        no_counterfactual=why,
    )
    return Step(_verified(fresh, seen, at=at), (*ended, *gone), next_id)


def _booked(account: Account, seen: TargetSeen, *, at: UnixTime, next_id: int) -> tuple[list[Entry], list[Entry], int]:
    kept: list[Entry] = []
    ended: list[Entry] = []
    for change in _changes(account, seen, at=at):
        entries = account.of(change.axis)
        if seen.follows and change.axis is Axis.REPLICAS:
            entries, gone, next_id = _handed_over(entries, change, next_id=next_id)
            ended += gone
        booked = book(entries, change, next_id=next_id)
        next_id = booked.next_id
        kept += booked.open
        ended += booked.ended
    return kept, ended, next_id


def _handed_over(
    entries: tuple[Entry, ...], change: Change, *, next_id: int
) -> tuple[tuple[Entry, ...], list[Entry], int]:
    """End what is claimed as measured where a plain HPA becomes the measure: the same replicas must not count twice.

    What they freed stays in the sum, as the scaler's, which nobody claims.
    """
    claimed = [entry for entry in entries if entry.cause in CLAIMED]
    if not claimed:
        return entries, [], next_id
    left = [entry for entry in entries if entry.cause not in CLAIMED]
    amount = sum(entry.amount for entry in claimed)
    theirs = replace(change, before=change.before + amount, after=change.before, maker=Maker(Cause.SCALER))
    booked = book(left, theirs, next_id=next_id)
    return booked.open, [entry.closed(change.at, End.COMPARED) for entry in claimed], booked.next_id


def _changes(account: Account, seen: TargetSeen, *, at: UnixTime) -> Sequence[Change]:
    old, new = account.size, seen.size
    sizes = (
        (Axis.GPUS, old.gpus, new.gpus),
        (Axis.CPU, old.cpu_cores, new.cpu_cores),
        (Axis.MEMORY, old.memory_gib, new.memory_gib),
    )
    maker = seen.replicas_by
    if seen.follows and maker.cause in CLAIMED:
        # It moves with the load, up and down: what that saves is measured against a plain HPA, not against the count
        # that happened to run when the books were opened.
        maker = Maker(Cause.SCALER, maker.by)
    return [
        Change(seen.target, Axis.REPLICAS, float(account.replicas), float(seen.replicas), at, maker, seen.place),
        *(
            Change(seen.target, axis, before, after, at, seen.size_by.get(axis, BY_OTHERS), seen.place)
            for axis, before, after in sizes
        ),
    ]


def _counterfactual(
    account: Account, seen: TargetSeen, *, at: UnixTime, next_id: int
) -> tuple[list[Entry], list[Entry], str, int]:
    """Move the one entry against a plain HPA; where there is nothing to compare with, it claims nothing."""
    known = [entry for entry in account.entries if entry.basis is Basis.COUNTERFACTUAL]
    if not seen.follows:
        return [], [entry.closed(at, End.NOT_FOLLOWED) for entry in known], "", next_id
    if isinstance(seen.reference, Unknown):
        return [replace(entry, amount=0.0) for entry in known], [], str(seen.reference), next_id
    amount = seen.reference - seen.replicas
    if known:
        moved = replace(known[0], amount=amount, after=float(seen.replicas), by=seen.reference_by, place=seen.place)
        return [moved], [], "", next_id
    fresh = Entry(
        id=next_id,
        target=seen.target,
        axis=Axis.REPLICAS,
        cause=Cause.ACTION,
        by=seen.reference_by,
        basis=Basis.COUNTERFACTUAL,
        method=HPA_METHOD,
        opened=at,
        before=float(seen.reference),
        after=float(seen.replicas),
        amount=amount,
        place=seen.place,
    )
    return [fresh], [], "", next_id + 1


def _verified(account: Account, seen: TargetSeen, *, at: UnixTime) -> Account:
    free = account.free_share() == ALL

    def judged(entry: Entry) -> Entry:
        if entry.verified or entry.basis is Basis.COUNTERFACTUAL:
            return entry
        if entry.cause is Cause.ACTION:
            return replace(entry, verified=entry.by in seen.verified)
        return replace(entry, verified=free and at - entry.opened >= SETTLE)

    return replace(account, entries=tuple(judged(entry) for entry in account.entries))
