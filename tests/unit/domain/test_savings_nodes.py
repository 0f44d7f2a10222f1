"""Money is made by nodes alone: gone, or not bought; shared by who had freed what; never twice."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.prices import Terms
from optiinfra.domain.savings.amounts import NOTHING, Amounts, Capacity
from optiinfra.domain.savings.cluster import ClusterLedger, NodesSeen, absorb, watch_nodes
from optiinfra.domain.savings.entries import Basis, Cause, Place
from optiinfra.domain.savings.ledger import LONGEST_GAP, Accrual
from optiinfra.domain.savings.nodes import MOST_NODE_ENTRIES, Claim, Departure, Shape, like
from optiinfra.domain.savings.periods import LineKey
from optiinfra.domain.units import UnixTime

T0 = UnixTime(1_800_000_000.0)
HOUR = 3600.0
H100 = Place("h100", "H100")
NODE = Shape(H100, 8.0, 96.0, 1024.0)
CPU = Shape(Place("cpu", ""), 0.0, 32.0, 128.0)
PRICE = {NODE: 40.0, CPU: 2.0}


def claim(gpus, *, owner="a/x", entry=1, basis=Basis.MEASURED, cause=Cause.ACTION, place=H100, verified=True):
    return Claim(owner, entry, cause, basis, verified, place, Capacity(gpus, gpus * 12.0, gpus * 128.0))


def seen(at, nodes, *claims, **more):
    counts = nodes if isinstance(nodes, dict) else {NODE: nodes}
    return NodesSeen(
        at=UnixTime(T0 + at),
        counts=counts,
        saved_hours=more.pop("prices", PRICE),
        bought_hours=more.pop("bought", PRICE),
        claims=claims,
        **more,
    )


def lived(*observations, ledger=None):
    ledger = ledger or ClusterLedger.opening(T0)
    for one in observations:
        ledger = watch_nodes(ledger, one)
    return ledger


def money(ledger, cause=None, basis=None):
    return sum(
        line.freed.money - line.added.money
        for key, line in ledger.periods.all_time.items()
        if (cause is None or key.cause is cause) and (basis is None or key.basis is basis)
    )


def rate(ledger, owner="a/x", entry=1):
    return sum(item.per_hour for item in ledger.rates_of(owner).get(entry, ()))


def test_replicas_that_leave_a_node_half_empty_save_no_money_until_it_goes():
    half = lived(seen(0, 4), seen(300, 4, claim(4.0)), seen(600, 4, claim(4.0)))
    assert (rate(half), money(half)) == (0.0, 0.0)
    gone = lived(seen(600 + 60, 3, claim(4.0)), seen(600 + 360, 3, claim(4.0)), ledger=half)
    assert rate(gone) == pytest.approx(20.0), "half of the node was ours; nobody had freed the other half"
    assert money(gone, Cause.ACTION, Basis.MEASURED) == pytest.approx(20.0 * 300 / HOUR)
    assert money(gone, Cause.OTHERS) == pytest.approx(20.0 * 300 / HOUR)


def test_a_node_s_money_goes_by_share_and_never_beyond_its_price():
    claims = claim(8.0), claim(4.0, owner="b/y", entry=7)
    gone = lived(seen(0, 4), seen(300, 3, *claims))
    assert rate(gone) == pytest.approx(40.0 * 8 / 12)
    assert rate(gone, "b/y", 7) == pytest.approx(40.0 * 4 / 12)
    both = lived(seen(600, 2, *claims), ledger=gone)
    assert rate(both) + rate(both, "b/y", 7) == pytest.approx(40.0 * 12 / 8), "twelve GPUs are a node and a half"


def test_other_gpus_let_no_node_go():
    elsewhere = claim(8.0, place=Place("l4", "L4"))
    gone = lived(seen(0, 4), seen(300, 3, elsewhere))
    assert rate(gone) == 0.0
    assert gone.nodes.entries[0].unshared == 1.0


def test_a_node_that_comes_back_ends_the_entry():
    ledger = lived(seen(0, 4), seen(300, 3, claim(8.0)), seen(600, 3, claim(8.0)), seen(900, 4, claim(8.0)))
    assert ledger.nodes.entries == ()
    assert ledger.ended[0].money == pytest.approx(40.0 * 300 / HOUR)
    assert rate(ledger) == 0.0


@pytest.mark.parametrize("back", [1, 2])
def test_nodes_that_come_back_before_their_gpus_are_told_end_the_entry_once_they_are(back):
    """A device plugin tells a node's GPUs some seconds after the kubelet has told the node."""
    bare = Shape(Place("h100", ""), 0.0, 96.0, 1024.0)
    gone = lived(seen(0, 4), seen(300, 4 - back, claim(8.0 * back)))
    come = lived(seen(600, {NODE: 4 - back, bare: back}, claim(8.0 * back)), ledger=gone)
    assert sorted(entry.nodes for entry in come.nodes.entries) == [-back, back]
    told = lived(seen(630, 4, claim(8.0 * back), relabelled=((bare, NODE),) * back), ledger=come)
    assert told.nodes.entries == ()
    assert told.nodes.counts == {NODE: 4}
    assert [entry.ended for entry in told.ended] == [UnixTime(T0 + 630)]
    later = lived(seen(930, 4, claim(8.0 * back)), ledger=told)
    assert (rate(later), money(later)) == (0.0, money(told))


def test_one_of_two_nodes_that_came_back_without_gpus_ends_one_of_two():
    bare = Shape(Place("h100", ""), 0.0, 96.0, 1024.0)
    gone = lived(seen(0, 4), seen(300, 2, claim(16.0)), seen(600, {NODE: 2, bare: 2}, claim(16.0)))
    told = lived(seen(630, {NODE: 3, bare: 1}, claim(16.0), relabelled=((bare, NODE),)), ledger=gone)
    assert {(entry.shape, entry.nodes) for entry in told.nodes.entries} == {(NODE, 1), (bare, -1)}
    assert told.ended == ()


def test_a_node_that_is_added_costs_whoever_asked_for_it():
    ledger = lived(seen(0, 4), seen(300, 5, claim(-8.0)), seen(600, 5, claim(-8.0)))
    assert rate(ledger) == pytest.approx(-40.0)
    assert money(ledger, Cause.ACTION) == pytest.approx(-40.0 * 600 / HOUR), "the minutes in which it came count whole"
    line = ledger.periods.all_time[LineKey(Cause.ACTION, Basis.MEASURED, verified=True)]
    assert (line.freed.money, line.added.money) == (0.0, pytest.approx(40.0 * 600 / HOUR))


def test_a_node_of_another_shape_is_no_replacement():
    small = Shape(H100, 4.0, 48.0, 512.0)
    prices = {**PRICE, small: 21.0}
    ledger = lived(
        seen(0, {NODE: 1}, prices=prices), seen(300, {small: 2}, prices=prices), seen(600, {small: 2}, prices=prices)
    )
    assert sorted(entry.nodes for entry in ledger.nodes.entries) == [-2, 1]
    assert money(ledger) == pytest.approx(40.0 * 300 / HOUR - 42.0 * 600 / HOUR)


def test_nodes_swapped_for_others_save_nobody_a_node():
    small = Shape(H100, 4.0, 48.0, 512.0)
    prices = {**PRICE, small: 21.0}
    ledger = lived(
        seen(0, {NODE: 2}, prices=prices),
        seen(300, {NODE: 1, small: 2}, claim(8.0), prices=prices),
        seen(600, {NODE: 1, small: 2}, claim(8.0), prices=prices),
    )
    assert rate(ledger) == 0.0
    assert money(ledger, Cause.ACTION) == 0.0
    assert money(ledger, Cause.OTHERS) == pytest.approx(40.0 * 300 / HOUR - 42.0 * 600 / HOUR), "what they cost more"
    less = lived(seen(900, {NODE: 1, small: 1}, claim(8.0), prices=prices), ledger=ledger)
    assert rate(less) == pytest.approx(20.0), "four of eight GPUs really went"


def test_an_upgrade_that_changes_what_the_kubelet_keeps_is_no_other_node():
    newer = Shape(H100, 8.0, 95.5, 1019.0)
    assert like(newer, [CPU, NODE]) == NODE
    assert like(replace(newer, gpus=4.0), [NODE]).gpus == 4.0
    assert like(replace(newer, memory_gib=700.0), [NODE]).memory_gib == 700.0
    assert like(replace(newer, spot=True), [NODE]).spot


def test_a_removal_that_was_recommended_is_adopted():
    left = {NODE: [Departure("gpu-3", Cause.ADOPTED, "rec-7")]}
    ledger = lived(seen(0, 4), seen(300, 3, departures=left), seen(600, 3), seen(1200, 3))
    (entry,) = ledger.nodes.entries
    assert (entry.name, entry.cause, entry.by) == ("gpu-3", Cause.ADOPTED, "rec-7")
    assert money(ledger, Cause.ADOPTED) == pytest.approx(40.0 * 900 / HOUR)
    verified = ledger.periods.all_time[LineKey(Cause.ADOPTED, Basis.MEASURED, verified=True)]
    assert verified.freed.money == pytest.approx(40.0 * 600 / HOUR), "once it has stood for ten minutes"


# commitments


def test_committed_capacity_that_is_freed_is_worth_nothing_until_it_is_refilled():
    paid = {"terms": {H100: Terms(committed_gpus=32.0)}}
    gone = lived(seen(0, 4, **paid), seen(300, 3, claim(8.0), **paid), seen(600, 3, claim(8.0), **paid))
    assert (rate(gone), money(gone)) == (0.0, 0.0)
    freed = lived(
        seen(0, 4, allocated={H100: Capacity(32.0)}, **paid),
        seen(300, 4, claim(8.0), allocated={H100: Capacity(24.0)}, **paid),
    )
    assert rate(freed) == 0.0
    refilled = lived(
        seen(600, 4, claim(8.0), allocated={H100: Capacity(32.0)}, **paid),
        seen(900, 4, claim(8.0), allocated={H100: Capacity(32.0)}, **paid),
        ledger=freed,
    )
    assert rate(refilled) == pytest.approx(40.0), "others run where a node would have had to be bought"
    assert money(refilled, basis=Basis.COUNTERFACTUAL) == pytest.approx(40.0 * 300 / HOUR)
    assert money(refilled, basis=Basis.MEASURED) == 0.0


def test_only_what_exceeds_a_commitment_is_saved():
    paid = {"terms": {H100: Terms(committed_gpus=20.0)}}
    gone = lived(seen(0, 4, **paid), seen(300, 2, claim(16.0), **paid))
    assert rate(gone) == pytest.approx(80.0 * 12 / 16), "32 GPUs, 20 of them paid for, 16 left"


def test_a_committed_share_is_one_of_what_there_was():
    paid = {"terms": {H100: Terms(committed_share=0.5)}}
    ledger = lived(seen(0, 4, **paid), seen(300, 3, claim(8.0), **paid))
    assert rate(ledger) == pytest.approx(40.0), "two of four nodes are committed, and three are left"
    ledger = lived(seen(600, 1, claim(24.0), **paid), ledger=ledger)
    assert rate(ledger) == pytest.approx(80.0), "one of the three that went goes on being paid"


def test_spot_nodes_are_under_no_commitment():
    spot = replace(NODE, spot=True)
    prices = {spot: 15.0}
    ledger = lived(
        seen(0, {spot: 2}, prices=prices, terms={H100: Terms(committed_share=1.0)}),
        seen(300, {spot: 1}, claim(8.0), prices=prices, terms={H100: Terms(committed_share=1.0)}),
    )
    assert rate(ledger) == pytest.approx(15.0)


# not bought


def test_a_plain_hpa_s_replicas_count_as_nodes_that_were_not_bought():
    counter = claim(12.0, basis=Basis.COUNTERFACTUAL, verified=False)
    full = {"allocated": {H100: Capacity(30.0)}}
    ledger = lived(seen(0, 4, **full), seen(300, 4, counter, **full), seen(600, 4, counter, **full))
    assert rate(ledger) == pytest.approx(40.0), "42 GPUs on 32: ten are missing, one whole node"
    assert money(ledger, Cause.ACTION, Basis.COUNTERFACTUAL) == pytest.approx(40.0 * 300 / HOUR)
    roomy = lived(seen(0, 6, **full), seen(300, 6, counter, **full))
    assert rate(roomy) == 0.0, "42 GPUs fit on 48"


def test_a_node_that_went_is_not_counted_a_second_time_as_not_bought():
    counter = claim(8.0, basis=Basis.COUNTERFACTUAL, verified=False)
    before = seen(0, 4, allocated={H100: Capacity(32.0)})
    after = [seen(at, 3, counter, allocated={H100: Capacity(24.0)}) for at in (300, 600)]
    ledger = lived(before, *after)
    assert rate(ledger) == pytest.approx(40.0)
    assert ledger.avoided == ()


# prices, gaps, totals


def test_hours_are_worth_what_they_cost_when_they_were():
    dear = {NODE: 60.0}
    ledger = lived(
        seen(0, 4), seen(300, 3, claim(8.0)), seen(600, 3, claim(8.0)), seen(900, 3, claim(8.0), prices=dear)
    )
    assert money(ledger) == pytest.approx((40.0 + 60.0) * 300 / HOUR)


def test_without_a_price_there_is_no_money_and_no_zero_passed_off_as_one():
    ledger = lived(seen(0, 4, prices={}), seen(300, 3, claim(8.0), prices={}))
    assert ledger.nodes.entries[0].hour is None
    assert ledger.rates == {}


def test_a_gap_makes_no_money_but_costs_what_was_added():
    gone = lived(seen(0, 4), seen(300, 3), seen(300 + LONGEST_GAP + 60, 3))
    assert money(gone) == 0.0
    assert gone.unwatched == pytest.approx(LONGEST_GAP + 60)
    assert not gone.watched
    added = lived(seen(0, 4), seen(300, 5), seen(300 + 7200, 5))
    assert money(added) == pytest.approx(-40.0 * 7500 / HOUR)


def test_nodes_that_went_while_nobody_watched_count_from_when_it_was_seen():
    first = lived(seen(0, 4), seen(300, 4))
    later = lived(seen(7200, 3), seen(7500, 3), ledger=first)
    assert later.nodes.entries[0].opened == T0 + 7200
    assert money(later) == pytest.approx(40.0 * 300 / HOUR)


def test_hours_of_objects_before_the_restored_totals_are_not_added_again():
    ledger = replace(ClusterLedger.opening(T0), absorbs_from=UnixTime(T0 + 600))
    key = LineKey(Cause.ACTION, Basis.MEASURED, verified=True)
    came = Accrual(key, Amounts(Capacity(9.0), Capacity(6.0), 99.0), UnixTime(T0), UnixTime(T0 + 900))
    line = absorb(ledger, [came]).periods.all_time[key]
    assert line.freed.requests.gpus == pytest.approx(3.0)
    assert line.freed.capacity.gpus == pytest.approx(2.0)
    assert line.freed.money == 0.0, "money is counted by nodes"


def test_another_currency_begins_anew():
    ledger = lived(
        seen(0, 4, currency="USD"),
        seen(300, 3, currency="USD"),
        seen(600, 3, currency="USD"),
        seen(900, 3, currency="EUR"),
    )
    (closed,) = ledger.periods.closed
    assert closed.currency == "USD"
    assert money(ledger) == pytest.approx(40.0 * 300 / HOUR), "only what came after the change"
    assert ledger.nodes.entries[0].money == pytest.approx(40.0 * 300 / HOUR)


STEPS = st.tuples(
    st.sampled_from([0.0, 30.0, 300.0, 4000.0]),
    st.integers(0, 12),
    st.integers(0, 4),
    st.lists(st.sampled_from([-8.0, -2.0, 0.0, 2.0, 4.0, 8.0, 24.0]), min_size=3, max_size=3),
    st.sampled_from([20.0, 40.0]),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(STEPS, min_size=2, max_size=40))
def test_nodes_and_their_money_are_conserved(steps):
    ledger, at, first = ClusterLedger.opening(T0), 0.0, None
    for gap, gpu_nodes, cpu_nodes, freed, price in steps:
        at += gap
        claims = [claim(amount, owner=f"a/{number}", entry=number) for number, amount in enumerate(freed) if amount]
        counts = {NODE: gpu_nodes, CPU: cpu_nodes}
        one = seen(at, counts, *claims, prices={NODE: price, CPU: 2.0})
        before = ledger
        ledger = watch_nodes(ledger, one)
        first = first or counts
        for shape in (NODE, CPU):
            moved = sum(entry.nodes for entry in ledger.nodes.entries if entry.shape == shape)
            assert moved == first.get(shape, 0) - counts[shape]
        assert len(ledger.nodes.entries) <= MOST_NODE_ENTRIES
        for entry in ledger.nodes.entries:
            assert sum(share.fraction for share in entry.shares) <= 1.0 + 1e-9
        # What went is worth its price once, whoever has it; what was not bought comes on top and is in no entry.
        went = sum(max(entry.nodes, 0) * (entry.hour or 0.0) for entry in ledger.nodes.entries)
        came = sum(min(entry.nodes, 0) * (entry.hour or 0.0) for entry in ledger.nodes.entries)
        not_bought = sum(item.nodes * item.hour for item in ledger.avoided)
        owned = [rates for entries in ledger.rates.values() for rates in entries.values()]
        total = sum(rate.per_hour for rates in owned for rate in rates)
        assert came - 1e-6 <= total <= went + not_bought + 1e-6
        for key, line in before.periods.all_time.items():
            now = ledger.periods.all_time[key]
            assert now.freed.money >= line.freed.money
            assert now.added.money >= line.added.money
        assert watch_nodes(ledger, one).periods == ledger.periods


@settings(deadline=None, max_examples=200)
@given(st.lists(STEPS, min_size=2, max_size=25))
def test_no_capacity_is_given_to_two_nodes(steps):
    """What a claim has given to nodes that went never exceeds what it had freed when they went."""
    ledger, at, most = ClusterLedger.opening(T0), 0.0, {}
    for gap, gpu_nodes, _, freed, _ in steps:
        at += gap
        claims = [claim(abs(amount), owner=f"a/{number}", entry=number) for number, amount in enumerate(freed)]
        for item in claims:
            most[item.owner, item.entry] = max(most.get((item.owner, item.entry), 0.0), item.freed.gpus)
        ledger = watch_nodes(ledger, seen(at, gpu_nodes, *claims))
        given_away = dict.fromkeys(most, NOTHING)
        for entry in ledger.nodes.entries:
            for share in entry.shares:
                given_away[share.owner, share.entry] += entry.shape.capacity.times(entry.nodes * share.fraction)
        assert all(given_away[key].gpus <= most[key] + 1e-6 for key in most)
