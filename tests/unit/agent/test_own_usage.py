"""The agent's own cgroup, as kernels and container runtimes show it to a process."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra_agent.errors import SourceFailedError, SourceUnavailableError, SourceUnsupportedError
from optiinfra_agent.own_usage import OwnUsageCollector, parse_groups
from optiinfra_agent.snapshot import OwnUsage, Reason, Unknown
from tests.unit.agent.conftest import once

MIB = 1 << 20


def collector(tmp_path: Path, groups: str) -> OwnUsageCollector:
    process, mount = tmp_path / "self", tmp_path / "cgroup"
    process.mkdir(exist_ok=True)
    mount.mkdir(exist_ok=True)
    (process / "cgroup").write_text(groups)
    return OwnUsageCollector(process=process, mount=mount)


def v2(folder: Path, *, limit: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cgroup.events").write_text("populated 1\n")
    (folder / "cpu.stat").write_text("usage_usec 2500000\nnr_periods 10\nthrottled_usec 750000\n")
    (folder / "memory.current").write_text(f"{30 * MIB}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {10 * MIB}\n")
    (folder / "memory.max").write_text(f"{limit}\n")


@pytest.mark.parametrize(
    ("groups", "below"),
    [
        ("0::/\n", ""),
        ("0::/system.slice/optiinfra-agent.service\n", "system.slice/optiinfra-agent.service"),
        # The host's path in a container that has no cgroup namespace of its own: its mount shows its group at the top.
        ("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-1.scope\n", ""),
    ],
    ids=["namespace", "host", "no namespace"],
)
def test_version_2(tmp_path: Path, groups: str, below: str) -> None:
    found = collector(tmp_path, groups)
    (tmp_path / "cgroup" / "cgroup.controllers").write_text("cpu memory\n")
    v2(tmp_path / "cgroup" / below, limit=str(128 * MIB))
    assert found.collect() == OwnUsage(2.5, 0.75, 30 * MIB, 20 * MIB, 128 * MIB)
    v2(tmp_path / "cgroup" / below, limit="max")
    assert found.collect().memory_limit_bytes == Unknown(Reason.UNAVAILABLE)


def test_the_root_group_is_not_the_agent_s(tmp_path: Path) -> None:
    found = collector(tmp_path, "0::/\n")
    (tmp_path / "cgroup" / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "cgroup" / "cpu.stat").write_text("usage_usec 123456789000\n")
    with pytest.raises(SourceUnsupportedError, match="root cgroup"):
        found.collect()


def test_version_1_with_one_controller_in_its_root(tmp_path: Path) -> None:
    found = collector(tmp_path, "4:memory:/agent\n2:cpu,cpuacct:/\n0::/\n")
    cpu, memory = tmp_path / "cgroup" / "cpu,cpuacct", tmp_path / "cgroup" / "memory"
    for folder in (cpu, memory, memory / "agent"):
        folder.mkdir(parents=True, exist_ok=True)
    (cpu / "release_agent").write_text("\n")
    (memory / "release_agent").write_text("\n")
    (memory / "agent" / "memory.usage_in_bytes").write_text(f"{30 * MIB}\n")
    (memory / "agent" / "memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {10 * MIB}\n")
    (memory / "agent" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    usage = found.collect()
    assert usage.cpu_seconds_total == Unknown(Reason.UNSUPPORTED)
    assert (usage.memory_bytes, usage.working_set_bytes) == (30 * MIB, 20 * MIB)
    assert usage.memory_limit_bytes == Unknown(Reason.UNAVAILABLE)
    (cpu / "release_agent").unlink()
    (cpu / "cpuacct.usage").write_text("1500000000\n")
    (cpu / "cpu.stat").write_text("nr_periods 3\nthrottled_time 250000000\n")
    usage = found.collect()
    assert (usage.cpu_seconds_total, usage.cpu_throttled_seconds_total) == (1.5, 0.25)


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailableError, match="does not hold this process's cgroup"):
        collector(tmp_path, "0::/x\n").collect()


@given(text=st.text(max_size=300) | st.lists(st.sampled_from(["0::/", ":", "4:memory:/a", "x"])).map("\n".join))
def test_any_text_is_groups_or_a_failed_source(text: str) -> None:
    try:
        groups = parse_groups(text)
    except SourceFailedError:
        return
    assert all(path.startswith("/") for path in groups.values())


def test_the_snapshot_says_what_the_agent_uses() -> None:
    snapshot = once()
    state = snapshot["sources"]["own_cgroup"]["state"]
    usage = snapshot["agent_usage"]
    # What this machine has depends on where the tests run; that each figure or its reason is there does not.
    assert state in {"ok", "unsupported", "unavailable"}
    assert {name for name, value in usage.items() if value is None} == set(usage.get("unknown", {}))
    assert state != "ok" or any(usage[name] is not None for name in ("cpu_seconds_total", "memory_bytes"))
