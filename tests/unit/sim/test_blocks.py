"""The block pool and its prefix cache, and the routers that aim at it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra_sim.blocks import BlockPool, block_keys
from optiinfra_sim.engine import Engine
from optiinfra_sim.errors import EngineError
from optiinfra_sim.fleet import Fleet
from optiinfra_sim.request import Request
from optiinfra_sim.routing import Candidate, Router, Routing
from optiinfra_sim.settings import EngineSettings
from optiinfra_sim.trace import Arrival

SMALL = EngineSettings(max_num_seqs=4, max_num_batched_tokens=512, max_model_len=512, num_blocks=65)


def ask(number, *, arrival=0.0, content, output=17, **more):
    prompt = sum(tokens for _, tokens in content)
    return Request(number=number, arrival=arrival, prompt=prompt, output=output, content=content, **more)


def test_what_nobody_holds_stays_known_and_counts_as_free():
    pool = BlockPool(10)
    pool.take(4)
    held = pool.publish([1, 2, 3])
    pool.release(held, plain=1)
    assert (pool.live, pool.free, pool.cached) == (0, 10, 3)
    assert pool.match([1, 2, 3, 4]) == 3
    pool.hold([1, 2])
    assert (pool.live, pool.cached, pool.revived([1, 2, 3])) == (2, 1, 1)


def test_the_longest_unused_goes_first_and_an_end_before_its_beginning():
    pool = BlockPool(6)
    pool.take(6)
    old, new = pool.publish([1, 2, 3]), pool.publish([11, 12, 13])
    pool.release(old, plain=0)
    pool.release(new, plain=0)
    pool.take(2)
    assert pool.evicted == 2
    assert (pool.match([1, 2, 3]), pool.match([11, 12, 13])) == (1, 3)
    pool.take(2)
    assert (pool.match([1]), pool.match([11, 12, 13])) == (0, 2)


def test_more_than_there_is_is_refused():
    pool = BlockPool(3)
    with pytest.raises(EngineError, match="4 blocks asked for, 3 free"):
        pool.take(4)
    with pytest.raises(EngineError, match="given back"):
        pool.release([], plain=1)


_contents = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 70)), min_size=1, max_size=5)


@given(_contents, _contents, st.integers(1, 40))
def test_keys_are_equal_exactly_as_far_as_the_texts_are(left, right, size):
    def tokens(content):
        return [(identity, offset) for identity, length in content for offset in range(length)]

    keys = [block_keys(tuple(one), tokens=len(tokens(one)), block_size=size) for one in (left, right)]
    common = next((i for i, (a, b) in enumerate(zip(*keys, strict=False)) if a != b), min(map(len, keys)))
    texts = [tokens(left), tokens(right)]
    equal = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    assert [len(one) for one in keys] == [len(one) // size for one in texts]
    assert len(set(keys[0])) == len(keys[0])
    assert common <= equal // size
    if left[: len(right)] == right or right[: len(left)] == left:
        assert common == min(map(len, keys))


def test_a_second_turn_finds_the_first_one_and_its_answer():
    engine = Engine(settings=SMALL)
    engine.submit(ask(1, content=((1, 64), (2, 64)), output=33, answer=3))
    engine.submit(ask(2, arrival=5.0, content=((1, 64), (2, 64), (3, 33), (4, 50))))
    engine.advance(to=10.0)
    assert engine.metrics.prefix_hits == 160  # the 128 of the first prompt, and two whole blocks of its answer
    assert engine.kv_usage == 0
    assert engine.cached_blocks > 0


def test_a_long_cold_run_fills_the_pool_with_cached_blocks_and_evicts():
    engine = Engine(settings=SMALL)
    for number in range(1, 30):
        engine.submit(ask(number, arrival=float(number), content=((number, 100),)))
    engine.advance(to=60.0)
    assert engine.kv_usage == 0
    assert engine.evicted_blocks > 0
    assert engine.cached_blocks <= SMALL.usable_blocks
    assert engine.metrics.preemptions == 0


def test_without_prefix_caching_nothing_is_kept():
    engine = Engine(settings=EngineSettings(prefix_caching=False))
    for number in (1, 2):
        engine.submit(ask(number, arrival=float(number), content=((1, 100),)))
    engine.advance(to=10.0)
    assert (engine.metrics.prefix_hits, engine.cached_blocks) == (0, 0)


def test_the_watermark_keeps_blocks_free_at_admission():
    waits = EngineSettings(max_num_batched_tokens=8192, max_model_len=256, num_blocks=41, watermark=0.5)
    engine = Engine(settings=waits)
    for number in (1, 2):
        engine.submit(ask(number, content=((number, 200),), output=50))
    engine.advance(to=0.1)
    assert (engine.running, engine.waiting) == (1, 1)


def test_a_preemption_is_told_with_the_next_token_and_not_before():
    settings = EngineSettings(max_num_seqs=4, max_num_batched_tokens=512, max_model_len=400, num_blocks=27)
    engine = Engine(settings=settings)
    for number in (1, 2):
        engine.submit(ask(number, content=((number, 150),), output=200))
    while not engine.metrics.preemptions:
        engine.advance(to=engine.now + 0.05)
    assert engine.metrics.preemptions_told == 0
    engine.advance(to=60.0)
    assert engine.metrics.preemptions_told == engine.metrics.preemptions


def test_fetched_prompts_wait_as_deferred_hold_blocks_and_need_no_computing():
    settings = EngineSettings(remote_seconds=1.0, remote_token_seconds=0.001)
    engine = Engine(settings=settings)
    for number in (1, 2):
        engine.submit(ask(number, content=((number, 1000),), external=900))
    engine.advance(to=0.5)
    assert (engine.running, engine.waiting, engine.deferred) == (0, 2, 2)
    assert engine.kv_usage > 0
    engine.advance(to=10.0)
    metrics = engine.metrics
    assert (metrics.external_queries, metrics.external_hits) == (2000, 1800)
    # One link: 0.9 s and 1.8 s for the tokens, and a second of latency for each.
    assert metrics.queue_time.sum == pytest.approx(1.9 + 2.8, abs=0.05)
    assert metrics.prompt_tokens - metrics.prompt_tokens_cached == 200


def test_an_adapter_without_a_slot_is_passed_over():
    engine = Engine(settings=EngineSettings(max_loras=1))
    for number, adapter in ((1, "a"), (2, "b"), (3, "a"), (4, "")):
        engine.submit(ask(number, content=((number, 50),), output=100, adapter=adapter))
    engine.advance(to=0.1)
    assert (engine.running, engine.waiting, engine.deferred) == (3, 1, 1)
    engine.advance(to=30.0)
    assert engine.metrics.finished == 4


def test_a_change_of_pace_counts_from_the_next_step():
    engine = Engine(settings=EngineSettings(step_seconds=0.01, sequence_seconds=0.0))
    engine.submit(ask(1, content=((1, 16),), output=1001))
    engine.advance(to=5.0)
    before = engine.metrics.generation_tokens
    engine.change(pace=10.0)
    engine.advance(to=10.0)
    assert engine.metrics.generation_tokens - before == pytest.approx(50, abs=2)
    engine.change(pace=1.0, host_seconds=0.01)
    before = engine.metrics.generation_tokens
    engine.advance(to=12.0)
    assert engine.metrics.generation_tokens - before == pytest.approx(100, abs=10)
    with pytest.raises(EngineError, match="pace"):
        engine.change(pace=0.0)


@pytest.mark.parametrize("routing", [Routing.PREFIX_AWARE, Routing.PREFIX_HASH])
def test_routing_by_prefix_hits_more_than_round_robin(routing):
    def hits(kind):
        fleet = Fleet(
            settings=SMALL,
            routing=kind,
            arrivals=[
                Arrival(0.5 * turn, 340, 8, content=((1 + turn % 7, 320), (1000 + turn, 20))) for turn in range(120)
            ],
        )
        for name in ("a", "b", "c"):
            fleet.add(name, ready_at=0.0)
        fleet.advance(to=100.0)
        metrics = [replica.engine.metrics for replica in fleet.replicas.values()]
        return sum(one.prefix_hits for one in metrics) / sum(one.prefix_queries for one in metrics)

    assert hits(routing) > 1.5 * hits(Routing.ROUND_ROBIN)


def test_prefix_aware_routing_gives_way_to_load():
    router = Router(Routing.PREFIX_AWARE, block_size=16)
    one = ask(1, content=((1, 160),))
    assert router.choose(one, [Candidate("a", 0), Candidate("b", 0)]) == "a"
    assert router.choose(one, [Candidate("a", 5), Candidate("b", 0)]) == "a"
    assert router.choose(one, [Candidate("a", 15), Candidate("b", 0)]) == "b"


def test_round_robin_takes_turns_and_nobody_is_an_error():
    router = Router(Routing.ROUND_ROBIN, block_size=16)
    both = [Candidate("a", 9), Candidate("b", 0)]
    assert [router.choose(ask(1, content=((1, 16),)), both) for _ in range(4)] == ["a", "b", "a", "b"]
    with pytest.raises(EngineError, match="no replica"):
        router.choose(ask(1, content=((1, 16),)), [])
