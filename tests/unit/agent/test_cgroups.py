"""CPU and memory of containers from trees of cgroups, of both versions and both drivers, as kubelets make them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.cluster.agents import parse_snapshot
from optiinfra.domain.agent_readings import NOT_REPORTED
from optiinfra_agent.cgroups import ContainerCollector, parse_keyed, parse_number
from optiinfra_agent.errors import SourceUnavailableError
from optiinfra_agent.pressure import parse_stalled
from optiinfra_agent.snapshot import ContainerReading, Reason, Unknown
from tests.unit.agent.conftest import Agent

NO_LIMIT = (Unknown(Reason.UNSUPPORTED),) * 5
UID = "0a1b2c3d-1111-2222-3333-444455556666"
STATIC = "0123456789abcdef0123456789abcdef"
ONE, TWO, PAUSE = ("1" * 64, "2" * 64, "3" * 64)
MIB = 1 << 20


def v2(folder: Path, *, cpu_s: float, memory: int, inactive: int) -> None:
    folder.mkdir(parents=True)
    (folder / "cpu.stat").write_text(f"usage_usec {int(cpu_s * 1e6)}\nuser_usec 1\nsystem_usec 2\n")
    (folder / "memory.current").write_text(f"{memory}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_anon 5\ninactive_file {inactive}\n")


def v1(root: Path, path: str, *, cpu_s: float, memory: int, inactive: int) -> None:
    (root / "cpu,cpuacct" / path).mkdir(parents=True)
    (root / "memory" / path).mkdir(parents=True)
    (root / "cpu,cpuacct" / path / "cpuacct.usage").write_text(f"{int(cpu_s * 1e9)}\n")
    (root / "memory" / path / "memory.usage_in_bytes").write_text(f"{memory}\n")
    (root / "memory" / path / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {inactive}\n")


@pytest.fixture
def systemd(tmp_path: Path) -> Path:
    """Version 2 below systemd: burstable pod with two containers, a static pod, sandboxes, strangers."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    pods = tmp_path / "kubepods.slice"
    burstable = pods / "kubepods-burstable.slice" / f"kubepods-burstable-pod{UID.replace('-', '_')}.slice"
    v2(burstable / f"cri-containerd-{ONE}.scope", cpu_s=12.5, memory=300 * MIB, inactive=100 * MIB)
    v2(burstable / f"cri-containerd-{TWO}.scope", cpu_s=0.2, memory=2 * MIB, inactive=3 * MIB)
    v2(burstable / f"cri-containerd-{PAUSE}.scope", cpu_s=0.02, memory=MIB // 2, inactive=0)
    v2(burstable / f"crio-conmon-{'4' * 64}.scope", cpu_s=9, memory=9 * MIB, inactive=0)
    v2(pods / f"kubepods-pod{STATIC}.slice" / f"crio-{ONE}.scope", cpu_s=3, memory=8 * MIB, inactive=MIB)
    v2(tmp_path / "system.slice" / "sshd.service", cpu_s=1, memory=MIB, inactive=0)
    return tmp_path


def test_version_2_below_systemd(systemd: Path) -> None:
    assert ContainerCollector(systemd).collect() == (
        ContainerReading(STATIC, "1" * 8, 3.0, 8 * MIB, 7 * MIB, *NO_LIMIT),
        ContainerReading(UID, "1" * 8, 12.5, 300 * MIB, 200 * MIB, *NO_LIMIT),
        # More inactive than in use happens between two readings of the kernel: the set is then empty, not negative.
        ContainerReading(UID, "2" * 8, 0.2, 2 * MIB, 0, *NO_LIMIT),
    )


@pytest.mark.parametrize("above", ["kubepods", "kubelet/kubepods"])
def test_version_2_without_systemd(tmp_path: Path, above: str) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    v2(tmp_path / above / "besteffort" / f"pod{UID}" / ONE, cpu_s=2, memory=4 * MIB, inactive=MIB)
    v2(tmp_path / above / f"pod{STATIC}" / TWO, cpu_s=2, memory=4 * MIB, inactive=MIB)
    assert [(one.pod_uid, one.id) for one in ContainerCollector(tmp_path).collect()] == [
        (STATIC, "2" * 8),
        (UID, "1" * 8),
    ]


def test_version_1(tmp_path: Path) -> None:
    v1(tmp_path, f"kubepods/burstable/pod{UID}/{ONE}", cpu_s=2.25, memory=10 * MIB, inactive=4 * MIB)
    assert ContainerCollector(tmp_path).collect() == (
        ContainerReading(UID, "1" * 8, 2.25, 10 * MIB, 6 * MIB, *(Unknown(Reason.UNAVAILABLE),) * 2, *NO_LIMIT[:3]),
    )


def test_one_file_that_is_missing_or_wrong_is_one_unknown(systemd: Path) -> None:
    folder = next(systemd.rglob(f"cri-containerd-{ONE}.scope"))
    (folder / "memory.stat").unlink()
    (folder / "cpu.stat").write_text("usage_usec minus\n")
    found = next(one for one in ContainerCollector(systemd).collect() if one.pod_uid == UID)
    assert found.memory_bytes == 300 * MIB
    assert found.working_set_bytes == Unknown(Reason.UNAVAILABLE)
    assert found.cpu_seconds_total == Unknown(Reason.UNSUPPORTED)


def test_container_that_has_just_ended_is_left_out(systemd: Path) -> None:
    for folder in systemd.rglob(f"cri-containerd-{ONE}.scope"):
        for file in folder.iterdir():
            file.unlink()
    assert "1" * 8 not in {one.id for one in ContainerCollector(systemd).collect() if one.pod_uid == UID}


def test_no_kubelet_s_tree_is_unavailable_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailableError, match="mount the host's there"):
        ContainerCollector(tmp_path).collect()
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    with pytest.raises(SourceUnavailableError, match="no kubepods"):
        ContainerCollector(tmp_path).collect()
    with pytest.raises(SourceUnavailableError, match="switched off"):
        ContainerCollector(None).collect()


def test_pressure_of_containers_is_in_the_snapshot_where_somebody_waited(
    start: Callable[..., Agent], systemd: Path
) -> None:
    line = "avg10=0.00 avg60=1.20 avg300=0.00 total={}\n"
    for folder, cpu, disk in ((ONE, 2_500_000, 700_000), (TWO, 0, 0)):
        group = next(systemd.rglob(f"cri-containerd-{folder}.scope"))
        (group / "cpu.pressure").write_text(f"some {line.format(cpu)}full {line.format(9)}")
        (group / "memory.pressure").write_text(f"some {line.format(0)}full {line.format(0)}")
        (group / "io.pressure").write_text(f"some {line.format(disk)}full {line.format(disk)}")
    found = {(one.pod_uid, one.id): one for one in ContainerCollector(systemd).collect()}
    busy, idle = found[UID, "1" * 8], found[UID, "2" * 8]
    assert busy.cpu_pressure_seconds_total == 2.5
    assert (busy.memory_pressure_seconds_total, busy.io_pressure_seconds_total) == (0.0, 0.7)
    assert idle.cpu_pressure_seconds_total == 0.0
    # The static pod's group has no such files, as on a kernel that keeps no pressure.
    assert found[STATIC, "1" * 8].cpu_pressure_seconds_total == Unknown(Reason.UNSUPPORTED)
    snapshot = start(OPTIINFRA_AGENT_CGROUPS=str(systemd)).snapshot()
    assert snapshot["container_fields"][4:] == ["cpu_pressure_seconds_total", "io_pressure_seconds_total"]
    assert snapshot["pods"][UID][0][4:] == [2, 1]
    assert snapshot["pods"][STATIC][0][4:] == [
        None,
        None,
        {"cpu_pressure_seconds_total": "unsupported", "io_pressure_seconds_total": "unsupported"},
    ]
    # And so the operator reads it: what nobody ever waited for has no column, and is not known to be nothing.
    one = parse_snapshot(json.dumps(snapshot).encode(), pods={UID}).containers[0]
    assert (one.cpu_waiting_seconds, one.io_waiting_seconds) == (2.0, 1.0)
    assert one.memory_waiting_seconds is NOT_REPORTED


@given(
    text=st.text(max_size=200) | st.builds("some avg10=0.00 avg60=0.00 avg300=0.00 total={}\n".format, st.integers())
)
def test_any_pressure_file_is_seconds_or_unknown(text: str) -> None:
    waited = parse_stalled(text)
    assert waited == Unknown(Reason.FAILED) or (not isinstance(waited, Unknown) and 0 <= waited < 1e11)


def test_links_are_not_followed(systemd: Path) -> None:
    (systemd / "kubepods.slice" / "kubepods-besteffort.slice").symlink_to(systemd / "kubepods.slice")
    assert len(ContainerCollector(systemd).collect()) == 3


@given(st.text(max_size=60))
def test_numbers_are_numbers_or_unknown(text: str) -> None:
    for found in (parse_number(text), parse_keyed(text, "usage_usec")):
        assert isinstance(found, Unknown) or 0 <= found < 10**19


@given(st.integers(0, 10**18), st.text(st.characters(codec="ascii"), max_size=30))
def test_the_right_key_is_taken(value: int, noise: str) -> None:
    text = f"total_usage_usec 1\nusage_usecs 2\nusage_usec {value}\n{noise}"
    assert parse_keyed(text, "usage_usec") == value


def test_row_with_an_unknown_value_ends_with_the_reason(start: Callable[..., Agent], systemd: Path) -> None:
    (next(systemd.rglob(f"crio-{ONE}.scope")) / "memory.stat").unlink()
    agent = start(OPTIINFRA_AGENT_CGROUPS=str(systemd))
    (row,) = agent.snapshot()["pods"][STATIC]
    assert row == ["1" * 8, 3.0, 8_390_000, None, {"working_set_bytes": "unavailable"}]


def test_seconds_have_tenths_where_a_tenth_says_nothing(start: Callable[..., Agent], systemd: Path) -> None:
    stat = next(systemd.rglob(f"crio-{ONE}.scope")) / "cpu.stat"
    for spent, told in ((9_999_127_000, 9999.13), (123_456_789_000, 123456.8)):
        stat.write_text(f"usage_usec {spent}\n", encoding="ascii")
        (row,) = start(OPTIINFRA_AGENT_CGROUPS=str(systemd)).snapshot()["pods"][STATIC]
        assert row[1] == told


def test_snapshot_groups_containers_by_pod(start: Callable[..., Agent], systemd: Path) -> None:
    agent = start(OPTIINFRA_AGENT_CGROUPS=str(systemd))
    snapshot = agent.snapshot()
    assert snapshot["sources"]["containers"]["state"] == "ok"
    assert {uid: len(containers) for uid, containers in snapshot["pods"].items()} == {STATIC: 1, UID: 2}
    assert snapshot["container_fields"] == ["id", "cpu_seconds_total", "memory_bytes", "working_set_bytes"]
    # Three digits of memory with pages of files, four of the working set.
    assert snapshot["pods"][UID][0] == ["1" * 8, 12.5, 315_000_000, 209_700_000]
    assert "containers" in agent.document("/")["capabilities"]
    assert not any("container_" in name for name in agent.metrics())
