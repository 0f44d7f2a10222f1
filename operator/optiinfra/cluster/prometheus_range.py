"""A range of time that is asked of a Prometheus-compatible server, what it may cost, and how large its pieces are.

A piece that may have been too large (`prometheus_refusals`) is halved; where the server was only busy, pieces grow
again, because a thousand small calls are no kindness either.
"""

from dataclasses import dataclass
from typing import Final

from optiinfra.cluster.errors import ClusterError, Invalid, Throttled, Unavailable
from optiinfra.cluster.prometheus_refusals import Helps, TooSlow, helps
from optiinfra.domain.units import Seconds, UnixTime

SERVER_POINTS: Final = 11_000
"""What Prometheus answers at most for a series."""
_CALLS_TO_GROW: Final = 4
_LONGEST_QUERY: Final = 8_192


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """What one range may cost."""

    points: int = SERVER_POINTS
    """Of one call."""
    least_points: int = 60
    """A piece is not cut below it."""
    total_points: int = 1_000_000
    bytes: int = 32 << 20
    """Of one answer."""
    series: int = 1_000
    timeout_s: float = 60.0
    """Of one call."""
    failures: int = 8
    """In a row; then the last error is raised."""
    connection_failures: int = 3
    """The same where not even a connection came about."""
    longest_wait_s: float = 30.0
    """Between two tries, whatever the server asks for."""
    at_once: int = 2
    """Calls at the same moment, at most."""


DEFAULT_LIMITS: Final = QueryLimits()


@dataclass(frozen=True, slots=True)
class RangeQuery:
    """A query evaluated at `start`, `start + step` ... up to `end`."""

    query: str
    start: UnixTime
    end: UnixTime
    step: Seconds

    def __post_init__(self) -> None:
        if not 0 < len(self.query.strip()) <= _LONGEST_QUERY:
            raise Invalid(f"the query has {len(self.query)} characters; 1 to {_LONGEST_QUERY} are expected")
        if not self.step >= 1.0 or not self.end > self.start:
            raise Invalid(
                f"a range of {self.end - self.start:g} s in steps of {self.step:g} s; use steps of 1 s or more"
            )

    @property
    def points(self) -> int:
        """How many times it is evaluated."""
        return int((self.end - self.start) / self.step + 1e-6) + 1


class RangeSize:
    """How many points to ask for: halved where that may help, doubled again where the server was only busy."""

    def __init__(self, points: int, *, least: int) -> None:
        self.points = self._most = points
        self._least = least
        self._calls = 0

    def shrunk(self, error: ClusterError, *, asked: int) -> bool:
        """Ask for less after an error; False where that does not help, or no longer."""
        self._calls = 0
        if asked <= self._least or not _smaller(error):
            return False
        self.points = max(self._least, asked // 2)
        if isinstance(error, Invalid | TooSlow):
            self._most = self.points
        return True

    def held(self) -> None:
        """Ask for more after some calls that were answered."""
        self._calls += 1
        if self._calls >= _CALLS_TO_GROW:
            self.points, self._calls = min(self._most, 2 * self.points), 0


def _smaller(error: ClusterError) -> bool:
    """Whether a shorter range may help. One query at a time also asks a server for less that is only busy."""
    if isinstance(error, Throttled | Unavailable):
        return error.code != 0 or isinstance(error, TooSlow)
    return helps(error) is Helps.LESS


def worth_waiting(error: ClusterError) -> bool:
    """Tell whether the same call may succeed later."""
    return isinstance(error, Throttled | Unavailable)
