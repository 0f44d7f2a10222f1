"""Memory and swap of the node, from `/proc/meminfo`.

Parsed here and not by psutil: for a line that is missing psutil warns and returns 0 (`virtual_memory`), and here
unknown is not zero. Used is total minus `MemAvailable`, the kernel's own estimate of what could still be given out;
kernels before 3.14 lack it, and then used is unknown instead of guessed.
"""

from pathlib import Path

from optiinfra_agent.errors import SourceFailedError
from optiinfra_agent.procfs import read_text
from optiinfra_agent.snapshot import Measured, MemoryReading, Reason, Unknown

_KIBIBYTE = 1024


class MemoryCollector:
    """Reads `/proc/meminfo`."""

    def __init__(self, procfs: Path) -> None:
        self._path = procfs / "meminfo"

    def collect(self) -> MemoryReading:
        """Return one reading, or raise a SourceError when the file cannot be read or understood."""
        return parse_memory(read_text(self._path))


def parse_memory(text: str) -> MemoryReading:
    """Return the reading that the text of `/proc/meminfo` holds."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        parts = rest.split()
        if len(parts) == 2 and parts[1] == "kB" and parts[0].isdigit():
            values[name] = int(parts[0]) * _KIBIBYTE
    total = values.get("MemTotal")
    if not total:
        raise SourceFailedError("meminfo holds no MemTotal")
    available = values.get("MemAvailable")
    swap_total = values.get("SwapTotal")
    return MemoryReading(
        total_bytes=total,
        available_bytes=Unknown(Reason.UNSUPPORTED) if available is None else available,
        used_bytes=_difference(total, available),
        swap_total_bytes=Unknown(Reason.UNSUPPORTED) if swap_total is None else swap_total,
        swap_used_bytes=_difference(swap_total, values.get("SwapFree")),
    )


def _difference(total: int | None, rest: int | None) -> Measured:
    if total is None or rest is None:
        return Unknown(Reason.UNSUPPORTED)
    return total - rest if rest <= total else Unknown(Reason.FAILED)
