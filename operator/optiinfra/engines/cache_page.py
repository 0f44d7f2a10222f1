"""A page of LMCache alone: its multi-process server's, or that of the connector's own API server.

An engine's page with LMCache's families on it needs none of this: `page.read` takes them as a guest. Where the cache
is scraped by itself, `beside` puts what it says to the engine's reading of about the same time. One server may serve
several engines; then it belongs to one of them only, or its sums count several times. Whoever calls decides which.
"""

from dataclasses import replace
from typing import Final

from optiinfra.domain.readings import CacheReading, EngineReading
from optiinfra.domain.units import UnixTime
from optiinfra.engines import lmcache
from optiinfra.engines.errors import PageError
from optiinfra.engines.layout import Layouts, read_samples
from optiinfra.engines.text import Wanted

_WANTED: Final[Wanted] = {name: part for guest in lmcache.GUESTS for name, part in guest.wanted.items()}
_LAYOUTS: Layouts[None] = Layouts()


def read(page: bytes, *, at: UnixTime) -> CacheReading:
    """Read a page scraped at a moment; `PageError` says why it cannot be."""
    _, samples = read_samples(page, _LAYOUTS, _reader)
    parts = [lmcache.read_guest(samples, guest) for guest in lmcache.GUESTS]
    reading = CacheReading(
        time=at,
        gauges={signal: value for part in parts for signal, value in part.gauges.items()},
        counters={signal: value for part in parts for signal, value in part.counters.items()},
        histograms={signal: one for part in parts for signal, one in part.histograms.items()},
        facts={name: value for part in parts for name, value in part.facts.items()},
    )
    if not reading.gauges and not reading.counters and not reading.histograms:
        raise PageError("no LMCache metrics on the page; its counters appear with their first event")
    return reading


def beside(reading: EngineReading, cache: CacheReading) -> EngineReading:
    """Return an engine's reading with what its cache says; what the engine's own page says stays."""
    return replace(
        reading,
        gauges={**cache.gauges, **reading.gauges},
        counters={**cache.counters, **reading.counters},
        histograms={**cache.histograms, **reading.histograms},
        facts={**cache.facts, **reading.facts},
    )


def _reader(_text: str) -> tuple[None, Wanted]:
    return None, _WANTED
