"""The operator's HTTP API as a real process, with real tokens that a real API server reviews."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine_pages import EnginePages, Page, Scene
from tests.operator_process import eventually, free_port, install

pytestmark = pytest.mark.timeout(120)

RUN = "/api/v1/optimize/run"
STATUS = "/api/v1/optimize/status"
AGENTS = "/api/v1/agents"


@pytest.fixture(scope="module")
def scene(apiserver, tmp_path_factory):
    """One service under a calm load, and two ServiceAccounts in its namespace: an editor and a stranger."""
    folder = tmp_path_factory.mktemp("http")
    prefix = f"http-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        pages = stack.enter_context(EnginePages(free_port()))
        installation = stack.enter_context(install(apiserver, folder=folder, namespace=f"{prefix}-operator"))
        # Rounds of their own are rare here, so that what is asked for can be told from what comes anyway.
        operator = installation.operator(OPTIINFRA_INTERVAL_SECONDS="600", OPTIINFRA_SCRAPE_INTERVAL_SECONDS="1")
        made = Scene(apiserver, installation, operator, pages, prefix)
        stack.callback(made.remove)
        stack.callback(operator.kill)
        namespace = made.namespace("a")
        made.namespace("b")
        made.engines(namespace, "svc", Page(running=30))
        made.optimize(namespace, mode="Recommend")
        for account in ("editor", "stranger"):
            body = {"metadata": {"name": account}}
            apiserver.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", body)
        for role in ("view", "edit"):
            made.permit(role, namespace, account="editor", account_namespace=namespace)
        operator.start().wait_ready()
        eventually(lambda: made.status(namespace).get("lastRound"), seconds=20, what="the first status")
        yield made


@pytest.fixture
def token(scene):
    def of(account, audience="optiinfra"):
        return scene.installation.token(account, namespace=scene.made["a"], audience=audience)

    return of


def test_a_token_of_audience_optiinfra_starts_a_round_whose_id_shows_in_the_status(scene, token):
    namespace = scene.made["a"]
    for _ in range(3):
        answer = scene.operator.post(RUN, {"namespace": namespace, "name": "svc"}, token=token("editor"))
        assert answer.code == 202, answer
        round_id = answer.json()["round_id"]
        eventually(
            lambda round_id=round_id: scene.status(namespace)["lastRound"]["id"] == round_id,
            seconds=10,
            what=f"round {round_id} in the status",
        )


def test_what_became_of_a_promised_round_can_be_asked(scene, token):
    namespace = scene.made["a"]
    given = scene.operator.post(RUN, {"namespace": namespace, "name": "svc"}, token=token("editor")).json()["round_id"]

    def told(round_id):
        path = f"{STATUS}?namespace={namespace}&name=svc&round={round_id}"
        return scene.operator.get(path, token=token("editor")).json()["round"]

    assert told(given)["state"] in {"Pending", "Done"}
    eventually(lambda: told(given)["state"] == "Done", seconds=10, what="the round is done")
    lost = told("0" * 16)
    assert (lost["state"], "ask again" in lost["message"]) == ("Lost", True)


def test_an_asked_for_round_judges_what_is_measured_now(scene, token):
    namespace = scene.made["a"]
    eventually(lambda: scene.pages.asked, seconds=10, what="the engine is read")

    def ready():
        scene.operator.post(RUN, {"namespace": namespace, "name": "svc"}, token=token("editor"))
        return scene.condition(namespace, "Ready").get("status") == "True"

    eventually(ready, seconds=15, what="the pages are judged", every=0.5)


@pytest.mark.parametrize("path", [STATUS, AGENTS, "/api/v1/recommendations", "/api/v1/savings"])
@pytest.mark.parametrize("kind", ["none", "garbage", "of the API server", "of another audience"])
def test_other_tokens_are_refused(scene, token, path, kind):
    given = {
        "none": lambda: "",
        "garbage": lambda: "eyJhbGciOiJSUzI1NiJ9.e30.c2lnbmF0dXJl",
        "of the API server": lambda: token("editor", audience=None),
        "of another audience": lambda: token("editor", audience="somebody-else"),
    }[kind]()
    answer = scene.operator.get(f"{path}?namespace={scene.made['a']}", token=given)
    assert answer.code == 401
    assert "optiinfra" in answer.json()["detail"], "it says which audience is needed"


def test_a_token_without_rights_is_forbidden_and_starts_nothing(scene, token):
    namespace = scene.made["a"]
    before = scene.status(namespace)["lastRound"]["id"]
    answer = scene.operator.post(RUN, {"namespace": namespace, "name": "svc"}, token=token("stranger"))
    assert answer.code == 403
    assert scene.operator.get(f"{STATUS}?namespace={namespace}&name=svc", token=token("stranger")).code == 403
    assert scene.status(namespace)["lastRound"]["id"] == before


def test_rights_end_at_the_namespace(scene, token):
    mine, other = scene.made["a"], scene.made["b"]
    assert scene.operator.get(f"{STATUS}?namespace={mine}", token=token("editor")).code == 200
    assert scene.operator.get(f"{STATUS}?namespace={other}", token=token("editor")).code == 403
    assert scene.operator.get(STATUS, token=token("editor")).code == 403
    everybody = scene.operator.get(STATUS, token=scene.installation.token())
    assert everybody.code == 200
    assert (mine, "svc") in {
        (item["metadata"]["namespace"], item["metadata"]["name"]) for item in everybody.json()["items"]
    }


def test_the_status_is_the_one_in_the_object(scene, token):
    namespace = scene.made["a"]

    def same():
        answer = scene.operator.get(f"{STATUS}?namespace={namespace}&name=svc", token=token("editor"))
        assert answer.code == 200
        # An empty list and a field that is not there say the same.
        told = {key: value for key, value in answer.json()["status"].items() if value != []}
        assert told == scene.status(namespace)
        return True

    eventually(same, seconds=30, what="both tell the same")


def test_what_does_not_exist_is_404_and_what_makes_no_sense_422(scene, token):
    namespace = scene.made["a"]
    assert scene.operator.post(RUN, {"namespace": namespace, "name": "nobody"}, token=token("editor")).code == 404
    answer = scene.operator.get(f"{STATUS}?namespace={namespace}&name=nobody", token=token("editor"))
    assert answer.code == 404
    for body in ({"namespace": namespace}, {"namespace": "../x", "name": "svc"}, {"name": "x" * 300}, [1], "svc"):
        assert scene.operator.post(RUN, body, token=token("editor")).code == 422, body


def test_health_and_metrics_are_open(scene):
    for path in ("/health", "/health/live", "/health/ready", "/health/detailed", "/metrics", "/api/v1/health"):
        assert scene.operator.get(path).code == 200, path
    detailed = scene.operator.detailed()
    assert detailed["leading"] is True
    assert {name for name, part in detailed["components"].items() if part["status"] != "healthy"} == set()


def test_an_agent_registers_with_its_own_service_account(scene, tmp_path):
    """The real agent process, with the token that the chart would project into its pod."""
    installation, address = scene.installation, scene.address()
    file = tmp_path / "token"
    file.write_text(installation.token("optiinfra-agent"))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OPTIINFRA_", "NODE_"))}
    environment |= {
        "NO_PROXY": "127.0.0.0/8",
        "no_proxy": "127.0.0.0/8",
        "NODE_NAME": "node-of-this-test",
        "OPTIINFRA_AGENT_LISTEN_ADDRESS": address,
        "OPTIINFRA_AGENT_LISTEN_PORT": "0",
        "ORCHESTRATOR_URL": scene.operator.url,
        "ORCHESTRATOR_TOKEN_FILE": str(file),
    }
    log = tmp_path / "agent.log"
    with log.open("wb") as output:
        agent = subprocess.Popen(
            [str(Path(sys.executable).with_name("optiinfra-agent"))], env=environment, stdout=output, stderr=output
        )
    try:

        def listed():
            answer = scene.operator.get(AGENTS, token=installation.token())
            assert answer.code == 200, answer
            return [entry for entry in answer.json() if entry["agent_id"] == "agent-node-of-this-test"]

        _let_operator_list_agents(scene)
        (entry,) = eventually(listed, seconds=20, what=f"the agent is listed; {log.read_text()[-500:]}")
        assert entry["status"] in {"healthy", "degraded"}
        agent.terminate()
        assert agent.wait(10) == 0
        eventually(lambda: not listed(), seconds=30, what="it left when it ended")
    finally:
        agent.kill()
        agent.wait(10)


def _let_operator_list_agents(scene):
    """Give the caller of this test what the role for people gives: listing agents is cluster-wide."""
    name = f"{scene.prefix}-view"
    body = {
        "metadata": {"name": name},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": f"{scene.installation.namespace}:optiinfra:view",
        },
        "subjects": [
            {"kind": "ServiceAccount", "name": "optiinfra-operator", "namespace": scene.installation.namespace}
        ],
    }
    scene.cluster.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", body)


def test_an_agents_token_opens_nothing_else(scene):
    given = scene.installation.token("optiinfra-agent")
    namespace = scene.made["a"]
    assert scene.operator.get(AGENTS, token=given).code == 403
    assert scene.operator.get(f"{STATUS}?namespace={namespace}", token=given).code == 403
    assert scene.operator.post(RUN, {"namespace": namespace, "name": "svc"}, token=given).code == 403
    beat = {"agent_id": "agent-nobody", "status": "healthy", "timestamp": 1.0}
    assert scene.operator.post(f"{AGENTS}/heartbeat", beat, token=given).code == 404, "it is to register first"


def test_only_agents_register(scene, token):
    body = {"agent_id": "agent-x", "agent_type": "gpu"}
    assert scene.operator.post(f"{AGENTS}/register", body, token=token("editor")).code == 403
    assert scene.operator.post(f"{AGENTS}/register", body).code == 401
