"""The memory of each NUMA node, and which of them a GPU is nearest to.

A pod whose CPU and GPU lie on different nodes pays for it with every byte. The kernel's sysfs says both, and shows the
host's in a container. A machine that is not divided has one node; -1 beside a PCI device means that its firmware does
not say, and is *unavailable*, not node 0.
"""

import re
from pathlib import Path

from optiinfra_agent.errors import SourceError, SourceFailedError
from optiinfra_agent.procfs import read_text
from optiinfra_agent.snapshot import Measured, NumaNode, NumaReading, Reason, Text, Unknown, reason_of

MAX_NODES = 64
_KIBIBYTE = 1024
_BUS_ID = re.compile(r"(?:[0-9a-fA-F]{4})?([0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])")


class NumaCollector:
    """Reads `/sys/devices/system/node`."""

    def __init__(self, sysfs: Path) -> None:
        self._folder = sysfs / "devices" / "system" / "node"

    def collect(self) -> NumaReading:
        """Return one reading, or raise a SourceError."""
        return NumaReading(tuple(self._node(number) for number in parse_numbers(read_text(self._folder / "online"))))

    def _node(self, number: int) -> NumaNode:
        try:
            text = read_text(self._folder / f"node{number}" / "meminfo")
        except SourceError as error:
            unknown = Unknown(reason_of(error.state))
            return NumaNode(number, unknown, unknown)
        found = dict(re.findall(r"(MemTotal|MemFree):\s+([0-9]{1,15}) kB", text))
        total, free = (
            int(found[name]) * _KIBIBYTE if name in found else Unknown(Reason.FAILED)
            for name in ("MemTotal", "MemFree")
        )
        return NumaNode(number, total, free)


def parse_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a kernel list such as `0-1,4`."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        found = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        if found is None:
            raise SourceFailedError(f"a list of NUMA nodes is not understood: {text[:40]!r}")
        numbers += range(int(found[1]), int(found[2] or found[1]) + 1)
        if len(numbers) > MAX_NODES:
            raise SourceFailedError(f"more than {MAX_NODES} NUMA nodes are not believed: {text[:40]!r}")
    return tuple(numbers)


def node_of(sysfs: Path, pci_bus_id: Text) -> Measured:
    """Return the NUMA node of a PCI device."""
    if isinstance(pci_bus_id, Unknown):
        return pci_bus_id
    found = _BUS_ID.fullmatch(pci_bus_id)
    if found is None:
        return Unknown(Reason.FAILED)
    try:
        number = int(read_text(sysfs / "bus" / "pci" / "devices" / found[1].lower() / "numa_node"))
    except SourceError as error:
        return Unknown(reason_of(error.state))
    except ValueError:
        return Unknown(Reason.FAILED)
    return number if 0 <= number < MAX_NODES else Unknown(Reason.UNAVAILABLE)
