"""The series of played engines, named and labelled as vLLM, SGLang and TGI name them, one pod after the other.

Gauges are one look at a moment: the batch strays around its mean as Poisson's law does, what does not fit waits.
Counters add up what the course says. Histograms take their mean from the course and their shape from a log-logistic
law (`_spread`), since a course has no single requests; the counts of buckets are whole and never fall. The rest of a
real page (`history_ballast`) is not played.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from optiinfra_sim.bounds import bounds
from optiinfra_sim.exposition import number
from optiinfra_sim.history_engine import normal_tail
from optiinfra_sim.history_fleet import STEP_S, Pod
from optiinfra_sim.history_series import Series, series
from optiinfra_sim.history_traffic import Array
from optiinfra_sim.settings import EngineKind

_spread: Final = {"first": 0.55, "token": 0.2, "whole": 0.6, "queue": 0.9}
"""Standard deviation of the logarithm."""
_PORTS: Final = {EngineKind.VLLM: 8000, EngineKind.SGLANG: 30000, EngineKind.TGI: 8080}


@dataclass(frozen=True)
class PodCourse:
    """One pod's share of its model's course, over the points at which it serves."""

    pod: Pod
    draw: np.random.Generator

    @property
    def _span(self) -> slice:
        return slice(self.pod.serving, self.pod.last)

    def part(self, values: Array) -> Array:
        """Return the pod's points of one of the model's courses."""
        return values[self._span]

    @cached_property
    def served(self) -> Array:
        """Requests a step."""
        mean = self.part(self.pod.model.course.served) * STEP_S
        return self.draw.poisson(mean).astype(np.float64)

    @cached_property
    def present(self) -> Array:
        """Requests in the engine at the moment of each scrape."""
        course = self.pod.model.course
        return self.draw.poisson(self.part(course.demand)).astype(np.float64) + np.round(self.part(course.queue))

    @cached_property
    def limit(self) -> Array:
        """Requests that fit at each scrape: lengths stray, so a pool holds now more, now less."""
        settings = self.pod.model.plan.settings
        limit = self.part(self.pod.model.course.limit)
        strays = limit < settings.max_num_seqs - 0.5
        noise = 1.0 + self.draw.normal(0.0, 0.05, len(limit)) * strays
        return np.clip(np.floor(limit * noise), 1.0, settings.max_num_seqs)

    @property
    def running(self) -> Array:
        """Requests in the batch."""
        return np.minimum(self.present, self.limit)

    @property
    def waiting(self) -> Array:
        """Requests that are not."""
        return self.present - self.running

    @cached_property
    def kv_tokens(self) -> Array:
        """Tokens of the pool that requests hold: the sum of so many requests of straying length."""
        settings = self.pod.model.plan.settings
        running = self.running
        noise = 1.0 + self.draw.normal(0.0, 0.4, len(running)) / np.sqrt(np.maximum(running, 1.0))
        held = running * self.part(self.pod.model.course.tokens_a_request) * np.maximum(noise, 0.1)
        # With requests waiting for blocks the pool is as full as it gets.
        capacity = float(settings.usable_blocks * settings.block_size)
        crowded = (self.waiting > 0) & (running < settings.max_num_seqs)
        return np.minimum(np.where(crowded, np.maximum(held, 0.93 * capacity), held), capacity)

    def counted(self, per_step: Array) -> Array:
        """Return a counter that begins at 0 when the pod begins to serve."""
        return np.floor(np.cumsum(per_step))

    def tokens(self, mean: Array) -> Array:
        """Tokens a step of so many requests of that mean length."""
        noise = 1.0 + self.draw.normal(0.0, 0.5, len(self.served)) / np.sqrt(np.maximum(self.served, 1.0))
        return self.served * self.part(mean) * np.maximum(noise, 0.1)


def engine_series(pod: Pod, *, seed: int) -> Iterator[Series]:
    """Yield what Prometheus has of one pod's engine; nothing of one that never served."""
    if pod.serving >= pod.last:
        return
    course = PodCourse(pod, np.random.default_rng((seed, *pod.name.encode())))
    plan = pod.model.plan
    kind = plan.settings.kind
    labels = {
        "cluster": plan.cluster,
        "namespace": plan.namespace,
        "pod": pod.name,
        "container": kind.value,
        "instance": f"{pod.address}:{_PORTS[kind]}",
        "job": f"{plan.namespace}/{plan.workload}",
    }
    made = {EngineKind.VLLM: _vllm, EngineKind.SGLANG: _sglang, EngineKind.TGI: _tgi}[kind]
    yield from made(course, labels)


def _one(course: PodCourse, name: str, labels: Mapping[str, str], values: Array) -> Series:
    return series(name, labels, values, first=course.pod.serving)


def _constant(course: PodCourse, value: float) -> Array:
    return np.full(course.pod.last - course.pod.serving, value)


def _vllm(course: PodCourse, labels: Mapping[str, str]) -> Iterator[Series]:
    settings = course.pod.model.plan.settings
    own = {**labels, "engine": "0", "model_name": settings.model_name}
    capacity = float(settings.usable_blocks * settings.block_size)
    traffic = course.pod.model.traffic
    prompts, answers = course.tokens(traffic.prompt_tokens), course.tokens(traffic.output_tokens)
    yield _one(course, "vllm:num_requests_running", own, course.running)
    yield _one(course, "vllm:num_requests_waiting", own, course.waiting)
    yield _one(course, "vllm:kv_cache_usage_perc", own, course.kv_tokens / capacity)
    for name, per_step in (
        ("prompt_tokens", prompts),
        ("generation_tokens", answers),
        ("num_preemptions", course.part(course.pod.model.course.preempted) * STEP_S),
        ("prefix_cache_queries", prompts),
        ("prefix_cache_hits", prompts * settings.prefix_hit_share),
        ("prompt_tokens_cached", prompts * settings.prefix_hit_share),
    ):
        yield _one(course, f"vllm:{name}_total", own, course.counted(per_step))
    aborted = course.part(course.pod.model.course.aborted) * STEP_S
    for reason, per_step in (
        ("stop", course.served),
        ("abort", aborted),
        ("length", 0 * aborted),
        ("error", 0 * aborted),
    ):
        name = "vllm:request_success_total"
        yield _one(course, name, {**own, "finished_reason": reason}, course.counted(per_step))
    tokens = settings.num_blocks * settings.block_size
    told = {
        "block_size": str(settings.block_size),
        "num_gpu_blocks": str(settings.num_blocks),
        "num_gpu_blocks_override": "None",
        "kv_cache_size_tokens": str(tokens),
        "kv_cache_max_concurrency": f"{tokens / settings.max_model_len:g}",
        "gpu_memory_utilization": f"{settings.gpu_memory_utilization:g}",
        "cache_dtype": "auto",
        "enable_prefix_caching": "True",
    }
    yield _one(course, "vllm:cache_config_info", {**labels, "engine": "0", **told}, _constant(course, 1.0))
    yield from _latencies(course, "vllm", own)
    for name, mean, per_step in (
        ("prompt", traffic.prompt_tokens, prompts),
        ("generation", traffic.output_tokens, answers),
    ):
        del mean
        yield _one(course, f"vllm:request_{name}_tokens_sum", own, course.counted(per_step))
        yield _one(course, f"vllm:request_{name}_tokens_count", own, course.counted(course.served))


def _latencies(course: PodCourse, prefix: str, labels: Mapping[str, str]) -> Iterator[Series]:
    settings = course.pod.model.plan.settings
    own = bounds(settings.kind, max_model_len=settings.max_model_len)
    model = course.pod.model.course
    step, wait, first = (course.part(one) for one in (model.step_s, model.wait_s, model.first_token_s))
    answers = course.part(course.pod.model.traffic.output_tokens)
    queue = "request_queue_time_seconds" if settings.kind is EngineKind.VLLM else "queue_time_seconds"
    served = course.served
    for name, mean, counts, edges, spread in (
        ("time_to_first_token_seconds", first, served, own.first_token, "first"),
        ("inter_token_latency_seconds", step, served * np.maximum(answers - 1.0, 0.0), own.inter_token, "token"),
        ("e2e_request_latency_seconds", first + answers * step, served, own.end_to_end, "whole"),
        (queue, wait, served, own.queue, "queue"),
    ):
        yield from _histogram(course, f"{prefix}:{name}", labels, mean, counts, edges, _spread[spread])


def _histogram(
    course: PodCourse,
    name: str,
    labels: Mapping[str, str],
    mean: Array,
    counts: Array,
    edges: tuple[float, ...],
    spread: float,
) -> Iterator[Series]:
    # A law of logarithms has its mean above its median.
    median = np.log(np.maximum(mean, 1e-6)) - spread**2 / 2
    for edge in edges:
        below = normal_tail((median - np.log(max(edge, 1e-9))) / spread)
        yield _one(course, f"{name}_bucket", {**labels, "le": number(edge)}, course.counted(counts * below))
    total = course.counted(counts)
    yield _one(course, f"{name}_bucket", {**labels, "le": "+Inf"}, total)
    yield _one(course, f"{name}_count", labels, total)
    yield _one(course, f"{name}_sum", labels, np.cumsum(counts * mean))


def _sglang(course: PodCourse, labels: Mapping[str, str]) -> Iterator[Series]:
    settings = course.pod.model.plan.settings
    model = course.pod.model
    frontend = {**labels, "engine_type": "unified", "model_name": settings.model_name}
    rank = {**frontend, "moe_ep_rank": "0", "pp_rank": "0", "tp_rank": "0"}
    capacity = float(settings.usable_blocks * settings.block_size)
    prompts, answers = course.tokens(model.traffic.prompt_tokens), course.tokens(model.traffic.output_tokens)
    used = course.kv_tokens
    for name, values in (
        ("num_running_reqs", course.running),
        ("num_queue_reqs", course.waiting),
        ("token_usage", used / capacity),
        ("num_used_tokens", np.round(used)),
        ("max_total_num_tokens", _constant(course, capacity)),
        ("gen_throughput", course.running / course.part(model.course.step_s)),
        ("cache_hit_rate", _constant(course, settings.prefix_hit_share)),
        ("num_retracted_reqs", _constant(course, 0.0)),
        ("page_size", _constant(course, float(settings.block_size))),
    ):
        yield _one(course, f"sglang:{name}", rank, values)
    stream = {**frontend, "is_streaming": "true"}
    for name, told, per_step in (
        ("prompt_tokens", stream, prompts),
        ("generation_tokens", stream, answers),
        ("cached_tokens", {**frontend, "cache_source": "device"}, prompts * settings.prefix_hit_share),
        ("num_requests", stream, course.served),
        ("num_aborted_requests", frontend, course.part(model.course.aborted) * STEP_S),
        ("num_retracted_requests", rank, course.part(model.course.preempted) * STEP_S),
        ("realtime_tokens", {**rank, "mode": "prefill_compute"}, prompts * (1 - settings.prefix_hit_share)),
        ("realtime_tokens", {**rank, "mode": "prefill_cache"}, prompts * settings.prefix_hit_share),
        ("realtime_tokens", {**rank, "mode": "decode"}, answers),
    ):
        yield _one(course, f"sglang:{name}_total", told, course.counted(per_step))
    yield from _latencies(course, "sglang", frontend)


def _tgi(course: PodCourse, labels: Mapping[str, str]) -> Iterator[Series]:
    settings = course.pod.model.plan.settings
    model = course.pod.model
    prompts, answers = course.tokens(model.traffic.prompt_tokens), course.tokens(model.traffic.output_tokens)
    capacity = float(settings.usable_blocks * settings.block_size)
    step, wait, first = (
        course.part(one) for one in (model.course.step_s, model.course.wait_s, model.course.first_token_s)
    )
    length = course.part(model.traffic.output_tokens)
    served = course.counted(course.served)
    for name, values in (
        ("batch_current_size", course.running),
        ("queue_size", course.waiting),
        ("batch_current_max_tokens", np.round(course.kv_tokens)),
        ("batch_max_total_tokens", _constant(course, capacity)),
        ("request_success", served),
        ("request_count", np.floor(served + course.present)),
        ("request_input_length_sum", course.counted(prompts)),
        ("request_input_length_count", served),
        ("request_generated_tokens_sum", course.counted(answers)),
        ("request_generated_tokens_count", served),
    ):
        yield _one(course, f"tgi_{name}", labels, values)
    own = bounds(EngineKind.TGI, max_model_len=settings.max_model_len)
    for name, mean, edges, spread in (
        ("request_queue_duration", wait, own.queue, "queue"),
        ("request_mean_time_per_token_duration", step, own.inter_token, "token"),
        ("request_duration", first + length * step, own.end_to_end, "whole"),
        ("request_inference_duration", first - wait + length * step, own.phase, "whole"),
    ):
        yield from _histogram(course, f"tgi_{name}", labels, mean, course.served, edges, _spread[spread])
