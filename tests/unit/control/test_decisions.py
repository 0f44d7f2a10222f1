"""Published decisions: alive only while they are supported, and gone from the metrics when they are not."""

from collections.abc import Iterator

import pytest

from optiinfra import metrics
from optiinfra.control.decisions import DecisionBoard


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Iterator[DecisionBoard]:
    board = DecisionBoard(clock=clock)
    yield board
    board.clear()


def series(name: str, namespace: str = "ns") -> float | None:
    labels = {"namespace": namespace, "name": name}
    return metrics.REGISTRY.get_sample_value("optiinfra_desired_replicas", labels)


def test_a_decision_is_published_with_its_time_and_appears_as_a_series(board, clock):
    board.publish("ns", "a", replicas=7, lifetime=30.0)
    published = board.get("ns", "a")
    assert published is not None
    assert (published.replicas, published.decided_at, published.expires_at) == (7, 1000.0, 1030.0)
    assert series("a") == 7.0


def test_zero_replicas_are_a_decision_and_not_an_absence(board):
    board.publish("ns", "a", replicas=0, lifetime=30.0)
    assert series("a") == 0.0
    assert board.get("ns", "a") is not None


def test_a_withdrawn_decision_is_absent_from_the_metrics(board):
    board.publish("ns", "a", replicas=7, lifetime=30.0)
    board.publish("ns", "b", replicas=3, lifetime=30.0)
    board.withdraw("ns", "a")
    board.withdraw("ns", "a")
    board.withdraw("ns", "never published")
    assert board.get("ns", "a") is None
    assert series("a") is None
    assert series("b") == 3.0


def test_what_nobody_renews_is_not_believed_and_then_disappears(board, clock):
    board.publish("ns", "a", replicas=7, lifetime=30.0)
    board.publish("ns", "b", replicas=3, lifetime=60.0)
    clock.now += 29.9
    assert board.get("ns", "a") is not None
    clock.now += 0.1
    assert board.get("ns", "a") is None
    assert [decision.name for decision in board.of("ns")] == ["b"]
    board.expire()
    assert series("a") is None
    assert series("b") == 3.0


def test_a_renewal_moves_the_expiry_and_the_value(board, clock):
    board.publish("ns", "a", replicas=7, lifetime=30.0)
    clock.now += 20.0
    board.publish("ns", "a", replicas=8, lifetime=30.0)
    clock.now += 20.0
    board.expire()
    assert series("a") == 8.0


def test_decisions_are_listed_by_namespace(board):
    board.publish("ns", "a", replicas=1, lifetime=30.0)
    board.publish("other", "a", replicas=2, lifetime=30.0)
    assert [(d.namespace, d.replicas) for d in board.of("ns")] == [("ns", 1)]
    assert board.of("empty") == []


def test_who_no_longer_leads_takes_everything_back(board):
    for name in ("a", "b", "c"):
        board.publish("ns", name, replicas=1, lifetime=30.0)
    board.clear()
    assert board.of("ns") == []
    assert [series(name) for name in ("a", "b", "c")] == [None, None, None]


def test_a_decision_from_the_future_is_believed_no_more(board, clock):
    """The clock was set back: nothing else would end it for a day."""
    board.publish("ns", "a", replicas=7, lifetime=30.0)
    clock.now -= 3.0
    assert board.get("ns", "a") is not None, "clocks are corrected by little all the time"
    clock.now -= 86400.0
    assert board.get("ns", "a") is None
    assert board.of("ns") == []
    board.expire()
    assert series("a") is None
