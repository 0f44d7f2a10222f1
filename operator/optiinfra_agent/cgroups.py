"""CPU time, memory and working set of each container, from the kubelet's cgroups, of version 1 or 2.

No API and no token: the kubelet's tree is found by its name below the mount (`kubepods` or `kubepods.slice`, possibly
below `kubelet` or `kubelet.slice`), pods by their uid and containers by their id in the names of folders, in both forms
(cgroupfs: `pod<uid>/<id>`; systemd: `...-pod<uid with _>.slice/cri-containerd-<id>.scope`). Static pods have a hash of
32 hexadecimal digits for a uid. Names of pods are not in there: the reader joins the uid, or the container's id.

Pressure is the kernel's `cpu.pressure`, `memory.pressure` and `io.pressure` of the container's own group, of version 2,
if the kernel keeps it.

Working set is memory in use without inactive file pages, as the kubelet defines it. A container that holds less than
1 MiB and used less than 1 s of CPU is left out: that is the sandbox's own (`pause`), and every pod has one.

Everything is bounded: depth, pods, containers, bytes of a file. A container that ends while it is read is left out.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from optiinfra_agent.errors import (
    SourceDeniedError,
    SourceFailedError,
    SourceUnavailableError,
)
from optiinfra_agent.pressure import parse_stalled
from optiinfra_agent.snapshot import ContainerReading, Measured, Reason, Unknown

MAX_PODS = 1024
MAX_CONTAINERS = 4096
ID_LENGTH = 8
_LIMIT = 64 * 1024
_ENTRIES = 16_384
_ROOTS = ("kubepods.slice", "kubepods", "kubelet.slice/kubelet-kubepods.slice", "kubelet/kubepods")
_CPU_FOLDERS = ("cpu,cpuacct", "cpuacct", "cpu")
_POD = re.compile(r"(?:[a-z0-9_-]+-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?")
_CONTAINER = re.compile(r"(?:(?:cri-containerd|crio|docker|libpod)-)?([0-9a-f]{64})(?:\.scope)?")
_SANDBOX_BYTES = 1 << 20
_SANDBOX_SECONDS = 1.0
_MAX_BYTES = 1 << 50
_MAX_SECONDS = 1e11
_NO_PRESSURE = Unknown(Reason.UNSUPPORTED)


@dataclass(frozen=True, slots=True)
class _Usage:
    """What the files of one container say, in seconds, periods and bytes."""

    cpu: Measured
    periods: Measured
    throttled: Measured
    memory: Measured
    inactive: Measured


class ContainerCollector:
    """Reads the cgroups of all containers below one mount."""

    def __init__(self, root: Path | None) -> None:
        self._root = root

    def collect(self) -> tuple[ContainerReading, ...]:
        """Return one reading for each container, or raise the SourceError of the whole source."""
        root = self._root
        if root is None:
            raise SourceUnavailableError("switched off")
        try:
            return self._collect(root)
        except PermissionError as error:
            raise SourceDeniedError(f"{error.filename} may not be read by this process") from error

    def _collect(self, root: Path) -> tuple[ContainerReading, ...]:
        is_v2 = (root / "cgroup.controllers").is_file()
        cpu = root if is_v2 else next((root / name for name in _CPU_FOLDERS if (root / name).is_dir()), None)
        if cpu is None:
            raise SourceUnavailableError(f"{root} holds no cgroups: mount the host's there, or set it off")
        kubepods = next((cpu / name for name in _ROOTS if (cpu / name).is_dir()), None)
        if kubepods is None:
            raise SourceUnavailableError(f"{cpu} holds no kubepods: no kubelet, or not the host's cgroups")
        found: list[ContainerReading] = []
        for folder, pod_uid, container in _containers(kubepods):
            if is_v2:
                reading = _reading(pod_uid, container, _usage_v2(folder))
                # Not of sandboxes, which are as many as the rest.
                reading = None if reading is None else _with_pressure(reading, folder)
            else:
                memory = root / "memory" / folder.relative_to(cpu)
                reading = _reading(pod_uid, container, _usage_v1(folder, memory))
            if reading is not None:
                found.append(reading)
        return tuple(sorted(found, key=lambda one: (one.pod_uid, one.id)))


def _containers(kubepods: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield folder, pod uid and container id; pods lie below the root or below a class of service."""
    pods = containers = 0
    for top in _folders(kubepods):
        for pod in (top,) if _POD.fullmatch(top.name) else _folders(top):
            match = _POD.fullmatch(pod.name)
            if match is None:
                continue
            pods += 1
            for folder in _folders(pod):
                container = _CONTAINER.fullmatch(folder.name)
                if container is None:
                    continue
                containers += 1
                if pods > MAX_PODS or containers > MAX_CONTAINERS:
                    raise SourceFailedError(f"more than {MAX_PODS} pods or {MAX_CONTAINERS} containers")
                yield folder, match[1].replace("_", "-"), container[1][:ID_LENGTH]


def _folders(folder: Path) -> list[Path]:
    found: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            for count, entry in enumerate(entries):
                if count > _ENTRIES:
                    raise SourceFailedError(f"{folder} holds more than {_ENTRIES} entries")
                if entry.is_dir(follow_symlinks=False):
                    found.append(Path(entry.path))
    except FileNotFoundError:
        return []  # the pod has ended in the meantime
    except PermissionError:
        raise
    except OSError as error:
        raise SourceFailedError(f"{folder} cannot be read: {error.strerror}") from error
    return found


def _reading(pod_uid: str, container: str, usage: _Usage) -> ContainerReading | None:
    cpu, memory, inactive = usage.cpu, usage.memory, usage.inactive
    working: Measured = Unknown(Reason.FAILED)
    if isinstance(memory, Unknown):
        working = memory
    elif isinstance(inactive, Unknown):
        working = inactive
    else:
        working = max(0, memory - inactive)
    if cpu == memory == Unknown(Reason.UNAVAILABLE):
        return None  # it has ended in the meantime
    small = not isinstance(memory, Unknown) and memory < _SANDBOX_BYTES
    if small and not isinstance(cpu, Unknown) and cpu < _SANDBOX_SECONDS:
        return None
    return ContainerReading(
        pod_uid=pod_uid,
        id=container,
        cpu_seconds_total=cpu,
        memory_bytes=memory,
        working_set_bytes=working,
        cpu_periods_total=usage.periods,
        cpu_throttled_periods_total=usage.throttled,
        cpu_pressure_seconds_total=_NO_PRESSURE,
        memory_pressure_seconds_total=_NO_PRESSURE,
        io_pressure_seconds_total=_NO_PRESSURE,
    )


def _usage_v2(folder: Path) -> _Usage:
    cpu, periods, throttled = keyed(folder / "cpu.stat", "usage_usec", "nr_periods", "nr_throttled")
    return _Usage(
        cpu=seconds_of(cpu, 1e6),
        periods=periods,
        throttled=throttled,
        memory=bytes_of(number(folder / "memory.current")),
        inactive=bytes_of(*keyed(folder / "memory.stat", "inactive_file")),
    )


def _with_pressure(reading: ContainerReading, folder: Path) -> ContainerReading:
    return replace(
        reading,
        cpu_pressure_seconds_total=_waited(folder / "cpu.pressure"),
        memory_pressure_seconds_total=_waited(folder / "memory.pressure"),
        io_pressure_seconds_total=_waited(folder / "io.pressure"),
    )


def _waited(path: Path) -> Measured:
    text = _text(path)
    if isinstance(text, Unknown):
        # No file, or one that cannot be read: the kernel was built without it, or started with psi=0.
        return _NO_PRESSURE if text.reason is Reason.UNAVAILABLE else text
    return parse_stalled(text)


def _usage_v1(cpu: Path, memory: Path) -> _Usage:
    periods, throttled = keyed(cpu / "cpu.stat", "nr_periods", "nr_throttled")
    return _Usage(
        cpu=seconds_of(number(cpu / "cpuacct.usage"), 1e9),
        periods=periods,
        throttled=throttled,
        memory=bytes_of(number(memory / "memory.usage_in_bytes")),
        inactive=bytes_of(*keyed(memory / "memory.stat", "total_inactive_file")),
    )


def seconds_of(value: Measured, unit: float) -> Measured:
    """Return seconds of a counter that runs `unit` times a second; what no machine has run is unknown."""
    if isinstance(value, Unknown):
        return value
    seconds = value / unit
    return round(seconds, 3) if seconds < _MAX_SECONDS else Unknown(Reason.FAILED)


def bytes_of(value: Measured) -> Measured:
    """Return bytes; what no machine has is unknown."""
    return value if isinstance(value, Unknown) or value < _MAX_BYTES else Unknown(Reason.FAILED)


def number(path: Path, *, words: Mapping[str, Unknown] | None = None) -> Measured:
    """Return the one number of a cgroup file; `words` are what may stand there instead."""
    text = _text(path)
    if isinstance(text, Unknown):
        return text
    return (words or {}).get(text.strip()) or parse_number(text)


def keyed(path: Path, *keys: str) -> tuple[Measured, ...]:
    """Return the numbers behind keys of a cgroup file, which is read once."""
    text = _text(path)
    return tuple(text if isinstance(text, Unknown) else parse_keyed(text, key) for key in keys)


def container_of(text: str) -> tuple[str, str] | None:
    """Return pod uid and container id of a process from its `/proc/<pid>/cgroup`; None outside every pod.

    By the names alone: seen from another cgroup namespace, the paths begin with `/..`.
    """
    for line in text.splitlines():
        names = line.partition(":")[2].partition(":")[2].split("/")
        for above, name in pairwise(names):
            pod, container = _POD.fullmatch(above), _CONTAINER.fullmatch(name)
            if pod and container:
                return pod[1].replace("_", "-"), container[1][:ID_LENGTH]
    return None


def parse_number(text: str) -> Measured:
    """Return the one number of a cgroup file."""
    word = text.strip()
    return int(word) if re.fullmatch(r"[0-9]{1,19}", word) else Unknown(Reason.FAILED)


def parse_keyed(text: str, key: str) -> Measured:
    """Return the number behind a key of a flat-keyed cgroup file."""
    found = re.search(rf"^{re.escape(key)} ([0-9]{{1,19}})$", text, re.MULTILINE)
    return int(found[1]) if found else Unknown(Reason.UNSUPPORTED)


def _text(path: Path) -> str | Unknown:
    # Not procfs.read_text: six files of each container are read, and one that has gone is no fault of the source.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Unknown(Reason.UNAVAILABLE)
    except PermissionError:
        return Unknown(Reason.DENIED)
    except OSError:
        return Unknown(Reason.FAILED)
    try:
        return os.read(descriptor, _LIMIT).decode("ascii", "replace")
    except OSError:
        # ENODEV: the group was removed between opening and reading.
        return Unknown(Reason.UNAVAILABLE)
    finally:
        os.close(descriptor)
