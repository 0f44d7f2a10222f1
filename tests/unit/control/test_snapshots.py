"""The snapshot store: bounded, spread over its window, oldest first."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.control.snapshots import SnapshotStore
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import AgentReading
from tests.unit.control.examples import NOW, UNMEASURED, page

BROKEN = Unknown(UnknownReason.UNREACHABLE, "connection refused")


def snapshot(at: float, *, node: str = "n1") -> AgentReading:
    return AgentReading(
        time=UnixTime(at),
        node=node,
        agent_version="0.1",
        cpu_cores=UNMEASURED,
        cpu_utilization_ratio=UNMEASURED,
        memory_total_bytes=UNMEASURED,
        memory_available_bytes=UNMEASURED,
        gpus=(),
        gpu_source=1.0,
    )


def times(store: SnapshotStore) -> list[float]:
    return [reading.time - NOW for reading in store.pages({"p": "u"}).get("p", ())]


def test_what_nobody_said_is_absent():
    store = SnapshotStore()
    assert store.pages({"p": "u"}) == {}
    assert store.page_errors({"p": "u"}) == {}
    assert store.agent("n1") == ((), None)


def test_pages_come_oldest_first_and_belong_to_the_pod_with_that_uid():
    store = SnapshotStore()
    for at in (0.0, 5.0, 10.0):
        store.page("u", page(NOW + at))
    assert times(store) == [0.0, 5.0, 10.0]
    assert store.pages({"p": "another uid under the same name"}) == {}


def test_a_failed_scrape_is_told_and_hides_no_earlier_page():
    store = SnapshotStore()
    store.page("u", page(NOW))
    store.page_failed("u", BROKEN, at=UnixTime(NOW + 5))
    assert times(store) == [0.0]
    assert store.page_errors({"p": "u"}) == {"p": BROKEN}
    store.page("u", page(NOW + 10))
    assert store.page_errors({"p": "u"}) == {}


def test_a_source_that_only_fails_has_an_error_and_no_page():
    store = SnapshotStore()
    store.page_failed("u", BROKEN, at=NOW)
    assert store.pages({"p": "u"}) == {}
    assert store.page_errors({"p": "u"}) == {"p": BROKEN}


@pytest.mark.parametrize("interval", [1.0, 2.0, 4.99, 5.0, 5.01, 15.0])
def test_the_kept_pages_span_the_window_at_any_interval_and_the_newest_are_all_there(interval):
    store = SnapshotStore(keep_pages_seconds=240.0)
    count = int(1000 / interval)
    for number in range(count):
        store.page("u", page(NOW + number * interval))
    kept = times(store)
    newest = (count - 1) * interval
    assert len(kept) <= 48
    assert kept[0] >= newest - 240.0
    assert kept[0] <= newest - 240.0 + 2 * max(interval, 240.0 / 36), "the window is not covered"
    assert kept[-8:] == pytest.approx([newest - back * interval for back in range(7, -1, -1)])
    gaps = [later - earlier for earlier, later in itertools.pairwise(kept)]
    assert max(gaps) <= 2 * max(interval, 240.0 / 36)


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 40.0), min_size=1, max_size=300))
def test_any_spacing_keeps_bounds_order_and_the_newest(gaps):
    store = SnapshotStore(keep_pages_seconds=240.0)
    at = 0.0
    for gap in gaps:
        at += gap
        store.page("u", page(NOW + at))
    kept = times(store)
    assert kept == sorted(set(kept))
    assert len(kept) <= 48
    assert kept[-1] == pytest.approx(at, abs=1e-6)
    assert kept[0] >= at - 240.0 - 1e-6


def test_the_same_snapshot_read_twice_is_one_sample():
    # The agent is read more often than it measures: repeats must not count as evidence.
    store = SnapshotStore()
    for _ in range(20):
        store.snapshot(snapshot(NOW))
    store.snapshot(snapshot(NOW + 15))
    store.snapshot(snapshot(NOW + 15))
    assert [reading.time - NOW for reading in store.agent("n1")[0]] == [0.0, 15.0]


def test_after_the_clock_went_back_the_order_still_holds():
    store = SnapshotStore()
    for at in (0.0, 5.0, 10.0, 15.0, -30.0, -25.0):
        store.page("u", page(NOW + at))
    assert times(store) == [-30.0, -25.0]


def test_agents_errors_are_kept_beside_their_last_snapshots():
    store = SnapshotStore()
    store.snapshot(snapshot(NOW))
    store.agent_failed("n1", BROKEN, at=UnixTime(NOW + 15))
    readings, error = store.agent("n1")
    assert len(readings) == 1
    assert error is BROKEN
    store.snapshot(replace(snapshot(NOW), time=UnixTime(NOW + 30)))
    assert store.agent("n1")[1] is None


def test_everything_that_is_not_named_is_forgotten():
    store = SnapshotStore()
    for uid in ("u1", "u2", "u3"):
        store.page(uid, page(NOW))
    store.page_failed("u4", BROKEN, at=NOW)
    for node in ("n1", "n2"):
        store.snapshot(snapshot(NOW, node=node))
    store.forget_except(pod_uids=["u2"], nodes=iter(["n2", "unheard"]))
    assert set(store.pages({uid: uid for uid in ("u1", "u2", "u3", "u4")})) == {"u2"}
    assert store.page_errors({"u4": "u4"}) == {}
    assert store.agent("n1") == ((), None)
    assert len(store.agent("n2")[0]) == 1


def test_what_did_not_change_between_two_pages_is_kept_once():
    first, same, other = (
        replace(page(NOW), gauges={"queue_depth": 1.5}),
        page(UnixTime(NOW + 5)),
        page(UnixTime(NOW + 10)),
    )
    same = replace(same, gauges={"queue_depth": 1.5})
    other = replace(other, gauges={"queue_depth": 2.5})
    store = SnapshotStore()
    for reading in (first, same, other):
        store.page("u", reading)
    kept = store.pages({"pod": "u"})["pod"]
    assert kept == (first, same, other), "sharing must change nothing that can be seen"
    assert kept[1].gauges is kept[0].gauges
    assert kept[2].gauges is not kept[1].gauges
    assert kept[2].histograms is kept[0].histograms
