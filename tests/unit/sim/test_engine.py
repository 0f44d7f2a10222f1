"""The engine model: what a batch, a queue, blocks and a step do, in virtual time."""

import random

import pytest

from optiinfra_sim.engine import Engine
from optiinfra_sim.errors import EngineError
from optiinfra_sim.request import Request
from optiinfra_sim.settings import EngineSettings

SMALL = EngineSettings(
    model_name="tiny",
    max_num_seqs=4,
    max_num_batched_tokens=64,
    max_model_len=256,
    block_size=16,
    num_blocks=41,
    step_seconds=0.01,
    sequence_seconds=0.001,
    prefill_token_seconds=0.0001,
)


def request(number, *, arrival=0.0, prompt=32, output=10):
    return Request(number=number, arrival=arrival, prompt=prompt, output=output)


def busy_load(count, *, rate, seed=7, prompt=(20, 200), output=(1, 120)):
    draw = random.Random(seed)
    at = 0.0
    requests = []
    for number in range(count):
        at += draw.expovariate(rate)
        requests.append(request(number, arrival=at, prompt=draw.randint(*prompt), output=draw.randint(*output)))
    return requests


def play(settings, requests, *, to, step=None):
    """A whole run; with `step` the engine is woken that often, without it once per arrival."""
    engine = Engine(settings=settings)
    now = 0.0
    for one in requests:
        while step is not None and now + step < one.arrival:
            now += step
            engine.advance(to=now)
        now = one.arrival
        engine.advance(to=now)
        engine.submit(one)
    while step is not None and now + step < to:
        now += step
        engine.advance(to=now)
    engine.advance(to=to)
    return engine


def test_one_request_takes_exactly_its_steps():
    engine = Engine(settings=SMALL)
    engine.submit(request(1, prompt=32, output=10))
    # Prefill: 10 ms + 1 ms for the sequence + 32 x 0.1 ms, and it yields the first token; then 9 steps of 11 ms.
    first = 0.010 + 0.001 + 0.0032
    engine.advance(to=first + 9 * 0.011 - 1e-6)
    assert (engine.running, engine.metrics.finished_by_length) == (1, 0)
    engine.advance(to=first + 9 * 0.011 + 1e-6)
    assert (engine.running, engine.metrics.finished_by_length) == (0, 1)
    assert engine.metrics.time_to_first_token.sum == pytest.approx(first)
    assert engine.metrics.end_to_end.sum == pytest.approx(first + 9 * 0.011)
    assert engine.metrics.decode_time.sum == pytest.approx(9 * 0.011)
    assert engine.metrics.inter_token_latency.count == 9
    assert engine.metrics.generation_tokens == 10
    assert engine.kv_usage == 0


def test_the_batch_limit_makes_a_queue_in_order_of_arrival():
    engine = Engine(settings=SMALL)
    finished = []
    engine = Engine(settings=SMALL, on_finished=lambda done: finished.append(done.number))
    for number in range(9):
        engine.submit(request(number, prompt=16, output=20))
    engine.advance(to=0.1)
    assert (engine.running, engine.waiting) == (4, 5)
    engine.advance(to=10)
    assert finished == list(range(9))
    assert engine.metrics.preemptions == 0


def test_a_long_prompt_is_prefilled_in_chunks_while_others_decode():
    engine = Engine(settings=SMALL)
    engine.submit(request(1, prompt=16, output=200))
    engine.advance(to=0.05)
    tokens_before = engine.metrics.generation_tokens
    long = Request(number=2, arrival=0.05, prompt=200, output=2)
    engine.submit(long)
    engine.advance(to=0.05 + 4 * 0.02)
    # 200 tokens under a budget of 64 less one decoding sequence: four steps, and the other one went on in each.
    assert engine.metrics.generation_tokens >= tokens_before + 4
    engine.advance(to=0.5)
    assert long.first_token_at is not None
    assert engine.metrics.iteration_tokens.counts[4] >= 3  # steps of 33 to 64 tokens


def test_running_out_of_blocks_preempts_the_newest_and_all_finish():
    settings = EngineSettings(
        max_num_seqs=8,
        max_num_batched_tokens=256,
        max_model_len=256,
        num_blocks=25,
        step_seconds=0.01,
    )
    requests = [request(number, prompt=60, output=150) for number in range(8)]
    engine = Engine(settings=settings)
    for one in requests:
        engine.submit(one)
    peak = 0.0
    for tick in range(1, 2000):
        engine.advance(to=tick * 0.02)
        peak = max(peak, engine.kv_usage)
        assert engine.kv_usage <= 1.0
    assert peak > 0.95
    assert engine.metrics.preemptions > 0
    assert requests[0].preemptions == 0
    assert engine.metrics.finished_by_length == 8
    assert engine.metrics.request_preemptions.sum == sum(one.preemptions for one in requests)
    assert engine.kv_usage == 0


def test_tokens_and_blocks_are_conserved_under_random_load():
    settings = EngineSettings(
        max_num_seqs=16,
        max_num_batched_tokens=128,
        max_model_len=512,
        num_blocks=60,
        step_seconds=0.01,
        sequence_seconds=0.001,
        prefill_token_seconds=0.0001,
    )
    requests = busy_load(300, rate=6)
    engine = play(settings, requests, to=2000.0)
    metrics = engine.metrics
    assert metrics.finished_by_length == 300
    assert metrics.preemptions > 0
    assert metrics.generation_tokens == sum(one.output for one in requests)
    assert metrics.request_prompt_tokens.sum == sum(one.prompt for one in requests)
    assert metrics.time_to_first_token.count == metrics.queue_time.count == 300
    assert metrics.inter_token_latency.count == sum(one.output - 1 for one in requests)
    assert (engine.running, engine.waiting, engine.kv_usage) == (0, 0, 0)


def test_taking_steps_together_changes_nothing():
    settings = EngineSettings(
        max_num_seqs=16,
        max_num_batched_tokens=128,
        max_model_len=512,
        num_blocks=60,
        step_seconds=0.01,
        sequence_seconds=0.001,
        prefill_token_seconds=0.0001,
    )
    together = play(settings, busy_load(120, rate=6), to=400.0)
    one_by_one = play(settings, busy_load(120, rate=6), to=400.0, step=0.004)
    left, right = together.metrics, one_by_one.metrics
    assert left.preemptions == right.preemptions > 0
    assert left.generation_tokens == right.generation_tokens
    assert left.time_to_first_token.counts == right.time_to_first_token.counts
    assert left.inter_token_latency.counts == right.inter_token_latency.counts
    assert left.iteration_tokens.counts == right.iteration_tokens.counts
    assert left.end_to_end.sum == pytest.approx(right.end_to_end.sum)
    assert left.busy_seconds == pytest.approx(right.busy_seconds)


def test_quiet_steps_are_taken_together(monkeypatch):
    passes = 0
    begin = Engine._begin

    def counted(self):
        nonlocal passes
        passes += 1
        return begin(self)

    monkeypatch.setattr(Engine, "_begin", counted)
    engine = play(EngineSettings(), busy_load(200, rate=2, prompt=(100, 2000), output=(200, 600)), to=300.0)
    assert engine.metrics.finished_by_length == 200
    assert engine.metrics.iteration_tokens.count > 5000
    assert passes < 1500  # an arrival, a prefill and an end for each request, and little more


def test_prefix_hits_save_prefill_and_a_shared_prefix_is_held_once():
    plain = EngineSettings(max_num_seqs=8, max_model_len=512, num_blocks=200)
    shared = EngineSettings(max_num_seqs=8, max_model_len=512, num_blocks=200, shared_prefix_tokens=160)
    engines = []
    for settings in (plain, shared):
        engine = Engine(settings=settings)
        for number in range(4):
            engine.submit(request(number, arrival=number * 0.02, prompt=200, output=300))
        engine.advance(to=0.2)
        engines.append(engine)
    assert engines[0].metrics.prefix_hits == 0
    assert engines[1].metrics.prefix_hits == 3 * 160
    assert engines[1].metrics.prefix_queries == 4 * 200
    assert engines[1].kv_usage < 0.6 * engines[0].kv_usage
    assert engines[1].metrics.time_to_first_token.sum < engines[0].metrics.time_to_first_token.sum


def test_a_share_of_hits_counts_whole_blocks_and_never_the_whole_prompt():
    settings = EngineSettings(prefix_hit_share=0.5)
    assert settings.found(100, known_blocks=0) == 48
    assert EngineSettings().found(64, known_blocks=4) == 48
    assert EngineSettings().found(64, known_blocks=0) == 0


def test_evicting_gives_every_request_back_without_progress():
    engine = Engine(settings=SMALL)
    for number in range(6):
        engine.submit(request(number, prompt=16, output=100))
    engine.advance(to=0.5)
    given = engine.evict()
    assert [one.number for one in given] == list(range(6))
    assert all(one.generated == 0 and one.scheduled_at is None for one in given)
    assert [one.restarts for one in given] == [1, 1, 1, 1, 0, 0]
    assert (engine.outstanding, engine.kv_usage) == (0, 0)
    other = Engine(settings=SMALL, now=0.5)
    for one in given:
        other.submit(one)
    other.advance(to=20)
    assert other.metrics.finished_by_length == 6


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"num_blocks": 10, "max_model_len": 4096}, "num_blocks 10"),
        ({"step_seconds": 0.0}, "step_seconds"),
        ({"prefix_hit_share": 1.0}, "prefix_hit_share"),
        ({"max_num_batched_tokens": 100}, "max_num_batched_tokens"),
    ],
)
def test_impossible_engines_are_refused(changes, named):
    with pytest.raises(EngineError, match=named):
        EngineSettings(**changes)


def test_impossible_requests_and_time_running_backwards_are_refused():
    engine = Engine(settings=SMALL)
    with pytest.raises(EngineError, match="max_model_len"):
        engine.submit(request(1, prompt=250, output=10))
    with pytest.raises(EngineError, match="at least one"):
        engine.submit(request(2, prompt=0))
    engine.advance(to=5)
    with pytest.raises(EngineError, match="backwards"):
        engine.advance(to=4.9)
