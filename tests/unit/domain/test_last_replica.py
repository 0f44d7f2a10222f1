"""The last replica goes only after enough quiet by the word of every replica, and only where zero is allowed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.last_replica import LONGEST_QUIET, QUIET_TICKS, Quiet, let_go, listen, quiet_needed
from optiinfra.domain.readings import EngineKind, EngineReading, Signal
from optiinfra.domain.scaling_rules import Rule
from optiinfra.domain.units import Seconds, UnixTime
from tests.unit.control.examples import NOW, decision

TICK = Seconds(15.0)
STALE = Seconds(45.0)
NEEDED = Seconds(600.0)
ONE = replace(decision(current=1, desired=1), floor=1)
COUNTED = {Signal.REQUESTS_FINISHED: 7.0, Signal.PROMPT_TOKENS: 700.0, Signal.GENERATION_TOKENS: 90.0}


def page(at, *, running=0.0, waiting=0.0, counters=None, **without):
    gauges = {Signal.REQUESTS_RUNNING: running, Signal.REQUESTS_WAITING: waiting}
    gauges = {signal: value for signal, value in gauges.items() if value is not None}
    return EngineReading(
        time=UnixTime(NOW + at),
        engine=EngineKind.VLLM,
        version="0.11",
        model="m",
        gauges=gauges,
        counters=COUNTED if counters is None else counters,
        **without,
    )


def heard(before, *pages, at=None, expected=1, **others):
    now = UnixTime(NOW + at) if at is not None else pages[-1].time
    named = {"a": pages} if pages else {}
    return listen(before, named | others, now=now, stale_after=STALE, expected=expected)


def quiet(seconds):
    return Quiet(UnixTime(NOW - seconds), {})


def test_quiet_begins_with_the_first_look_and_lasts():
    first = heard(None, page(-5.0), page(0.0))
    assert first.since == NOW
    later = heard(first, page(-5.0), page(0.0), page(15.0), page(30.0))
    assert later.since == NOW


def test_a_look_bridges_what_no_page_shows_by_what_was_counted_meanwhile():
    first = heard(None, page(0.0))
    assert heard(first, page(3600.0)).since == NOW
    served = dict(COUNTED) | {Signal.REQUESTS_FINISHED: 8.0}
    assert heard(first, page(3600.0, counters=served)).since == NOW + 3600.0


@pytest.mark.parametrize(
    "pages",
    [
        (page(15.0, running=1.0),),
        (page(15.0, waiting=1.0),),
        (page(10.0, waiting=1.0), page(15.0)),  # between two looks
        (page(15.0, running=None),),
        (page(15.0, waiting=None),),
        (page(15.0, counters={}),),
        (),
    ],
)
def test_a_request_or_doubt_ends_it(pages):
    first = heard(None, page(0.0))
    assert heard(first, *pages, at=15.0) is None


def test_every_ready_replica_has_to_say_so_now():
    first = heard(None, page(0.0))
    assert heard(first, page(0.0), at=60.0) is None, "stale"
    assert heard(first, page(15.0), expected=2) is None, "one of two"
    assert heard(first, page(15.0), expected=0) is None, "none is ready"
    assert heard(first, page(15.0), b=(page(15.0, running=1.0),), expected=2) is None


@pytest.mark.parametrize(
    "counters",
    [
        {Signal.REQUESTS_FINISHED: 0.0, Signal.PROMPT_TOKENS: 0.0, Signal.GENERATION_TOKENS: 0.0},  # restarted
        COUNTED | {Signal.REQUESTS_REJECTED: 1.0},  # appeared
        COUNTED | {Signal.PROMPT_TOKENS: 701.0},
    ],
)
def test_what_was_counted_meanwhile_begins_it_anew(counters):
    first = heard(None, page(0.0))
    assert heard(first, page(15.0, counters=counters)).since == NOW + 15.0


def test_a_replica_that_was_not_heard_before_begins_it_anew_and_one_that_went_does_not():
    first = heard(None, page(0.0))
    both = heard(first, page(15.0), b=(page(15.0),), expected=2)
    assert both.since == NOW + 15.0
    assert heard(both, page(30.0)).since == NOW + 15.0


def test_a_clock_that_was_set_back_waits_no_longer_than_from_now():
    first = heard(None, page(0.0))
    assert heard(first, page(-900.0)).since == NOW - 900.0


def test_the_last_replica_goes():
    gone = let_go(ONE, quiet=quiet(600.0), minimum=0, needed=NEEDED, now=NOW)
    assert (gone.desired, gone.floor, gone.lower, gone.rule) == (0, 0, 0, Rule.NO_REQUESTS)
    assert "600 s" in gone.message


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (ONE, {"minimum": 1}),
        (ONE, {"quiet": None}),
        (ONE, {"quiet": quiet(599.0)}),
        (replace(ONE, desired=2), {}),
        (replace(ONE, current=2), {}),
        (replace(ONE, current=0), {}),
        (replace(ONE, rule=Rule.PAUSED), {}),
        (replace(ONE, rule=Rule.COLLAPSE_HELD), {}),
        (replace(ONE, shrink_blocked=("its GPU is sick",)), {}),
    ],
)
def test_it_stays_otherwise(before, told):
    told = {"quiet": quiet(600.0), "minimum": 0, "needed": NEEDED} | told
    assert let_go(before, **told, now=NOW) == before


def test_a_slow_start_and_each_time_that_it_was_needed_again_make_it_wait_longer():
    assert quiet_needed(tick=TICK, start_up=Seconds(90.0), woken=0) == QUIET_TICKS * TICK == 600.0
    assert quiet_needed(tick=TICK, start_up=Seconds(1200.0), woken=0) == 1200.0
    assert quiet_needed(tick=TICK, start_up=Seconds(90.0), woken=3) == 4800.0
    assert quiet_needed(tick=TICK, start_up=Seconds(90.0), woken=16) == LONGEST_QUIET


@given(st.lists(st.tuples(st.sampled_from(("idle", "busy", "served", "silent")), st.integers(1, 400)), max_size=40))
def test_it_never_goes_sooner_than_the_quiet_is_long(story):
    """Whatever happens between the looks: what is asked for, and what is not known, begins the time anew."""
    before, now, asked, finished = None, 0.0, 0.0, 7.0
    for what, seconds in story:
        now += seconds
        finished += what == "served"
        if what != "idle":
            asked = now
        pages = (
            ()
            if what == "silent"
            else (page(now, running=what == "busy", counters=COUNTED | {Signal.REQUESTS_FINISHED: finished}),)
        )
        before = heard(before, *pages, at=now)
        gone = let_go(ONE, quiet=before, minimum=0, needed=NEEDED, now=UnixTime(NOW + now))
        assert gone.desired == 1 or now - asked >= NEEDED
