"""The examples: what a reader copies is valid, and the demonstration's own files fit one another."""

from pathlib import Path

import pytest
import yaml

from hack.demo.report import shortenings
from hack.demo.stage import EXAMPLES, OBJECTS, SCENARIO, VALUES, with_engine_port
from optiinfra.api.v1alpha1 import GROUP, ClusterResourceOptimization, ResourceOptimization
from optiinfra.settings import OperatorSettings
from optiinfra_sim.scenario import read_scenario

KINDS = {"ResourceOptimization": ResourceOptimization, "ClusterResourceOptimization": ClusterResourceOptimization}
FILES = sorted(path for path in EXAMPLES.rglob("*.yaml") if path not in {SCENARIO, VALUES})


def objects_in(path):
    return [item for item in yaml.safe_load_all(path.read_text(encoding="utf-8")) if item]


ALL = [(path.relative_to(EXAMPLES).as_posix(), item) for path in FILES for item in objects_in(path)]
OURS = [(name, item) for name, item in ALL if item.get("apiVersion", "").startswith(GROUP)]
DEMO = [item for name in OBJECTS for item in objects_in(EXAMPLES / "demo" / name)]


@pytest.mark.parametrize(("name", "item"), OURS, ids=[f"{name}-{item['metadata']['name']}" for name, item in OURS])
def test_every_object_of_ours_is_valid(name, item):
    parsed = KINDS[item["kind"]].parse(item)
    assert parsed.metadata.name == item["metadata"]["name"]


def test_every_example_is_explained():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    missing = [name for name in {name for name, _ in ALL} if name not in text and Path(name).parts[0] not in text]
    assert missing == []


def test_each_service_of_the_scenario_has_its_deployment_and_resource_optimization():
    services = read_scenario(SCENARIO).services
    deployments = {item["metadata"]["name"]: item for item in DEMO if item["kind"] == "Deployment"}
    targets = {item["spec"]["targetRef"]["name"] for item in DEMO if item["kind"] == "ResourceOptimization"}
    assert {service.name for service in services} == set(deployments) == targets
    for service in services:
        labels = deployments[service.name]["spec"]["template"]["metadata"]["labels"]
        assert service.selector.items() <= labels.items()
        assert service.namespace == deployments[service.name]["metadata"]["namespace"]


def test_the_busy_service_is_the_same_for_the_comparison_and_for_the_operator():
    service = read_scenario(SCENARIO).simulated("chat")
    deployment = next(item for item in DEMO if item["kind"] == "Deployment" and item["metadata"]["name"] == "chat")
    scaling = next(item for item in DEMO if item["metadata"]["name"] == "chat" and "mode" in item["spec"])["spec"][
        "scaling"
    ]
    assert (service.min_replicas, service.max_replicas) == (scaling["minReplicas"], scaling["maxReplicas"])
    assert service.initial_replicas == deployment["spec"]["replicas"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    arguments = container["args"]
    assert int(arguments[arguments.index("--max-num-seqs") + 1]) == service.engine.max_num_seqs
    assert int(arguments[arguments.index("--max-model-len") + 1]) == service.engine.max_model_len
    assert container["resources"]["limits"]["nvidia.com/gpu"] == service.gpus_per_replica
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["kwok.x-k8s.io/start-up"] == f"{service.startup_seconds:g}s"


def test_the_shortened_times_are_settings_of_the_operator_and_are_told():
    environment = yaml.safe_load(VALUES.read_text(encoding="utf-8"))["operator"]["environment"]
    known = {f"OPTIINFRA_{name.upper()}" for name in OperatorSettings.model_fields}
    assert set(environment) <= known
    told = " ".join(shortenings())
    assert all(name in told for name in environment if name.endswith("SECONDS"))


@pytest.mark.parametrize("port", [8000, 18000])
def test_the_engines_port_reaches_the_resource_optimizations(port):
    for item in with_engine_port(DEMO, port=port):
        if item["kind"] == "ResourceOptimization":
            assert ResourceOptimization.parse(item).spec.engine.port == port
