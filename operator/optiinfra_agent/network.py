"""Bytes over the node's network interfaces, and what they lost.

Network counters are namespaced: inside a container `/proc/net/dev` is the container's own. The node's are those of
process 1 of the host, in the host's procfs (`/proc/1/net/dev`); where this process does not see the host's processes,
the counters would be a lie, and are *unsupported*. That it is the host is known by its process 2, which is the
kernel's and which no container has.

Virtual interfaces of pods and bridges carry the same bytes once more and are left out; what is left is summed up. An
interface with another name than all of these counts as real.
"""

import re
from pathlib import Path

from optiinfra_agent.errors import SourceError, SourceFailedError, SourceUnsupportedError
from optiinfra_agent.procfs import read_text
from optiinfra_agent.snapshot import NetworkReading

MAX_INTERFACES = 4096
_VIRTUAL = re.compile(
    r"lo"
    r"|(veth|cali|cilium_|lxc|cni|flannel|docker|br-|virbr|tunl|vxlan|geneve|kube-|nodelocaldns|dummy|gke|azv|ifb|tap).*"
    r"|eni[0-9a-f]{11}"  # a pod's end, as Amazon's CNI names it
)


class NetworkCollector:
    """Reads the host's `/proc/1/net/dev`."""

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs

    def collect(self) -> NetworkReading:
        """Return one reading; raise a SourceError, SourceUnsupportedError where the host's cannot be seen."""
        try:
            kernel = read_text(self._procfs / "2" / "comm").strip()
        except SourceError:
            kernel = ""
        if kernel != "kthreadd":
            raise SourceUnsupportedError(
                f"{self._procfs} does not show the host's processes: the network counters would be the container's own"
            )
        return parse_network(read_text(self._procfs / "1" / "net" / "dev"))


def parse_network(text: str) -> NetworkReading:
    """Return the sums over all real interfaces."""
    sums = [0, 0, 0, 0, 0, 0]
    interfaces = 0
    lines = text.splitlines()[2:]
    if len(lines) > MAX_INTERFACES:
        raise SourceFailedError(f"{len(lines)} network interfaces; more than {MAX_INTERFACES} are not believed")
    for line in lines:
        name, _, numbers = line.partition(":")
        columns = numbers.split()
        if len(columns) < 12 or not all(number.isdigit() for number in columns):
            raise SourceFailedError(f"a line of net/dev is not understood: {line[:60]!r}")
        if is_virtual(name.strip()):
            continue
        interfaces += 1
        # received bytes, errors, dropped; sent bytes, errors, dropped
        for place, column in enumerate((0, 2, 3, 8, 10, 11)):
            sums[place] += int(columns[column])
    return NetworkReading(
        interfaces=interfaces,
        receive_bytes_total=sums[0],
        transmit_bytes_total=sums[3],
        errors_total=sums[1] + sums[4],
        dropped_total=sums[2] + sums[5],
    )


def is_virtual(name: str) -> bool:
    """Return whether an interface is a pod's, a bridge's or the loopback."""
    return _VIRTUAL.fullmatch(name) is not None
