"""What a workload's controller and the scheduler say: read from the objects as the API server gives them."""

import pytest

from optiinfra.cluster.pods import parse_pod
from optiinfra.cluster.targets import parse_workload
from optiinfra.domain.workload import Rollout

AT = "2026-01-01T00:00:00Z"
QUOTA = 'pods "svc-1" is forbidden: exceeded quota: team'


def workload(*conditions, paused=False, kind="Deployment", **status):
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": "svc", "namespace": "inference", "uid": "u", "resourceVersion": "1"},
        "spec": {"replicas": 4, "paused": paused, "selector": {"matchLabels": {"app": "svc"}}},
        "status": {"replicas": 4, "updatedReplicas": 4, "conditions": list(conditions)} | status,
    }


def condition(kind, status, reason, message=""):
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": AT}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (workload(), Rollout()),
        (workload(updatedReplicas=1), Rollout(rolling=True)),
        (workload(paused=True, updatedReplicas=1), Rollout(rolling=True, paused=True)),
        (
            workload(condition("Progressing", "False", "ProgressDeadlineExceeded"), updatedReplicas=1),
            Rollout(rolling=True, stuck=True),
        ),
        (workload(condition("ReplicaFailure", "True", "FailedCreate", QUOTA)), Rollout(refused=QUOTA)),
        (workload(condition("ReplicaFailure", "False", "FailedCreate", QUOTA)), Rollout()),
        (workload(condition("ReplicaFailure", "True", "FailedCreate", "x" * 9000)), Rollout(refused="x" * 512)),
        (
            workload(kind="StatefulSet", currentRevision="a", updateRevision="b", updatedReplicas=1),
            Rollout(rolling=True),
        ),
        (workload(kind="StatefulSet", currentRevision="a", updateRevision="a", updatedReplicas=1), Rollout()),
        ({**workload(updatedReplicas=1), "apiVersion": "example.com/v1"}, Rollout()),
    ],
)
def test_what_the_controller_says_of_its_pods(document, expected):
    assert parse_workload(document).rollout == expected


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [("False", "Unschedulable", "0/4 nodes"), ("False", "SchedulingGated", ""), ("True", "", "")],
)
def test_the_schedulers_words_are_kept_while_no_node_takes_the_pod(status, reason, words):
    pod = {
        "metadata": {"name": "svc-1", "namespace": "inference", "uid": "p"},
        "spec": {"containers": [{"name": "vllm"}]},
        "status": {"conditions": [condition("PodScheduled", status, reason, f"0/4 nodes are available: {'x' * 900}")]},
    }
    found = parse_pod(pod).facts.unschedulable
    assert found.startswith(words)
    assert len(found) <= 256
