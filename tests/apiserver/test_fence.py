"""The chart's admission policy: whatever rights the operator is given, the API server lets it do only what it promises.

The user of these requests is the operator's ServiceAccount with every right there is, so that nothing but the policy
can refuse. Others are not touched by it.
"""

import json
import os

import pytest

from hack.binaries import ensure
from hack.chart_checks import CHART, helm
from hack.cluster.errors import ClusterError
from tests.operator_process import eventually

OURS = {
    "apiVersion": "optiinfra.io/v1alpha1",
    "kind": "ResourceOptimization",
    "name": "svc",
    "uid": "11111111-2222-3333-4444-555555555555",
    "controller": True,
}
MEMORY = {
    "type": "Resource",
    "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 50}},
}
THEIRS = OURS | {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject"}


class Fenced:
    """The cluster with the policy, and requests in the operator's name or in a user's."""

    def __init__(self, cluster, namespace, account):
        self.cluster = cluster
        self.namespace = namespace
        self.account = account

    def autoscaler(self, name, *, owner=None, **spec):
        metadata = {"name": name, "namespace": self.namespace, "labels": {"team": "chat"}, "annotations": {"note": "a"}}
        return {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": metadata | ({"ownerReferences": [owner]} if owner else {}),
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "svc"},
                "minReplicas": 1,
                "maxReplicas": 8,
            }
            | spec,
        }

    def kubectl(self, *arguments, operator=True, **more):
        who = [f"--as={self.account}"] if operator else []
        return self.cluster.kubectl(*arguments, f"--namespace={self.namespace}", *who, **more)

    def create(self, body, *, operator=True):
        self.kubectl("create", "--filename=-", operator=operator, input=json.dumps(body))

    def patch(self, name, patch, *, operator=True):
        self.kubectl("patch", "hpa", name, "--type=merge", f"--patch={json.dumps(patch)}", operator=operator)


@pytest.fixture(scope="module")
def fenced(apiserver):
    (program,) = ensure(["helm"]).values()
    release = f"fence-{os.getpid()}"
    account = f"system:serviceaccount:{release}:{release}-operator"
    values = ["--set=actuation.enabled=true", "--set=actuation.fence=true"]
    template = [str(CHART), f"--namespace={release}", "--show-only=templates/fence.yaml", *values]
    rendered = helm(program, "template", release, *template)
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": release},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": account}],
    }
    apiserver.kubectl("create", "namespace", release)
    try:
        apiserver.kubectl("create", "--filename=-", input=json.dumps(binding))
        apiserver.kubectl("create", "--filename=-", input=rendered)
        made = Fenced(apiserver, release, account)
        made.create(made.autoscaler("probe"), operator=False)

        def obeyed():
            try:
                made.patch("probe", {"metadata": {"labels": {"team": "search"}}})
            except ClusterError:
                return True
            made.patch("probe", {"metadata": {"labels": {"team": "chat"}}}, operator=False)
            return False

        eventually(obeyed, seconds=60, what="the API server has read the policy")
        yield made
    finally:
        apiserver.kubectl("delete", "--ignore-not-found", "--filename=-", input=rendered)
        apiserver.kubectl("delete", "--ignore-not-found", "clusterrolebinding", release)
        apiserver.kubectl("delete", "hpa", "--all", f"--namespace={release}")
        apiserver.kubectl("delete", "namespace", release, "--wait=false")


@pytest.fixture
def theirs(fenced, request):
    """A user's HPA, one a test."""
    name = request.node.name.split("[")[0].replace("_", "-")[:50]
    fenced.create(fenced.autoscaler(name), operator=False)
    yield name
    fenced.kubectl("delete", "hpa", name, operator=False)


def test_the_floor_and_its_marks_pass(fenced, theirs):
    marks = {"labels": {"optiinfra.io/held": "true"}, "annotations": {"optiinfra.io/original": "1"}}
    fenced.patch(theirs, {"metadata": marks, "spec": {"minReplicas": 3}})
    back = {"labels": {"optiinfra.io/held": None}, "annotations": {"optiinfra.io/original": None}}
    fenced.patch(theirs, {"metadata": back, "spec": {"minReplicas": 1}})
    found = json.loads(fenced.kubectl("get", "hpa", theirs, "--output=json"))
    assert found["metadata"]["labels"] == {"team": "chat"}
    assert found["spec"]["minReplicas"] == 1


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({"spec": {"maxReplicas": 4}}, "changes only minReplicas"),
        ({"spec": {"scaleTargetRef": {"name": "other"}}}, "changes only minReplicas"),
        ({"spec": {"metrics": [MEMORY]}}, "changes only minReplicas"),
        ({"spec": {"behavior": {"scaleDown": {"selectPolicy": "Disabled"}}}}, "changes only minReplicas"),
        ({"spec": {"minReplicas": 2, "maxReplicas": 9}}, "changes only minReplicas"),
        ({"metadata": {"labels": {"team": "search"}}}, "its own labels and annotations"),
        ({"metadata": {"labels": {"team": None}}}, "its own labels and annotations"),
        ({"metadata": {"annotations": {"note": "b"}}}, "its own labels and annotations"),
        ({"metadata": {"annotations": {"argocd.argoproj.io/sync-options": "x"}}}, "its own labels and annotations"),
        ({"metadata": {"ownerReferences": [OURS]}}, "its own labels and annotations"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_nothing_else_of_a_users_object_passes(fenced, theirs, patch, words):
    with pytest.raises(ClusterError, match=words):
        fenced.patch(theirs, patch)
    fenced.patch(theirs, patch, operator=False)


def test_a_users_object_is_not_deleted(fenced, theirs):
    with pytest.raises(ClusterError, match="makes and deletes only"):
        fenced.kubectl("delete", "hpa", theirs)


def test_an_object_of_another_controller_is_not_touched(fenced):
    fenced.create(fenced.autoscaler("keda-hpa", owner=THEIRS), operator=False)
    with pytest.raises(ClusterError, match="another controller owns"):
        fenced.patch("keda-hpa", {"spec": {"minReplicas": 2}})
    with pytest.raises(ClusterError, match="makes and deletes only"):
        fenced.kubectl("delete", "hpa", "keda-hpa")
    fenced.kubectl("delete", "hpa", "keda-hpa", operator=False)


def test_its_own_objects_are_its_own(fenced):
    with pytest.raises(ClusterError, match="makes and deletes only"):
        fenced.create(fenced.autoscaler("nobodys"))
    fenced.create(fenced.autoscaler("own", owner=OURS))
    fenced.patch("own", {"spec": {"maxReplicas": 3}, "metadata": {"labels": {"team": "x"}}})
    with pytest.raises(ClusterError, match=r"changes only minReplicas|another controller"):
        fenced.patch("own", {"spec": {"maxReplicas": 9}, "metadata": {"ownerReferences": [THEIRS]}})
    fenced.kubectl("delete", "hpa", "own")
