"""Pressure stall information of the node: how much of the last 10 s tasks waited for CPU, memory or I/O.

Kernels 4.20 and later have it when built with CONFIG_PSI (some distributions also need `psi=1`), on cgroup v1 too.
A kernel without it is *unsupported*, not failed: nothing is wrong with the node. Pressure of single containers is read
with their cgroups, for the operator: it is in the snapshot and not in `/metrics`, where the kubelet exports it already.
"""

import math
import re
from pathlib import Path

from optiinfra_agent.errors import (
    SourceError,
    SourceFailedError,
    SourceUnavailableError,
    SourceUnsupportedError,
)
from optiinfra_agent.procfs import read_text
from optiinfra_agent.snapshot import Measured, PressureReading, Reason, Unknown, reason_of

_RESOURCES = ("cpu", "memory", "io")
_STALLED = re.compile(r"^some [^\n]*\btotal=([0-9]{1,16})$", re.MULTILINE)


class PressureCollector:
    """Reads `/proc/pressure/{cpu,memory,io}`."""

    def __init__(self, procfs: Path) -> None:
        self._folder = procfs / "pressure"

    def collect(self) -> PressureReading:
        """Return one reading; raise the first SourceError when none of the three files gave anything."""
        pages: dict[str, dict[str, float]] = {}
        errors: dict[str, SourceError] = {}
        for resource in _RESOURCES:
            try:
                pages[resource] = parse_pressure(self._read(resource))
            except SourceError as error:
                errors[resource] = error
        if not pages:
            raise errors[_RESOURCES[0]]

        def value(resource: str, kind: str) -> Measured:
            if resource in errors:
                return Unknown(reason_of(errors[resource].state))
            return pages[resource].get(kind, Unknown(Reason.UNSUPPORTED))

        return PressureReading(
            cpu_some_ratio=value("cpu", "some"),
            memory_some_ratio=value("memory", "some"),
            memory_full_ratio=value("memory", "full"),
            io_some_ratio=value("io", "some"),
            io_full_ratio=value("io", "full"),
        )

    def _read(self, resource: str) -> str:
        try:
            return read_text(self._folder / resource)
        except SourceUnavailableError as error:
            raise SourceUnsupportedError(f"this kernel has no {self._folder / resource}") from error


def parse_stalled(text: str) -> Measured:
    """Return the seconds in which some task waited since the file's group was made, of one pressure file."""
    found = _STALLED.search(text)
    return Unknown(Reason.FAILED) if found is None else round(int(found[1]) / 1e6, 3)


def parse_pressure(text: str) -> dict[str, float]:
    """Return the 10-second averages of one pressure file as ratios, by kind (`some`, `full`)."""
    ratios: dict[str, float] = {}
    for line in text.splitlines():
        kind, _, pairs = line.partition(" ")
        for name, _, number in (pair.partition("=") for pair in pairs.split()):
            if name != "avg10":
                continue
            try:
                percent = float(number)
            except ValueError as error:
                raise SourceFailedError(f"a pressure line is not understood: {line[:60]!r}") from error
            if not math.isfinite(percent) or not 0 <= percent <= 100:
                raise SourceFailedError(f"a pressure line is out of range: {line[:60]!r}")
            ratios[kind] = round(percent / 100, 6)
    if "some" not in ratios:
        raise SourceFailedError(f"a pressure file holds no average: {text[:60]!r}")
    return ratios
