"""A fleet's loads under this project's scaler, many models in lockstep; beside what ran, and beside plain HPAs.

What ran is taken as it was measured: its replicas, and its queue. What would have run comes from the operator's own
decision in the fluid model of `replay.fluid`, and is a model: no latency, batches or KV caches, and a load that is
even within each step of the grid, so that bursts shorter than a step are missing from its late work. Offered load is
the work that was served plus what the queue grew by, because a full service serves less than is asked of it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.replay.evidence import MOST_TICKS, HpaOutcome, replay_evidence
from optiinfra.domain.replay.figures import INCIDENT_SHARE, WINDOW_S, windows
from optiinfra.domain.replay.fluid import (
    STEP_S,
    STEPS_PER_SYNC,
    SYNC_S,
    Fleet,
    IntArray,
    View,
)
from optiinfra.domain.replay.learned import Learned
from optiinfra.domain.report.days import ROWS_AT_ONCE, Days, Stretch
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import Course, ModelHistory
from optiinfra.domain.scaler.pipeline import MOST_REPLICAS

MOST_LOAD: Final = MOST_REPLICAS / 4.0
CAREFUL_USE: Final = 0.7
"""Share of what replicas serve at which a service counts as run well: the usual target of an autoscaler."""
_NOTHING: Final = 1e-12
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One model as it is replayed."""

    key: str
    load: FloatArray
    """(points,) offered load in replicas; NaN where it is not known."""
    ran: FloatArray
    """(points,) replicas that ran; NaN where that is not known."""
    step_s: float
    start_up_s: float
    minimum: int
    maximum: int
    late_after_s: float
    late_share: float
    days: Days
    hpa_days: float = 7.0
    """The plain HPA is played on so many of the newest replayed days at most."""

    @property
    def told(self) -> npt.NDArray[np.bool_]:
        """Return the points of which both load and replicas are known, replayed or not."""
        return np.isfinite(self.load) & np.isfinite(self.ran)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Return the points that are compared."""
        return self.told & self.days.counted


@dataclass(frozen=True, slots=True)
class Lateness:
    """What a way of running did to the users."""

    late_share: float
    incidents: int
    actions_per_day: float


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """What came of a case."""

    key: str
    ours: FloatArray
    """(points,) replicas that the scaler asked for, the mean of each step; NaN where nothing is compared."""
    lateness: Lateness
    hpa: HpaOutcome | Unknown
    """On the newest days, `Case.hpa_days` at most."""
    hpa_hours: float
    load_hours: float
    """Replica-hours of the known load of that week."""


@dataclass(frozen=True, slots=True)
class _RowsView(View):
    """A view in which each run's arrivals of unknown steps are missing instead of none."""

    counted: IntArray = None  # type: ignore[assignment]  # the fields before it have defaults; `play` always gives it
    """(runs, steps + 1): how many of the steps before each are known."""

    def arrivals(self, steps: int) -> FloatArray:
        end = max(1, self.newest)
        start = max(0, end - steps)
        known = self.counted[:, end] - self.counted[:, start]
        total = self.fleet.arrived[:, end] - self.fleet.arrived[:, start]
        mean: FloatArray = np.where(known > 0, total / np.maximum(known, 1), np.nan)
        return mean


def syncs_of(cases: Sequence[Case]) -> int:
    """Return for how many syncs of 15 s cases are played: stretches lie side by side, in batches."""
    rows = sum(len(one.days.stretches) for one in cases)
    length = max((round(one.days.length * one.step_s / SYNC_S) for one in cases), default=0)
    return length * -(-rows // ROWS_AT_ONCE)


def play(cases: Sequence[Case], *, on_sync: Callable[[int], None] | None = None) -> list[Played]:
    """Play the scaler over all stretches of all cases; all have the same grid, step and days.

    `on_sync` is told of each sync that is done, from 0 to `syncs_of`.
    """
    rows = [_Row(case, stretch) for case in cases for stretch in case.days.stretches]
    points = max((one.days.length for one in cases), default=0)
    parts: list[_Part] = []
    done = 0
    for first in range(0, len(rows), ROWS_AT_ONCE):
        for part in _batch(rows[first : first + ROWS_AT_ONCE], points):
            if isinstance(part, _Part):
                parts.append(part)
            elif on_sync is not None:
                on_sync(done)
            done += not isinstance(part, _Part)
    told = iter(parts)
    return [_played(one, [next(told) for _ in one.days.stretches]) for one in cases]


def _batch(rows: Sequence["_Row"], points: int) -> Iterator["_Part | None"]:
    """Play some rows in lockstep; yield None for each sync, then what came of each row."""
    step_s = rows[0].case.step_s
    # A step that is no multiple of the model's is read at the model's own times.
    place = np.minimum((np.arange(round(points * step_s / STEP_S)) * STEP_S // step_s).astype(np.int64), points - 1)
    loads = np.stack([row.load(points) for row in rows])
    counted = np.zeros((len(rows), len(place) + 1), dtype=np.int64)
    np.cumsum(np.isfinite(loads)[:, place], axis=1, out=counted[:, 1:])
    fleet = Fleet(
        np.nan_to_num(loads)[:, place],
        start_up_s=np.array([one.case.start_up_s for one in rows]),
        initial=np.array([one.initial for one in rows], dtype=np.int64),
        minimum=np.array([one.case.minimum for one in rows], dtype=np.int64),
        maximum=np.array([one.case.maximum for one in rows], dtype=np.int64),
    )
    learned = Learned(
        fleet,
        late_after_s=np.array([one.case.late_after_s for one in rows]),
        late_share=np.array([one.case.late_share for one in rows]),
    )
    view = _RowsView(fleet, counted=counted)
    for _ in range(fleet.syncs):
        fleet.order(learned(view))
        fleet.advance()
        yield None
    # `place` is ascending, so that each point of the grid is one stretch of steps.
    begins = np.append(np.searchsorted(place, np.arange(points)), len(place))
    for number, row in enumerate(rows):
        yield _part(row, fleet, number, begins)


@dataclass(frozen=True, slots=True)
class _Row:
    """One stretch of one case; all rows are as long as the longest, and end together."""

    case: Case
    stretch: Stretch

    def load(self, points: int) -> FloatArray:
        """(points,) load; nothing is known of what lies before the stretch."""
        own = slice(self.stretch.begin, self.stretch.end)
        values = np.where(self.case.told[own], self.case.load[own], np.nan)
        return np.concatenate([np.full(points - len(values), np.nan), values])

    @property
    def initial(self) -> int:
        """Replicas at the beginning: what ran."""
        own = slice(self.stretch.begin, self.stretch.end)
        ran = self.case.ran[own][self.case.told[own]]
        begin = round(float(ran[0])) if ran.size else self.case.minimum
        return int(min(max(begin, self.case.minimum), self.case.maximum))


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What came of one row, of what counts in it."""

    stretch: Stretch
    ours: FloatArray
    """(points that count,) mean replicas of each step."""
    late: float
    """Late work, replica-seconds; so is the next."""
    work: float
    incidents: int
    changes: int


def _part(row: _Row, fleet: Fleet, number: int, begins: IntArray) -> _Part:
    steps, stretch = fleet.load.shape[1], row.stretch
    count = stretch.end - stretch.counts
    first = int(begins[len(begins) - 1 - count])
    asked = np.repeat(fleet.asked[number].astype(np.float64), STEPS_PER_SYNC)[:steps]
    sizes = np.diff(begins)
    means = np.add.reduceat(asked, begins[:-1]) / np.maximum(sizes, 1)
    late = _late(fleet.load[number], fleet.backlog[number].astype(np.float64), after_s=row.case.late_after_s)[first:]
    work = fleet.load[number, first:] * STEP_S
    changes = int((np.diff(fleet.asked[number, first // STEPS_PER_SYNC :]) != 0.0).sum())
    return _Part(stretch, means[-count:], float(late.sum()), float(work.sum()), _incidents(late, work), changes)


def _played(case: Case, parts: Sequence[_Part]) -> Played:
    ours = np.full(len(case.load), np.nan)
    for one in parts:
        ours[one.stretch.counts : one.stretch.end] = one.ours
    known = case.known
    days = max(float(known.sum()) * case.step_s / _DAY_S, _NOTHING)
    lateness = Lateness(
        sum(one.late for one in parts) / max(sum(one.work for one in parts), _NOTHING),
        sum(one.incidents for one in parts),
        sum(one.changes for one in parts) / days,
    )
    hpa, hours, load_hours = _best_hpa(case)
    return Played(case.key, np.where(known, ours, np.nan), lateness, hpa, hours, load_hours)


def _late(load: FloatArray, backlog: FloatArray, *, after_s: float) -> FloatArray:
    """(steps,) work that waited longer, in replica-seconds: `replay.figures.late_work` of one run."""
    steps = len(load)
    later = np.minimum(np.arange(steps) + max(0, round(after_s / STEP_S)), steps - 1)
    arrived = np.cumsum(load)
    late: FloatArray = np.clip(backlog[later] - (arrived[later] - arrived) * STEP_S, 0.0, load * STEP_S)
    return late


def _incidents(late: FloatArray, work: FloatArray) -> int:
    width = round(WINDOW_S / STEP_S)
    bad = windows(late[None, :], steps=width) > INCIDENT_SHARE * windows(work[None, :], steps=width) + _NOTHING
    return int(bad.sum())


def _best_hpa(case: Case) -> tuple[HpaOutcome | Unknown, float, float]:
    """Return the cheapest plain HPA that held the objective on the newest days, its hours, and its load's."""
    newest = case.days.newest
    known = np.where(case.known, case.load, np.nan)[newest]
    points = len(known)
    most = min(MOST_TICKS, max(1, round(case.hpa_days * _DAY_S / SYNC_S)))
    moments = np.arange(round(points * case.step_s / SYNC_S)) * SYNC_S
    place = np.minimum((moments // case.step_s).astype(np.int64), points - 1)
    ticks = known[place][-most:]
    if not np.isfinite(ticks).any() or not float(np.nansum(ticks)) > 0.0:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "no load is known"), 0.0, 0.0
    found = replay_evidence(
        ticks,
        start_up_s=case.start_up_s,
        minimum=max(1, case.minimum),
        maximum=max(1, case.maximum),
        current_target=Unknown(UnknownReason.NOT_MEASURED, "the HPA that runs does not scale on the rate of work"),
        decided=Unknown(UnknownReason.NOT_CONFIGURED, "played apart"),
        late_share=case.late_share,
    )
    return found.best, found.hours, float(np.nansum(ticks)) * SYNC_S / 3600.0


def careful(load: FloatArray, *, step_s: float, start_up_s: float, minimum: int) -> FloatArray:
    """(points,) replicas that a careful operator keeps: the highest load of a start-up ahead at `CAREFUL_USE`.

    Steps of which nothing is known need what the known ones around them do: NaN there.
    """
    ahead = int(np.ceil(start_up_s / step_s)) + 1
    filled = np.where(np.isfinite(load), load, -np.inf)
    padded = np.pad(filled, (0, ahead - 1), constant_values=-np.inf)
    highest = np.lib.stride_tricks.sliding_window_view(padded, ahead).max(axis=1)
    needed: FloatArray = np.maximum(np.ceil(highest / CAREFUL_USE - 1e-9), float(minimum))
    return np.where(np.isfinite(load), needed, np.nan)


def measured_lateness(model: ModelHistory, case: Case) -> Lateness | Unknown:
    """Return how late work was as it ran: by the measured time in the queue, else by requests that waited.

    A step whose requests waited longer than the objective on average counts as late as a whole, others not at all.
    """
    wait = _waited(model)
    if isinstance(wait, Unknown):
        return wait
    known = case.known & np.isfinite(wait)
    if not known.any():
        return Unknown(UnknownReason.NOT_MEASURED, "neither the time in the queue nor requests that waited are known")
    load = case.load[known]
    late = wait[known] > case.late_after_s
    share = float(load[late].sum() / max(float(load.sum()), _NOTHING))
    changes = int((np.abs(np.diff(np.round(case.ran[case.known]))) >= 1.0).sum())
    days = max(float(case.known.sum()) * case.step_s / _DAY_S, _NOTHING)
    incidents = round(float((late & (load > 0.0)).sum()) * case.step_s / WINDOW_S)
    return Lateness(share, incidents, changes / days)


def _waited(model: ModelHistory) -> Course:
    """(points,) seconds that work waited: measured, else the queue over what was served (Little's law)."""
    queue, waiting, requests = model.load.queue_mean, model.load.waiting, model.load.requests
    if isinstance(waiting, Unknown) or isinstance(requests, Unknown):
        return queue
    with np.errstate(invalid="ignore", divide="ignore"):
        little: FloatArray = np.where(waiting < 0.5, 0.0, waiting / np.maximum(requests, 1e-6))
    if isinstance(queue, Unknown):
        return little
    return np.where(np.isfinite(queue), queue, little)


def offered(model: ModelHistory, *, capacity: float, step_s: float) -> Course:
    """(points,) load in replicas: what was served, and what the queue of waiting requests grew by."""
    work, waiting, requests = model.load.work, model.load.waiting, model.load.requests
    if isinstance(work, Unknown):
        return work
    grown: FloatArray = np.zeros(len(work))
    if not isinstance(waiting, Unknown) and not isinstance(requests, Unknown):
        both = np.isfinite(work) & np.isfinite(requests)
        done = float(requests[both].sum())
        if done > 0.0:
            each = float(work[both].sum()) / done
            grown[1:] = np.nan_to_num(np.diff(waiting)) * each / step_s
    load: FloatArray = np.maximum(work + grown, 0.0) / capacity
    return load
