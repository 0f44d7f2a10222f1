"""A target that knows nothing takes its past from a metrics server; one that knows something keeps what it knows."""

import asyncio
import dataclasses
import math

import numpy as np
import pytest

from optiinfra.cluster.errors import Invalid, Unavailable
from optiinfra.cluster.prometheus import RangeAnswer
from optiinfra.cluster.prometheus_answer import RangeSeries
from optiinfra.control import past_questions, past_reader
from optiinfra.control.memory import TargetMemory
from optiinfra.control.past import Past
from optiinfra.control.past_reader import DAY, PastReader
from optiinfra.control.past_starts import Starts
from optiinfra.control.past_taking import _wanted as wanted
from optiinfra.control.past_taking import take
from optiinfra.control.scraped_pages import Labelling
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.history import Column, LoadHistory
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown
from optiinfra.domain.right_sizing import ContainerUsage, UsageHistory
from optiinfra.domain.scaler.rows import state_of
from optiinfra.domain.scaler_past import PastService
from optiinfra.domain.units import Seconds
from optiinfra.engines.promql_history import StartMoment

NOW = 20_000 * DAY + 12 * 3600.0
HOURS = 3.0
"""Long enough to learn something, and soon lived through."""
SETTINGS = EngineSettings(batch_limit=64.0)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(past_questions, "_REST_S", 0.0)


@pytest.fixture
def unlived(monkeypatch):
    """Nobody lives through the load: what else is read is looked at."""
    monkeypatch.setattr(past_reader, "_live", lambda *_: None)


def past(name="chat", namespace="ns", tick=15.0):
    service = PastService(SETTINGS, 1, 16, Seconds(120.0), Seconds(180.0), Objectives())
    return Past(namespace, name, service, Seconds(tick))


def daily(time):
    """Requests that run: a day's wave between 20 and 100."""
    return 60.0 + 40.0 * math.sin(2.0 * math.pi * time / DAY)


class Server:
    """Answers each query by what is in its text."""

    def __init__(self, *, since=NOW - 3 * DAY, workloads=("chat",), starts=True, **errors):
        self.since, self.workloads, self.errors, self.asked = since, workloads, errors, []
        self.starts = starts

    async def query_range(self, query):
        self.asked.append(query)
        for word, error in self.errors.items():
            if word in query.query:
                raise error
        times = np.arange(query.start, query.end + 1.0, query.step)
        times = times[times >= self.since]
        if "count by (__name__)" in query.query:
            found = [((("__name__", "vllm:num_requests_running"),), np.ones(len(times)))]
        elif "kube_pod_" in query.query:
            found = self.started(query.query, times)
        elif "container_" in query.query:
            value = 2.0 if "rate(" in query.query else 8e9
            found = [
                (
                    (("container", "vllm"), ("namespace", "ns"), ("pod", f"{name}-7c9bcc4d5f-{pod}")),
                    np.full(len(times), value),
                )
                for name in (*self.workloads, "chat-other")
                for pod in ("aaaaa", "bbbbb")
            ]
        else:
            running = np.array([daily(time) for time in times])
            values = {
                "kv_cache_usage_perc": running / 200.0,
                "request_success_total": running / 10.0,
                "generation_tokens_total": 5.0 * running * 100.0,
                "count by (namespace, pod)": np.full(len(times), 2.0),
                "num_requests_waiting": np.zeros(len(times)),
                "num_requests_running": running,
            }
            value = next(made for word, made in values.items() if word in query.query)
            found = [((("namespace", "ns"), ("workload", name)), value) for name in self.workloads]
        series = tuple(RangeSeries(labels, times[-len(values) :], values, 0) for labels, values in found if len(times))
        return RangeAnswer(series, (), 1)

    def started(self, text, times):
        """Three pods of each workload: one that is older than what is read, one that was restarted, and a good one."""
        told = []
        for name in self.workloads if self.starts else ():
            for pod, created, restarts in (
                ("ld000", NOW - 30 * DAY, 0),
                ("bd000", NOW - 5400, 2),
                ("nw000", NOW - 3600, 0),
            ):
                value = {
                    "kube_pod_created": created,
                    "scheduled_time": created + 40.0,
                    "ready_time": created + 200.0,
                    "restarts_total": float(restarts),
                }
                number = next(made for word, made in value.items() if word in text)
                labels = (("namespace", "ns"), ("pod", f"{name}-7c9bcc4d5f-{pod}"), ("uid", f"u-{name}-{pod}"))
                told.append((labels, np.where(times > created, number, np.nan)[times > created]))
        return [(labels, values) for labels, values in told if len(values)]


async def read(server, *pasts, days=HOURS / 24.0):
    reader = PastReader(server, pasts or [past()], Labelling(), 'cluster="a"', pause_s=0.0)
    return await reader.read(days=days, now=NOW)


async def test_a_past_of_days_teaches_the_scaler_the_sizes_and_the_history():
    (found,) = await read(Server())
    assert found.missing == ()
    assert found.since == pytest.approx(NOW - HOURS * 3600.0, abs=120.0)
    row = state_of([found.scaler.row])
    assert row.load.seen[0] == pytest.approx(HOURS * 240.0, rel=0.02)
    assert found.scaler.tick == NOW // 15
    assert not isinstance(found.scaler.capacity.capacity.work, Unknown)
    usage = found.usage["vllm"]
    assert usage.lifespan == pytest.approx(HOURS * 3600.0, abs=600.0)
    assert usage.samples == HOURS * 12
    memory = TargetMemory(past=dataclasses.replace(past(), learned=found))
    assert take(memory)
    assert not take(memory), "once"
    times = memory.history.series(Column.RUNNING).times
    assert times[-1] - times[0] == pytest.approx(HOURS * 3600.0, abs=120.0)
    assert memory.usage == {"vllm": usage}
    assert memory.scaler.row is found.scaler.row


@pytest.mark.usefixtures("unlived")
async def test_queries_are_few_and_the_same_for_many_workloads():
    one, many = Server(), Server(workloads=tuple(f"chat{n}" for n in range(12)))
    await read(one)
    found = await read(many, *(past(f"chat{n}") for n in range(12)))
    assert all(learned.since is not None for learned in found)
    assert len(many.asked) == len(one.asked) == 1 + 8 + 4
    assert all('cluster="a"' in query.query for query in many.asked)
    assert max(query.points for query in many.asked) <= 1_440


@pytest.mark.usefixtures("unlived")
async def test_pods_of_another_workload_are_nobodys():
    (found,) = await read(Server())
    assert found.usage["vllm"].samples == HOURS * 12
    (mine, other) = await read(Server(workloads=("chat",)), past(), past("chat-other"))
    assert mine.usage["vllm"].samples == other.usage["vllm"].samples


@pytest.mark.usefixtures("unlived")
async def test_what_a_server_refuses_is_said_and_the_rest_is_read():
    (found,) = await read(Server(container_memory=Invalid("too many samples"), kv_cache_usage_perc=Invalid("limit")))
    assert {one.split(":")[0] for one in found.missing} == {"container memory", "kv_cache"}
    assert np.isfinite(found.load[Column.RUNNING]).all()


@pytest.mark.usefixtures("unlived")
async def test_each_day_is_asked_for_apart():
    server = Server(since=NOW - 20 * DAY)
    await read(server, days=14.0)
    assert len(server.asked) == 1 + 14 * 8 + 4
    assert {round(query.end - query.start + query.step) for query in server.asked[1:-4]} == {DAY}
    young = Server(since=NOW - 0.5 * DAY)
    await read(young, days=14.0)
    assert len(young.asked) == 1 + 14 * 2 + 6 + 4, "days before the engines were there are not asked about load"


async def test_a_server_that_is_away_ends_the_reading():
    with pytest.raises(Unavailable):
        await read(Server(container_cpu=Unavailable("no answer")))


async def test_a_server_without_any_history_teaches_nothing():
    (found,) = await read(Server(since=NOW + DAY))
    assert found.since is None
    assert found.scaler is None
    assert found.usage == {}
    memory = TargetMemory(past=dataclasses.replace(past(), learned=found))
    take(memory)
    assert memory.scaler.row is None
    assert len(memory.history) == 0


async def test_a_short_past_is_what_it_is():
    (found,) = await read(Server(since=NOW - 3600.0))
    assert found.since == pytest.approx(NOW - 3600.0, abs=120.0)
    assert state_of([found.scaler.row]).load.seen[0] == pytest.approx(240, rel=0.05)


async def test_who_knows_an_hour_asks_for_nothing():
    memory = TargetMemory(LoadHistory())
    assert wanted(memory)
    times = NOW - 3600.0 + 60.0 * np.arange(61)
    memory.history.fill_before(times, np.ones((len(Column), 61)))
    assert not wanted(memory)
    assert not wanted(TargetMemory(past=past())), "asked already"


@pytest.mark.usefixtures("unlived")
async def test_what_a_checkpoint_knows_of_a_container_is_kept():
    (found,) = await read(Server())
    memory = TargetMemory(past=dataclasses.replace(past(), learned=found))
    kept = UsageHistory()
    for time in (NOW - 9 * DAY, NOW):
        kept.observe(ContainerUsage(time, 0.5, 1e9))
    memory.usage["vllm"] = kept
    take(memory)
    assert memory.usage["vllm"] is kept


async def test_ticks_of_another_length_take_no_scaler():
    (found,) = await read(Server())
    memory = TargetMemory(past=dataclasses.replace(past(tick=5.0), learned=found))
    take(memory)
    assert memory.scaler.row is None
    assert len(memory.history)


@pytest.mark.usefixtures("unlived")
async def test_pods_that_came_up_before_teach_the_start_up_time():
    (found,) = await read(Server(), days=1.0)
    assert [(one.name, one.became_ready - one.created) for one in found.starts] == [
        ("chat-7c9bcc4d5f-bd000", 200.0),
        ("chat-7c9bcc4d5f-nw000", 200.0),
    ]
    memory = TargetMemory(past=dataclasses.replace(past(), learned=found))
    take(memory)
    told = memory.start_up.summary(NOW)
    assert told.total.samples == 1
    assert told.p50 == pytest.approx(200.0)
    assert told.once_there.p50 == pytest.approx(160.0)
    assert memory.past.starts == 1


@pytest.mark.usefixtures("unlived")
async def test_without_kube_state_metrics_start_up_times_stay_unknown_and_that_is_said():
    (found,) = await read(Server(starts=False))
    assert found.starts == ()
    assert "starts of its pods" in found.missing
    memory = TargetMemory(past=dataclasses.replace(past(), learned=found))
    take(memory)
    assert isinstance(memory.start_up.summary(NOW).p50, Unknown)
    (refused,) = await read(Server(kube_pod_status_ready_time=Invalid("no")))
    assert refused.missing == ("pods' ready: no",)


def test_workers_of_a_group_are_no_replicas_and_the_first_time_ready_counts():
    found = Starts(lambda _, __: 0)
    for pod in ("lws-0", "lws-0-1"):
        labels = (("namespace", "ns"), ("pod", pod))
        for moment, values in (
            (StartMoment.CREATED, [NOW, NOW]),
            (StartMoment.READY, [NOW + 90.0, NOW + 500.0]),
            (StartMoment.RESTARTS, [0.0, 0.0]),
        ):
            found.add(moment, labels, np.array(values))
    ((one,),) = found.by_row(1, since=NOW - 1.0)
    assert (one.name, one.became_ready) == ("lws-0", NOW + 90.0)
    assert found.by_row(1, since=NOW) == [()], "nobody knows whether that was the first time"


def test_a_past_never_changes_what_was_observed():
    history = LoadHistory()
    live = NOW - 600.0 + 15.0 * np.arange(40)
    history.fill_before(live, np.full((len(Column), 40), 7.0))
    before = history.series(Column.RUNNING)
    history.fill_before(NOW - 7200.0 + 60.0 * np.arange(121), np.full((len(Column), 121), 3.0))
    after = history.series(Column.RUNNING)
    assert after.values[-len(before.values) :] == before.values
    assert set(after.values[: -len(before.values)]) == {3.0}
    assert after.times[0] == pytest.approx(NOW - 7200.0, abs=15.0)
    assert history.newest == pytest.approx(live[-1], abs=15.0)
    assert LoadHistory.from_bytes(history.to_bytes()).series(Column.RUNNING).times == after.times


def test_a_reading_leaves_the_loop_free():
    async def beside():
        ticks = 0
        task = asyncio.create_task(read(Server()))
        while not task.done():
            ticks += 1
            await asyncio.sleep(0.001)
        return ticks

    assert asyncio.run(beside()) > 10
