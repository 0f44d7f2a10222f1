"""What the agent itself uses: CPU, throttling and memory of its own cgroup, of version 1 or 2.

`/proc/self` counts this process; the cgroup is what the container's limit is held against: kernel memory, page cache
and sockets are on its account too, and who sets limits asks for that. The group is found as the kernel names it
(`/proc/self/cgroup`) below the process's own mount, never below a mounted one of the host. A process in the root group
(an agent by hand on a machine without systemd) shares it with everything else: that is *unsupported*, not a figure.
"""

from pathlib import Path

from optiinfra_agent.cgroups import bytes_of, keyed, number, seconds_of
from optiinfra_agent.errors import SourceFailedError, SourceUnavailableError, SourceUnsupportedError
from optiinfra_agent.procfs import read_text
from optiinfra_agent.snapshot import Measured, OwnUsage, Reason, Unknown

MOUNT = Path("/sys/fs/cgroup")
_NO_LIMIT = 1 << 60
"""Version 1 has no word for "no limit": it gives the largest number of pages, near 2^63."""
_V1 = (("cpu,cpuacct", "cpuacct"), ("memory",))
_SHARED = "this process is in the root cgroup, which it shares with everything"
_ROOT = Unknown(Reason.UNSUPPORTED)


class OwnUsageCollector:
    """Reads the cgroup that this process is in."""

    def __init__(self, *, process: Path = Path("/proc/self"), mount: Path = MOUNT) -> None:
        self._process = process
        self._mount = mount

    def collect(self) -> OwnUsage:
        """Return one reading, or raise a SourceError when the process has no group of its own."""
        groups = parse_groups(read_text(self._process / "cgroup"))
        if "" in groups and (self._mount / "cgroup.controllers").is_file():
            folder = _own(self._mount, groups[""])
            # Of all groups, only the root has no events.
            if not (folder / "cgroup.events").exists():
                raise SourceUnsupportedError(_SHARED)
            return _v2(folder)
        found = [next((self._mount / name for name in names if (self._mount / name).is_dir()), None) for names in _V1]
        if None in found or not {"cpuacct", "memory"} <= groups.keys():
            raise SourceUnavailableError(f"{self._mount} does not hold this process's cgroup")
        cpu, memory = (_own_v1(mount, groups[name]) for mount, name in zip(found, ("cpuacct", "memory"), strict=True))
        if cpu is None and memory is None:
            raise SourceUnsupportedError(_SHARED)
        return _v1(cpu, memory)


def _own(mount: Path, path: str) -> Path:
    # Without a namespace of its own a container reads the host's path, while its mount shows its own group at the top;
    # with one it reads "/".
    folder = mount / path.lstrip("/")
    return folder if folder.is_dir() else mount


def _own_v1(mount: Path | None, path: str) -> Path | None:
    if mount is None:
        return None
    folder = _own(mount, path)
    # Of all groups, only the root has it.
    return None if (folder / "release_agent").exists() else folder


def parse_groups(text: str) -> dict[str, str]:
    """Return controller -> path from `/proc/<pid>/cgroup`; the controller of version 2 is the empty name."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3 or not parts[2].startswith("/"):
            raise SourceFailedError(f"a line of the process's cgroups is not understood: {line[:60]!r}")
        for controller in parts[1].split(","):
            groups[controller] = parts[2]
    return groups


def _v2(folder: Path) -> OwnUsage:
    memory = bytes_of(number(folder / "memory.current"))
    spent, throttled = keyed(folder / "cpu.stat", "usage_usec", "throttled_usec")
    return OwnUsage(
        cpu_seconds_total=seconds_of(spent, 1e6),
        cpu_throttled_seconds_total=seconds_of(throttled, 1e6),
        memory_bytes=memory,
        working_set_bytes=_working(memory, bytes_of(*keyed(folder / "memory.stat", "inactive_file"))),
        memory_limit_bytes=_limit(folder / "memory.max"),
    )


def _v1(cpu: Path | None, memory: Path | None) -> OwnUsage:
    # Each controller has a tree of its own, and this process may be in the root of one of them.
    spent: Measured = _ROOT
    throttled: Measured = _ROOT
    used: Measured = _ROOT
    inactive: Measured = _ROOT
    limit: Measured = _ROOT
    if cpu is not None:
        spent = seconds_of(number(cpu / "cpuacct.usage"), 1e9)
        throttled = seconds_of(keyed(cpu / "cpu.stat", "throttled_time")[0], 1e9)
    if memory is not None:
        used = bytes_of(number(memory / "memory.usage_in_bytes"))
        inactive = bytes_of(*keyed(memory / "memory.stat", "total_inactive_file"))
        limit = _limit(memory / "memory.limit_in_bytes")
    return OwnUsage(
        cpu_seconds_total=spent,
        cpu_throttled_seconds_total=throttled,
        memory_bytes=used,
        working_set_bytes=_working(used, inactive),
        memory_limit_bytes=limit,
    )


def _working(used: Measured, inactive: Measured) -> Measured:
    if isinstance(used, Unknown):
        return used
    return inactive if isinstance(inactive, Unknown) else max(0, used - inactive)


def _limit(path: Path) -> Measured:
    limit = number(path, words={"max": Unknown(Reason.UNAVAILABLE)})
    return Unknown(Reason.UNAVAILABLE) if not isinstance(limit, Unknown) and limit >= _NO_LIMIT else limit
