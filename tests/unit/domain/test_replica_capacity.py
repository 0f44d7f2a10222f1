"""What one replica serves: measured while work waits, else by step times, else guessed from the occupancy."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.histogram import InvalidCheckpointError
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.pace import Pace
from optiinfra.domain.readings import Unknown
from optiinfra.domain.replica_capacity import Basis, CapacityMemory, observed, used_share
from optiinfra.domain.units import Seconds, UnixTime
from tests.unit.domain.scaling_service import NOW, UNMEASURED, sample, signals

LIMIT = EngineSettings(batch_limit=64.0)
TICK = Seconds(15.0)
UNFITTED = Pace()
NOTHING = CapacityMemory()
# A step of 10 ms and 0.1 ms a request: 64 requests make 16.4 ms.
PACE = Pace(base=0.01, slope=1e-4, slope_lower=0.9e-4, slope_upper=1e-4, samples=20, batch_lowest=4, batch_highest=40)


def lived(ones, *, settings=LIMIT, pace=UNFITTED, latency=UNMEASURED, memory=NOTHING, promised=0.1, **rates):
    before = None
    for one in ones:
        memory = observed(
            memory,
            one,
            before,
            settings=settings,
            pace=pace,
            objectives=Objectives(inter_token_latency_p95=Seconds(promised)),
            signals=signals(inter_token_latency_p95=latency, **rates),
            tick=TICK,
        )
        before = one
    return memory


def ticks(count, **values):
    return [sample(UnixTime(NOW + 15.0 * number), **values) for number in range(count)]


def test_nothing_is_known_before_anything_ran():
    known = lived(ticks(5, running=0.0, served=0.0, finished=0.0, arrived=0.0, kv_cache=0.0)).capacity
    assert isinstance(known.work, Unknown)
    assert known.basis is Basis.NONE


def test_what_is_served_while_work_waits_is_the_capacity():
    # 12,000 a second by four replicas; 100 requests of 1,000 wait: 8 s of work, more than half a tick.
    known = lived(ticks(20, running=256.0, waiting=100.0, served=12_000.0, finished=12.0)).capacity
    assert known.basis is Basis.MEASURED
    assert known.work == pytest.approx(3000.0)


def test_a_short_queue_is_no_saturation():
    known = lived(ticks(20, running=256.0, waiting=2.0, served=12_000.0, finished=12.0)).capacity
    assert known.basis is not Basis.MEASURED


@pytest.mark.parametrize(
    ("promised", "basis"),
    [
        # 16 requests make steps of 11.6 ms, 20 ms at p95; half the batch would make 18.6 ms.
        (0.019, Basis.MEASURED),
        # No batch makes steps as short as that: more replicas would not help, and nothing is learned from it.
        (0.015, Basis.STEP_TIMES),
        (0.030, Basis.STEP_TIMES),
    ],
)
def test_tokens_that_come_too_late_mean_that_the_objective_is_reached_if_a_smaller_batch_would_keep_it(promised, basis):
    known = lived(
        ticks(20, served=9000.0, finished=9.0, kv_cache=0.1),
        latency=0.02,
        pace=PACE,
        promised=promised,
        inter_token_latency_mean=0.0116,
    ).capacity
    assert known.basis is basis
    assert basis is not Basis.MEASURED or known.work == pytest.approx(2250.0)


def test_without_step_times_lateness_teaches_nothing():
    known = lived(ticks(20, kv_cache=0.1), latency=0.5, inter_token_latency_mean=0.1).capacity
    assert known.basis is Basis.OCCUPANCY


def test_a_capacity_does_not_run_away_from_a_promise_that_cannot_be_kept():
    # The same work on ever more replicas; a chunk of a prompt takes 0.33 s whatever the batch is.
    memory = NOTHING
    for replicas in (8, 12, 16, 24, 33):
        some = ticks(40, reporting=replicas, expected=replicas, running=160.0, served=16_000.0, finished=16.0)
        memory = lived(some, latency=0.33, pace=PACE, inter_token_latency_mean=0.02, memory=memory)
    assert memory.capacity.basis is Basis.STEP_TIMES
    assert memory.capacity.work >= 16_000.0 / 8


def test_step_times_extrapolate_to_the_largest_batch():
    # 16 running of 64: B / (a + b B) is 16 / 11.6 ms now and 64 / 16.4 ms then.
    memory = lived(ticks(20, kv_cache=0.1), pace=PACE)
    expected = 2000.0 * (64 / 16.4) / (16 / 11.6)
    assert (memory.capacity.basis, memory.capacity.work) == (Basis.STEP_TIMES, pytest.approx(expected))


def test_prompts_that_come_with_the_batch_make_it_slower():
    # 0.01 ms a prompt token, 40 of them for each generated one: 0.1 + 0.4 ms a request.
    apart = replace(PACE, prompt_slope=1e-5)
    memory = lived(ticks(20, kv_cache=0.1), pace=apart, prompt_computed_rate=4000.0, generation_token_rate=100.0)
    assert memory.capacity.work == pytest.approx(2000.0 * (64 / 42.0) / (16 / 18.0))


def test_the_kv_cache_and_the_promised_latency_bound_the_batch():
    by_cache, _ = used_share(sample(kv_cache=0.8), LIMIT, pace=Pace(), objectives=Objectives())
    assert by_cache == pytest.approx(math.sqrt(0.8))
    # 12 ms promised: (12 - 10) / 0.1 = 20 requests at most.
    strict = Objectives(inter_token_latency_p95=Seconds(0.012))
    by_latency, paced = used_share(sample(kv_cache=0.1), LIMIT, pace=PACE, objectives=strict)
    assert paced
    assert by_latency == pytest.approx((16 / 11.6) / (20 / 12.0))


def test_occupancy_is_a_guess_and_lies_between_linear_and_flat():
    memory = lived(ticks(20, kv_cache=0.1))
    assert memory.capacity.basis is Basis.OCCUPANCY
    assert 2000.0 < memory.capacity.work < 2000.0 * 64 / 16
    assert memory.capacity.work == pytest.approx(2000.0 / math.sqrt(16 / 64) * 0.9)


def test_what_was_served_is_always_believed():
    busy = lived(ticks(40, running=200.0, served=16_000.0, finished=16.0, kv_cache=0.9))
    quiet = lived(ticks(40, kv_cache=0.9), memory=busy)
    assert quiet.capacity.work >= quiet.proven > 3900.0


def test_it_follows_the_shape_of_the_requests():
    long = lived(ticks(300, running=256.0, waiting=200.0, served=12_000.0, finished=12.0))
    short = lived(ticks(600, running=256.0, waiting=400.0, served=8000.0, finished=20.0), memory=long)
    assert short.capacity.work == pytest.approx(2000.0, rel=0.1)
    assert short.request_work == pytest.approx(400.0, rel=0.01)


def test_a_measurement_of_less_than_two_minutes_counts_by_its_length():
    guess = lived(ticks(20, kv_cache=0.1))
    both = lived(ticks(5, running=256.0, waiting=100.0, served=8000.0, finished=8.0), memory=guess)
    assert 2000.0 < both.capacity.work < guess.capacity.work


@pytest.mark.parametrize(
    "changed",
    [{"served": UNMEASURED}, {"reporting": 3}, {"reporting": 0}, {"running": UNMEASURED, "served": 0.0}],
)
def test_what_is_not_known_teaches_nothing(changed):
    memory = lived(ticks(20))
    again = lived([sample(UnixTime(NOW + 400.0), **changed)], memory=memory)
    assert again.saturated_ticks == memory.saturated_ticks
    assert again.estimate_sum == pytest.approx(memory.estimate_sum, rel=0.01)


def test_a_checkpoint_comes_back_and_a_wrong_one_does_not():
    memory = lived(ticks(20, running=256.0, waiting=100.0))
    assert CapacityMemory.from_bytes(memory.to_bytes()) == memory
    for wrong in (b"", memory.to_bytes()[:-1], b"X" + memory.to_bytes()[1:]):
        with pytest.raises(InvalidCheckpointError):
            CapacityMemory.from_bytes(wrong)
    broken = replace(memory, proven=math.nan)
    with pytest.raises(InvalidCheckpointError, match="impossible values"):
        CapacityMemory.from_bytes(broken.to_bytes())


MEASURED = st.one_of(st.just(UNMEASURED), st.floats(0.0, 1e7))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(MEASURED, MEASURED, MEASURED, MEASURED, st.floats(0.0, 1.0)), min_size=1, max_size=12),
    st.sampled_from([Pace(), PACE]),
    st.one_of(st.just(UNMEASURED), st.floats(0.0, 1.0)),
)
def test_whatever_is_heard_the_capacity_is_a_number_or_a_reason(heard, pace, latency):
    ones = [
        sample(UnixTime(NOW + 15.0 * at), running=running, waiting=waiting, served=served, finished=done, kv_cache=kv)
        for at, (running, waiting, served, done, kv) in enumerate(heard)
    ]
    known = lived(ones, pace=pace, latency=latency).capacity
    assert isinstance(known.work, Unknown) or (math.isfinite(known.work) and known.work >= 0.0)
    assert math.isfinite(known.proven)
