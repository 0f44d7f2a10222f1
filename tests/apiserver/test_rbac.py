"""The chart's rights on a real API server: what the operator may do, what it may not, and nothing that it never uses.

The first half asks by SubjectAccessReview. The second half lets the operator's own code run under the chart's real
ServiceAccount and compares the audit log with the rules: no call is refused, and no rule lies idle.
"""

import asyncio
import itertools
import json
import time

import pytest
import yaml

from hack.binaries import ensure
from hack.chart_checks import CHART, helm
from hack.cluster import Cluster
from optiinfra.cluster.access import Access, Attributes
from optiinfra.cluster.checkpoints import CheckpointRecord, Checkpoints
from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import Absent, Denied
from optiinfra.cluster.events import EventOutcome, EventRecorder, EventType, ObjectReference
from optiinfra.cluster.floor import Floor, FloorHeld, FloorReleased
from optiinfra.cluster.inventory import Inventory
from optiinfra.cluster.kill_switch import KillSwitch, Said
from optiinfra.cluster.leases import LeaseRecord, Leases
from optiinfra.cluster.model_files import ModelFiles
from optiinfra.cluster.objects import Objects, Resources
from optiinfra.cluster.own_scaler import OwnScaler, OwnScalers
from optiinfra.cluster.price_map import PriceMap
from optiinfra.cluster.resize import PodResizer, Wish
from optiinfra.cluster.sizing_rules import SizingRules
from optiinfra.cluster.status import StatusWriter
from optiinfra.cluster.targets import Targets
from optiinfra.cluster.usage import Usage
from optiinfra.domain.readings import Unknown
from optiinfra.domain.sizing_rules import NamespaceRules
from optiinfra.domain.units import UnixTime

OURS, TEAM, OTHER = "inference", "chat", "payments"
RELEASES = {
    "plain": [],
    "acting": [
        "actuation.enabled=true",
        "actuation.resize=true",
        "externalMetrics.enabled=true",
        "externalMetrics.ownerChecked=true",
        "modelConfigMaps.enabled=true",
        f"modelConfigMaps.namespaces={{{OURS}}}",
        "prices.configMap=node-prices",
        "agent.containerUsage=false",
        "agent.kubeletMetrics.enabled=true",
        "crds.install=false",
    ],
    "narrow": ["actuation.enabled=true", f"actuation.namespaces={{{OURS}}}", "crds.install=false"],
    "team": [
        "scope=Namespaces",
        f"watchNamespaces={{{TEAM}}}",
        "actuation.enabled=true",
        "modelConfigMaps.enabled=true",
        "crds.install=false",
        "extraTargets[0].apiGroup=serving.example.com",
        "extraTargets[0].resource=models",
    ],
}
"""One release in a namespace of its own name for each set of values."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An API server of its own: the chart brings objects without a namespace."""
    program = ensure(["helm"])["helm"]
    with Cluster(tmp_path_factory.mktemp("rbac") / "cluster", controllers=False, audit=True) as cluster:
        for namespace in (OURS, TEAM, OTHER):
            cluster.kubectl("create", "namespace", namespace)
        for release, values in RELEASES.items():
            settings = itertools.chain.from_iterable(("--set", value) for value in values)
            where = ["--namespace", release, "--create-namespace", "--kubeconfig", str(cluster.kubeconfig)]
            helm(program, "install", "optiinfra", str(CHART), *where, *settings)
        yield cluster


def allowed(cluster, release, verb, resource, *, namespace=OURS, group="", name="", account="operator"):
    resource, _, subresource = resource.partition("/")
    home = f"{release}-agent" if account == "agent" else release
    who = f"system:serviceaccount:{home}:optiinfra-{account}"
    attributes = {
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "namespace": namespace,
        "name": name,
    }
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{home}", "system:authenticated"]
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": who, "groups": groups, "resourceAttributes": attributes},
    }
    answer = cluster.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)["status"]
    return answer["allowed"]


def rows(text):
    """Read `verbs resource[.group][/subresource] [namespace]` lines; `-` is cluster-wide."""
    found = []
    for line in text.strip().splitlines():
        verbs, resource, *rest = line.split()
        resource, _, subresource = resource.partition("/")
        resource, _, group = resource.partition(".")
        namespace = rest[0] if rest else OURS
        for verb in verbs.split(","):
            full = f"{resource}/{subresource}" if subresource else resource
            where = "" if namespace == "-" else namespace
            found.append(pytest.param(verb, group, full, where, id=f"{verb} {line.split()[1]} {namespace}"))
    return found


@pytest.mark.parametrize(
    ("verb", "group", "resource", "namespace"),
    rows("""
list,watch                 pods                                                -
list,watch                 nodes                                               -
list,watch                 persistentvolumeclaims                              -
list,watch                 persistentvolumes                                   -
list,watch                 resourceslices.resource.k8s.io                      -
list,watch                 resourceclaims.resource.k8s.io                      -
get,list,watch             horizontalpodautoscalers.autoscaling                -
list,watch                 poddisruptionbudgets.policy                         -
get,list,watch             deployments.apps                                    -
get,list,watch             statefulsets.apps                                   -
get                        deployments.apps/scale
get                        statefulsets.apps/scale
get                        replicasets.apps/scale
get                        leaderworkersets.leaderworkerset.x-k8s.io
get                        leaderworkersets.leaderworkerset.x-k8s.io/scale
list                       pods.metrics.k8s.io
list                       limitranges
list                       verticalpodautoscalers.autoscaling.k8s.io
get,list,watch             resourceoptimizations.optiinfra.io                  -
get,list,watch             clusterresourceoptimizations.optiinfra.io           -
patch                      resourceoptimizations.optiinfra.io/status
patch                      clusterresourceoptimizations.optiinfra.io/status    -
get,list,create,patch      optimizationcheckpoints.optiinfra.io
create,patch               events.events.k8s.io
create,patch               events.events.k8s.io                                default
create                     leases.coordination.k8s.io                          plain
create                     tokenreviews.authentication.k8s.io                  -
create                     subjectaccessreviews.authorization.k8s.io           -
create                     selfsubjectaccessreviews.authorization.k8s.io       -
"""),
)
def test_the_operator_may(installed, verb, group, resource, namespace):
    assert allowed(installed, "plain", verb, resource, namespace=namespace, group=group)


REFUSED_ALWAYS = """
get,list,watch                           secrets
get,list,watch                           secrets                                    -
list,watch                               configmaps
create,update,patch,delete               configmaps
get                                      pods/log
create                                   pods/exec
create                                   pods/eviction
get,create,update                        pods/resize
create,update,patch,delete               pods
get,create,update,patch,delete           persistentvolumeclaims
get,create,update,patch,delete           persistentvolumes                          -
get,create                               nodes/proxy                                -
get                                      nodes/metrics                              -
get                                      nodes/stats                                -
update,patch,delete                      nodes                                      -
get,create                               services/proxy
get,create                               pods/proxy
create,update,patch,delete               deployments.apps
create,update,patch,delete               statefulsets.apps
create,update,patch,delete               daemonsets.apps
list,watch                               replicasets.apps
update,patch                             deployments.apps/scale
update,patch                             statefulsets.apps/scale
update,patch                             replicasets.apps/scale
update,patch                             leaderworkersets.leaderworkerset.x-k8s.io/scale
get                                      models.serving.example.com
create                                   jobs.batch
update                                   horizontalpodautoscalers.autoscaling
deletecollection                         horizontalpodautoscalers.autoscaling
update,patch                             horizontalpodautoscalers.autoscaling/status
create,update,patch,delete               poddisruptionbudgets.policy
get,watch,create,update,patch,delete     limitranges
get,watch,create,update,patch,delete     verticalpodautoscalers.autoscaling.k8s.io
create,update,patch,delete               resourceoptimizations.optiinfra.io
create,update,patch,delete               clusterresourceoptimizations.optiinfra.io  -
update                                   resourceoptimizations.optiinfra.io/status
update,delete,deletecollection           optimizationcheckpoints.optiinfra.io
get,list,delete                          events.events.k8s.io
create                                   events
get,list,delete                          leases.coordination.k8s.io                 plain
get,create,update                        leases.coordination.k8s.io                 kube-system
create                                   serviceaccounts/token                      plain
impersonate                              users                                      -
impersonate                              serviceaccounts                            -
create,update,patch,delete,bind,escalate clusterroles.rbac.authorization.k8s.io     -
create,update,patch,delete               rolebindings.rbac.authorization.k8s.io
create,update,patch,delete               customresourcedefinitions.apiextensions.k8s.io -
list,update,patch,delete                 apiservices.apiregistration.k8s.io         -
list                                     namespaces                                 -
create                                   validatingwebhookconfigurations.admissionregistration.k8s.io -
"""


@pytest.mark.parametrize("release", ["plain", "acting"])
@pytest.mark.parametrize(("verb", "group", "resource", "namespace"), rows(REFUSED_ALWAYS))
def test_the_operator_may_never(installed, release, verb, group, resource, namespace):
    where = release if namespace == "plain" else namespace
    assert not allowed(installed, release, verb, resource, namespace=where, group=group)


@pytest.mark.parametrize("verb", ["create", "patch", "delete"])
def test_autoscalers_are_written_only_where_actuation_is_on(installed, verb):
    def may(release, namespace):
        return allowed(installed, release, verb, "horizontalpodautoscalers", namespace=namespace, group="autoscaling")

    assert [may("plain", OURS), may("plain", "")] == [False, False]
    assert [may("acting", OURS), may("acting", OTHER)] == [True, True]
    assert [may("narrow", OURS), may("narrow", TEAM), may("narrow", "")] == [True, False, False]
    assert [may("team", TEAM), may("team", OURS), may("team", "")] == [True, False, False]


def test_running_pods_are_read_and_resized_only_where_that_is_switched_on(installed):
    def may(release, verb, resource, namespace=OURS):
        return allowed(installed, release, verb, resource, namespace=namespace)

    for verb, resource in (("get", "pods"), ("patch", "pods/resize")):
        assert [may("acting", verb, resource), may("acting", verb, resource, OTHER)] == [True, True]
        for release, namespace in (("plain", OURS), ("narrow", OURS), ("team", TEAM)):
            assert not may(release, verb, resource, namespace), f"{release} acts, and resizes nothing"


def test_config_maps_are_read_only_where_that_is_switched_on(installed):
    def may(release, namespace):
        return allowed(installed, release, "get", "configmaps", namespace=namespace, name="llama")

    assert [may("plain", OURS), may("narrow", OURS)] == [False, False]
    assert [may("acting", OURS), may("acting", OTHER), may("acting", "")] == [True, False, False]
    assert [may("team", TEAM), may("team", OURS), may("team", "team")] == [True, False, False]


@pytest.mark.parametrize(
    ("verb", "group", "resource"),
    [
        ("list", "", "pods"),
        ("list", "autoscaling", "horizontalpodautoscalers"),
        ("get", "apps", "deployments"),
        ("list", "optiinfra.io", "resourceoptimizations"),
        ("patch", "optiinfra.io", "resourceoptimizations/status"),
        ("create", "optiinfra.io", "optimizationcheckpoints"),
        ("create", "events.k8s.io", "events"),
        ("get", "serving.example.com", "models"),
        ("get", "serving.example.com", "models/scale"),
    ],
)
def test_scope_namespaces_ends_at_its_namespaces(installed, verb, group, resource):
    def may(namespace):
        return allowed(installed, "team", verb, resource, namespace=namespace, group=group)

    assert [may(TEAM), may(OURS), may(OTHER), may("team"), may("")] == [True, False, False, False, False]


@pytest.mark.parametrize(
    "resource",
    [
        "nodes",
        "persistentvolumes",
        "persistentvolumeclaims",
        "clusterresourceoptimizations",
        "clusterresourceoptimizations/status",
    ],
)
def test_scope_namespaces_sees_nothing_of_the_cluster(installed, resource):
    group = "optiinfra.io" if resource.startswith("cluster") else ""
    may = [allowed(installed, "team", verb, resource, namespace="", group=group) for verb in ("list", "watch", "patch")]
    assert may == [False, False, False]


def test_only_its_own_lease_may_be_changed(installed):
    def may(release, namespace, name):
        return [
            allowed(installed, release, verb, "leases", namespace=namespace, group="coordination.k8s.io", name=name)
            for verb in ("get", "update", "patch")
        ]

    assert may("plain", "plain", "optiinfra-operator") == [True, True, False]
    assert may("plain", "plain", "kube-controller-manager") == [False, False, False]
    assert may("plain", "acting", "optiinfra-operator") == [False, False, False]


def test_only_the_kill_switch_of_its_own_release_may_be_read_and_only_where_it_acts_may_it_be_turned_on(installed):
    def may(release, namespace, name="optiinfra-control"):
        verbs = ("get", "patch", "list", "watch", "update", "delete", "create")
        return [allowed(installed, release, verb, "configmaps", namespace=namespace, name=name) for verb in verbs]

    assert may("plain", "plain") == [True, False, False, False, False, False, False]
    assert may("acting", "acting") == [True, True, False, False, False, False, False]
    assert may("plain", "acting") == may("plain", "plain", "another") == [False] * 7


def test_the_front_proxy_configuration_is_read_only_for_external_metrics(installed):
    def may(release, name):
        return allowed(installed, release, "get", "configmaps", namespace="kube-system", name=name)

    assert may("acting", "extension-apiserver-authentication")
    assert not may("acting", "kubeadm-config")
    assert not may("plain", "extension-apiserver-authentication")

    def owner(release, name):
        return allowed(
            installed, release, "get", "apiservices", namespace="", group="apiregistration.k8s.io", name=name
        )

    assert owner("acting", "v1beta1.external.metrics.k8s.io")
    assert not owner("acting", "v1beta1.metrics.k8s.io")
    assert not owner("plain", "v1beta1.external.metrics.k8s.io")


def test_the_agent_may_only_register_itself(installed):
    def may(verb, resource, group=""):
        return allowed(installed, "plain", verb, resource, namespace="", group=group, account="agent")

    assert [may(verb, "agents", "optiinfra.io") for verb in ("create", "update", "delete", "list")] == [True] * 3 + [
        False
    ]
    for verb, resource, group in [
        ("list", "pods", ""),
        ("list", "nodes", ""),
        ("get", "secrets", ""),
        ("list", "resourceoptimizations", "optiinfra.io"),
        ("create", "tokenreviews", "authentication.k8s.io"),
    ]:
        assert not may(verb, resource, group)


def test_the_agent_reads_the_kubelets_metrics_only_where_that_is_switched_on(installed):
    def may(release, verb, resource):
        return allowed(installed, release, verb, resource, namespace="", account="agent")

    assert may("acting", "get", "nodes/metrics")
    assert not may("plain", "get", "nodes/metrics")
    for verb, resource in [
        ("list", "nodes/metrics"),
        ("get", "nodes"),
        ("get", "nodes/proxy"),
        ("create", "nodes/proxy"),
        ("get", "nodes/stats"),
        ("get", "nodes/log"),
        ("get", "nodes/pods"),
        ("list", "pods"),
    ]:
        assert not may("acting", verb, resource), (verb, resource)


def test_nothing_of_the_chart_has_a_wildcard_or_touches_secrets(installed):
    for kind in ("clusterroles", "roles"):
        found = json.loads(
            installed.kubectl("get", kind, "-A", "-l", "app.kubernetes.io/name=optiinfra", "--output=json")
        )
        assert found["items"]
        for role in found["items"]:
            for rule in role["rules"]:
                words = [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
                assert not [word for word in words if "*" in word], role["metadata"]["name"]
                assert not {"secrets", "pods/exec", "nodes/proxy"} & set(rule["resources"])
                assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


# What the operator's code really asks for


def workload(kind, name):
    labels = {"app": name}
    spec = {
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "engine", "image": "engine:1"}]}},
    }
    if kind == "StatefulSet":
        spec["serviceName"] = name
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": OURS}, "spec": spec}


def scaler(name, target):
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": OURS},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
            "maxReplicas": 8,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}},
                }
            ],
        },
    }


LEADER_WORKER_SETS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: leaderworkersets.leaderworkerset.x-k8s.io}
spec:
  group: leaderworkerset.x-k8s.io
  scope: Namespaced
  names: {kind: LeaderWorkerSet, plural: leaderworkersets, singular: leaderworkerset}
  versions:
    - name: v1
      served: true
      storage: true
      subresources:
        status: {}
        scale:
          specReplicasPath: .spec.replicas
          statusReplicasPath: .status.replicas
          labelSelectorPath: .status.hpaPodSelector
      schema:
        openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
"""


async def exercise(client: KubernetesClient, release: str) -> None:
    """Do everything that the operator does, once."""
    inventory, targets = Inventory(client, claims=True), Targets(client)
    objects = Objects(client)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(inventory.run()), group.create_task(targets.run())]
        for resource in (Resources.RESOURCE_OPTIMIZATION, Resources.CLUSTER_RESOURCE_OPTIMIZATION):
            for mirror in objects.reflectors(resource, parse=lambda document: document["metadata"]["uid"]):
                running.append(group.create_task(mirror.run()))
                async with asyncio.timeout(20):
                    await mirror.wait_synced()
        async with asyncio.timeout(20):
            await inventory.wait_synced()
            # A mirror lists, then watches; both are rights.
            await asyncio.sleep(1.0)
        assert inventory.problems() == ()
        for task in running:
            task.cancel()

    # Without its mirrors every kind is read live.
    live = Targets(client)
    for api_version, kind in [
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "ReplicaSet"),
        ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
    ]:
        facts = await live.read(api_version=api_version, kind=kind, namespace=OURS, name="vllm")
        assert facts.desired_replicas == 2, kind
    found = await ModelFiles(client).read(namespace=OURS, name="llama", key="config.json")
    assert isinstance(found, Unknown)
    assert "does not exist" in found.detail  # and not refused
    prices = await PriceMap(client, namespace=release, name="node-prices").read()
    assert isinstance(prices, Unknown)
    assert "does not exist" in prices.detail  # and not refused
    assert isinstance(await Usage(client).pods(OURS), Unknown)  # not served here, and not refused
    assert await SizingRules(client).read(OURS) == NamespaceRules((), ())

    access = Access(client)
    assert await access.review_token("not-a-token") is None
    assert (await access.may_i(Attributes(verb="list", group="", resource="pods"))).allowed
    identity = ObjectReference("v1", "Pod", OURS, "x", "x")
    subject = type("Subject", (), {"user": "jane", "groups": (), "extra": {}})()
    assert not (await access.may(subject, Attributes(verb="list", group="", resource="pods"))).allowed
    assert (await access.request_headers()).client_authority
    owner = await access.external_metrics_owner()
    assert owner is not None
    assert owner.namespace == release
    await access.server_version()

    leases = Leases(client, namespace=release, name="optiinfra-operator", clock=time.time)
    record = LeaseRecord(holder="me@127.0.0.1:8080", duration_seconds=15, transitions=0)
    await leases.write(record, previous=await leases.read())
    fresh = Leases(client, namespace=release, name="optiinfra-operator-2", clock=time.time)
    await fresh.write(record, previous=None)  # somebody deleted it
    switch = KillSwitch(client, namespace=release, name="optiinfra-control")
    assert (await switch.read()).said is Said.GO
    assert await switch.turn_on(by="test")
    assert (await switch.read()).said is Said.STOP

    for resource, key in [
        (Resources.RESOURCE_OPTIMIZATION, Key(OURS, "vllm")),
        (Resources.CLUSTER_RESOURCE_OPTIMIZATION, Key("", "cluster")),
    ]:
        document = await objects.get(resource, key)
        assert len(await objects.list_all(resource)) == 1
        metadata = document["metadata"]
        written = await StatusWriter(client).write(
            resource,
            key,
            {"observedGeneration": 1},
            uid=metadata["uid"],
            generation=metadata["generation"],
            previous={},
            resource_version=metadata["resourceVersion"],
        )
        assert written.changed
    uid = (await objects.get(Resources.RESOURCE_OPTIMIZATION, Key(OURS, "vllm")))["metadata"]["uid"]

    checkpoints = Checkpoints(client)
    checkpoint = CheckpointRecord(
        Key(OURS, "vllm"), 1, UnixTime(1_700_000_000.0), b"state", owner_uid=uid, owner_name="vllm"
    )
    await checkpoints.write(checkpoint, owner_name="vllm", owner_uid=uid)
    assert await checkpoints.read(checkpoint.key) == checkpoint
    assert await checkpoints.list() == ((checkpoint,), ())

    now = [1_700_000_000.0]
    recorder = EventRecorder(client, instance="test", clock=lambda: now[0])
    for namespace in (OURS, ""):
        identity = ObjectReference("optiinfra.io/v1alpha1", "ResourceOptimization", namespace, "vllm", uid + namespace)
        said = {"event_type": EventType.NORMAL, "reason": "Tested", "action": "Test", "note": "said by a test"}
        assert await recorder.record(identity, **said) is EventOutcome.WRITTEN
        now[0] += 61.0
        assert await recorder.record(identity, **said) is EventOutcome.SERIES

    resizer = PodResizer(client)
    assert await resizer.supported()
    pod = await resizer.read(Key(OURS, "engine"))
    assert await resizer.resize(pod, Wish("engine", "cpu", request="200m", limit=""))

    floor = Floor(client)
    held = await floor.take(Key(OURS, "vllm"), uid="", value=3)
    assert isinstance(held, FloorHeld)
    assert isinstance(await floor.release(Key(OURS, "vllm")), FloorReleased)
    own = OwnScaler(
        namespace=OURS,
        owner_name="vllm",
        owner_uid=uid,
        target_api_version="apps/v1",
        target_kind="StatefulSet",
        target_name="vllm",
        min_replicas=1,
        max_replicas=4,
        server_minor=36,
    )
    created = await OwnScalers(client).apply(own)
    await OwnScalers(client).delete(own.key, uid=created, resource_version="")


@pytest.fixture(scope="module")
def exercised(installed):
    """The audit log of the operator's code under the ServiceAccount of release `acting`."""
    pod = {"containers": [{"name": "engine", "image": "engine:1"}], "automountServiceAccountToken": False}
    replica_set = workload("ReplicaSet", "vllm")
    replica_set["spec"]["template"]["spec"] = pod
    manifests = [workload("Deployment", "vllm"), workload("StatefulSet", "vllm"), replica_set, scaler("vllm", "vllm")]
    manifests += [
        {
            "apiVersion": "optiinfra.io/v1alpha1",
            "kind": "ResourceOptimization",
            "metadata": {"name": "vllm", "namespace": OURS},
            "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm"}},
        },
        {
            "apiVersion": "optiinfra.io/v1alpha1",
            "kind": "ClusterResourceOptimization",
            "metadata": {"name": "cluster"},
            "spec": {},
        },
    ]
    sized = {"name": "engine", "image": "engine:1", "resources": {"requests": {"cpu": "100m"}}}
    where = {"namespace": OURS}
    manifests += [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"} | where},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "engine"} | where,
            "spec": pod | {"containers": [sized]},
        },
    ]
    installed.kubectl("apply", "-f", "-", input=LEADER_WORKER_SETS)
    installed.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    installed.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(manifests))
    leader_worker_set = {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "vllm", "namespace": OURS},
        "spec": {"replicas": 2},
    }
    installed.request(
        "POST", f"/apis/leaderworkerset.x-k8s.io/v1/namespaces/{OURS}/leaderworkersets", leader_worker_set
    )
    kubeconfig = installed.service_account_kubeconfig("acting", "optiinfra-operator")

    async def run():
        async with KubernetesClient.from_environment(str(kubeconfig)) as client:
            await exercise(client, "acting")

    asyncio.run(run())
    who = "system:serviceaccount:acting:optiinfra-operator"
    entries = [json.loads(line) for line in installed.audit_log.read_text().splitlines()]
    return [entry for entry in entries if entry["user"]["username"] == who and "objectRef" in entry]


def test_no_call_of_the_operator_is_refused(exercised):
    refused = [
        (entry["verb"], entry["requestURI"])
        for entry in exercised
        if entry.get("responseStatus", {}).get("code") in {401, 403}
    ]
    assert refused == []
    assert len(exercised) > 30


def test_no_right_of_the_operator_lies_idle(installed, exercised):
    used = set()
    for entry in exercised:
        reference = entry["objectRef"]
        resource = "/".join(part for part in (reference["resource"], reference.get("subresource")) if part)
        used.add((entry["verb"], reference.get("apiGroup", ""), resource))
        if entry["verb"] == "patch" and entry["responseStatus"]["code"] == 201:
            # An apply that creates needs both rights.
            used.add(("create", reference.get("apiGroup", ""), resource))
    granted = set()
    for kind in ("clusterroles", "roles"):
        for role in json.loads(
            installed.kubectl("get", kind, "-A", "-l", "app.kubernetes.io/instance=optiinfra", "-ojson")
        )["items"]:
            name, namespace = role["metadata"]["name"], role["metadata"].get("namespace", "")
            if namespace != "acting" and name not in {
                f"acting:optiinfra:{part}" for part in ("observe", "review", "actuate", "model-config-maps")
            }:
                continue
            for rule in role["rules"]:
                granted |= set(itertools.product(rule["verbs"], rule["apiGroups"], rule["resources"]))
    assert granted
    assert granted - used == set()


async def test_a_token_of_the_pod_s_own_audience_is_no_token_for_the_api_server(installed):
    kubeconfig = installed.service_account_kubeconfig("acting-agent", "optiinfra-agent", "optiinfra")
    async with KubernetesClient.from_environment(str(kubeconfig)) as client:
        with pytest.raises((Denied, Absent), match="Unauthorized"):
            await client.get("/api/v1/namespaces/default")
