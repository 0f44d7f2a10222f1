"""How fast we may call the API server: a token bucket, and the back-off between attempts.

Both take their clock and their randomness from the caller's side of the test, not from globals. Neither knows HTTP.
"""

import asyncio
import random
import time
from collections.abc import Callable


class TokenBucket:
    """Lets `rate` calls a second pass on average, `burst` at once. Waiters pass in the order they came."""

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._clock = clock
        self._tokens = float(burst)
        self._updated = clock()

    def reserve(self) -> float:
        """Take a token, on credit if need be, and return how long to wait before it may be used."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._updated) * self._rate)
        self._updated = now
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._rate)

    async def take(self) -> None:
        """Wait for a token."""
        delay = self.reserve()
        if delay > 0.0:
            await asyncio.sleep(delay)


class Backoff:
    """Doubling delays with full jitter in the upper half: 0.5..1, 1..2 ... times the base, up to the ceiling."""

    def __init__(self, *, base_s: float, ceiling_s: float, jitter: Callable[[], float] = random.random) -> None:
        self._base_s = base_s
        self._ceiling_s = ceiling_s
        self._jitter = jitter
        self._attempt = 0

    def next_s(self) -> float:
        """Return the delay before the next attempt."""
        full = min(self._ceiling_s, self._base_s * 2.0 ** min(self._attempt, 32))
        self._attempt += 1
        return full * (0.5 + self._jitter() / 2.0)

    def reset(self) -> None:
        """Start again from the base after a success."""
        self._attempt = 0
