"""Gives every cluster of this machine ports and a /16 of loopback addresses that no other one uses.

A slot is a number from 20 to 60; it decides both. Whether it is taken is read from the command lines of the
running etcd and KWOK processes, which carry it: there is no register that could be out of date. Only clusters of
this tool are told apart so; the ports are tried as well, against everything else.
"""

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.errors import ClusterError

SLOTS = range(20, 61)
PORTS_PER_SLOT = 16
FIRST_PORT = 21000
"""Below 32768, where Linux begins to hand out ports to whoever asks for any."""
LOCK_SECONDS = 30.0
PORT_NAMES = ("etcd", "etcd_peer", "api", "controllers", "scheduler", "kwok")
_MARK = re.compile(rb"\0--(?:name=optiinfra-|cidr=127\.)(\d+)[.\0]")


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """The ports and the pod addresses of one cluster."""

    slot: int
    etcd: int
    etcd_peer: int
    api: int
    controllers: int
    scheduler: int
    kwok: int

    @property
    def pod_cidr(self) -> str:
        """The loopback addresses that KWOK gives to pods."""
        return f"127.{self.slot}.0.0/16"

    @property
    def etcd_name(self) -> str:
        """The mark of the slot on the etcd command line."""
        return f"optiinfra-{self.slot}"


@contextlib.contextmanager
def choose(preferred: int | None = None) -> Iterator[Addresses]:
    """Yield free addresses; hold the lock until a process runs that shows them as taken."""
    with _lock():
        taken = slots_in_use()
        order = [slot for slot in (preferred, *SLOTS) if slot is not None and slot not in taken]
        for slot in order:
            ports = [port for port in _ports_of(slot) if _is_free(port)][: len(PORT_NAMES)]
            if len(ports) == len(PORT_NAMES):
                yield Addresses(slot=slot, **dict(zip(PORT_NAMES, ports, strict=True)))
                return
    raise ClusterError(f"no free slot: {len(taken)} clusters run; end some with `python -m hack.cluster down`")


def slots_in_use() -> set[int]:
    """Read the slots of all running clusters from the process table."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if match := _MARK.search(path.read_bytes()):
                found.add(int(match[1]))
    return found


def _ports_of(slot: int) -> range:
    first = FIRST_PORT + (slot - SLOTS.start) * PORTS_PER_SLOT
    return range(first, first + PORTS_PER_SLOT)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Hold a name that the kernel frees when its holder ends, whatever its cache or temporary folder is."""
    deadline = time.monotonic() + LOCK_SECONDS
    with socket.socket(socket.AF_UNIX) as holder:
        while True:
            try:
                holder.bind("\0optiinfra-cluster-slots")
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise ClusterError(f"another cluster is starting for {LOCK_SECONDS:.0f} s already") from None
                time.sleep(0.05)
        yield
