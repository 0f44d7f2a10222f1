"""An upper end for a forecast that is kept as often as it says: adaptive conformal inference.

Gibbs and Candes, "Adaptive conformal inference under distribution shift" (2021): the upper end is the empirical
quantile at level 1 - a of the last relative errors, and a moves after every judged minute, a += g (target - missed), so
that misses come out at the target on any load that has not outgrown every error yet. What was really covered stands
beside it. It promises the long run, not any hour; and with no more than sixty-four errors in memory an upper end beyond
the largest of them is a guess, the largest one plus half of it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.scaler.ledger import FORGET_MINUTES, MINUTE, OPEN
from optiinfra.domain.scaler.profiles import MOST_LOAD

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

ERRORS: Final = 64
"""Errors in memory."""
SPACING: Final = 4
"""Minutes between two of them: neighbours say the same."""
STEP: Final = 0.01
"""How fast the level of the quantile moves."""
LEAST_ERRORS: Final = 16
LEAST_UNIT: Final = 0.05
"""Errors are shares of the forecast, or of this share of the mean load where the forecast is less."""
_BEYOND: Final = 0.5
_MOST_ERROR: Final = 1_000.0
_LOWEST: Final = -0.1
_HIGHEST: Final = 0.6


@dataclass(slots=True)
class Conformal:
    """Upper ends of a fleet; every array has the workload first."""

    errors: Floats
    """(workloads, ERRORS): ring of relative errors, came over forecast less one."""
    kept: Ints
    """Errors written since the beginning."""
    moved: Floats
    """The a of the paper less the target."""
    open: Halves
    """(workloads, OPEN, 3): forecast, upper end (-1 for none) and unit, by the minute in which the time comes."""
    covered: Floats
    """Judged minutes in which no more came than the upper end, forgotten as losses are."""
    judged: Floats

    @classmethod
    def empty(cls, workloads: int) -> "Conformal":
        """No errors yet."""

        def zeros(*shape: int) -> Floats:
            return np.zeros((workloads, *shape), dtype=np.float32)

        return cls(
            errors=zeros(ERRORS),
            kept=np.zeros(workloads, dtype=np.int64),
            moved=zeros(),
            open=np.full((workloads, OPEN, 3), -1.0, dtype=np.float16),
            covered=zeros(),
            judged=zeros(),
        )

    def judge(self, actual: Floats, *, minute: int, measured: Bools, miss: float) -> None:
        """Judge the upper end of this minute; `miss` is the share of minutes that may come out above it."""
        said = self.open[:, minute % OPEN].astype(np.float32)
        self.open[:, minute % OPEN] = -1.0
        came = np.minimum(actual, MOST_LOAD)
        known = (said[:, 0] >= 0.0) & measured
        bounded = known & (said[:, 1] >= 0.0)
        missed = came > said[:, 1]
        target = np.float32(miss)
        moved = np.where(bounded, self.moved + np.float32(STEP) * (target - missed), self.moved)
        # Beyond these ends the quantile cannot follow, and the way back would be long.
        self.moved = np.clip(moved, _LOWEST - target, _HIGHEST - target).astype(np.float32)
        forgotten = np.where(bounded, np.float32(np.exp(-1.0 / FORGET_MINUTES)), np.float32(1.0))
        self.covered = self.covered * forgotten + (bounded & ~missed)
        self.judged = self.judged * forgotten + bounded
        if minute % SPACING == 0:
            error = np.clip((came - said[:, 0]) / np.where(known, said[:, 2], 1.0), -_MOST_ERROR, _MOST_ERROR)
            rows = np.flatnonzero(known)
            self.errors[rows, self.kept[rows] % ERRORS] = error[rows]
            self.kept += known

    def upper(self, point: Floats, *, mean: Floats, miss: float) -> tuple[Floats, Bools]:
        """(upper end, whether there are errors enough) for forecasts of now, in replicas; never below nothing."""
        count = np.minimum(self.kept, ERRORS)
        known = count >= LEAST_ERRORS
        filled = np.arange(ERRORS)[None, :] < count[:, None]
        ordered = np.sort(np.where(filled, self.errors, np.float32(np.inf)), axis=1)
        rank = np.ceil((count + 1) * (1.0 - miss - self.moved) - 1e-4).astype(np.int64) - 1
        rows = np.arange(len(count))
        largest = np.where(known, ordered[rows, np.maximum(count - 1, 0)], 0.0)
        within = ordered[rows, np.clip(rank, 0, np.maximum(count - 1, 0))]
        beyond = largest + np.float32(_BEYOND) * np.abs(largest)
        error = np.where(known, np.where(rank >= count, beyond, within), 0.0)
        return np.maximum(point + error * unit(point, mean=mean), 0.0).astype(np.float32), known

    def note(self, point: Floats, upper: Floats, *, known: Bools, mean: Floats, minute: int, ahead: Ints) -> None:
        """Write a forecast down with its upper end."""
        slots = (minute + ahead // MINUTE) % OPEN
        said = np.stack([point, np.where(known, upper, -1.0), unit(point, mean=mean)], axis=1)
        self.open[np.arange(len(slots)), slots] = np.minimum(said, MOST_LOAD).astype(np.float16)

    def coverage(self) -> Floats:
        """Share of judged minutes in which no more came than was said."""
        return (self.covered / np.maximum(self.judged, 1.0)).astype(np.float32)

    def interrupt(self) -> None:
        """Drop the open forecasts: the clock jumped."""
        self.open[:] = -1.0


def unit(point: Floats, *, mean: Floats) -> Floats:
    """Replicas that an error of one means."""
    units: Floats = np.maximum(np.maximum(point, np.float32(LEAST_UNIT) * mean), np.float32(1e-3)).astype(np.float32)
    return units
