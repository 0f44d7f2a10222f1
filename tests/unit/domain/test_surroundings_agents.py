"""What node agents say around a service's engines: rates over a window, shares of limits, and where it is worst."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.agent_readings import ClockHolds, ContainerCounters, LinkCounters, NamedCounters
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.surroundings_agents import (
    OwnContainer,
    ServiceNode,
    measured,
    throttling,
    waiting_for_memory,
)
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import AgentReading, GpuFacts

NONE = Unknown(UnknownReason.NOT_MEASURED)
GPU = GpuFacts("GPU-1", "NVIDIA H100 80GB HBM3", 80.0, 60.0, 0.9, 500.0, 700.0)
OWN = {("uid-1", "aaaaaaaa"): OwnContainer("vllm-1", "vllm", 4.0)}


def reading(time, *, gpus=(), rows=(), links=(), pressure=NONE, node="n1"):
    return AgentReading(
        UnixTime(time), node, "1", 8.0, 0.1, 1.0, 1.0, gpus=tuple(gpus), gpu_source=1.0,
        containers=tuple(rows), links=tuple(links), cpu_pressure_ratio=pressure,
    )  # fmt: skip


def gpu(uuid="GPU-1", *, heat=NONE, power=NONE, reasons=NONE, sent=0.0, received=0.0, **more):
    return replace(
        GPU, uuid=uuid, clocks=ClockHolds(reasons, heat, power), pcie_transmit_bytes=sent,
        pcie_receive_bytes=received, **more,
    )  # fmt: skip


def row(cpu, *, uid="uid-1", identifier="aaaaaaaa", periods=NONE, throttled=NONE, waiting=NONE, memory=NONE, disk=NONE):
    return ContainerCounters(uid, identifier, cpu, 1.0, periods, throttled, waiting, memory, disk)


def node(*readings, gpus=("GPU-1",), own=OWN, name="n1"):
    return ServiceNode(name, tuple(readings), frozenset(gpus), own)


def test_heat_and_power_are_shares_of_time_and_name_the_gpu_where_they_are_worst():
    readings = [
        reading(at, gpus=[gpu(heat=10.0, power=at / 2), gpu("GPU-2", heat=at / 4, power=0.0)]) for at in (100.0, 160.0)
    ]
    found = measured([node(*readings, gpus=("GPU-1", "GPU-2"))])
    assert found["gpu_heat_throttled"].value == pytest.approx(0.25)
    assert found["gpu_heat_throttled"].place == "GPU GPU-2 of node n1"
    assert found["gpu_clock_throttled"].value == pytest.approx(0.5)
    assert found["gpu_clock_throttled"].place == "GPU GPU-1 of node n1"


def test_without_counters_the_reasons_of_each_moment_tell():
    masks = [0x1, 0x40, 0x4, 0x0]
    readings = [reading(100.0 + 15.0 * at, gpus=[gpu(reasons=float(mask))]) for at, mask in enumerate(masks)]
    found = measured([node(*readings)])
    assert found["gpu_heat_throttled"].value == 0.25
    assert found["gpu_clock_throttled"].value == 0.5


def test_gpus_of_others_do_not_speak_for_the_service():
    readings = [reading(at, gpus=[gpu(heat=0.0), gpu("GPU-9", heat=at)]) for at in (100.0, 160.0)]
    assert measured([node(*readings)])["gpu_heat_throttled"].value == 0.0


@pytest.mark.parametrize(
    ("model", "speed", "share"),
    [
        ("NVIDIA H100 80GB HBM3", NONE, 1.0),
        ("NVIDIA H100 80GB HBM3", 126e9, 0.5),
        ("A card of tomorrow", NONE, None),
        ("A card of tomorrow", 63e9, 1.0),
    ],
)
def test_pcie_is_the_busier_direction_over_the_link(model, speed, share):
    readings = [
        reading(at, gpus=[gpu(sent=at * 1e9, received=at * 63e9, model=model, pcie_speed=speed)])
        for at in (100.0, 160.0)
    ]
    found = measured([node(*readings)])["pcie_busy"].value
    assert isinstance(found, Unknown) if share is None else found == pytest.approx(share)


def test_a_container_is_judged_by_its_limit_and_named():
    rows = [
        (100.0, row(50.0, periods=1000.0, throttled=100.0, waiting=5.0)),
        (160.0, row(230.0, periods=1600.0, throttled=400.0, waiting=35.0)),
    ]
    found = measured([node(*(reading(at, rows=[one], pressure=0.9) for at, one in rows))])
    assert found["container_cpu"].value == pytest.approx(180.0 / 60.0 / 4.0)
    assert found["cpu_throttled"].value == pytest.approx(0.5)
    assert found["cpu_pressure"].value == pytest.approx(0.5)  # the container's own, not its node's
    assert found["cpu_throttled"].place == "container vllm of pod vllm-1 on node n1"


def test_containers_are_rated_over_the_times_at_which_they_were_read():
    rows = [(100.0, 100.0, 0.0), (100.0, 115.0, 0.0), (100.0, 130.0, 0.0), (160.0, 160.0, 60.0)]
    readings = [replace(reading(at, rows=[row(used)]), containers_at=read) for read, at, used in rows]
    latest = replace(node(*readings[-1:]), longer=tuple(readings))
    assert measured([latest])["container_cpu"].value == pytest.approx(0.25)


def test_without_pressure_in_the_container_that_of_the_node_counts():
    found = measured([node(reading(100.0, pressure=0.2), reading(160.0, pressure=0.4))])
    assert (found["cpu_pressure"].value, found["cpu_pressure"].place) == (pytest.approx(0.3), "node n1")


def test_only_the_engine_speaks_for_the_verdict_and_every_container_for_its_own_size():
    own = OWN | {("uid-1", "bbbbbbbb"): OwnContainer("vllm-1", "sidecar", 1.0, serves=False)}
    rows = [
        [row(at, periods=at, throttled=0.0), row(at, identifier="bbbbbbbb", periods=at, throttled=at / 2)]
        for at in (100.0, 160.0)
    ]
    nodes = [node(*(reading(at, rows=several) for at, several in zip((100.0, 160.0), rows, strict=True)), own=own)]
    assert measured(nodes)["cpu_throttled"].value == 0.0
    assert throttling(nodes)["sidecar"].value == pytest.approx(0.5)


def test_waits_for_memory_and_disks_are_the_containers_own_and_named():
    own = OWN | {("uid-1", "bbbbbbbb"): OwnContainer("vllm-1", "sidecar", NONE, serves=False)}
    rows = [
        [row(at, memory=at / 10, disk=at / 4), row(at, identifier="bbbbbbbb", memory=at / 2)] for at in (100.0, 160.0)
    ]
    nodes = [node(*(reading(at, rows=several) for at, several in zip((100.0, 160.0), rows, strict=True)), own=own)]
    found = measured(nodes)
    assert found["memory_pressure"].value == pytest.approx(0.1)
    assert found["memory_pressure"].place == "container vllm of pod vllm-1 on node n1"
    assert found["io_pressure"].value == pytest.approx(0.25)
    by_container = waiting_for_memory(nodes)
    assert by_container["sidecar"].value == pytest.approx(0.5)
    assert by_container["sidecar"].place == "container sidecar of pod vllm-1 on node n1"
    unmeasured = measured([node(reading(100.0, rows=[row(1.0)], pressure=0.9), reading(160.0, rows=[row(2.0)]))])
    assert isinstance(unmeasured["memory_pressure"].value, Unknown), "what others wait for is no word about the engine"


def test_where_only_names_are_known_the_container_is_found_by_its_name():
    named = {("inference", "vllm-1", "vllm"): OWN["uid-1", "aaaaaaaa"]}
    others = NamedCounters("another", "vllm-1", "vllm", 9.0, 1.0)
    readings = [
        replace(reading(at), named=(NamedCounters("inference", "vllm-1", "vllm", at, 1.0), others))
        for at in (100.0, 160.0)
    ]
    found = measured([replace(node(*readings), named=named)])
    assert found["container_cpu"].value == pytest.approx(0.25)
    assert found["container_cpu"].place == "container vllm of pod vllm-1 on node n1"
    assert isinstance(found["cpu_throttled"].value, Unknown)
    assert isinstance(measured([node(*readings)])["container_cpu"].value, Unknown)


def test_a_network_whose_speed_nobody_knows_is_not_judged():
    links = [LinkCounters("eth0", at * 1e9, 0.0) for at in (100.0, 160.0)]
    found = measured([node(*(reading(at, links=[one]) for at, one in zip((100.0, 160.0), links, strict=True)))])
    assert isinstance(found["network_busy"].value, Unknown)


def test_the_busiest_link_is_named():
    readings = [
        reading(at, links=[LinkCounters("eth0", at * 1e6, 0.0, 1e9), LinkCounters("ib0", 0.0, at * 20e9, 25e9)])
        for at in (100.0, 160.0)
    ]
    found = measured([node(*readings)])["network_busy"]
    assert (found.value, found.place) == (pytest.approx(0.8), "link ib0 of node n1")


def test_a_driver_that_was_loaded_anew_counts_from_zero():
    readings = [reading(at, gpus=[gpu(heat=heat, power=0.0)]) for at, heat in ((100.0, 900.0), (160.0, 6.0))]
    assert measured([node(*readings)])["gpu_heat_throttled"].value == pytest.approx(0.1)


@given(
    st.lists(
        st.tuples(st.floats(1.0, 1e9), st.floats(0.0, 1e15) | st.just(NONE), st.floats(0.0, 1e15) | st.just(NONE)),
        max_size=6,
        unique_by=lambda one: one[0],
    )
)
def test_whatever_is_counted_every_share_is_a_share_or_unknown(points):
    readings = [
        reading(
            at,
            gpus=[gpu(heat=one, power=other, reasons=one, sent=one, received=other)],
            rows=[row(one, periods=one, throttled=other, waiting=other)],
            links=[LinkCounters("", one, other, 1e9)],
        )
        for at, one, other in sorted(points, key=lambda point: point[0])
    ]
    nodes = [node(*readings)]
    for found in (*measured(nodes).values(), *throttling(nodes).values()):
        assert isinstance(found.value, Unknown) or 0.0 <= found.value <= 1.0
