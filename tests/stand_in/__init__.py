"""Stand-ins for engines and their users as pods of a real node: real CPU, real queues, no model, no GPU.

Both run on the agent's image, whose Python is on the node anyway; the programs come from a ConfigMap. What the engine
shows is in vLLM's format and counts what it really does; nothing else about it is an engine.
"""

from pathlib import Path

from tests.engine_pages import Page
from tests.operator_process import eventually
from tests.real_node import IMAGES, PYTHON, VERSION, run_pod

HERE = Path(__file__).parent
ENGINE_PORT, LOAD_PORT = 8000, 8080
PROGRAMS = "stand-in"


def prepare(node, space):
    """Bring the programs into a namespace, and start who sends requests."""
    data = {name: (HERE / name).read_text() for name in ("engine.py", "load.py")}
    data["page.txt"] = Page(running=0).text()
    node.request("POST", f"/api/v1/namespaces/{space}/configmaps", {"metadata": {"name": PROGRAMS}, "data": data})
    pod = {
        "metadata": {"name": "load", "labels": {"app": "load"}},
        "spec": _spec("load", ["/stand-in/load.py"], port=LOAD_PORT, resources={"requests": {"cpu": "20m"}}),
    }
    run_pod(node, space, pod)


def send(node, space, rate, *targets):
    """Send so many requests a second from now on, in all; by default to the Service `svc`."""
    body = {"targets": targets or [f"http://svc.{space}.svc:{ENGINE_PORT}"], "rate": rate}
    path = f"/api/v1/namespaces/{space}/pods/load:{LOAD_PORT}/proxy/"
    # The proxy of a pod that just became ready may not know it yet.
    return eventually(lambda: node.request("POST", path, body), seconds=30, what="the load is told")


def sent(node, space):
    """Return what was sent so far."""
    return node.request("GET", f"/api/v1/namespaces/{space}/pods/load:{LOAD_PORT}/proxy/")


def engines(node, space, *, replicas, slots, tokens, cpu_ms, pause_ms, resources, probe=None, name="svc"):
    """Make a Deployment of stand-in engines, and its Service.

    A request takes `tokens` times (`cpu_ms` of one core and a pause of `pause_ms`); `slots` are served at once.
    """
    command = [
        "/stand-in/engine.py",
        *("--model", "llama-3.1-8b", "--max-num-seqs", str(slots), "--tokens", str(tokens)),
        *("--cpu-ms", str(cpu_ms), "--pause-ms", str(pause_ms)),
    ]
    labels = {"app": name}
    body = {
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": _spec("engine", command, port=ENGINE_PORT, resources=resources, probe=probe),
            },
        },
    }
    node.request("POST", f"/apis/apps/v1/namespaces/{space}/deployments", body)
    service = {"metadata": {"name": name}, "spec": {"selector": labels, "ports": [{"port": ENGINE_PORT}]}}
    node.request("POST", f"/api/v1/namespaces/{space}/services", service)


def _spec(name, command, *, port, resources, probe=None):
    looked_at = {"httpGet": {"path": "/health", "port": port}, "periodSeconds": 1, "timeoutSeconds": 5}
    container = {
        "name": name,
        "image": f"{IMAGES['agent']}:{VERSION}",
        "imagePullPolicy": "Never",
        "command": [PYTHON, *command],
        "ports": [{"containerPort": port}],
        "resources": resources,
        "readinessProbe": looked_at | {"failureThreshold": 10} | (probe or {}),
        "volumeMounts": [{"name": PROGRAMS, "mountPath": "/stand-in", "readOnly": True}],
    }
    return {
        "containers": [container],
        "volumes": [{"name": PROGRAMS, "configMap": {"name": PROGRAMS}}],
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
    }
