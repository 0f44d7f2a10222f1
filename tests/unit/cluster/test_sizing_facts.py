"""What right-sizing asks of pods and scalers, as the API server writes it."""

import copy

from optiinfra.cluster.pods import parse_pod
from optiinfra.cluster.scalers import METRIC_LIMIT, parse_scaler
from optiinfra.cluster.targets import parse_workload
from optiinfra.domain.readings import Unknown
from optiinfra.domain.workload import Place

POD = {
    "metadata": {"name": "shop-0", "namespace": "web", "uid": "u", "annotations": {}},
    "spec": {
        "initContainers": [
            {"name": "proxy", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
            {"name": "migrate", "resources": {"requests": {"cpu": "3"}}},
        ],
        "containers": [
            {
                "name": "app",
                "image": "eclipse-temurin:21-jre",
                "env": [
                    {
                        "name": "JAVA_TOOL_OPTIONS",
                        "value": "-Xmx2g -Djavax.net.ssl.keyStorePassword=hunter2 -XX:MaxMetaspaceSize=256m -Xmxsecret",
                    },
                    {"name": "JAVA_OPTS", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    {"name": "DATABASE_PASSWORD", "value": "hunter2"},
                ],
                "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "3Gi"}},
            },
            {
                "name": "model",
                "resources": {"limits": {"nvidia.com/gpu": "2"}, "requests": {"nvidia.com/gpu": "2"}},
            },
        ],
    },
    "status": {
        "containerStatuses": [
            {
                "name": "app",
                "lastState": {"terminated": {"reason": "OOMKilled", "finishedAt": "2026-11-01T10:00:00Z"}},
                "state": {"running": {"startedAt": "2026-11-01T10:00:02Z"}},
            },
            {
                "name": "model",
                "lastState": {"terminated": {"reason": "Error", "finishedAt": "2026-11-01T10:00:00Z"}},
            },
        ]
    },
}


def test_of_a_jvms_options_only_its_memorys_pass():
    app = parse_pod(POD).facts.containers[0]
    assert app.environment == {"JAVA_TOOL_OPTIONS": "-Xmx2g -XX:MaxMetaspaceSize=256m"}
    assert app.image == "eclipse-temurin:21-jre"


def test_init_containers_and_native_sidecars_are_told_apart():
    first = parse_pod(POD).facts.init_containers
    assert [(one.name, one.place) for one in first] == [("proxy", Place.SIDECAR), ("migrate", Place.INIT)]
    assert parse_pod(POD).facts.cpu_request_cores == 3.1, "the sidecar runs while the init container does"


def test_a_kill_for_memory_is_kept_with_its_moment_and_limit():
    (kill,) = parse_pod(POD).facts.memory_kills
    assert (kill.container, kill.time, kill.limit) == ("app", 1793527200.0, 3 * 2.0**30)


def test_a_container_that_lies_dead_was_killed_too():
    pod = copy.deepcopy(POD)
    pod["status"]["containerStatuses"][0]["state"] = {
        "terminated": {"reason": "OOMKilled", "finishedAt": "2026-11-01T11:00:00Z"}
    }
    (kill,) = parse_pod(pod).facts.memory_kills
    assert kill.time == 1793530800.0


def test_gpu_resources_keep_their_names():
    model = parse_pod(POD).facts.containers[1]
    assert model.gpu_resources == (("nvidia.com/gpu", 2.0),)
    assert model.gpus == 2.0


def test_resources_of_the_pod_as_a_whole_and_a_vertical_scalers_mark():
    pod = copy.deepcopy(POD)
    pod["spec"]["resources"] = {"requests": {"cpu": "2"}}
    pod["metadata"]["annotations"] = {"vpaUpdates": "Pod resources updated by shop: container 0: cpu request"}
    facts = parse_pod(pod).facts
    assert facts.pod_level is not None
    assert facts.pod_level.cpu_request_cores == 2.0
    assert isinstance(facts.pod_level.memory_request_bytes, Unknown)
    assert facts.vertically_scaled
    assert parse_pod(POD).facts.pod_level is None


def _hpa(*metrics):
    return {
        "metadata": {"name": "shop", "namespace": "web"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "shop"}, "maxReplicas": 9, "metrics": list(metrics)},
    }


def test_metrics_say_what_a_request_means_to_them():
    utilization = {"type": "Utilization", "averageUtilization": 70}
    facts = parse_scaler(
        _hpa(
            {"type": "Resource", "resource": {"name": "cpu", "target": utilization}},
            {
                "type": "ContainerResource",
                "containerResource": {"name": "memory", "container": "app", "target": utilization},
            },
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "500m"}},
            },
            {"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "Value", "value": "5"}}},
        )
    ).facts.metrics
    assert [(one.type, one.resource, one.container, one.utilization) for one in facts] == [
        ("Resource", "cpu", "", 70),
        ("ContainerResource", "memory", "app", 70),
        ("Resource", "cpu", "", None),
        ("External", "", "", None),
    ]
    assert facts[3].written.startswith('{"type":"External"')


def test_a_metric_too_long_for_a_patch_is_left_out_of_it():
    labels = {f"label-{number}": "v" * 60 for number in range(60)}
    metric = {"type": "External", "external": {"metric": {"name": "q", "selector": {"matchLabels": labels}}}}
    (facts,) = parse_scaler(_hpa(metric)).facts.metrics
    assert len(str(metric)) > METRIC_LIMIT
    assert facts.written == ""


def test_a_template_tells_the_names_of_its_containers_and_nothing_else():
    spec = {"containers": [{"name": "app", "env": [{"name": "A", "value": "b"}]}], "initContainers": [{"name": "init"}]}
    document = {"metadata": {"name": "shop"}, "spec": {"template": {"spec": spec}}}
    assert parse_workload(document).containers == ("app", "init")
    foreign = {"apiVersion": "serving.example.com/v1", **document}
    assert parse_workload(foreign).containers == ()
