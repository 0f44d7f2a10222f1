"""What one replica is made of, and how many of them disruption budgets let go."""

from dataclasses import replace

import pytest

from optiinfra.domain.label_rules import LabelOperator, LabelRule
from optiinfra.domain.pod_rules import DisruptionBudget
from optiinfra.domain.readings import Unknown
from optiinfra.domain.replica_shape import ReplicaShape, removable, replica_count, shape_of
from tests.unit.control.examples import facts, pod

SELECTOR = (LabelRule("app", LabelOperator.IN, frozenset({"vllm"})),)


def budget(allowed=2, **changes):
    base = DisruptionBudget(
        namespace="inference", name="vllm", selector=SELECTOR, allowed=allowed, expected=6, healthy=6, desired=4
    )
    return replace(base, **changes)


def deployment(replicas=4, **changes):
    pods = tuple(pod(f"vllm-{number}", gpus=2.0, labels={"app": "vllm"}) for number in range(replicas))
    return facts(replicas, pods=pods, **changes)


def groups(count=2, size=4):
    """A LeaderWorkerSet named vllm; the last group is not complete yet."""
    names = [f"vllm-{group}" + (f"-{place}" if place else "") for group in range(count) for place in range(size)][:-1]
    pods = tuple(pod(name, gpus=8.0, labels={"app": "vllm"}) for name in names)
    return facts(count, kind="LeaderWorkerSet", pods=pods)


def test_a_replica_is_a_pod_or_a_whole_group():
    assert shape_of(deployment()) == ReplicaShape(pods=1, gpus=2.0)
    assert shape_of(groups()) == ReplicaShape(pods=4, gpus=32.0)
    assert (replica_count(deployment()), replica_count(groups())) == (4, 2)


def test_without_a_pod_nobody_knows():
    assert isinstance(shape_of(facts(0, pods=())), Unknown)


@pytest.mark.parametrize(
    ("budgets", "replicas"),
    [
        ([], None),
        ([budget(namespace="other")], None),
        ([budget(selector=(LabelRule("app", LabelOperator.IN, frozenset({"else"})),))], None),
        ([budget(2)], 2),
        ([budget(0)], 0),
        ([budget(-1)], 0),
        ([budget(3), budget(1, name="tight")], 1),
        ([budget(3, current=False)], 0),
        ([budget(3, selector=())], 3),
    ],
)
def test_the_tightest_budget_that_covers_its_pods_counts(budgets, replicas):
    found = removable(deployment(), budgets)
    assert (None if found is None else found.replicas) == replicas
    if found is not None:
        assert "PodDisruptionBudget" in found.why


@pytest.mark.parametrize(("allowed", "replicas"), [(3, 0), (4, 1), (7, 1), (8, 2)])
def test_a_group_goes_with_all_of_its_pods(allowed, replicas):
    found = removable(groups(), [budget(allowed)])
    assert found is not None
    assert found.replicas == replicas


def test_pods_that_go_away_anyway_cover_nothing():
    leaving = deployment()
    pods = tuple(replace(one, terminating=True) for one in leaving.pods)
    assert removable(replace(leaving, pods=pods), [budget(0)]) is None
