"""Manifests of a service of pods that play engines on a node: each serves one page of metrics, given beforehand.

The image is any that has Python, so nothing has to be fetched; the page lies in a ConfigMap, as kubectl would make it.
A page that is put to a pod is served from then on by that pod alone. Nothing is simulated but the page.
"""

from collections.abc import Mapping
from typing import Any

PORT = 8000
_SERVER = """
import http.server, pathlib

class Handler(http.server.BaseHTTPRequestHandler):
    page = pathlib.Path("/page/metrics").read_bytes()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    def do_PUT(self):
        Handler.page = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""

Document = dict[str, Any]


def config_map(name: str, page: str) -> Document:
    """Return the ConfigMap that holds the page of a service."""
    return {"metadata": {"name": name}, "data": {"metrics": page}}


def deployment(
    name: str,
    *,
    image: str,
    python: str,
    replicas: int,
    gpus: int = 0,
    node_labels: Mapping[str, str] | None = None,
) -> Document:
    """Return the Deployment of a service; `python` is where the image has it."""
    limits = {"cpu": "200m", "memory": "64Mi"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    container = {
        "name": "vllm",
        "image": image,
        "command": [python, "-c", _SERVER],
        "args": ["--model", "m", "--max-num-seqs", "64"],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": limits},
        "volumeMounts": [{"name": "page", "mountPath": "/page"}],
    }
    spec = {
        "containers": [container],
        "volumes": [{"name": "page", "configMap": {"name": name}}],
        "nodeSelector": dict(node_labels or {}),
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
    }
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return {
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }
