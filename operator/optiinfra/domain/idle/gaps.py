"""How likely a GPU without work stays without it: survival of the present gap, from the GPU's own gaps.

A fixed waiting time is wrong for every GPU but one: work that comes every 20 minutes makes a 10-minute rule lie, and a
GPU that was never used need not be watched for an hour. So each GPU's own gaps between work are kept (the last
`RING`), and the question is put to them: of the gaps that lasted as long as this one, how many went on for the whole
horizon? Few gaps say little; what they leave open is filled by a prior, as in a Dirichlet process:

    P(G > e + h | G > e) = (N(e + h) + w r) / (N(e) + w),  r = S0(e + h) / S0(e),  w >= a S0(e)

with N the number of own gaps that were longer, and S0 a mixture of "the next burst is late" (log-logistic, fitted to
the GPU's own short gaps and shrunk towards the prior's) and "nobody uses it any more" (Lomax, so that the hazard falls
with time). w is never below one, because a single long night proves little; below 6 where several own gaps came so far
and none went on; below 20 where only one did. A long gap that ended at this time of another day lowers the answer:
nights end in the morning.

Arrays over GPUs; a row of the ring that holds nothing is NaN. Nothing here knows what a gap means for a person.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

RING: Final = 32
"""Gaps that are kept of a GPU."""
SHORTEST: Final = 1.0 / 6.0
"""Of the horizon: shorter gaps say nothing about one that lasts as long as the shortest span."""
_SHORT: Final = 8.0
"""Of the horizon: longer gaps belong to the second part of the mixture."""
_WEIGHT: Final = 2.0
"""a: as how many own gaps the prior counts."""
_HABIT: Final = 6.0
"""w, at least, where several own gaps came so far and none went on."""
_COINCIDENCE: Final = 20.0
"""The same where only one came so far: that it ended about now is no habit."""
_MEDIAN: Final = 0.4
"""Of the horizon: the prior's short gap (12 minutes of half an hour)."""
_SPREAD: Final = 1.0
"""Of the logarithm of short gaps, before any was seen."""
_LEAST_SPREAD: Final = 0.2
_SCALE: Final = 24.0
"""Of the horizon: scale of the long part (half a day); its hazard is 1 / (scale + elapsed)."""
_LONG_AFTER_WORK: Final = 0.3
"""Share of gaps after work that are long, before any was seen; of a GPU whose memory is empty, twice that."""
_LONG_AT_FIRST: Final = 0.6
"""The same for a GPU that was first seen without work and never worked since."""
_LONG_EMPTY: Final = 0.98
"""The same where it is empty too."""
_DAY: Final = 86_400.0
_SAME_TIME: Final = (0.5, 1.5)
"""Horizons before and after this time of another day in which a long gap's end is a warning."""
_SEASON_CAP: Final = 0.5
_DAYS: Final = (1.0, 2.0, 3.0, 7.0)


def stays_idle(
    *,
    elapsed: Floats,
    now: Floats,
    lengths: Floats,
    ends: Floats,
    empty: Flags,
    never_worked: Flags,
    horizon: float,
) -> Floats:
    """Return the probability that no work comes within the horizon, per GPU.

    `elapsed` (g) seconds without work so far; `now` (g); `lengths` and `ends` (RING, g): own past gaps in seconds and
    the times at which they ended; `empty`: nothing is kept in the GPU's memory; `never_worked`: since it was first
    seen.
    """
    later = elapsed + horizon
    known = np.isfinite(lengths)
    long_gaps = known & (lengths > _SHORT * horizon)
    short = known & ~long_gaps
    logs = np.log(np.where(short, lengths, 1.0))
    count = short.sum(axis=0)
    prior_log = np.log(_MEDIAN * horizon)
    centre = (prior_log + logs.sum(axis=0)) / (1.0 + count)
    squares = np.where(short, (logs - centre) ** 2, 0.0).sum(axis=0) + (prior_log - centre) ** 2
    spread = np.sqrt((2.0 * _SPREAD**2 + squares) / (2.0 + count) * (1.0 + 1.0 / (1.0 + count)))
    steepness = np.pi / (np.sqrt(3.0) * np.maximum(spread, _LEAST_SPREAD))

    first = np.where(empty, _LONG_EMPTY, _LONG_AT_FIRST)
    after = np.where(empty, 2.0, 1.0) * _LONG_AFTER_WORK
    share = np.where(never_worked, first, after)
    share = (_WEIGHT * share + long_gaps.sum(axis=0)) / (_WEIGHT + known.sum(axis=0))

    def prior(age: Floats) -> Floats:
        burst = 1.0 / (1.0 + np.exp(np.clip(steepness * (np.log(np.maximum(age, 1e-9)) - centre), -60.0, 60.0)))
        gone = _SCALE * horizon / (_SCALE * horizon + age)
        left: Floats = share * gone + (1.0 - share) * burst
        return left

    own_now = (known & (lengths > elapsed)).sum(axis=0)
    own_later = (known & (lengths > later)).sum(axis=0)
    so_far = prior(elapsed)
    least = np.where(own_later > 0, 1.0, np.where(own_now > 1, _HABIT, _COINCIDENCE))
    weight = np.maximum(_WEIGHT * so_far, least)
    found: Floats = (own_later + weight * prior(later) / so_far) / (own_now + weight)
    warned = _ended_at_this_time(now=now, lengths=lengths, ends=ends, horizon=horizon)
    return np.where(warned, np.minimum(found, _SEASON_CAP), found)


def _ended_at_this_time(*, now: Floats, lengths: Floats, ends: Floats, horizon: float) -> Flags:
    """Whether a long gap ended at about this time of an earlier day."""
    long_gaps = np.isfinite(lengths) & (lengths > 2.0 * horizon)
    before, after = _SAME_TIME
    found: Flags = np.zeros(now.shape, dtype=np.bool_)
    for days in _DAYS:
        off = ends - (now - days * _DAY)
        found |= (long_gaps & (off >= -before * horizon) & (off <= after * horizon)).any(axis=0)
    return found
