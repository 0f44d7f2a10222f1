"""The entrance: observations of a fleet in, decisions out. Causal, incremental, deterministic; no clock, no I/O.

    scaler = Scaler(services.current)                      # or Scaler.restored(...)
    decisions = scaler.decide(observations, services, now=now)
    decisions.of(0).desired

Each call hands over the ticks since the last one, oldest first, usually one or two. The state moves only when a new
tick is given: asking again within a tick answers the same. Missing ticks are lived through with the last known load and
are not scored, a long gap in one stride; while the load is unknown nothing is given back. A clock that was set back
holds still for a minute, then goes on from the last load. Chunks of a fleet are decided one after the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from optiinfra.domain.scaler.decision import REASONS, FleetDecision, ScalerReason
from optiinfra.domain.scaler.grid import CHOSEN, GAIN_OF, MARGIN, prior
from optiinfra.domain.scaler.load import LEVEL_TICKS, Features
from optiinfra.domain.scaler.observation import Observation, ScalerInputError, Services
from optiinfra.domain.scaler.order import foreseen_backlog, order
from optiinfra.domain.scaler.pipeline import MOST_REPLICAS, Pipeline
from optiinfra.domain.scaler.prices import prices
from optiinfra.domain.scaler.shadows import needs
from optiinfra.domain.scaler.state import FleetState, joined, put, take
from optiinfra.domain.scaler.tuning import DEFAULT, REFERENCE, TICK_S, TICKS_PER_HOUR, WINDOW_TICKS, Tuning
from optiinfra.domain.units import UnixTime

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Answer = TypeVar("Answer")

CHUNK: Final = 256
MOST_CATCH_UP: Final = 40
"""Ticks of a gap that are lived through; a longer one is bridged in one stride."""
UNKNOWN_TICKS: Final = 4
"""A minute without a known load is a load unknown."""
HAND_TICKS: Final = 20
YOUNG_HOURS: Final = 12.0
JUDGED_HOURS: Final = 6.0
"""Least history before the objective is called infeasible."""
_LEAST: Final = np.float32(1e-6)
_TRENDING: Final = (GAIN_OF[:CHOSEN] > 0.0).astype(np.float32)


class Scaler:
    """Decides for a fleet and remembers what that needs."""

    def __init__(self, replicas: Ints, *, tuning: Tuning = DEFAULT) -> None:
        """Begin with workloads that run `replicas` ready replicas and have no past."""
        self.state = FleetState.of(np.minimum(replicas, MOST_REPLICAS))
        self.tuning = tuning

    @classmethod
    def restored(cls, states: Sequence[FleetState], *, tuning: Tuning = DEFAULT) -> "Scaler":
        """Go on from states, one or more workloads each, for example out of checkpoints."""
        return cls.of(joined(list(states)), tuning=tuning)

    @classmethod
    def of(cls, state: FleetState, *, tuning: Tuning = DEFAULT) -> "Scaler":
        """Go on from the state of a fleet, which is changed from now on."""
        scaler = cls(np.zeros(0, dtype=np.int64), tuning=tuning)
        scaler.state = state
        return scaler

    def __len__(self) -> int:
        return len(self.state)

    def decide(self, observations: Sequence[Observation], services: Services, *, now: UnixTime) -> FleetDecision:
        """Take in the ticks that end at `now`, oldest first, and decide for every workload, with the reasons."""
        return joined(self._each(observations, services, now=now, answer=_explained))

    def desired(self, observations: Sequence[Observation], services: Services, *, now: UnixTime) -> Ints:
        """Do the same, but answer only the numbers of replicas: half the time for a single workload."""
        return np.concatenate(self._each(observations, services, now=now, answer=_only_desired))

    def _each(
        self,
        observations: Sequence[Observation],
        services: Services,
        *,
        now: UnixTime,
        answer: Callable[[FleetState, Services, Tuning], Answer],
    ) -> list[Answer]:
        """Bring the fleet to `now`, chunk by chunk, and answer for each chunk."""
        if len(services) != len(self.state):
            raise ScalerInputError(f"services: {len(services)} rows for {len(self.state)} workloads: give one each")
        if any(len(one.arrived) != len(services) for one in observations):
            raise ScalerInputError("observations: each needs one row a workload, as services has")
        tick = int(now // TICK_S)
        if len(services) <= CHUNK:
            _bring(self.state, observations, services, tick=tick, tuning=self.tuning)
            return [answer(self.state, services, self.tuning)]
        parts = []
        for first in range(0, len(services), CHUNK):
            rows = slice(first, first + CHUNK)
            part, facts = take(self.state, rows), services.rows(rows)
            _bring(part, [_rows(one, rows) for one in observations], facts, tick=tick, tuning=self.tuning)
            parts.append(answer(part, facts, self.tuning))
            put(self.state, rows, part)
        return parts


def _rows(one: Observation, rows: slice) -> Observation:
    return Observation(arrived=one.arrived[rows], backlog=one.backlog[rows], ready=one.ready[rows])


def _bring(
    state: FleetState, observations: Sequence[Observation], services: Services, *, tick: int, tuning: Tuning
) -> None:
    """Bring the state to `tick`."""
    first = tick - len(observations) + 1
    _bridge(state, services, first=first, tick=tick)
    for at in range(int(state.tick.min(initial=tick)) + 1, first):
        _advance(state, _nothing(len(services)), services, tick=at, tuning=tuning)
    for at, one in enumerate(observations, start=first):
        _advance(state, one, services, tick=at, tuning=tuning)


def _nothing(workloads: int) -> Observation:
    unknown = np.full(workloads, np.nan)
    return Observation(arrived=unknown, backlog=unknown, ready=unknown)


def _bridge(state: FleetState, services: Services, *, first: int, tick: int) -> None:
    """Where the clock was set back or a gap is long, go on from the last load as if it had stayed, in one stride."""
    new = state.tick < 0
    jumped = ~new & ((state.tick > tick + UNKNOWN_TICKS) | (first - state.tick > MOST_CATCH_UP))
    for row in np.flatnonzero(jumped):
        rows = slice(row, row + 1)
        part = take(state, rows)
        part.load.stride(int(first - 1 - part.tick[0]), tick=int(part.tick[0]))
        # What was starting is ready by now, and nobody knows what waited.
        shadows, references = part.shadows, part.references
        part.forecasts.interrupt()
        shadows.pipeline.settle()
        references.pipeline.settle()
        for queue in (shadows.queue, shadows.known_queue, references.queue, part.realised.queue):
            queue[:] = 0.0
        part.real = Pipeline.of(np.minimum(services.current[rows], MOST_REPLICAS), scalers=1)
        put(state, rows, part)
    state.tick[new | jumped] = first - 1


def _advance(state: FleetState, one: Observation, services: Services, *, tick: int, tuning: Tuning) -> None:
    """Live through one tick, those workloads only that have not yet."""
    usable = np.isfinite(one.arrived) & (one.arrived >= 0.0) & np.isfinite(one.backlog) & (one.backlog >= 0.0)
    usable &= np.isfinite(one.ready) & (one.ready >= 0.0)
    wanted = (state.tick < tick) & (usable | (state.load.seen > 0))
    state.unknown += (state.tick < tick) & ~usable
    if wanted.all():
        _live(state, one, services, usable=usable, tick=tick, tuning=tuning)
    elif wanted.any():
        rows = np.flatnonzero(wanted)
        part = take(state, rows)
        seen = Observation(arrived=one.arrived[rows], backlog=one.backlog[rows], ready=one.ready[rows])
        _live(part, seen, services.rows(rows), usable=usable[rows], tick=tick, tuning=tuning)
        put(state, rows, part)
    state.tick = np.maximum(state.tick, tick)


def _live(state: FleetState, one: Observation, services: Services, *, usable: Bools, tick: int, tuning: Tuning) -> None:
    """Live through one tick with every workload given."""
    start = services.start_ticks
    objective = services.late_after_s.astype(np.float32)
    minimum, maximum = services.minimum.astype(np.float32), np.minimum(services.maximum, MOST_REPLICAS)
    last = state.load.recent[:, (tick - 1) % state.load.recent.shape[1]]
    load = np.where(usable, one.arrived / services.capacity, last).astype(np.float32)
    queue = np.where(usable, one.backlog / services.capacity, state.realised.queue).astype(np.float32)
    ready = np.where(usable, one.ready, state.real.ready[:, 0]).astype(np.float32)
    state.unknown = np.where(usable, 0, state.unknown)
    _follow_real(state, services, ready=ready, start=start, tick=tick)
    state.realised.observe(
        load=np.where(usable, load, 0.0).astype(np.float32),
        queue=queue,
        ready=ready,
        objective_s=objective,
        tuning=tuning,
    )
    newborn = state.load.seen == 0
    state.load.highest[newborn] = ready[newborn] / np.float32(tuning.first_headroom)
    features = state.load.observe(load, tick=tick, start_ticks=start, tuning=tuning, trending=state.forecasts.trending)
    state.forecasts.observe(
        load,
        features,
        recent=state.load.recent,
        window=state.load.windows[:, 0],
        tick=tick,
        start_ticks=start,
        measured=usable,
        tuning=tuning,
    )
    if newborn.any():
        for past in state.past:
            put(past, newborn, take(features, newborn))
    counted = usable & (state.load.seen >= start + tuning.settle_ticks)
    state.shadows.live(
        load,
        state.past[0],
        tick=tick,
        start_ticks=start,
        minimum=minimum,
        maximum=maximum.astype(np.float32),
        objective_s=objective,
        counted=counted,
        tuning=tuning,
    )
    state.references.live(
        load,
        state.past[0],
        tick=tick,
        start_ticks=start,
        minimum=minimum,
        maximum=maximum.astype(np.float32),
        objective_s=objective,
        counted=counted,
    )
    state.past = (*state.past[1:], features)
    closing = tick % WINDOW_TICKS == WINDOW_TICKS - 1
    if closing:
        state.shadows.close_window(mean=features.mean, tuning=tuning)
        state.references.close_window(tuning=tuning)
        state.realised.close_window(tuning=tuning)
    if closing or newborn.any():
        state.weights = _weights(state, services, tuning=tuning)


def _follow_real(state: FleetState, services: Services, *, ready: Floats, start: Ints, tick: int) -> None:
    """Note what became of the last order, and who else gave one.

    An order that passes through a scrape and a scaler is carried out ticks later. A count of ours from a moment ago is
    therefore taken for the way to the last one: who decided from it anew would order, and take back, in turns.
    """
    state.orders = np.concatenate([state.orders[:, 1:], state.desired[:, None]], axis=1)
    seen = np.minimum(services.current, MOST_REPLICAS)
    ours = (state.orders == seen[:, None]).any(axis=1)
    raised = ~ours & (seen > state.asked) & (state.asked >= 0) & (seen > state.desired) & (state.desired >= 0)
    state.hand = np.where(raised, HAND_TICKS, np.maximum(state.hand - 1, 0))
    state.asked = seen
    current = np.where(ours, state.desired, seen).astype(np.float32)[:, None]
    state.real.order(current, tick=tick - 1, start=start[:, None])
    # Pods that should serve by now and do not: they are taken to need half a start-up more.
    state.behind = np.maximum(state.real.ready[:, 0] - ready, 0.0)
    state.real.end()
    state.real.begin(tick=tick)


def _scores(state: FleetState, services: Services, *, tuning: Tuning) -> tuple[Floats, Floats, Floats]:
    """(cost, late share, share of bad windows) of each choice, with the prior."""
    expected = prior(services.start_ticks)
    shadows = state.shadows
    believed = (np.float32(tuning.prior_hours * TICKS_PER_HOUR) * np.maximum(state.load.mean, _LEAST))[:, None]
    work = shadows.work_sum[:, None] + believed
    cost = (shadows.paid_sum[:, :CHOSEN] + expected.cost * believed) / work
    late = (shadows.late_sum[:, :CHOSEN] + expected.late * believed) / work
    bad = (shadows.bad_sum[:, :CHOSEN] + expected.bad * believed) / work
    return cost, late, bad


def _weights(state: FleetState, services: Services, *, tuning: Tuning) -> Floats:
    """Softmin over the scores at the prices of the moment."""
    cost, late, bad = _scores(state, services, tuning=tuning)
    age = state.load.seen
    price = prices(
        state.realised,
        reference_incidents=state.references.incidents[:, REFERENCE],
        mean=state.load.mean,
        seen=age,
        late_budget=services.late_share.astype(np.float32),
        tuning=tuning,
    )
    score = cost + price.late[:, None] * late + price.incident[:, None] * bad
    hours = np.maximum(age, 1) / TICKS_PER_HOUR
    temperature = (tuning.temperature * np.sqrt(1.0 + tuning.temperature_hours / hours)).astype(np.float32)
    weights = np.exp(-(score - score.min(axis=1, keepdims=True)) / temperature[:, None])
    normal: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normal


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is asked for, and the steps to it; every array is (workloads,)."""

    desired: Ints
    wanted: Floats
    """The mean of what the shadows ask for, or what a believed profile does."""
    added: Floats
    """What the profile added to it."""
    need: Floats
    """The same including the queue."""
    later: Floats
    foreseen: Floats


def _only_desired(state: FleetState, services: Services, tuning: Tuning) -> Ints:
    return _answer(state, services, tuning).desired


def _answer(state: FleetState, services: Services, tuning: Tuning) -> _Answer:
    """Decide from the state as it is."""
    features: Features = state.past[-1]
    unseen = state.load.seen == 0
    # What ran when the tick began: so a second question within a tick has the same answer.
    current = np.where(unseen, services.current, state.real.replicas[:, 0]).astype(np.float32)
    start = services.start_ticks.astype(np.float32)
    wanted = (state.weights * needs(features)[:, :CHOSEN]).sum(axis=1)
    added = np.zeros_like(wanted)
    if tuning.profiles:
        margin = (state.weights * MARGIN[:CHOSEN]).sum(axis=1)
        added = np.maximum(state.forecasts.need(margin=margin, mean=features.mean) - wanted, 0.0)
        wanted = wanted + added
    trending = (state.weights * _TRENDING).sum(axis=1)
    now = features.now[:, 0] + (features.now[:, 1] - features.now[:, 0]) * trending
    later = features.later[:, 0] + (features.later[:, 1] - features.later[:, 0]) * trending
    ready = state.real.ready[:, 0] - state.behind
    queue = np.maximum(state.realised.queue + (features.level - ready) * np.float32(TICK_S), 0.0)
    future = state.real.future(start[:, None])[:, 0] - state.behind * start * np.float32(0.5)
    foreseen = foreseen_backlog(queue=queue, now=now, later=later, start=start, future=future)
    # A single tick is no level: for the first minute only a queue that is there counts, and nothing is given back.
    infant = state.load.seen < LEVEL_TICKS
    foreseen = np.where(infant, np.minimum(foreseen, state.realised.queue), foreseen)
    target, need = order(
        wanted,
        queue=queue,
        foreseen=foreseen,
        later=later,
        current=current,
        minimum=services.minimum.astype(np.float32),
        maximum=np.minimum(services.maximum, MOST_REPLICAS).astype(np.float32),
        tuning=tuning,
    )
    holding = (state.unknown > 0) | (state.hand > 0) | infant
    target = np.where(holding, np.maximum(target, current), target)
    target = np.where(unseen | services.paused, current, target)
    desired = np.minimum(np.maximum(target.astype(np.int64), services.minimum), services.maximum)
    state.desired = desired
    return _Answer(desired=desired, wanted=wanted, added=added, need=need, later=later, foreseen=foreseen)


def _reasons(state: FleetState, services: Services, answer: _Answer) -> Ints:
    """Pick the strongest reason that holds."""
    age = state.load.seen
    held = [
        (services.paused, ScalerReason.PAUSED),
        ((age == 0) | (state.unknown >= UNKNOWN_TICKS), ScalerReason.UNKNOWN),
        ((answer.desired == services.maximum) & (answer.need > services.maximum), ScalerReason.AT_MAXIMUM),
        ((answer.desired == services.minimum) & (answer.wanted <= services.minimum), ScalerReason.AT_MINIMUM),
        ((answer.foreseen > 0.0) & (answer.need > answer.wanted), ScalerReason.QUEUE),
        (state.past[-1].collapsed, ScalerReason.COLLAPSED),
        (state.hand > 0, ScalerReason.BY_HAND),
        (age < YOUNG_HOURS * TICKS_PER_HOUR, ScalerReason.YOUNG),
    ]
    indices = [REASONS.index(reason) for _, reason in held]
    found: Ints = np.select([condition for condition, _ in held], indices, REASONS.index(ScalerReason.LEARNED))
    return found


def _explained(state: FleetState, services: Services, tuning: Tuning) -> FleetDecision:
    """Decide, and gather what explains it."""
    answer = _answer(state, services, tuning)
    floor = np.ceil(answer.wanted - np.float32(tuning.rounding)).astype(np.int64)
    floor = np.where(state.load.seen == 0, services.minimum, floor)
    cost, late, _ = _scores(state, services, tuning=tuning)
    work = state.shadows.work_sum
    measured = work / np.maximum(state.load.mean * np.float32(TICKS_PER_HOUR), _LEAST)
    what_if = (state.shadows.late_sum[:, CHOSEN:] / np.maximum(work, _LEAST)[:, None]).astype(np.float32)
    lowest = (state.shadows.late_sum[:, :CHOSEN] / np.maximum(work, _LEAST)[:, None]).min(axis=1)
    share = services.late_share.astype(np.float32)
    realised = state.realised.late_share(mean=state.load.mean, tuning=tuning)
    # Infeasible: no shadow keeps the budget, or the service itself does not although lateness is at its dearest.
    lost = (np.minimum(lowest, what_if[:, 0]) > share) | (realised > share)
    return FleetDecision(
        desired=answer.desired,
        floor=np.minimum(np.maximum(floor, services.minimum), answer.desired),
        reason=_reasons(state, services, answer),
        need=answer.need,
        weights=state.weights.copy(),
        cost=cost,
        late=late,
        measured=measured.astype(np.float32),
        hpa_target=state.references.best(late_share=share),
        forecast=answer.later,
        late_share=realised,
        late_budget=share,
        what_if_late=what_if,
        what_if_cost=(state.shadows.paid_sum[:, CHOSEN:] / np.maximum(work, _LEAST)[:, None]).astype(np.float32),
        infeasible=(measured > JUDGED_HOURS) & lost,
        mean=state.load.mean.copy(),
        outlook=state.forecasts.outlook(),
        forecast_added=answer.added,
    )
