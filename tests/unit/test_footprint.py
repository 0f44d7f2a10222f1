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


def test_a_package_that_is_imported_already_is_left_alone():
    look = (
        "import kubernetes; from optiinfra import footprint; footprint.prepare(); import sys;"
        "assert sys.modules['kubernetes'] is kubernetes and kubernetes.watch"
    )
    subprocess.run([sys.executable, "-c", look], timeout=60, check=True)
