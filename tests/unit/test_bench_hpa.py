"""The bench against the real HPA controller, with a controller of this test in its place: what is judged, and how."""

import numpy as np
import pytest

from bench.hpa_delay import Late
from bench.hpa_loop import Slice, fate, play_live, prepared, ways
from bench.hpa_runs import steepest
from bench.hpa_steps import CAPACITY, SYNCS, Moment, Setting, Stepped, Verdict, counts, lengths
from hack.cluster.addresses import Addresses
from hack.cluster.components import Files, controller_manager
from hack.cluster.errors import ClusterError
from hack.real_hpa import CONTROLLER_FLAGS, DEFAULT_BEHAVIOR, Question, Seen
from hack.real_hpa.clock import STABILIZATION_SECONDS
from hack.real_hpa.metrics_api import values
from hack.real_hpa.scalers import compressed
from optiinfra.domain.replay.baselines import HpaRate
from optiinfra.domain.replay.fluid import STEPS_PER_SYNC, View, play

TARGET = np.array([0.7])
JUMP = np.concatenate([np.full(60, 3.0), np.full(60, 9.0), np.full(180, 3.0)])


def setting(load=JUMP, *, initial=5, behavior=None):
    return Setting("a", load, lambda: HpaRate(TARGET), 0.7, 60.0, initial, behavior)


class Controller:
    """Decides by a rule of the test's; a sync takes exactly its second unless told otherwise."""

    def __init__(self, one, decide, *, second=1.0):
        self.seen = Seen(one.initial, one.initial)
        self.stepped = Stepped(one, look=lambda: self.seen)
        self._decide, self._second = decide, second

    def run(self):
        number = 0
        while not self.stepped.finished.is_set():
            total = self.stepped.answer(Question("a", number * self._second)) / CAPACITY
            asked = self._decide(number, self.seen.asked, total)
            self.seen = Seen(asked, asked)
            number += 1
        return self.stepped


def documented(one, *, window=SYNCS, rise=lambda current: current + max(4, current), initial=False):
    """The rule as Kubernetes documents it, written anew."""
    past = [one.initial] * initial

    def decide(number, current, total):
        ratio = total / (0.7 * current)
        past.append(current if abs(ratio - 1.0) <= 0.1 else int(np.ceil(total / 0.7 - 1e-9)))
        return min(max(past[-window - initial * (number < window) :]), rise(current))

    return decide


@pytest.fixture(autouse=True)
def answered_at_once(monkeypatch):
    """Moments are those of the questions: this test has no wall clock."""
    monkeypatch.setattr("bench.hpa_steps.time.monotonic", lambda: 0.0)


def test_a_controller_that_follows_the_documented_rule_is_the_same_throughout():
    one = setting()
    stepped = Controller(one, documented(one)).run()
    assert counts(stepped.ticks)[Verdict.SAME] == len(stepped.ticks) == len(JUMP) // STEPS_PER_SYNC
    assert [tick.real for tick in stepped.ticks] == one.alone().tolist()
    assert len({tick.real for tick in stepped.ticks}) >= 3


def test_a_controller_that_asks_for_one_more_differs():
    one = setting()
    stepped = Controller(one, lambda number, current, total: current + (number == 50)).run()
    assert stepped.ticks[50].verdict is Verdict.OTHER


def test_the_number_that_ran_at_first_is_a_recommendation_of_the_real_controller():
    one = setting(initial=12)
    stepped = Controller(one, documented(one, initial=True)).run()
    found = counts(stepped.ticks)
    assert found[Verdict.FIRST] + found[Verdict.SAME] == len(stepped.ticks)
    assert [tick.real for tick in stepped.ticks[: SYNCS - 1]] == [12] * (SYNCS - 1)


def test_without_behavior_the_real_controller_rises_to_four_at_most_from_less():
    one = setting(np.concatenate([np.full(60, 1.3), np.full(120, 9.0)]), initial=2)
    stepped = Controller(one, documented(one, rise=lambda current: max(4, 2 * current))).run()
    found = counts(stepped.ticks)
    assert found[Verdict.FEW] >= 1
    assert found[Verdict.OTHER] == 0
    assert next(tick.real for tick in stepped.ticks if tick.real > 2) == 4


def test_with_behavior_the_same_rise_would_differ():
    one = setting(np.concatenate([np.full(60, 1.3), np.full(120, 9.0)]), initial=2, behavior=DEFAULT_BEHAVIOR)
    stepped = Controller(one, documented(one, rise=lambda current: max(4, 2 * current))).run()
    assert counts(stepped.ticks)[Verdict.OTHER] >= 1


def test_a_slow_controller_has_fewer_syncs_in_its_window_and_that_explains_an_earlier_fall(monkeypatch):
    one, clock = setting(), []
    monkeypatch.setattr("bench.hpa_steps.time.monotonic", lambda: clock[-1])
    controller = Controller(one, documented(one, window=14), second=1.45)
    answer = controller.stepped.answer

    def noting(question):
        clock.append(question.at)
        return answer(question)

    controller.stepped.answer = noting
    found = counts(controller.run().ticks)
    assert found[Verdict.WINDOW] >= 3
    assert found[Verdict.OTHER] == 0


def test_the_window_is_bounded_by_what_is_known_of_the_moments():
    exact = [Moment(second, second, second) for second in np.arange(0.0, 40.0, 1.01)]
    assert list(lengths(exact[:-1], exact[-1])) == [STABILIZATION_SECONDS]
    vague = [Moment(one.asked, one.earliest, one.latest + 0.5) for one in exact]
    assert list(lengths(vague[:-1], vague[-1])) == [STABILIZATION_SECONDS, STABILIZATION_SECONDS + 1]


# ---- the closed loop


def closed(way_name, controller, *, load, phase=0):
    """Play one party with a controller that asks in one of the three looks of a sync; no time passes."""
    way = next(way for way in ways() if way.name == way_name)
    (party,) = prepared(Slice("p", load, 40, 60.0), [way])
    state = {"asked": int(party.fleet.replicas[0]), "looks": 0}

    def look():
        seen = {party.name: Seen(state["asked"], state["asked"])}
        state["looks"] += 1
        if party.orders and state["looks"] % STEPS_PER_SYNC == phase:
            total = party.answer(Question(party.name, party.orders[-1].at + 0.5))
            state["asked"] = controller(state["asked"], total)
        return seen

    play_live([party], look, on_sync=lambda _: None)
    return party


@pytest.fixture
def in_no_time(monkeypatch):
    monkeypatch.setattr("bench.hpa_loop.TICK_SECONDS", 0.0)


WAVE = 8.0 + 5.0 * np.sin(np.arange(720) / 50.0)


@pytest.mark.parametrize("phase", range(STEPS_PER_SYNC))
def test_a_controller_that_obeys_costs_what_the_rule_alone_does_in_whichever_phase_it_asks(in_no_time, phase):
    party = closed("Own", lambda asked, total: int(total), load=WAVE, phase=phase)
    assert party.figures.cost == pytest.approx(party.direct.cost, rel=0.03)
    assert party.figures.actions_per_day <= 1.2 * party.direct.actions_per_day
    came_of = fate(party)
    assert came_of.orders == came_of.followed > 0
    assert came_of.until_read == pytest.approx(7.5)
    assert 5.0 <= came_of.until_scaled <= 20.0


def test_what_a_deaf_controller_ignores_is_counted(in_no_time):
    def deaf(asked, total):
        return asked if abs(total / asked - 1.0) <= 0.1 else int(total)

    as_it_is, signal = (closed(way, deaf, load=WAVE) for way in ("Signal, count as it is", "Signal"))
    assert fate(as_it_is).tolerance > 0
    assert fate(signal).tolerance == 0


def test_a_fall_that_is_held_back_is_counted(in_no_time):
    came_of = fate(closed("Signal, count as it is", lambda asked, total: max(asked, int(total)), load=WAVE))
    assert came_of.held > 0


def test_a_dead_controller_leaves_the_queue_to_grow(in_no_time):
    party = closed("Own", lambda asked, total: asked, load=np.concatenate([np.full(300, 3.0), np.full(300, 9.0)]))
    assert party.figures.late10 > 0.5 > party.direct.late10


def test_the_model_goes_on_from_the_history_that_the_same_rule_made():
    load = WAVE
    (party, *others) = prepared(Slice("p", load, 40, 60.0), ways())
    assert party.way.name == "HPA, rate 0.7"
    assert len({id(other.rule) for other in others}) == len(others), "ways share a rule's history, not the rule"
    whole = setting(load, initial=int(party.fleet.asked[0, 0])).fleet()
    play(whole, HpaRate(TARGET))
    assert party.fleet.step == 40 * STEPS_PER_SYNC
    assert party.fleet.asked[0, :40].tolist() == whole.asked[0, :40].tolist()


# ---- late orders


def test_an_order_that_comes_late_changes_nothing_until_then():
    given = iter([5, 6, 7, 8, 9])
    rule = Late(lambda _: np.array([next(given)]), syncs=2)
    one = setting(initial=3)
    taken = [int(rule(View(one.fleet()))[0]) for _ in range(5)]
    assert taken == [3, 3, 5, 6, 7]


def test_an_order_that_is_not_late_is_the_rule_s():
    one = setting()
    assert play(one.fleet(), Late(HpaRate(TARGET), syncs=0)).asked[0].tolist() == one.alone().tolist()


# ---- the pieces and the objects


def test_the_steepest_rise_after_the_first_third_is_played():
    load = np.full(3000, 2.0)
    load[300:400] = 20.0  # in the first third: not looked at
    load[2000:] = 8.0
    start = steepest(load, syncs=100) * STEPS_PER_SYNC
    assert start <= 2000 <= start + 300
    assert steepest(np.full(300, 1.0), syncs=100) == 0


def test_times_of_a_behavior_are_divided_and_nothing_else():
    short = compressed(DEFAULT_BEHAVIOR)
    assert short["scaleUp"]["policies"] == [
        {"type": "Pods", "value": 4, "periodSeconds": 1},
        {"type": "Percent", "value": 100, "periodSeconds": 1},
    ]
    assert short["scaleDown"]["stabilizationWindowSeconds"] == STABILIZATION_SECONDS
    assert DEFAULT_BEHAVIOR["scaleDown"]["stabilizationWindowSeconds"] == 300


def test_a_time_that_cannot_be_divided_is_refused():
    with pytest.raises(ClusterError, match="periodSeconds 20 is no multiple of 15"):
        compressed({"scaleUp": {"policies": [{"type": "Pods", "value": 4, "periodSeconds": 20}]}})


def test_flags_of_a_cluster_s_own_come_after_the_usual_ones_and_so_replace_them(tmp_path):
    addresses = Addresses(slot=20, etcd=1, etcd_peer=2, api=3, controllers=4, scheduler=5, kwok=6)
    files = Files(folder=tmp_path)
    plain = controller_manager(tmp_path, addresses=addresses, files=files)
    fast = controller_manager(tmp_path, addresses=addresses, files=files, flags=CONTROLLER_FLAGS)
    assert fast == [*plain, *CONTROLLER_FLAGS]
    periods = [flag.partition("=")[2] for flag in fast if flag.startswith("--horizontal-pod-autoscaler-sync-period=")]
    assert periods == ["5s", "1s"]


def test_a_missing_metric_is_an_empty_list_and_no_zero():
    assert values("a", None)["items"] == []
    assert values("a", 0.0)["items"][0]["value"] == "0m"
    assert values("a", 5600.0005)["items"][0]["value"] in {"5600000m", "5600001m"}
