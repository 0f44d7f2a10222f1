"""The savings ledger in the status: a restart goes on where it was, and time alone writes little."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.api.ledger import cluster_ledger_fields, cluster_ledger_from, ledger_fields, ledger_from
from optiinfra.api.scalars import Time
from optiinfra.api.status_change import LEDGER_INTERVAL, is_meaningful_change
from optiinfra.api.v1alpha1 import (
    ClusterLedgerStatus,
    ClusterResourceOptimizationStatus,
    LedgerStatus,
    ResourceOptimizationStatus,
    RoundStatus,
)
from optiinfra.domain.savings.amounts import Capacity
from optiinfra.domain.savings.ledger import Ledger, watch
from tests.unit.domain.test_savings_ledger import MOMENTS, OURS, T0, lived, seen, story, target, total
from tests.unit.domain.test_savings_nodes import claim
from tests.unit.domain.test_savings_nodes import lived as nodes_lived
from tests.unit.domain.test_savings_nodes import seen as nodes_seen


def restarted(ledger: Ledger) -> Ledger:
    """Through the status as the API server keeps it."""
    found = ledger_from(LedgerStatus.model_validate(ledger_fields(ledger).to_wire()))
    assert found is not None
    return found


def close(one: Capacity, other: Capacity, *, within: float = 1e-4) -> bool:
    rest = one - other
    return max(abs(rest.gpus), abs(rest.cpu_cores), abs(rest.memory_gib)) < within


@settings(deadline=None, max_examples=100)
@given(st.lists(MOMENTS, min_size=2, max_size=25), st.integers(0, 25))
def test_a_restart_in_the_middle_gives_the_same_totals(moments, cut):
    straight = broken = Ledger.opening(T0)
    for number, one in enumerate(story(moments)):
        straight, _ = watch(straight, one)
        broken, _ = watch(broken, one)
        if number == cut:
            before = broken
            broken = restarted(broken)
            # What pods held at that moment is not kept; it is looked at again in the next round.
            accounts = zip(before.accounts, broken.accounts, strict=True)
            broken = replace(broken, accounts=tuple(replace(b, shortfall=a.shortfall) for a, b in accounts))
            broken = replace(broken, counted_until=before.counted_until)
    assert close(total(broken).requests, total(straight).requests)
    assert close(total(broken).capacity, total(straight).capacity)
    assert [entry.amount for entry in broken.entries] == pytest.approx([entry.amount for entry in straight.entries])
    assert broken.next_id == straight.next_id


def test_nothing_is_counted_twice_by_a_second_that_was_cut_off():
    ledger = lived(seen(0.0, target(10)), seen(60.9, target(7, by=OURS)), seen(660.9, target(7)))
    again = lived(seen(660.9, target(7)), ledger=restarted(ledger))
    assert total(again).requests.gpus == pytest.approx(total(ledger).requests.gpus, abs=1e-6)


def test_a_cluster_s_books_come_back_and_go_on():
    before = nodes_lived(
        nodes_seen(0, 4, currency="USD"),
        nodes_seen(300, 3, claim(8.0), currency="USD"),
        nodes_seen(600, 3, claim(8.0), currency="USD"),
    )
    status = ClusterLedgerStatus.model_validate(cluster_ledger_fields(before).to_wire())
    after = cluster_ledger_from(status)
    assert after is not None
    more = nodes_seen(900, 3, claim(8.0), currency="USD")
    straight, broken = nodes_lived(more, ledger=before), nodes_lived(more, ledger=after)
    assert broken.rates == straight.rates
    for key, line in straight.periods.all_time.items():
        assert broken.periods.all_time[key].freed.money == pytest.approx(line.freed.money, abs=1e-5)
    back = nodes_lived(nodes_seen(1200, 4, currency="USD"), ledger=broken)
    assert back.nodes.entries == ()
    assert after.absorbs_from == before.as_of


def test_an_empty_status_holds_no_books():
    assert ledger_from(LedgerStatus(summary="2 GPUs", since=Time.of(T0))) is None
    assert cluster_ledger_from(ClusterLedgerStatus()) is None


def test_what_is_freed_now_is_what_the_operator_claims():
    ledger = lived(
        seen(0, target(10)), seen(60, target(7, by=OURS, held=Capacity(8.0, 28.0, 224.0))), seen(90, target(5))
    )
    fields = ledger_fields(ledger)
    assert fields.freed is not None
    assert fields.freed.gpus == 3.0, "the two replicas of a person are not claimed"


# writes


def status(ledger, *, at, kind=ResourceOptimizationStatus, **more):
    return kind(savings=ledger.model_copy(update=more), last_round=RoundStatus(id="r", at=Time.of(at)))


def test_hours_that_pass_alone_are_written_once_an_hour():
    opened = lived(seen(0, target(10, generation=1)), seen(60, target(7, by=OURS, generation=2)))
    old = status(ledger_fields(opened), at=T0 + 60)
    for minutes, wanted in ((4, False), (30, False), (59, False), (61, True)):
        at = 60.0 + minutes * 60
        later = ledger_fields(lived(seen(at, target(7, generation=2)), ledger=opened))
        assert is_meaningful_change(old, status(later, at=T0 + at), now=T0 + at) is wanted, minutes


def test_where_nothing_accrues_nothing_is_written_ever():
    opened = lived(seen(0, target(10)), seen(60, target(7, by=OURS)), seen(120, target(10)))
    old = status(ledger_fields(opened), at=T0 + 120)
    at = T0 + 120 + 100 * LEDGER_INTERVAL
    later = ledger_fields(opened).model_copy(update={"as_of": Time.of(at)})
    assert not is_meaningful_change(old, status(later, at=at), now=at)


def test_a_new_entry_is_written_at_once():
    first = lived(seen(0, target(10)), seen(60, target(7, by=OURS)))
    old = status(ledger_fields(first), at=T0 + 60)
    second = ledger_fields(lived(seen(61, target(6)), ledger=first))
    assert is_meaningful_change(old, status(second, at=T0 + 61), now=T0 + 61)


def test_the_cluster_s_money_is_written_every_five_minutes_at_most():
    books = nodes_lived(nodes_seen(0, 4), nodes_seen(60, 3, claim(8.0)))
    old = status(cluster_ledger_fields(books), at=T0 + 60, kind=ClusterResourceOptimizationStatus)
    for seconds, wanted in ((240, False), (301, True)):
        later = cluster_ledger_fields(nodes_lived(nodes_seen(60 + seconds, 3, claim(8.0)), ledger=books))
        new = status(later, at=T0 + 60 + seconds, kind=ClusterResourceOptimizationStatus)
        assert is_meaningful_change(old, new, now=T0 + 60 + seconds) is wanted


def test_a_reason_whose_numbers_move_is_not_written_with_every_tick():
    opened = ledger_fields(lived(seen(0, target(10)), seen(60, target(7, by=OURS))))
    reasons = [f"unknown (TooFewSamples: the load is known for {ticks} of 240 ticks)" for ticks in (14, 15)]
    texts = [*reasons, "unknown (Stale: the last page is old)"]
    found = []
    for text in texts:
        bases = tuple(base.model_copy(update={"no_counterfactual": text}) for base in opened.bases)
        found.append(status(opened.model_copy(update={"bases": bases}), at=T0 + 60))
    assert not is_meaningful_change(found[0], found[1], now=T0 + 61)
    assert is_meaningful_change(found[0], found[2], now=T0 + 61), "another reason is news"
