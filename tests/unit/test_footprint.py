"""The start of the operator: what is left out is really left out, and what needs the rest still works."""

import json
import subprocess
import sys

from optiinfra import footprint

LOOK = """
import json, sys
from optiinfra import footprint
with footprint.lean_imports(described=False):
    import optiinfra.cli.operator
import kubernetes.aio.config.kube_config
import kopf
from kubernetes.client import V1ObjectMeta
print(json.dumps([V1ObjectMeta(name="a").name, [name for name in sys.argv[1:] if name in sys.modules]]))
"""

MODELS = """
import gc
from pydantic import BaseModel
from optiinfra import footprint
for _ in range(2):
    with footprint.lean_imports():
        from optiinfra.cli import operator
        from optiinfra.api.v1alpha1 import ResourceOptimization
        class Deferred(BaseModel):
            number: int
assert gc.isenabled()
class Complete(BaseModel):
    number: int
assert Complete.__pydantic_complete__ and not Deferred.__pydantic_complete__
assert Deferred.model_validate({"number": "1"}).number == 1
assert not ResourceOptimization.__pydantic_complete__
metadata = {"name": "a", "namespace": "b", "uid": "c", "generation": 1, "resourceVersion": "1"}
metadata["creationTimestamp"] = "2026-01-01T00:00:00Z"
target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
parsed = ResourceOptimization.parse({"metadata": metadata, "spec": {"targetRef": target}})
assert parsed.spec.target_ref.name == "d"
assert operator.read_settings().http_port == 8080
from optiinfra.web.app import create_app
application = create_app(operator=None, reviewer=None, forwarder=None)
assert "/api/v1/optimize/run" in application.openapi()["paths"]
"""


def run(look: str, *arguments: str) -> str:
    """Run a program in a fresh interpreter; whatever it writes to standard error, warnings too, is a failure."""
    command = [sys.executable, "-c", look, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env={})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_operator_starts_without_what_nothing_needs_yet():
    unwanted = ["fastapi", "uvicorn", "kubernetes.watch", "kubernetes.dynamic", "oauthlib", "langchain_groq", "groq"]
    unwanted += ["langsmith.types.run", "langgraph_sdk.client", "websockets", "httpx", "charset_normalizer.api"]
    unwanted += [
        "langsmith._internal._background_thread",
        "requests_toolbelt",
        "zstandard",
        "anyio",
        "httpx2",
        "multiprocessing",
    ]
    unwanted += ["chardet.detector", "grpc", "rich", "pygments", "jsonschema", "matplotlib"]
    assert json.loads(run(LOOK, *unwanted)) == ["a", []]


def test_models_are_built_when_they_are_needed():
    run(MODELS)


def test_a_package_that_is_imported_already_is_left_alone():
    run(
        "import sys, kubernetes; from optiinfra import footprint\n"
        "with footprint.lean_imports(): pass\n"
        "assert sys.modules['kubernetes'] is kubernetes and kubernetes.watch"
    )


def test_who_wants_more_of_a_package_than_its_modules_gets_it():
    run(
        "import sys; from optiinfra import footprint\n"
        "with footprint.lean_imports():\n"
        "    from langsmith.types.run_select_field import RunSelectField\n"
        "assert 'langsmith.types.run' not in sys.modules\n"
        "from langsmith.types import Run\n"
        "from langsmith.types.run import Run as Same\n"
        "from langsmith.types import run_select_field\n"
        "assert Run is Same and run_select_field.RunSelectField is RunSelectField\n"
        "assert not hasattr(sys.modules['langsmith.types'], 'nothing_of_that_name')\n"
    )


def test_a_hollow_package_knows_its_version_and_becomes_whole_when_it_is_used():
    run(
        "import sys; from importlib import metadata; from optiinfra import footprint\n"
        "with footprint.lean_imports():\n"
        "    import requests, langgraph_sdk, charset_normalizer, kubernetes.aio\n"
        "assert 'charset_normalizer.api' not in sys.modules and 'langgraph_sdk.client' not in sys.modules\n"
        "assert charset_normalizer.__version__ == metadata.version('charset_normalizer')\n"
        "assert not hasattr(kubernetes.aio, '__version__')\n"
        "answer = requests.Response(); answer._content = 'gr\u00fc\u00dfe, \u4e16\u754c'.encode()\n"
        "assert answer.apparent_encoding.lower().startswith('utf')\n"
        "assert callable(langgraph_sdk.get_client) and 'langgraph_sdk.client' in sys.modules\n"
    )


def test_models_of_an_operator_are_the_same_but_for_descriptions_and_make_no_crds():
    run(
        "from optiinfra import footprint\n"
        "with footprint.lean_imports(described=False):\n"
        "    from optiinfra.api import crd\n"
        "assert footprint.descriptions\n"
        "fields = crd.ResourceOptimization.model_fields\n"
        "assert fields and all(field.description is None for field in fields.values())\n"
        "try: crd.rendered()\n"
        "except crd.SchemaError as error: assert 'without descriptions' in str(error)\n"
        "else: raise AssertionError('rendered without descriptions')\n"
    )


def test_what_is_imported_is_not_looked_through_for_garbage_again():
    run(
        "import gc; from optiinfra import footprint\n"
        "with footprint.lean_imports(): from optiinfra.cli import operator\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 100_000\n"
        "assert len(gc.get_objects()) < 20_000\n"
    )


def test_a_thread_for_each_core_is_asked_for_by_the_user_alone():
    run(
        "import os; from optiinfra import footprint\n"
        "with footprint.lean_imports(): pass\n"
        "assert os.environ['OPENBLAS_NUM_THREADS'] == '1'\n"
    )
    run(
        "import os; from optiinfra import footprint; os.environ['OPENBLAS_NUM_THREADS'] = '3'\n"
        "with footprint.lean_imports(): pass\n"
        "assert os.environ['OPENBLAS_NUM_THREADS'] == '3'\n"
    )


def test_a_module_that_is_put_off_is_there_for_who_calls_it():
    run(
        "import sys; from optiinfra import footprint\n"
        "with footprint.lean_imports():\n"
        "    import langchain_core.tracers.langchain\n"
        "    from langsmith import Client, RunTree\n"
        "assert 'langsmith._internal._operations' not in sys.modules\n"
        "assert RunTree(name='a', run_type='chain').name == 'a'\n"
        "class Mine(Client): pass\n"
        "assert 'langsmith._internal._operations' in sys.modules\n"
        "from langsmith.client import Client as Real\n"
        "assert isinstance(Real, type) and Mine.__mro__[1] is Real and issubclass(Mine, Client)\n"
        "from langsmith import utils\n"
        "assert issubclass(utils.httpx.HTTPStatusError, Exception) and utils.httpx.URL('http://a/b').path == '/b'\n"
        "made = Client(api_url='http://127.0.0.1:9', api_key='x', auto_batch_tracing=False)\n"
        "assert type(made) is Real and isinstance(made, Client) and not isinstance(1, Client)\n"
    )


def test_the_http_side_is_imported_lean_and_says_all_it_has():
    run(
        "import gc; from optiinfra import footprint\n"
        "with footprint.lean_imports(described=False):\n"
        "    from optiinfra.cli import operator\n"
        "frozen = gc.get_freeze_count()\n"
        "app, server = operator._import_web()\n"
        "assert gc.isenabled() and gc.get_freeze_count() <= frozen\n"
        "from fastapi.openapi.models import OpenAPI\n"
        "assert not OpenAPI.__pydantic_complete__\n"
        "document = app.create_app(operator=None, reviewer=None, forwarder=None).openapi()\n"
        "assert document['paths']['/api/v1/optimize/run']['post']['responses']\n"
    )


def test_tls_connections_read_into_small_buffers():
    run(
        "import asyncio, ssl; from asyncio import sslproto; from optiinfra import footprint\n"
        "footprint.small_tls_buffers()\n"
        "async def main():\n"
        "    loop = asyncio.get_running_loop()\n"
        "    context, waiter = ssl.create_default_context(), loop.create_future()\n"
        "    made = sslproto.SSLProtocol(loop, asyncio.Protocol(), context, waiter)\n"
        "    assert len(made.get_buffer(-1)) == footprint.TLS_BUFFER < 256 * 1024\n"
        "asyncio.run(main())\n"
    )


def test_other_c_libraries_have_nothing_to_trim_and_that_is_no_error(monkeypatch):
    monkeypatch.setattr(footprint.ctypes, "CDLL", lambda _name: object())
    assert footprint.trim() is False


def test_free_memory_between_what_is_used_goes_back_to_the_system():
    run(
        "import ctypes; from optiinfra import footprint\n"
        "c = ctypes.CDLL(None)\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
        "with footprint.lean_imports(): pass\n"
        "if hasattr(c, 'malloc_trim'):\n"
        "    blocks = [bytearray(b'x') * 64000 for _ in range(1000)]\n"
        "    full = resident()\n"
        "    del blocks[1::2], blocks[:-1:2]\n"
        "    footprint.trim()\n"
        "    assert resident() < full - 32_000_000\n"
    )
