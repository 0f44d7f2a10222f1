"""The start of the operator: what is left out is really left out, and what needs the rest still works."""

import json
import subprocess
import sys

LOOK = """
import json, sys
from optiinfra import footprint
footprint.prepare()
footprint.prepare()
import optiinfra.cli.operator
import optiinfra.cluster.credentials
import kubernetes.aio.config.kube_config
import kopf
from kubernetes.client import V1ObjectMeta
print(json.dumps([V1ObjectMeta(name="a").name, [name for name in sys.argv[1:] if name in sys.modules]]))
"""


def test_the_operator_starts_without_what_nothing_needs_yet():
    unwanted = ["fastapi", "uvicorn", "kubernetes.watch", "kubernetes.dynamic", "oauthlib", "langchain_groq", "groq"]
    command = [sys.executable, "-W", "error::ImportWarning", "-c", LOOK, *unwanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["a", []]


def test_models_are_built_when_they_are_needed():
    look = (
        "from optiinfra import footprint; footprint.prepare()\n"
        "import asyncio, json\n"
        "from optiinfra.web.app import create_app\n"
        "from optiinfra.api.v1alpha1 import ResourceOptimization\n"
        "from optiinfra.settings import read_settings\n"
        "assert not ResourceOptimization.__pydantic_complete__\n"
        "body = {'metadata': {'name': 'a', 'namespace': 'b', 'uid': 'c', 'generation': 1, 'resourceVersion': '1',"
        " 'creationTimestamp': '2026-01-01T00:00:00Z'}, 'spec': {'targetRef': {'apiVersion': 'apps/v1',"
        " 'kind': 'Deployment', 'name': 'd'}}}\n"
        "assert ResourceOptimization.parse(body).spec.target_ref.name == 'd'\n"
        "assert read_settings().http_port == 8080\n"
        "app = create_app(operator=None, reviewer=None, forwarder=None)\n"
        "assert '/api/v1/optimize/run' in app.openapi()['paths']\n"
    )
    subprocess.run([sys.executable, "-c", look], timeout=60, check=True, env={})


def test_a_package_that_is_imported_already_is_left_alone():
    look = (
        "import kubernetes; from optiinfra import footprint; footprint.prepare(); import sys;"
        "assert sys.modules['kubernetes'] is kubernetes and kubernetes.watch"
    )
    subprocess.run([sys.executable, "-c", look], timeout=60, check=True)
