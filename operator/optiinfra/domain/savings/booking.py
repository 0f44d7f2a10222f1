"""Writing a change down: what it takes back ends, the rest becomes an entry. Last in, first out.

A change of others (a person, a scaler) takes back whatever stands against it, ours included: capacity that is asked for
again is not saved. A change of the operator takes back only its own entries: what it adds must show as its own minus
and never shrink somebody else's plus. Open entries therefore always sum up to what was at the beginning less what is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from optiinfra.domain.savings.entries import CLAIMED, NOWHERE, Axis, Basis, Cause, End, Entry, Place, is_zero
from optiinfra.domain.units import UnixTime

MOST_OPEN: Final = 6
"""Open entries of one axis of one workload. What a change takes back leaves at most four kinds of cause and sign beside
each other, so that two of more than these have both in common."""


@dataclass(frozen=True, slots=True)
class Maker:
    """Who made a change."""

    cause: Cause
    by: str = ""
    rollback: bool = False
    """The operator undid what did harm."""


BY_OTHERS: Final = Maker(Cause.OTHERS)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one axis as it was observed."""

    target: str
    axis: Axis
    before: float
    after: float
    at: UnixTime
    maker: Maker
    place: Place = NOWHERE

    @property
    def freed(self) -> float:
        """Units that it frees; negative where it adds."""
        return self.before - self.after


@dataclass(frozen=True, slots=True)
class Booked:
    """Entries of one axis after a change."""

    open: tuple[Entry, ...]
    ended: tuple[Entry, ...] = field(default=())
    next_id: int = 1


def book(entries: Sequence[Entry], change: Change, *, next_id: int) -> Booked:
    """Write a change down among the open, measured entries of its axis, oldest first."""
    left = change.freed
    if is_zero(left):
        return Booked(tuple(entries), (), next_id)
    if change.maker.cause is Cause.SCALER:
        entries, left = _own_first(entries, change, left)
    kept: list[Entry] = []
    ended: list[Entry] = []
    for entry in reversed(entries):
        if is_zero(left) or entry.amount * left >= 0.0 or not _may_end(change.maker, entry):
            kept.append(entry)
            continue
        taken = min(abs(entry.amount), abs(left))
        left += taken if left < 0.0 else -taken
        rest = entry.amount + (taken if entry.amount < 0.0 else -taken)
        if not is_zero(rest):
            kept.append(replace(entry, amount=rest))
        elif entry.running:
            kept.append(replace(entry, amount=0.0))
        else:
            ended.append(entry.closed(change.at, End.ROLLED_BACK if change.maker.rollback else End.TAKEN_BACK))
    open_entries = kept[::-1]
    if not is_zero(left):
        open_entries, next_id = _opened(open_entries, change, left, next_id=next_id)
    return Booked(tuple(_bounded(open_entries)), tuple(ended), next_id)


def _may_end(maker: Maker, entry: Entry) -> bool:
    if maker.cause is Cause.SCALER:
        # What a scaler gives back is no undoing of what we added: it stays our minus.
        return entry.cause in CLAIMED and entry.amount > 0.0
    return entry.cause in CLAIMED if maker.cause in CLAIMED else not entry.running


def _own_first(entries: Sequence[Entry], change: Change, left: float) -> tuple[Sequence[Entry], float]:
    """Let a scaler take back what it did itself before anything of ours: it goes up and down every day."""
    for at, entry in enumerate(entries):
        if entry.cause is Cause.SCALER and entry.amount * left < 0.0:
            taken = min(abs(entry.amount), abs(left)) * (1.0 if left > 0.0 else -1.0)
            moved = replace(entry, amount=entry.amount + taken, after=change.after, by=change.maker.by)
            return [*entries[:at], moved, *entries[at + 1 :]], left - taken
    return entries, left


def _opened(entries: list[Entry], change: Change, left: float, *, next_id: int) -> tuple[list[Entry], int]:
    if change.maker.cause is Cause.SCALER:
        for at, entry in enumerate(entries):
            if entry.cause is Cause.SCALER:
                moved = replace(entry, amount=entry.amount + left, after=change.after, by=change.maker.by)
                return [*entries[:at], moved, *entries[at + 1 :]], next_id
    fresh = Entry(
        id=next_id,
        target=change.target,
        axis=change.axis,
        cause=change.maker.cause,
        by=change.maker.by,
        basis=Basis.MEASURED,
        method="",
        opened=change.at,
        before=change.before,
        after=change.after,
        amount=left,
        place=change.place,
    )
    return [*entries, fresh], next_id + 1


def _bounded(entries: list[Entry]) -> list[Entry]:
    """Join the two oldest of one cause and sign while there are too many; nothing is lost but their separate words."""
    while len(entries) > MOST_OPEN:
        first, second = _pair(entries)
        older, newer = entries[first], entries[second]
        joined = replace(
            older,
            after=newer.after,
            by=newer.by,
            amount=older.amount + newer.amount,
            verified=older.verified and newer.verified,
            accrued=older.accrued + newer.accrued,
            place=older.place if abs(older.amount) >= abs(newer.amount) else newer.place,
        )
        entries = [*entries[:first], joined, *entries[first + 1 : second], *entries[second + 1 :]]
    return entries


def _pair(entries: Sequence[Entry]) -> tuple[int, int]:
    seen: dict[tuple[Cause, bool], int] = {}
    for at, entry in enumerate(entries):
        kind = entry.cause, entry.amount > 0.0
        if kind in seen:
            return seen[kind], at
        seen[kind] = at
    raise ValueError(f"{len(entries)} entries without two of one cause and sign")
