"""Who gets the GPUs of a pool whose budget is short: by priority, and within one priority by max-min fairness.

What runs is kept: a budget bounds growth and takes nothing away, because a shrink needs measured evidence. The rest is
given replica by replica in one fixed order: first everybody's minimum, higher priorities first; then everybody's wish,
higher priorities first; within a priority always to the one with the least GPUs for its weight (progressive filling,
Bertsekas and Gallager, Data Networks, 6.5.2, for indivisible lumps). The answer is the longest prefix of that order
within the budget. So it is deterministic, never over the budget, and monotone: a larger budget is a longer prefix and
takes from nobody. A replica that does not fit keeps what is left for itself: smaller ones behind it would starve it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-9
"""GPUs: shares of a GPU add up to a whole one only so precisely."""
MOST_WANTED = 4096
"""Replicas beyond what it has that one claim may ask for in one pass; more is asked for again."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one workload holds of a pool and would like to have."""

    key: str
    """Settles who comes first when all else is equal."""
    priority: int
    gpus: float
    """Of one replica; more than 0."""
    held: int
    """Replicas that it has, or that were ordered for it already."""
    minimum: int
    wanted: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (self.gpus > 0.0 and self.weight > 0.0) or min(self.held, self.minimum, self.wanted) < 0:
            raise ValueError(f"claim of {self.key}: GPUs and weight must be positive, counts not negative")


@dataclass(frozen=True, slots=True)
class Share:
    """What a claim may have."""

    replicas: int
    """At least what it holds."""
    refused: int
    """Replicas that it wanted beyond that."""


def share(claims: Sequence[Claim], *, budget: float) -> tuple[Share, ...]:
    """Divide a pool's budget, in GPUs; one answer for each claim, in their order."""
    if not claims:
        return ()
    gpus = np.array([claim.gpus for claim in claims])
    held = np.array([claim.held for claim in claims], dtype=np.int64)
    more = np.array([min(max(claim.wanted - claim.held, 0), MOST_WANTED) for claim in claims], dtype=np.int64)
    owner, number = _tokens(more)
    order = _order(claims, owner, held[owner] + number, gpus)
    left = max(0.0, budget - float(held @ gpus))
    given = int(np.searchsorted(np.cumsum(gpus[owner[order]]), left + _ROUNDING, side="right"))
    granted = np.bincount(owner[order[:given]], minlength=len(claims))
    return tuple(
        Share(replicas=int(have + got), refused=max(0, claim.wanted - int(have + got)))
        for claim, have, got in zip(claims, held, granted, strict=True)
    )


def _tokens(more: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the claim of every replica that is asked for, and how many of its own come before it."""
    owner = np.repeat(np.arange(len(more)), more)
    first = np.repeat(np.cumsum(more) - more, more)
    return owner, np.arange(len(owner)) - first


def _order(
    claims: Sequence[Claim], owner: NDArray[np.int64], before: NDArray[np.int64], gpus: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the tokens in the order in which they are given. `before`: replicas that the owner has by then."""
    minimum = np.array([claim.minimum for claim in claims], dtype=np.int64)
    priority = np.array([claim.priority for claim in claims], dtype=np.int64)
    weight = np.array([claim.weight for claim in claims])
    rank = np.empty(len(claims), dtype=np.int64)
    rank[sorted(range(len(claims)), key=lambda place: claims[place].key)] = np.arange(len(claims))
    level = before * gpus[owner] / weight[owner]
    # The last key counts first. `before` last of all: two tokens of one claim never change places.
    return np.lexsort((before, rank[owner], level, -priority[owner], before >= minimum[owner]))
