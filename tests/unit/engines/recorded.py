"""Recordings of real engines and hand-written pages, as readings."""

import gzip
import tarfile
from functools import cache
from pathlib import Path

import optiinfra_sim
from optiinfra.domain.readings import EngineReading
from optiinfra.domain.units import UnixTime
from optiinfra.engines import page

RECORDINGS = Path(optiinfra_sim.__file__).parent / "recordings"
DATA = Path(__file__).parents[2] / "data" / "engines"
BATCH_BOUND = "vllm-0.32-cpu-batch-bound.tar.gz"
MEMORY_BOUND = "vllm-0.32-cpu-memory-bound-part1.tar.gz"


@cache
def raw(name: str) -> tuple[tuple[bytes, float], ...]:
    """Every page of a recording, with the time it was scraped at."""
    pages = []
    with tarfile.open(RECORDINGS / name) as archive:
        for member in sorted((one for one in archive if one.isfile()), key=lambda one: one.name):
            content = archive.extractfile(member)
            assert content is not None
            pages.append((content.read(), float(member.mtime)))
    return tuple(pages)


@cache
def readings(name: str) -> tuple[EngineReading, ...]:
    """A recording as readings."""
    return tuple(page.read(content, at=UnixTime(time)) for content, time in raw(name))


def written(name: str) -> EngineReading:
    """A page written by hand after an engine's documentation."""
    return page.read((DATA / name).read_bytes(), at=UnixTime(1000.0))


def lmcache_page() -> bytes:
    """A genuine page of LMCache's logger, to be put behind an engine's."""
    return gzip.decompress((DATA / "lmcache-0.5.6-logger.txt.gz").read_bytes())
