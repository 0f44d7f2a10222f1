"""GPUs take their past from a metrics server: since when they are idle, their pauses, and never across a hole."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from optiinfra.cluster.errors import Invalid, Unavailable
from optiinfra.cluster.prometheus import RangeAnswer
from optiinfra.cluster.prometheus_answer import RangeSeries
from optiinfra.control import gpu_past, past_questions
from optiinfra.control.backfill import Backfill
from optiinfra.control.gpu_past import STEP, GpuPastReader, take
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.metrics_servers import MetricsServers
from optiinfra.control.registry import Registry
from optiinfra.control.scraped_pages import Labelling
from optiinfra.domain.idle import IdleMemory
from optiinfra.domain.idle.samples import Samples
from optiinfra.domain.idle.states import BUILT_IN
from optiinfra.engines import promql_gpu_history as queries
from optiinfra.settings import OperatorSettings
from tests.unit.control.test_idle_gpus import Rounds
from tests.unit.domain.made_up import GIB
from tests.unit.prometheus_stub import prometheus

DAY, HOUR = 86_400.0, 3600.0
NOW = 20_000 * DAY + 12 * HOUR
KEY = ("n1", "GPU-0")
CLUSTER = ObjectKey("ClusterResourceOptimization", "", "cluster")
MIB = 2.0**20


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(past_questions, "_REST_S", 0.0)


class Server:
    """Answers for one GPU: `busy` tells its activity at a time, None where nothing was measured."""

    def __init__(
        self, busy, *, name="DCGM_FI_DEV_GPU_UTIL", scale=100.0, labels=(("UUID", "GPU-0"),), power=70.0, **errors
    ):
        self.busy, self.name, self.scale, self.labels = busy, name, scale, labels
        self.values = {name: None, "DCGM_FI_DEV_FB_USED": 70 * GIB / MIB, "DCGM_FI_DEV_POWER_USAGE": power}
        self.errors, self.asked = errors, []

    async def query_range(self, query):
        self.asked.append(query)
        for word, error in self.errors.items():
            if f"({word}{{" in query.query:
                raise error
        times = np.arange(query.start, query.end + 1.0, query.step)
        if "__name__" in query.query and "count by" in query.query:
            found = [((("__name__", name),), times, np.ones(len(times))) for name in self.values]
        else:
            name = next(one for one in self.values if f"({one}{{" in query.query)
            known = np.array([time for time in times if self.busy(time) is not None])
            value = self.values[name]
            each = np.array([self.busy(time) * self.scale if value is None else value for time in known])
            found = [(self.labels, known, each)]
        series = tuple(RangeSeries(labels, times, values, 0) for labels, times, values in found if len(times))
        return RangeAnswer(series, (), 1)


async def read(server, *keys, days=3.0):
    reader = GpuPastReader(server, keys or [KEY], 'cluster="a"', BUILT_IN, pause_s=0.0)
    return await reader.read(days=days, now=NOW)


def live(minutes=15, *, start=NOW - 300.0, work=False, key=KEY):
    """What rounds saw of one GPU since they began."""
    memory = IdleMemory()
    column = np.array([memory.column(*key)])
    nan = np.full(1, np.nan)
    for minute in range(minutes):
        memory.observe(
            Samples(
                gpu=column,
                time=np.full(1, start + 60.0 * minute),
                duty=np.full(1, 0.9 if work and minute == minutes // 2 else 0.0),
                memory=np.full(1, 70 * GIB),
                power=nan,
                sm_active=nan,
                power_limit=nan,
                transfer=nan,
                working=np.zeros(1, dtype=np.bool_),
            )
        )
    return memory


def judged(memory, key=KEY):
    return memory.judge(np.array([memory.column(*key)]))


def since(memory, key=KEY):
    return float(judged(memory, key).quiet_since[0])


async def test_a_gpu_that_did_nothing_for_days_is_known_as_such_at_once():
    worked = NOW - 2 * DAY
    past = await read(Server(lambda time: 0.8 if time <= worked else 0.0))
    assert (past.gpus, past.missing) == (1, ())
    assert past.since == pytest.approx(NOW - 3 * DAY, abs=600.0)
    memory = live()
    assert since(memory) == NOW - 300.0
    assert take(memory, past)
    assert not take(memory, past), "once"
    assert since(memory) == pytest.approx(worked, abs=2.0 * STEP)
    told = judged(memory)
    assert bool(told.before_first[0])
    assert bool(told.worked[0])
    assert float(told.elapsed[0]) == pytest.approx(2 * DAY, rel=0.01)


async def test_pauses_of_days_say_that_work_will_come():
    def mornings(time):
        return 0.9 if (time % DAY) < 10 * HOUR else 0.0

    past = await read(Server(mornings))
    alone, told = live(), live()
    take(told, past)
    assert float(judged(alone).gaps[0]) == 0.0
    assert float(judged(told).gaps[0]) >= 2.0
    assert since(told) == pytest.approx(NOW - 2 * HOUR, abs=2.0 * STEP)


async def test_a_hole_in_the_history_ends_the_quiet_time_before_it():
    past = await read(Server(lambda time: None if NOW - 20 * HOUR < time < NOW - 10 * HOUR else 0.0), days=1.0)
    memory = live()
    take(memory, past)
    assert since(memory) == pytest.approx(NOW - 10 * HOUR, abs=2.0 * STEP)


async def test_a_history_that_ends_before_the_first_round_is_not_gone_on_with():
    past = await read(Server(lambda time: None if time > NOW - HOUR else 0.0), days=1.0)
    memory = live()
    take(memory, past)
    assert since(memory) == NOW - 300.0
    assert not bool(judged(memory).before_first[0])


async def test_work_that_rounds_saw_is_never_forgotten_for_a_history():
    past = await read(Server(lambda _: 0.0), days=1.0)
    memory = live(work=True)
    before = since(memory)
    take(memory, past)
    assert since(memory) == before
    assert not bool(judged(memory).before_first[0])


@pytest.mark.parametrize(
    ("name", "scale", "labels", "key"),
    [
        ("DCGM_FI_DEV_GPU_UTIL_RATIO", 1.0, (("UUID", "GPU-0"),), KEY),
        ("DCGM_FI_PROF_SM_ACTIVE", 1.0, (("UUID", "GPU-0"), ("GPU_I_ID", "3")), ("n1", "GPU-0/3")),
        ("optiinfra_gpu_utilization_max_ratio", 1.0, (("uuid", "GPU-0"), ("gpu", "0")), KEY),
    ],
)
async def test_every_dialect_tells_the_same(name, scale, labels, key):
    past = await read(Server(lambda _: 0.0, name=name, scale=scale, labels=labels), key, days=1.0)
    memory = live(key=key)
    take(memory, past)
    assert since(memory, key) == pytest.approx(NOW - DAY, abs=2.0 * STEP)


async def test_what_cannot_have_been_measured_is_a_hole():
    past = await read(Server(lambda time: 42.0 if time <= NOW - HOUR else 0.0), days=1.0)
    memory = live()
    take(memory, past)
    assert since(memory) == pytest.approx(NOW - HOUR, abs=2.0 * STEP)


async def test_a_family_that_is_refused_is_said_and_the_others_are_read():
    past = await read(Server(lambda _: 0.0, DCGM_FI_DEV_POWER_USAGE=Invalid("query too large", code=422)), days=1.0)
    assert past.missing == ("DCGM_FI_DEV_POWER_USAGE: query too large",)
    assert past.gpus == 1


async def test_a_server_without_gpus_is_said_and_asked_nothing_more():
    server = Server(lambda _: 0.0)
    server.values = {}
    past = await read(server)
    assert past.gpus == 0
    assert past.since is None
    assert past.missing == ("activity of GPUs: no series of dcgm-exporter or the agent",)
    assert len(server.asked) == 1


async def test_a_server_that_is_away_ends_the_reading():
    with pytest.raises(Unavailable):
        await read(Server(lambda _: 0.0, DCGM_FI_DEV_FB_USED=Unavailable("connection refused")))


async def test_answers_of_large_fleets_are_asked_for_in_smaller_pieces():
    server = Server(lambda _: 0.0)
    keys = [(f"n{number}", f"GPU-{number}") for number in range(5_000)]
    await read(server, *keys, days=0.5)
    spans = [one.end - one.start for one in server.asked if "max_over_time" in one.query]
    assert max(spans) <= 40 * STEP
    assert all(f"[{STEP:.0f}s]" in one.query for one in server.asked[1:])


def test_names_are_those_that_pages_are_read_by():
    names = {one.name for one in queries.questions()}
    assert {"DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_PROF_SM_UTIL_RATIO", "optiinfra_gpu_memory_used_bytes"} <= names
    assert queries.gpu_of((("gpu", "0"), ("UUID", "GPU-a"), ("GPU_I_ID", "7"))) == "GPU-a/7"
    assert queries.gpu_of((("job", "x"),)) == ""


def ends_of_holes(data, start):
    """When what cannot be a missed reading ended: three steps while all others were there, six where some were not.

    An interval is learned from what is seen, and one reading in two may be missed, up to half an hour in all. The last
    step is the one in which the rounds began to see for themselves: it is no part of a hole.
    """
    found, missing, regular, seen = [], 0, True, False
    for place, value in enumerate(data[:-1]):
        if value is None:
            missing += 1
            if seen and missing >= (3 if regular else 6):
                found.append(start + (place - 1) * STEP)
            continue
        regular = regular and not (seen and missing)
        missing, seen = 0, True
    return found


@settings(max_examples=25, deadline=None)
@given(data=some.lists(some.sampled_from([0.0, 0.0, 0.0, 0.9, None]), min_size=4, max_size=60))
async def test_nothing_is_idle_since_before_work_or_a_hole(data):
    start = NOW - len(data) * STEP

    def busy(time):
        return data[min(len(data) - 1, max(0, round((time - start) / STEP) - 1))]

    past = await read(Server(busy), days=len(data) * STEP / DAY)
    memory = live()
    take(memory, past)
    moment = since(memory)
    # What happened after the first round is the rounds' own to tell.
    broken = [start + (place + 1) * STEP for place, value in enumerate(data[:-1]) if value == 0.9]
    assert all(moment >= at for at in broken)
    assert all(moment >= at for at in ends_of_holes(data, start))


# ---- through a cluster's rounds


async def test_a_round_takes_the_past_and_names_the_gpu_idle_with_its_source():
    rounds = Rounds(window="6h").pass_(12)
    assert not rounds.advice
    memory = rounds.memory.gpus
    start = rounds.now - 12 * 60.0

    past = IdleMemory()
    column = np.array([past.column("n1", "GPU-0")])
    nan, steps = np.full(1, np.nan), 100
    for step in range(steps + 1):
        at = np.full(1, start - (steps - step) * STEP)
        none = np.zeros(1)
        past.observe(Samples(column, at, none, np.full(1, 70 * GIB), nan, nan, nan, nan, none.astype(bool)))
    rounds.memory.gpu_past = gpu_past.GpuPast(past, 1, None, 0, ())
    rounds.pass_(1)
    (advice,) = rounds.advice
    assert rounds.memory.gpu_past.taken
    assert memory is rounds.memory.gpus
    (verdict,) = rounds.work.verdicts
    assert "by a metrics server's history" in verdict.message
    assert {one.source for one in verdict.evidence if one.signal == "gpu_activity"} == {"prometheus"}
    assert rounds.status.idle_gpus.gpus[0].since is not None
    assert advice.subject


# ---- the whole way, over a socket


async def test_the_backfill_asks_a_server_for_the_gpus_of_a_cluster(caplog):
    text = queries.past_query("DCGM_FI_DEV_GPU_UTIL", matchers="", step_s=STEP)
    names = {(("__name__", "DCGM_FI_DEV_GPU_UTIL"),): lambda _: 1.0}
    answers = {queries.present_query(""): names, text: {(("UUID", "GPU-0"),): lambda _: 0.0}}
    with prometheus(queries=answers) as stub:
        memory = ObjectMemory(gpus=live())
        told = []
        one = Backfill(
            memories={CLUSTER: memory, ObjectKey("ResourceOptimization", "ns", "chat"): ObjectMemory()},
            servers=MetricsServers(OperatorSettings(prometheus_url=stub.url), Registry()),
            days=0.25,
            labelling=Labelling(),
            clock=lambda: NOW,
            learned=told.append,
        )
        with caplog.at_level(logging.INFO):
            assert await one.gpu_turn()
        assert told == [CLUSTER]
        assert memory.gpu_past is not None
        assert memory.gpu_past.gpus == 1
        assert "history of GPUs read" in caplog.messages
    memory.gpu_past = None
    assert not await one.gpu_turn(), "nobody answers any more"
    assert memory.gpu_past is None
    assert "history of GPUs not read; asked again later" in caplog.messages
