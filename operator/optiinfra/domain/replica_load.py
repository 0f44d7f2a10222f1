"""One tick of a workload's load, and how many replicas it keeps busy.

The scaler thinks in replicas. What engines tell is requests, tokens and shares of a cache; this module turns one into
the other by every limit that an engine has and takes the largest: work against what one replica serves, batch slots,
KV cache. A request that waits is no load yet: it is backlog, in replica-seconds. It refuses to add up replicas that
did not report, and makes no number where neither work nor a limit is known.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from optiinfra.domain.aggregation import RULES
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.readings import EngineReading, Unknown, UnknownReason, Value
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.windows import Window

USABLE_SHARE: Final = 0.9
"""Share of the batch slots, or of the KV cache, up to which a replica serves without making others wait."""
_LEAST: Final = 1e-6


class Resource(StrEnum):
    """Which limit of a replica the load fills most."""

    WORK = "Work"
    """Tokens, against what one replica was learned to serve."""
    BATCH_SLOTS = "BatchSlots"
    KV_CACHE = "KVCache"


@dataclass(frozen=True, slots=True)
class LoadSample:
    """What the engines said of one tick; sums over the replicas that reported."""

    time: UnixTime
    reporting: int
    expected: int
    running: Value
    waiting: Value
    """Requests that more capacity would start."""
    served: Value
    """Work per second (prompt tokens + 4 x generated ones)."""
    finished: Value
    """Requests per second."""
    arrived: Value
    """Requests per second."""
    kv_cache: Value
    """Mean share of the KV cache that requests hold, over replicas; without prefixes that nobody uses now."""

    @property
    def whole(self) -> bool:
        """Whether every ready replica reported."""
        return 0 < self.expected <= self.reporting

    @property
    def running_each(self) -> Value:
        """Running requests of one replica."""
        if isinstance(self.running, Unknown) or self.reporting <= 0:
            return self.running if isinstance(self.running, Unknown) else _NOBODY
        return self.running / self.reporting


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """Load and backlog of one tick in replicas."""

    replicas: float
    """Replicas that the load keeps busy."""
    backlog: float
    """Replica-seconds of the requests that wait."""
    resource: Resource
    by_resource: tuple[tuple[Resource, float], ...]


_NOBODY: Final = Unknown(UnknownReason.UNREACHABLE, "no replica reports")


def sample(
    pages: Mapping[str, Sequence[EngineReading]],
    *,
    now: UnixTime,
    window: Seconds,
    stale_after: Seconds,
    expected: int,
) -> LoadSample:
    """Read one tick that ends at `now` out of the replicas' pages; `window` seconds are looked at."""
    cut = Window.of(pages, now=now, window=window, stale_after=stale_after)
    values = {name: RULES[name].compute(cut) for name in _FIELDS}
    waiting, deferred = values["waiting"], values["deferred"]
    if not isinstance(waiting, Unknown) and not isinstance(deferred, Unknown):
        waiting = max(0.0, waiting - deferred)
    held, evictable = values["kv_cache_usage_mean"], values["kv_cache_evictable"]
    if not isinstance(held, Unknown) and not isinstance(evictable, Unknown):
        held = max(0.0, held - evictable)
    return LoadSample(
        time=now,
        reporting=len(cut.fresh),
        expected=expected,
        running=values["running"],
        waiting=waiting,
        served=values["work_rate"],
        finished=values["request_rate"],
        arrived=values["arrival_rate"],
        kv_cache=held,
    )


_FIELDS: Final = (
    "running",
    "waiting",
    "deferred",
    "work_rate",
    "request_rate",
    "arrival_rate",
    "kv_cache_usage_mean",
    "kv_cache_evictable",
)


def load_of(
    one: LoadSample,
    settings: EngineSettings,
    *,
    capacity: Value,
    request_work: Value,
    before: LoadSample | None = None,
) -> ReplicaLoad | Unknown:
    """Tell how many replicas a tick's load keeps busy.

    Args:
        one: the tick.
        before: the tick before it, where there is one: while replicas have room, who waits may be waiting for the next
            step only, and is backlog when somebody waited a tick ago too.
        settings: for the batch limit.
        capacity: work per second that one replica serves at the objective.
        request_work: mean work of one request.
    """
    if one.reporting <= 0:
        return Unknown(UnknownReason.UNREACHABLE, f"none of {one.expected} replicas reports")
    arrived = arrived_work(one, request_work=request_work)
    waiting = _backlogged(one, before, settings)
    parts: list[tuple[Resource, float]] = []
    backlog = math.nan
    if not isinstance(capacity, Unknown) and capacity > _LEAST:
        if not isinstance(arrived, Unknown):
            parts.append((Resource.WORK, arrived / capacity))
        if not isinstance(request_work, Unknown):
            backlog = waiting * request_work / capacity
    limit, each = settings.batch_limit, one.running_each
    if isinstance(limit, Unknown) and waiting >= 1.0 and not isinstance(each, Unknown):
        # Who waits although replicas run no more than this: that is their limit, whatever it was set to.
        limit = each
    if not isinstance(limit, Unknown) and limit >= 1.0 and not isinstance(one.running, Unknown):
        slots = USABLE_SHARE * limit
        # Without the work of a request its backlog has no length: it is taken to want a slot at once.
        parts.append((Resource.BATCH_SLOTS, (one.running + (waiting if math.isnan(backlog) else 0.0)) / slots))
    if not isinstance(one.kv_cache, Unknown):
        parts.append((Resource.KV_CACHE, one.kv_cache * one.reporting / USABLE_SHARE))
    if not parts:
        return _why_not(one, arrived)
    resource, replicas = max(parts, key=lambda part: part[1])
    return ReplicaLoad(
        replicas=replicas,
        backlog=0.0 if math.isnan(backlog) else backlog,
        resource=resource,
        by_resource=tuple(parts),
    )


def _backlogged(one: LoadSample, before: LoadSample | None, settings: EngineSettings) -> float:
    """Return the requests that wait because replicas are full, or that have waited for a tick."""
    if isinstance(one.waiting, Unknown):
        return 0.0
    batch, limit, held = one.running_each, settings.batch_limit, one.kv_cache
    slots = (
        Unknown(UnknownReason.NOT_MEASURED)
        if isinstance(batch, Unknown) or isinstance(limit, Unknown)
        else batch / max(1.0, limit)
    )
    room = [share < USABLE_SHARE for share in (slots, held) if not isinstance(share, Unknown)]
    if not room or not all(room):
        return one.waiting
    return 0.0 if before is None or isinstance(before.waiting, Unknown) else min(one.waiting, before.waiting)


def arrived_work(one: LoadSample, *, request_work: Value) -> Value:
    """Work per second that came in: arrivals at the mean work of a request, else what was served.

    Arrivals lead: what a request makes of tokens is counted over the seconds for which it runs.
    """
    if not isinstance(one.arrived, Unknown) and not isinstance(request_work, Unknown):
        return one.arrived * request_work
    return one.served


def _why_not(one: LoadSample, arrived: Value) -> Unknown:
    """Say which signal was missing, with the reason that its source gave."""
    for name, value in (("running", one.running), ("work", arrived), ("kv_cache_usage", one.kv_cache)):
        if isinstance(value, Unknown):
            return Unknown(value.reason, f"{name}: {value.detail or value.reason}")
    return Unknown(UnknownReason.NOT_MEASURED, "neither the batch limit nor the capacity of a replica is known")
