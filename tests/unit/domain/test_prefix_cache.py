"""The replay of prefix caches: one pass against one LRU a size, and the routings."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from optiinfra.domain.replay.prefix_cache import NEVER, PrefixRequest, Routing, accesses, route

SIZES = (1, 2, 3, 5, 8, 13, 1000)
prompts = some.lists(some.lists(some.integers(0, 4), max_size=6), max_size=30)


def requests_of(prompts):
    return [PrefixRequest(float(index), tuple(prompt)) for index, prompt in enumerate(prompts)]


def one_lru(prompts, size):
    """Count hits the slow way: prefixes as names, the end of a prompt let go first."""
    held, hits = OrderedDict(), 0
    for prompt in prompts:
        chain = [tuple(prompt[: end + 1]) for end in range(len(prompt))]
        for each in chain:
            if each not in held:
                break
            hits += 1
        for each in reversed(chain):
            held[each] = None
            held.move_to_end(each)
        while len(held) > size:
            held.popitem(last=False)
    return hits


@settings(max_examples=200, deadline=None)
@given(prompts)
def test_one_pass_counts_what_an_lru_of_each_size_counts(prompts):
    seen = accesses(requests_of(prompts))
    for size, ratio in zip(SIZES, seen.hit_ratios(SIZES), strict=True):
        assert ratio * len(seen.distance) == pytest.approx(one_lru(prompts, size))


@settings(max_examples=50, deadline=None)
@given(prompts)
def test_a_larger_cache_never_hits_less_and_an_infinite_one_hits_all_that_comes_back(prompts):
    seen = accesses(requests_of(prompts))
    ratios = seen.hit_ratios(range(1, 40))
    assert list(ratios) == sorted(ratios)
    assert ratios[-1] <= seen.reusable + 1e-12
    assert seen.hit_ratios([10**9])[0] == pytest.approx(seen.reusable)


def test_equal_blocks_behind_different_prefixes_are_different():
    seen = accesses(requests_of([[1, 2], [3, 2]]))
    assert seen.distinct == 4
    assert (seen.distance == NEVER).all()


def test_ages_are_the_time_since_the_last_use():
    seen = accesses([PrefixRequest(1.0, (1, 2)), PrefixRequest(4.0, (1,)), PrefixRequest(9.0, (1, 2))])
    assert list(seen.age) == [np.inf, np.inf, 3.0, 5.0, 8.0]
    assert list(seen.distance[2:]) == [1, 1, 2]


def test_no_requests_are_no_hits():
    seen = accesses([])
    assert seen.hit_ratios([10]) == (0.0,)
    assert seen.reusable == 0.0


def conversations(count=40, turns=6):
    """Everybody's system prompt, then each one's own growing prompt."""
    return requests_of(
        [[0, *range(one * 100 + 1, one * 100 + 2 + turn)] for turn in range(turns) for one in range(count)]
    )


def test_one_replica_routes_like_one_cache():
    requests = conversations()
    expected = accesses(requests).hit_ratios([50])[0]
    for routing in Routing:
        one = route(requests, routing=routing, replicas=1, blocks=50)
        assert one.hit_ratio == pytest.approx(expected)
        assert one.imbalance == pytest.approx(1.0)


def test_routing_by_prefix_hits_where_round_robin_does_not():
    # 40 conversations over 7 replicas: no conversation meets the same replica twice in a row.
    found = {one: route(conversations(), routing=one, replicas=7, blocks=60) for one in Routing}
    assert found[Routing.PREFIX_HASH].hit_ratio > 2 * found[Routing.ROUND_ROBIN].hit_ratio
    assert found[Routing.PREFIX_SCORE].hit_ratio > 2 * found[Routing.ROUND_ROBIN].hit_ratio
    assert all(one.imbalance >= 1.0 for one in found.values())


def test_a_cache_or_a_fleet_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one replica"):
        route([], routing=Routing.ROUND_ROBIN, replicas=0, blocks=1)
