"""Quantiles of how long something takes, when some of it has not ended yet.

What still waits has taken at least as long as it has waited. Left out, a start that never ends would not count at all;
counted as ended, a start that has just begun would count as quick. Kaplan and Meier's estimator (1958, JASA 53) does
neither: a wait speaks for being longer than what ended before it, and not at all about what comes after.

With nothing waiting it is the nearest rank: the smallest duration that at least the share of all does not exceed, which
for p95 of fewer than twenty is the longest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.readings import Unknown, UnknownReason, Value

_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and 95th percentile of durations, in seconds, and how many they rest on."""

    p50: Value
    p95: Value
    samples: int = 0
    """Durations that were measured to their end."""
    waiting: int = 0
    """Those that had not ended, and count as longer than they were."""
    at_least: bool = False
    """The p95 is a lower bound: too many of the longest have not ended."""


def spread(ended: Sequence[float], waiting: Sequence[float], *, what: str) -> Spread:
    """Return median and p95 of durations in seconds.

    Args:
        ended: durations that were measured to their end.
        waiting: how long those have lasted that have not ended.
        what: has to happen for a duration to end, for the words of the answer where nothing ended.
    """
    if not ended:
        still = f"; {len(waiting)} still to come" if waiting else ""
        unknown = Unknown(UnknownReason.TOO_FEW_SAMPLES, f"{what} was not seen{still}")
        return Spread(unknown, unknown, waiting=len(waiting), at_least=bool(waiting))
    (middle, _), (high, at_least) = quantiles(ended, waiting, shares=(0.5, 0.95))
    return Spread(middle, high, len(ended), len(waiting), at_least)


def quantiles(ended: Sequence[float], waiting: Sequence[float], *, shares: Sequence[float]) -> list[tuple[float, bool]]:
    """Return each quantile, and whether it is only a lower bound: the longest of all, for that has not ended.

    At least one duration must have been given. What waits for exactly as long as another took is taken as longer.
    """
    if not waiting:
        ordered = sorted(ended)
        return [(ordered[max(0, math.ceil(share * len(ordered) - _ROUNDING) - 1)], False) for share in shares]
    events = sorted([(seconds, False) for seconds in ended] + [(seconds, True) for seconds in waiting])
    longest = events[-1][0]
    left = 1.0
    steps: list[tuple[float, float]] = []
    for index, (seconds, is_waiting) in enumerate(events):
        if not is_waiting:
            # One at a time: the factors of equal durations telescope to the one of all of them.
            left *= 1.0 - 1.0 / (len(events) - index)
            steps.append((seconds, 1.0 - left))
    return [
        next(((seconds, False) for seconds, under in steps if under >= share - _ROUNDING), (longest, True))
        for share in shares
    ]
