"""A workload's whole state as one row of bytes, so that states of many workloads are put together and apart quickly.

Rounds see other workloads each time. Cutting a fleet's seventy arrays into single workloads and joining them again
costs more than deciding; as rows it is one copy a workload and one an array. The order of the bytes is that of
`state.arrays` and is for this process only: what outlives it is a `checkpoint`.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from optiinfra.domain.scaler.state import FleetState, arrays

Row: TypeAlias = npt.NDArray[np.uint8]


def rows_of(state: FleetState) -> list[Row]:
    """Take a fleet apart: one row a workload, each with memory of its own."""
    count = len(state)
    if not count:
        return []
    parts = [np.ascontiguousarray(array).reshape(count, -1).view(np.uint8) for array in arrays(state)]
    whole = np.concatenate(parts, axis=1)
    return [row.copy() for row in whole]


def state_of(rows: Sequence[Row]) -> FleetState:
    """Put workloads together again, in the order of their rows."""
    state = FleetState.of(np.zeros(len(rows), dtype=np.int64))
    if not rows:
        return state
    whole = np.stack(rows)
    first = 0
    for array in arrays(state):
        size = array.nbytes // len(rows)
        part = np.ascontiguousarray(whole[:, first : first + size])
        array[...] = part.view(array.dtype).reshape(array.shape)
        first += size
    return state
