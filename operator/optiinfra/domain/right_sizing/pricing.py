"""Requests that are worth their price: one price of harm for a fleet, so that headroom goes where it buys most.

Every container has a curve: request against the harm that is expected above it. A fixed percentile spends the same
headroom on a container whose use has an edge and on one whose use has none. Here the requests are those of least total
size at which the expected harm, on average, is what is allowed (Lagrange's multiplier, found by bisection), and no
container is left with more than a cap. Size counts as its square root: in whole bytes small containers would be padded
for the sake of large ones, in percent a gigabyte would be worth no more than a megabyte.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
SIZE_EXPONENT: Final = 0.5
_STEPS: Final = 30
_FEW: Final = 256
_LOW, _HIGH = 1e-6, 1e9


@dataclass(frozen=True, slots=True)
class Curves:
    """Candidates of a fleet: each array is (containers, candidates), requests growing along each row."""

    request: FloatArray
    harm: FloatArray
    """Expected harm above each candidate, 0 to 1, never growing along a row."""
    size: FloatArray
    """(containers,) typical use, in the unit of the request."""


def choose(curves: Curves, *, allowed: float, most: float) -> IntArray:
    """Return the candidate of each container: mean harm at most `allowed` where candidates permit, none above `most`.

    Where all candidates of a container are above `most`, its largest one is taken.
    """
    cost = curves.request / np.maximum(curves.size, 1e-12)[:, None] ** SIZE_EXPONENT
    unit = float(np.median(cost[:, -1])) or 1.0
    cost = np.where(curves.harm > most, np.inf, cost / unit)
    cost[:, -1] = np.where(np.isinf(cost[:, -1]), 1e12, cost[:, -1])
    rows = np.arange(len(cost))

    def at(price: float) -> IntArray:
        found: IntArray = np.argmin(cost + price * curves.harm, axis=1)
        return found

    low, high = _LOW, _HIGH
    for _ in range(_STEPS):
        price = (low * high) ** 0.5
        if float(curves.harm[rows, at(price)].sum()) > allowed * len(rows):
            low = price
        else:
            high = price
    return _spend(cost, curves.harm, at(high), allowed=allowed, most=most)


def _spend(cost: FloatArray, harm: FloatArray, index: IntArray, *, allowed: float, most: float) -> IntArray:
    """Spend what a price leaves over: it jumps between candidates, which a few containers would feel.

    The dearest container first, each takes the smallest request whose harm what is left can bear. Of many containers
    nothing worth it is left.
    """
    if len(index) > _FEW:
        return index
    spent = index.copy()
    rows = np.arange(len(index))
    left = allowed * len(index) - float(harm[rows, index].sum())
    for row in np.argsort(-cost[rows, index], kind="stable").tolist():
        bearable = min(most, float(harm[row, spent[row]]) + left)
        smaller = int((harm[row] <= bearable).argmax())
        if left > 0.0 and cost[row, smaller] < cost[row, spent[row]]:
            left -= float(harm[row, smaller] - harm[row, spent[row]])
            spent[row] = smaller
    return spent


def first_below(curves: Curves, harm: FloatArray) -> FloatArray:
    """Return each container's smallest candidate whose harm is at most `harm` (containers,); the largest if none is."""
    below = curves.harm <= harm[:, None]
    index = np.where(below.any(axis=1), below.argmax(axis=1), curves.harm.shape[1] - 1)
    return np.asarray(curves.request[np.arange(len(index)), index])
