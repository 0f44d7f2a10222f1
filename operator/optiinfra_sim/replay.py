"""A recorded engine: the pages of a real vLLM, served unmodified, at the pace at which they were scraped.

A recording is a tar file with one page a member; a member's modification time is its scrape time. The series is
played once from the start; then its saturated part (from the first page that shows waiting requests) repeats, and
the fall of its counters looks like a restart of the engine, which a reader must survive anyway. Nothing is edited:
what the operator reads here is what a real engine wrote.
"""

import itertools
import re
import tarfile
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

from optiinfra_sim.errors import RecordingError

MAX_PAGES = 10_000
MAX_PAGE_BYTES = 4 * 2**20
_GAUGE = r"^vllm:{name}\{{[^}}]*\}} (\S+)$"
_WAITING = re.compile(_GAUGE.format(name="num_requests_waiting"), re.MULTILINE)
_RUNNING = re.compile(_GAUGE.format(name="num_requests_running"), re.MULTILINE)
_KV_USAGE = re.compile(_GAUGE.format(name="kv_cache_usage_perc"), re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RecordedPage:
    """One page and its place in the series, with the three gauges that the simulator's own table shows."""

    at: float
    body: bytes
    running: float
    waiting: float
    kv_usage: float


@dataclass(frozen=True, slots=True)
class Recording:
    """A page series; ``loop_from`` is the page at which every repetition begins."""

    pages: tuple[RecordedPage, ...]
    loop_from: int

    def page(self, *, elapsed: float) -> RecordedPage:
        """The page to serve ``elapsed`` seconds after the series began."""
        # The last page lasts as long as the pages do on average.
        end = self.pages[-1].at * len(self.pages) / (len(self.pages) - 1)
        if elapsed >= end:
            begin = self.pages[self.loop_from].at
            elapsed = begin + (elapsed - end) % (end - begin)
        index = bisect_right(self.pages, max(elapsed, 0.0), key=lambda page: page.at) - 1
        return self.pages[max(index, 0)]


def read_recording(path: Path) -> Recording:
    """Read a recorded series; refuses what is not one."""
    try:
        with tarfile.open(path, "r:*") as archive:
            raw = _members(archive, name=path.name)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise RecordingError(f"recording {path.name} cannot be read: {error}") from error
    if len(raw) < 2:
        raise RecordingError(f"recording {path.name}: needs at least two pages, has {len(raw)}")
    if raw[0][0] == raw[-1][0]:
        raise RecordingError(f"recording {path.name}: all pages carry the same modification time")
    moments = _spread([moment - raw[0][0] for moment, _ in raw])
    pages = tuple(_page(at, body, name=path.name) for at, (_, body) in zip(moments, raw, strict=True))
    loop_from = next((index for index, page in enumerate(pages) if page.waiting > 0), 0)
    return Recording(pages=pages, loop_from=loop_from)


def _spread(moments: list[float]) -> list[float]:
    """Modification times are whole seconds in most archives: pages of one second share it evenly."""
    spread: list[float] = []
    for second, group in itertools.groupby(moments):
        count = len(list(group))
        spread += [second + index / count for index in range(count)]
    return spread


def _members(archive: tarfile.TarFile, *, name: str) -> list[tuple[float, bytes]]:
    named: list[tuple[float, str, bytes]] = []
    for member in archive:
        if not member.isfile():
            continue
        if len(named) >= MAX_PAGES or member.size > MAX_PAGE_BYTES:
            raise RecordingError(f"recording {name}: at most {MAX_PAGES} pages of {MAX_PAGE_BYTES} bytes")
        content = archive.extractfile(member)
        if content is not None:
            named.append((float(member.mtime), member.name, content.read()))
    return [(moment, body) for moment, _, body in sorted(named, key=lambda page: page[:2])]


def _page(at: float, body: bytes, *, name: str) -> RecordedPage:
    text = body.decode("utf-8", errors="replace")
    found = [pattern.search(text) for pattern in (_RUNNING, _WAITING, _KV_USAGE)]
    try:
        running, waiting, kv_usage = (float(match.group(1)) for match in found if match is not None)
    except ValueError as error:
        raise RecordingError(f"recording {name}: a page lacks running, waiting or KV usage of a vLLM") from error
    return RecordedPage(at=at, body=body, running=running, waiting=waiting, kv_usage=kv_usage)
