"""The Helm chart: which values it refuses, and installing, upgrading and removing it with Helm 3 and 4.

The API server here has no controllers, so the pre-delete Job could never run: releases are installed without it, and
its manifest is looked at as rendered.
"""

import base64
import json
import shutil

import jsonschema
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hack import chart_checks
from hack.binaries import ensure
from hack.chart_checks import CHART, ChartError, helm, paths, render
from hack.cluster import Cluster
from hack.cluster.errors import ApiError, ClusterError
from optiinfra.cli.main import COMMANDS
from optiinfra.cli.release import release as release_command
from optiinfra.settings import read_settings

SPACE = "optiinfra"
KINDS = (
    "deployments,daemonsets,services,serviceaccounts,secrets,configmaps,networkpolicies,poddisruptionbudgets,"
    "roles,rolebindings,clusterroles,clusterrolebindings,leases,apiservices,jobs"
)
ACTING = ("--set", "actuation.enabled=true", "--set", "externalMetrics.enabled=true", "--set", "release.enabled=false")
OPTIMIZATION = {
    "apiVersion": "optiinfra.io/v1alpha1",
    "kind": "ResourceOptimization",
    "metadata": {"name": "vllm", "namespace": "default"},
    "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "vllm"}},
}
OPTIMIZATIONS = "/apis/optiinfra.io/v1alpha1/namespaces/default/resourceoptimizations"


@pytest.fixture(scope="module", params=["helm", "helm4"])
def program(request):
    """Helm 3, then Helm 4."""
    return ensure([request.param])[request.param]


@pytest.fixture(scope="module")
def cluster(program, tmp_path_factory):
    """An API server of its own for each Helm: CRDs and APIServices have no namespace."""
    with Cluster(tmp_path_factory.mktemp("chart") / "cluster", controllers=False) as running:
        running.kubectl("create", "namespace", SPACE)
        # What the cluster enforces is then what the chart must satisfy.
        running.kubectl("label", "namespace", SPACE, "pod-security.kubernetes.io/enforce=restricted")
        yield running


@pytest.fixture
def run(program, cluster):
    """Run helm against the cluster; what is installed is removed afterwards."""

    def call(verb, *arguments):
        where = ("--namespace", SPACE, "--kubeconfig", str(cluster.kubeconfig))
        return helm(program, verb, *arguments, *where)

    yield call
    if "optiinfra" in call("list", "--short"):
        call("uninstall", "optiinfra", "--no-hooks")


def value_set(name):
    """The value set of that name."""
    return CHART / "ci" / f"{name}-values.yaml"


def live(cluster):
    """Names of all objects of the release, CRDs left out."""
    return cluster.kubectl("get", KINDS, "-A", "-l", "app.kubernetes.io/instance=optiinfra", "--output=name").split()


def environment(cluster, name, container=0, namespace=SPACE):
    found = json.loads(cluster.kubectl("get", name, "-n", namespace, "--output=json"))
    return {e["name"]: e.get("value") for e in found["spec"]["template"]["spec"]["containers"][container]["env"]}


# Installing, upgrading, removing


def test_an_upgrade_changes_a_value_and_keeps_the_certificate(run, cluster):
    run("install", "optiinfra", str(CHART), *ACTING)
    assert environment(cluster, "deployment/optiinfra-operator")["OPTIINFRA_LOG_LEVEL"] == "INFO"

    def certificate():
        secret = json.loads(cluster.kubectl("get", "secret/optiinfra-external-metrics", "-n", SPACE, "-ojson"))
        service = json.loads(cluster.kubectl("get", "apiservice/v1beta1.external.metrics.k8s.io", "-ojson"))
        assert service["spec"]["caBundle"] == secret["data"]["ca.crt"]
        return secret["data"]

    before = certificate()
    run("upgrade", "optiinfra", str(CHART), *ACTING, "--set", "operator.logLevel=DEBUG", "--set", "agent.port=9003")
    assert certificate() == before
    assert environment(cluster, "deployment/optiinfra-operator")["OPTIINFRA_LOG_LEVEL"] == "DEBUG"
    assert environment(cluster, "deployment/optiinfra-operator")["OPTIINFRA_AGENT_PORT"] == "9003"
    agents = environment(cluster, "daemonset/optiinfra-agent", namespace=f"{SPACE}-agent")
    assert agents["OPTIINFRA_AGENT_LISTEN_PORT"] == "9003"
    run("upgrade", "optiinfra", str(CHART), "--set", "release.enabled=false", "--set", "agent.enabled=false")
    left = live(cluster)
    assert not [name for name in left if "actuate" in name or "apiservice" in name or "agent" in name], left


def test_the_made_certificate_is_for_the_service_and_signed_by_its_own_authority(run, cluster):
    run("install", "optiinfra", str(CHART), *ACTING)
    data = json.loads(cluster.kubectl("get", "secret/optiinfra-external-metrics", "-n", SPACE, "-ojson"))["data"]
    pem = {name: base64.b64decode(value) for name, value in data.items()}
    certificate, authority = (x509.load_pem_x509_certificate(pem[name]) for name in ("tls.crt", "ca.crt"))
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    # The name that the API server asks for, whatever address it dials.
    assert f"optiinfra-operator.{SPACE}.svc" in names.get_values_for_type(x509.DNSName)
    key = serialization.load_pem_private_key(pem["tls.key"], None)
    assert key.public_key() == certificate.public_key()


def test_an_upgrade_upgrades_the_crds(run, cluster, tmp_path):
    older = tmp_path / "chart"
    shutil.copytree(CHART, older)
    path = older / "files" / "crds" / "optiinfra.io_resourceoptimizations.yaml"
    document = yaml.safe_load(path.read_text())
    document["spec"]["versions"][0]["additionalPrinterColumns"].pop()
    path.write_text(yaml.safe_dump(document))

    def columns():
        found = json.loads(cluster.kubectl("get", "crd/resourceoptimizations.optiinfra.io", "--output=json"))
        return len(found["spec"]["versions"][0]["additionalPrinterColumns"])

    run("install", "optiinfra", str(older))
    before = columns()
    run("upgrade", "optiinfra", str(CHART))
    assert columns() == before + 1


def test_removing_the_release_leaves_crds_and_objects_and_nothing_else(run, cluster):
    run("install", "optiinfra", str(CHART), *ACTING)
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    with_lease = live(cluster)
    assert "lease.coordination.k8s.io/optiinfra-operator" in with_lease
    cluster.request("POST", OPTIMIZATIONS, OPTIMIZATION)
    uid = cluster.request("GET", f"{OPTIMIZATIONS}/vllm")["metadata"]["uid"]

    run("uninstall", "optiinfra")
    assert live(cluster) == []
    assert len(cluster.kubectl("get", "crds", "--output=name").split()) == 3
    assert cluster.request("GET", f"{OPTIMIZATIONS}/vllm")["metadata"]["uid"] == uid

    # The same release takes the CRDs that stayed, and does not touch the object.
    run("install", "optiinfra", str(CHART))
    assert cluster.request("GET", f"{OPTIMIZATIONS}/vllm")["metadata"]["uid"] == uid
    cluster.request("DELETE", f"{OPTIMIZATIONS}/vllm")


def test_the_kill_switch_goes_with_the_release(run, cluster):
    switch = ("configmap/optiinfra-control", "-n", SPACE)
    run("install", "optiinfra", str(CHART), "--set", "release.enabled=false")
    cluster.kubectl("patch", *switch, "--type=merge", "-p", '{"data":{"paused":"true"}}')
    run("upgrade", "optiinfra", str(CHART), "--set", "release.enabled=false", "--set", "operator.replicas=3")
    paused = "-ojsonpath={.data.paused}"
    assert cluster.kubectl("get", *switch, paused) == "true", "an upgrade does not turn it off"
    run("uninstall", "optiinfra")
    run("install", "optiinfra", str(CHART))
    assert cluster.kubectl("get", *switch, paused) == ""


def test_an_upgrade_leaves_the_holder_of_the_lease_alone(run, cluster):
    run("install", "optiinfra", str(CHART))
    path = f"/apis/coordination.k8s.io/v1/namespaces/{SPACE}/leases/optiinfra-operator"
    lease = cluster.request("GET", path)
    # The operator replaces its Lease as a whole, labels and all.
    metadata = {name: lease["metadata"][name] for name in ("name", "namespace", "resourceVersion", "annotations")}
    spec = {"holderIdentity": "pod@10.0.0.1:8080", "leaseDurationSeconds": 15}
    body = {"apiVersion": lease["apiVersion"], "kind": "Lease", "metadata": metadata, "spec": spec}
    cluster.request("PUT", path, body)
    run("upgrade", "optiinfra", str(CHART), "--set", "operator.logLevel=DEBUG")
    assert cluster.request("GET", path)["spec"]["holderIdentity"] == "pod@10.0.0.1:8080"


@pytest.mark.parametrize("case", ["everything", "namespaces"])
def test_the_server_accepts_a_value_set(run, cluster, case):
    for namespace in ("inference", "chat", "keda"):
        if f"namespace/{namespace}" not in cluster.kubectl("get", "namespaces", "--output=name").split():
            cluster.kubectl("create", "namespace", namespace)
    # The kinds of the Prometheus operator do not exist here.
    without = ("--set", "serviceMonitor.enabled=false", "--set", "prometheusRule.enabled=false")
    run("install", "optiinfra", str(CHART), "--values", str(value_set(case)), *without)
    status = json.loads(run("status", "optiinfra", "--output=json"))
    assert status["info"]["status"] == "deployed"
    assert "kubectl get ro -A" in status["info"]["notes"]


def test_an_external_name_leads_to_an_operator_outside(run, cluster):
    name = ("--set", "service.type=ExternalName", "--set", "service.externalName=localhost")
    run("install", "optiinfra", str(CHART), *ACTING, *name, "--set", "operator.replicas=0")
    service = json.loads(cluster.kubectl("get", "service/optiinfra-operator", "-n", SPACE, "--output=json"))["spec"]
    assert (service["type"], service["externalName"]) == ("ExternalName", "localhost")
    assert "selector" not in service


def pod_of(document, namespace):
    """The pod that a workload would make, without the classes that are the user's and looked up at admission."""
    spec = document["spec"]["template"]["spec"]
    spec = {k: v for k, v in spec.items() if k not in {"runtimeClassName", "priorityClassName"}}
    name = document["metadata"]["name"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


@pytest.mark.parametrize("tier", [1, 3])
def test_agents_with_host_folders_fit_their_own_namespace_and_not_a_restricted_one(run, program, cluster, tier):
    run("install", "optiinfra", str(CHART), "--set", f"agent.tier={tier}")
    space = f"{SPACE}-agent"
    agents = one(documents(program, f"agent.tier={tier}"), "DaemonSet", "optiinfra-agent")
    cluster.request("POST", f"/api/v1/namespaces/{space}/pods?dryRun=All", pod_of(agents, space))
    cluster.kubectl("label", "namespace", space, "pod-security.kubernetes.io/enforce=baseline", "--overwrite")
    with pytest.raises(ApiError, match="violates PodSecurity"):
        cluster.request("POST", f"/api/v1/namespaces/{space}/pods?dryRun=All", pod_of(agents, space))
    cluster.kubectl("label", "namespace", space, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")


def test_all_pods_satisfy_the_restricted_profile(run, program, cluster):
    run("install", "optiinfra", str(CHART), "--set", "agent.tier=0")
    tried = []
    restricted = [one(documents(program, "agent.tier=0"), "DaemonSet", "optiinfra-agent")]
    for document in restricted + render(program, value_set("everything")):
        if "template" not in document.get("spec", {}) or document["metadata"]["namespace"] != SPACE:
            continue
        pod = pod_of(document, SPACE)
        spec = pod["spec"]
        pods = f"/api/v1/namespaces/{SPACE}/pods?dryRun=All"
        cluster.request("POST", pods, pod)
        tried.append(document["kind"])
        spec["containers"][0]["securityContext"] = {"privileged": True}
        with pytest.raises(ApiError, match="violates PodSecurity"):
            cluster.request("POST", pods, pod)
    assert sorted(tried) == ["DaemonSet", "Deployment", "Job"]


def test_a_second_release_of_the_same_name_meets_the_first_nowhere(run, program, cluster):
    run("install", "optiinfra", str(CHART))
    team = ("--set", "scope=Namespaces", "--set", "watchNamespaces={default}", "--set", "crds.install=false")
    where = ("--namespace", "team", "--create-namespace", "--kubeconfig", str(cluster.kubeconfig))
    helm(program, "install", "optiinfra", str(CHART), *team, *where)
    helm(program, "uninstall", "optiinfra", *where[:2], *where[3:])
    assert "deployment.apps/optiinfra-operator" in live(cluster)
    assert f"clusterrole.rbac.authorization.k8s.io/{SPACE}:optiinfra:observe" in live(cluster)


def test_the_external_metrics_of_another_owner_are_left_alone(run, cluster):
    path = "/apis/apiregistration.k8s.io/v1/apiservices"
    name = "v1beta1.external.metrics.k8s.io"
    theirs = {"namespace": "keda", "name": "keda-operator-metrics-apiserver", "port": 443}
    body = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": name},
        "spec": {
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": theirs,
        },
    }
    cluster.request("POST", path, body)
    try:
        with pytest.raises(ChartError, match="keda/keda-operator-metrics-apiserver owns external"):
            run("install", "optiinfra", str(CHART), *ACTING, "--set", "externalMetrics.ownerChecked=true")
        # A release that has it off is none of its business, and neither is one that finds it free later on.
        run("install", "optiinfra", str(CHART))
        with pytest.raises(ChartError, match="keda/keda-operator-metrics-apiserver owns external"):
            run("upgrade", "optiinfra", str(CHART), *ACTING)
        assert cluster.request("GET", f"{path}/{name}")["spec"]["service"] == theirs
    finally:
        cluster.request("DELETE", f"{path}/{name}")
    run("upgrade", "optiinfra", str(CHART), *ACTING)
    assert cluster.request("GET", f"{path}/{name}")["spec"]["service"]["namespace"] == SPACE


def test_kedas_certificates_are_kept_on_upgrades_and_signed_by_one_authority(run, cluster):
    def secrets():
        found = {}
        for name in ("optiinfra-keda-scaler", "optiinfra-keda-client"):
            found[name] = json.loads(cluster.kubectl("get", f"secret/{name}", "-n", SPACE, "-ojson"))["data"]
        return found

    keda = ("--set", "kedaScaler.enabled=true")
    run("install", "optiinfra", str(CHART), *keda)
    before = secrets()
    authorities = {data["ca.crt"] for data in before.values()}
    assert len(authorities) == 1
    ca = x509.load_pem_x509_certificate(base64.b64decode(authorities.pop()))
    for name, data in before.items():
        certificate = x509.load_pem_x509_certificate(base64.b64decode(data["tls.crt"]))
        certificate.verify_directly_issued_by(ca)
        assert (
            certificate.public_key()
            == serialization.load_pem_private_key(base64.b64decode(data["tls.key"]), None).public_key()
        ), name
    run("upgrade", "optiinfra", str(CHART), *keda, "--set", "operator.logLevel=DEBUG")
    assert secrets() == before


# Refusing


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ("externalMetrics.enabled=true", "ownerChecked"),
        ("kedaScaler.enabled=true,kedaScaler.port=8080", "kedaScaler.port must differ"),
        ("kedaScaler.tls.secretName=a,kedaScaler.tls.issuerRef.name=b", "not both"),
        ("kedaScaler.tls.issuerRef.kind=Issuer", "name of an Issuer"),
    ],
)
def test_values_that_do_not_go_together_are_refused_with_the_remedy(program, values, complaint):
    with pytest.raises(ChartError, match=complaint):
        helm(program, "template", "optiinfra", str(CHART), "--set", values)


WRONG = [
    ("scope=Everything", "scope"),
    ("scope=Namespaces", "watchNamespaces"),
    ("watchNamespaces={a}", "watchNamespaces"),
    ("scope=Namespaces,watchNamespaces={A_b}", "watchNamespaces.0"),
    ("scope=Namespaces,watchNamespaces={a,a}", "watchNamespaces"),
    ("scope=Namespaces,watchNamespaces={a},externalMetrics.enabled=true", "externalMetrics.enabled"),
    ("scope=Namespaces,watchNamespaces={a},actuation.enabled=true,actuation.namespaces={b}", "actuation.namespaces"),
    ("actuation.namespaces={b}", "actuation.namespaces"),
    (
        "scope=Namespaces,watchNamespaces={a},modelConfigMaps.enabled=true,modelConfigMaps.namespaces={b}",
        "modelConfigMaps.namespaces",
    ),
    ("modelConfigMaps.namespaces={b}", "modelConfigMaps.namespaces"),
    ("prices.configMap=Node_Prices", "prices.configMap"),
    ("prices.opencostUrl=opencost:9003", "prices.opencostUrl"),
    ("prices.prometheusUrl=http://me:secret@prometheus", "prices.prometheusUrl"),
    ("prices.prometheusTokenSecretName=token", "prices.prometheusTokenSecretName"),
    ("prices.currency=euro", "prices.currency"),
    ("prices.gpuHour=2", "prices"),
    ("actuation.enabled=yes", "actuation.enabled"),
    ("actuation.enable=true", "actuation"),
    ("replicas=2", "replicas"),
    ("operator.replicas=-1", "operator.replicas"),
    ("operator.replicas=1.5", "operator.replicas"),
    ("operator.replicas=two", "operator.replicas"),
    ("operator.logLevel=debug", "operator.logLevel"),
    ("operator.environment.OPTIINFRA_HTTP_PORT=9", "operator.environment"),
    ("operator.environment.PATH=/", "operator.environment"),
    ("operator.environment.OPTIINFRA_HOLD_SECONDS=60", "operator.environment.OPTIINFRA_HOLD_SECONDS"),
    ("operator.resources.requests.cpu=much", "operator.resources.requests.cpu"),
    ("operator.resources.request.cpu=1", "operator.resources"),
    ("operator.tolerations[0].operater=Exists", "operator.tolerations.0"),
    ("operator.affinity.nodeAffinities.x=1", "operator.affinity"),
    ("image.tag=a b", "image.tag"),
    ("image.digest=sha256:abc", "image.digest"),
    ("image.pullPolicy=Sometimes", "image.pullPolicy"),
    ("imagePullSecrets={registry}", "imagePullSecrets.0"),
    ("service.type=LoadBalancer", "service.type"),
    ("service.type=ExternalName", "service.externalName"),
    ("service.externalName=localhost", "service.externalName"),
    ("service.httpPort=80", "service.httpPort"),
    ("service.httpPort=70000", "service.httpPort"),
    (
        "externalMetrics.enabled=true,externalMetrics.ownerChecked=true,externalMetrics.port=8080",
        "externalMetrics.port",
    ),
    ("externalMetrics.tls.secretName=own", "externalMetrics.tls"),
    ("externalMetrics.tls.caBundle=LS0t", "externalMetrics.tls"),
    ("externalMetrics.tls.caBundle=-----BEGIN", "externalMetrics.tls.caBundle"),
    ("insights.enabled=true", "insights.secretName"),
    ("insights.key=abc", "insights"),
    ("insights.endpoint=api.groq.com", "insights.endpoint"),
    ("insights.endpoint=https://user:secret@example.com", "insights.endpoint"),
    ("agent.intervalSeconds=0", "agent.intervalSeconds"),
    ("agent.intervalSeconds=60", "agent.intervalSeconds"),
    ("agent.port=eight", "agent.port"),
    ("agent.environment.OPTIINFRA_HOLD_SECONDS=x", "agent.environment"),
    ("agent.nodeSelector.gpu=true", "agent.nodeSelector.gpu"),
    ("networkPolicy.scrapeFrom[0].namespace=monitoring", "networkPolicy.scrapeFrom.0"),
    ("networkPolicy.scrapeFrom={monitoring}", "networkPolicy.scrapeFrom.0"),
    ("extraTargets[0].resource=models", "extraTargets.0"),
    ("extraTargets[0].apiGroup=,extraTargets[0].resource=secrets", "extraTargets.0.resource"),
    ("extraTargets[0].apiGroup=*,extraTargets[0].resource=models", "extraTargets.0.apiGroup"),
    ("serviceMonitor.interval=soon", "serviceMonitor.interval"),
    ("externalMetrics.ownerChecked=perhaps", "externalMetrics.ownerChecked"),
    ("kedaScaler.port=grpc", "kedaScaler.port"),
    ("kedaScaler.from={keda}", "kedaScaler.from.0"),
    ("kedaScaler.tls.issuerRef.kind=Vault", "kedaScaler.tls.issuerRef.kind"),
    ("release.enabled=1", "release.enabled"),
]


@pytest.mark.parametrize(("values", "path"), WRONG, ids=[values for values, _ in WRONG])
def test_a_wrong_value_is_refused_with_its_path(program, values, path):
    with pytest.raises(ChartError) as refusal:
        helm(program, "template", "optiinfra", str(CHART), "--set", values)
    # The schema libraries of the two Helms write a path as a.b.0 and as /a/b/0.
    message = str(refusal.value).replace("'/", " ").replace("/", ".").replace("[", ".").replace("]", "")
    assert path in message, refusal.value


WRONG_TYPES = {
    str: [7, True, [], {}],
    bool: ["true", 1, [], {}],
    int: ["7", 1.5, True, [], {}],
    list: ["a", 1, True, {"a": "b"}],
    dict: ["a", 1, True, ["a"]],
}


def every_wrong_type():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for path in paths(values):
        value = values
        for part in path.split("."):
            value = value[part]
        for wrong in WRONG_TYPES[type(value)]:
            yield path, wrong


def test_no_value_takes_a_wrong_type():
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    validator.validate(values)
    tried, accepted = 0, []
    for path, wrong in every_wrong_type():
        changed = json.loads(json.dumps(values))
        *parents, last = path.split(".")
        node = changed
        for part in parents:
            node = node[part]
        node[last] = wrong
        tried += 1
        where = [".".join(map(str, error.absolute_path)) for error in validator.iter_errors(changed)]
        if not any(found.startswith(path) for found in where):
            accepted.append((path, wrong))
    assert accepted == []
    assert tried > 200


def test_a_subchart_may_be_given_globals(program):
    assert helm(program, "template", "optiinfra", str(CHART), "--set", "global.registry=example.com")


# Rendering


def documents(program, *values):
    arguments = [part for value in values for part in ("--set", value)]
    text = helm(program, "template", "optiinfra", str(CHART), "--namespace", SPACE, *arguments)
    return [document for document in yaml.safe_load_all(text) if document]


def one(found, kind, name):
    return next(d for d in found if d["kind"] == kind and d["metadata"]["name"] == name)


def test_keda_reaches_its_port_and_nobody_else(program):
    policy = one(documents(program, "kedaScaler.enabled=true"), "NetworkPolicy", "optiinfra-operator")
    (rule,) = [each for each in policy["spec"]["ingress"] if each["ports"] == [{"port": "keda", "protocol": "TCP"}]]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}]
    closed = one(
        documents(program, "kedaScaler.enabled=true", "kedaScaler.from=null"), "NetworkPolicy", "optiinfra-operator"
    )
    assert not [each for each in closed["spec"]["ingress"] if {"port": "keda", "protocol": "TCP"} in each["ports"]]


def test_certificates_for_keda_may_come_from_cert_manager_or_an_own_secret(program):
    issued = documents(
        program,
        "kedaScaler.enabled=true",
        "kedaScaler.tls.issuerRef.name=internal",
        "kedaScaler.tls.issuerRef.kind=ClusterIssuer",
        "kedaScaler.clientSecretNamespace=keda",
    )
    server, client = (d for d in issued if d["kind"] == "Certificate")
    assert server["spec"]["issuerRef"] == client["spec"]["issuerRef"] == {"name": "internal", "kind": "ClusterIssuer"}
    assert (client["metadata"]["namespace"], client["spec"]["secretName"]) == ("keda", "optiinfra-keda-client")
    assert f"optiinfra-operator.{SPACE}.svc" in server["spec"]["dnsNames"]
    own = documents(program, "kedaScaler.enabled=true", "kedaScaler.tls.secretName=mine")
    assert not [d for d in own if d["kind"] in {"Secret", "Certificate"}]
    volumes = one(own, "Deployment", "optiinfra-operator")["spec"]["template"]["spec"]["volumes"]
    assert next(volume["secret"]["secretName"] for volume in volumes if volume["name"] == "keda") == "mine"


def test_the_release_job_runs_before_anything_is_removed(program):
    job = one(documents(program, "actuation.enabled=true"), "Job", "optiinfra-release")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    # Not hook-failed: the log of a failed Job says what is still held.
    assert job["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
    spec = job["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "optiinfra-operator"
    command, *arguments = spec["containers"][0]["args"]
    assert COMMANDS[command].target == "optiinfra.cli.release:release"
    assert release_command.make_context(command, arguments).params["everything"] is True


@pytest.mark.parametrize("values", [(), ("actuation.enabled=true", "release.enabled=false")])
def test_there_is_no_release_job_without_anything_to_release(program, values):
    assert not [d for d in documents(program, *values) if d["kind"] == "Job"]


def test_the_release_job_is_no_pod_of_a_service_or_a_budget(program):
    found = documents(program, "actuation.enabled=true")
    labels = one(found, "Job", "optiinfra-release")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        one(found, "Service", "optiinfra-operator")["spec"]["selector"],
        one(found, "PodDisruptionBudget", "optiinfra-operator")["spec"]["selector"]["matchLabels"],
        one(found, "Deployment", "optiinfra-operator")["spec"]["selector"]["matchLabels"],
        one(found, "DaemonSet", "optiinfra-agent")["spec"]["selector"]["matchLabels"],
    ]
    assert not [selector for selector in selectors if selector.items() <= labels.items()]


def test_agents_are_closed_to_all_but_the_operator(program):
    policy = one(documents(program), "NetworkPolicy", "optiinfra-agent")["spec"]
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"


def test_a_scraper_may_be_let_in(program):
    monitoring = "networkPolicy.scrapeFrom[0].namespaceSelector.matchLabels.team=monitoring"
    found = documents(program, monitoring, "externalMetrics.enabled=true", "externalMetrics.ownerChecked=true")
    let_in = {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}
    agent = one(found, "NetworkPolicy", "optiinfra-agent")["spec"]["ingress"]
    assert let_in in agent[0]["from"]
    http, metrics = one(found, "NetworkPolicy", "optiinfra-operator")["spec"]["ingress"]
    components = [
        p["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for p in http["from"] if "podSelector" in p
    ]
    assert let_in in http["from"]
    assert components == ["operator", "agent"]
    # The API server is no pod: nobody may be left out.
    assert "from" not in metrics


@pytest.mark.parametrize("case", chart_checks.cases(), ids=lambda path: path.stem)
def test_the_operator_starts_with_what_the_chart_gives_it(monkeypatch, case):
    deployment = one(render(ensure(["helm"])["helm"], case), "Deployment", "optiinfra-operator")
    (container,) = chart_checks.containers(deployment)
    fields = {"metadata.namespace": "optiinfra", "metadata.name": "optiinfra-operator-x", "status.podIP": "10.0.0.1"}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    for entry in container["env"]:
        value = entry.get("value")
        monkeypatch.setenv(
            entry["name"], fields[entry["valueFrom"]["fieldRef"]["fieldPath"]] if value is None else value
        )
    settings = read_settings()
    assert settings.identity == "optiinfra-operator-x@10.0.0.1:8080"
    files = [value for name, value in settings if name.endswith("_file") and value is not None]
    assert [path for path in files if str(path.parent) not in mounts] == []
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["http"] == settings.http_port
    assert ports.get("metrics-api") == (settings.external_metrics_port if settings.external_metrics_enabled else None)


def test_containers_get_no_secret_as_a_variable(program):
    for document in render(program, value_set("everything")):
        for container in chart_checks.containers(document):
            assert "envFrom" not in container
            assert not [e for e in container["env"] if "secretKeyRef" in e.get("valueFrom", {})]


def test_the_agent_has_no_token_of_the_api_server(program):
    spec = one(documents(program), "DaemonSet", "optiinfra-agent")["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    (token,) = [v["projected"]["sources"] for v in spec["volumes"] if "projected" in v]
    assert [source["serviceAccountToken"]["audience"] for source in token] == ["optiinfra"]


# How much the agents may see


def agent_pod(found):
    spec = one(found, "DaemonSet", "optiinfra-agent")["spec"]["template"]["spec"]
    return spec, spec["containers"][0]


def settings_of_agent(container):
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def test_by_default_agents_see_allocations_and_may_do_nothing(program):
    found = documents(program)
    spec, container = agent_pod(found)
    assert spec["securityContext"]["runAsUser"] == 0
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostPID", "hostNetwork", "hostIPC"} & set(spec)
    paths = {v["name"]: v["hostPath"]["path"] for v in spec["volumes"] if "hostPath" in v}
    # The folder: a socket that was mounted itself is dead after the kubelet's next restart.
    assert paths == {"pod-resources": "/var/lib/kubelet/pod-resources", "cgroup": "/sys/fs/cgroup"}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert all(mounts[name]["readOnly"] for name in paths)
    given = settings_of_agent(container)
    assert given["OPTIINFRA_AGENT_POD_RESOURCES"] == mounts["pod-resources"]["mountPath"]
    assert given["OPTIINFRA_AGENT_CGROUPS"] == mounts["cgroup"]["mountPath"]


def test_agents_with_host_folders_have_a_namespace_of_their_own(program):
    found = documents(program)
    agents = {d["metadata"].get("namespace") for d in found if d["metadata"]["name"] == "optiinfra-agent"} - {None}
    (space,) = [d for d in found if d["kind"] == "Namespace"]
    assert agents == {space["metadata"]["name"]}
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    assert space["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    (container,) = chart_checks.containers(one(found, "Deployment", "optiinfra-operator"))
    operator = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert {operator["OPTIINFRA_AGENT_NAMESPACE"]} == agents
    (rule,) = one(found, "NetworkPolicy", "optiinfra-agent")["spec"]["ingress"]
    (peer,) = rule["from"]
    home = one(found, "Deployment", "optiinfra-operator")["metadata"]["namespace"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": home}


def test_one_value_gives_the_restricted_profile(program):
    found = documents(program, "agent.tier=0")
    spec, container = agent_pod(found)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] != 0
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
    assert not [d for d in found if d["kind"] == "Namespace"]
    assert "hostPID" not in spec
    given = settings_of_agent(container)
    assert (given["OPTIINFRA_AGENT_POD_RESOURCES"], given["OPTIINFRA_AGENT_CGROUPS"]) == ("off", "off")
    homes = {d["metadata"]["namespace"] for d in found if d["kind"] in {"DaemonSet", "Deployment"}}
    assert len(homes) == 1


@pytest.mark.parametrize(("tier", "host_pids", "added"), [(1, None, None), (2, True, None), (3, True, ["SYS_ADMIN"])])
def test_each_tier_adds_one_thing(program, tier, host_pids, added):
    spec, container = agent_pod(documents(program, f"agent.tier={tier}"))
    assert spec.get("hostPID") is host_pids
    assert container["securityContext"]["capabilities"].get("add") == added
    assert ("NVIDIA_MIG_MONITOR_DEVICES" in settings_of_agent(container)) is (tier == 3)


def test_a_namespace_that_is_there_is_not_made(program):
    values = ("agent.namespace=monitoring", "agent.createNamespace=false", "agent.containerUsage=false")
    found = documents(program, *values)
    assert not [d for d in found if d["kind"] == "Namespace"]
    assert one(found, "DaemonSet", "optiinfra-agent")["metadata"]["namespace"] == "monitoring"
    spec, container = agent_pod(found)
    assert "cgroup" not in {volume["name"] for volume in spec["volumes"]}
    assert settings_of_agent(container)["OPTIINFRA_AGENT_CGROUPS"] == "off"


# The checks themselves


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A copy of the chart to break, which the checks then look at."""
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    monkeypatch.setattr(chart_checks, "CHART", chart)
    monkeypatch.setattr(chart_checks, "ROOT", tmp_path)
    shutil.copytree(CHART.parent.parent / "crds", tmp_path / "crds")
    return chart


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "check", "complaint"),
    [
        (
            "templates/agent.yaml",
            "OPTIINFRA_AGENT_INTERVAL",
            "OPTIINFRA_AGENT_PAUSE",
            "variables",
            "no setting of the process",
        ),
        ("templates/prometheus-rule.yaml", "optiinfra_leader{", "optiinfra_boss{", "alerts", "unknown metric"),
        ("templates/operator.yaml", "replicas: {{", "replica: {{", "schemas", "not valid in Kubernetes"),
        ("templates/lease.yaml", "kind: Lease", "kind: Leash", "schemas", "Leash"),
        ("templates/crds.yaml", '"keep"', '"drop"', "crds", "would go with the release"),
        ("files/crds/optiinfra.io_resourceoptimizations.yaml", "shortNames", "shortnames", "crds", "differs"),
        ("values.yaml", "crds:", "surprise: 1\ncrds:", "values", "surprise"),
        (
            "values.schema.json",
            '"OPTIINFRA_HOLD_SECONDS"',
            '"OPTIINFRA_HELD_SECONDS"',
            "variables",
            "OPTIINFRA_HOLD_SECONDS",
        ),
    ],
)
def test_a_mistake_in_the_chart_is_found(broken, file, old, new, check, complaint):
    edit(broken / file, old, new)
    program = ensure(["helm"])["helm"]
    with pytest.raises(ChartError, match=complaint):  # noqa: PT012 - rendering may already find it
        cases = chart_checks.cases(broken) if check == "variables" else [value_set("everything")]
        rendered = {f"helm {case.name}": render(program, case, chart=broken) for case in cases}
        getattr(chart_checks, f"check_{check}")(rendered)


def test_the_server_refuses_a_spec_by_the_installed_crds(run, cluster):
    run("install", "optiinfra", str(CHART))
    wrong = OPTIMIZATION | {"spec": {"mode": "Always"}}
    with pytest.raises((ApiError, ClusterError), match="mode"):
        cluster.request("POST", OPTIMIZATIONS, wrong)
