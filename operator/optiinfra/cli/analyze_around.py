"""What pages beside the engines' say of GPUs and nodes: told by what they hold, joined up to a moment."""

import re
from collections import deque
from collections.abc import Iterable
from typing import Final

from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.surroundings_readings import SurroundingsReading, surroundings_in
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.engines import gpu_page
from optiinfra.engines.errors import PageError

_MODEL: Final = re.compile(rb'^(?:DCGM_FI_|optiinfra_gpu_info).*?[{,]model(?:Name)?="([^"\\\n]{1,80})"', re.MULTILINE)
_SIGNS: Final = (b"\nDCGM_FI_", b"\noptiinfra_gpu_", b"\nnode_cpu_seconds_total")
"""One of them stands on an engine's page that carries such families as well."""


def read(content: bytes, *, at: UnixTime) -> SurroundingsReading | None:
    """Read a page that no engine serves; None where it says nothing of GPUs or nodes."""
    try:
        return gpu_page.read(content, at=at)
    except PageError:
        return None


def read_guest(content: bytes, *, at: UnixTime) -> SurroundingsReading | None:
    """Read what an engine's page carries besides; None for nearly all of them, at next to no cost."""
    return read(content, at=at) if any(sign in content for sign in _SIGNS) else None


def gpu_name(content: bytes) -> str:
    """Return the model of the first GPU that a page names; empty where it names none."""
    found = _MODEL.search(content)
    return "" if found is None else found[1].decode(errors="replace")


class Around:
    """Pages about GPUs and nodes, in the order of their times; those of the future are not looked at."""

    def __init__(self, readings: Iterable[tuple[str, SurroundingsReading]], *, window: Seconds) -> None:
        self._coming = deque(sorted(readings, key=lambda one: one[1].time))
        self._window = window
        self._pages: dict[str, deque[SurroundingsReading]] = {}

    def at(self, now: UnixTime) -> Surroundings:
        """Return what was measured in the window up to now. Moments must be asked for in order."""
        if not self._pages and not self._coming:
            return Surroundings()
        while self._coming and self._coming[0][1].time <= now:
            node, reading = self._coming.popleft()
            self._pages.setdefault(node, deque()).append(reading)
        for readings in self._pages.values():
            while readings and now - readings[0].time > self._window:
                readings.popleft()
        return surroundings_in(self._pages, now=now, window=self._window)
