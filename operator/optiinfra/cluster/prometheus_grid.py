"""The equal steps of time that all answers of a report share, and how they are cut into calls.

Steps are whole multiples of the step since 1970, so that a question a minute later meets the caches of the server, and
cuts are at multiples of their length for the same reason: a range that moved on by an hour is cut where the last was.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import floor
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from optiinfra.cluster.errors import Invalid
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.units import Seconds, UnixTime

LEAST_WINDOW: Final = Seconds(120.0)
"""Of rates, unless said otherwise: two scrapes at least have to fall into it, and scrapes of a minute are common."""
MOST_POINTS: Final = 200_000
_FEWEST: Final = 2


@dataclass(frozen=True, slots=True)
class TimeGrid:
    """`points` moments from `start` on."""

    start: UnixTime
    step: Seconds
    points: int
    window: Seconds
    """What `$window` of a question becomes: the range of rates and of averages over time."""

    def __post_init__(self) -> None:
        if not 1.0 <= self.step <= 86_400.0 or self.step % 1.0:
            raise Invalid(f"a step of {self.step:g} s: use whole seconds, 1 to 86400")
        if not 1.0 <= self.window <= 31 * 86_400.0:
            raise Invalid(f"a window of {self.window:g} s: use one second to 31 days")
        if not 1 <= self.points <= MOST_POINTS:
            raise Invalid(f"a range of {self.points} steps: use 1 to {MOST_POINTS}")
        if self.start % self.step:
            raise Invalid("the range does not begin at a whole step: use TimeGrid.ending")

    @classmethod
    def ending(cls, at: UnixTime, *, since: Seconds, step: Seconds, window: Seconds | None = None) -> Self:
        """Return the last `since` seconds before `at`, rounded down to whole steps. Raises `Invalid`."""
        if not step >= 1.0 or not since >= step:
            raise Invalid(f"a range of {since:g} s in steps of {step:g} s: use at least one step, of 1 s or more")
        points = floor(since / step + 1e-9)
        last = floor(at / step) * step
        wide = Seconds(max(step, LEAST_WINDOW)) if window is None else window
        return cls(UnixTime(last - (points - 1) * step), step, points, wide)

    @property
    def end(self) -> UnixTime:
        """The last moment."""
        return UnixTime(self.start + (self.points - 1) * self.step)

    @property
    def times(self) -> FloatArray:
        """(points,) Unix seconds."""
        return self.start + self.step * np.arange(self.points, dtype=np.float64)

    def coarser(self, step_s: float) -> "TimeGrid":
        """Return the whole multiples of a longer step within it, each with a window as long as that step.

        It is the grid itself where that step is no longer, or where the range holds fewer than two such steps.
        """
        times = int(step_s // self.step)
        step = times * self.step
        first = -(-self.start // step) * step if times > 1 else self.start
        points = floor((self.end - first) / step + 1e-9) + 1 if times > 1 else 0
        if points < _FEWEST:
            return self
        return TimeGrid(UnixTime(first), Seconds(step), points, Seconds(step))

    def spread_from(self, coarse: "TimeGrid") -> npt.NDArray[np.int64]:
        """Return for each point the number of the coarse moment whose window it lies in.

        Points behind the last moment get `coarse.points`: they are told by one more moment, the end of this grid.
        """
        places = np.ceil((self.times - coarse.start) / coarse.step - 1e-9)
        return np.maximum(places, 0.0).astype(np.int64)

    def cuts(self, points: int) -> Iterator[tuple[int, int]]:
        """Yield (first, points) of pieces that begin at multiples of `points` since 1970; the ends may be shorter."""
        since = round(self.start / self.step)
        first = 0
        while first < self.points:
            length = min(points - (since + first) % points, self.points - first)
            yield first, length
            first += length

    def halves(self, first: int, points: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Cut a piece of two points or more at the roundest moment near its middle, where other runs cut it too."""
        begin = round(self.start / self.step) + first
        size = 1 << (points - 1).bit_length()
        while True:
            size //= 2
            cut = (begin // size + 1) * size - begin
            if 0 < cut < points:
                # The one nearest to the middle of those that are as round.
                steps = max(0, (points // 2 - cut) // size)
                cut += steps * size
                return (first, cut), (first + cut, points - cut)
