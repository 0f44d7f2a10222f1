"""Which days of the window are replayed: all of them where that fits a stated amount of work, else the telling ones.

Playing the scaler is most of a report's work, and most of that does not depend on how many services are played at once
but on how long: so a long window is cut into stretches that are played side by side, as if each were a service of its
own. A stretch begins a day early, with whatever ran then; the scaler learns from that day and nothing of it counts.
What a scaler knows of the weeks before is not in it, as it would not be on the first days after an installation.

Where even that is too much, days are chosen: the newest, the busiest, the newest weekend, then the others from the
newest back. Days are 24 hours counted back from the end of the window. The amount of work is a formula and no clock,
so that the same fleet is always replayed on the same days.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from optiinfra.domain.replay.fluid import SYNC_S
from optiinfra.domain.report.frames import FloatArray

SPAN_DAYS: Final = 2
"""Days that one stretch counts."""
LEAD_DAYS: Final = 0.5
"""Days before them that it only learns from. Of eight played models over 14 days, half a day or a whole one came to 2 %
to 3 % fewer replica-hours than two weeks in one go, with 0.06 % of the work late instead of 0.04 %."""
WORK_S: Final = 64.0
"""Seconds of CPU that playing the scaler may take: half a minute on two cores. It is told by the two costs below, which
were measured on one core of a server of 2026; other machines take as much longer as they are slower."""
SYNC_COST_S: Final = 1.2e-3
"""For each 15 s of a stretch, however many are played side by side."""
ROW_COST_S: Final = 7e-6
"""For each of those, too."""
ROWS_AT_ONCE: Final = 200
"""More are played one batch after the other: the scaler's arrays then still fit together."""
_DAY_S: Final = 86_400.0
_SATURDAY: Final = 5
_EPOCH_WEEKDAY: Final = 3
"""The first day of Unix time was a Thursday."""
_Span: TypeAlias = tuple[int, int]
"""Points [begin, end)."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Points [begin, end) of the grid, of which those from `counts` on are compared."""

    begin: int
    counts: int
    end: int


@dataclass(frozen=True, slots=True)
class Days:
    """What is replayed of a window."""

    points: int
    stretches: tuple[Stretch, ...]
    """Oldest first; what they count does not overlap."""
    words: str
    """Which days these are, for people: "all 14.0 days", or "6 of 14.0 days: ..."."""

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """Return the points that are compared, (points,)."""
        mask = np.zeros(self.points, dtype=np.bool_)
        for one in self.stretches:
            mask[one.counts : one.end] = True
        return mask

    @property
    def length(self) -> int:
        """Return the points of the longest stretch: how long all are played."""
        return max((one.end - one.begin for one in self.stretches), default=0)

    @property
    def newest(self) -> slice:
        """Return the points of the newest days that are replayed without a gap between them."""
        begin = self.stretches[-1].counts if self.stretches else self.points
        for one in reversed(self.stretches):
            if one.end < begin:
                break
            begin = one.counts
        return slice(begin, self.points)


def work_s(models: int, stretches: int, *, length_s: float) -> float:
    """Return what playing takes on one core, seconds."""
    rows = models * stretches
    return length_s / SYNC_S * (SYNC_COST_S * -(-rows // ROWS_AT_ONCE) + ROW_COST_S * rows)


def chosen(
    times: FloatArray,
    busy: FloatArray,
    *,
    step_s: float,
    models: int,
    newest_days: float | None = None,
    lead_days: float = LEAD_DAYS,
) -> Days:
    """Choose the days that are replayed.

    Args:
        times: (points,) Unix seconds of the window.
        busy: (points,) GPUs that the whole fleet's load keeps busy; NaN where it is not known.
        step_s: between two points.
        models: services that are replayed.
        newest_days: only so many, all of them, where somebody says so.
        lead_days: days that each stretch only learns from.
    """
    if not len(times):
        return Days(0, (), "none")
    points, day = len(times), max(1, round(_DAY_S / step_s))
    wanted = points if newest_days is None else min(points, max(1, round(newest_days * _DAY_S / step_s)))
    lead = round(lead_days * _DAY_S / step_s)
    spans = _spans(points, wanted, width=SPAN_DAYS * day)
    length_s = (min(points, lead + SPAN_DAYS * day)) * step_s
    most = len(spans)
    if newest_days is None:
        while most > 1 and work_s(models, most, length_s=length_s) > WORK_S:
            most -= 1
    roles = _telling(spans, times, busy)
    kept = sorted(list(roles)[:most])
    stretches = tuple(Stretch(max(0, begin - lead), begin, end) for begin, end in kept)
    return Days(points, stretches, _words(kept, roles, times, wanted=wanted, step_s=step_s))


def _spans(points: int, wanted: int, *, width: int) -> list[_Span]:
    """Cut the newest `wanted` points into spans, the newest first; the oldest may be shorter."""
    ends = range(points, points - wanted, -width)
    return [(max(points - wanted, end - width), end) for end in ends]


def _telling(spans: Sequence[_Span], times: FloatArray, busy: FloatArray) -> dict[_Span, str]:
    """Return the spans in the order in which they are chosen, and why: the newest, the busiest, a weekend, the rest."""

    def peak(one: _Span) -> float:
        part = busy[slice(*one)]
        part = part[np.isfinite(part)]
        return float(part.max()) if part.size else 0.0

    def rests(one: _Span) -> bool:
        return int(float(times[slice(*one)].mean()) // _DAY_S + _EPOCH_WEEKDAY) % 7 >= _SATURDAY

    if not spans:
        return {}
    weekend = next((one for one in spans if rests(one)), spans[0])
    found: dict[_Span, str] = {}
    for one, why in ((spans[0], "the newest"), (max(spans, key=peak), "the busiest"), (weekend, "a weekend")):
        found.setdefault(one, why)
    for one in spans:
        found.setdefault(one, "")
    return found


def _words(kept: Sequence[_Span], roles: Mapping[_Span, str], times: FloatArray, *, wanted: int, step_s: float) -> str:
    counted = sum(end - begin for begin, end in kept)
    days, whole = counted * step_s / _DAY_S, len(times) * step_s / _DAY_S
    if counted >= len(times):
        return f"all {whole:.1f} days"
    if counted >= wanted:
        return f"the newest {days:.1f} of {whole:.1f} days"
    named = []
    for begin, end in kept:
        role = roles[begin, end]
        named.append(f"{_date(times[begin] - step_s)} to {_date(times[end - 1])}{f' ({role})' if role else ''}")
    return f"{days:.1f} of {whole:.1f} days: {', '.join(named)}; more would take too long to play"


def _date(at: float) -> str:
    return str(np.datetime_as_string(np.datetime64(int(at), "s"), unit="m"))[5:].replace("T", " ")
