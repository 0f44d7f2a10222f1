"""The chart's NetworkPolicies: the real API server takes each as it is, and they let in whom they are meant to let in.

The cluster here has no network plug-in, so nothing is enforced; the server's validation and strict decoding say that a
policy means what is written, and a few lines say, by the rules of the API, who may reach which port.
"""

import copy
import json
import os
from functools import cache

import pytest
import yaml

from hack.binaries import ensure
from hack.chart_checks import CHART, cases, containers, helm
from hack.cluster.errors import ApiError

SPACE = f"network-{os.getpid()}"
MONITORING = {"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}
MORE = {
    "scrapers": {"networkPolicy": {"scrapeFrom": [MONITORING, {"ipBlock": {"cidr": "10.1.0.0/16"}}]}},
    "every port": {
        "networkPolicy": {"scrapeFrom": [MONITORING]},
        "externalMetrics": {"enabled": True, "ownerChecked": True},
        "kedaScaler": {"enabled": True},
    },
    "egress": {"metricsServer": {"egress": [{"to": [MONITORING], "ports": [{"port": 9090}]}]}},
    "restricted agents": {"agent": {"tier": 0}, "networkPolicy": {"scrapeFrom": [MONITORING]}},
}
EVERY = [*(path.stem for path in cases()), *MORE]


@pytest.fixture(scope="module")
def program():
    return ensure(["helm"])["helm"]


@pytest.fixture(scope="module")
def take(apiserver):
    """Let the API server take a policy, as far as it would be stored; whose namespace it is in does not matter."""
    apiserver.request("POST", "/api/v1/namespaces", {"metadata": {"name": SPACE}})

    def call(policy):
        path = f"/apis/networking.k8s.io/v1/namespaces/{SPACE}/networkpolicies?dryRun=All&fieldValidation=Strict"
        return apiserver.request("POST", path, policy | {"metadata": policy["metadata"] | {"namespace": SPACE}})

    yield call
    apiserver.request("DELETE", f"/api/v1/namespaces/{SPACE}")


@cache
def rendered(program, name):
    """Return the manifests of a value set: a file of the chart's, or some of `MORE`."""
    more = [f"{key}={json.dumps(value)}" for key, value in MORE.get(name, {}).items()]
    given = [part for one in more for part in ("--set-json", one)]
    given += [] if name in MORE else ["--values", str(CHART / "ci" / f"{name}.yaml")]
    text = helm(program, "template", "optiinfra", str(CHART), "--namespace", SPACE, *given)
    return tuple(document for document in yaml.safe_load_all(text) if document)


def policies(documents):
    return [document for document in documents if document["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize("values", EVERY)
def test_the_api_server_takes_every_policy_as_it_is(take, program, values):
    found = policies(rendered(program, values))
    assert found or values == "minimal-values"
    for policy in copy.deepcopy(found):
        taken = take(policy)
        assert taken["metadata"]["labels"] == policy["metadata"]["labels"]
        told, stored = policy["spec"], taken["spec"]
        for rule in (*told.get("ingress", ()), *told.get("egress", ())):
            for port in rule.get("ports", ()):
                port.setdefault("protocol", "TCP")
        assert {name: value for name, value in stored.items() if name in told} == told


def test_the_api_server_would_say_what_is_wrong(take, program):
    policy = next(iter(policies(rendered(program, "scrapers"))))
    with pytest.raises(ApiError, match="strict decoding error"):
        take(policy | {"spec": policy["spec"] | {"ingres": []}})
    both = {"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}
    with pytest.raises(ApiError, match="may not specify both"):
        take(policy | {"spec": policy["spec"] | {"ingress": [{"from": [both]}]}})


# Who reaches whom


class Network:
    """The pods of a chart, and whoever else is in the cluster."""

    def __init__(self, documents):
        self.policies = policies(documents)
        self.pods = {}
        for document in documents:
            if document["kind"] in {"Deployment", "DaemonSet"}:
                labels = document["spec"]["template"]["metadata"]["labels"]
                ports = {port["name"] for container in containers(document) for port in container.get("ports", ())}
                part = labels["app.kubernetes.io/component"]
                self.pods[part] = (document["metadata"]["namespace"], labels, ports)

    def reaches(self, source, part, port):
        """Tell whether a pod (namespace, labels of it, own labels) may connect to a port of a part."""
        space, labels, ports = self.pods[part]
        assert port in ports
        own = [
            policy
            for policy in self.policies
            if policy["metadata"]["namespace"] == space
            and "Ingress" in policy["spec"]["policyTypes"]
            and _selected(policy["spec"]["podSelector"], labels)
        ]
        return not own or any(
            _lets_in(rule, source, port=port, space=space) for policy in own for rule in policy["spec"]["ingress"]
        )

    def member(self, part):
        space, labels, _ = self.pods[part]
        return space, {"kubernetes.io/metadata.name": space}, labels


def _selected(selector, labels):
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def _lets_in(rule, source, *, port, space):
    if "ports" in rule and port not in {one["port"] for one in rule["ports"]}:
        return False
    return "from" not in rule or any(_is_peer(peer, source, space=space) for peer in rule["from"])


def _is_peer(peer, source, *, space):
    if "ipBlock" in peer:
        return False
    home, space_labels, labels = source
    here = _selected(peer["namespaceSelector"], space_labels) if "namespaceSelector" in peer else home == space
    return here and _selected(peer.get("podSelector", {}), labels)


def stranger(space="shop", **labels):
    return space, {"kubernetes.io/metadata.name": space, **labels}, {"app": "web"}


def test_the_operator_alone_reaches_the_agents(program):
    for values in ("default-values", "restricted agents"):
        network = Network(rendered(program, values))
        assert network.reaches(network.member("operator"), "agent", "http")
        assert not network.reaches(stranger(), "agent", "http")
        # A pod that only looks like the operator, from another namespace.
        _, _, labels = network.member("operator")
        assert not network.reaches(("shop", {"kubernetes.io/metadata.name": "shop"}, labels), "agent", "http")


def test_the_operators_port_is_open_until_scrapers_are_named(program):
    opened = Network(rendered(program, "default-values"))
    assert opened.reaches(stranger(), "operator", "http")
    closed = Network(rendered(program, "every port"))
    assert not closed.reaches(stranger(), "operator", "http")
    assert closed.reaches(stranger("prometheus", team="monitoring"), "operator", "http")
    assert closed.reaches(stranger("prometheus", team="monitoring"), "agent", "http")
    assert closed.reaches(closed.member("operator"), "operator", "http"), "the other replica passes calls on"
    assert closed.reaches(closed.member("agent"), "operator", "http"), "agents register"


def test_the_ports_of_scalers_are_for_their_scalers(program):
    network = Network(rendered(program, "every port"))
    assert network.reaches(stranger("keda"), "operator", "keda")
    assert not network.reaches(stranger(), "operator", "keda")
    # The API server is no pod, so its port is open to all; who calls is checked by its certificate.
    assert network.reaches(stranger(), "operator", "metrics-api")


def test_every_port_of_a_policy_is_a_port_of_the_pods_that_it_selects(program):
    for values in EVERY:
        network = Network(rendered(program, values))
        for policy in network.policies:
            selector = policy["spec"]["podSelector"]
            ports = set().union(*(ports for _, labels, ports in network.pods.values() if _selected(selector, labels)))
            named = {one["port"] for rule in policy["spec"].get("ingress", ()) for one in rule.get("ports", ())}
            assert named <= ports, policy["metadata"]["name"]
