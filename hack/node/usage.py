"""What containers of a node really use, read from the kernel's own files, for comparison with what is said of them.

Memory is what the control group is charged with; the working set is that without file pages that nobody used lately,
the kubelet's own definition. CPU is time since the container's start. As everywhere in the node, by cgroupfs.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.errors import ClusterError
from hack.node.cgroups import Hierarchy


@dataclass(frozen=True, kw_only=True)
class Usage:
    """One container's."""

    memory: int
    """Bytes."""
    working_set: int
    """Bytes."""
    peak: int
    """Bytes, the most ever."""
    resident: int
    """Bytes that are resident of its processes, shared ones and the code's own included (VmRSS of /proc)."""
    cpu_seconds: float


def of_container(trees: tuple[Hierarchy, ...], group: str, container: str) -> Usage:
    """Read a running container's, by its whole id, below the node's group; raise ClusterError when it is not there."""
    if trees[0].is_v2:
        return _v2(_folder(trees[0].folder / group, container))
    memory = _folder(_tree(trees, "memory") / group, container)
    cpu = _folder(_tree(trees, "cpuacct") / group, container)
    used = _number(memory / "memory.usage_in_bytes")
    return Usage(
        memory=used,
        working_set=max(0, used - _entry(memory / "memory.stat", "total_inactive_file")),
        peak=_number(memory / "memory.max_usage_in_bytes"),
        resident=_resident(memory),
        cpu_seconds=_number(cpu / "cpuacct.usage") / 1e9,
    )


def _v2(folder: Path) -> Usage:
    used = _number(folder / "memory.current")
    return Usage(
        memory=used,
        working_set=max(0, used - _entry(folder / "memory.stat", "inactive_file")),
        peak=_number(folder / "memory.peak"),
        resident=_resident(folder),
        cpu_seconds=_entry(folder / "cpu.stat", "usage_usec") / 1e6,
    )


def _resident(folder: Path) -> int:
    total = 0
    for pid in (folder / "cgroup.procs").read_text(encoding="utf-8").split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            lines = Path("/proc", pid, "status").read_text(encoding="ascii").splitlines()
            # A process that ends has no memory any more, and no such line.
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
    return total


def _tree(trees: tuple[Hierarchy, ...], controller: str) -> Path:
    return next(tree.folder for tree in trees if controller in tree.options.split(","))


def _folder(group: Path, container: str) -> Path:
    found = next(group.glob(f"kubepods/**/{container}"), None)
    if found is None:
        raise ClusterError(f"no container {container[:12]} below {group}")
    return found


def _number(path: Path) -> int:
    return int(path.read_text(encoding="utf-8"))


def _entry(path: Path, name: str) -> int:
    for line in path.read_text(encoding="utf-8").splitlines():
        key, value = line.split()
        if key == name:
            return int(value)
    raise ClusterError(f"{path} says nothing of {name}")
