"""What goes into the memory of a fleet, and what comes out: one sample of many GPUs, and what is known of them.

Arrays with one element a GPU. NaN stands for "not known" inside them; `Sight` says outwards why nothing can be said.
"""

from dataclasses import dataclass
from enum import IntEnum, auto

import numpy as np
from numpy.typing import NDArray

from optiinfra.domain.idle.gaps import Flags, Floats


class Sight(IntEnum):
    """What is seen of a GPU, or why nothing is."""

    TOO_FEW = 0
    """Not watched for long enough."""
    WORK = auto()
    """It works, or did a moment ago."""
    LOADING = auto()
    """Its memory was filled a moment ago."""
    GAP = auto()
    """Nothing was measured for a while in the last minutes."""
    DARK = auto()
    """Its activity was not known at some moment of the last minutes."""
    POWER = auto()
    """Its counters show nothing, and its power contradicts them."""
    MEMORY = auto()
    """It does nothing, and what its memory holds is not known."""
    EXPECTED = auto()
    """It does nothing, and work is expected: its own pauses were often as long."""
    IDLE = auto()
    """It does nothing, and nothing is expected."""


@dataclass(frozen=True, slots=True)
class Samples:
    """One sample each of some GPUs; all arrays (g). NaN is not known."""

    gpu: NDArray[np.intp]
    """Columns, each at most once."""
    time: Floats
    """Seconds."""
    duty: Floats
    """Share of time with any kernel, 0..1."""
    memory: Floats
    """Bytes in use."""
    power: Floats
    """Watts; of an energy counter's rate and the instant reading the larger."""
    sm_active: Floats
    """Share of active multiprocessors, 0..1."""
    power_limit: Floats
    """Watts."""
    transfer: Floats
    """Bytes a second over PCIe, both ways."""
    working: Flags
    """Its engine says that it has work: requests that run or wait, tokens that are made."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What is known of some GPUs at their latest samples; all arrays (g)."""

    sight: NDArray[np.int8]
    """`Sight`."""
    probability: Floats
    """That no work comes within the horizon; NaN where it was not asked."""
    confidence: Floats
    """The probability, but no more than the signals that were measured allow."""
    quiet_since: Floats
    """Since when it surely does nothing; NaN while it works or is not known."""
    elapsed: Floats
    """Seconds since work was last seen, or since it was first seen."""
    used: Floats
    """Share of the recent time in which activity was high; NaN where it was not known."""
    peak: Floats
    """Highest activity of the quiet time."""
    memory: Floats
    empty: Flags
    power_high: Floats
    """Highest power of the quiet time, watts; NaN where not known."""
    floor: Floats
    """Learned power floor, watts; NaN before it is learned."""
    gaps: Floats
    """Gaps known of it."""
    worked: Flags
    """Work was seen since it was first seen, or may have been done in a hole."""
    interval: Floats
    """Seconds between its samples."""
    before_first: Flags
    """Its quiet time began before its first sample here: a metrics server's history tells of the beginning."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What stays true of a GPU across a time in which nobody watched it."""

    node: str
    gpu: str
    worked: bool
    floor_empty: float
    """Watts at rest with an empty memory; NaN before it is learned. The next one: with a filled one."""
    floor_filled: float
    lengths: tuple[float, ...]
    """Of its last gaps between work, seconds, oldest first."""
    ends: tuple[float, ...]
    """Unix times at which they ended."""


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """What one memory saw of a GPU, for another that goes on with it. Times in seconds, NaN where there is none."""

    until: float
    """A sample up to here is no hole after its last one."""
    quiet_since: float
    quiet_count: float
    quiet_peak: float
    quiet_power: float
    clock: float
    """Since when the present gap lasts."""
    worked: float
    """1 where work was seen, or may have been done in a hole."""
    floors: tuple[float, float]
    """Watts at rest with an empty memory, and with a filled one."""
    lengths: Floats
    """Of its last gaps between work, oldest first."""
    ends: Floats
