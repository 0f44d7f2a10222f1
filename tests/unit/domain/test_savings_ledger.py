"""The ledger of one object: nothing twice, nothing hidden, nothing claimed that nobody watched."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.savings.account import TargetSeen
from optiinfra.domain.savings.amounts import NOTHING, Amounts, Capacity
from optiinfra.domain.savings.booking import MOST_OPEN, Maker
from optiinfra.domain.savings.entries import CLAIMED, Axis, Basis, Cause, End
from optiinfra.domain.savings.ledger import LONGEST_GAP, LONGEST_PROVEN, Ledger, Rate, Seen, watch
from optiinfra.domain.savings.periods import LineKey
from optiinfra.domain.units import Seconds, UnixTime

T0 = UnixTime(1_800_000_000.0)
HOUR = 3600.0
SIZE = Capacity(1.0, 4.0, 32.0)
OURS = Maker(Cause.ACTION, "act-1")
PERSON = Maker(Cause.OTHERS)
HPA = Maker(Cause.SCALER, "hpa")
ACTION_UNVERIFIED = LineKey(Cause.ACTION, Basis.MEASURED, verified=False)
ACTION_VERIFIED = LineKey(Cause.ACTION, Basis.MEASURED, verified=True)


def target(replicas=10, size=SIZE, by=PERSON, **more):
    held = more.pop("held", size.times(replicas))
    return TargetSeen(
        target=more.pop("name", "vllm"),
        uid=more.pop("uid", "u1"),
        generation=more.pop("generation", 0),
        replicas=replicas,
        size=size,
        held=held,
        replicas_by=by,
        size_by=dict.fromkeys((Axis.GPUS, Axis.CPU, Axis.MEMORY), by),
        **more,
    )


def seen(at, *targets, **more):
    names = frozenset(item.target for item in targets) | more.pop("named", frozenset())
    return Seen(at=UnixTime(T0 + at), targets=targets, named=names, **more)


def lived(*observations, ledger=None):
    ledger = ledger or Ledger.opening(T0)
    for one in observations:
        ledger, _ = watch(ledger, one)
    return ledger


def total(ledger, *, cause=None, basis=Basis.MEASURED):
    """Freed less added since the beginning."""
    found = Amounts()
    for key, line in ledger.periods.all_time.items():
        if key.basis is basis and (cause is None or key.cause is cause):
            found = found + line.freed + line.added.times(-1.0)
    return found


def test_an_action_that_frees_replicas_counts_from_when_it_was_seen():
    ledger = lived(seen(0, target(10)), seen(60, target(7, by=OURS)), seen(660, target(7)))
    (entry,) = ledger.entries
    assert (entry.axis, entry.cause, entry.by) == (Axis.REPLICAS, Cause.ACTION, "act-1")
    assert (entry.before, entry.after, entry.amount) == (10, 7, 3)
    assert entry.accrued.requests.gpus == pytest.approx(3 * 600 / HOUR)
    assert entry.accrued.requests.memory_gib == pytest.approx(3 * 32 * 600 / HOUR)
    assert entry.accrued.money == 0.0, "no node went"


def test_replicas_and_size_never_count_the_same_gpu_in_either_order():
    small = Capacity(1.0, 2.0, 32.0)
    first = lived(seen(0, target(10)), seen(60, target(6, by=OURS)), seen(120, target(6, small)))
    second = lived(seen(0, target(10)), seen(60, target(10, small)), seen(120, target(6, small, by=OURS)))
    for ledger in (first, second):
        account = ledger.accounts[0]
        by_axis = {entry.axis: account.freed(entry) for entry in account.entries}
        assert by_axis[Axis.REPLICAS].cpu_cores == 16.0
        assert by_axis[Axis.CPU].cpu_cores == 12.0
        assert account.measured.cpu_cores == 28.0 == 10 * 4.0 - 6 * 2.0


def test_what_a_person_takes_back_ends_the_entry_last_in_first_out():
    ledger = lived(
        seen(0, target(10)),
        seen(60, target(8, by=Maker(Cause.ACTION, "a"))),
        seen(120, target(5, by=Maker(Cause.ACTION, "b"))),
        seen(180, target(9, by=PERSON)),
    )
    (entry,) = ledger.entries
    assert (entry.by, entry.amount) == ("a", 1)
    assert [(item.by, item.end) for item in ledger.ended] == [("b", End.TAKEN_BACK)]


def test_a_rollback_is_called_one():
    ledger = lived(
        seen(0, target(10)),
        seen(60, target(8, by=OURS)),
        seen(120, target(10, by=Maker(Cause.ACTION, "act-1", rollback=True))),
    )
    assert ledger.entries == ()
    assert ledger.ended[0].end is End.ROLLED_BACK
    assert ledger.ended[0].accrued.is_nothing, "it was never seen to stand for any time at both ends"


def test_what_we_add_is_our_minus_whatever_others_have_freed():
    ledger = lived(seen(0, target(10)), seen(60, target(6, by=PERSON)), seen(120, target(9, by=OURS)))
    assert [(entry.cause, entry.amount) for entry in ledger.entries] == [(Cause.OTHERS, 4), (Cause.ACTION, -3)]
    later = lived(seen(720, target(9)), ledger=ledger)
    assert total(later, cause=Cause.ACTION).requests.gpus == pytest.approx(-3 * 660 / HOUR)
    line = later.periods.all_time[ACTION_UNVERIFIED]
    assert line.freed.is_nothing
    assert line.added.requests.gpus == pytest.approx(3 * 660 / HOUR), "the minute in which it came counts whole"


def test_a_person_who_grows_the_service_hides_no_saving_of_ours():
    ledger = lived(seen(0, target(4)), seen(60, target(12, by=PERSON)), seen(120, target(8, by=OURS)))
    assert [(entry.cause, entry.amount) for entry in ledger.entries] == [(Cause.OTHERS, -8), (Cause.ACTION, 4)]


def test_a_scaler_of_its_own_mind_has_one_entry_that_goes_up_and_down_and_is_not_claimed():
    counts = [10, 8, 12, 6, 10, 9]
    ledger = lived(*(seen(60 * at, target(count, by=HPA)) for at, count in enumerate(counts)))
    (entry,) = ledger.entries
    assert (entry.cause, entry.by, entry.amount) == (Cause.SCALER, "hpa", 1)


def test_pods_that_are_still_there_hold_what_was_freed():
    leaving = target(7, by=OURS, held=SIZE.times(9))
    ledger = lived(seen(0, target(10)), seen(60, leaving), seen(660, replace(leaving, replicas_by=PERSON)))
    came = total(ledger)
    assert came.requests.gpus == pytest.approx(3 * 600 / HOUR)
    assert came.capacity.gpus == pytest.approx(1 * 600 / HOUR), "two of three pods have not gone"


def test_an_action_is_verified_when_monitor_says_so_and_others_when_they_have_stood():
    ours = [seen(0, target(10)), seen(60, target(7, by=OURS))]
    assert not lived(*ours, seen(660, target(7))).entries[0].verified
    verified = lived(*ours, seen(660, target(7, verified=frozenset({"act-1"}))), seen(1260, target(7)))
    assert verified.entries[0].verified
    assert verified.periods.all_time[ACTION_VERIFIED].freed.requests.gpus > 0.0
    theirs = [seen(0, target(10)), seen(60, target(7))]
    assert not lived(*theirs, seen(600, target(7))).entries[0].verified
    assert lived(*theirs, seen(660, target(7))).entries[0].verified


# gaps and clocks


def test_a_gap_claims_nothing_unless_the_generation_proves_that_nobody_touched_the_workload():
    opened = [seen(0, target(10, generation=4)), seen(60, target(7, by=OURS, generation=5))]
    gap = 60 + LONGEST_GAP + 1
    proven = lived(*opened, seen(gap, target(7, generation=5)))
    assert total(proven).requests.gpus == pytest.approx(3 * (LONGEST_GAP + 1) / HOUR)
    for unproven in (target(7, generation=6), target(7, generation=0)):
        ledger = lived(*opened, seen(gap, unproven))
        assert total(ledger).is_nothing
        assert ledger.unwatched == pytest.approx(LONGEST_GAP + 1)
    too_long = lived(*opened, seen(60 + LONGEST_PROVEN + 1, target(7, generation=5)))
    assert total(too_long).is_nothing


def test_what_was_added_counts_through_a_gap():
    ledger = lived(seen(0, target(4)), seen(60, target(8, by=OURS)), seen(60 + 7200, target(8)))
    assert total(ledger).requests.gpus == pytest.approx(-4 * (7260 / HOUR))


def test_a_long_interval_is_no_gap():
    rounds = [seen(3600.0 * at, target(10 if at == 0 else 7, by=OURS), interval=Seconds(3600.0)) for at in range(4)]
    assert total(lived(*rounds)).requests.gpus == pytest.approx(3 * 2.0)


def test_a_clock_that_jumps_forward_counts_only_the_time_that_really_passed():
    ledger = lived(
        seen(0, target(10)),
        seen(60, target(7, by=OURS), elapsed=Seconds(60.0)),
        seen(60 + 86_400, target(7), elapsed=Seconds(30.0)),
    )
    assert total(ledger).requests.gpus == pytest.approx(3 * 30 / HOUR)


def test_a_clock_that_is_set_back_counts_nothing_twice():
    ledger = lived(seen(0, target(10)), seen(60, target(7, by=OURS)), seen(360, target(7)))
    once = total(ledger).requests.gpus
    back = lived(seen(200, target(7)), seen(340, target(7)), ledger=ledger)
    assert total(back).requests.gpus == once
    on = lived(seen(420, target(7)), ledger=back)
    assert total(on).requests.gpus == pytest.approx(once + 3 * 60 / HOUR)


def test_a_workload_that_cannot_be_read_claims_nothing_for_that_time():
    ledger = lived(
        seen(0, target(10)),
        seen(60, target(7, by=OURS)),
        *(seen(60 + 30 * at, named=frozenset({"vllm"})) for at in range(1, 41)),
        seen(60 + 1230, target(7)),
    )
    assert total(ledger).is_nothing


def test_a_workload_made_anew_ends_its_entries_and_begins_at_what_runs():
    ledger = lived(seen(0, target(10)), seen(60, target(7, by=OURS)), seen(120, target(3, uid="u2")))
    assert ledger.entries == ()
    assert ledger.ended[0].end is End.REPLACED
    assert total(ledger).is_nothing
    assert ledger.accounts[0].base_replicas == 3


# counterfactual


def follows(replicas, reference, **more):
    return target(replicas, by=OURS, follows=True, reference=reference, reference_by="act-9", **more)


def test_a_scaler_that_follows_us_is_measured_against_a_plain_hpa_and_named_so():
    ledger = lived(
        seen(0, follows(10, 10.0)), seen(60, follows(6, 8.0)), seen(660, follows(6, 9.0)), seen(1260, follows(9, 8.0))
    )
    entry = next(entry for entry in ledger.entries if entry.basis is Basis.COUNTERFACTUAL)
    assert "HPA" in entry.method
    assert not entry.verified
    assert entry.amount == -1.0
    counter = total(ledger, basis=Basis.COUNTERFACTUAL).requests.gpus
    assert counter == pytest.approx((2 - 1) * 600 / HOUR), "the smaller end: two of two or three, then minus one"
    assert total(ledger, cause=Cause.ACTION).is_nothing, "the same replicas are not claimed as measured, too"


def test_what_was_claimed_as_measured_is_not_claimed_again_when_a_scaler_follows():
    ledger = lived(seen(0, target(10)), seen(60, target(6, by=OURS)), seen(660, target(6)), seen(720, follows(6, 8.0)))
    assert [(item.by, item.end) for item in ledger.ended] == [("act-1", End.COMPARED)]
    claimed = [entry for entry in ledger.entries if entry.cause in CLAIMED]
    assert [(entry.basis, entry.amount) for entry in claimed] == [(Basis.COUNTERFACTUAL, 2.0)]
    assert sum(entry.amount for entry in ledger.accounts[0].of(Axis.REPLICAS)) == 4, "and nothing is lost"


def test_without_a_known_load_there_is_no_counterfactual_and_the_reason_is_said():
    unknown = Unknown(UnknownReason.STALE, "no page for a minute")
    ledger = lived(seen(0, follows(10, 12.0)), seen(60, follows(10, unknown)), seen(660, follows(10, unknown)))
    assert total(ledger, basis=Basis.COUNTERFACTUAL).is_nothing
    assert "no page" in ledger.accounts[0].no_counterfactual


def test_who_stops_following_ends_the_comparison():
    ledger = lived(seen(0, follows(10, 12.0)), seen(60, follows(10, 12.0)), seen(120, target(10)))
    assert ledger.entries == ()
    assert ledger.ended[0].end is End.NOT_FOLLOWED


# money, months, currencies


def test_money_follows_its_nodes_and_only_while_they_were_watched():
    opened = lived(seen(0, target(10)), seen(60, target(7, by=OURS)))
    number = opened.entries[0].id
    rates = {number: [Rate(Basis.MEASURED, 30.0, UnixTime(T0 + 360))]}
    watched = lived(seen(660, target(7), rates=rates, nodes_watched=True), ledger=opened)
    assert total(watched).money == pytest.approx(30.0 * 300 / HOUR)
    assert total(lived(seen(660, target(7), rates=rates), ledger=opened)).money == 0.0
    added = {number: [Rate(Basis.MEASURED, -30.0, UnixTime(T0 + 360))]}
    assert total(lived(seen(660, target(7), rates=added), ledger=opened)).money == pytest.approx(-2.5)


def test_a_month_ends_at_midnight_utc_and_takes_its_part_of_an_hour():
    turn = 1_801_440_000.0  # 2027-02-01T00:00:00Z
    start = turn - T0 - 300
    ledger = lived(seen(start - 60, target(10)), seen(start, target(7, by=OURS)), seen(start + 600, target(7)))
    assert ledger.periods.month == "2027-02"
    this, last = ledger.periods.this_month[ACTION_UNVERIFIED], ledger.periods.last_month[ACTION_UNVERIFIED]
    assert this.freed.requests.gpus == pytest.approx(3 * 300 / HOUR)
    assert last.freed.requests.gpus == pytest.approx(3 * 300 / HOUR)
    later = lived(seen(start + 40 * 86_400, target(7)), ledger=ledger)
    assert later.periods.last_month[ACTION_UNVERIFIED].freed.requests.gpus == this.freed.requests.gpus


def test_another_currency_begins_with_no_money_and_keeps_the_old_amount_readable():
    opened = lived(seen(0, target(10), currency="USD"), seen(60, target(7, by=OURS), currency="USD"))
    rates = {opened.entries[0].id: [Rate(Basis.MEASURED, 36.0, UnixTime(T0))]}
    dollars = lived(seen(160, target(7), rates=rates, nodes_watched=True, currency="USD"), ledger=opened)
    euros = lived(seen(260, target(7), nodes_watched=True, currency="EUR"), ledger=dollars)
    assert total(dollars).money == pytest.approx(1.0)
    assert total(euros).money == 0.0
    assert euros.entries[0].accrued.money == 0.0
    assert total(euros).requests.gpus > total(dollars).requests.gpus
    (closed,) = euros.periods.closed
    assert (closed.currency, closed.measured) == ("USD", pytest.approx(1.0))
    early = lived(seen(61, target(7), currency="EUR"), ledger=lived(seen(60, target(7), currency="USD")))
    assert (early.periods.currency, early.periods.closed) == ("EUR", ()), "nothing was booked in the other one"


# whatever happens


CAUSES = [OURS, PERSON, HPA, Maker(Cause.ADOPTED, "rec-1"), Maker(Cause.ACTION, "act-1", rollback=True)]
MOMENTS = st.tuples(
    st.integers(0, 30),
    st.sampled_from([0.0, 1.0, 2.0]),
    st.sampled_from([1.0, 2.0, 4.0, 8.0]),
    st.sampled_from([8.0, 16.0, 32.0]),
    st.sampled_from(CAUSES),
    st.sampled_from([0.0, 15.0, 30.0, 400.0, 5000.0, -120.0, -5000.0]),
    st.integers(0, 3),
)


def story(moments):
    at, found = 0.0, []
    for number, (replicas, gpus, cores, memory, by, gap, more) in enumerate(moments):
        at += gap
        size = Capacity(gpus, cores, memory)
        held = size.times(replicas + more)
        found.append(seen(at, target(replicas, size, by=by, held=held, generation=number // 2)))
    return found


@settings(deadline=None, max_examples=300)
@given(st.lists(MOMENTS, min_size=1, max_size=40))
def test_open_entries_always_sum_up_to_what_is_freed(moments):
    ledger = Ledger.opening(T0)
    ids = set()
    for one in story(moments):
        ledger, _ = watch(ledger, one)
        (account,) = ledger.accounts
        summed = sum((account.freed(entry) for entry in account.entries), NOTHING)
        assert (summed - account.measured).is_nothing
        for axis in Axis:
            assert len(account.of(axis)) <= MOST_OPEN
        now = {entry.id for entry in ledger.entries}
        assert all(number < ledger.next_id for number in now)
        ids |= now
    assert len({entry.id for entry in ledger.ended} & {entry.id for entry in ledger.entries}) == 0


@settings(deadline=None, max_examples=200)
@given(st.lists(MOMENTS, min_size=2, max_size=40))
def test_totals_are_what_the_entries_came_to_and_only_grow(moments):
    ledger = Ledger.opening(T0)
    booked, before = Amounts(), {}
    for one in story(moments):
        was = {entry.id: entry.accrued.requests for entry in (*ledger.entries, *ledger.ended)}
        after, accruals = watch(ledger, one)
        again, more = watch(after, one)
        assert more == () or all(item.amounts.is_nothing for item in more)
        assert again.periods == after.periods
        assert again.accounts == after.accounts
        gained = Amounts()
        for item in accruals:
            booked, gained = booked + item.amounts, gained + item.amounts
        shown = (*after.entries, *after.ended)
        came = sum((entry.accrued.requests + was.pop(entry.id, NOTHING).times(-1.0) for entry in shown), NOTHING)
        if not any(not value.is_nothing for value in was.values()):  # else some were joined, or fell out of the list
            assert (came - gained.requests).is_nothing
        for key, line in after.periods.all_time.items():
            old = before.get(key)
            for part in ("freed", "added"):
                now = getattr(line, part)
                assert min(now.requests.gpus, now.requests.cpu_cores, now.requests.memory_gib, now.money) >= 0.0
                assert now.capacity.gpus <= now.requests.gpus + 1e-9
                if old is not None:
                    assert now.requests.gpus >= getattr(old, part).requests.gpus
        before = dict(after.periods.all_time)
        ledger = after
    assert (total(ledger).requests - booked.requests).is_nothing


@settings(deadline=None, max_examples=200)
@given(st.lists(MOMENTS, min_size=2, max_size=30))
def test_nobody_claims_more_than_was_ever_not_asked_for(moments):
    """GPU-hours over all causes never exceed the integral of n0 s0 - n s at its smaller end."""
    ledger, bound, before = Ledger.opening(T0), 0.0, None
    for one in story(moments):
        after, _ = watch(ledger, one)
        freed = after.accounts[0].measured.gpus
        if before is not None:
            span = max(0.0, one.at - ledger.as_of) / HOUR
            bound += max(before, freed, 0.0) * span
        ledger, before = after, freed
    assert total(ledger).requests.gpus <= bound + 1e-6


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(MOMENTS, st.sampled_from([None, 0.0, 4.0, 12.0, 40.0])), min_size=2, max_size=30))
def test_measured_and_counterfactual_never_claim_the_same_replicas(moments):
    ledger = Ledger.opening(T0)
    for one, (_, reference) in zip(story([moment for moment, _ in moments]), moments, strict=True):
        (now,) = one.targets
        follow = reference is not None
        now = replace(now, follows=follow, reference=reference if follow else now.reference)
        ledger, _ = watch(ledger, replace(one, targets=(now,)))
        (account,) = ledger.accounts
        assert (
            sum((account.freed(entry) for entry in account.entries if entry.basis is Basis.MEASURED), NOTHING)
            - account.measured
        ).is_nothing
        replicas = [entry for entry in account.entries if entry.axis is Axis.REPLICAS and entry.cause in CLAIMED]
        assert len({entry.basis for entry in replicas}) <= 1
