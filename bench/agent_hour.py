"""An hour of the agent in a few seconds: does its memory grow, and what does one collection cost?

Run in a process of its own with the agent's environment, it makes the agent's own objects and drives them: a
collection, some readings of `/metrics`, one of `/v1/snapshot`, and again. The clock that the agent sees is moved on by
one interval after each, so that everything rare (containers, process lists, pairs of GPM samples) comes as often as it
would. Sockets of readers are left out; those bench.agent reads over the real process.

The slope is the least-squares line through resident memory once the first passes are over, in MiB an hour of a node.
It prints one JSON object. It is no substitute for a node that ran for days: it shows what grows with collections and
scrapes, not what grows with the clock of the wall.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import threading
import time
from array import array
from collections.abc import MutableMapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

from bench.agent_node import resident_mib
from optiinfra_agent import health
from optiinfra_agent.collection import Collection
from optiinfra_agent.registration import Registration
from optiinfra_agent.server import Application
from optiinfra_agent.settings import read_settings
from optiinfra_agent.traffic import Traffic

INTERVAL_S = 15.0
HOUR = int(3600 / INTERVAL_S)
SCRAPES = 4
"""Of `/metrics`, for each collection: 960 an hour."""
WARM_UP = 60


@dataclass(frozen=True, slots=True)
class Hour:
    """What came of it."""

    passes: int
    resident_mib: float
    """At the end."""
    slope_mib_per_hour: float
    collection_cpu_ms: float
    scrape_cpu_ms: float
    blocks: int
    """Python's allocations at the end, less those after the first quarter: what is kept for ever adds up here."""


class _Clock:
    """The monotonic clock, moved on by hand."""

    def __init__(self) -> None:
        self._real = time.monotonic
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return self._real() + self.ahead_s


def slope(values: Sequence[float]) -> float:
    """Return the least-squares slope of evenly spaced values, per step; 0 for fewer than two."""
    middle = (len(values) - 1) / 2
    spread = sum((step - middle) ** 2 for step in range(len(values)))
    mean = sum(values) / len(values) if values else 0.0
    return sum((step - middle) * (value - mean) for step, value in enumerate(values)) / spread if spread else 0.0


def _blocks() -> int:
    gc.collect()  # what waits for it is not kept
    return sys.getallocatedblocks()


async def _read(application: Application, path: str) -> int:
    """Ask for one page as uvicorn does, and return its size."""
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        raise RuntimeError("the agent reads no body")

    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"accept-encoding", b"gzip")]}
    await application(scope, receive, send)
    if sent[0]["status"] != 200:
        raise SystemExit(f"{path} answered {sent[0]['status']}")
    return len(sent[1]["body"])


async def live(passes: int) -> Hour:
    """Live through so many collections, after the first ones, that only warm up."""
    settings = read_settings(os.environ)
    clock = _Clock()
    resident = array("d")  # a list of floats would be growth of our own
    collecting = scraping = 0.0
    before = 0
    with mock.patch.object(time, "monotonic", clock):
        collection = Collection(settings)
        traffic = Traffic()
        registration = Registration(
            settings,
            endpoint="http://bench",
            measured=threading.Event(),
            report=lambda: health.report(collection, traffic.answered),
        )
        application = Application(
            collection=collection, registration=registration, token=None, settings=settings, traffic=traffic
        )
        for number in range(WARM_UP + passes):
            if number == WARM_UP:
                collecting = scraping = 0.0
            if number == WARM_UP + passes // 4:
                before = _blocks()
            began = time.process_time()
            collection.collect()
            collected = time.process_time()
            for _ in range(SCRAPES):
                await _read(application, "/metrics")
            read = time.process_time()
            await _read(application, "/v1/snapshot")
            collecting += collected - began
            scraping += read - collected
            clock.ahead_s += settings.interval_s
            if number >= WARM_UP:
                resident.append(resident_mib("self"))
        after = _blocks()
    return Hour(
        passes=passes,
        resident_mib=resident[-1],
        slope_mib_per_hour=slope(resident) * HOUR,
        collection_cpu_ms=collecting / passes * 1000,
        scrape_cpu_ms=scraping / passes / SCRAPES * 1000,
        blocks=after - before,
    )


def main() -> int:
    """Live and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=4 * HOUR, help="collections (default: %(default)s, four hours)")
    options = parser.parse_args()
    print(json.dumps(asdict(asyncio.run(live(options.passes)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
