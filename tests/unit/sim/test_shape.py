"""The simulated engine in the recorded runs' configuration shows the recorded runs' signature."""

import random
import re
from dataclasses import dataclass
from statistics import mean

import pytest

from optiinfra_sim.engine import Engine
from optiinfra_sim.pages import PageTimes, render
from optiinfra_sim.request import Request
from optiinfra_sim.settings import EngineSettings

# Speeds of two CPU cores, fitted to the recordings; prompt and output lengths below have the recorded means.
COSTS = {"step_seconds": 0.055, "sequence_seconds": 0.006, "prefill_token_seconds": 0.003}
RUN_A = EngineSettings(
    max_num_seqs=8,
    max_num_batched_tokens=2048,
    max_model_len=2048,
    block_size=32,
    num_blocks=100,
    shared_prefix_tokens=96,
    **COSTS,
)
RUN_B = EngineSettings(
    max_num_seqs=32,
    max_num_batched_tokens=2048,
    max_model_len=2048,
    block_size=32,
    num_blocks=65,
    shared_prefix_tokens=128,
    **COSTS,
)
FIELDS = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total")


@dataclass(frozen=True)
class Signature:
    """What tells the bottlenecks apart, over the pages with a queue."""

    running: float
    waiting: float
    kv_mean: float
    kv_max: float
    preemptions: float
    highest_batch: float


def values(body):
    text = body.decode()
    found = [re.search(rf"^vllm:{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE) for name in FIELDS]
    return [float(match.group(1)) for match in found]


def signature(bodies):
    queued = [page for page in map(values, bodies) if page[1] > 0]
    running, waiting, usage, preemptions = zip(*queued, strict=True)
    return Signature(
        running=mean(running),
        waiting=mean(waiting),
        kv_mean=mean(usage),
        kv_max=max(usage),
        preemptions=max(preemptions) - min(preemptions),
        highest_batch=max(running),
    )


def closed_loop(settings, *, clients, seconds, prompts, outputs):
    """So many clients, each with one request at a time; a page a second."""
    draw = random.Random(3)
    numbers = iter(range(1, 10**6))

    def ask(_done=None):
        engine.submit(
            Request(
                number=next(numbers),
                arrival=engine.now,
                prompt=draw.randint(*prompts),
                output=draw.randint(*outputs),
            )
        )

    engine = Engine(settings=settings, on_finished=ask)
    for _ in range(clients):
        ask()
    pages = []
    for second in range(1, seconds + 1):
        engine.advance(to=float(second))
        pages.append(render(engine, times=PageTimes(started=0.0, serving=0.0)))
    return engine, pages


@pytest.fixture(scope="module")
def simulated_a():
    return closed_loop(RUN_A, clients=24, seconds=120, prompts=(150, 350), outputs=(100, 196))


@pytest.fixture(scope="module")
def simulated_b():
    return closed_loop(RUN_B, clients=20, seconds=120, prompts=(200, 440), outputs=(90, 176))


def test_batch_bound_engine_looks_like_the_batch_bound_recording(simulated_a, batch_bound):
    _, pages = simulated_a
    real = signature(page.body for page in batch_bound.pages)
    simulated = signature(pages)
    for one in (real, simulated):
        assert one.waiting > 5
        assert one.kv_max < 0.9
        assert one.preemptions == 0
        assert one.highest_batch == 8
        assert one.running > 7.5
    assert simulated.running == pytest.approx(real.running, abs=0.5)
    assert simulated.kv_mean == pytest.approx(real.kv_mean, abs=0.1)


def test_memory_bound_engine_looks_like_the_memory_bound_recording(simulated_b, memory_bound):
    _, pages = simulated_b
    real = signature(page.body for page in memory_bound.pages)
    simulated = signature(pages)
    for one in (real, simulated):
        assert one.waiting > 5
        assert one.kv_max > 0.97
        assert one.preemptions > 0
        assert one.highest_batch < 20  # far below the limit of 32, and below what was offered
    assert simulated.running == pytest.approx(real.running, abs=1.5)
    assert simulated.waiting == pytest.approx(real.waiting, abs=2.5)
    assert simulated.kv_mean == pytest.approx(real.kv_mean, abs=0.06)


def test_the_pair_of_kv_usage_and_batch_tells_the_runs_apart(simulated_a, simulated_b):
    a, b = signature(simulated_a[1]), signature(simulated_b[1])
    assert a.kv_mean < 0.9 < b.kv_max
    assert a.highest_batch / RUN_A.max_num_seqs == 1
    assert b.highest_batch / RUN_B.max_num_seqs < 0.6


def test_latencies_of_the_saturated_engine_are_those_of_the_recording(simulated_a, batch_bound, read_gauge):
    engine, _ = simulated_a
    last = batch_bound.pages[-1].body
    real = read_gauge(last, "vllm:inter_token_latency_seconds_sum") / read_gauge(
        last, "vllm:inter_token_latency_seconds_count"
    )
    simulated = engine.metrics.inter_token_latency.sum / engine.metrics.inter_token_latency.count
    assert simulated == pytest.approx(real, rel=0.35)


def test_low_load_shows_no_queue():
    engine, pages = closed_loop(RUN_A, clients=2, seconds=60, prompts=(60, 450), outputs=(70, 226))
    assert all(values(page)[1] == 0 for page in pages)
    assert max(values(page)[2] for page in pages) < 0.4
    assert engine.metrics.preemptions == 0
