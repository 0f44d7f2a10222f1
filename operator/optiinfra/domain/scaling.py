"""How many replicas a service needs: saturation rules on measured load, plus a forecast that may only add.

Each rule answers alone, the largest answer wins, and every answer is kept so that people can argue. Growing follows
the need at once. Shrinking waits until the need was lower for the whole hold window, needs every replica's fresh word,
and must pass a what-if on the window's own peaks. A whole fleet is decided in one pass over arrays; one service is a
fleet of one. It refuses to make a number out of nothing: without load signals the answer is an `Unknown`. It does not
scale on latency or GPU use, which one busy request can drive, and knows no steps, cooldowns or windows: see `policy`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Direction, Evidence
from optiinfra.domain.forecast import STEPS, Array, Forecast, forecast_stacked
from optiinfra.domain.history import Column, FloatArray, LoadHistory, servable_waiting, stack
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Ratio, Seconds, UnixTime

SLOT_TARGET: Final = 0.7
"""Share of the batch slots that may be used: the rest takes what arrives between two looks."""
KV_TARGET: Final = 0.75
"""Share of the KV cache that may be used; engines begin to preempt near 1."""
STABLE_SHARE: Final = 0.9
"""Share of the measured service rate that arrivals may take while a queue is there."""
FULL_SHARE: Final = 0.9
"""Share of the batch limit, or of the KV cache, from which a replica counts as full."""
DRAIN_DELAYS: Final = 4.0
"""A backlog is cleared within this many times the queue objective: 40 s at 10 s was the best of those tried."""
ROUNDING_SLACK: Final = 0.15
"""Replicas: growing starts this far above a whole number, shrinking this far below, so that noise does not flap."""
SHRINK_SLACK: Final = 0.05
"""Share added to the held need before shrinking to it, at least."""
SCATTER_SLACK: Final = 2.0
"""The same in standard deviations of the load, where they are more."""
STALE_AFTER: Final = Seconds(60.0)
DEFAULT_HOLD: Final = Seconds(180.0)
_LONGEST_PAUSE: Final = Seconds(600.0)
_MOST_PEAKS: Final = 64
_SCATTER_STEPS: Final = 80
_LEAST: Final = 1e-6
"""Rates and loads below this are nothing: dividing by them says nothing either."""
_CHUNK: Final = 256


class Rule(StrEnum):
    """Which rule decided; the reason code of a decision."""

    QUEUE_DRAIN = "QueueDrain"
    """Waiting requests could not be cleared in time by what runs and starts."""
    BATCH_SLOTS = "BatchSlots"
    """Requests in flight fill the batch slots."""
    KV_CACHE = "KVCache"
    """Requests in flight fill the KV cache."""
    FORECAST = "Forecast"
    """The load expected once a new replica is ready."""
    STEADY = "Steady"
    """The need is what runs."""
    HOLD = "Hold"
    """Less would do now, but shrinking is not shown to be safe yet; the message says why."""
    SURPLUS = "Surplus"
    """Less has been enough for the whole hold window, and would have served its peaks."""
    AT_MINIMUM = "AtMinimum"
    AT_MAXIMUM = "AtMaximum"


NEED_RULES: Final = (Rule.QUEUE_DRAIN, Rule.BATCH_SLOTS, Rule.KV_CACHE, Rule.FORECAST)


@dataclass(frozen=True, slots=True)
class NeedMemory:
    """Needs of the hold window, in replicas; hand it back with the next input, it fits a checkpoint."""

    since: UnixTime
    """Since when needs were noted without a long pause."""
    last: UnixTime
    peaks: tuple[tuple[UnixTime, float], ...]
    """(time, need), oldest first and falling: the first is the peak of the window."""


@dataclass(frozen=True, slots=True)
class ScalingInput:
    """Everything a decision about one workload rests on."""

    signals: ServiceSignals
    settings: EngineSettings
    history: LoadHistory
    current: int
    """Replicas asked for now (spec)."""
    ready: int
    starting: int
    """Pods that are pending or not ready yet."""
    minimum: int
    maximum: int
    start_up: Seconds
    """From asking for a replica until it serves."""
    objectives: Objectives = Objectives()
    memory: NeedMemory | None = None
    """From the previous decision; None at first and after a restart, which holds for one window."""
    hold: Seconds = DEFAULT_HOLD
    stale_after: Seconds = STALE_AFTER
    forecast_enabled: bool = True
    current_floor: int = 0
    """minReplicas held now (Floor actuation); it only falls when shrinking is shown to be safe."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """What one rule alone would ask for."""

    rule: Rule
    replicas: int


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """How many replicas, why, and what else was considered."""

    desired: int
    current: int
    floor: int
    """minReplicas for Floor actuation: the need alone, without what merely is not safe to give back yet."""
    rule: Rule
    message: str
    confidence: Ratio
    evidence: tuple[Evidence, ...]
    alternatives: tuple[Alternative, ...]
    forecast: Forecast | Unknown
    need: float
    """The largest need of all rules, unrounded and unbounded."""
    held: float
    """The largest need of the hold window."""
    shrink_blocked: tuple[str, ...]
    """Why it may not shrink now; empty when it may."""
    memory: NeedMemory

    @property
    def direction(self) -> Direction:
        """Which way the decision goes."""
        if self.desired == self.current:
            return Direction.NONE
        return Direction.SCALE_UP if self.desired > self.current else Direction.SCALE_DOWN

    @property
    def lower(self) -> int:
        """Fewest replicas that the need of the window allows; a bound for recommendations."""
        return min(self.desired, max(1, math.ceil(self.held - ROUNDING_SLACK)))

    @property
    def upper(self) -> int:
        """Most replicas that any rule asks for."""
        return max([self.desired, *(alternative.replicas for alternative in self.alternatives)])


def decide(inputs: Sequence[ScalingInput], *, now: UnixTime) -> tuple[ScalingDecision | Unknown, ...]:
    """Decide for a fleet; the order of the inputs is kept."""
    results: list[ScalingDecision | Unknown] = []
    for first in range(0, len(inputs), _CHUNK):
        part = inputs[first : first + _CHUNK]
        needs = _Needs.of(part, now=now)
        results += [_decide_one(given, needs, index, now=now) for index, given in enumerate(part)]
    return tuple(results)


@dataclass(frozen=True, slots=True)
class _Needs:
    """What each rule says for each workload, in replicas; NaN where a rule cannot speak."""

    by_rule: Array
    """(rule, workload), in the order of NEED_RULES."""
    batch_limit: Array
    inferred: Array
    """1 where the batch limit is a plateau seen in the history."""
    service_rate: Array
    """Requests per second that one busy replica was measured to serve."""
    peak: Array
    """What the peaks of the signals' window need: the what-if."""
    scatter: Array
    """How far the load strays from its own minute, as a share of it."""
    forecasts: list[Forecast | Unknown] = field(default_factory=list)

    @classmethod
    def of(cls, inputs: Sequence[ScalingInput], *, now: UnixTime) -> "_Needs":
        signals = [given.signals for given in inputs]
        stacked = stack([given.history for given in inputs], now=now, steps=STEPS)
        running, waiting = _column(signals, "running"), _waiting(signals)
        reporting = np.array([float(s.replicas_reporting) for s in signals])
        limit, inferred = _batch_limits(inputs, stacked[Column.RUNNING], stacked[Column.WAITING], stacked[Column.READY])
        slots = limit * SLOT_TARGET
        share = _waiting_share(inputs, running)
        kv_mean = _column(signals, "kv_cache_usage_mean")
        # A waiting request holds no KV cache yet; it is taken to want as much as a running one.
        kv_per_running = np.divide(kv_mean * reporting, running, out=np.zeros_like(running), where=running > _LEAST)
        by_kv = (kv_mean * reporting + kv_per_running * np.nan_to_num(waiting * share)) / KV_TARGET
        by_slots = (running + waiting * share) / slots
        by_drain, service_rate = _drain(inputs, stacked[Column.WORK_RATE], stacked[Column.READY], limit=limit)
        forecasts: list[Forecast | Unknown] = forecast_stacked(
            stacked,
            steps=[i.history.step for i in inputs],
            horizons=[i.start_up for i in inputs],
            waiting_weights=share,
        )
        expected = np.full(len(inputs), np.nan)
        for index, (given, seen) in enumerate(zip(inputs, forecasts, strict=True)):
            if not given.forecast_enabled:
                forecasts[index] = Unknown(UnknownReason.NOT_CONFIGURED, "the forecast is turned off")
            elif isinstance(seen, Forecast) and seen.active and seen.slope > 0.0:
                by_load = seen.value / slots[index]
                # Below one request in flight a ratio says nothing.
                by_ratio = by_kv[index] * seen.growth if seen.last >= 1.0 else math.nan
                expected[index] = np.fmax(by_load, by_ratio)
        peak_flight = _column(signals, "running_max") + _column(signals, "waiting_max")
        peak_kv = _column(signals, "kv_cache_usage_max") * reporting
        return cls(
            by_rule=np.stack([by_drain, by_slots, by_kv, expected]),
            batch_limit=limit,
            inferred=inferred,
            service_rate=service_rate,
            peak=np.fmax(peak_flight / slots, peak_kv / KV_TARGET),
            scatter=_scatter(stacked),
            forecasts=forecasts,
        )


def _waiting_share(inputs: Sequence[ScalingInput], running: Array) -> Array:
    """Slots that one waiting request asks for: clearing it in time needs only a part of a slot's time.

    A request holds its slot for running / rate seconds; without a rate it counts in full.
    """
    rate = _column([given.signals for given in inputs], "request_rate")
    held = np.divide(running, rate, out=np.full_like(running, np.nan), where=(rate > _LEAST) & (running > _LEAST))
    share = held / np.array([_drain_span(given) for given in inputs])
    return np.where(np.isnan(share), 1.0, np.clip(share, 0.0, 1.0))


def _drain_span(given: ScalingInput) -> float:
    return max(1.0, DRAIN_DELAYS * given.objectives.queue_delay)


def _scatter(stacked: FloatArray) -> Array:
    """Standard deviation of the load around its minute in the last twenty minutes, as a share; 0 while not known."""
    load = (stacked[Column.RUNNING] + stacked[Column.WAITING])[:, -_SCATTER_STEPS:].astype(np.float64)
    level = sum(load[:, offset : offset + load.shape[1] - 3] for offset in range(4)) / 4.0
    known = np.isfinite(level)
    away = np.where(known, load[:, 3:] - level, 0.0)
    count = known.sum(axis=1)
    mean = np.where(known, level, 0.0).sum(axis=1) / np.maximum(count, 1)
    deviation = np.sqrt((away**2).sum(axis=1) / np.maximum(count, 1))
    return np.where(mean > 0.0, deviation / np.maximum(mean, 1e-9), 0.0)


def _column(signals: Sequence[ServiceSignals], name: str) -> Array:
    return _array([getattr(signal, name) for signal in signals])


def _waiting(signals: Sequence[ServiceSignals]) -> Array:
    return _array([servable_waiting(signal) for signal in signals])


def _array(values: Sequence[Value]) -> Array:
    return np.array([math.nan if isinstance(value, Unknown) else value for value in values], dtype=np.float64)


def _batch_limits(inputs: Sequence[ScalingInput], running: Array, waiting: Array, ready: Array) -> tuple[Array, Array]:
    """Batch limit of a replica: given, else the plateau of running seen while requests waited, else NaN."""
    limit = np.array(
        [math.nan if isinstance(i.settings.batch_limit, Unknown) else i.settings.batch_limit for i in inputs]
    )
    limit = np.where(limit >= 1.0, limit, np.nan)
    given_source = np.array([given.settings.batch_limit_source == "inferred" for given in inputs])
    queued = (waiting >= 1.0) & (ready >= 1.0) & np.isfinite(running)
    plateau = np.where(queued, running / np.where(ready >= 1.0, ready, 1.0), 0.0).max(axis=1)
    now_waiting = _waiting([given.signals for given in inputs])
    now_plateau = _column([given.signals for given in inputs], "running_per_replica_max")
    plateau = np.fmax(plateau, np.where(now_waiting >= 1.0, now_plateau, 0.0))
    inferred = (np.isnan(limit) & (plateau >= 1.0)) | given_source
    return np.where(np.isnan(limit), np.where(plateau >= 1.0, plateau, np.nan), limit), inferred.astype(np.float64)


def _drain(inputs: Sequence[ScalingInput], work: Array, ready: Array, *, limit: Array) -> tuple[Array, Array]:
    """Replicas that clear the backlog which would be there when one asked for now is ready."""
    signals = [given.signals for given in inputs]
    reporting = np.array([float(s.replicas_reporting) for s in signals])
    waiting = _waiting(signals)
    rate = _column(signals, "request_rate")
    work_rate = _column(signals, "work_rate")
    now_each = np.divide(rate, reporting, out=np.full_like(rate, np.nan), where=reporting > 0.0)
    # A window that is mostly idle shows a low rate. The best hour of the history is nearer to what a replica can do.
    per_replica = np.where((ready >= 1.0) & np.isfinite(work), work / np.where(ready >= 1.0, ready, 1.0), 0.0)
    best_work = per_replica.max(axis=1)
    known = (rate > _LEAST) & (work_rate > _LEAST) & (best_work > 0.0)
    best_each = np.divide(best_work * rate, work_rate, out=np.full_like(rate, np.nan), where=known)
    each = np.fmax(now_each, best_each)
    each = np.where(each > _LEAST, each, np.nan)
    arrivals = np.maximum(rate + np.nan_to_num(_column(signals, "waiting_slope")), 0.0)
    start_up = np.array([float(i.start_up) for i in inputs])
    serving = np.array([float(i.ready) for i in inputs])
    starting = np.array([float(i.starting) for i in inputs])
    # Replicas that start already become ready on the way: half the time on average.
    backlog = waiting + arrivals * start_up - (serving + starting / 2.0) * each * start_up
    span = np.array([_drain_span(given) for given in inputs])
    need = (arrivals / STABLE_SHARE + np.maximum(backlog, 0.0) / span) / each
    # While a replica has room, who waits is being taken in by the next step; and after idleness the first answers lag
    # the first arrivals, so that a replica looks slow. Only what is full can have a backlog.
    highest, full_kv = _column(signals, "running_per_replica_max"), _column(signals, "kv_cache_usage_max")
    full = ~(highest < FULL_SHARE * limit) | (full_kv >= FULL_SHARE)
    late = (waiting >= 1.0) & (backlog > 0.0) & full
    return np.where(np.isnan(need), np.nan, np.where(late, need, 0.0)), each


def _decide_one(given: ScalingInput, needs: _Needs, index: int, *, now: UnixTime) -> ScalingDecision | Unknown:
    signals = given.signals
    if signals.replicas_reporting <= 0:
        return Unknown(UnknownReason.UNREACHABLE, f"none of {signals.replicas_expected} replicas reports")
    if now - signals.time > given.stale_after:
        return Unknown(UnknownReason.STALE, f"the load was last measured {now - signals.time:.0f} s ago")
    by_rule = needs.by_rule[:, index]
    measured = by_rule[1:3]
    if np.isnan(measured).all():
        return _nothing_known(signals)
    need = float(np.nanmax(by_rule))
    rule = NEED_RULES[int(np.nanargmax(by_rule))]
    memory = _remember(given.memory, need, now=now, hold=given.hold)
    held = memory.peaks[0][1]
    grown = math.ceil(need - ROUNDING_SLACK)
    blocked = _shrink_blocks(given, memory, now=now)
    what_if = 0 if math.isnan(needs.peak[index]) else math.ceil(needs.peak[index] - 1e-9)
    scatter = float(needs.scatter[index])
    lowest = max(_with_slack(held, scatter), what_if)
    if grown > given.current:
        desired = grown
    elif blocked or lowest >= given.current:
        desired = given.current
        rule = Rule.STEADY if _with_slack(need, scatter) >= given.current else Rule.HOLD
    else:
        desired, rule = lowest, Rule.SURPLUS
    bounded = min(max(desired, given.minimum), given.maximum)
    if bounded < desired:
        rule = Rule.AT_MAXIMUM
    elif bounded > desired or (bounded == given.minimum and rule in (Rule.STEADY, Rule.HOLD) and grown <= bounded):
        rule = Rule.AT_MINIMUM
    floor = min(max(math.ceil(held - ROUNDING_SLACK), given.minimum), given.maximum)
    return ScalingDecision(
        desired=bounded,
        current=given.current,
        floor=max(floor, min(given.current_floor, given.maximum)) if blocked else floor,
        rule=rule,
        message=_message(given, needs, index, rule=rule, desired=bounded, wanted=desired, held=held, blocked=blocked),
        confidence=_confidence(given, needs, index, rule=rule),
        evidence=_evidence(given, needs, index),
        alternatives=tuple(
            Alternative(name, max(0, math.ceil(value - ROUNDING_SLACK)))
            for name, value in zip(NEED_RULES, by_rule.tolist(), strict=True)
            if not math.isnan(value)
        ),
        forecast=needs.forecasts[index],
        need=need,
        held=held,
        shrink_blocked=blocked,
        memory=memory,
    )


def _with_slack(need: float, scatter: float) -> int:
    """Replicas to shrink to for a need, so that the load's own noise does not at once ask for more again."""
    slack = max(SHRINK_SLACK, SCATTER_SLACK * min(scatter, 1.0))
    return math.ceil(need * (1.0 + slack) + ROUNDING_SLACK) if need > 0.0 else 0


def _nothing_known(signals: ServiceSignals) -> Unknown:
    """Say which signal was missing, with the reason that its source gave."""
    for name in ("running", "waiting", "kv_cache_usage_mean"):
        value: Value = getattr(signals, name)
        if isinstance(value, Unknown):
            return Unknown(value.reason, f"{name}: {value.detail or value.reason}")
    return Unknown(UnknownReason.NOT_MEASURED, "neither the batch limit nor the KV cache usage is known")


def _remember(memory: NeedMemory | None, need: float, *, now: UnixTime, hold: Seconds) -> NeedMemory:
    """Add a need to the window's falling peaks; a pause longer than the window begins it anew."""
    if memory is None or now < memory.last or now - memory.last > max(hold, _LONGEST_PAUSE):
        return NeedMemory(since=now, last=now, peaks=((now, need),))
    kept = [(time, peak) for time, peak in memory.peaks if now - time <= hold and peak > need]
    # Dropping the youngest of too many peaks keeps the window's maximum true and only shrinks later.
    peaks = (*kept[: _MOST_PEAKS - 1], (now, need))
    return NeedMemory(since=memory.since, last=now, peaks=peaks)


def _shrink_blocks(given: ScalingInput, memory: NeedMemory, *, now: UnixTime) -> tuple[str, ...]:
    signals, promised = given.signals, given.objectives
    reasons = []
    if signals.replicas_reporting < signals.replicas_expected:
        reasons.append(f"{signals.replicas_reporting} of {signals.replicas_expected} replicas report")
    if given.starting > 0 or given.ready < given.current:
        reasons.append(f"{given.ready} of {given.current} replicas are ready, {given.starting} start")
    waiting = servable_waiting(signals)
    if isinstance(signals.running, Unknown) or isinstance(waiting, Unknown):
        reasons.append("requests in flight are not known")
    elif waiting >= max(1, signals.replicas_reporting):
        reasons.append(f"{waiting:.0f} requests wait")
    if now - memory.since < given.hold:
        reasons.append(f"load is known for {now - memory.since:.0f} of {given.hold:.0f} s")
    for name, value, limit in (
        ("time to first token", signals.time_to_first_token_p95, promised.time_to_first_token_p95),
        ("inter-token latency", signals.inter_token_latency_p95, promised.inter_token_latency_p95),
        ("queue time", signals.queue_time_p95, promised.queue_delay),
    ):
        if not isinstance(value, Unknown) and value > limit:
            reasons.append(f"{name} p95 is {value:.3g} s, more than {limit:.3g} s")
    return tuple(reasons)


def _message(
    given: ScalingInput,
    needs: _Needs,
    index: int,
    *,
    rule: Rule,
    desired: int,
    wanted: int,
    held: float,
    blocked: tuple[str, ...],
) -> str:
    signals = given.signals
    seen = needs.forecasts[index]
    load = (
        f"{_text(signals.running)} requests run, {_text(signals.waiting)} wait on {signals.replicas_reporting} replicas"
    )
    match rule:
        case Rule.QUEUE_DRAIN:
            why = f"one serves {needs.service_rate[index]:.3g} requests/s, {given.starting} start"
            why += f", start-up takes {given.start_up:.0f} s"
        case Rule.BATCH_SLOTS:
            why = f"{needs.batch_limit[index]:.0f} slots each, at most {SLOT_TARGET:.0%} to be used"
        case Rule.KV_CACHE:
            used = signals.kv_cache_usage_mean
            share = str(used) if isinstance(used, Unknown) else f"{used:.0%}"
            why = f"KV cache {share} used on average, at most {KV_TARGET:.0%} to be"
        case Rule.FORECAST if isinstance(seen, Forecast):
            why = f"{seen.last:.0f} in flight become {seen.value:.0f} in {seen.horizon:.0f} s"
            why += f" (margin {seen.margin:.0f}, error {seen.error:.0%})"
        case Rule.SURPLUS:
            why = f"at most {held:.2f} replicas were needed in {given.hold:.0f} s"
        case Rule.HOLD:
            why = "; ".join(blocked) if blocked else f"up to {held:.2f} replicas were needed in {given.hold:.0f} s"
        case Rule.AT_MAXIMUM:
            why = f"{wanted} would be needed, the maximum is {given.maximum}"
        case Rule.AT_MINIMUM:
            why = f"{held:.2f} were needed, the minimum is {given.minimum}"
        case _:
            why = f"{held:.2f} replicas were needed in {given.hold:.0f} s"
    return f"{desired} replicas ({rule}): {load}; {why}"


def _text(value: Value) -> str:
    return "an unknown number" if isinstance(value, Unknown) else f"{value:.0f}"


def _confidence(given: ScalingInput, needs: _Needs, index: int, *, rule: Rule) -> Ratio:
    """How far to trust it: all replicas heard, limits read rather than inferred, forecast with a small error."""
    signals = given.signals
    trust = min(1.0, signals.replicas_reporting / max(1, signals.replicas_expected))
    if math.isnan(needs.batch_limit[index]):
        trust *= 0.6
    else:
        trust *= 0.75 if needs.inferred[index] else 0.95
    seen = needs.forecasts[index]
    if rule is Rule.FORECAST and isinstance(seen, Forecast):
        trust *= max(0.3, 1.0 - seen.error)
    return Ratio(round(trust, 3))


def _evidence(given: ScalingInput, needs: _Needs, index: int) -> tuple[Evidence, ...]:
    signals = given.signals
    now = Seconds(0.0)
    facts = [
        Evidence("requests_running", signals.running, "", now, "engine", "sum"),
        Evidence("requests_waiting", signals.waiting, "", now, "engine", "sum"),
        Evidence("kv_cache_usage", signals.kv_cache_usage_mean, "ratio", now, "engine", "mean"),
    ]
    if not math.isnan(needs.batch_limit[index]):
        source = "derived" if needs.inferred[index] else "engine"
        facts.append(Evidence("batch_limit", float(needs.batch_limit[index]), "", now, source))
    if not math.isnan(needs.service_rate[index]):
        rate = float(needs.service_rate[index])
        facts.append(Evidence("replica_service_rate", rate, "requests/s", signals.window, "derived", "max"))
    seen = needs.forecasts[index]
    if isinstance(seen, Forecast):
        facts.append(Evidence("requests_in_flight_forecast", seen.value, "", seen.horizon, "derived", "p80"))
    return tuple(facts)
