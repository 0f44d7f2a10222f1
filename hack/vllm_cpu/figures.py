"""Figures of a phase: from the engine's pages, read by the operator's own code, and from the clients beside them.

Means and maxima of gauges are over the pages; rates and quantiles are the operator's (differences between the first
and the last page). What was not measured stays unknown.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final

from hack.vllm_cpu.drive import Answer, Phase
from optiinfra.domain.readings import EngineReading, Signal, Unknown, UnknownReason, Value
from optiinfra.domain.signals import ServiceSignals, summarise
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.engines.page import read

STALE_AFTER: Final = Seconds(30.0)
_REPLICA: Final = "engine"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one phase showed. Times in seconds, rates per second."""

    running: Value
    running_max: Value
    waiting: Value
    kv_usage: Value
    kv_usage_max: Value
    preemptions: Value
    """While figures were taken."""
    preemption_rate: Value
    kv_cache_capacity: Value
    """Tokens."""
    generation_rate: Value
    queue_time_p95: Value
    inter_token_latency_p95: Value
    client_completed: int
    client_rate: float
    """Tokens per second of the requests that were completed."""
    client_first_token_mean: Value
    client_first_token_p95: Value
    client_latency_mean: Value
    client_latency_p95: Value
    engine_cores: float
    """CPU time that the engine had, per second; the machine may have had less for it than it wanted."""


def readings_of(phase: Phase) -> tuple[EngineReading, ...]:
    """Read the pages from which figures are taken."""
    return tuple(read(page.text, at=UnixTime(page.time)) for page in phase.pages[phase.joining :])


def figures_of(phase: Phase) -> Figures:
    """Return the figures of a phase."""
    readings = readings_of(phase)
    signals = _signals(readings)
    first = [one.first - one.sent for one in phase.answers]
    latency = [one.done - one.sent for one in phase.answers]
    return Figures(
        running=_mean(readings, Signal.REQUESTS_RUNNING),
        running_max=signals.running_max,
        waiting=_mean(readings, Signal.REQUESTS_WAITING),
        kv_usage=_mean(readings, Signal.KV_CACHE_USAGE),
        kv_usage_max=signals.kv_cache_usage_max,
        preemptions=_increase(readings, Signal.PREEMPTIONS),
        preemption_rate=signals.preemption_rate,
        kv_cache_capacity=signals.kv_cache_capacity_tokens,
        generation_rate=signals.generation_token_rate,
        queue_time_p95=signals.queue_time_p95,
        inter_token_latency_p95=signals.inter_token_latency_p95,
        client_completed=len(phase.answers),
        client_rate=_tokens(phase.answers) / phase.seconds,
        client_first_token_mean=mean_of(first),
        client_first_token_p95=p95_of(first),
        client_latency_mean=mean_of(latency),
        client_latency_p95=p95_of(latency),
        engine_cores=phase.engine_cores,
    )


def mean_of(values: list[float]) -> Value:
    """Return the mean of what clients saw."""
    return sum(values) / len(values) if values else _nothing_completed()


def p95_of(values: list[float]) -> Value:
    """Return the smallest value that at least 95 % do not exceed (nearest rank)."""
    return sorted(values)[ceil(0.95 * len(values)) - 1] if values else _nothing_completed()


def _nothing_completed() -> Unknown:
    return Unknown(UnknownReason.TOO_FEW_SAMPLES, "no request was completed")


def _signals(readings: tuple[EngineReading, ...]) -> ServiceSignals:
    now = readings[-1].time
    window = Seconds(now - readings[0].time)
    return summarise({_REPLICA: readings}, now=now, window=window, stale_after=STALE_AFTER, replicas_expected=1)


def _mean(readings: tuple[EngineReading, ...], signal: Signal) -> Value:
    values = [one.gauges[signal] for one in readings if signal in one.gauges]
    return sum(values) / len(values) if values else Unknown(UnknownReason.NOT_MEASURED, f"no page carries {signal}")


def _increase(readings: tuple[EngineReading, ...], signal: Signal) -> Value:
    values = [one.counters[signal] for one in readings if signal in one.counters]
    if len(values) < 2:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, f"less than two pages carry {signal}")
    return values[-1] - values[0]


def _tokens(answers: tuple[Answer, ...]) -> int:
    return sum(one.answer_tokens for one in answers)
