"""What a new leader reads of a resize trial is what the old one knew: numbers, reasons of unknown ones, promises."""

import math
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as some

from optiinfra.domain.evidence import Direction, Savings
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.verification import Block, ResizeTrial, Scene, expect
from optiinfra.domain.verification.saved import (
    MOST_OTHERS,
    KeptTrial,
    packed,
    packed_action,
    unpacked,
    unpacked_action,
)
from optiinfra.domain.verification.trail import MOST_BLOCKS

NOW = UnixTime(1_800_000_000.0)
VALUES = some.floats(0.0, 1e12) | some.builds(Unknown, some.sampled_from(UnknownReason), some.text(max_size=90))
BLOCKS = some.builds(
    Block,
    time=some.floats(1e9, 4e9).map(UnixTime),
    span=some.floats(1.0, 3600.0).map(Seconds),
    replicas=some.integers(0, 5000),
    reporting=some.integers(0, 5000),
    **dict.fromkeys(
        (
            "time_to_first_token",
            "inter_token_latency",
            "queue_time",
            "waiting",
            "preemptions",
            "arrivals",
            "request_work",
        ),
        VALUES,
    ),
)


def promised(before):
    return expect(
        before,
        from_replicas=3,
        to_replicas=3,
        objectives=Objectives(Seconds(2.0), Seconds(math.inf), Seconds(10.0)),
        growth=1.0,
        ready_within=Seconds(0.0),
        ready_basis="pods keep running",
        verify_window=Seconds(600.0),
        savings=Savings(),
    )


def trial(blocks=(), others=("b", "c"), **changes):
    made = ResizeTrial(
        id="r-1",
        rule="Resize/OverRequested",
        begun=Scene(3, frozenset({"r1"}), frozenset({"n1"})),
        expectation=promised(blocks),
        before=tuple(blocks),
        first="a",
        first_expectation=promised(blocks[:1]),
        first_before=tuple(blocks[:2]),
        others=others,
        others_before=tuple(blocks[:3]),
    )
    return replace(made, **changes)


def kept(one):
    return unpacked(orjson.loads(orjson.dumps(packed(one))))


def alike(one, other):
    if isinstance(one, Unknown) or isinstance(other, Unknown):
        return one == other
    return one == pytest.approx(other, rel=1e-5, abs=1e-6)


@given(some.lists(BLOCKS, max_size=MOST_BLOCKS))
def test_what_was_measured_and_promised_comes_back(blocks):
    before, after = trial(blocks), kept(trial(blocks))
    for of in ("before", "first_before", "others_before"):
        for one, other in zip(getattr(before, of), getattr(after, of), strict=True):
            assert all(alike(getattr(other, name), getattr(one, name)) for name in Block.__slots__)
    for of in ("expectation", "first_expectation"):
        one, other = getattr(before, of), getattr(after, of)
        assert other.objectives == one.objectives
        assert (other.verify_window, other.from_replicas, other.to_replicas) == (600.0, 3, 3)
        assert alike(other.demand, one.demand)
        assert alike(other.demand_upper, one.demand_upper)
    assert (after.id, after.rule, after.first, after.others) == ("r-1", "Resize/OverRequested", "a", ("b", "c"))
    assert after.begun == Scene(3, frozenset({"r1"}))


def test_a_new_leader_watches_from_when_it_first_looks():
    began = trial(first_at=UnixTime(NOW), first_judged=True, done_at=UnixTime(NOW + 60.0))
    after = kept(began)
    assert (after.first_at, after.done_at, after.first_judged) == (None, None, True)


def test_of_many_pods_the_comparison_is_left_out_and_the_whole_stays():
    block = Block(NOW, Seconds(60.0), 3, 3, 0.3, 0.02, 0.0, 0.0, 0.0, 1.0, 900.0)
    many = trial([block] * 40, others=tuple(f"vllm-{number:04}" for number in range(MOST_OTHERS + 1)))
    after = kept(many)
    assert (after.others, after.others_before, after.first_before) == ((), (), ())
    assert len(after.before) == MOST_BLOCKS
    most = trial([block] * MOST_BLOCKS, others=tuple(f"vllm-6f7c9d8b5-{number:05}" for number in range(MOST_OTHERS)))
    assert len(orjson.dumps(packed(most))) < 6000


@pytest.mark.parametrize(
    "change",
    [
        {"before": [[1.0]]},
        {"before": [[["Stale", ""], *[1.0] * 10]]},
        {"before": [[*[1.0] * 10, "fast"]]},
        {"before": [[*[1.0] * 10, ["NoReason", ""]]]},
        {"before": None},
        {"expectation": {}},
        {"replicas": "three"},
    ],
)
def test_what_is_none_is_refused(change):
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        unpacked(packed(trial()) | change)


@given(some.lists(BLOCKS, max_size=MOST_BLOCKS), some.sampled_from(Direction))
def test_a_change_of_replicas_comes_back_too(blocks, direction):
    made = KeptTrial(
        id="a-1",
        rule="ScaleDown/Learned",
        direction=direction,
        actuation="Signal",
        started=NOW,
        expectation=promised(blocks),
        before=tuple(blocks),
        begun=Scene(4, frozenset({"r1"}), frozenset({"n1"})),
    )
    after = unpacked_action(orjson.loads(orjson.dumps(packed_action(made))))
    assert (after.id, after.rule, after.direction, after.actuation, after.started) == (
        "a-1",
        "ScaleDown/Learned",
        direction,
        "Signal",
        NOW,
    )
    assert after.begun == Scene(4, frozenset({"r1"}))
    assert len(after.before) == len(blocks)
    assert after.expectation.verify_window == made.expectation.verify_window


@pytest.mark.parametrize("change", [{"direction": "Sideways"}, {"started": None}, {"started": "nan"}, {"before": 5}])
def test_a_change_of_replicas_that_is_none_is_refused(change):
    made = KeptTrial("a", "r", Direction.SCALE_UP, "Own", NOW, promised(()), (), Scene(1))
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        unpacked_action(packed_action(made) | change)
