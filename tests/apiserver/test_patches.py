"""Recommendations as patches, by the kubectl plug-in as a real process, applied by kubectl to the real API server.

No operator runs: the status is written as one would, because the plug-in needs nothing else.
"""

import copy
import json
import os
import subprocess
import sys
import time

import pytest
import yaml
from click.testing import CliRunner

from hack.cluster.errors import ApiError
from optiinfra.api.scalars import Time
from optiinfra.cli.plugin_commands import plugin
from optiinfra.domain.units import UnixTime
from tests.engine_pages import make_namespace
from tests.operator_process import ROOT, eventually

MERGE = "application/merge-patch+json"
NAME = "llama"


def stamp(seconds):
    return str(Time.of(UnixTime(time.time() + seconds)))


def item(identifier, kind, setting, current, proposed, *, patch="", container="vllm", **more):
    return {
        "id": identifier,
        "type": kind,
        "reason": "Test",
        "message": "m",
        "setting": setting,
        "current": current,
        "proposed": proposed,
        "lower": proposed,
        "upper": proposed,
        "direction": "Resize",
        "confidence": 0.9,
        "subject": container,
        "patch": patch,
        "place": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME, "container": container},
        "issuedAt": stamp(-60),
        "expiresAt": stamp(3600),
        **more,
    }


SIZE = f"""apiVersion: apps/v1
kind: Deployment
metadata:
  name: "{NAME}"
spec:
  template:
    spec:
      containers:
      - name: "vllm"
        resources:
          requests:
            cpu: "500m"
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: "{NAME}"
spec:
  metrics:
  - {{"type":"Resource","resource":{{"name":"cpu","target":{{"type":"Utilization","averageUtilization":280}}}}}}
"""
VARIABLE = """spec:
  template:
    spec:
      containers:
      - name: vllm
        env:
        - name: LMCACHE_CHUNK_SIZE
          value: "512"
"""


@pytest.fixture(scope="module")
def desk(apiserver):
    """A namespace with a Deployment, an HPA and an object that recommends, and a kubectl with the plug-in."""
    namespace = make_namespace(apiserver, f"patches-{os.getpid()}")
    apiserver.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    eventually(lambda: served(apiserver), seconds=60, what="the kind is served")
    yield Desk(apiserver, namespace)
    for path in (
        "/apis/apps/v1/namespaces/{}/deployments",
        "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers",
    ):
        apiserver.request("DELETE", path.format(namespace))
    apiserver.request("DELETE", f"/apis/optiinfra.io/v1alpha1/namespaces/{namespace}/resourceoptimizations")
    apiserver.request("DELETE", f"/api/v1/namespaces/{namespace}")


def served(cluster):
    try:
        return cluster.request("GET", "/apis/optiinfra.io/v1alpha1/resourceoptimizations")["items"] is not None
    except ApiError:
        return False


class Desk:
    def __init__(self, cluster, namespace):
        self.cluster, self.namespace = cluster, namespace
        proxy = {"name": "proxy", "image": "p:1", "args": ["--max-num-seqs=1"]}
        engine = {
            "name": "vllm",
            "image": "v:1",
            "args": ["serve", "--max-num-seqs", "256", "--model=m", "--api-key=secret"],
            "env": [{"name": "LMCACHE_CHUNK_SIZE", "value": "256"}, {"name": "OTHER", "value": "x"}],
            "resources": {"requests": {"cpu": "2", "memory": "4Gi"}},
        }
        labels = {"app": NAME}
        self.deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": NAME},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [proxy, engine]}},
            },
        }
        target = {"type": "Utilization", "averageUtilization": 70}
        self.hpa = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": NAME},
            "spec": {
                "maxReplicas": 4,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME},
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
            },
        }
        self.reset(create=True)
        spec = {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME}, "mode": "Approve"}
        base = f"/apis/optiinfra.io/v1alpha1/namespaces/{namespace}/resourceoptimizations"
        cluster.request("POST", base, {**self._kind(), "metadata": {"name": NAME}, "spec": spec})
        recommended = [
            item("flag00000001", "BatchSize", "--max-num-seqs", "256", "512"),
            item("size00000001", "Resources", "containers[vllm].requests.cpu", "2000m", "500m", patch=SIZE),
            item("env000000001", "KVCache", "LMCACHE_CHUNK_SIZE", "256", "512", patch=VARIABLE),
            item("words0000001", "KVCache", "lmcache", "on", "off"),
            item(
                "replica00001",
                "Replicas",
                "replicas",
                "6",
                "2",
                direction="ScaleDown",
                envelope={"lowest": 2, "highest": 6, "maxStep": 4},
            ),
        ]
        status = {"status": {"recommendations": recommended}}
        cluster.request("PATCH", f"{base}/{NAME}/status", status, content_type=MERGE)
        self.path = f"{base}/{NAME}"

    @staticmethod
    def _kind():
        return {"apiVersion": "optiinfra.io/v1alpha1", "kind": "ResourceOptimization"}

    def reset(self, *, create=False):
        for body in (self.deployment, self.hpa):
            plural = "deployments" if body["kind"] == "Deployment" else "horizontalpodautoscalers"
            base = f"/apis/{body['apiVersion']}/namespaces/{self.namespace}/{plural}"
            if create:
                self.cluster.request("POST", base, body)
                continue
            live = self.cluster.request("GET", f"{base}/{NAME}")
            version = {"name": NAME, "resourceVersion": live["metadata"]["resourceVersion"]}
            self.cluster.request("PUT", f"{base}/{NAME}", body | {"metadata": version})

    def specs(self):
        apps = self.cluster.request("GET", f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{NAME}")
        base = f"/apis/autoscaling/v2/namespaces/{self.namespace}/horizontalpodautoscalers/{NAME}"
        return {"Deployment": apps["spec"], "HorizontalPodAutoscaler": self.cluster.request("GET", base)["spec"]}

    def run(self, *arguments, code=0):
        """The plug-in's command in this process; `test_it_is_a_kubectl_plug_in` starts a real one."""
        environment = {"KUBECONFIG": str(self.cluster.kubeconfig), "KUBERNETES_SERVICE_HOST": None}
        done = CliRunner().invoke(plugin, [*arguments, "-n", self.namespace], env=environment)
        assert done.exit_code == code, done.output
        return done.output

    def kubectl(self, *arguments, text=None):
        program = [str(self.cluster.binary("kubectl")), "--kubeconfig", str(self.cluster.kubeconfig)]
        done = subprocess.run(
            [*program, *arguments], input=text, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def changed(before, after, path=""):
    """Paths of what differs between two documents."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = before.keys() | after.keys()
        return {found for key in keys for found in changed(before.get(key), after.get(key), f"{path}/{key}")}
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return {
            found
            for number in range(len(before))
            for found in changed(before[number], after[number], f"{path}/{number}")
        }
    return set() if before == after else {path}


CASES = [
    ("flag00000001", "", {"Deployment/template/spec/containers/1/args/2"}),
    ("env000000001", "", {"Deployment/template/spec/containers/1/env/0/value"}),
    ("size00000001", f"Deployment/{NAME}", {"Deployment/template/spec/containers/1/resources/requests/cpu"}),
    (
        "size00000001",
        f"HorizontalPodAutoscaler/{NAME}",
        {"HorizontalPodAutoscaler/metrics/0/resource/target/averageUtilization"},
    ),
]


@pytest.mark.parametrize(("identifier", "subject", "fields"), CASES)
def test_a_json_patch_applies_with_kubectl_and_changes_exactly_that_field(desk, identifier, subject, fields):
    desk.reset()
    before = desk.specs()
    of = ["--of", subject] if subject else []
    patch = desk.run("patch", identifier, "--format", "json", *of)
    assert "secret" not in patch, "other arguments are nobody's business"
    kind = subject.split("/", maxsplit=1)[0].lower() or "deployment"
    desk.kubectl("patch", kind, NAME, "-n", desk.namespace, "--type=json", "-p", patch)
    found = changed(before, desk.specs())
    assert {path.lstrip("/") for path in found} == fields


@pytest.mark.parametrize(
    ("identifier", "fields"),
    [
        ("flag00000001", CASES[0][2]),
        ("env000000001", CASES[1][2]),
        ("size00000001", CASES[2][2] | CASES[3][2]),
    ],
)
def test_a_kustomize_component_builds_and_changes_exactly_those_fields(desk, identifier, fields, tmp_path):
    desk.reset()
    base = {body["kind"]: copy.deepcopy(body) for body in (desk.deployment, desk.hpa)}
    (tmp_path / "advice").mkdir()
    (tmp_path / "advice" / "kustomization.yaml").write_text(desk.run("patch", identifier))
    (tmp_path / "base.yaml").write_text(yaml.safe_dump_all(base.values()))
    (tmp_path / "kustomization.yaml").write_text("resources: [base.yaml]\ncomponents: [advice]\n")
    built = {one["kind"]: one for one in yaml.safe_load_all(desk.kubectl("kustomize", str(tmp_path)))}
    assert {path.replace("/spec", "", 1).lstrip("/") for path in changed(base, built)} == fields


def test_strategic_documents_apply_too_and_arguments_have_none(desk):
    desk.reset()
    before = desk.specs()
    documents = desk.run("patch", "size00000001", "--format", "strategic")
    desk.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=documents)
    assert {path.lstrip("/") for path in changed(before, desk.specs())} == CASES[2][2] | CASES[3][2]
    assert "replaced as a whole" in desk.run("patch", "flag00000001", "--format", "strategic", code=1)


def test_what_cannot_be_answered_ends_with_one_line(desk):
    desk.reset()
    assert "no recommendation" in desk.run("patch", "nosuchid0000", code=1)
    assert "no patch can be written" in desk.run("patch", "words0000001", code=1)
    assert "say which with --of" in desk.run("patch", "size00000001", "--format", "json", code=1)
    assert "is no id" in desk.run("patch", "../../x", code=2)
    desk.kubectl(
        "patch",
        "deployment",
        NAME,
        "-n",
        desk.namespace,
        "--type=json",
        "-p",
        json.dumps([{"op": "replace", "path": "/spec/template/spec/containers/1/args/2", "value": "512"}]),
    )
    assert "says so already" in desk.run("patch", "flag00000001", code=1)


def test_status_explain_and_why_tell_what_stands_in_the_status(desk):
    table = desk.run("status")
    assert all(one in table for one in ("flag00000001", "size00000001", "BatchSize", "500m", "CONFIDENCE"))
    assert "2 to 6 replicas, at most 4 at a time" in desk.run("explain", "replica00001")
    assert NAME in desk.run("why", NAME)


def test_it_is_a_kubectl_plug_in(desk, tmp_path):
    shim = tmp_path / "kubectl-optiinfra"
    shim.write_text(f"#!{sys.executable}\nfrom optiinfra.cli.plugin import main\nmain()\n")
    shim.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "KUBECONFIG": str(desk.cluster.kubeconfig)}
    program = str(desk.cluster.binary("kubectl"))
    done = subprocess.run(
        [program, "optiinfra", "status", "-n", desk.namespace],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "flag00000001" in done.stdout


def test_an_approval_is_one_annotation_and_can_be_revoked(desk):
    def annotation():
        return desk.cluster.request("GET", desk.path)["metadata"].get("annotations", {}).get("optiinfra.io/approve")

    assert "2 to 6 replicas" in desk.run("approve", "replica00001")
    assert annotation() == "replica00001"
    desk.run("approve", "size00000001")
    assert annotation() == "replica00001,size00000001"
    desk.run("approve", "replica00001", "--revoke")
    assert annotation() == "size00000001"
    desk.run("approve", "size00000001", "--revoke")
    assert annotation() is None
