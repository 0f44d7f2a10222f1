"""A model's past cut into windows of an hour, each as the signals that the operator's own rules look at.

The rules on bottlenecks, batches and KV caches judge one window of a service's pages. A metrics server keeps means of
steps instead of pages, so that a window here is made of steps: "now" is the window's median, which is what held for
most of it, and its highest and mean values are those of the steps. A burst shorter than a step is not in them. What
no step of a window tells is unknown in that window.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.report.crowds import ceiling, found_by_waiting, joined
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import LATE_FIRST_TOKEN_S, LATE_TOKEN_S, Course, GpuHistory, ModelHistory
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.units import Seconds, UnixTime

HOUR_S: Final = 3600.0
LATE: Final = 0.05
"""What a 95th percentile leaves above itself."""
_NOT_THEN: Final = Unknown(UnknownReason.NOT_MEASURED, "not measured in this hour")


@dataclass(frozen=True, slots=True)
class Hour:
    """One window of one model."""

    signals: ServiceSignals
    surroundings: Surroundings
    points: slice
    """Of the grid."""


class Cut:
    """Cuts courses into windows of equally many steps that end at whole hours; the first and the last may be shorter.

    What is asked by the hour is told of such hours: windows across two of them would put the batches of one hour beside
    the step times of another, and no fit of the one to the other holds then.
    """

    def __init__(self, times: FloatArray, *, step_s: float, span_s: float = HOUR_S) -> None:
        self.width = max(1, round(span_s / step_s))
        self._points = len(times)
        first = float(times[0]) if len(times) else 0.0
        # Steps of the first window that lie before the grid.
        self._early = self.width - 1 - round((-first % span_s) / step_s) if self.width * step_s == span_s else 0
        self.count = -(-(self._early + self._points) // self.width)

    def slices(self) -> list[slice]:
        """Return the steps of each window."""
        begins = [at * self.width - self._early for at in range(self.count)]
        return [slice(max(at, 0), min(at + self.width, self._points)) for at in begins]

    def joined(self, course: Course, join: Callable[..., FloatArray]) -> FloatArray:
        """Return one value a window, (windows,), NaN where none is known; `join` is nanmean, nanmax ..."""
        if isinstance(course, Unknown):
            return np.full(self.count, np.nan)
        short = self.count * self.width - self._early - self._points
        rows = np.pad(course, (self._early, short), constant_values=np.nan).reshape(self.count, self.width)
        with warnings.catch_warnings():
            # A window without any value is NaN here and unknown outside: that is what is wanted.
            warnings.simplefilter("ignore", RuntimeWarning)
            values: FloatArray = join(rows, axis=1)
        return values


def value_of(number: float, course: Course) -> Value:
    """Return a window's number, or why there is none."""
    if isinstance(course, Unknown):
        return course
    return float(number) if np.isfinite(number) else _NOT_THEN


def hours_of(
    model: ModelHistory, gpus: Sequence[GpuHistory], times: FloatArray, *, step_s: float, span_s: float = HOUR_S
) -> tuple[Hour, ...]:
    """Return the windows of a model in which it had replicas, oldest first."""
    cut = Cut(times, step_s=step_s, span_s=span_s)
    load, config = model.load, model.config

    def told(course: Course, join: Callable[..., FloatArray] = np.nanmean) -> list[Value]:
        return [value_of(one, course) for one in cut.joined(course, join)]

    replicas = cut.joined(model.replicas, np.nanmedian)
    serving = cut.joined(model.serving, np.nanmedian)
    slopes = _slopes(load.waiting, cut, step_s=step_s)
    columns = {
        "running": told(load.running, np.nanmedian),
        "waiting": told(load.waiting, np.nanmedian),
        "waiting_slope": [value_of(one, load.waiting) for one in slopes],
        "waiting_max": told(_highest(load.waiting_highest, load.waiting), np.nanmax),
        "running_max": told(load.running, np.nanmax),
        "running_per_replica_max": told(load.running_highest, np.nanmax),
        "kv_cache_usage": told(_highest(load.kv_usage_highest, load.kv_usage), np.nanmedian),
        "kv_cache_usage_mean": told(load.kv_usage),
        "kv_cache_usage_max": told(_highest(load.kv_usage_highest, load.kv_usage), np.nanmax),
        "request_rate": told(load.requests),
        "prompt_token_rate": told(load.prompt_tokens),
        "generation_token_rate": told(load.generation_tokens),
        "work_rate": told(load.work),
        "preemption_rate": told(load.preemptions),
        "prefix_hit_ratio": told(load.prefix_hit_ratio),
        "lmcache_hit_ratio": told(load.external_hit_ratio),
        "external_hit_ratio": told(load.external_hit_ratio),
        "time_to_first_token_p95": _p95(load.ttft_late, load.ttft_p95, cut, bound=LATE_FIRST_TOKEN_S),
        "time_to_first_token_mean": told(load.ttft_mean),
        "inter_token_latency_p95": _p95(load.itl_late, load.itl_p95, cut, bound=LATE_TOKEN_S),
        "inter_token_latency_mean": told(load.itl_mean),
        "queue_time_mean": told(load.queue_mean),
        "request_latency_mean": told(load.latency_mean),
        "prompt_tokens_mean": told(load.prompt_length_mean),
        "generation_tokens_mean": told(load.generation_length_mean),
        "rejection_rate": told(load.rejected),
        "failure_rate": told(load.failed),
        "abort_rate": told(load.aborted),
        "kv_cache_reserved": told(load.kv_reserved),
        "busy_share": _shares(load.running, cut),
        "waiting_share": _shares(load.waiting, cut),
        "prompt_computed_rate": told(_computed(load.prompt_tokens, load.prefix_hit_ratio)),
        "running_when_waiting": joined(*found_by_waiting(load, model.serving), cut.slices()),
        "running_mean": _each(cut.joined(load.running, np.nanmean), serving, load.running),
    }
    around = _surroundings(gpus, cut)
    found = []
    for index, points in enumerate(cut.slices()):
        ready = serving[index] if np.isfinite(serving[index]) else 0.0
        expected = replicas[index] if np.isfinite(replicas[index]) else ready
        if ready < 0.5:
            continue
        signals = ServiceSignals(
            time=UnixTime(float(times[points.stop - 1])),
            window=Seconds((points.stop - points.start) * step_s),
            replicas_expected=round(max(expected, 1.0)),
            replicas_reporting=round(max(ready, 1.0)),
            kv_cache_capacity_tokens=config.kv_capacity_tokens,
            queue_time_p95=Unknown(UnknownReason.NOT_MEASURED, "not asked for"),
            request_latency_p95=Unknown(UnknownReason.NOT_MEASURED, "not asked for"),
            **{name: values[index] for name, values in columns.items()},
        )
        found.append(Hour(signals, around[index], points))
    return tuple(found)


def settings_of(model: ModelHistory) -> EngineSettings:
    """Return what the pages say of the engine's settings; arguments are not on a metrics server."""
    config = model.config
    limit, source = config.batch_limit, "page"
    if isinstance(limit, Unknown):
        limit, source = ceiling(model.load, missing=limit), "inferred"
    kind, version = (model.engines[0][0], model.engines[0][1].text) if model.engines else (None, "")
    return EngineSettings(
        engine=Unknown(UnknownReason.NOT_MEASURED, "no page tells its engine") if kind is None else kind,
        version=version,
        batch_limit=limit,
        batch_limit_source="" if isinstance(limit, Unknown) else source,
        gpu_memory_share=config.memory_share,
        kv_cache_capacity_tokens=config.kv_capacity_tokens,
        kv_cache_dtype="" if isinstance(config.cache_dtype, Unknown) else config.cache_dtype,
        prefix_caching=config.prefix_caching,
        block_size=config.block_size,
        kv_blocks=config.gpu_blocks,
    )


def _p95(late: Course, last_day: Value, cut: Cut, *, bound: float) -> list[Value]:
    """Return a 95th percentile for each window, from the share that was later than a bound and the last day's p95.

    Where more than a twentieth was later, the percentile lies above the bound, and the bound itself is told: the least
    that it can be. Else it lies below, and is told where that of the last day does too; else how far is not known.
    """
    above = bound * 1.001
    if isinstance(late, Unknown):
        return [last_day] * cut.count
    below = Unknown(UnknownReason.NOT_MEASURED, f"below {bound:g} s, and not told how far")
    usual: Value = last_day if isinstance(last_day, Unknown) or last_day <= bound else below
    told: list[Value] = []
    for share in cut.joined(late, np.nanmean):
        if not np.isfinite(share):
            told.append(_NOT_THEN)
        else:
            told.append(above if share > LATE else usual)
    return told


def _computed(prompts: Course, hits: Course) -> Course:
    """Return the prompt tokens that no cache held; unknown where the engine does not tell what its cache held."""
    if isinstance(prompts, Unknown):
        return prompts
    if isinstance(hits, Unknown):
        return hits
    computed: FloatArray = prompts * (1.0 - np.clip(hits, 0.0, 1.0))
    return computed


def _highest(best: Course, other: Course) -> Course:
    return other if isinstance(best, Unknown) else best


def _shares(course: Course, cut: Cut) -> list[Value]:
    """Share of the known steps of each window in which something was above half a request."""
    if isinstance(course, Unknown):
        return [course] * cut.count
    above = np.where(np.isfinite(course), (course >= 0.5).astype(np.float64), np.nan)
    return [value_of(one, course) for one in cut.joined(above, np.nanmean)]


def _each(total: FloatArray, replicas: FloatArray, course: Course) -> list[Value]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return [value_of(one, course) for one in total / np.maximum(replicas, 1.0)]


def _slopes(course: Course, cut: Cut, *, step_s: float) -> FloatArray:
    """Change per second over each window, by its first and last quarter."""
    if isinstance(course, Unknown) or cut.width < 4:
        return np.zeros(cut.count) if not isinstance(course, Unknown) else np.full(cut.count, np.nan)
    part = max(1, cut.width // 4)

    def ends(rows: FloatArray, axis: int) -> FloatArray:
        first, last = np.nanmean(rows[:, :part], axis=axis), np.nanmean(rows[:, -part:], axis=axis)
        change: FloatArray = (last - first) / ((cut.width - part) * step_s)
        return change

    return cut.joined(course, ends)


def _surroundings(gpus: Sequence[GpuHistory], cut: Cut) -> list[Surroundings]:
    """Means over the model's GPUs, for each window."""

    def mean(pick: Callable[[GpuHistory], Course]) -> list[Value]:
        known = [course for one in gpus if not isinstance(course := pick(one), Unknown)]
        if not known:
            return [Unknown(UnknownReason.NOT_MEASURED, "its GPUs are not measured so")] * cut.count
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # steps that no GPU measured stay NaN
            joined: FloatArray = np.nanmean(np.stack(known), axis=0)
        return [value_of(one, joined) for one in cut.joined(joined, np.nanmean)]

    columns = zip(
        mean(lambda one: one.utilization),
        mean(lambda one: one.sm_active),
        mean(lambda one: one.tensor_active),
        mean(lambda one: one.dram_active),
        strict=True,
    )
    return [
        Surroundings(gpu_utilization=use, gpu_sm_active=active, gpu_tensor_active=tensor, gpu_dram_active=memory)
        for use, active, tensor, memory in columns
    ]
