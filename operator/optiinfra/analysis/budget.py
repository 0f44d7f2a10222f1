"""Tokens that one object may spend in one UTC day: reserved before a call, settled afterwards.

A reservation is the worst case, so that calls at the same time cannot overspend together; settling replaces it with
what the service counted. Pure: the time is an argument. It is kept in memory: after a restart the day begins anew,
which can at most double one day's spending per restart; the cache and the interval of insights keep that unlikely.
"""

from dataclasses import dataclass

from optiinfra.analysis.errors import BudgetExhausted
from optiinfra.domain.units import UnixTime

_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Reservation:
    """Tokens set aside for one call."""

    object_id: str
    day: int
    tokens: int


class TokenBudget:
    """The day's spending of all objects. Not thread-safe: one event loop uses it."""

    def __init__(self, *, max_objects: int = 20_000) -> None:
        self._max_objects = max_objects
        self._day = -1
        self._spent: dict[str, int] = {}

    def reserve(self, object_id: str, tokens: int, *, daily: int, now: UnixTime) -> Reservation:
        """Set tokens aside.

        Raises:
            BudgetExhausted: the object would spend more than `daily` tokens today.
        """
        self._turn_day(now)
        spent = self._spent.get(object_id, 0)
        if spent + tokens > daily:
            raise BudgetExhausted(
                f"{spent} of {daily} tokens are spent today and a question may take {tokens}; "
                "raise spec.insights.dailyTokenBudget or wait for the next UTC day"
            )
        if object_id not in self._spent and len(self._spent) >= self._max_objects:
            raise BudgetExhausted(f"more than {self._max_objects} objects asked today; no further one is asked about")
        self._spent[object_id] = spent + tokens
        return Reservation(object_id=object_id, day=self._day, tokens=tokens)

    def settle(self, reservation: Reservation, *, spent: int) -> None:
        """Replace a reservation by what was really spent; 0 gives all of it back."""
        if reservation.day != self._day:
            return  # reserved on a day that is over; its account is closed
        self._spent[reservation.object_id] += spent - reservation.tokens

    def spent(self, object_id: str, *, now: UnixTime) -> int:
        """Return the tokens spent or set aside today."""
        self._turn_day(now)
        return self._spent.get(object_id, 0)

    def _turn_day(self, now: UnixTime) -> None:
        day = int(now // _DAY)
        # A clock that is set back stays in the later day: going back would hand the budget out twice.
        if day > self._day:
            self._day = day
            self._spent.clear()
