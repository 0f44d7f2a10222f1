"""Whatever comes over the wire, a page is read or refused: no other exception, no number that cannot be."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.engines import page
from optiinfra.engines.errors import PageError
from tests.unit.engines.recorded import BATCH_BOUND, DATA, MEMORY_BOUND, lmcache_page, raw

SERVER = b"lmcache_mp_lookup_hit_tokens_total 9\nlmcache_mp_l1_memory_usage_bytes 2\n"
PAGES = (
    raw(BATCH_BOUND)[120][0],
    lmcache_page() + raw(MEMORY_BOUND)[40][0] + SERVER,
    *(path.read_bytes() for path in sorted(DATA.glob("*.txt"))),
)
JUNK = st.binary(max_size=40) | st.sampled_from([b'"', b"}", b"{", b"\\", b"\n", b",le=", b"NaN", b"+Inf", b"-1", b" "])


def check(content):
    try:
        reading = page.read(content, at=1.0)
    except PageError:
        return
    for value in (*reading.gauges.values(), *reading.counters.values()):
        assert math.isfinite(value)
        assert value >= 0.0
    for histogram in reading.histograms.values():
        assert len(histogram.bounds) == len(histogram.cumulative)
        assert histogram.bounds[-1] == math.inf
        assert list(histogram.bounds) == sorted(histogram.bounds)
        assert list(histogram.cumulative) == sorted(histogram.cumulative)
        assert math.isfinite(histogram.total)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes(content):
    check(content)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PAGES), st.data())
def test_damaged_pages(content, data):
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = min(len(content), start + data.draw(st.integers(0, 30)))
        content = content[:start] + data.draw(JUNK) + content[end:]
    check(content)
