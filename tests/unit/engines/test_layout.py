"""Pages whose lines are known but for their values: the quick reading says what the careful one says, or gives way."""

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.readings import Signal
from optiinfra.engines import layout, page
from optiinfra.engines.errors import PageError
from tests.unit.engines.recorded import BATCH_BOUND, DATA, MEMORY_BOUND, lmcache_page, raw

WHOLE = raw(BATCH_BOUND)[120][0] + lmcache_page()
PAGES = (WHOLE, *(path.read_bytes() for path in sorted(DATA.glob("*.txt"))))
TTFT = b"vllm:time_to_first_token_seconds"
SMALL = (
    b'vllm:num_requests_running{engine="0"} 1\nvllm:num_requests_waiting{engine="0"} 2\n'
    + TTFT + b'_bucket{engine="0",le="1"} 3\n' + TTFT + b'_bucket{engine="0",le="+Inf"} 4\n'
    + TTFT + b'_sum{engine="0"} 9\n' + TTFT + b'_count{engine="0"} 4\n'
)  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(page, "_LAYOUTS", layout.Layouts())


def known():
    return len(page._LAYOUTS._known)


def learn(content):
    """Read a page until its layout is known, if it can be."""
    for _ in range(3):
        page.read(content, at=0.0)


def carefully(content):
    before, page._LAYOUTS = page._LAYOUTS, layout.Layouts()
    try:
        return page.read(content, at=0.0)
    finally:
        page._LAYOUTS = before


def test_a_layout_is_learned_from_the_second_page_on():
    page.read(SMALL, at=0.0)
    assert known() == 0
    page.read(SMALL.replace(b" 1\n", b" 7\n"), at=0.0)
    assert known() == 1
    assert page.read(SMALL.replace(b"2\n", b"55\n"), at=0.0).gauges[Signal.REQUESTS_WAITING] == 55.0


@pytest.mark.parametrize("name", [BATCH_BOUND, MEMORY_BOUND])
def test_every_recorded_page_reads_the_same_either_way(name):
    for content, _ in raw(name):
        assert page.read(content, at=0.0) == carefully(content)
    assert known() >= 1


@pytest.mark.parametrize("content", PAGES, ids=range(len(PAGES)))
def test_every_engines_page_reads_the_same_either_way(content):
    learn(content)
    assert known() == 1
    assert page.read(content, at=0.0) == carefully(content)


VALUES = [b"0", b"1.5", b"NaN", b"+Inf", b"-1", b"1e308", b"7 ", b"", b"x", b"0x1"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PAGES), st.dictionaries(st.integers(0, 999), st.sampled_from(VALUES), max_size=40))
def test_other_values_read_the_same_either_way(content, values):
    learn(content)
    lines = content.split(b"\n")
    for place, value in values.items():
        line = lines[place % len(lines)]
        if b" " in line and not line.startswith(b"#"):
            lines[place % len(lines)] = line.rpartition(b" ")[0] + b" " + value
    changed = b"\n".join(lines)
    try:
        expected = carefully(changed)
    except PageError as refused:
        with pytest.raises(PageError, match=re.escape(str(refused))):
            page.read(changed, at=0.0)
    else:
        assert page.read(changed, at=0.0) == expected


def test_a_line_that_appears_is_seen():
    learn(SMALL)
    more = SMALL + b"vllm:num_preemptions_total 4\n"
    assert page.read(more, at=0.0).counters == {Signal.PREEMPTIONS: 4.0}
    swapped = SMALL.replace(b'waiting{engine="0"}', b'waiting{engine="1"}')
    assert page.read(swapped, at=0.0) == carefully(swapped)


@pytest.mark.parametrize(
    "damaged",
    [SMALL[:-1], SMALL[:-3], SMALL.replace(b"} 2\n", b"} many\n"), SMALL.replace(b" 2\n", b" \n")],
    ids=["cut", "cut within", "no number", "nothing"],
)
def test_a_known_layout_hides_no_damage(damaged):
    learn(SMALL)
    with pytest.raises(PageError):
        page.read(damaged, at=0.0)


def test_lines_that_do_not_end_with_their_value_are_never_learned():
    stamped = SMALL.replace(b"} 2\n", b"} 2 1795247900000\n")
    learn(stamped)
    assert known() == 0
    assert page.read(stamped, at=0.0).gauges[Signal.REQUESTS_WAITING] == 2.0


def test_a_family_that_stands_there_twice_is_never_learned():
    learn(SMALL + SMALL)
    assert known() == 0


def test_large_pages_are_not_remembered():
    content = SMALL + b"# " + b"x" * layout.MAX_BYTES + b"\n"
    learn(content)
    assert known() == 0


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(layout, "_MAX_LAYOUTS", 3)
    monkeypatch.setattr(layout, "_MAX_SEEN", 4)
    for number in range(20):
        content = SMALL.replace(b'engine="0"', b'engine="%d"' % number)
        learn(content)
        assert page.read(content, at=0.0) == carefully(content)
    assert known() == 3
    for number in range(20, 40):
        page.read(SMALL.replace(b'engine="0"', b'engine="%d"' % number), at=0.0)
    assert len(page._LAYOUTS._seen) == 4
    assert known() == 3


def test_readings_do_not_share_what_can_change():
    learn(SMALL)
    first, second = page.read(SMALL, at=0.0), page.read(SMALL, at=1.0)
    assert first.gauges is not second.gauges
    assert dataclasses.replace(second, time=0.0) == first
