"""What helps against a refusal: asking for less, waiting, or nothing.

Prometheus, Thanos, Mimir, Cortex and VictoriaMetrics say in different words, and with different codes, that a query was
too large: 400 or 422 mostly, 503 where a query timed out, 500 where a limit of a store came through a layer that did
not know it. A server that is only busy says 429 or 503. Everything else stays wrong however often it is asked.
"""

from enum import StrEnum
from typing import Final

from optiinfra.cluster.errors import ClusterError, Invalid, Throttled, Unavailable

_BUSY: Final = (
    "concurrent requests",  # VictoriaMetrics: -search.maxConcurrentRequests
    "maxconcurrentrequests",
    "too many outstanding requests",  # Mimir, Cortex: the queue of a tenant is full
    "too many requests",
    "request rate limit",
    "rate limited",
)
_TOO_LARGE: Final = (
    "maximum resolution",  # Prometheus: 11,000 points a series
    "too many samples",  # Prometheus: query.max-samples
    "too many points",  # VictoriaMetrics: -search.maxPointsPerTimeseries
    "too many",
    "too large",
    "limit",  # "exceeded series limit", "limit 10 violated (got 11)" (Thanos), "query length limit" (Mimir)
    "violated (got",
    "err-mimir-max-",
    "exceeded the maximum",
    "exceeds the maximum",
    "resourceexhausted",
    "matching timeseries exceeds",  # VictoriaMetrics: -search.maxUniqueTimeseries
    "time series found on the time range",
    "search.max",
    "maxsamples",
    "not enough memory",
    "memory",
    "timed out",
    "timeout",
    "deadline",
)
_GATEWAY_TIMEOUT: Final = 504


class TooSlow(Unavailable):
    """No answer in time: a shorter range may have one."""


class Helps(StrEnum):
    """What to do about a refusal."""

    LESS = "less"
    """A shorter range, or fewer series."""
    WAIT = "wait"
    """The same again, later."""
    NOTHING = "nothing"


def helps(error: ClusterError) -> Helps:
    """Tell what helps against a refusal."""
    text = error.message.lower()
    if isinstance(error, TooSlow):
        return Helps.LESS
    if any(word in text for word in _BUSY) and isinstance(error, Invalid | Throttled | Unavailable):
        return Helps.WAIT
    if isinstance(error, Throttled):
        return Helps.WAIT
    large = any(word in text for word in _TOO_LARGE)
    if isinstance(error, Unavailable):
        return Helps.LESS if error.code and (large or error.code == _GATEWAY_TIMEOUT) else Helps.WAIT
    if isinstance(error, Invalid) and error.code in {400, 413, 422} and large:
        return Helps.LESS
    return Helps.NOTHING
