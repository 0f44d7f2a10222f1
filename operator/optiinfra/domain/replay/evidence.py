"""What plain HPAs and the operator would have come to on the load of the last hours, cheap enough for every round.

It is the evidence beside a recommendation of another HPA target: the target that is set now, the cheapest one that
would have held the objective, and what the operator itself decided meanwhile. The model and the figures are those of
`fluid` and `figures`, to the last digit, but no queue is stepped through: an HPA on the rate of work never looks at its
queue, so that its orders come first and the rest follows in closed form. A replica is ready when it was asked for
during a whole start-up, because the newest ones are given back first; the queue is Lindley's recursion.

The operator's decision is not simulated again: a cheaper copy would be another decision. Hand over what it asked for,
or let `decided_again` play it, at about a millisecond a tick, outside a round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from optiinfra.domain.evidence import Evidence
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.replay.baselines import MEAN_STEPS, STABILIZATION_S, TOLERANCE, ceiled
from optiinfra.domain.replay.figures import INCIDENT_SHARE, WINDOW_S, windows
from optiinfra.domain.replay.fluid import (
    RISE_PODS,
    STEP_S,
    STEPS_PER_SYNC,
    SYNC_S,
    Fleet,
    FloatArray,
    IntArray,
    first_replicas,
    play,
)
from optiinfra.domain.replay.gaps import Bools, Gaps
from optiinfra.domain.replay.learned import Learned
from optiinfra.domain.units import Seconds
from optiinfra.errors import OptiInfraError

SWEPT: Final = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
MOST_TICKS: Final = 40_320
"""A week."""
SOURCE: Final = "derived"
_STABLE_SYNCS: Final = round(STABILIZATION_S / SYNC_S)
_LOWER: Final = 1.0 - TOLERANCE + 1e-9
"""A hair within the tolerance, so that rounding at its edge is left to the formula itself."""
_UPPER: Final = 1.0 + TOLERANCE - 1e-9
_NOTHING: Final = 1e-12


class EvidenceError(OptiInfraError):
    """An input from which no replay can be made; the message names it and what is expected."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one rule came to."""

    cost: float
    """Replica-seconds over work: 1 is every replica always busy."""
    late10: float
    """Share of the work that waited more than 10 s."""
    incidents: int
    """Five-minute windows with more than a tenth of their work late."""


@dataclass(frozen=True, slots=True)
class HpaOutcome:
    """What a plain HPA at a target came to."""

    target: float
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class ReplayEvidence:
    """A load under three rules."""

    hours: float
    """Known load that was replayed."""
    ours: Outcome | Unknown
    """What the operator decided."""
    current: HpaOutcome | Unknown
    """The target that is set now."""
    best: HpaOutcome | Unknown
    """The cheapest swept target that kept the late share, with no more incidents than the current one (0 without)."""

    @property
    def saving(self) -> float | Unknown:
        """Share of the replica-hours that the best target saves against the current one; negative where dearer."""
        if isinstance(self.current, Unknown):
            return self.current
        if isinstance(self.best, Unknown):
            return self.best
        return 1.0 - self.best.outcome.cost / max(self.current.outcome.cost, _NOTHING)

    def as_evidence(self) -> tuple[Evidence, ...]:
        """Return the figures in the shape that recommendations carry; what is unknown stays so, with its reason."""
        return (
            *self._of("hpa_at_current_target", self.current),
            *self._of("hpa_at_best_target", self.best),
            *self._of("operator", self.ours),
        )

    def _of(self, name: str, told: HpaOutcome | Outcome | Unknown) -> tuple[Evidence, ...]:
        window = Seconds(self.hours * 3600.0)
        if isinstance(told, Unknown):
            return (Evidence(f"replay_{name}_cost", told, "ratio", window, SOURCE, "mean"),)
        outcome = told.outcome if isinstance(told, HpaOutcome) else told
        target = (
            (Evidence(f"replay_{name}", told.target, "ratio", Seconds(0.0), SOURCE),)
            if isinstance(told, HpaOutcome)
            else ()
        )
        return (
            *target,
            Evidence(f"replay_{name}_cost", outcome.cost, "ratio", window, SOURCE, "mean"),
            Evidence(f"replay_{name}_late10", outcome.late10, "ratio", window, SOURCE, "mean"),
            Evidence(f"replay_{name}_incidents", float(outcome.incidents), "", window, SOURCE, "sum"),
        )


@dataclass(frozen=True, slots=True)
class _Load:
    """A load on ticks and what follows from it for every rule."""

    ticks: FloatArray
    """(ticks,): in replicas, 0 where it is not known."""
    known: Bools
    seen: FloatArray
    """(ticks,): what an HPA sees with each tick: a minute's mean, one tick old; NaN where none of it is known."""
    start_up_s: float
    minimum: int
    maximum: int
    initial: int


Asked: TypeAlias = Sequence[int] | IntArray


def replay_evidence(
    load_in_replicas: FloatArray,
    *,
    start_up_s: float,
    minimum: int,
    maximum: int,
    current_target: float | Unknown,
    decided: Asked | Unknown,
    initial: int | None = None,
    late_share: float = 0.01,
    targets: Sequence[float] = SWEPT,
) -> ReplayEvidence:
    """Replay a load, (ticks,) of 15 s in replicas, NaN where it is not known, oldest first.

    `current_target` is the share of a replica's work that the user's HPA aims at; `decided` what the operator asked for
    in each tick. `initial` replicas are ready at the beginning, by default what the first minute needs and 30 % more.

    Raises:
        EvidenceError: an argument cannot be, or nothing is known of the load.
    """
    load = _load(load_in_replicas, start_up_s=start_up_s, minimum=minimum, maximum=maximum, initial=initial)
    if any(not 0.0 < target <= 1.0 for target in targets):
        raise EvidenceError(f"targets: between 0 and 1 are expected, got {tuple(targets)}")
    ours: Outcome | Unknown
    if isinstance(decided, Unknown):
        ours = decided
    elif len(decided) == len(load.ticks):
        ours = _outcomes(load, np.asarray(decided, dtype=np.int64)[None, :])[0]
    else:
        raise EvidenceError(f"decided: {len(decided)} ticks for a load of {len(load.ticks)}: give one a tick")
    swept = list(targets)
    if not isinstance(current_target, Unknown):
        if not 0.0 < current_target <= 1.0:
            raise EvidenceError(f"current_target: between 0 and 1 is expected, got {current_target}")
        swept.append(current_target)
    outcomes = _outcomes(load, np.array([_hpa(load, target) for target in swept], dtype=np.int64))
    found = [HpaOutcome(target, outcome) for target, outcome in zip(swept, outcomes, strict=True)]
    current: HpaOutcome | Unknown = current_target if isinstance(current_target, Unknown) else found.pop()
    allowed = 0 if isinstance(current, Unknown) else current.outcome.incidents
    held = [one for one in found if one.outcome.late10 <= late_share and one.outcome.incidents <= allowed]
    reason = Unknown(UnknownReason.NOT_MEASURED, f"no target keeps {late_share:.2%} of the work late on this load")
    return ReplayEvidence(
        hours=float(load.known.sum()) * SYNC_S / 3600.0,
        ours=ours,
        current=current,
        best=min(held, key=lambda one: (one.outcome.cost, one.target), default=reason),
    )


def decided_again(
    load_in_replicas: FloatArray,
    *,
    start_up_s: float,
    minimum: int,
    maximum: int,
    initial: int | None = None,
    late_share: float = 0.01,
) -> IntArray:
    """Return what the operator's decision would have asked for, (ticks,), beginning without history.

    It takes about a millisecond a tick. Raises `EvidenceError` as `replay_evidence`.
    """
    load = _load(load_in_replicas, start_up_s=start_up_s, minimum=minimum, maximum=maximum, initial=initial)
    fleet = Fleet(
        np.repeat(load.ticks, STEPS_PER_SYNC)[None, :],
        start_up_s=np.array([start_up_s]),
        initial=np.array([load.initial]),
        minimum=np.array([minimum]),
        maximum=np.array([maximum]),
    )
    gaps = Gaps(np.repeat(load.known, STEPS_PER_SYNC))
    play(fleet, gaps.seeing(Learned(fleet, late_share=late_share)))
    asked: IntArray = fleet.asked[0].astype(np.int64)
    return asked


def _load(values: FloatArray, *, start_up_s: float, minimum: int, maximum: int, initial: int | None) -> _Load:
    if values.ndim != 1 or not 0 < len(values) <= MOST_TICKS:
        raise EvidenceError(f"load_in_replicas: shape {values.shape}; one dimension of 1 to {MOST_TICKS} ticks is read")
    known = np.isfinite(values)
    if not known.any() or (values[known] < 0.0).any():
        raise EvidenceError("load_in_replicas: at least one known value, and none below zero, is expected")
    if not 0.0 < start_up_s < np.inf:
        raise EvidenceError(f"start_up_s: a positive number of seconds is expected, got {start_up_s}")
    if not 0 <= minimum <= maximum:
        raise EvidenceError(f"minimum: between 0 and maximum is expected, got {minimum} and {maximum}")
    ticks = np.where(known, values, 0.0)
    # With tick t the newest that an HPA sees is tick t - 2; at the beginning it sees the first one.
    newest = np.maximum(np.arange(len(ticks)) - 1, 1)
    oldest = np.maximum(newest - MEAN_STEPS // STEPS_PER_SYNC, 0)
    newest = np.minimum(newest, len(ticks))
    total, count = (np.concatenate([[0.0], np.cumsum(part)]) for part in (ticks, known.astype(np.float64)))
    counted = count[newest] - count[oldest]
    seen = np.where(counted > 0.0, (total[newest] - total[oldest]) / np.maximum(counted, 1.0), np.nan)
    if initial is None:
        minute = ticks[known][: MEAN_STEPS // STEPS_PER_SYNC]
        initial = int(first_replicas(np.repeat(minute, STEPS_PER_SYNC)[None, :], minimum=np.array([minimum]))[0])
    return _Load(ticks, known, seen, start_up_s, minimum, maximum, min(max(initial, minimum), maximum))


def _hpa(load: _Load, target: float) -> IntArray:
    """(ticks,) replicas that an HPA v2 asks for: tolerance, stabilised shrinking, limited rises, its own limits."""
    loads = (load.seen / target).tolist()
    wanted = ceiled(np.nan_to_num(load.seen) / target).tolist()
    minimum, maximum, current = load.minimum, load.maximum, load.initial
    proposals = [0] * len(loads)
    # The highest proposal of the window, and when it was made last; what ran at first counts as one.
    highest, last = current, -1
    lower = upper = -np.inf  # between them the proposal is what runs, as is the highest: nothing moves
    ticks, replicas = [0], [current]
    for tick, busy in enumerate(loads):
        if lower <= busy <= upper:
            last = tick
            continue
        if busy < lower and tick - last < _STABLE_SYNCS and wanted[tick] < current:
            proposals[tick] = wanted[tick]
            continue
        if busy != busy:  # noqa: PLR0124  NaN: an HPA without its metric leaves the replicas as they are
            continue
        steady = current > 0 and abs(busy / current - 1.0) <= TOLERANCE
        proposals[tick] = proposed = current if steady else wanted[tick]
        if proposed >= highest:
            highest, last = proposed, tick
        elif tick - last >= _STABLE_SYNCS:
            # Since `last` every known tick came here, so that the window is complete.
            window = proposals[tick : tick - _STABLE_SYNCS : -1] if tick >= _STABLE_SYNCS else proposals[tick::-1]
            highest = max(window)
            last = tick - window.index(highest)
        limit = current + max(current, RISE_PODS)
        granted = min(max(min(highest, limit), minimum), maximum, limit)
        if granted != current:
            current = granted
            ticks.append(tick)
            replicas.append(current)
        settled = highest == current
        lower, upper = (current * _LOWER, current * _UPPER) if settled else (-np.inf, -np.inf)
    lengths = np.diff([*ticks, len(loads)])
    asked: IntArray = np.repeat(np.array(replicas, dtype=np.int64), lengths)
    return asked


def _outcomes(load: _Load, asked: IntArray) -> list[Outcome]:
    """Figures of several runs, (runs, ticks) of replicas asked for."""
    steps = np.repeat(asked, STEPS_PER_SYNC, axis=1)
    start = int(np.ceil(load.start_up_s / STEP_S - 1e-9))
    ready = _lowest(steps, start, first=load.initial)
    work = np.repeat(load.ticks, STEPS_PER_SYNC) * STEP_S
    known = np.repeat(load.known, STEPS_PER_SYNC)
    drift = np.cumsum(work - ready * STEP_S, axis=1)
    queue = drift - np.minimum(np.minimum.accumulate(drift, axis=1), 0.0)
    wait = round(10.0 / STEP_S)
    later = np.minimum(np.arange(steps.shape[1]) + wait, steps.shape[1] - 1)
    arrived = np.cumsum(work)
    late = np.clip(queue[:, later] - (arrived[later] - arrived), 0.0, work)
    width = round(WINDOW_S / STEP_S)
    bad = windows(late, steps=width) > INCIDENT_SHARE * windows(work[None, :], steps=width) + _NOTHING
    total = max(float(work.sum()), _NOTHING)
    paid = (steps * (known * STEP_S)).sum(axis=1)
    return [
        Outcome(cost=float(cost), late10=float(share), incidents=int(count))
        for cost, share, count in zip(paid / total, late.sum(axis=1) / total, bad.sum(axis=1), strict=True)
    ]


def _lowest(values: IntArray, behind: int, *, first: int) -> IntArray:
    """Lowest of each value and the `behind` before it along the rows; before the beginning there was `first`."""
    padded = np.concatenate([np.full((len(values), behind), first), values], axis=1)
    reach, length = 1, behind + 1
    while reach < length:  # each turn doubles the reach
        step = min(reach, length - reach)
        padded = np.minimum(padded[:, step:], padded[:, :-step])
        reach += step
    lowest: IntArray = padded
    return lowest
