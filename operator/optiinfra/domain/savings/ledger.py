"""The ledger of one object: its workloads' accounts, what their entries have come to, and the totals.

Between two observations the smaller of both ends counts where something was freed and the larger where something was
added. A gap in operation claims nothing, unless the workload's generation proves that nobody changed its spec; what was
added counts through every gap. A clock that jumps is a gap, and no moment is ever counted twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from optiinfra.domain.savings.account import Account, TargetSeen, observe
from optiinfra.domain.savings.amounts import NOTHING, Amounts, Capacity
from optiinfra.domain.savings.entries import CLAIMED, Basis, End, Entry
from optiinfra.domain.savings.periods import LineKey, Periods
from optiinfra.domain.units import Seconds, UnixTime

LONGEST_GAP: Final = Seconds(600.0)
"""Observations further apart than this, and than two and a half rounds, have a gap between them."""
LONGEST_PROVEN: Final = Seconds(12 * 3600.0)
"""A gap that an unchanged generation proves is counted up to this length."""
LONGEST_ADDED: Final = Seconds(31 * 24 * 3600.0)
"""What was added is counted through a gap up to this length: a clock that was wrong must not cost a year."""
CLOCK_SLACK: Final = Seconds(5.0)
CLOCK_SLACK_SHARE: Final = 0.05
MOST_ENDED: Final = 8
HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Rate:
    """Money an hour that one entry saves, because a node is gone or was not bought; negative where one was added."""

    basis: Basis
    per_hour: float
    since: UnixTime


@dataclass(frozen=True, slots=True)
class Seen:
    """All workloads of an object as observed at one moment."""

    at: UnixTime
    targets: tuple[TargetSeen, ...]
    """Those that could be observed; one that is missing claims nothing until it is seen again."""
    named: frozenset[str]
    """All that the object names."""
    interval: Seconds = Seconds(30.0)
    """Between two rounds of the object."""
    elapsed: Seconds | None = None
    """By a clock that cannot jump; None at the first observation after a start."""
    rates: Mapping[int, Sequence[Rate]] = field(default_factory=dict)
    """Money by entry."""
    nodes_watched: bool = False
    """Whether nodes were watched without a gap since the last observation: money needs it."""
    currency: str = ""


@dataclass(frozen=True, slots=True)
class Accrual:
    """What came to one line of the totals between two moments."""

    key: LineKey
    amounts: Amounts
    start: UnixTime
    end: UnixTime


@dataclass(frozen=True, slots=True)
class Ledger:
    """One object's books."""

    since: UnixTime
    as_of: UnixTime
    """Time of the last observation."""
    counted_until: UnixTime
    """No moment before it is counted again."""
    periods: Periods
    accounts: tuple[Account, ...] = ()
    ended: tuple[Entry, ...] = ()
    """The last ones that ended, oldest first."""
    next_id: int = 1
    unwatched: Seconds = Seconds(0.0)
    """Time in which nothing was claimed because nobody looked."""
    seen_at: tuple[tuple[str, UnixTime], ...] = ()
    """By workload: when it was last observed, where that is not `as_of`."""

    @classmethod
    def opening(cls, at: UnixTime, *, currency: str = "") -> "Ledger":
        """Begin: nothing was observed yet."""
        return cls(since=at, as_of=at, counted_until=at, periods=Periods.starting(at, currency=currency))

    def account(self, target: str) -> Account | None:
        """Return the account of a workload."""
        return next((account for account in self.accounts if account.target == target), None)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All open entries."""
        return tuple(entry for account in self.accounts for entry in account.entries)

    @property
    def stands_still(self) -> bool:
        """Whether nothing accrues now."""
        return all(account.freed(entry).is_nothing for account in self.accounts for entry in account.entries)


def watch(ledger: Ledger, seen: Seen) -> tuple[Ledger, tuple[Accrual, ...]]:
    """Take in one observation; the same one a second time changes nothing."""
    ledger = replace(ledger, periods=ledger.periods.at(seen.at).in_currency(seen.currency, at=seen.at))
    if seen.currency and ledger.periods.currency_since == seen.at and seen.at > ledger.since:
        ledger = _without_entry_money(ledger)
    watched = {target.target: target for target in seen.targets}
    last_seen = dict(ledger.seen_at)
    accounts: list[Account] = []
    ended: list[Entry] = list(ledger.ended)
    accruals: list[Accrual] = []
    next_id, unwatched = ledger.next_id, 0.0
    for account in ledger.accounts:
        now = watched.pop(account.target, None)
        if now is None:
            if account.target in seen.named:
                accounts.append(account)
                last_seen.setdefault(account.target, ledger.as_of)
            else:
                ended += [entry.closed(seen.at, End.GONE) for entry in account.entries]
                last_seen.pop(account.target, None)
            continue
        span = _span(ledger, account, now, seen, since=last_seen.pop(account.target, ledger.as_of))
        step = observe(account, now, at=seen.at, next_id=next_id)
        next_id = step.next_id
        moved, closed, came = _accrue(account, step.account, step.ended, seen, span, compared=step.compared)
        accounts.append(moved)
        ended += closed
        accruals += came
        unwatched = max(unwatched, span.unwatched if moved.entries or closed else 0.0)
    accounts += [Account.opening(target) for target in watched.values()]
    periods = ledger.periods
    for accrual in accruals:
        periods = periods.book(accrual.key, accrual.amounts, start=accrual.start, end=accrual.end)
    fresh = replace(
        ledger,
        as_of=seen.at,
        counted_until=_counted_until(ledger, seen),
        periods=periods,
        accounts=tuple(accounts),
        ended=tuple(ended[-MOST_ENDED:]),
        next_id=next_id,
        unwatched=Seconds(ledger.unwatched + unwatched),
        seen_at=tuple(sorted(last_seen.items())),
    )
    return fresh, tuple(accruals)


def _counted_until(ledger: Ledger, seen: Seen) -> UnixTime:
    if not seen.targets:
        return ledger.counted_until
    set_back = ledger.counted_until - seen.at > LONGEST_GAP
    return seen.at if set_back else max(ledger.counted_until, seen.at)


def passed(wall: float, elapsed: Seconds | None) -> float:
    """Return the seconds that really passed: those on the wall, unless a clock that cannot jump knows better.

    Both are read at different moments of a round, so that they differ by a little in both directions.
    """
    if elapsed is None or wall <= elapsed + CLOCK_SLACK + CLOCK_SLACK_SHARE * elapsed:
        return wall
    return elapsed


@dataclass(frozen=True, slots=True)
class _Span:
    """What of the time since the last observation may be counted, in hours."""

    start: UnixTime
    freed: float
    added: float
    unwatched: float
    """Seconds that are not claimed."""


def _span(ledger: Ledger, account: Account, now: TargetSeen, seen: Seen, *, since: UnixTime) -> _Span:
    # What was counted up to a moment that a clock set back now calls the future is not counted again. A clock that was
    # wrong by more than a gap had its time unclaimed, and binds nobody.
    ahead = ledger.counted_until - seen.at
    bound = ahead <= LONGEST_GAP and since == ledger.as_of
    start = max(since, ledger.counted_until) if bound else since
    wall = max(0.0, seen.at - start)
    real = wall if since != ledger.as_of else passed(wall, seen.elapsed)
    longest = max(LONGEST_GAP, 2.5 * seen.interval)
    unchanged = account.generation > 0 and (now.uid, now.generation, now.replicas, now.size) == (
        account.uid,
        account.generation,
        account.replicas,
        account.size,
    )
    proven = real <= longest or (unchanged and real <= LONGEST_PROVEN)
    claimed = real if proven else 0.0
    return _Span(
        start=UnixTime(seen.at - claimed) if proven else start,
        freed=claimed / HOUR,
        added=min(real, LONGEST_ADDED) / HOUR,
        unwatched=max(0.0, wall - claimed),
    )


def _accrue(
    before: Account, after: Account, ended: Sequence[Entry], seen: Seen, span: _Span, *, compared: bool
) -> tuple[Account, list[Entry], list[Accrual]]:
    """Book what each entry came to; returns the account and the ended entries with it written down."""
    old = {entry.id: before.freed(entry) for entry in before.entries}
    free = before.free_share().least(after.free_share())
    accruals: list[Accrual] = []

    def came(entry: Entry, now: Capacity) -> Entry:
        was = old.get(entry.id, NOTHING)
        freed = was.least(now)
        hours = freed.positive.times(span.freed if compared else 0.0)
        added = (freed - freed.positive).times(span.added)
        amounts = Amounts(hours + added, hours.by(free) + added, 0.0)
        if entry.basis is Basis.COUNTERFACTUAL and span.unwatched > 0.0:
            amounts = Amounts(added, added, 0.0)  # nobody knows what the load was
        booked = _book(accruals, entry, entry.basis, amounts, seen, span)
        money = [_money(rate, seen, span) for rate in seen.rates.get(entry.id, ())] if entry.open else []
        for rate, amount in zip(seen.rates.get(entry.id, ()), money, strict=False):
            booked = _book(accruals, booked, rate.basis, Amounts(money=amount), seen, span)
        return booked

    moved = replace(after, entries=tuple(came(entry, after.freed(entry)) for entry in after.entries))
    return moved, [came(entry, NOTHING) for entry in ended], accruals


def _book(accruals: list[Accrual], entry: Entry, basis: Basis, amounts: Amounts, seen: Seen, span: _Span) -> Entry:
    if amounts.is_nothing:
        return entry
    verified = entry.verified and basis is Basis.MEASURED
    accruals.append(Accrual(LineKey(entry.cause, basis, verified), amounts, span.start, seen.at))
    return replace(entry, accrued=entry.accrued + amounts)


def _money(rate: Rate, seen: Seen, span: _Span) -> float:
    if rate.per_hour < 0.0:
        return rate.per_hour * min(span.added, max(0.0, seen.at - rate.since) / HOUR)
    if not seen.nodes_watched:
        return 0.0
    return rate.per_hour * min(span.freed, max(0.0, seen.at - rate.since) / HOUR)


def _without_entry_money(ledger: Ledger) -> Ledger:
    def bare(entries: Iterable[Entry]) -> tuple[Entry, ...]:
        return tuple(replace(entry, accrued=replace(entry.accrued, money=0.0)) for entry in entries)

    accounts = tuple(replace(account, entries=bare(account.entries)) for account in ledger.accounts)
    return replace(ledger, accounts=accounts, ended=bare(ledger.ended))


def money_per_hour(rates: Mapping[int, Sequence[Rate]], entries: Iterable[Entry], *, basis: Basis) -> float:
    """Money an hour that the claimed, open entries save now; of what was measured only what is verified."""
    return sum(
        rate.per_hour
        for entry in entries
        if entry.cause in CLAIMED and (entry.verified or basis is Basis.COUNTERFACTUAL)
        for rate in rates.get(entry.id, ())
        if rate.basis is basis
    )
