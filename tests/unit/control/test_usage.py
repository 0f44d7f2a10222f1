"""Measured use on its way into histories: whose it is, whether a pod was starting, and what cannot be."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from optiinfra.cluster.usage import ContainerUsage, PodUsage
from optiinfra.control.keys import ObjectKey
from optiinfra.control.usage import AGENT, FAULT_STANDS, METRICS_API, Owner, UsageTable
from optiinfra.domain.agent_readings import ContainerCounters, NamedCounters
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import AgentReading, ContainerFacts, NodeFacts
from tests.unit.control.examples import NOW, pod

KEY = ObjectKey("ResourceOptimization", "inference", "svc")
NONE = Unknown(UnknownReason.NOT_CONFIGURED, "not set")
GIB = 2.0**30
NODE = NodeFacts("node-1", "", "", 0.0, 8.0, 32 * GIB, ready=True, unschedulable=False)


@dataclass
class Metrics:
    answer: Mapping[str, PodUsage] | Unknown

    async def pods(self, namespace: str) -> Mapping[str, PodUsage] | Unknown:
        return self.answer


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


def used(cpu=1.0, memory=2 * GIB, *, time=NOW, name="vllm"):
    return PodUsage(time=UnixTime(time), window_s=30.0, containers={name: ContainerUsage(cpu, memory)})


def container(*, cpu=NONE, memory=NONE):
    return ContainerFacts("vllm", NONE, cpu, NONE, memory, 0.0)


def owner(name="a", *, node=NODE, limits=None, **facts):
    given = pod(name=name, containers=(limits or container(),), became_ready=UnixTime(NOW - 3600.0))
    return Owner(KEY, "vllm", replace(given, **facts), node)


async def read(table: UsageTable, *owners: Owner) -> None:
    await table.refresh("inference", {one.pod.name: one for one in owners or (owner(),)})


def table_of(answer, clock=None):
    return UsageTable(reader=Metrics(answer), clock=clock or Clock())


async def test_samples_wait_for_the_target_that_the_pod_belongs_to_and_are_taken_once():
    table = table_of({"a": used(), "b": used(time=NOW - 20.0), "stranger": used(9.0)})
    await read(table, owner("a"), owner("b"))
    taken = table.take(KEY, "vllm")
    assert [(one.container, one.time, one.cpu_cores, one.starting) for one in taken] == [
        ("vllm", NOW - 20.0, 1.0, False),
        ("vllm", NOW, 1.0, False),
    ]
    assert table.take(KEY, "vllm") == ()
    assert table.take(KEY, "other") == ()


async def test_the_same_reading_twice_is_one():
    table = table_of({"a": used()})
    await read(table)
    await read(table)
    assert len(table.take(KEY, "vllm")) == 1


@pytest.mark.parametrize(
    ("facts", "starting"),
    [
        ({"became_ready": UnixTime(NOW - 31.0)}, False),
        ({"became_ready": UnixTime(NOW - 29.0)}, True),
        ({"ready": False, "became_ready": None}, True),
        ({"ready": False, "became_ready": None, "lost_readiness": True}, False),
    ],
)
async def test_a_sample_of_a_pod_that_starts_says_so(facts, starting):
    table = table_of({"a": used()})
    await read(table, owner(**facts))
    (sample,) = table.take(KEY, "vllm")
    assert sample.starting is starting


@pytest.mark.parametrize(
    ("sample", "given", "words"),
    [
        (used(Unknown(UnknownReason.INVALID, "negative usage")), owner(), "negative usage"),
        (used(memory=Unknown(UnknownReason.INVALID, "negative usage")), owner(), "negative usage"),
        (used(9.0), owner(), "node node-1 has (8)"),
        (used(memory=40 * GIB), owner(), "node node-1 has (32 GiB)"),
        (used(3.2), owner(limits=container(cpu=2.0)), "its limit allows (2)"),
        (used(memory=4.5 * GIB), owner(limits=container(memory=4 * GIB), node=None), "its limit allows (4 GiB)"),
        (used(time=NOW + 600.0), owner(), "ahead of the operator's clock"),
    ],
)
async def test_what_cannot_be_is_thrown_away_and_stands_as_a_fault(sample, given, words):
    clock = Clock()
    table = table_of({"a": sample}, clock)
    await read(table, given)
    assert table.take(KEY, "vllm") == ()
    fault = table.fault(KEY, "vllm")
    assert fault is not None
    assert words in fault.text
    clock.now += FAULT_STANDS
    assert table.fault(KEY, "vllm") is None


@pytest.mark.parametrize(
    ("sample", "given"),
    [
        (used(8.4), owner()),
        (used(2.9), owner(limits=container(cpu=2.0))),
        (used(0.1), owner(limits=container(cpu=0.02))),
        (used(time=NOW + 60.0), owner()),
        (used(100.0, 400 * GIB), owner(node=None)),
    ],
)
async def test_rounding_bursts_and_clocks_that_differ_by_seconds_are_no_fault(sample, given):
    table = table_of({"a": sample})
    await read(table, given)
    assert table.fault(KEY, "vllm") is None
    assert len(table.take(KEY, "vllm")) == 1


async def test_a_clock_that_was_set_back_is_a_fault_once_and_heals():
    clock = Clock()
    table = table_of({"a": used()}, clock)
    await read(table)
    table.reader = Metrics({"a": used(time=NOW - 7200.0)})
    await read(table)
    fault = table.fault(KEY, "vllm")
    assert fault is not None
    assert "before what was read already" in fault.text
    clock.now += FAULT_STANDS
    table.reader = Metrics({"a": used(time=NOW - 7140.0)})
    await read(table)
    assert table.fault(KEY, "vllm") is None
    assert len(table.take(KEY, "vllm")) == 2


async def test_one_bad_container_does_not_silence_its_neighbour():
    both = PodUsage(NOW, 30.0, {"vllm": ContainerUsage(9.0, GIB), "log": ContainerUsage(0.1, GIB)})
    table = table_of({"a": both})
    await read(table)
    assert [one.container for one in table.take(KEY, "vllm")] == ["log"]
    assert table.fault(KEY, "vllm") is not None


async def test_the_busiest_pod_of_the_last_reading_is_kept():
    table = table_of({"a": used(1.0), "b": used(3.0), "stranger": used(7.0)})
    await read(table, owner("a"), owner("b"))
    assert table.busiest(KEY, "vllm") == {"vllm": (NOW, 3.0)}
    table.reader = Metrics({"a": used(0.5, time=NOW + 60.0)})
    await read(table, owner("a"))
    assert table.busiest(KEY, "vllm") == {"vllm": (NOW + 60.0, 0.5)}
    table.forget_except(set())
    assert table.busiest(KEY, "vllm") == {}


async def test_a_cluster_that_does_not_measure_is_unknown_and_not_zero():
    missing = Unknown(UnknownReason.UNSUPPORTED, "no metrics.k8s.io")
    table = table_of(missing)
    await read(table)
    assert table.take(KEY, "vllm") == ()
    assert table.unknown == {"inference": missing}
    table.reader = Metrics({"a": used()})
    await read(table)
    assert table.unknown == {}
    table.forget_except(set())
    assert table.take(KEY, "vllm") == ()


NOT_SERVED = Unknown(UnknownReason.NOT_CONFIGURED, "metrics.k8s.io is not served; install metrics-server")


def by_agent(*points, identifier="c0ffee00"):
    """Readings of the pod's node: (time, CPU seconds, working set)."""
    return tuple(
        AgentReading(
            UnixTime(NOW + at), "n1", "1", 8.0, 0.1, 1.0, 1.0, gpus=(), gpu_source=1.0,
            containers=(ContainerCounters("uid-of-a", identifier, cpu, memory),),
        )
        for at, cpu, memory in points
    )  # fmt: skip


def agent_table(answer, readings):
    return UsageTable(reader=Metrics(answer), clock=Clock(NOW + 60.0), agents=lambda _node: readings)


def measured_pod():
    return owner(container_ids=(("c0ffee00", "vllm"),))


async def test_without_a_metrics_server_the_agents_measure():
    table = agent_table(NOT_SERVED, by_agent((0.0, 100.0, GIB), (15.0, 130.0, 2 * GIB), (30.0, 137.5, 3 * GIB)))
    await read(table, measured_pod())
    first, second, third = table.take(KEY, "vllm")
    assert (first.cpu_cores.reason, first.memory_bytes) == (UnknownReason.TOO_FEW_SAMPLES, GIB)
    assert (second.cpu_cores, second.memory_bytes) == (pytest.approx(2.0), 2 * GIB)
    assert (third.cpu_cores, third.memory_bytes, third.time) == (pytest.approx(0.5), 3 * GIB, NOW + 30.0)
    assert table.source(KEY, "vllm") == AGENT
    assert table.busiest(KEY, "vllm") == {"vllm": (NOW + 30.0, pytest.approx(0.5))}
    assert table.unknown == {}


async def test_no_reading_of_an_agent_counts_twice():
    table = agent_table(NOT_SERVED, by_agent((0.0, 100.0, GIB), (15.0, 130.0, GIB)))
    await read(table, measured_pod())
    assert len(table.take(KEY, "vllm")) == 2
    table.agents = lambda _node: by_agent((0.0, 100.0, GIB), (15.0, 130.0, GIB), (30.0, 160.0, GIB))
    await read(table, measured_pod())
    assert [one.time for one in table.take(KEY, "vllm")] == [NOW + 30.0]


@pytest.mark.parametrize(("step", "source"), [(15.0, AGENT), (60.0, METRICS_API)])
async def test_the_finer_source_speaks(step, source):
    table = agent_table({"a": used(7.0, time=NOW + 20.0)}, by_agent((0.0, 100.0, GIB), (step, 130.0, GIB)))
    await read(table, measured_pod())
    assert table.source(KEY, "vllm") == source
    assert (7.0 in [one.cpu_cores for one in table.take(KEY, "vllm")]) == (source == METRICS_API)


async def test_an_agent_that_falls_silent_gives_way_to_the_metrics_server():
    table = agent_table({"a": used(7.0)}, by_agent((0.0, 100.0, GIB), (15.0, 130.0, GIB)))
    await read(table, measured_pod())
    table.agents = lambda _node: ()
    table.reader.answer = {"a": used(7.0, time=NOW + 90.0)}
    await read(table, measured_pod())
    assert table.source(KEY, "vllm") == METRICS_API


async def test_a_restarted_container_is_not_measured_across_its_restart():
    before, after = by_agent((0.0, 500.0, GIB)), by_agent((15.0, 3.0, GIB))
    table = agent_table(NOT_SERVED, (*by_agent((-15.0, 400.0, GIB), identifier="deadbeef"), *after))
    await read(table, measured_pod())
    (only,) = table.take(KEY, "vllm")
    assert only.cpu_cores.reason is UnknownReason.TOO_FEW_SAMPLES
    table = agent_table(NOT_SERVED, (*before, *after))
    await read(table, measured_pod())
    assert "went back" in table.fault(KEY, "vllm").text


async def test_where_neither_measures_the_reason_of_the_metrics_server_stays():
    table = agent_table(NOT_SERVED, by_agent((0.0, 1.0, GIB), identifier="deadbeef"))
    await read(table, measured_pod())
    assert table.unknown["inference"] is NOT_SERVED
    assert table.source(KEY, "vllm") == ""


async def test_a_snapshot_between_two_readings_of_the_containers_is_no_sample():
    """Agents read containers once a minute and write a snapshot every 15 s."""
    first, second = by_agent((0.0, 100.0, GIB)), by_agent((60.0, 220.0, GIB))
    repeated = [replace(first[0], time=UnixTime(NOW + at), containers_at=NOW) for at in (15.0, 30.0, 45.0)]
    table = agent_table(NOT_SERVED, (*first, *repeated, *second))
    await read(table, measured_pod())
    assert [one.cpu_cores for one in table.take(KEY, "vllm")][1:] == [pytest.approx(2.0)]


def by_name(*points, pod_name="a"):
    return tuple(
        AgentReading(
            UnixTime(NOW + at), "n1", "1", 8.0, 0.1, 1.0, 1.0, gpus=(), gpu_source=1.0,
            named=(NamedCounters("inference", pod_name, "vllm", cpu, memory),),
        )
        for at, cpu, memory in points
    )  # fmt: skip


def named_pod(**changes):
    return owner(**{"namespace": "inference", "created": UnixTime(NOW - 3600.0)} | changes)


async def test_an_agent_that_knows_names_alone_measures_all_the_same():
    table = agent_table(NOT_SERVED, by_name((0.0, 100.0, GIB), (15.0, 130.0, 2 * GIB)))
    await read(table, named_pod())
    first, second = table.take(KEY, "vllm")
    assert first.cpu_cores.reason is UnknownReason.TOO_FEW_SAMPLES
    assert (second.cpu_cores, second.memory_bytes, second.container) == (pytest.approx(2.0), 2 * GIB, "vllm")
    assert table.source(KEY, "vllm") == AGENT


async def test_by_name_a_restart_is_no_fault_and_a_namesake_of_before_nobody():
    table = agent_table(NOT_SERVED, by_name((0.0, 500.0, GIB), (15.0, 3.0, GIB)))
    await read(table, named_pod())
    assert [one.cpu_cores.reason for one in table.take(KEY, "vllm")] == [UnknownReason.TOO_FEW_SAMPLES] * 2
    assert table.fault(KEY, "vllm") is None
    table = agent_table(NOT_SERVED, by_name((0.0, 100.0, GIB), (15.0, 130.0, GIB)))
    await read(table, named_pod(created=UnixTime(NOW + 10.0)))
    assert [one.time for one in table.take(KEY, "vllm")] == [NOW + 15.0]
    table = agent_table(NOT_SERVED, by_name((0.0, 100.0, GIB), pod_name="b"))
    await read(table, named_pod())
    assert table.take(KEY, "vllm") == ()


async def test_ids_speak_before_names():
    both = replace(by_agent((0.0, 100.0, GIB))[0], named=by_name((0.0, 7.0, 7 * GIB))[0].named)
    table = agent_table(NOT_SERVED, (both,))
    await read(table, owner(container_ids=(("c0ffee00", "vllm"),), namespace="inference"))
    (only,) = table.take(KEY, "vllm")
    assert only.memory_bytes == GIB
