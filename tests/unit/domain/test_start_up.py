"""Start-up times from pods: stages that add up, what is waited for, what is left out, and what survives a restart."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.histogram import InvalidCheckpointError
from optiinfra.domain.readings import EngineKind, EngineReading, Signal, Unknown
from optiinfra.domain.start_stages import BEFORE_READY, STAGES, Stage
from optiinfra.domain.start_up import KEPT, MOST_BYTES, StartUpMemory, first_token_times, replica_pods
from optiinfra.domain.start_up_summary import LONGEST, said
from optiinfra.domain.units import Seconds
from optiinfra.domain.workload import PodFacts, WorkloadFacts

T = 1_790_000_000.0
DAY = 86_400.0


def pod(name="p", *, at=T, **moments):
    """A pod with moments in seconds since its creation; without `ready` it is not ready."""
    moved = {key: None if value is None else at + value for key, value in moments.items() if key in MOMENTS}
    others = {key: value for key, value in moments.items() if key not in MOMENTS}
    ready = moved.pop("ready", None)
    return PodFacts(
        name=name,
        uid=f"uid-{name}-{at}",
        ip="",
        node="n" if "scheduled" in moments else "",
        phase="Running" if "started" in moments else "Pending",
        ready=ready is not None,
        terminating=others.pop("terminating", False),
        created=at,
        became_ready=ready,
        gpus=1.0,
        **moved,
        **others,
    )


MOMENTS = ("scheduled", "unschedulable_since", "sandbox", "initialised", "started", "containers_ready", "ready")


def whole(name="p", *, at=T, took=180.0):
    """A pod that is ready: scheduled at 1, sandbox at 5, image until 45, loaded until one second before the end."""
    return pod(
        name,
        at=at,
        scheduled=1,
        initialised=1,
        sandbox=5,
        started=45,
        containers_ready=took - 1,
        ready=took,
    )


def seen(*pods, now=T + 200.0, memory=None):
    memory = StartUpMemory() if memory is None else memory
    memory.observe(pods, now=now)
    return memory


def medians(found):
    return {stage: value.p50 for stage, value in found.stages.items() if not isinstance(value.p50, Unknown)}


def test_nothing_seen_is_unknown_and_the_prior_holds():
    found = StartUpMemory().summary(T)
    assert isinstance(found.p50, Unknown)
    assert isinstance(found.p95, Unknown)
    assert (found.samples, found.pending, found.starting, found.stock_outs) == (0, 0, 0, 0)
    assert isinstance(found.pending_oldest, Unknown)
    assert isinstance(found.stock_out_share, Unknown)
    assert found.longest_stage is None
    assert found.planned(prior=Seconds(180.0)) == (180.0, 180.0)
    assert "unknown" in said(found)


def test_a_start_in_its_stages():
    found = seen(whole()).summary(T + 200.0)
    assert (found.p50, found.p95, found.samples) == (180.0, 180.0, 1)
    assert medians(found) == {
        Stage.PENDING: 1.0,
        Stage.NODE: 0.0,
        Stage.SANDBOX: 4.0,
        Stage.INIT: 0.0,
        Stage.IMAGE: 40.0,
        Stage.LOAD: 134.0,
        Stage.READY: 1.0,
    }
    assert found.once_there.p50 == 179.0
    assert found.longest_stage == (Stage.LOAD, 134.0)
    assert found.planned(prior=Seconds(60.0)) == (180.0, 180.0)
    assert said(found) == ("start-up 180 s in the median, p95 180 s, of 1 pod; longest stage Load, 134 s in the median")


def test_a_moment_that_is_not_told_falls_to_the_next_stage_and_is_unknown_itself():
    one = pod(scheduled=2, started=45, containers_ready=180, ready=180)
    found = seen(one).summary(T + 200.0)
    assert medians(found)[Stage.IMAGE] == 43.0
    assert isinstance(found.stages[Stage.SANDBOX].p50, Unknown)
    assert isinstance(found.stages[Stage.INIT].p50, Unknown)


def test_init_containers_are_a_stage_of_their_own():
    one = pod(scheduled=1, sandbox=3, initialised=103, started=110, containers_ready=150, ready=150)
    assert medians(seen(one).summary(T + 200.0))[Stage.INIT] == 100.0


def test_a_kubelet_whose_clock_is_wrong_makes_no_negative_stage():
    one = pod(scheduled=5, sandbox=3, initialised=2, started=1, containers_ready=60, ready=60)
    found = medians(seen(one).summary(T + 200.0))
    assert sum(found.values()) == 60.0
    assert min(found.values()) >= 0.0


def test_the_wait_for_a_node_is_told_from_pending():
    memory = seen(pod(), now=T + 4.0)
    seen(pod(unschedulable_since=5), now=T + 30.0, memory=memory)
    waiting = memory.summary(T + 65.0)
    assert (waiting.pending, waiting.pending_oldest, waiting.starting) == (1, 65.0, 0)
    assert waiting.stages[Stage.NODE].waiting == 1
    assert waiting.planned(prior=Seconds(30.0)) == (30.0, 65.0)
    came = pod(scheduled=95, sandbox=96, initialised=95, started=100, containers_ready=150, ready=150)
    found = seen(came, now=T + 160.0, memory=memory).summary(T + 160.0)
    assert medians(found)[Stage.PENDING] == 5.0
    assert medians(found)[Stage.NODE] == 90.0
    assert found.once_there.p50 == 55.0
    assert (found.pending, found.stock_outs, found.stock_out_share) == (0, 0, 0.0)


def test_time_behind_a_scheduling_gate_is_no_shortage():
    # The condition keeps its transition time when the gate goes: only what was seen tells when the shortage began.
    memory = seen(pod(), now=T + 600.0)
    seen(pod(unschedulable_since=0), now=T + 630.0, memory=memory)
    came = pod(scheduled=660, started=660, containers_ready=700, ready=700)
    found = medians(seen(came, now=T + 720.0, memory=memory).summary(T + 720.0))
    assert found[Stage.PENDING] == 600.0
    assert found[Stage.NODE] == 60.0


def test_a_wait_that_nobody_watched_is_not_guessed():
    came = pod(scheduled=300, started=301, containers_ready=400, ready=400)
    found = seen(came, now=T + 500.0).summary(T + 500.0)
    assert isinstance(found.stages[Stage.NODE].p50, Unknown)
    assert isinstance(found.stages[Stage.PENDING].p50, Unknown)
    assert isinstance(found.stock_out_share, Unknown)
    assert (found.p50, found.once_there.p50) == (400.0, 100.0)


def test_stock_outs_are_counted_while_they_last_and_for_a_day():
    memory = seen(whole("quick"), pod("stuck", unschedulable_since=1), now=T + 119.0)
    assert memory.summary(T + 121.0).stock_outs == 0
    found = memory.summary(T + 122.0)
    assert (found.stock_outs, found.stock_out_share) == (1, 0.5)
    came = pod("stuck", scheduled=500, started=501, containers_ready=600, ready=600)
    seen(whole("quick"), came, now=T + 650.0, memory=memory)
    found = memory.summary(T + DAY)
    assert (found.stock_outs, found.stock_out_share) == (1, 0.5)
    assert "1 waited more than 120 s for a node" in said(found)
    found = memory.summary(T + DAY + 650.0)
    assert found.stock_outs == 0
    assert isinstance(found.stock_out_share, Unknown)
    assert found.samples == 2


def test_what_still_starts_lengthens_p95_and_only_when_it_is_late():
    memory = seen(*(whole(str(n), took=100.0 + n) for n in range(4)))
    late = pod("late", at=T + 200.0, scheduled=0, started=2)
    seen(*(whole(str(n), took=100.0 + n) for n in range(4)), late, now=T + 210.0, memory=memory)
    assert memory.summary(T + 240.0).planned(prior=Seconds(9.0)) == (101.0, 103.0)
    found = memory.summary(T + 500.0)
    assert (found.p50, found.p95) == (102.0, 300.0)
    assert found.total.at_least
    assert (found.starting, found.starting_oldest, found.samples) == (1, 300.0, 4)
    assert "p95 at least 300 s" in said(found)
    assert found.stages[Stage.LOAD].p95 == 298.0


def test_a_start_that_never_ends_counts_as_an_hour():
    memory = seen(whole(), pod("never", scheduled=0))
    found = memory.summary(T + 5 * 3600.0)
    assert found.p95 == LONGEST
    assert found.starting_oldest == 5 * 3600.0
    assert StartUpMemory().summary(T).planned(prior=Seconds(1e9)) == (3600.0, 3600.0)


def test_a_pod_that_went_away_unready_counts_for_a_day():
    memory = seen(whole(), pod("gone", scheduled=0), now=T + 600.0)
    seen(whole(), now=T + 630.0, memory=memory)
    found = memory.summary(T + 640.0)
    assert (found.p95, found.total.at_least, found.starting) == (600.0, True, 0)
    assert memory.summary(T + 600.0 + DAY).p95 == 180.0


def test_a_pod_that_is_stopped_unready_went_away():
    memory = seen(pod("gone", scheduled=0), now=T + 50.0)
    seen(pod("gone", scheduled=0, terminating=True), now=T + 90.0, memory=memory)
    found = memory.summary(T + 95.0)
    assert (found.starting, found.total.waiting) == (0, 1)
    assert seen(pod("met", scheduled=0, terminating=True)).summary(T + 300.0).total.waiting == 0


def test_a_pod_that_comes_back_into_sight_is_one_pod():
    memory = seen(pod("p", scheduled=0), now=T + 50.0)
    seen(now=T + 60.0, memory=memory)
    seen(pod("p", scheduled=0), now=T + 70.0, memory=memory)
    assert memory.summary(T + 80.0).total.waiting == 1
    done = seen(whole("p"), now=T + 190.0, memory=memory).summary(T + 190.0)
    assert (done.samples, done.total.waiting) == (1, 0)


@pytest.mark.parametrize(
    "one",
    [
        dataclasses.replace(whole(), restarts=1),
        pod(scheduled=0, started=5, restarts=7),
        pod(scheduled=0, started=5, lost_readiness=True),
        whole(took=LONGEST + 1.0),
        pod(scheduled=-9, started=-8, containers_ready=-5, ready=-5),
    ],
    ids=["restarted", "crashing", "was ready before", "became ready again", "clock behind"],
)
def test_what_says_nothing_about_a_new_pod_is_left_out(one):
    found = seen(one, now=T + 2 * 3600.0).summary(T + 2 * 3600.0)
    assert (found.samples, found.total.waiting, found.starting) == (0, 0, 0)


def test_a_long_start_that_was_watched_is_believed():
    memory = seen(pod(scheduled=0), now=T + 30.0)
    slow = whole(took=5000.0)
    assert seen(slow, now=T + 5010.0, memory=memory).summary(T + 5010.0).p50 == LONGEST


def test_a_flap_of_readiness_does_not_count_again():
    memory = seen(whole())
    seen(pod(scheduled=1, started=45, lost_readiness=True), now=T + 600.0, memory=memory)
    again = dataclasses.replace(whole(), became_ready=T + 700.0)
    found = seen(again, now=T + 710.0, memory=memory).summary(T + 710.0)
    assert (found.p95, found.samples, found.starting) == (180.0, 1, 0)


def test_it_forgets_after_a_week_and_keeps_the_newest():
    many = [whole(str(n), at=T + n, took=100.0 + n) for n in range(KEPT + 9)]
    memory = seen(*reversed(many), now=T + 300.0)
    found = memory.summary(T + 300.0)
    assert found.samples == KEPT
    assert found.p50 >= 109.0
    # Those that were cut are still there and are not taken again.
    assert seen(*many, now=T + 330.0, memory=memory).summary(T + 330.0) == dataclasses.replace(found)
    assert memory.summary(T + 400.0 + 7 * DAY).samples == 0


def test_the_answer_does_not_depend_on_when_it_was_asked_before():
    memory = seen(whole())
    memory.summary(T + 200.0)
    for now in (T + 1000.0, T + DAY + 500.0, T + 8 * DAY, T + 300.0):
        fresh = seen(whole(), now=T + 200.0)
        if now < T + 8 * DAY:
            assert memory.summary(now) == fresh.summary(now)


def test_clock_steps_do_no_harm():
    memory = seen(whole(), pod("new", at=T + 100.0, scheduled=0), now=T + 200.0)
    back = seen(whole(), pod("new", at=T + 100.0, scheduled=0), now=T - 5000.0, memory=memory).summary(T - 5000.0)
    assert back.starting_oldest == 0.0
    assert back.p50 == 180.0
    assert memory.summary(T + 300.0).starting_oldest == 200.0


def page(time, tokens):
    counters = {} if tokens is None else {Signal.GENERATION_TOKENS: tokens}
    return EngineReading(time=time, engine=EngineKind.VLLM, version="", model="", counters=counters)


def test_the_first_token_is_that_of_the_first_page_that_shows_one_after_a_page_without():
    pages = {
        "new": [page(1.0, 0.0), page(6.0, 0.0), page(11.0, 3.0), page(16.0, 9.0)],
        "bare": [page(1.0, None), page(6.0, 2.0)],
        "old": [page(1.0, 500.0), page(6.0, 600.0)],
        "idle": [page(1.0, 0.0), page(6.0, 0.0)],
        "restarted": [page(1.0, 9.0), page(6.0, 0.0), page(11.0, 4.0)],
        "none": [],
    }
    assert first_token_times(pages) == {"new": 11.0, "bare": 6.0}


def test_the_first_token_is_told_apart_from_the_start_up():
    memory = seen(whole(), now=T + 185.0)
    assert isinstance(memory.summary(T + 186.0).stages[Stage.FIRST_TOKEN].p50, Unknown)
    memory.observe([whole()], now=T + 215.0, first_tokens={"p": T + 192.0})
    found = memory.summary(T + 216.0)
    assert (found.stages[Stage.FIRST_TOKEN].p50, found.p50) == (12.0, 180.0)
    memory.observe([whole()], now=T + 245.0, first_tokens={"p": T + 240.0})
    assert memory.summary(T + 246.0).stages[Stage.FIRST_TOKEN].p50 == 12.0


def test_a_first_token_that_comes_late_waited_for_a_request():
    memory = seen(whole(), now=T + 185.0)
    seen(whole(), now=T + 1200.0, memory=memory)
    memory.observe([whole()], now=T + 1300.0, first_tokens={"p": T + 1290.0})
    assert isinstance(memory.summary(T + 1300.0).stages[Stage.FIRST_TOKEN].p50, Unknown)


def test_of_a_group_the_leader_counts():
    pods = tuple(pod(name) for name in ("m-0", "m-0-1", "m-0-2", "m-1", "m-1-1"))
    facts = WorkloadFacts("ns", "LeaderWorkerSet", "m", "u", 2, 2, pods, None)
    assert [one.name for one in replica_pods(facts)] == ["m-0", "m-1"]
    assert replica_pods(dataclasses.replace(facts, kind="Deployment")) == pods


def test_a_checkpoint_brings_it_back_and_nothing_counts_twice():
    pods = [whole(str(n), at=T + n, took=100.0 + n) for n in range(5)]
    memory = seen(pod("gone", unschedulable_since=0), *pods, now=T + 150.0)
    memory.observe(pods, now=T + 160.0, first_tokens={"1": T + 120.0})
    memory.observe(pods, now=T + 200.0)
    data = memory.to_bytes()
    again = StartUpMemory.from_bytes(data)
    assert again.to_bytes() == data
    assert again.summary(T + 300.0) == memory.summary(T + 300.0)
    seen(*pods, now=T + 330.0, memory=again)
    assert again.summary(T + 330.0) == memory.summary(T + 330.0)


def test_a_full_checkpoint_keeps_within_its_bound():
    ready = [whole(f"r{n}", at=T + n, took=100.0 + n) for n in range(KEPT + 5)]
    gone = [pod(f"g{n}", at=T + n, scheduled=3, started=9) for n in range(KEPT + 5)]
    memory = seen(*ready, *gone, now=T + 300.0)
    seen(*ready, now=T + 330.0, memory=memory)
    data = memory.to_bytes()
    assert len(data) <= MOST_BYTES
    again = StartUpMemory.from_bytes(data)
    assert again.summary(T + 340.0) == memory.summary(T + 340.0)
    assert again.summary(T + 340.0).total.waiting == KEPT


def test_what_is_no_checkpoint_is_refused():
    good = seen(whole(), now=T + 200.0).to_bytes()
    bad = [b"", b"x" * 5000, good[:-1], good + b"x", b"OIXX" + good[4:], good[:4] + b"\x09" + good[5:]]
    bad.append(good[:5] + bytes([200]) + good[6:])
    bad.append(good[:5] + bytes([1, 1]) + good[7:])
    for data in bad:
        with pytest.raises(InvalidCheckpointError, match="start-up checkpoint"):
            StartUpMemory.from_bytes(data)
    waiting = seen(pod("gone", scheduled=0), now=T + 50.0)
    seen(now=T + 60.0, memory=waiting)
    data = bytearray(waiting.to_bytes())
    data[5:7] = b"\x01\x00"
    with pytest.raises(InvalidCheckpointError, match="both ready and not"):
        StartUpMemory.from_bytes(bytes(data))


@given(st.binary(max_size=200))
def test_no_bytes_whatsoever_break_it(data):
    for one in (data, b"OISU\x01" + data):
        try:
            StartUpMemory.from_bytes(one).summary(T)
        except InvalidCheckpointError:
            continue


OFFSETS = st.none() | st.integers(-50, 5000)


@st.composite
def pods_of(draw):
    names = draw(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6))
    return [
        pod(
            name,
            at=T + draw(st.integers(-300, 300)),
            terminating=draw(st.booleans()),
            lost_readiness=draw(st.booleans()),
            restarts=draw(st.integers(0, 1)),
            **{key: draw(OFFSETS) for key in MOMENTS},
        )
        for name in names
    ]


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(-100, 4000), pods_of()), max_size=6))
def test_whatever_pods_say_stages_add_up_and_numbers_hold(rounds):
    memory = StartUpMemory()
    now = T
    for step, pods in rounds:
        now += step
        memory.observe(pods, now=now)
        memory.observe(pods, now=now)
        found = memory.summary(now)
        middle, high = found.planned(prior=Seconds(180.0))
        assert 1.0 <= middle <= high <= LONGEST
        for one in (found.total, found.once_there, *found.stages.values()):
            if not isinstance(one.p50, Unknown):
                assert 0.0 <= one.p50 <= one.p95 <= LONGEST
        assert set(found.stages) == set(STAGES)
        assert found.samples <= KEPT
        if not isinstance(found.stock_out_share, Unknown):
            assert 0.0 <= found.stock_out_share <= 1.0
        for start in [*memory._ready.values(), *memory._abandoned.values()]:
            known = [value for value in start.seconds[: len(BEFORE_READY)] if value is not None]
            assert sum(known) <= start.total
            if start.scheduled is not None and None not in start.seconds[:2]:
                assert sum(start.seconds[:2]) == start.scheduled
        assert StartUpMemory.from_bytes(memory.to_bytes()).to_bytes() == memory.to_bytes()


@given(st.permutations(range(8)), st.integers(0, 3))
def test_the_order_of_pods_is_of_no_matter(order, waiting):
    pods = [whole(str(n), at=T + n, took=90.0 + n) for n in range(8 - waiting)]
    pods += [pod(f"w{n}", at=T - 50 * n, scheduled=0) for n in range(waiting)]
    once = seen(*pods, now=T + 300.0).summary(T + 300.0)
    assert seen(*(pods[index] for index in order), now=T + 300.0).summary(T + 300.0) == once
