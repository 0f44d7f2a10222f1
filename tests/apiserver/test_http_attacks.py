"""The operator's HTTP API under attack: by its own OpenAPI document, and by clients that keep no rule of HTTP.

Whatever comes, it answers what the document promises or cuts the line; never an error of its own, never anything of
somebody else's, and afterwards it lives, leads and answers as before.
"""

import contextlib
import os
import socket
import time

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from optiinfra.web.app import create_app
from tests.engine_pages import EnginePages, Page, Scene
from tests.operator_process import eventually, free_port, install
from tests.unit.web.outside import View

pytestmark = pytest.mark.timeout(600)

TOPIC = "HTTP API under attack"
PROMISES = [not_a_server_error, status_code_conformance, content_type_conformance]
ANSWERED: list[int] = []
DOCUMENT = create_app(operator=View(), reviewer=None, forwarder=None).openapi()
OPERATIONS = [found.ok() for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()]
ASKED = [
    (operation, mode)
    for operation in OPERATIONS
    for mode in GenerationMode
    # Where nothing can be said nothing wrong can be said.
    if mode is GenerationMode.POSITIVE
    or {"parameters", "requestBody"} & DOCUMENT["paths"][operation.path][operation.method].keys()
]
OPEN = ("/health", "/api/v1/health", "/metrics", "/version")
SECRET = "do-not-show-me"
GUESSED = settings(
    max_examples=15,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def scene(apiserver, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacks")
    prefix = f"attacks-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        installation = stack.enter_context(install(apiserver, folder=folder, namespace=f"{prefix}-operator"))
        operator = installation.operator(OPTIINFRA_INTERVAL_SECONDS="5")
        made = Scene(apiserver, installation, operator, pages, prefix)
        stack.callback(made.remove)
        stack.callback(operator.kill)
        namespace = made.namespace("a")
        made.engines(namespace, "svc", Page(running=30))
        made.optimize(namespace, mode="Recommend")
        operator.start().wait_ready()
        yield made


@pytest.fixture(autouse=True)
def unharmed(scene):
    """After each test the operator lives, leads and has logged no error."""
    yield
    assert scene.operator.get("/health/live").code == 200
    eventually(lambda: scene.operator.leading, seconds=30, what="it leads")
    assert not scene.operator.complaints()


@pytest.mark.parametrize(("operation", "mode"), ASKED, ids=lambda value: getattr(value, "label", value))
def test_what_the_document_allows_and_forbids_is_answered_as_it_promises(operation, mode, scene, figures):
    token = scene.installation.token()

    @GUESSED
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case):
        for given_token in (token, SECRET):
            answer = case.call(
                base_url=scene.operator.url,
                headers={"Authorization": f"Bearer {given_token}"},
                timeout=30,
                verify=False,
            )
            ANSWERED.append(answer.status_code)
            case.validate_response(answer, checks=PROMISES)
            assert SECRET not in answer.text
            if given_token == SECRET and not operation.path.startswith(OPEN):
                assert answer.status_code in {400, 401, 404, 405, 413, 422}, answer.text

    ask()
    figures.add(TOPIC, "requests by the document, right and wrong, with and without rights", len(ANSWERED))
    figures.add(TOPIC, "of these answered with an error of ours", sum(code >= 500 for code in ANSWERED))


def raw(scene, data, *, seconds=10.0):
    """Send bytes and return what comes back until the line is cut or time is up."""
    host, port = scene.operator.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as line:
        with contextlib.suppress(ConnectionError):
            line.sendall(data)
        got = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            while chunk := line.recv(65536):
                got += chunk
        return got


HEAD = b"POST /api/v1/optimize/run HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"


BROKEN = {
    "a body of ten MiB": (HEAD + b"Content-Length: 10485760\r\n\r\n" + b"a" * 10_485_760, {413, 401}),
    "a body longer than it says": (HEAD + b"Content-Length: 2\r\n\r\n{}GET / HTTP/1.1\r\n\r\n", {401, 400}),
    "a chunked body": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", {413, 411, 401}),
    "two lengths": (HEAD + b"Content-Length: 2\r\nContent-Length: 30\r\n\r\n{}", {400}),
    "a length and chunks": (
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        {400, 401, 411, 413},
    ),
    "a negative length": (HEAD + b"Content-Length: -1\r\n\r\n", {400}),
    "headers of a MiB": (b"GET /health/live HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 2**20 + b"\r\n\r\n", {400, 431}),
    "ten thousand headers": (
        b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + b"\r\n",
        {200, 400, 431},
    ),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64, {400}),
    "a path that climbs": (
        b"GET /api/v1/../../../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        {404, 401},
    ),
    "an encoded path that climbs": (
        b"GET /health/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        {404, 401},
    ),
    "a path with a zero byte": (
        b"GET /health/live%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        {404, 401},
    ),
    "another host's address": (
        b"GET http://169.254.169.254/latest/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        {404, 401, 400},
    ),
    "a method of its own": (b"BREW /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", {405, 400}),
    "a web socket": (
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n",
        {200, 400, 426},
    ),
}


@pytest.mark.parametrize(("data", "answers"), BROKEN.values(), ids=list(BROKEN))
def test_bytes_that_keep_no_rule_get_a_refusal(scene, data, answers, figures):
    got = raw(scene, data)
    # A client that still sends when it is refused may find the line cut before it has read why.
    assert not got or int(got.split(b" ", 2)[1]) in answers, got[:200]
    assert b"root:" not in got
    figures.add(TOPIC, "requests that break HTTP, each refused", len(BROKEN))


def test_six_hundred_slow_clients_do_not_keep_the_kubelet_out(scene, figures):
    host, port = scene.operator.url.removeprefix("http://").split(":")
    slow = []
    try:
        for _ in range(600):
            line = socket.create_connection((host, int(port)), timeout=10)
            line.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            slow.append(line)
        began = time.monotonic()
        assert scene.operator.get("/health/live").code == 200
        assert scene.operator.get("/health/ready").code == 200
        figures.add(TOPIC, "slow clients at once, with probes answered", len(slow))
        figures.add(TOPIC, "seconds for both probes meanwhile", round(time.monotonic() - began, 2), "s")
    finally:
        for line in slow:
            line.close()
