"""Which engine the second judge simulates, and what one replica of it serves at the objective.

Limits and costs follow from the datasheet of the GPU and the shape of the model, by the roofline that is written here;
they are plausible, not measured on such a GPU. A replica's capacity C is measured on the simulated engines themselves:
the largest rate of Poisson arrivals of the trace's own requests at which eight replicas behind the judge's router are
late with no more than 1 % of the work (first token after 10 s, as the fluid model counts). It is one number for a
trace; that it moves with the shapes of the requests is one of the things that are judged.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from bench.scaling_judge_fleet import Replicas
from bench.scaling_judge_requests import MOST_REQUESTS, Requests
from optiinfra.domain.gpu_models import GPUS
from optiinfra.domain.replay.fluid import STEP_S
from optiinfra_sim.histogram import Histogram
from optiinfra_sim.routing import Routing
from optiinfra_sim.settings import EngineSettings

LATE_S = 10.0
LATE_SHARE = 0.01
"""What makes a rate too high: more of the work than this has its first token later than `LATE_S`."""
POOL = 8
"""Replicas on which a capacity is measured: what they gain by sharing a router is in it."""
MEASURED_S = 1_500.0
ANSWERS = 20.0
"""Mean answers, one after the other, that a measurement lasts at least."""
ARITHMETIC_SHARE = 0.5
"""Of the datasheet's operations that prompts reach."""
MEMORY_SHARE = 0.92
OTHER_BYTES = 2e9
"""Activations, graphs and buffers of an engine."""
STEP_OVERHEAD = 1.1
STEP_BASE_S = 0.002
SEQUENCE_BASE_S = 0.00003


@dataclass(frozen=True, slots=True)
class Regime:
    """An engine on a GPU: the datasheet's row, the model's size, and the limits that are set."""

    name: str
    gpu: str
    parameters: float
    kv_bytes_per_token: float
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int

    def settings(self, *, mean_context: float, prefix_caching: bool) -> EngineSettings:
        """Limits and costs; a sequence costs the reading of a cache of `mean_context` tokens in each step."""
        gpu = {one.name: one for one in GPUS}[self.gpu]
        weights = 2.0 * self.parameters
        room = MEMORY_SHARE * gpu.memory_bytes - weights - OTHER_BYTES
        block = CACHED_BLOCK if prefix_caching else 16
        return EngineSettings(
            model_name=self.name,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=self.max_model_len,
            block_size=block,
            num_blocks=int(room / self.kv_bytes_per_token / block),
            step_seconds=STEP_OVERHEAD * weights / gpu.bandwidth + STEP_BASE_S,
            sequence_seconds=mean_context * self.kv_bytes_per_token / gpu.bandwidth + SEQUENCE_BASE_S,
            prefill_token_seconds=2.0 * self.parameters / (ARITHMETIC_SHARE * gpu.flops_16),
            prefix_caching=prefix_caching,
        )


REGIMES = {
    one.name: one
    for one in (
        Regime("8b-l4", "L4", 8.03e9, 131_072.0, 64, 1024, 16_384),
        Regime("8b-h100", "H100-SXM", 8.03e9, 131_072.0, 256, 2048, 131_072),
    )
}
"""A model of 8 billion parameters in 16 bits with grouped-query attention (32 layers, 8 KV heads of 128)."""
SHORT, LONG = "8b-l4", "8b-h100"
LONG_PROMPT = 4_000.0
LONG_ANSWER = 1_000.0
CACHED_BLOCK = 128
"""Tokens of a block where prompts share prefixes: with vLLM's 16 the bookkeeping of long prompts takes all the time."""


def regime_for(requests: Requests) -> Regime:
    """The small GPU for ordinary requests, the large one where prompts or answers are long on average."""
    long = float(requests.prompt.mean()) > LONG_PROMPT or float(requests.output.mean()) > LONG_ANSWER
    return REGIMES[LONG if long else SHORT]


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a replica serves, measured on `POOL` of them behind the judge's own router."""

    work: float
    """Work per second and replica at the objective: C."""
    in_flight: float
    """Requests in flight on a replica at that rate."""
    kv_use: float
    """Mean share of the KV cache in use at that rate."""
    first_token_p95: float
    inter_token_p95: float
    saturated: float
    """Work per second and replica where a queue is always there: what the engine can do at all."""


@dataclass(frozen=True, slots=True)
class _Trial:
    late_share: float
    first_token_p95: float
    inter_token_p95: float
    in_flight: float
    kv_use: float
    served: float


def measured(
    settings: EngineSettings, shapes: Requests, *, routing: Routing = Routing.LEAST_LOADED, seed: int, rounds: int = 7
) -> Capacity:
    """Search the largest rate that keeps the objective; the same requests at every rate, only the gaps are scaled."""
    # Long answers need a longer look: a replica must have turned over its batch many times.
    longest = ANSWERS * float(shapes.output.mean()) * (settings.step_seconds + 20.0 * settings.sequence_seconds)
    play = partial(_trial, settings, shapes, routing=routing, seed=seed, length_s=max(MEASURED_S, longest))
    flood = play(work=_most(settings))
    low, high = 0.5 * flood.served, 1.05 * flood.served
    best = play(work=low)
    for _ in range(rounds):
        work = (low + high) / 2.0
        trial = play(work=work)
        if trial.late_share <= LATE_SHARE:
            low, best = work, trial
        else:
            high = work
    return Capacity(low, best.in_flight, best.kv_use, best.first_token_p95, best.inter_token_p95, flood.served)


def _most(settings: EngineSettings) -> float:
    """Work per second that no replica serves."""
    prompts = 1.0 / max(settings.prefill_token_seconds, settings.step_seconds / settings.max_num_batched_tokens)
    return prompts + 4.0 * settings.max_num_seqs / settings.step_seconds


def _trial(
    settings: EngineSettings,
    shapes: Requests,
    *,
    work: float,
    routing: Routing,
    seed: int,
    length_s: float,
) -> _Trial:
    """`POOL` replicas under Poisson arrivals of requests of the trace, `work` per second and replica."""
    draw = np.random.default_rng(seed)
    warm_up = round(length_s / 5.0 / STEP_S) * STEP_S
    end = warm_up + length_s
    rate = work * POOL / float(shapes.work.mean())
    most = min(int(rate * end * 1.1) + 100, MOST_REQUESTS)
    # Prompts with contents each once and in their own order: that is what a prefix cache lives on.
    rows = np.sort(draw.permutation(len(shapes))[:most]) if shapes.content else draw.integers(0, len(shapes), most)
    at = np.cumsum(draw.exponential(1.0, len(rows))) / rate
    requests = replace(shapes.picked(rows), at=at, length_s=end)
    replicas = Replicas(settings, requests, start_up_s=0.0, routing=routing)
    replicas.begin(POOL)
    looks = []
    for step in range(round(end / STEP_S)):
        if step == round(warm_up / STEP_S):
            replicas.inter_token.counts[:] = [0] * len(replicas.inter_token.counts)
            begun = requests.work[np.isfinite(replicas.first_token)].sum()
        looks.append(replicas.step())
    counted = (at > warm_up) & (at < end - LATE_S)
    waits, each = replicas.first_token[counted], requests.work[counted]
    looks = looks[round(warm_up / STEP_S) :]
    return _Trial(
        late_share=float(each[waits > LATE_S].sum() / max(float(each.sum()), 1.0)),
        first_token_p95=float(np.quantile(waits, 0.95, method="higher")) if len(waits) else np.inf,
        inter_token_p95=quantile(replicas.inter_token, 0.95),
        in_flight=float(np.mean([look.in_flight for look in looks])) / POOL,
        kv_use=float(np.mean([look.kv_use for look in looks])),
        served=float(requests.work[np.isfinite(replicas.first_token)].sum() - begun) / length_s / POOL,
    )


def quantile(histogram: Histogram, share: float) -> float:
    """Value below which this share of a histogram lies, by straight lines within a bucket; NaN when it is empty."""
    counts = np.array(histogram.counts, dtype=np.float64)
    total = counts.sum()
    if not total:
        return float("nan")
    edges = np.array([0.0, *histogram.bounds, histogram.bounds[-1]])
    cumulated = np.concatenate([[0.0], np.cumsum(counts)])
    bucket = min(int(np.searchsorted(cumulated, share * total, side="left")), len(counts))
    inside = (share * total - cumulated[bucket - 1]) / max(counts[bucket - 1], 1.0)
    return float(edges[bucket - 1] + inside * (edges[bucket] - edges[bucket - 1]))
