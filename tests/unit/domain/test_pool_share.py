"""GPUs of a short pool: never over budget, priority before wish, fair within one priority, monotone in the budget."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.pool_share import Claim, share


@st.composite
def pools(draw):
    claims = [
        Claim(
            key=f"ns/{number}",
            priority=draw(st.sampled_from([0, 100, 100, 200])),
            gpus=draw(st.sampled_from([0.25, 1.0, 2.0, 8.0])),
            held=draw(st.integers(0, 8)),
            minimum=draw(st.integers(0, 6)),
            wanted=draw(st.integers(0, 24)),
            weight=draw(st.sampled_from([1.0, 1.0, 3.0])),
        )
        for number in range(draw(st.integers(0, 7)))
    ]
    return claims, draw(st.integers(0, 200)) / draw(st.sampled_from([1.0, 4.0]))


def gpus_of(claims, shares):
    return sum(claim.gpus * one.replicas for claim, one in zip(claims, shares, strict=True))


@given(pools())
def test_never_over_the_budget_unless_that_much_runs_already(pool):
    claims, budget = pool
    held = sum(claim.gpus * claim.held for claim in claims)
    assert gpus_of(claims, share(claims, budget=budget)) <= max(budget, held) + 1e-6


@given(pools())
def test_nobody_loses_what_it_holds_and_nobody_gets_more_than_it_wants(pool):
    claims, budget = pool
    for claim, one in zip(claims, share(claims, budget=budget), strict=True):
        assert claim.held <= one.replicas <= max(claim.held, claim.wanted)
        assert one.refused == max(0, claim.wanted - one.replicas)


@given(pools(), st.floats(0.0, 100.0))
def test_more_budget_takes_from_nobody(pool, more):
    claims, budget = pool
    before, after = share(claims, budget=budget), share(claims, budget=budget + more)
    assert all(old.replicas <= new.replicas for old, new in zip(before, after, strict=True))


@given(pools())
def test_no_lower_priority_is_served_before_a_higher_ones_minimum(pool):
    claims, budget = pool
    shares = share(claims, budget=budget)
    for high, got in zip(claims, shares, strict=True):
        if got.replicas >= min(high.minimum, high.wanted):
            continue
        for low, given_to_low in zip(claims, shares, strict=True):
            if low.priority < high.priority:
                assert given_to_low.replicas == low.held, "a higher priority still lacks its minimum"


@given(pools())
def test_no_lower_priority_gets_more_than_its_minimum_before_a_higher_one_has_what_it_wants(pool):
    claims, budget = pool
    shares = share(claims, budget=budget)
    for high, got in zip(claims, shares, strict=True):
        if not got.refused:
            continue
        for low, given_to_low in zip(claims, shares, strict=True):
            if low.priority < high.priority:
                assert given_to_low.replicas <= max(low.held, low.minimum)


@given(pools(), st.randoms())
def test_the_order_in_which_claims_are_listed_does_not_matter(pool, random):
    claims, budget = pool
    shuffled = list(claims)
    random.shuffle(shuffled)
    by_key = {claim.key: one for claim, one in zip(shuffled, share(shuffled, budget=budget), strict=True)}
    assert [by_key[claim.key] for claim in claims] == list(share(claims, budget=budget))


@given(pools())
def test_within_one_priority_nobody_is_left_behind_by_more_than_one_replica(pool):
    """Max-min for indivisible replicas: who was refused is not worse off than anybody was before its last replica."""
    claims, budget = pool
    equal = [replace(claim, priority=100, minimum=0, held=0) for claim in claims]
    shares = share(equal, budget=budget)
    for poor, got in zip(equal, shares, strict=True):
        if not got.refused:
            continue
        for rich, more in zip(equal, shares, strict=True):
            if more.replicas:
                before_last = (more.replicas - 1) * rich.gpus / rich.weight
                assert before_last <= got.replicas * poor.gpus / poor.weight + 1e-9


def claim(key, **values):
    return replace(Claim(key=key, priority=100, gpus=1.0, held=0, minimum=0, wanted=10), **values)


@pytest.mark.parametrize(
    ("claims", "budget", "replicas"),
    [
        ([claim("a"), claim("b")], 10, [5, 5]),
        ([claim("a"), claim("b")], 9, [5, 4]),
        ([claim("a", wanted=2), claim("b")], 10, [2, 8]),
        ([claim("a", weight=3.0), claim("b")], 8, [6, 2]),
        ([claim("a", priority=200), claim("b")], 12, [10, 2]),
        ([claim("a", priority=200), claim("b", minimum=3)], 12, [9, 3]),
        ([claim("a", priority=200), claim("b", held=8)], 12, [4, 8]),
        ([claim("a", held=9), claim("b", held=9)], 10, [9, 9]),
        # The large replica keeps what is left for itself: the small ones behind it would starve it for ever.
        ([claim("a", gpus=8.0, priority=200), claim("b")], 12, [1, 0]),
        ([claim("a", gpus=0.1, wanted=10), claim("b", gpus=0.1, wanted=10)], 2, [10, 10]),
    ],
)
def test_shares(claims, budget, replicas):
    assert [one.replicas for one in share(claims, budget=budget)] == replicas


def test_a_claim_without_gpus_is_no_claim():
    with pytest.raises(ValueError, match="claim of"):
        claim("a", gpus=0.0)
