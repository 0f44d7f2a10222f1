"""Estimates for a fleet of containers at once: curves, then prices, then what earlier advice came to.

The containers of one call learn together how far the curves can be trusted and share one price of harm (of each two
thousand, where they are more); one container alone is a fleet of one. Time grows with the containers of a call, about a
hundred microseconds each. It is deterministic, changes no history, and says `Unknown` where nothing was measured, where
it is too old, or where a clock stands ahead of `now`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.histogram import DAY
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.right_sizing.cpu_curves import cpu_curves
from optiinfra.domain.right_sizing.memory_curves import memory_curves
from optiinfra.domain.right_sizing.pricing import Curves, choose, first_below
from optiinfra.domain.right_sizing.record import KILL_DAYS, Advice, Judged, Kept
from optiinfra.domain.right_sizing.sizing import (
    STALE_AFTER,
    ContainerEstimate,
    Resource,
    SizingEstimate,
    SizingPolicy,
    SizingReason,
)
from optiinfra.domain.right_sizing.sketch import EDGES
from optiinfra.domain.right_sizing.usage import UsageHistory
from optiinfra.domain.units import Ratio, UnixTime

FloatArray = npt.NDArray[np.float64]
CHUNK: Final = 2_000
"""Containers whose curves are held at once: about 20 MB."""
COLD_DAYS: Final = 3.0
SHARES: Final = (0.5, 0.9, 0.95, 0.99, 1.0)
BOUND_FACTOR: Final = 5.0
START_UP_ROOM: Final = 1.1
_CLOCK: Final = 120.0
_CPU_TRUST, _MEMORY_TRUST = 2.5, 5.0
"""Days of over-time, days exceeded: what the curves are trusted for before experience outweighs them."""
_CPU_BEFORE, _MEMORY_BEFORE = 1.5, 1.1
"""How many times as often as its curve says a target is taken to be exceeded where nothing is judged yet."""
_LEAST_FACTOR, _MOST_FACTOR = 0.5, 3.0


@dataclass(frozen=True, slots=True)
class _Rows:
    """One resource of those containers of which something is known; arrays are (containers,)."""

    curves: Curves
    days: FloatArray
    growth: FloatArray
    weekly: npt.NDArray[np.bool_]
    killed: npt.NDArray[np.bool_]
    percentiles: FloatArray
    """(containers, shares)."""


def estimate(
    histories: Sequence[UsageHistory], *, now: UnixTime, policy: SizingPolicy | None = None
) -> tuple[ContainerEstimate, ...]:
    """Size every container for the day that begins at `now`, or for the coming 24 h within a day; in their order."""
    wanted = policy or SizingPolicy()
    kept = [history.kept for history in histories]
    cpu = _resource(kept, Resource.CPU, now=now, policy=wanted)
    memory = _resource(kept, Resource.MEMORY, now=now, policy=wanted)
    return tuple(ContainerEstimate(*both) for both in zip(cpu, memory, strict=True))


def remember(history: UsageHistory, estimated: ContainerEstimate, *, now: UnixTime) -> None:
    """Keep what was advised with the history, so that the day tells how often it was too little.

    Only the first advice of a day is kept, so it may be called every round.
    """
    cpu, memory = (
        None if isinstance(one, Unknown) else Advice(one.target, one.uncalibrated)
        for one in (estimated.cpu, estimated.memory)
    )
    history.advised(cpu=cpu, memory=memory, time=now)


def _resource(
    kept: list[Kept], resource: Resource, *, now: float, policy: SizingPolicy
) -> list[SizingEstimate | Unknown]:
    answers: list[SizingEstimate | Unknown] = [_unknown(one, resource, now=now) or _PENDING for one in kept]
    known = [row for row, answer in enumerate(answers) if answer is _PENDING]
    if not known:
        return answers
    is_cpu = resource is Resource.CPU
    allowed = policy.cpu_over_time if is_cpu else policy.memory_exceedance
    most = policy.most_cpu_over_time if is_cpu else policy.most_memory_exceedance
    judged = [one.cpu_judged if is_cpu else one.memory_judged for one in kept]
    factor = (
        _experience(judged, trust=_CPU_TRUST, before=_CPU_BEFORE)
        if is_cpu
        else _experience(judged, trust=_MEMORY_TRUST, before=_MEMORY_BEFORE)
    )
    for begin in range(0, len(known), CHUNK):
        part = known[begin : begin + CHUNK]
        rows = (_cpu_rows if is_cpu else _memory_rows)([kept[row] for row in part], now=now)
        index = choose(rows.curves, allowed=allowed / factor, most=most)
        found = _estimates(rows, index, [kept[row] for row in part], resource, policy=policy, factor=factor)
        for row, one in zip(part, found, strict=True):
            answers[row] = one
    return answers


_PENDING: Final = Unknown(UnknownReason.NOT_MEASURED, "pending")


def _unknown(one: Kept, resource: Resource, *, now: float) -> Unknown | None:
    if one.day < 0:
        return Unknown(UnknownReason.NOT_MEASURED, f"no use of {resource} was measured")
    if one.last > now + _CLOCK:
        return Unknown(UnknownReason.INVALID, "its last measurement lies in the future: a clock was set back")
    if now - one.last > STALE_AFTER:
        return Unknown(UnknownReason.STALE, f"last measured {(now - one.last) / DAY:.0f} days ago")
    measured = (
        not one.cpu.empty
        if resource is Resource.CPU
        else bool(np.isfinite(one.peaks).any()) or (one.kill_bytes > 0.0 and now - one.kill_time <= KILL_DAYS * DAY)
    )
    return None if measured else Unknown(UnknownReason.NOT_MEASURED, f"no use of {resource} was measured")


def _experience(judged: list[Judged], *, trust: float, before: float) -> float:
    """How many times as often as stated the advice was exceeded, leaning to `before` while little was judged."""
    exceeded, stated = sum(one.exceeded for one in judged), sum(one.stated for one in judged)
    return min(max((exceeded + before * trust) / (stated + trust), _LEAST_FACTOR), _MOST_FACTOR)


def _known_days(values: FloatArray, kept: list[Kept]) -> FloatArray:
    """Days with measurements, not more than the span they lie in."""
    span = np.array([(one.last - one.first) / DAY for one in kept])
    return np.asarray(np.minimum(np.isfinite(values).sum(axis=1), np.ceil(span * 24.0) / 24.0))


def _cpu_rows(kept: list[Kept], *, now: float) -> _Rows:
    days = _known_days(np.array([one.levels for one in kept]), kept)
    found = cpu_curves(kept, days=days, now=now)
    shares = np.array(SHARES)
    index = (found.shares[:, :, None] >= shares[None, None, :] - 1e-9).argmax(axis=1)
    return _Rows(
        found.curves, days, found.growth, found.weekly > 0.0, np.zeros(len(kept), dtype=np.bool_), EDGES[index]
    )


def _memory_rows(kept: list[Kept], *, now: float) -> _Rows:
    days = _known_days(np.array([one.peaks for one in kept]), kept)
    found = memory_curves(kept, days=days, now=now)
    count = (found.peaks >= 0.0).sum(axis=1)
    width = found.peaks.shape[1]
    index = width - count[:, None] + np.ceil(np.array(SHARES)[None, :] * count[:, None]).astype(np.int64) - 1
    percentiles = np.take_along_axis(found.peaks, np.clip(index, 0, width - 1), axis=1)
    kills = np.array([one.kill_bytes for one in kept])[:, None]
    # Killed before anything was measured: the kill is all that is known.
    percentiles = np.where(count[:, None] > 0, percentiles, kills)
    return _Rows(found.curves, days, found.growth, np.zeros(len(kept), dtype=np.bool_), found.killed, percentiles)


def _estimates(
    rows: _Rows,
    index: npt.NDArray[np.int64],
    kept: list[Kept],
    resource: Resource,
    *,
    policy: SizingPolicy,
    factor: float,
) -> list[SizingEstimate]:
    is_cpu = resource is Resource.CPU
    allowed = policy.cpu_over_time if is_cpu else policy.memory_exceedance
    least = policy.least_cpu if is_cpu else policy.least_memory
    request, harm = rows.curves.request, rows.curves.harm
    target = np.maximum(request[np.arange(len(index)), index], least)
    reached = np.maximum((request <= target[:, None]).sum(axis=1) - 1, 0)
    stated = harm[np.arange(len(index)), reached]
    lower = np.clip(first_below(rows.curves, np.minimum(stated * BOUND_FACTOR, 0.5)), least, target)
    upper = np.maximum(first_below(rows.curves, stated / BOUND_FACTOR), target)
    start = np.array([one.start_cpu if is_cpu else one.start_memory for one in kept])
    room = np.nan_to_num(start) * (1.0 if is_cpu else START_UP_ROOM)
    limit = np.maximum(np.maximum(upper, rows.percentiles[:, -1]), room)
    found = []
    for row, one in enumerate(kept):
        days = float(rows.days[row])
        started: Value = (
            Unknown(UnknownReason.NOT_MEASURED, "no start was measured") if np.isnan(start[row]) else float(start[row])
        )
        exceedance = float(stated[row])
        found.append(
            SizingEstimate(
                resource=resource,
                target=float(target[row]),
                lower=float(lower[row]),
                upper=float(upper[row]),
                limit=float(limit[row]),
                exceedance=Ratio(min(1.0, exceedance * factor)),
                confidence=Ratio(days / (days + 2.0)),
                samples=one.samples,
                days=days,
                percentiles=tuple(
                    (Ratio(share), float(value)) for share, value in zip(SHARES, rows.percentiles[row], strict=True)
                ),
                start_up_peak=started,
                reason=_reason(
                    days=days,
                    growth=float(rows.growth[row]),
                    weekly=bool(rows.weekly[row]),
                    killed=bool(rows.killed[row]),
                    bursty=exceedance > 2.0 * allowed,
                ),
                uncalibrated=Ratio(exceedance),
                growth_per_day=float(rows.growth[row]),
            )
        )
    return found


def _reason(*, days: float, growth: float, weekly: bool, killed: bool, bursty: bool) -> SizingReason:
    if killed:
        return SizingReason.OUT_OF_MEMORY
    if days < COLD_DAYS:
        return SizingReason.COLD_START
    if growth > 0.0:
        return SizingReason.GROWTH
    if weekly:
        return SizingReason.WEEKLY_PEAK
    return SizingReason.BURSTY if bursty else SizingReason.SETTLED
