"""The fluid model against a slow model of single pieces of work, and its figures against hand-made runs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.replay.figures import Ledger, late_work
from optiinfra.domain.replay.fluid import STEP_S, Fleet, View, first_replicas, play, rise_limited


def fleet(load, *, start_up_s=60.0, initial=2, minimum=1, maximum=1000):
    load = np.atleast_2d(np.asarray(load, dtype=np.float64))
    runs = len(load)
    return Fleet(
        load,
        start_up_s=np.full(runs, start_up_s),
        initial=np.full(runs, initial),
        minimum=np.full(runs, minimum),
        maximum=np.full(runs, maximum),
    )


def slow(load, orders, *, start_up_s, initial, after_s):
    """One run, piece by piece: replicas as a list of ready times, work as a list of (arrival, amount)."""
    replicas = [0] * initial
    queue, late, paid, current = [], 0.0, 0.0, initial
    for step, rate in enumerate(load):
        now = step * 5
        if step % 3 == 0:
            asked = min(max(orders[step // 3], 1), current + max(4, current))
            while len(replicas) < asked:
                replicas.append(now + start_up_s)
            while len(replicas) > asked:
                replicas.remove(max(replicas))
            current = asked
        paid += len(replicas) * 5
        room = sum(1 for ready in replicas if ready <= now) * 5.0
        queue.append([step, rate * 5.0])
        while queue and room > 1e-12:
            served = min(room, queue[0][1])
            queue[0][1] -= served
            room -= served
            if queue[0][1] <= 1e-12:
                queue.pop(0)
        # What is left after this step has waited one step more.
        for piece in queue:
            if step - piece[0] == round(after_s / 5):
                late += piece[1]
    return late, paid


class Orders:
    def __init__(self, orders):
        self.orders = np.asarray(orders)

    def __call__(self, view):
        return self.orders[view.sync : view.sync + 1]


@settings(max_examples=60, deadline=None)
@given(
    loads=st.lists(st.floats(0.0, 6.0), min_size=9, max_size=60),
    orders=st.lists(st.integers(1, 8), min_size=20, max_size=20),
    start_up=st.sampled_from([5, 15, 40, 60]),
    initial=st.integers(1, 4),
)
def test_the_lockstep_model_is_the_slow_model(loads, orders, start_up, initial):
    played = play(fleet(loads, start_up_s=float(start_up), initial=initial), Orders(orders))
    late, paid = slow(loads, orders, start_up_s=start_up, initial=initial, after_s=10)
    ledger = Ledger.of(played)
    assert ledger.paid.sum() == pytest.approx(paid)
    # The slow model only counts what was still looked at before the load ended.
    assert late_work(played, after_s=10.0)[0, :-2].sum() == pytest.approx(late, abs=1e-3)


def test_runs_in_lockstep_do_not_touch_each_other():
    load = np.random.default_rng(1).uniform(0, 8, size=(3, 300))
    together = fleet(load, initial=3)
    for row in range(3):
        alone = play(fleet(load[row], initial=3), lambda view: np.ceil(view.arrivals(12) * 1.3).astype(np.int64))
        if row == 0:
            play(together, lambda view: np.ceil(view.arrivals(12) * 1.3).astype(np.int64))
        assert np.array_equal(alone.asked[0], together.asked[row])
        assert np.array_equal(alone.backlog[0], together.backlog[row])


def test_a_replica_serves_after_its_start_up_and_is_paid_before():
    played = play(fleet(np.full(60, 2.0), start_up_s=60.0, initial=1), Orders([2] * 20))
    assert played.asked[0].tolist() == [2] * 20
    assert played.serving[0, :12].tolist() == [1] * 12
    assert played.serving[0, 12:].tolist() == [2] * 48


def test_giving_back_takes_the_newest_starting_replicas_first():
    run = fleet(np.zeros(60), start_up_s=60.0, initial=2)
    run.order(np.array([4]))
    run.advance()
    run.order(np.array([6]))
    run.advance()
    run.order(np.array([3]))
    assert (run.ready[0], run.starting[0]) == (2, 1)
    for _ in range(2):
        run.advance()
    assert run.ready[0] == 2
    run.advance()
    assert run.ready[0] == 3, "the older order survived"


def test_rises_are_limited_as_kubernetes_does():
    assert rise_limited(np.array([100, 100, 3]), np.array([1, 10, 5])).tolist() == [5, 20, 3]


def test_a_rule_sees_nothing_newer_than_its_lag():
    load = np.zeros(60)
    load[30:] = 9.0
    seen = []

    def rule(view: View):
        seen.append((view.fleet.step, float(view.arrivals(3)[0]), float(view.backlog()[0])))
        return view.replicas

    play(fleet(load, initial=1), rule)
    assert [value for step, value, _ in seen if step <= 33] == [0.0] * 12
    assert seen[12][0] == 36
    assert seen[12][1] == 9.0
    assert seen[11][2] == 0.0


def test_figures_of_a_run_that_can_be_counted_by_hand():
    # One replica, load 1 but for ten minutes at 2: the queue grows to 600 s and never shrinks.
    load = np.ones(720)
    load[120:240] = 2.0
    found = Ledger.of(play(fleet(load, initial=1, maximum=1), Orders([1] * 240))).figures()[0]
    total = 720 * STEP_S + 120 * STEP_S
    assert found.cost == pytest.approx(3600.0 / total)
    on_time = 120 * STEP_S + 20.0
    assert found.late10 == pytest.approx((total - on_time) / total, abs=0.005)
    assert found.incidents == 10 * 30 * 24
    assert found.actions_per_day == 0


def test_history_is_lived_through_and_not_counted():
    load = np.ones(1440)
    load[:720] = 3.0
    played = play(fleet(load, initial=1, maximum=4), Orders([4] * 480))
    whole, second = Ledger.of(played).figures()[0], Ledger.of(played, count_from_s=3600.0).figures()[0]
    assert whole.late10 > 0.0
    assert second.late10 == 0.0
    assert second.cost == pytest.approx(4.0)


def test_intervals_hold_the_figure_and_are_repeatable():
    load = np.random.default_rng(3).uniform(1, 6, size=(1, 17_280 * 4))
    ledger = Ledger.of(play(fleet(load, initial=5), lambda view: np.ceil(view.arrivals(12) * 1.2).astype(np.int64)))
    figures, (low, high) = ledger.figures()[0], ledger.intervals()[0]
    assert low.cost <= figures.cost <= high.cost
    assert ledger.intervals()[0] == (low, high)


def test_the_default_start_is_the_first_minute_and_a_third():
    load = np.full((1, 30), 10.0)
    load[0, 12:] = 99.0
    assert first_replicas(load, minimum=np.array([1])).tolist() == [13]
    assert first_replicas(load * 0.0, minimum=np.array([2])).tolist() == [2]
