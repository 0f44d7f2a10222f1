"""Measured use on its way into histories: whose it is, whether a pod was starting, and what cannot be."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from optiinfra.cluster.usage import ContainerUsage, PodUsage
from optiinfra.control.keys import ObjectKey
from optiinfra.control.usage import FAULT_STANDS, Owner, UsageTable
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import ContainerFacts, NodeFacts
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
