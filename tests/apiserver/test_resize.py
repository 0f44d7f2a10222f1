"""In-place resize against the real API server: what is sent, what it refuses, and what becomes of a kubelet's answer.

No kubelet runs here. Its part (the sizes in containerStatuses, PodResizePending) is written into the pods' status as a
kubelet would write it, and every test that rests on that says so by calling `kubelet_*`.
"""

import dataclasses
import itertools
import json
import os
import subprocess

import pytest

from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1.action_status import ActionState
from optiinfra.api.v1alpha1.status_parts import ResizeState
from optiinfra.cluster.access import Access, Verdict
from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import Conflict, Invalid
from optiinfra.cluster.pods import parse_pod
from optiinfra.cluster.rehearsal import rehearsing
from optiinfra.cluster.resize import PodResizer, Wish
from optiinfra.control.recommend import recommendations_of
from optiinfra.control.resize import Resizer
from optiinfra.domain.evidence import Direction, InPlace, RecommendationType
from optiinfra.domain.policy import Axis, Gates, Limit, LimitReason, Removable, Running
from optiinfra.domain.units import UnixTime
from tests.engine_pages import make_namespace
from tests.unit.control.examples import NOW, facts, proposal, ro, service

_numbers = itertools.count(1)
MERGE = "application/merge-patch+json"
SIZES = {"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}


class Pods:
    """Pods of one workload in a namespace of their own, and one service that looks after them."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.namespace = make_namespace(cluster, f"resize-{os.getpid()}-{next(_numbers)}")
        self.names = []
        self.service = None
        self.at = float(NOW)
        self.resize_enabled = True
        self.allowed = True

    def path(self, name=""):
        base = f"/api/v1/namespaces/{self.namespace}/pods"
        return f"{base}/{name}" if name else base

    def make(self, name, *, revision="r1", policy=(), sizes=None):
        container = {"name": "app", "image": "shop:1", "resources": sizes or SIZES, "resizePolicy": list(policy)}
        body = {
            "metadata": {"name": name, "labels": {"app": "shop", "pod-template-hash": revision}},
            "spec": {"nodeName": self.namespace, "containers": [container]},
        }
        self.cluster.request("POST", self.path(), body)
        self.names.append(name)
        self.kubelet_grants(name)
        return name

    def live(self, name):
        return self.cluster.request("GET", self.path(name))

    def cpu(self, name):
        return self.live(name)["spec"]["containers"][0]["resources"]["requests"]["cpu"]

    def kubelet_says(self, name, *conditions, resources=None):
        """Write what a kubelet would: conditions, and the sizes that containers really have."""
        types = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        well = [{"type": each, "status": "True"} for each in types]
        status = {
            "phase": "Running",
            "podIP": "10.9.9.9",
            "podIPs": [{"ip": "10.9.9.9"}],
            "conditions": [*well, *conditions],
            "containerStatuses": [
                {
                    "name": "app",
                    "image": "shop:1",
                    "imageID": "",
                    "ready": True,
                    "restartCount": 0,
                    "state": {"running": {}},
                    "resources": resources or self.live(name)["status"]["containerStatuses"][0]["resources"],
                }
            ],
        }
        self.cluster.request("PATCH", f"{self.path(name)}/status", {"status": status}, content_type=MERGE)

    def kubelet_grants(self, name):
        self.kubelet_says(name, resources=self.live(name)["spec"]["containers"][0]["resources"])

    def kubelet_pends(self, name, reason):
        pending = {
            "type": "PodResizePending",
            "status": "True",
            "reason": reason,
            "message": f"node is full ({reason})",
        }
        self.kubelet_says(name, pending)

    # the service

    def begin(self, mode="Auto", *, approved=False, change=None, **spec):
        in_place = change or InPlace("app", "cpu", "500m", "", "2000m", "")
        made = proposal(
            "2000m",
            in_place.request,
            subject="app",
            type=RecommendationType.RESOURCES,
            direction=Direction.RESIZE,
            setting=f"containers[app].requests.{in_place.resource}",
        )
        made = dataclasses.replace(made, in_place=in_place, patch="spec: {}\n")
        items = recommendations_of(
            [("uid-of-vllm", made)], (), object_uid="uid-1", texts={}, now=UnixTime(self.at - 60)
        )
        obj = ro(namespace=self.namespace, modes={"resize": mode}, **spec)
        obj = obj.model_copy(update={"status": obj.status.model_copy(update={"recommendations": items})})
        self.service = service(obj)
        self.service.targets[0].proposals = (made,)
        if approved:
            self.service.approved = frozenset({items[0].id})
        return self

    async def may_i(self, attributes):
        return Verdict(self.allowed, "")

    async def round(self, *, seconds=10.0, rehearse=False):
        """One round of the resizer on what the API server says now; returns the record, None while there is none."""
        self.at += seconds
        target = self.service.targets[0]
        documents = self.cluster.request("GET", self.path())["items"]
        records = [parse_pod(document) for document in documents]
        pods = tuple(dataclasses.replace(one.facts, labels=one.labels) for one in records)
        target.facts = facts(len(pods), namespace=self.namespace, pods=pods)
        target.refusals = ()
        async with KubernetesClient.from_environment(str(self.cluster.kubeconfig)) as client:
            resizer = Resizer(pods=PodResizer(client), access=self, enabled=self.resize_enabled)
            assert resizer.wanted(self.service)
            if rehearse:
                with rehearsing() as rehearsal:
                    await resizer.carry_out(self.service, now=UnixTime(self.at))
                return rehearsal
            await resizer.carry_out(self.service, now=UnixTime(self.at))
        return self.service.resizes[-1] if self.service.resizes else None

    def told(self):
        return [(action.state, action.from_, action.to) for action in self.service.actions]


@pytest.fixture
def pods(apiserver):
    made = Pods(apiserver)
    # The API server looks at the node of a pod that is to be resized: it must exist, with a capacity.
    node = {"metadata": {"name": made.namespace}}
    apiserver.request("POST", "/api/v1/nodes", node)
    capacity = {"cpu": "64", "memory": "256Gi", "pods": "110"}
    status = {"status": {"capacity": capacity, "allocatable": capacity}}
    apiserver.request("PATCH", f"/api/v1/nodes/{made.namespace}/status", status, content_type=MERGE)
    yield made
    apiserver.request("DELETE", f"/api/v1/nodes/{made.namespace}")
    apiserver.request("DELETE", f"{made.path()}?gracePeriodSeconds=0")
    apiserver.request("DELETE", f"/api/v1/namespaces/{made.namespace}")


async def test_pods_are_resized_one_after_the_other_each_once_the_kubelet_gave_the_one_before_its_size(pods):
    for name in ("a", "b"):
        pods.make(name)
    pods.begin()
    record = await pods.round()
    assert record.state is ResizeState.RESIZING, record
    assert (record.state, record.pod, record.from_, record.to) == (ResizeState.RESIZING, "a", "2", "500m")
    assert (pods.cpu("a"), pods.cpu("b")) == ("500m", "2")
    record = await pods.round()
    assert (record.pod, record.reason, pods.cpu("b")) == ("a", "InProgress", "2"), "the kubelet has said nothing yet"
    pods.kubelet_grants("a")
    record = await pods.round()
    assert (record.pod, pods.cpu("b"), record.done) == ("b", "500m", 1)
    pods.kubelet_grants("b")
    record = await pods.round()
    assert (record.state, record.done, record.pods) == (ResizeState.RESIZED, 2, 2)
    assert "until the next rollout" in record.message
    assert record.patch, "the durable way stands beside it"
    assert pods.live("a")["spec"]["containers"][0]["resources"]["requests"]["memory"] == "1Gi", "and nothing else"
    assert pods.live("a")["status"]["qosClass"] == "Burstable"
    assert {state for state, _, _ in pods.told()} == {ActionState.APPLIED}
    assert len({action.id for action in pods.service.actions}) == 1, "one story"


async def test_a_pod_that_came_later_gets_the_size_too_and_a_rollout_ends_it(pods):
    pods.make("a")
    pods.begin()
    await pods.round()
    pods.kubelet_grants("a")
    assert (await pods.round()).state is ResizeState.RESIZED
    pods.make("b")
    assert (await pods.round()).pod == "b"
    pods.kubelet_grants("b")
    assert (await pods.round()).state is ResizeState.RESIZED
    pods.make("c", revision="r2")
    record = await pods.round()
    assert (record.state, record.reason) == (ResizeState.ENDED, "Rollout")
    assert pods.cpu("c") == "2", "the new revision begins anew"


async def test_deferred_waits_and_is_told_and_infeasible_gives_every_pod_its_size_back(pods):
    for name in ("a", "b"):
        pods.make(name)
    pods.begin()
    await pods.round()
    pods.kubelet_grants("a")
    await pods.round()
    pods.kubelet_pends("b", "Deferred")
    record = await pods.round()
    assert (record.state, record.reason) == (ResizeState.WAITING, "Deferred")
    assert "node is full" in record.message
    pods.kubelet_pends("b", "Infeasible")
    record = await pods.round()
    assert (record.state, record.reason) == (ResizeState.ROLLED_BACK, "Infeasible")
    assert (pods.cpu("a"), pods.cpu("b")) == ("2", "2")
    assert pods.told()[-1][0] is ActionState.ROLLED_BACK
    for _ in range(3):
        record = await pods.round(seconds=3600)
    assert (record.state, pods.cpu("a")) == (ResizeState.ROLLED_BACK, "2"), "not tried again on this revision"


async def test_nothing_happens_without_mode_right_server_or_leave(pods):
    pods.make("a")
    recommend = pods.begin("Recommend")
    async with KubernetesClient.from_environment(str(pods.cluster.kubeconfig)) as client:
        assert not Resizer(PodResizer(client), pods, enabled=True).wanted(recommend.service)
    assert await pods.begin("Approve").round() is None, "nobody approved it"
    pods.resize_enabled = False
    assert await pods.begin().round() is None
    assert "actuation.resize" in pods.service.targets[0].refusals[0].message
    pods.resize_enabled, pods.allowed = True, False
    record = await pods.begin().round()
    assert (record.state, record.reason) == (ResizeState.WAITING, "PermissionMissing")
    pods.allowed = True
    suspended = await pods.begin(suspend=True).round()
    assert suspended is None
    assert pods.cpu("a") == "2"


async def test_an_approved_id_is_the_order_and_is_used_by_it(pods):
    pods.make("a")
    record = await pods.begin("Approve", approved=True).round()
    assert (record.state, pods.cpu("a")) == (ResizeState.RESIZING, "500m")
    assert {action.recommendation_id for action in pods.service.actions} == set(pods.service.approved)


async def test_a_container_that_would_restart_is_not_resized_by_itself(pods):
    restarts = [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]
    pods.make("a", policy=restarts)
    record = await pods.begin().round()
    assert (record.state, record.reason, pods.cpu("a")) == (ResizeState.REFUSED, "RestartContainer", "2")
    record = await pods.begin("Approve", approved=True).round()
    assert (record.state, pods.cpu("a")) == (ResizeState.RESIZING, "500m"), "a person may"


async def test_what_running_pods_are_not_given_is_refused_and_only_offered(pods):
    pods.make("a")
    memory = InPlace("app", "memory", "512Mi", "", "1024Mi", "", "memory of a model server is recommended only")
    record = await pods.begin("Approve", approved=True, change=memory).round()
    assert (record.state, record.reason) == (ResizeState.REFUSED, "NotInPlace")
    assert "model server" in record.message
    assert await pods.begin(change=memory).round() is None
    assert "model server" in pods.service.targets[0].refusals[0].message


async def test_another_qos_class_is_refused_by_the_api_server_and_taken_back(pods):
    pods.make("a", sizes={"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}})
    record = await pods.begin().round()
    assert (record.state, record.reason) == (ResizeState.ROLLED_BACK, "Invalid")
    assert "QOS" in record.message.upper()
    assert pods.cpu("a") == "2"


async def test_budgets_windows_unready_pods_and_other_axes_hold_it(pods):
    for name in ("a", "b"):
        pods.make(name)
    pods.begin()
    target = pods.service.targets[0]
    target.memory.policy = target.memory.policy.changed(Axis.SCALE_DOWN, at=UnixTime(pods.at))
    assert await pods.round(seconds=1) is None
    assert target.refusals[0].reason == "OtherAxis"
    pods.at += 3600
    target.running = Running(2, Removable(0, "PodDisruptionBudget pdb allows none"))
    record = await pods.round()
    assert (record.state, record.reason) == (ResizeState.WAITING, "PodDisruptionBudget")
    target.running = Running(2, Removable(1, ""))
    target.gates = Gates(resize=LimitReason(Limit.BLACKOUT_WINDOW, "blackout until Monday"))
    assert (await pods.round()).reason == "BlackoutWindow"
    target.gates = Gates()
    not_ready = {"type": "Ready", "status": "False"}
    live = pods.live("b")["status"]["conditions"]
    conditions = [one for one in live if one["type"] != "Ready"] + [not_ready]
    pods.cluster.request(
        "PATCH", f"{pods.path('b')}/status", {"status": {"conditions": conditions}}, content_type=MERGE
    )
    assert (await pods.round()).reason == "NotReady"
    assert (pods.cpu("a"), pods.cpu("b")) == ("2", "2")
    pods.kubelet_grants("b")
    assert (await pods.round()).state is ResizeState.RESIZING


async def test_a_pod_that_changed_meanwhile_is_not_overwritten(pods):
    pods.make("a")
    async with KubernetesClient.from_environment(str(pods.cluster.kubeconfig)) as client:
        resizer = PodResizer(client)
        assert await resizer.supported()
        seen = await resizer.read(Key(pods.namespace, "a"))
        pods.kubelet_pends("a", "Deferred")
        with pytest.raises((Conflict, Invalid)):
            await resizer.resize(seen, Wish("app", "cpu", "500m", ""))
        with pytest.raises(Conflict):
            await resizer.resize(seen, Wish("gone", "cpu", "500m", ""))
        again = await resizer.read(Key(pods.namespace, "a"))
        assert not await resizer.resize(again, Wish("app", "cpu", "2000m", "")), "it has that already: nothing is sent"
        assert (await Access(client).server_version()).minor >= 33
    assert pods.cpu("a") == "2"


async def test_a_dry_run_shows_the_resize_that_would_be_sent(pods):
    pods.make("a")
    rehearsal = await pods.begin().round(rehearse=True)
    (write,) = rehearsal.writes
    assert (write.method, write.content_type) == ("PATCH", "application/json-patch+json")
    assert write.path.startswith(f"/api/v1/namespaces/{pods.namespace}/pods/a/resize?")
    assert write.field_manager == "optiinfra"
    assert json.loads(write.body)[-1] == {
        "op": "replace",
        "path": "/spec/containers/0/resources/requests/cpu",
        "value": "500m",
    }
    assert pods.cpu("a") == "2"
    assert str(Time.of(NOW))


def test_kubectl_sees_the_same_subresource(apiserver):
    listed = subprocess.run(
        [str(apiserver.binary("kubectl")), "--kubeconfig", str(apiserver.kubeconfig), "get", "--raw", "/api/v1"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert any(one["name"] == "pods/resize" for one in json.loads(listed)["resources"])
