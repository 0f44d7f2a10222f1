"""What the node's disks read and wrote, and how long they were busy.

`/proc/diskstats` is not namespaced: it is the host's inside a container, too. Whole disks count, not their partitions,
and neither loop devices nor RAM disks nor the layers of device-mapper and RAID, which carry the same bytes again. How
much tasks wait for disks stands under pressure, which is the better question; this says how much the disks do.
"""

import re
from pathlib import Path

from optiinfra_agent.errors import SourceFailedError
from optiinfra_agent.procfs import read_text
from optiinfra_agent.snapshot import DiskReading

MAX_DISKS = 4096
_SECTOR = 512  # what the kernel counts in, whatever the disk's own sectors are
_WHOLE = re.compile(r"(sd[a-z]+|vd[a-z]+|xvd[a-z]+|hd[a-z]+|nvme[0-9]+n[0-9]+|mmcblk[0-9]+)")


class DiskCollector:
    """Reads `/proc/diskstats`."""

    def __init__(self, procfs: Path) -> None:
        self._path = procfs / "diskstats"

    def collect(self) -> DiskReading:
        """Return one reading, or raise a SourceError."""
        return parse_disks(read_text(self._path))


def parse_disks(text: str) -> DiskReading:
    """Return the sums over all whole disks (fields of Documentation/admin-guide/iostats.rst)."""
    read = written = busy = waiting = disks = 0
    lines = text.splitlines()
    if len(lines) > MAX_DISKS:
        raise SourceFailedError(f"{len(lines)} block devices; more than {MAX_DISKS} are not believed")
    for line in lines:
        columns = line.split()
        if len(columns) < 14 or not all(number.isdigit() for number in columns[3:14]):
            raise SourceFailedError(f"a line of diskstats is not understood: {line[:60]!r}")
        if not _WHOLE.fullmatch(columns[2]):
            continue
        disks += 1
        read += int(columns[5]) * _SECTOR
        written += int(columns[9]) * _SECTOR
        busy += int(columns[12])
        waiting += int(columns[13])
    return DiskReading(
        disks=disks,
        read_bytes_total=read,
        written_bytes_total=written,
        busy_seconds_total=round(busy / 1000, 3),
        waiting_seconds_total=round(waiting / 1000, 3),
    )
