"""Who shows what would have happened without the action: replicas that were not touched, at the same time.

When the count of a workload changes, load moves between all its replicas, so none of them is untouched. A sibling
variant of the same service is, as long as the load of each of its replicas stayed what it was and its own count and
template did: then what both have in common (the time of day, the kind of requests, the network) drops out. The same
holds for the replicas that a change of size has not reached yet. Where nobody qualifies there is no control, and the
verdict says so with the reason; it never borrows one that is not comparable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from optiinfra.domain.readings import Unknown
from optiinfra.domain.verification.trail import Block

ALIKE: Final = 1.25
"""The load of one replica of the control may change by this factor."""
NEAR: Final = 4.0
"""The load of one of its replicas may be this many times that of the target's, or this part of it."""
LEAST_WINDOWS: Final = 2
"""Windows that both must have, before and after."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody who may serve as a control."""

    name: str
    """For people: "variant spot", "3 replicas that were not touched"."""
    before: tuple[Block, ...]
    after: tuple[Block, ...]
    disturbed: str = ""
    """What happened to it meanwhile; empty when nothing did."""


@dataclass(frozen=True, slots=True)
class Control:
    """Windows of the control beside those of the target, pair by pair."""

    name: str
    before: tuple[tuple[Block, Block], ...]
    """(target, control) of the same time."""
    after: tuple[tuple[Block, Block], ...]


@dataclass(frozen=True, slots=True)
class NoControl:
    """Why there is none."""

    reason: str


ALL_TOUCHED: Final = NoControl("a change of the count moves load between all replicas, and there is no other variant")


def choose(before: Sequence[Block], after: Sequence[Block], candidates: Sequence[Candidate]) -> Control | NoControl:
    """Return the first candidate that is comparable, or why none is."""
    answer: Control | NoControl = ALL_TOUCHED
    for candidate in candidates:
        answer = _fit(before, after, candidate)
        if isinstance(answer, Control):
            return answer
    return answer


def _fit(before: Sequence[Block], after: Sequence[Block], candidate: Candidate) -> Control | NoControl:
    name = candidate.name
    if candidate.disturbed:
        return NoControl(f"{name}: {candidate.disturbed}")
    paired = Control(name, _pairs(before, candidate.before), _pairs(after, candidate.after))
    if min(len(paired.before), len(paired.after)) < LEAST_WINDOWS:
        return NoControl(f"{name}: fewer than {LEAST_WINDOWS} windows in common before or after")
    counts = {control.replicas for _, control in (*paired.before, *paired.after)}
    if len(counts) > 1:
        return NoControl(f"{name}: its own replicas changed")
    was, now = _load(paired.before, 1), _load(paired.after, 1)
    target = _load(paired.before, 0)
    if was is None or now is None or target is None:
        return NoControl(f"{name}: the load of a replica is not known")
    if not 1.0 / ALIKE <= now / was <= ALIKE:
        return NoControl(f"{name}: the load of its replicas changed to {100.0 * now / was:.0f} %")
    if not 1.0 / NEAR <= was / target <= NEAR:
        return NoControl(f"{name}: its replicas carry {was / target:.2g} times the load, which is not comparable")
    return paired


def _pairs(targets: Sequence[Block], controls: Sequence[Block]) -> tuple[tuple[Block, Block], ...]:
    pairs: list[tuple[Block, Block]] = []
    for target in targets:
        near = min(controls, key=lambda block: abs(block.time - target.time), default=None)
        if near is not None and abs(near.time - target.time) <= target.span / 2.0:
            pairs.append((target, near))
    return tuple(pairs)


def _load(pairs: Sequence[tuple[Block, Block]], which: int) -> float | None:
    """Return the mean load of one replica; None where it is not known or nought."""
    loads = [
        demand / pair[which].replicas
        for pair in pairs
        if not isinstance(demand := pair[which].demand, Unknown) and pair[which].replicas
    ]
    mean = fmean(loads) if loads else 0.0
    return mean if mean > 0.0 else None
