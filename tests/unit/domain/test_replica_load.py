"""A tick's load in replicas: the largest of what tokens, slots and KV cache say, and backlog apart."""

import pytest

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.readings import EngineKind, EngineReading, Signal, Unknown, UnknownReason
from optiinfra.domain.replica_load import Resource, load_of, sample
from optiinfra.domain.units import Seconds, UnixTime
from tests.unit.domain.scaling_service import NOW, UNMEASURED
from tests.unit.domain.scaling_service import sample as one_of

LIMIT = EngineSettings(batch_limit=64.0)
NOT_KNOWN = Unknown(UnknownReason.TOO_FEW_SAMPLES, "not learned")


@pytest.mark.parametrize(
    ("values", "capacity", "resource", "replicas"),
    [
        # 8 requests of 1,000 arrive a second
        ({}, 2000.0, Resource.WORK, 4.0),
        # 173 of 64 x 0.9 slots
        ({"running": 172.8}, 8000.0, Resource.BATCH_SLOTS, 3.0),
        ({"kv_cache": 0.9}, 8000.0, Resource.KV_CACHE, 4.0),
        # arrivals lead what is served
        ({"arrived": 20.0}, 4000.0, Resource.WORK, 5.0),
        ({"arrived": UNMEASURED, "served": 16_000.0}, 4000.0, Resource.WORK, 4.0),
        # without a capacity slots speak, and who waits wants one
        ({"running": 250.0, "waiting": 153.2}, NOT_KNOWN, Resource.BATCH_SLOTS, 7.0),
    ],
)
def test_the_largest_limit_is_the_load(values, capacity, resource, replicas):
    load = load_of(one_of(**values), LIMIT, capacity=capacity, request_work=1000.0)
    assert (load.resource, load.replicas) == (resource, pytest.approx(replicas, rel=1e-3))


@pytest.mark.parametrize(
    ("now", "before", "backlog"),
    [
        # Replicas have room: who waits may be waiting for the next step only.
        ({"waiting": 30.0}, None, 0.0),
        ({"waiting": 30.0}, {"waiting": 0.0}, 0.0),
        ({"waiting": 30.0}, {"waiting": 50.0}, 15.0),
        ({"waiting": 30.0}, {"waiting": 10.0}, 5.0),
        ({"waiting": 30.0, "running": 250.0}, None, 15.0),
        ({"waiting": 30.0, "kv_cache": 0.95}, {"waiting": 0.0}, 15.0),
        ({"waiting": 30.0, "running": UNMEASURED, "kv_cache": UNMEASURED}, None, 15.0),
    ],
)
def test_a_backlog_is_replica_seconds_of_those_whom_no_replica_can_take(now, before, backlog):
    earlier = None if before is None else one_of(**before)
    load = load_of(one_of(**now), LIMIT, capacity=2000.0, request_work=1000.0, before=earlier)
    assert load.backlog == pytest.approx(backlog)


def test_what_runs_while_others_wait_is_the_batch_limit_where_none_is_known():
    full = one_of(running=60.0, waiting=300.0, reporting=1, expected=1, kv_cache=0.5, served=0.0, finished=0.0)
    found = load_of(full, EngineSettings(), capacity=NOT_KNOWN, request_work=NOT_KNOWN, before=full)
    assert (found.resource, found.replicas) == (Resource.BATCH_SLOTS, pytest.approx(360.0 / 54.0))


def test_without_any_limit_there_is_a_reason():
    silent = one_of(running=UNMEASURED, kv_cache=UNMEASURED, arrived=UNMEASURED, served=UNMEASURED)
    found = load_of(silent, LIMIT, capacity=NOT_KNOWN, request_work=NOT_KNOWN)
    assert isinstance(found, Unknown)
    assert found.detail == "running: no page"
    nobody = load_of(one_of(reporting=0), LIMIT, capacity=2000.0, request_work=1000.0)
    assert nobody.reason is UnknownReason.UNREACHABLE


def page(at, *, finished, running=10.0, waiting=0.0, **gauges):
    return EngineReading(
        time=UnixTime(NOW + at),
        engine=EngineKind.VLLM,
        version="0.32.0",
        model="m",
        gauges={
            Signal.REQUESTS_RUNNING: running,
            Signal.REQUESTS_WAITING: waiting,
            Signal.KV_CACHE_USAGE: 0.5,
            **gauges,
        },
        counters={
            Signal.REQUESTS_FINISHED: finished,
            Signal.PROMPT_TOKENS: finished * 200.0,
            Signal.GENERATION_TOKENS: finished * 100.0,
        },
    )


def read(pages, at=30.0, window=30.0):
    return sample(pages, now=UnixTime(NOW + at), window=Seconds(window), stale_after=Seconds(45.0), expected=len(pages))


def test_a_tick_is_read_out_of_pages():
    pages = {name: (page(0.0, finished=100.0), page(15.0, finished=130.0), page(30.0, finished=160.0)) for name in "ab"}
    one = read(pages)
    assert one.whole
    assert (one.running, one.waiting, one.finished) == (20.0, 0.0, pytest.approx(4.0))
    assert one.served == pytest.approx(4.0 * (200.0 + 400.0))
    assert one.arrived == pytest.approx(4.0)


def test_a_counter_that_was_reset_counts_from_zero():
    pages = {"a": (page(0.0, finished=1e6), page(15.0, finished=15.0), page(30.0, finished=30.0))}
    assert read(pages).finished == pytest.approx(1.0)


def test_a_replica_that_joins_brings_no_lifetime_along():
    pages = {
        "a": (page(0.0, finished=100.0), page(30.0, finished=160.0)),
        "b": (page(30.0, finished=1e6),),
    }
    assert read(pages).finished == pytest.approx(2.0)


def test_an_earlier_tick_does_not_see_later_pages():
    pages = {"a": (page(0.0, finished=0.0), page(15.0, finished=15.0), page(30.0, finished=1000.0))}
    assert read(pages, at=15.0).finished == pytest.approx(1.0)


def test_prefixes_that_nobody_uses_and_requests_that_capacity_would_not_start_do_not_count():
    pages = {
        "a": (
            page(0.0, finished=0.0),
            page(
                30.0,
                finished=30.0,
                waiting=9.0,
                **{Signal.KV_CACHE_EVICTABLE: 0.3, Signal.REQUESTS_DEFERRED: 4.0},
            ),
        )
    }
    one = read(pages)
    assert one.kv_cache == pytest.approx(0.2)
    assert one.waiting == 5.0
