"""Times of which nothing is known: nobody shrinks in them, and no figure counts them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.replay.baselines import HpaRate
from optiinfra.domain.replay.figures import Ledger
from optiinfra.domain.replay.fluid import Fleet, play
from optiinfra.domain.replay.gaps import Gaps
from optiinfra.domain.replay.learned import Learned


def fleet(load, *, runs=1, initial=10):
    return Fleet(
        np.repeat(np.asarray(load, dtype=np.float64)[None], runs, axis=0),
        start_up_s=np.full(runs, 60.0),
        initial=np.full(runs, initial),
        minimum=np.full(runs, 1),
        maximum=np.full(runs, 100),
    )


def steady_with_a_gap(steps=720, first=240, last=480):
    known = np.ones(steps, dtype=np.bool_)
    known[first:last] = False
    return np.where(known, 7.0, 0.0), known


def test_without_gaps_nothing_changes():
    load = 8.0 + 4.0 * np.sin(np.arange(900) / 90.0)
    gaps = Gaps(np.ones(900, dtype=np.bool_))
    plain, held, seen = (fleet(load) for _ in range(3))
    play(plain, HpaRate(np.array([0.7])))
    play(held, gaps.holding(HpaRate(np.array([0.7]))))
    assert np.array_equal(plain.asked, held.asked)
    assert gaps.ledger(held).figures() == Ledger.of(plain).figures()
    again = fleet(load)
    play(seen, Learned(seen))
    play(again, gaps.seeing(Learned(again)))
    assert np.array_equal(seen.asked, again.asked)


@pytest.mark.parametrize("ours", [True, False])
def test_nobody_gives_back_because_the_load_is_unknown(ours):
    load, known = steady_with_a_gap()
    gaps, played = Gaps(known), fleet(load)
    play(played, gaps.seeing(Learned(played)) if ours else gaps.holding(HpaRate(np.array([0.7]))))
    before, within = played.asked[0, 79], played.asked[0, 82:162]
    assert (within >= before).all()
    assert before >= 8
    # And it goes on as it was: nothing that came back is taken for a new load.
    assert played.asked[0, 170:].min() >= 8
    assert gaps.ledger(played).figures()[0].late10 == 0.0


def test_without_the_rule_a_plain_hpa_would_have_shrunk():
    load, _ = steady_with_a_gap()
    played = fleet(load)
    play(played, HpaRate(np.array([0.7])))
    assert played.asked[0].min() == 1


def test_a_missing_scrape_in_a_minute_is_no_gap_and_no_quiet_time():
    known = np.ones(720, dtype=np.bool_)
    known[300:303] = False
    played = fleet(np.where(known, 7.0, 0.0))
    play(played, Gaps(known).holding(HpaRate(np.array([0.7]))))
    assert set(played.asked[0, 20:].tolist()) == {10.0}


def test_what_is_unknown_is_not_counted():
    load, known = steady_with_a_gap()
    gaps, played = Gaps(known), fleet(load)
    play(played, lambda view: np.array([10]))
    told = gaps.ledger(played).figures()[0]
    assert told.cost == pytest.approx(10.0 / 7.0)
    assert Ledger.of(played).figures()[0].cost == pytest.approx(15.0 / 7.0)
    # An action within the gap is not counted, one outside is, over the days that are known.
    again = fleet(load)
    play(again, lambda view: np.array([10 + (view.sync in (100, 101, 200))]))
    assert gaps.ledger(again).figures()[0].actions_per_day == pytest.approx(2 * 86_400 / (480 * 5))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.booleans(), min_size=10, max_size=60),
    st.integers(0, 40),
    st.integers(0, 2**31),
)
def test_a_ledger_without_gaps_is_the_sum_over_known_steps(pattern, count_from, seed):
    draw = np.random.default_rng(seed)
    known = np.repeat(np.array([True, *pattern]), 12)
    load = np.where(known, draw.uniform(0, 12, len(known)), 0.0)
    gaps, played = Gaps(known), fleet(load, initial=5)
    asked = draw.integers(1, 15, played.syncs)
    play(played, lambda view: asked[view.sync : view.sync + 1])
    ledger = gaps.ledger(played, count_from_s=count_from * 15.0)
    first = min(played.syncs - 1, count_from) * 3
    per_step = np.repeat(played.asked[0], 3)[: len(known)]
    assert ledger.paid.sum() == pytest.approx(float((per_step * known * 5.0)[first:].sum()))
    assert ledger.seconds.sum() == pytest.approx(float(known[first:].sum() * 5.0))
    assert ledger.work.sum() == pytest.approx(float(load[first:].sum() * 5.0))
    assert (ledger.late10.sum() <= ledger.work.sum() + 1e-9).all()
