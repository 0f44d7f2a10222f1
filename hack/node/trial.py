"""Whether this machine can carry a node, found out by fetching all that it needs and starting one.

What `requirements` reads beforehand is not all: a sandbox may allow root everything and then refuse one mount, a mirror
of packages may not answer, the folder may lie on a file system that containers' layers cannot. Tests that run where
they can have to know that before the first of them, and to tell it from a fault of what they test. It takes seconds
once all is in the cache, minutes before, and never longer than it is given.
"""

import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hack.binaries import BinaryError, bin_folder, ensure
from hack.cluster.errors import ClusterError
from hack.cluster.sessions import session_folder, sweep
from hack.images import build, debian, indexes, tools
from hack.node import packages
from hack.node.cluster import DNS, KUBELET, PROXY, NodeCluster
from hack.node.requirements import unmet

SECONDS = 1200.0
"""For everything, with nothing in the cache and packages that come slowly."""
NEEDED_DISK = 6 * 10**9
"""Bytes: packages, both bases, buildah's storage, the node's own copy of the images."""
NEEDED_MEMORY = 3 * 2**30
"""Bytes: a control plane, a kubelet and the pods of one release."""
INDEX_SECONDS = 20.0

Say = Callable[[str], None]


class _TimeIsUp(BaseException):
    """Nobody who waits for something else is to take it for an error of that."""


def obstacle(*, base: str | None, say: Say, seconds: float = SECONDS) -> str | None:
    """Return in words why no node can be had here, or None after one was up and is down again.

    `base` is that of the images (`hack.images.build`). What it fetches and makes stays in the cache.
    """
    step = "looking at the machine"
    try:
        with _within(seconds):
            if missing := [*unmet([bin_folder(), build.FOLDER]), *_too_small()]:
                return "; ".join(missing)
            for step, work in _steps(base, say):
                say(f"  {step}")
                work()
    except _TimeIsUp:
        return f"{step}: not done within {seconds:.0f} s"
    except (ClusterError, BinaryError, OSError, subprocess.SubprocessError) as error:
        return f"{step}: {' '.join(str(error).split())}"
    return None


def _steps(base: str | None, say: Say) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "packages of the node", lambda: packages.tools(packages.NODE, say=say)
    yield "packages to build images", lambda: tools.find(None, say=say).prepare()
    if base == build.DEBIAN:
        yield "base of the images", lambda: debian.bases(say=say)
    yield "an index of Python's packages", _ask_index
    yield "kubelet and its company", lambda: ensure([KUBELET, PROXY, DNS, "helm", "helm4"], say=say)
    yield "a node, up and down", lambda: _try(say)


def _try(say: Say) -> None:
    """Start a node and end it; whatever else uses the machine may have changed it meanwhile, which is not judged."""
    sweep()
    cluster = NodeCluster(session_folder("trial"), say=say)
    try:
        cluster.up(owned=True)
        cluster.run("/usr/sbin/nft", "list", "ruleset")
    finally:
        cluster.down()


def _ask_index() -> None:
    """Ask for one page of the index that the build asks, as pip does."""
    url = f"{indexes.url().rstrip('/')}/hatchling/"
    try:
        with urllib.request.urlopen(url, timeout=INDEX_SECONDS) as answer:  # noqa: S310  a setting of this machine
            answer.read(1024)
    except (urllib.error.URLError, ValueError) as error:
        raise ClusterError(f"{indexes.shown(url)}: {error}") from error


def _too_small() -> list[str]:
    folder = bin_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    memory = _available_memory()
    found = []
    if free < NEEDED_DISK:
        found.append(f"{NEEDED_DISK / 1e9:.0f} GB of disk are needed in {folder}, {free / 1e9:.1f} are free")
    if memory < NEEDED_MEMORY:
        found.append(f"{NEEDED_MEMORY / 2**30:.0f} GiB of memory are needed, {memory / 2**30:.1f} are available")
    return found


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise _TimeIsUp in this thread when the time is up; what it waits for is then given up."""

    def over(_: int, __: FrameType | None) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
