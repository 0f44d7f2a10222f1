"""What was learned of GPUs as bytes: it comes back near enough, fits whatever the fleet is, and damage is an error."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.histogram import InvalidCheckpointError
from optiinfra.domain.idle import IdleMemory
from optiinfra.domain.idle.gaps import RING
from optiinfra.domain.idle.samples import Learned
from optiinfra.domain.idle.saved import MOST_PARTS, packed, unpacked

NOW = 1_800_000_000.0
LIMIT = 12 * 1024


def uuid(number):
    return f"GPU-{number * 2654435761 % 2**32:08x}-{number * 40503 % 65536:04x}-11ee-a1b2-{number * 97:012x}"


def fleet(gpus, *, gaps=RING):
    return [
        Learned(
            f"gpu-node-{number // 8:04d}",
            uuid(number),
            worked=True,
            floor_empty=70.0 + number % 9,
            floor_filled=110.0,
            lengths=tuple(400.0 + 37.0 * ((number * 31 + at * 17) % 101) for at in range(gaps)),
            ends=tuple(NOW - 3600.0 * (gaps - at) + number for at in range(gaps)),
        )
        for number in range(gpus)
    ]


def back(states):
    return {(one.node, one.gpu): one for state in states for one in unpacked(state)}


names = st.text("abc-0", min_size=1, max_size=8)
gap_lists = st.lists(
    st.tuples(st.floats(300.0, 1e6), st.floats(NOW - 30 * 86_400.0, NOW)), max_size=RING, unique_by=lambda one: one[1]
)
watts = st.floats(0.0, 1500.0) | st.just(math.nan)


@given(
    st.lists(st.tuples(names, names, st.booleans(), watts, watts, gap_lists), max_size=12, unique_by=lambda o: o[:2])
)
@settings(deadline=None)
def test_what_is_packed_comes_back_near_enough(rows):
    learned = [
        Learned(node, gpu, worked, empty, filled, tuple(one for one, _ in gaps), tuple(end for _, end in gaps))
        for node, gpu, worked, empty, filled, gaps in rows
    ]
    found = back(packed(learned, limit=LIMIT))
    assert set(found) == {(one.node, one.gpu) for one in learned}
    for one in learned:
        same = found[one.node, one.gpu]
        assert same.worked == one.worked
        assert same.lengths == pytest.approx(one.lengths, rel=0.01)
        assert same.ends == pytest.approx(one.ends, abs=60.0)
        for before, after in ((one.floor_empty, same.floor_empty), (one.floor_filled, same.floor_filled)):
            assert after == pytest.approx(before, abs=0.51, nan_ok=True)


@pytest.mark.parametrize(("gpus", "parts", "gaps"), [(64, 1, RING), (800, 16, RING), (4_000, 16, 1), (9_000, 16, 0)])
def test_every_fleet_fits(gpus, parts, gaps):
    states = packed(fleet(gpus), limit=LIMIT)
    assert len(states) <= min(parts, MOST_PARTS)
    assert max(map(len, states)) <= LIMIT
    found = back(states)
    assert min(len(one.lengths) for one in found.values()) >= gaps
    assert len(found) == gpus if gpus <= 4_000 else len(found) > 3_000


def test_the_newest_pauses_are_kept():
    one = next(iter(back(packed(fleet(4_000), limit=LIMIT)).values()))
    assert max(one.ends) >= NOW - 3600.0 - 60.0
    assert all(before < after for before, after in pairwise(one.ends))


def test_news_of_one_gpu_change_one_part():
    before = fleet(800)
    after = [*before[:-1], replace(before[-1], lengths=(), ends=())]
    old, new = packed(before, limit=LIMIT), packed(after, limit=LIMIT)
    assert len(old) == len(new)
    assert sum(one != other for one, other in zip(old, new, strict=True)) == 1


def test_no_gpus_are_no_checkpoint():
    assert packed([], limit=LIMIT) == ()


@given(st.binary(max_size=60) | st.tuples(st.integers(0, 400), st.integers(0, 255)))
@settings(deadline=None)
def test_damage_is_an_error_and_nothing_else(damage):
    whole = packed(fleet(3), limit=LIMIT)[0]
    if isinstance(damage, bytes):
        broken = damage
    else:
        place, value = damage[0] % len(whole), damage[1]
        broken = whole[:place] + bytes([value]) + whole[place + 1 :]
    try:
        found = unpacked(broken)
    except InvalidCheckpointError:
        return
    assert all(len(one.lengths) == len(one.ends) <= RING for one in found)


def test_a_gpu_that_was_seen_since_knows_it_better():
    memory = IdleMemory()
    memory.column("gpu-node-0000", uuid(0))
    memory.relearn(fleet(2), at=NOW)
    first, second = memory.learned()
    kept = {one.gpu: len(one.lengths) for one in (first, second)}
    assert kept == {uuid(0): 0, uuid(1): RING}


def test_learned_and_relearned_are_the_same():
    memory = IdleMemory()
    memory.relearn(fleet(5, gaps=7), at=NOW)
    assert memory.learned() == sorted(fleet(5, gaps=7), key=lambda one: (one.node, one.gpu))
