"""Who uses a GPU: its processes, those below MPS, and, where the host's PIDs can be seen, the containers they are in.

The process lists are the dearest calls of the driver (measured by others: 4.5 ms, against 2.5 microseconds for the
utilisation, under the driver's global lock), so they are read in a group of their own, more rarely than the rest;
between two readings the last one stands. An error of a GPU, and a new session, end that: what was known is asked anew.

The driver names processes by the host's PIDs. They mean something only to who sees those (hostPID, or the host's
procfs mounted); the container is then the one in whose cgroup the process is. The name of the pod is not known here,
its uid is. A process in no pod's cgroup is counted under empty names, never left out. Utilisation of processes comes
from samples since the last time stamp: without one, the driver averages over a span of its own choice. It lists only
processes that did something, so one that runs and is not listed did nothing.

On a partitioned GPU the driver lists the processes only to the privileged, and no utilisation at all.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from optiinfra_agent.cgroups import container_of
from optiinfra_agent.errors import SourceError, ValueUnknownError
from optiinfra_agent.nvml import FUNCTION_NOT_FOUND, NOT_FOUND, NvmlSession
from optiinfra_agent.procfs import read_text
from optiinfra_agent.snapshot import GpuUser, Measured, Reason, Unknown

MAX_PROCESSES: Final = 4096
MAX_USERS: Final = 256
"""Of one GPU; the rest is counted together with the processes outside every pod."""
EXCLUSIVE_PROCESS: Final = 3
"""NVML_COMPUTEMODE_EXCLUSIVE_PROCESS: one process at a time, which under MPS is its server."""
_LISTS: Final = ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2")
_MPS_LISTS: Final = ("nvmlDeviceGetMPSComputeRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v2")
_PERCENT_LIMIT: Final = 100
_MEMORY_LIMIT: Final = 1 << 50


@dataclass(frozen=True, slots=True)
class Clients:
    """What was last read of one GPU. Without the host's PIDs there are no `users`."""

    processes: Measured
    mps_processes: Measured
    compute_mode: Measured
    users: tuple[GpuUser, ...]


@dataclass(slots=True)
class _Gpu:
    clients: Clients
    due: float
    stamp: int = 0
    """Time stamp of the newest sample of a process."""


@dataclass(slots=True)
class _Sum:
    processes: int = 0
    memory: float = 0.0
    unknown: Unknown | None = None
    pids: list[int] = field(default_factory=list)


class ClientReader:
    """Reads the process lists of every GPU once in a while. For one thread: the one that owns the session."""

    def __init__(
        self, session: NvmlSession, *, clock: Callable[[], float], every_s: float, host_procfs: Path | None
    ) -> None:
        self._session = session
        self._clock = clock
        self._every_s = every_s
        self._procfs = host_procfs
        self._gpus: dict[str, _Gpu] = {}
        self._opening = session.openings

    def read(self, handle: Any, uuid: str, *, index: int) -> Clients:
        """Return who uses a GPU, as last read; raise GpuLostError or a SourceError."""
        if self._opening != self._session.openings:
            self._gpus.clear()
            self._opening = self._session.openings
        known = self._gpus.get(uuid)
        if known is not None and self._clock() < known.due:
            return known.clients
        clients, stamp = self._read(handle, index, 0 if known is None else known.stamp)
        self._gpus[uuid] = _Gpu(clients, self._clock() + self._every_s, stamp)
        return clients

    def keep(self, uuids: Collection[str]) -> None:
        """Forget all other GPUs: they are asked anew when they are back."""
        self._gpus = {uuid: gpu for uuid, gpu in self._gpus.items() if uuid in uuids}

    def _read(self, handle: Any, index: int, stamp: int) -> tuple[Clients, int]:
        listed = _listed(self._session, _LISTS, handle)
        below = _listed(self._session, _MPS_LISTS, handle)
        try:
            mode: Measured = int(self._session.call("nvmlDeviceGetComputeMode", handle))
        except ValueUnknownError as error:
            mode = Unknown(error.reason)
        users: tuple[GpuUser, ...] = ()
        if self._procfs is not None and not isinstance(listed, Unknown):
            busy, stamp = self._busy(handle, stamp)
            users = self._users(self._procfs, listed, busy, index)
        count = listed if isinstance(listed, Unknown) else len(listed)
        mps = below if isinstance(below, Unknown) else len(below)
        return Clients(count, mps, mode, users), stamp

    def _busy(self, handle: Any, stamp: int) -> tuple[dict[int, float] | Unknown, int]:
        """Return pid -> share of the multiprocessors' time since the stamp, and the new stamp."""
        try:
            samples = self._session.call("nvmlDeviceGetProcessUtilization", handle, stamp)
        except ValueUnknownError as error:
            # The binding takes "no sample" for an error, under the code of success.
            if error.code in {0, NOT_FOUND}:
                return ({} if stamp else Unknown(Reason.WARMING_UP)), stamp
            return Unknown(error.reason), stamp
        newer = [sample for sample in samples[:MAX_PROCESSES] if sample.timeStamp > stamp]
        values: dict[int, list[float]] = {}
        for sample in newer:
            if sample.smUtil <= _PERCENT_LIMIT:
                values.setdefault(int(sample.pid), []).append(sample.smUtil / _PERCENT_LIMIT)
        newest = max((int(sample.timeStamp) for sample in newer), default=stamp)
        if not stamp:
            return Unknown(Reason.WARMING_UP), newest
        return {pid: sum(shares) / len(shares) for pid, shares in values.items()}, newest

    def _users(
        self, procfs: Path, listed: list[Any], busy: dict[int, float] | Unknown, index: int
    ) -> tuple[GpuUser, ...]:
        sums: dict[tuple[str, str], _Sum] = {}
        for process in listed:
            owner = _owner(procfs, int(process.pid))
            if owner not in sums and len(sums) >= MAX_USERS:
                owner = ("", "")
            total = sums.setdefault(owner, _Sum())
            total.processes += 1
            total.pids.append(int(process.pid))
            if process.usedGpuMemory is None:
                total.unknown = Unknown(Reason.UNAVAILABLE)
            elif not 0 <= process.usedGpuMemory < _MEMORY_LIMIT:
                total.unknown = Unknown(Reason.FAILED)
            else:
                total.memory += process.usedGpuMemory
        return tuple(
            GpuUser(
                gpu_index=index,
                pod_uid=pod_uid,
                container=container,
                processes=total.processes,
                memory_bytes=total.memory if total.unknown is None else total.unknown,
                sm_ratio=busy
                if isinstance(busy, Unknown)
                else round(min(1.0, sum(busy.get(pid, 0.0) for pid in total.pids)), 4),
            )
            for (pod_uid, container), total in sorted(sums.items())
        )


def _listed(session: NvmlSession, names: tuple[str, ...], handle: Any) -> list[Any] | Unknown:
    for name in names:
        try:
            found = list(session.call(name, handle))
        except ValueUnknownError as error:
            if error.code != FUNCTION_NOT_FOUND:
                return Unknown(error.reason)
        else:
            return found if len(found) <= MAX_PROCESSES else Unknown(Reason.FAILED)
    return Unknown(Reason.UNSUPPORTED)


def _owner(procfs: Path, pid: int) -> tuple[str, str]:
    try:
        return container_of(read_text(procfs / str(pid) / "cgroup")) or ("", "")
    except SourceError:
        return "", ""  # it has ended since, and is still counted
