"""LMCache scraped by itself: both of its pages, and put beside an engine's."""

import pytest

from optiinfra.domain.readings import Signal
from optiinfra.engines import cache_page, page
from optiinfra.engines.errors import PageError
from tests.unit.engines.recorded import BATCH_BOUND, lmcache_page, raw

S = Signal


def test_the_connectors_page_says_alone_what_it_says_as_a_guest():
    engine = raw(BATCH_BOUND)[100][0]
    guest = page.read(engine + lmcache_page(), at=1.0)
    assert cache_page.beside(page.read(engine, at=1.0), cache_page.read(lmcache_page(), at=1.0)) == guest
    assert guest.counters[S.LMCACHE_STORED_TOKENS] == 2560.0
    # The page names the family and gives no sample of it: unknown, neither well nor ill.
    assert S.LMCACHE_HEALTHY not in guest.gauges
    assert guest.histograms[S.LMCACHE_RETRIEVE_TIME].count == 5.0


def test_the_servers_page():
    reading = cache_page.read(b"lmcache_mp_lookup_requested_tokens_total 5\npython_info 1\n", at=3.0)
    assert reading.time == 3.0
    assert reading.counters == {S.LMCACHE_REQUESTED_TOKENS: 5.0}


def test_what_the_engines_page_says_stays():
    engine = page.read(b"vllm:num_requests_running 1\nlmcache:num_hit_tokens_total 7\n", at=0.0)
    server = cache_page.read(b"lmcache_mp_lookup_hit_tokens_total 9\nlmcache_mp_l1_memory_usage_bytes 2\n", at=0.0)
    joined = cache_page.beside(engine, server)
    assert joined.counters[S.LMCACHE_HIT_TOKENS] == 7.0
    assert joined.gauges[S.LMCACHE_LOCAL_USAGE_BYTES] == 2.0


def test_an_unhealthy_worker_makes_the_cache_unhealthy():
    lines = (f'lmcache:lmcache_is_healthy{{worker_id="{worker}"}} {well}' for worker, well in ((0, 1), (1, 0)))
    assert cache_page.read(("\n".join(lines) + "\n").encode(), at=0.0).gauges[S.LMCACHE_HEALTHY] == 0.0


@pytest.mark.parametrize("content", [b"python_info 1\n", raw(BATCH_BOUND)[0][0]])
def test_a_page_without_lmcache_is_refused(content):
    with pytest.raises(PageError, match="no LMCache"):
        cache_page.read(content, at=0.0)
