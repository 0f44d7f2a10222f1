"""Mixes of variants: the cheapest within all limits, made before what it replaces is broken, and steady."""

import itertools
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.scaler.mix import mix
from optiinfra.domain.scaler.mix_search import cheapest, most_reachable, reach
from optiinfra.domain.scaler.mix_states import MILLION, Item, Problem
from optiinfra.domain.scaler.observation import ScalerInputError
from optiinfra.domain.scaler.variant import CapacityType, MixLimit, MixReason, PriceBasis, Variant
from optiinfra.domain.units import Seconds

NOT_LEARNED = Unknown(UnknownReason.TOO_FEW_SAMPLES, "never busy")
NO_PRICE = Unknown(UnknownReason.NOT_CONFIGURED, "no price")
SPOT = CapacityType.SPOT


def variant(name="a", *, capacity=10.0, price=2.0, current=0, ready=None, start=180.0, **changes):
    values = {
        "gpus": 1.0,
        "minimum": 0,
        "maximum": 20,
        "starting": 0,
        "start_up_p50": Seconds(start * 0.8),
        "start_up_p95": Seconds(start),
    }
    values |= changes
    ready = current if ready is None else ready
    return Variant(name=name, capacity=capacity, price=price, current=current, ready=ready, **values)


def reasons(found):
    return {choice.name: choice.reason for choice in found.choices}


def limits(found):
    return {shortfall.limit for shortfall in found.shortfalls}


# The search against trying everything.


def by_trying(problem, need):
    best = None
    for counts in itertools.product(*[range(i.lowest, i.highest + 1) for i in problem.items]):
        rows = list(zip(counts, problem.items, strict=True))
        total = sum(x * i.capacity for x, i in rows)
        spot = sum(x * i.capacity for x, i in rows if i.spot)
        if total < need or any(x > i.lowest and x * i.capacity * MILLION > i.share * total for x, i in rows):
            continue
        if spot > sum(i.lowest * i.capacity for _, i in rows if i.spot) and spot * MILLION > problem.spot_share * total:
            continue
        if problem.gpus is not None and sum(max(x, i.current) * i.gpus for x, i in rows) > problem.gpus:
            continue
        cost = sum(max(0, x - i.reserved) * i.keep + max(0, x - max(i.current, i.reserved)) * i.start for x, i in rows)
        starts, gpus = sum(max(0, x - i.current) for x, i in rows), sum(x * i.gpus for x, i in rows)
        key = (cost, starts, gpus, sum(counts), -total, tuple(-x for x in counts))
        if best is None or key < best[0]:
            best = (key, counts)
    return None if best is None else best[1]


items = st.builds(
    lambda lowest, more, **rest: Item(lowest=lowest, highest=lowest + more, **rest),
    capacity=st.sampled_from([1, 2, 3, 5, 7, 8, 100, 103]),
    lowest=st.integers(0, 2),
    more=st.integers(0, 4),
    current=st.integers(0, 4),
    reserved=st.sampled_from([0, 0, 2]),
    keep=st.integers(0, 9),
    start=st.sampled_from([0, 1, 5]),
    gpus=st.sampled_from([0, 16, 32]),
    share=st.sampled_from([MILLION, MILLION, 300_000, 500_000]),
    spot=st.booleans(),
)
problems = st.builds(
    Problem,
    items=st.lists(items, min_size=1, max_size=4).map(tuple),
    spot_share=st.sampled_from([MILLION, 500_000, 0]),
    gpus=st.one_of(st.none(), st.integers(0, 30).map(lambda whole: whole * 16)),
)


@settings(max_examples=150, deadline=None)
@given(problem=problems, part=st.floats(0.0, 1.05))
def test_the_search_finds_what_trying_everything_finds(problem, part):
    need = math.ceil(part * sum(item.highest * item.capacity for item in problem.items))
    found = cheapest(problem, need)
    assert (None if found is None else found.counts) == by_trying(problem, need)
    assert found is None or found.gap == 0.0


@settings(max_examples=100, deadline=None)
@given(problem=problems)
def test_what_can_be_reached_is_what_trying_everything_reaches(problem):
    most = sum(item.highest * item.capacity for item in problem.items)
    free = replace(problem, spot_share=MILLION, gpus=None)
    assert by_trying(free, reach(free)) is not None
    assert by_trying(free, reach(free) + 1) is None
    met = most_reachable(problem, most)
    assert by_trying(problem, most) is not None if met == most else by_trying(problem, met + 1) is None
    assert met < 0 or by_trying(problem, met) is not None


def test_a_search_that_is_cut_short_says_how_much_dearer_it_could_be():
    drawn = random.Random(3)
    many = tuple(
        Item(
            capacity=capacity,
            lowest=0,
            highest=512,
            current=0,
            reserved=0,
            keep=capacity * 3600,
            start=0,
            gpus=16,
            share=MILLION,
            spot=False,
        )
        for capacity in (drawn.randint(40_000_000, 60_000_000) for _ in range(8))
    )
    found = cheapest(Problem(many), 12_345_678_901)
    assert found is not None
    assert sum(count * item.capacity for count, item in zip(found.counts, many, strict=True)) >= 12_345_678_901
    assert 0.0 <= found.gap < 0.01


def test_a_search_that_is_cut_short_still_comes_to_rest():
    drawn = random.Random(8)
    each = [drawn.uniform(4900.0, 5100.0) for _ in range(8)]
    many = [
        variant(f"v{at}", capacity=work, price=work / 1000.0, start=0.0, maximum=512) for at, work in enumerate(each)
    ]
    seen = []
    for _ in range(3):
        found = mix(7_777_777.0, many)
        assert found.gap > 0.0
        seen.append(found.settled)
        many = [replace(v, current=found.desired[v.name], ready=found.desired[v.name]) for v in many]
    assert seen[-1] == seen[-2]


# What a mix keeps, whatever it is given.

capacities = st.sampled_from([4.0, 5.0, 10.0, 10.3, 25.0])


@st.composite
def variants(draw, *, known=True, least=1):
    found = []
    for name in draw(st.permutations("abcd"))[: draw(st.integers(least, 4))]:
        minimum = draw(st.integers(0, 2))
        maximum = minimum + draw(st.integers(0, 8))
        current = draw(st.integers(0, 9))
        ready = draw(st.integers(0, current))
        unknown = not known and draw(st.integers(0, 3)) == 0
        found.append(
            variant(
                name,
                capacity=NOT_LEARNED if unknown else draw(capacities),
                price=draw(st.sampled_from([0.0, 1.0, 2.0, 2.5, 3.0])),
                current=current,
                ready=ready,
                starting=draw(st.integers(0, current - ready)),
                start=draw(st.sampled_from([0.0, 60.0, 180.0, 900.0])),
                minimum=minimum,
                maximum=maximum,
                gpus=draw(st.sampled_from([1.0, 2.0])),
                capacity_type=draw(st.sampled_from(list(CapacityType))),
                max_share=draw(st.sampled_from([1.0, 1.0, 0.5, 0.3])),
                stocked_out=draw(st.integers(0, 4)) == 0,
            )
        )
    return found


needs = st.one_of(st.just(0.0), st.floats(0.0, 400.0))
budgets = st.one_of(st.none(), st.integers(4, 40).map(float))


@settings(max_examples=100, deadline=None)
@given(given_=variants(known=False), need=needs, budget=budgets)
def test_a_mix_never_leaves_the_limits(given_, need, budget):
    found = mix(need, given_, gpu_budget=budget)
    served = {v.name: found.settled[v.name] * v.capacity for v in given_ if not isinstance(v.capacity, Unknown)}
    for one in given_:
        assert one.minimum <= found.desired[one.name] <= one.maximum
        assert found.settled[one.name] <= found.desired[one.name]
        if one.stocked_out:
            assert found.desired[one.name] <= max(one.current, one.minimum)
            continue
        if one.name in served and found.settled[one.name] > one.minimum:
            assert served[one.name] <= one.max_share * sum(served.values()) * (1.0 + 1e-6)
    assert math.isfinite(found.capacity)
    assert found.gap == 0.0
    assert isinstance(found.price, float)
    assert math.isfinite(found.price)
    if budget is not None:
        held = sum(v.gpus * found.desired[v.name] for v in given_)
        least = sum(v.gpus * max(v.minimum, v.current) for v in given_)
        assert held <= max(budget, least)
    wanted = found.capacity >= need * (1.0 - 1e-7)
    assert found.reached == wanted


@settings(max_examples=100, deadline=None)
@given(given_=variants(known=False), needs=st.tuples(needs, needs), budget=budgets)
def test_capacity_never_falls_when_the_need_rises(given_, needs, budget):
    low, high = (mix(need, given_, gpu_budget=budget) for need in sorted(needs))
    assert low.capacity <= high.capacity * (1.0 + 1e-9)


@settings(max_examples=100, deadline=None)
@given(given_=variants(known=False), need=needs)
def test_asking_again_with_the_answer_changes_nothing(given_, need):
    found = mix(need, given_)
    again = mix(need, [replace(v, current=found.desired[v.name]) for v in given_])
    assert again.desired == found.desired
    assert again.settled == found.settled


@settings(max_examples=100, deadline=None)
@given(given_=variants(known=False, least=2), need=needs, data=st.data(), budget=budgets)
def test_the_order_of_the_variants_does_not_matter(given_, need, data, budget):
    other = data.draw(st.permutations(given_))
    assert mix(need, given_, gpu_budget=budget) == mix(need, other, gpu_budget=budget)


@settings(max_examples=100, deadline=None)
@given(given_=variants(), need=needs)
def test_what_serves_stays_until_enough_serves_without_it(given_, need):
    found = mix(need, given_)

    def serving(counts):
        return sum(min(v.ready, v.current, counts[v.name]) * v.capacity for v in given_)

    before = serving({v.name: v.maximum for v in given_})
    assert serving(found.desired) >= min(need, before) * (1.0 - 1e-7)


@settings(max_examples=100, deadline=None)
@given(given_=variants(least=2), need=needs, budget=budgets)
def test_a_mix_comes_to_rest_and_serves_on_the_way(given_, need, budget):
    now = [replace(v, ready=min(v.current, v.maximum), current=min(v.current, v.maximum)) for v in given_]
    served = []
    for _ in range(24):
        found = mix(need, now, gpu_budget=budget)
        if found.desired == {v.name: v.current for v in now} and all(v.ready == v.current for v in now):
            break
        # What is removed goes at once; what is new serves one round later.
        now = [replace(v, current=found.desired[v.name], ready=min(v.current, found.desired[v.name])) for v in now]
        served.append(sum(v.ready * v.capacity for v in now))
        now = [v if v.stocked_out else replace(v, ready=v.current) for v in now]
    else:
        pytest.fail("it never came to rest")
    if budget is None and served:
        assert min(served) >= min(need, served[0]) * (1.0 - 1e-7)


# What it is for.


def test_the_cheapest_mix_of_two_gpu_types_takes_the_small_one_for_the_rest():
    big = variant("h100", capacity=40.0, price=8.0, gpus=1.0)
    small = variant("l4", capacity=5.0, price=1.2, gpus=1.0)
    found = mix(83.0, [big, small])
    # Three large ones are 24 an hour; two and one small one are 17.2.
    assert found.settled == {"h100": 2, "l4": 1}
    assert found.price == pytest.approx(17.2)
    beaten = {one.name: (one.price, one.reaches) for one in found.alternatives}
    assert beaten["Only h100"] == (pytest.approx(24.0), True)
    assert beaten["Only l4"] == (pytest.approx(20.4), True)
    assert found.reached
    assert found.basis is PriceBasis.PRICE


def test_moving_waits_until_it_pays_back_within_the_horizon():
    dear = variant("dear", price=2.0, current=4)
    cheap = variant("cheap", price=1.9, start=600.0)
    # 0.1 an hour is saved, and 600 s at 1.9 are paid twice: it pays back after more than three hours.
    assert mix(40.0, [dear, cheap]).settled == {"cheap": 0, "dear": 4}
    assert mix(40.0, [dear, cheap], horizon=Seconds(4 * 3600.0)).settled == {"cheap": 4, "dear": 0}
    stayed = mix(40.0, [dear, cheap])
    other = next(one for one in stayed.alternatives if one.name == "FromNothing")
    assert (other.settled, other.price) == ({"cheap": 4, "dear": 0}, pytest.approx(7.6))
    assert reasons(stayed)["dear"] is MixReason.KEPT


def test_the_old_goes_only_as_far_as_the_new_is_ready():
    dear = variant("dear", price=4.0, current=4)
    cheap = variant("cheap", price=1.0)
    first = mix(40.0, [dear, cheap])
    assert first.desired == {"cheap": 4, "dear": 4}
    assert first.settled == {"cheap": 4, "dear": 0}
    assert reasons(first) == {"cheap": MixReason.CHEAPEST, "dear": MixReason.UNTIL_READY}
    half = mix(40.0, [dear, replace(cheap, current=4, ready=3, starting=1)])
    assert half.desired == {"cheap": 4, "dear": 1}
    done = mix(40.0, [replace(dear, current=1, ready=1), replace(cheap, current=4, ready=4)])
    assert done.desired == {"cheap": 4, "dear": 0}
    assert reasons(done)["dear"] is MixReason.AT_MINIMUM


def test_of_equals_what_runs_stays_then_fewer_gpus_then_the_first_name():
    assert mix(20.0, [variant("a"), variant("b", current=2)]).settled == {"a": 0, "b": 2}
    assert mix(20.0, [variant("a", gpus=2.0), variant("b")]).settled == {"a": 0, "b": 2}
    assert mix(20.0, [variant("b"), variant("a")]).settled == {"a": 2, "b": 0}


def test_spot_keeps_its_share_and_leaves_half_to_the_rest():
    rest = variant("rest", price=3.0)
    spot = variant("spot", price=1.0, capacity_type=SPOT, max_share=0.4)
    assert mix(100.0, [rest, spot]).settled == {"rest": 6, "spot": 4}
    assert mix(100.0, [rest, replace(spot, max_share=0.9)]).settled == {"rest": 5, "spot": 5}
    assert mix(100.0, [rest, replace(spot, max_share=0.9)], surviving=0.2).settled == {"rest": 2, "spot": 8}
    two = [rest, replace(spot, max_share=0.9), replace(spot, name="spot-b", price=0.9, max_share=0.3)]
    assert mix(100.0, two).settled == {"rest": 5, "spot": 2, "spot-b": 3}


def test_the_need_comes_before_what_is_left_without_spot_and_that_is_said():
    rest = variant("rest", price=3.0, maximum=3)
    spot = variant("spot", price=1.0, capacity_type=SPOT)
    found = mix(100.0, [rest, spot])
    assert found.settled == {"rest": 3, "spot": 7}
    assert limits(found) == {MixLimit.AVAILABILITY}
    assert found.reached
    assert limits(mix(100.0, [spot])) == {MixLimit.AVAILABILITY}


def test_a_variant_without_stock_is_asked_no_more_and_the_next_cheapest_is():
    rest = variant("rest", price=3.0, current=5)
    spot = variant("spot", price=1.0, capacity_type=SPOT, current=5, ready=2, starting=1, stocked_out=True)
    found = mix(100.0, [rest, spot])
    # Three have a node; the two orders that wait are left to try by themselves, and seven of the rest stand in.
    assert found.settled == {"rest": 7, "spot": 3}
    assert found.desired == {"rest": 7, "spot": 5}
    assert reasons(found) == {"rest": MixReason.CHEAPEST, "spot": MixReason.STOCKED_OUT}
    again = mix(100.0, [rest, replace(spot, stocked_out=False)])
    assert again.desired == {"rest": 5, "spot": 5}
    # What waits is taken back first when less is enough.
    fewer = mix(40.0, [replace(rest, current=2, ready=2), spot])
    assert fewer.desired == {"rest": 2, "spot": 2}


def test_what_is_reserved_is_used_first_and_no_more_of_it_than_that_is_free():
    reserved = variant("reserved", price=5.0, reserved=3)
    other = variant("other", price=2.0)
    found = mix(50.0, [reserved, other])
    assert found.settled == {"other": 2, "reserved": 3}
    assert found.price == pytest.approx(4.0)
    whole = variant("reserved", price=5.0, capacity_type=CapacityType.RESERVED)
    assert mix(50.0, [whole, other]).settled == {"other": 0, "reserved": 5}
    # Free capacity is given back all the same: others may use its GPUs.
    assert mix(20.0, [replace(whole, current=5, ready=5), other]).settled == {"other": 0, "reserved": 2}


def test_an_unknown_capacity_is_left_alone_until_nothing_else_can():
    new = variant("new", capacity=NOT_LEARNED, current=2, minimum=1, maximum=6)
    known = variant("known", maximum=4)
    found = mix(30.0, [new, known])
    assert found.desired == {"known": 3, "new": 2}
    assert reasons(found)["new"] is MixReason.CAPACITY_UNKNOWN
    short = mix(60.0, [new, known])
    assert short.desired == {"known": 4, "new": 3}
    assert reasons(short)["new"] is MixReason.LAST_RESORT
    assert limits(short) == {MixLimit.MAXIMUM, MixLimit.CAPACITY_UNKNOWN}
    assert not short.reached
    assert mix(30.0, [new]).desired == {"new": 2}


def test_without_a_price_gpus_are_compared_and_that_is_said():
    big = variant("big", capacity=40.0, price=NO_PRICE, gpus=2.0)
    small = variant("small", capacity=10.0, price=0.1, gpus=1.0)
    found = mix(80.0, [big, small])
    assert found.settled == {"big": 2, "small": 0}
    assert found.basis is PriceBasis.GPUS
    assert isinstance(found.price, Unknown)
    assert "compared by GPUs" in next(one.message for one in found.choices if one.name == "big")
    blind = mix(80.0, [replace(big, gpus=NO_PRICE, current=1), small])
    assert blind.desired == {"big": 1, "small": 8}


def test_a_need_that_no_limit_allows_is_met_as_far_as_it_goes_and_says_why():
    rest = variant("rest", maximum=3)
    spot = variant("spot", price=1.0, capacity_type=SPOT, max_share=0.4)
    found = mix(100.0, [rest, spot])
    assert found.settled == {"rest": 3, "spot": 2}
    assert limits(found) == {MixLimit.MAXIMUM, MixLimit.MAX_SHARE}
    assert "50 of 100 work/s" in found.shortfalls[0].message


def test_gpus_are_kept_while_one_replaces_the_other():
    old = variant("old", price=4.0, current=4, gpus=1.0)
    new = variant("new", price=1.0, gpus=1.0)
    first = mix(40.0, [old, new], gpu_budget=6.0)
    assert first.desired == {"new": 2, "old": 4}
    second = mix(40.0, [old, replace(new, current=2, ready=2)], gpu_budget=6.0)
    assert second.desired == {"new": 2, "old": 2}
    third = mix(40.0, [replace(old, current=2, ready=2), replace(new, current=2, ready=2)], gpu_budget=6.0)
    assert third.desired == {"new": 4, "old": 2}
    assert limits(mix(100.0, [old, new], gpu_budget=6.0)) == {MixLimit.GPU_BUDGET}
    assert mix(100.0, [old, new], gpu_budget=6.0).capacity == 60.0


def test_with_fewer_gpus_than_run_nothing_starts():
    old = variant("old", price=4.0, current=6)
    new = variant("new", price=1.0)
    found = mix(60.0, [old, new], gpu_budget=4.0)
    assert found.desired == {"new": 0, "old": 4}
    assert limits(found) == {MixLimit.GPU_BUDGET}


@pytest.mark.parametrize("need", [math.nan, math.inf, -1.0])
def test_a_need_that_cannot_be_is_refused(need):
    with pytest.raises(ScalerInputError, match="need"):
        mix(need, [variant()])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"capacity": 0.0}, "capacity"),
        ({"price": math.nan}, "price"),
        ({"minimum": 3, "maximum": 2}, "counts"),
        ({"start": math.inf}, "start-up"),
        ({"max_share": 0.0}, "max_share"),
    ],
)
def test_a_variant_that_cannot_be_is_refused(changes, field):
    with pytest.raises(ScalerInputError, match=field):
        variant(**changes)


def test_more_than_eight_variants_or_one_name_twice_is_refused():
    with pytest.raises(ScalerInputError, match="at most 8"):
        mix(1.0, [variant(str(number)) for number in range(9)])
    with pytest.raises(ScalerInputError, match="name of its own"):
        mix(1.0, [variant("a"), variant("a")])
