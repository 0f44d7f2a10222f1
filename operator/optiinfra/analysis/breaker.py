"""A circuit breaker for one endpoint: after some failures in a row it is left alone for a while, then probed once.

Pure: the time is an argument. It counts only failures that speak against the endpoint (`AdviserError.service_failure`);
an invalid answer is the model's, and is bounded by the token budget instead. A half-open breaker admits exactly one
call; should that call never report back, another one is admitted after the same pause.
"""

from dataclasses import dataclass
from enum import StrEnum

from optiinfra.analysis.errors import BreakerOpen
from optiinfra.api.reasons import Reason


class BreakerState(StrEnum):
    """What a breaker does with the next call."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open and for how long."""

    failures: int = 3
    """Failures in a row after which it opens."""
    pause: float = 60.0
    """Seconds for which it stays open the first time."""
    longest_pause: float = 900.0
    """The pause doubles with each failed probe, up to this."""


class Breaker:
    """The state of one endpoint. Not thread-safe: one event loop uses it."""

    def __init__(self, policy: BreakerPolicy = BreakerPolicy()) -> None:
        self._policy = policy
        self._failures = 0
        self._pause = policy.pause
        self._probe_at: float | None = None
        self._cause = Reason.ENDPOINT_UNREACHABLE

    def state(self, *, now: float) -> BreakerState:
        """Return the state at a moment of the monotonic clock."""
        if self._probe_at is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._probe_at else BreakerState.HALF_OPEN

    def admit(self, *, now: float) -> None:
        """Let a call through, or not. Whoever is let through reports with `succeeded`, `failed` or `withdrawn`.

        Raises:
            BreakerOpen: the endpoint is left alone.
        """
        if self._probe_at is None:
            return
        if now < self._probe_at:
            wait = self._probe_at - now
            text = f"the language model is left alone for {wait:.0f} s more after {self._cause}"
            raise BreakerOpen(text, cause=self._cause)
        # This call is the probe; until it reports, or the pause passes again, there is no other.
        self._probe_at = now + self._pause

    def succeeded(self) -> None:
        """Report that the endpoint answered."""
        self._failures = 0
        self._pause = self._policy.pause
        self._probe_at = None
        self._cause = Reason.ENDPOINT_UNREACHABLE

    def failed(self, *, now: float, cause: Reason, asked_pause: float | None = None) -> None:
        """Report a failure that speaks against the endpoint.

        Args:
            now: a moment of the monotonic clock.
            cause: the reason of the AdviserError.
            asked_pause: seconds for which the endpoint itself asked to be left alone; it opens at once for these.
        """
        self._failures += 1
        self._cause = cause
        if asked_pause is not None:
            self._probe_at = now + min(asked_pause, self._policy.longest_pause)
        elif self._probe_at is not None:
            self._pause = min(self._pause * 2, self._policy.longest_pause)
            self._probe_at = now + self._pause
        elif self._failures >= self._policy.failures:
            self._probe_at = now + self._pause

    def withdrawn(self, *, now: float) -> None:
        """Report that an admitted call was never made: a half-open breaker admits the next one at once."""
        if self._probe_at is not None:
            self._probe_at = now
