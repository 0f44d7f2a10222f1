"""CPU of the node: core count, busy seconds since boot, utilisation since the last pass, load.

`/proc/stat` is not namespaced, so psutil sees the host even inside a container, which is what a node agent wants.
Three traps are avoided: `psutil.cpu_percent` keeps state of its own per module, so the ratio is made here from two
readings of the counters; `psutil.cpu_count` and `getloadavg` ignore the configured procfs, so the cores are the
lines of `/proc/stat` and the load is parsed by hand.

The first reading has no ratio (warming up), nor has one where the counters went backwards (a core went offline).
"""

import math
from dataclasses import dataclass
from pathlib import Path

import psutil

from optiinfra_agent.errors import SourceError, SourceFailedError
from optiinfra_agent.procfs import read_text
from optiinfra_agent.snapshot import CpuReading, Measured, Reason, Unknown, reason_of


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Seconds since boot, over all cores."""

    user: float
    system: float
    steal: float
    idle: float
    iowait: float

    @property
    def busy(self) -> float:
        """Neither idle nor waiting for I/O."""
        return self.user + self.system + self.steal

    @property
    def total(self) -> float:
        """All of it."""
        return self.busy + self.idle + self.iowait


class CpuCollector:
    """Reads the CPU counters and remembers the last ones."""

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs
        self._last: CpuTime | None = None
        psutil.PROCFS_PATH = str(procfs)

    def collect(self) -> CpuReading:
        """Return one reading, or raise a SourceError when even the counters cannot be read."""
        read_text(self._procfs / "stat")  # tells missing, denied and oversized apart before psutil parses it
        try:
            now = _cpu_time(psutil.cpu_times())
            cores = len(psutil.cpu_times(percpu=True))
        except (OSError, ValueError, IndexError, TypeError) as error:
            raise SourceFailedError(f"{self._procfs / 'stat'} is not understood: {error}") from error
        last, self._last = self._last, now
        return CpuReading(
            cores=cores or Unknown(Reason.FAILED),
            busy_seconds_total=round(now.busy, 2),
            utilization_ratio=Unknown(Reason.WARMING_UP) if last is None else utilization(last, now),
            load1=self._load(),
            user_seconds_total=round(now.user, 2),
            system_seconds_total=round(now.system, 2),
            steal_seconds_total=round(now.steal, 2),
            idle_seconds_total=round(now.idle, 2),
            iowait_seconds_total=round(now.iowait, 2),
        )

    def _load(self) -> Measured:
        try:
            return parse_load(read_text(self._procfs / "loadavg"))
        except SourceError as error:
            return Unknown(reason_of(error.state))


def _cpu_time(times: psutil._ntuples.scputimes) -> CpuTime:
    # The kernel already counts guest time within user and nice: adding it would count it twice.
    return CpuTime(
        user=times.user + times.nice,
        system=times.system + times.irq + times.softirq,
        steal=times.steal,
        idle=times.idle,
        iowait=times.iowait,
    )


def utilization(last: CpuTime, now: CpuTime) -> Measured:
    """Return the busy share between two readings; unknown where the counters stood still or went backwards."""
    busy, total = now.busy - last.busy, now.total - last.total
    if total <= 0 or busy < 0:
        return Unknown(Reason.FAILED)
    return round(min(1.0, busy / total), 4)


def parse_load(text: str) -> float:
    """Return the one-minute load of `/proc/loadavg`."""
    try:
        load = float(text.split(maxsplit=1)[0])
    except (IndexError, ValueError) as error:
        raise SourceFailedError(f"loadavg is not understood: {text[:40]!r}") from error
    if not math.isfinite(load) or load < 0:
        raise SourceFailedError(f"loadavg is not a load: {text[:40]!r}")
    return load
