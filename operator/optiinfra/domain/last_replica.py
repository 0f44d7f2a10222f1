"""When the last replica may go, and what is said while none runs and while the first one starts again.

The scaler thinks in shares of replicas and keeps a margin, so its answer never falls to nothing. The last replica goes
when by the word of every ready one nothing ran, waited, came or finished for long enough: ten minutes, or as long as a
start takes where that is longer (who waits as long as a restart costs pays at most twice what the best could: the
ski-rental argument, Karlin and others, Algorithmica 11, 1994). Each time that zero was taken back within its verify
window doubles that, up to a day. Whether zero is allowed at all (the user's word, and somebody else who sees the queue)
is in the minimum that the decision was bounded by. What is unknown, stale, or said by fewer replicas than are ready is
no idleness, and begins the time anew.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.readings import EngineReading, Signal
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.scaling_rules import Rule
from optiinfra.domain.units import Seconds, UnixTime

QUIET_TICKS: Final = 40
"""Ten minutes of ticks of 15 s; llm-d's scaler waits as long."""
LONGEST_QUIET: Final = Seconds(24 * 3600.0)
_HELD_BY: Final = frozenset({Rule.PAUSED, Rule.COLLAPSE_HELD, Rule.ASLEEP, Rule.WAKING})
"""Rules with a reason of their own to keep what runs; a load that collapsed is more often an outage upstream."""
_INSIDE: Final = (Signal.REQUESTS_RUNNING, Signal.REQUESTS_WAITING)
_THROUGH: Final = (
    Signal.REQUESTS_FINISHED,
    Signal.REQUESTS_ABORTED,
    Signal.REQUESTS_FAILED,
    Signal.REQUESTS_REJECTED,
    Signal.PROMPT_TOKENS,
    Signal.GENERATION_TOKENS,
)
"""Counters that any request moves; which of them a page has depends on the engine, and one is enough."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """A workload of which nothing is asked."""

    since: UnixTime
    heard: Mapping[str, tuple[UnixTime, Mapping[Signal, float]]]
    """Time of each replica's newest page, and its counters: what goes on from them was asked for meanwhile."""


def listen(
    before: Quiet | None,
    pages: Mapping[str, Sequence[EngineReading]],
    *,
    now: UnixTime,
    stale_after: Seconds,
    expected: int,
) -> Quiet | None:
    """Return since when nothing is asked of a workload; None while something is, or nobody knows.

    Args:
        before: the answer of the look before, however long ago: counters bridge what no page shows.
        pages: of each replica, oldest first.
        now: the time.
        stale_after: seconds after which a replica's newest page says nothing of now.
        expected: replicas that are ready.
    """
    fresh = {name: kept for name, kept in pages.items() if kept and now - kept[-1].time <= stale_after}
    if not 0 < expected <= len(fresh):
        return None
    newest = {name: (kept[-1].time, _counters(kept[-1])) for name, kept in fresh.items()}
    since = now if before is None else before.since
    for name, kept in fresh.items():
        known = None if before is None else before.heard.get(name)
        unheard = [] if known is None else [page for page in kept if page.time > known[0]]
        if not newest[name][1] or not all(_empty(page) for page in (*unheard, kept[-1])):
            return None
        if known is None or any(_counters(page) != known[1] for page in unheard):
            since = now
    return Quiet(min(since, now), newest)


def _counters(page: EngineReading) -> dict[Signal, float]:
    return {signal: page.counters[signal] for signal in _THROUGH if signal in page.counters}


def _empty(page: EngineReading) -> bool:
    """Tell whether a page says that no request is inside; one that does not say it is not empty."""
    return all(page.gauges.get(signal) == 0.0 for signal in _INSIDE)


def quiet_needed(*, tick: Seconds, start_up: Seconds, woken: int) -> Seconds:
    """Return for how long nothing must be asked before the last replica goes, in seconds.

    Args:
        tick: length of the scaler's tick.
        start_up: 95th percentile of a replica's start.
        woken: times in a row that zero was taken back within its verify window.
    """
    return Seconds(min(LONGEST_QUIET, max(QUIET_TICKS * tick, start_up) * 2.0 ** min(woken, 16)))


def let_go(
    decision: ScalingDecision, *, quiet: Quiet | None, minimum: int, needed: Seconds, now: UnixTime
) -> ScalingDecision:
    """Return the decision with zero replicas where the last one has had nothing to do for long enough."""
    last = decision.desired == 1 and decision.current == 1
    if minimum > 0 or not last or quiet is None or decision.shrink_blocked or decision.rule in _HELD_BY:
        return decision
    silent = now - quiet.since
    if silent < needed:
        return decision
    text = f"0 replicas ({Rule.NO_REQUESTS}): no request ran, waited, came or ended for {silent:.0f} s"
    return dataclasses.replace(decision, desired=0, floor=0, rule=Rule.NO_REQUESTS, message=text)
