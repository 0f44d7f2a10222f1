"""Network, disks and NUMA nodes of the host: what counts, what is left out, and what is no measurement."""

from collections.abc import Callable
from pathlib import Path

import pytest

from optiinfra_agent.disks import DiskCollector, parse_disks
from optiinfra_agent.errors import SourceFailedError, SourceUnavailableError, SourceUnsupportedError
from optiinfra_agent.network import NetworkCollector, is_virtual
from optiinfra_agent.numa import NumaCollector, node_of, parse_numbers
from optiinfra_agent.snapshot import NumaNode, Reason, Unknown
from tests.unit.agent.conftest import Agent


def test_real_interfaces_are_summed_up(procfs: Path) -> None:
    reading = NetworkCollector(procfs).collect()
    assert reading.interfaces == 2
    assert (reading.receive_bytes_total, reading.transmit_bytes_total) == (1500, 3700)
    assert (reading.errors_total, reading.dropped_total) == (5, 10)


@pytest.mark.parametrize("name", ["lo", "veth1a2b", "cali0", "cilium_host", "br-12ab", "docker0", "eni0123456789a"])
def test_what_carries_the_same_bytes_again_is_left_out(name: str) -> None:
    assert is_virtual(name)


@pytest.mark.parametrize("name", ["eth0", "ens5", "eno1", "enp3s0f0", "bond0", "ib0", "hsn0", "eni1", "lo1x"])
def test_cards_count(name: str) -> None:
    assert not is_virtual(name)


@pytest.mark.parametrize("name", ["python", None])
def test_a_container_s_own_network_is_not_the_node_s(procfs: Path, name: str | None) -> None:
    comm = procfs / "2" / "comm"
    if name is None:
        comm.unlink()
    else:
        comm.write_text(f"{name}\n")
    with pytest.raises(SourceUnsupportedError, match="does not show the host's processes"):
        NetworkCollector(procfs).collect()


@pytest.mark.parametrize(
    "line", ["ens5 1 2 3", "ens5: 1 2", "ens5: 1 2 3 4 5 6 7 8 9 10 11 x", "ens5: -1 2 3 4 5 6 7 8 9 1 1 1"]
)
def test_a_damaged_interface_fails_the_source(procfs: Path, line: str) -> None:
    (procfs / "1" / "net" / "dev").write_text(f"a\nb\n{line}\n")
    with pytest.raises(SourceFailedError, match="not understood"):
        NetworkCollector(procfs).collect()


def test_whole_disks_are_summed_up(procfs: Path) -> None:
    reading = DiskCollector(procfs).collect()
    assert reading.disks == 2
    assert reading.read_bytes_total == 2008 * 512
    assert reading.written_bytes_total == 4016 * 512
    assert reading.busy_seconds_total == 2.0


def test_a_node_without_disks_has_none_and_a_damaged_line_fails() -> None:
    assert parse_disks("").disks == 0
    with pytest.raises(SourceFailedError, match="not understood"):
        parse_disks("8 0 sda 1 2 three 4 5 6 7 8 9 10 11")
    with pytest.raises(SourceFailedError, match="not believed"):
        parse_disks("x\n" * 5000)


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    folder = tmp_path / "sys"
    nodes = folder / "devices" / "system" / "node"
    for number, free in ((0, 100), (1, 200)):
        (nodes / f"node{number}").mkdir(parents=True)
        text = f"Node {number} MemTotal:  1000 kB\nNode {number} MemFree:    {free} kB\n"
        (nodes / f"node{number}" / "meminfo").write_text(text)
    (nodes / "online").write_text("0-1\n")
    for bus, number in (("0000:18:00.0", "1"), ("0000:19:00.0", "-1"), ("0000:1a:00.0", "x")):
        (folder / "bus" / "pci" / "devices" / bus).mkdir(parents=True)
        (folder / "bus" / "pci" / "devices" / bus / "numa_node").write_text(f"{number}\n")
    return folder


def test_numa_nodes_and_their_memory(sysfs: Path) -> None:
    assert NumaCollector(sysfs).collect().nodes == (
        NumaNode(0, 1000 * 1024, 100 * 1024),
        NumaNode(1, 1000 * 1024, 200 * 1024),
    )
    (sysfs / "devices/system/node/node1/meminfo").unlink()
    unknown = Unknown(Reason.UNAVAILABLE)
    assert NumaCollector(sysfs).collect().nodes[1] == NumaNode(1, unknown, unknown)
    (sysfs / "devices/system/node/online").unlink()
    with pytest.raises(SourceUnavailableError):
        NumaCollector(sysfs).collect()


@pytest.mark.parametrize(("text", "numbers"), [("0\n", (0,)), ("0-3", (0, 1, 2, 3)), ("0,2-3", (0, 2, 3))])
def test_lists_of_the_kernel(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "0-", "0-9999", "-1"])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(SourceFailedError):
        parse_numbers(text)


@pytest.mark.parametrize(
    ("bus_id", "node"),
    [
        ("00000000:18:00.0", 1),
        ("0000:18:00.0", 1),
        ("00000000:19:00.0", Unknown(Reason.UNAVAILABLE)),
        ("00000000:1A:00.0", Unknown(Reason.FAILED)),
        ("00000000:FF:00.0", Unknown(Reason.UNAVAILABLE)),
        ("../../etc", Unknown(Reason.FAILED)),
        (Unknown(Reason.DENIED), Unknown(Reason.DENIED)),
    ],
)
def test_the_numa_node_of_a_device(sysfs: Path, bus_id: str | Unknown, node: int | Unknown) -> None:
    assert node_of(sysfs, bus_id) == node


def test_they_are_in_the_snapshot_and_in_the_metrics(start: Callable[..., Agent], procfs: Path, sysfs: Path) -> None:
    agent = start(OPTIINFRA_AGENT_PROCFS=str(procfs), OPTIINFRA_AGENT_SYSFS=str(sysfs))
    agent.snapshot()
    system = agent.document("/v1/system")
    assert system["network"]["receive_bytes_total"] == 1500
    assert system["disks"]["disks"] == 2
    assert [node["number"] for node in system["numa"]] == [0, 1]
    assert {"network", "disks", "numa"} <= set(system["sources"])
    metrics = agent.metrics()
    assert metrics["optiinfra_node_network_transmit_bytes_total"] == 3700
    assert metrics["optiinfra_node_disk_written_bytes_total"] == 4016 * 512
    assert metrics['optiinfra_node_numa_memory_free_bytes{numa_node="1"}'] == 200 * 1024
    assert metrics['optiinfra_node_cpu_seconds_total{mode="iowait"}'] == 2.0
