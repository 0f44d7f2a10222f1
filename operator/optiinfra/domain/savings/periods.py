"""Totals by period: this month, the last one, and since the beginning; by who did it, on which basis, verified or not.

What was freed and what was added are kept apart, so that both only ever grow and a loss cannot hide in a sum. Months
are those of UTC. What was booked is never valued anew: another price counts from the hour in which it holds, and with
another currency the money begins anew while the old amount stays readable as a closed account.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from optiinfra.domain.savings.amounts import Amounts, split
from optiinfra.domain.savings.entries import CLAIMED, Basis, Cause
from optiinfra.domain.savings.months import month_after, month_of, month_start
from optiinfra.domain.units import UnixTime

MOST_CLOSED = 4


@dataclass(frozen=True, slots=True, order=True)
class LineKey:
    """What a total is kept for."""

    cause: Cause
    basis: Basis
    verified: bool

    @property
    def claimed(self) -> bool:
        """Whether the operator counts it as its own doing."""
        return self.cause in CLAIMED


@dataclass(frozen=True, slots=True)
class Line:
    """One total; both parts are positive and only grow."""

    freed: Amounts = field(default_factory=Amounts)
    added: Amounts = field(default_factory=Amounts)

    def plus(self, amounts: Amounts) -> "Line":
        """Return it with a signed amount booked."""
        freed, added = split(amounts)
        return Line(self.freed + freed, self.added + added)

    def without_money(self) -> "Line":
        """Return it with the money of a new currency, of which there is none yet."""
        return Line(replace(self.freed, money=0.0), replace(self.added, money=0.0))


Lines = Mapping[LineKey, Line]


@dataclass(frozen=True, slots=True)
class ClosedAccount:
    """Money in a currency that is no longer used."""

    currency: str
    since: UnixTime
    until: UnixTime
    measured: float
    """Net, of what the operator claims."""
    counterfactual: float


@dataclass(frozen=True, slots=True)
class Periods:
    """Totals of three periods."""

    since: UnixTime
    month: str
    """This month, as 2026-11."""
    this_month: Lines = field(default_factory=dict)
    last_month: Lines = field(default_factory=dict)
    all_time: Lines = field(default_factory=dict)
    currency: str = ""
    currency_since: UnixTime = UnixTime(0.0)
    closed: tuple[ClosedAccount, ...] = ()

    @classmethod
    def starting(cls, at: UnixTime, *, currency: str) -> "Periods":
        """Nothing was booked yet."""
        return cls(since=at, month=month_of(at), currency=currency, currency_since=at)

    def at(self, now: UnixTime) -> "Periods":
        """Turn the page where a month has ended; a clock that was set back turns nothing back."""
        month = month_of(now)
        if month <= self.month:
            return self
        last = self.this_month if month == month_after(self.month) else {}
        return replace(self, month=month, this_month={}, last_month=last)

    def book(self, key: LineKey, amounts: Amounts, *, start: UnixTime, end: UnixTime) -> "Periods":
        """Book what came to be evenly between two moments, each month its part; `at(end)` comes first."""
        if amounts.is_nothing:
            return self
        this, last = self.this_month, self.last_month
        for month, share in _by_month(start, end):
            if month == self.month:
                this = _with(this, key, amounts.times(share))
            elif month_after(month) == self.month:
                last = _with(last, key, amounts.times(share))
        return replace(self, this_month=this, last_month=last, all_time=_with(self.all_time, key, amounts))

    def in_currency(self, currency: str, *, at: UnixTime) -> "Periods":
        """Go on in another currency: its money begins at nothing."""
        if currency == self.currency or not currency:
            return self
        if not any(line.freed.money or line.added.money for line in self.all_time.values()):
            return replace(self, currency=currency, currency_since=at)
        account = ClosedAccount(
            currency=self.currency,
            since=self.currency_since,
            until=at,
            measured=net_money(self.all_time, Basis.MEASURED),
            counterfactual=net_money(self.all_time, Basis.COUNTERFACTUAL),
        )
        return replace(
            self,
            this_month=_without_money(self.this_month),
            last_month=_without_money(self.last_month),
            all_time=_without_money(self.all_time),
            currency=currency,
            currency_since=at,
            closed=(*self.closed, account)[-MOST_CLOSED:],
        )


def net_money(lines: Lines, basis: Basis) -> float:
    """Money of one basis that the operator claims, less what it added."""
    return sum(line.freed.money - line.added.money for key, line in lines.items() if key.claimed and key.basis is basis)


def _by_month(start: UnixTime, end: UnixTime) -> Iterator[tuple[str, float]]:
    """Yield each month of a span with its share of it."""
    if end <= start:
        yield month_of(end), 1.0
        return
    at = start
    while at < end:
        month = month_of(at)
        until = min(end, month_start(month_after(month)))
        yield month, (until - at) / (end - start)
        at = until


def _with(lines: Lines, key: LineKey, amounts: Amounts) -> Lines:
    return {**lines, key: lines.get(key, Line()).plus(amounts)}


def _without_money(lines: Lines) -> Lines:
    return {key: line.without_money() for key, line in lines.items()}
