"""Two operators and one object: who looks after it, who asks, and who takes over when nobody answers."""

from optiinfra.api.v1alpha1 import ResourceOptimizationStatus
from optiinfra.control import claims
from optiinfra.control.claims import Claim, Claims
from optiinfra.control.keys import ObjectKey

KEY = ObjectKey("ResourceOptimization", "inference", "svc")
INTERVAL = 30.0


class World:
    """One status, and two operators that see it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.status = ResourceOptimizationStatus()
        self.writes = 0
        self.first, self.second = (Claims(name, clock=lambda: self.now) for name in ("ns/first", "ns/second"))

    def round(self, operator: Claims) -> Claim:
        claim = operator.judge(KEY, self.status, interval=INTERVAL)
        parts = (
            {"other_operator": claim.other}
            if claim.yields
            else {"operator": claim.operator, "other_operator": claim.other}
        )
        fresh = self.status.model_copy(update=parts)
        self.writes += fresh != self.status
        self.status = fresh
        return claim

    def passes(self, seconds: float) -> None:
        self.now += seconds


def looked_after() -> World:
    world = World()
    for _ in range(3):
        world.round(world.first)
        world.passes(INTERVAL)
    assert world.round(world.first).acts
    return world


def test_a_new_object_is_claimed_first_and_acted_on_a_moment_later():
    world = World()
    assert not world.round(world.first).acts
    assert not world.round(world.first).acts, "the name has only just been seen"
    world.passes(claims.SETTLE)
    assert world.round(world.first).acts
    assert world.writes == 1


def test_a_new_leader_of_the_same_installation_goes_on_after_that_moment():
    world = looked_after()
    successor = Claims("ns/first", clock=lambda: world.now)
    assert not world.round(successor).acts
    world.passes(claims.SETTLE)
    assert world.round(successor).acts


def test_the_second_operator_asks_once_and_the_first_shows_it():
    world = looked_after()
    before = world.writes
    for _ in range(20):
        assert world.round(world.second).holder == "ns/first"
        assert world.round(world.first).acts
        world.passes(INTERVAL)
    assert world.status.operator == "ns/first"
    assert world.status.other_operator is not None
    assert (world.status.other_operator.name, world.status.other_operator.answered) == ("ns/second", True)
    assert world.writes - before == 2, "one question and one answer"


def test_the_question_is_asked_again_and_forgotten_when_nobody_asks():
    world = looked_after()
    world.round(world.second)
    world.round(world.first)
    before = world.writes
    world.passes(claims.ASK_AGAIN)
    world.round(world.second)
    world.round(world.first)
    assert world.writes - before == 2
    world.passes(claims.FORGET + 1)
    world.round(world.first)
    assert world.status.other_operator is None


def test_an_operator_that_is_gone_is_replaced_and_never_before_its_time():
    world = looked_after()
    world.round(world.second)
    asked = world.now
    while world.now - asked < 3 * INTERVAL - 1:
        assert world.round(world.second).yields
        world.passes(10)
    world.passes(10)
    assert not world.round(world.second).yields
    world.passes(claims.SETTLE)
    assert world.status.operator == "ns/second"
    assert not world.round(world.second).acts
    world.passes(claims.SETTLE)
    assert world.round(world.second).acts


def test_both_meet_a_new_object_at_once_and_one_is_left():
    world = World()
    blank = world.status
    claim = world.second.judge(KEY, blank, interval=INTERVAL)
    world.round(world.first)
    world.status = world.status.model_copy(update={"operator": claim.operator})  # the later write stands
    acted = []
    for _ in range(10):
        acted += [name for name, one in (("first", world.first), ("second", world.second)) if world.round(one).acts]
        world.passes(INTERVAL)
    assert set(acted) == {"second"}


def test_without_a_name_nothing_is_claimed():
    world = World()
    claim = Claims().judge(KEY, world.status, interval=INTERVAL)
    assert (claim.acts, claim.operator, claim.yields) == (True, "", False)


def test_a_clock_that_is_set_back_takes_nobodys_claim():
    world, moment = World(), [100.0]
    world.first.steady = lambda: moment[0]
    world.round(world.first)
    world.round(world.first)
    moment[0] += claims.SETTLE
    assert world.round(world.first).acts
    world.passes(-86400.0)
    assert world.round(world.first).acts
