"""The fleet: routing, start-up, removal and what is counted across both."""

import math

import pytest

from optiinfra_sim.errors import EngineError
from optiinfra_sim.fleet import Fleet
from optiinfra_sim.settings import EngineSettings
from optiinfra_sim.trace import Arrival

SETTINGS = EngineSettings(
    max_num_seqs=4,
    max_num_batched_tokens=512,
    max_model_len=1024,
    num_blocks=400,
    step_seconds=0.02,
    sequence_seconds=0.001,
    prefill_token_seconds=0.0001,
)


def steady(count, *, every, prompt=64, output=50, begin=0.0):
    return [Arrival(begin + index * every, prompt, output) for index in range(count)]


def test_requests_go_to_the_replica_with_the_fewest():
    fleet = Fleet(settings=SETTINGS, arrivals=steady(12, every=0.001))
    for name in ("a", "b", "c"):
        fleet.add(name, ready_at=0.0)
    fleet.advance(to=0.1)
    assert fleet.in_flight() == {"a": 4, "b": 4, "c": 4}
    fleet.advance(to=60)
    assert fleet.state().finished == 12
    assert fleet.state().trace_finished


def test_a_starting_replica_gets_nothing_until_it_serves():
    fleet = Fleet(settings=SETTINGS, arrivals=steady(20, every=0.5))
    fleet.add("old", ready_at=0.0)
    fleet.add("new", ready_at=5.0)
    fleet.advance(to=4.9)
    state = fleet.state()
    assert (state.serving, state.starting) == (1, 1)
    assert set(fleet.in_flight()) == {"old"}
    fleet.advance(to=5.6)
    assert fleet.in_flight()["new"] > 0


def test_requests_wait_at_the_router_while_nobody_serves_and_count_as_late():
    fleet = Fleet(settings=SETTINGS, arrivals=steady(3, every=1.0))
    fleet.add("slow", ready_at=math.inf)
    fleet.advance(to=11.5)
    assert fleet.state().waiting == 3
    assert fleet.state().late_share == pytest.approx(2 / 3)  # two have waited longer than ten seconds by now
    fleet.ready("slow", at=20.0)
    fleet.advance(to=40)
    state = fleet.state()
    assert state.finished == 3
    assert state.late_share == 1.0
    assert state.ttft_p95 == pytest.approx(20, abs=0.5)


def test_removal_routes_the_queue_again_and_lets_the_batch_finish():
    fleet = Fleet(settings=SETTINGS, arrivals=steady(16, every=0.001, output=200))
    fleet.add("stays", ready_at=0.0)
    fleet.add("goes", ready_at=0.0)
    fleet.advance(to=1.0)
    fleet.remove("goes")
    assert fleet.in_flight() == {"stays": 12}  # its own 8, and the 4 that waited at the other
    assert fleet.state().draining == 1
    fleet.advance(to=10)
    assert fleet.state().draining == 0
    fleet.advance(to=120)
    assert fleet.state().finished == 16


def test_a_batch_that_outlives_its_grace_period_starts_over_elsewhere():
    fleet = Fleet(settings=SETTINGS, arrivals=steady(2, every=0.001, output=900), drain_seconds=2.0)
    fleet.add("goes", ready_at=0.0)
    fleet.advance(to=1.0)
    fleet.remove("goes")
    fleet.add("comes", ready_at=2.0)
    fleet.advance(to=3.1)
    assert fleet.state().draining == 0
    assert fleet.in_flight() == {"comes": 2}
    fleet.advance(to=120)
    state = fleet.state()
    assert (state.finished, state.arrived) == (2, 2)
    assert state.late_share == 0  # they had been scheduled once, in time


def test_replica_seconds_count_starting_serving_and_draining():
    fleet = Fleet(settings=SETTINGS, arrivals=[Arrival(0.0, 64, 100)])
    fleet.add("a", ready_at=0.0)
    fleet.add("b", ready_at=30.0)
    fleet.advance(to=10.0)
    assert fleet.state().replica_seconds == pytest.approx(20.0)
    fleet.remove("b")
    fleet.advance(to=20.0)
    assert fleet.state().replica_seconds == pytest.approx(30.0)


def test_requests_beyond_the_context_are_rejected_not_queued():
    fleet = Fleet(settings=SETTINGS, arrivals=[Arrival(0.0, 1000, 100), Arrival(0.1, 10, 10)])
    fleet.add("a", ready_at=0.0)
    fleet.advance(to=5)
    state = fleet.state()
    assert (state.arrived, state.rejected, state.finished) == (2, 1, 1)
    assert state.trace_finished


def test_more_replicas_mean_less_lateness():
    def late(replicas):
        fleet = Fleet(settings=SETTINGS, arrivals=steady(300, every=0.1, output=100))
        for index in range(replicas):
            fleet.add(str(index), ready_at=0.0)
        fleet.advance(to=60)
        return fleet.state().late_share

    assert late(2) > late(4) > late(8) == 0


def test_the_same_calls_give_the_same_numbers_whatever_the_pace():
    def run(step):
        fleet = Fleet(settings=SETTINGS, arrivals=steady(100, every=0.17, output=80))
        fleet.add("a", ready_at=0.0)
        fleet.add("b", ready_at=3.0)
        for tick in range(1, int(40 / step) + 1):
            fleet.advance(to=tick * step)
        return fleet.state()

    coarse, fine = run(4.0), run(0.1)
    assert coarse.finished == fine.finished
    assert coarse.ttft_p95 == pytest.approx(fine.ttft_p95)
    assert coarse.replica_seconds == pytest.approx(fine.replica_seconds)


def test_misuse_is_refused():
    fleet = Fleet(settings=SETTINGS)
    fleet.add("a", ready_at=0.0)
    with pytest.raises(EngineError, match="already"):
        fleet.add("a", ready_at=0.0)
    fleet.advance(to=5)
    with pytest.raises(EngineError, match="backwards"):
        fleet.advance(to=4)
    with pytest.raises(EngineError, match="cannot begin"):
        fleet.feed([Arrival(0.0, 1, 1)], begin=1.0)
