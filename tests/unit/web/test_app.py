"""The HTTP API: what is open, who may do what, and what is answered."""

import json

import httpx
import pytest

from optiinfra import __version__, metrics
from optiinfra.web.app import create_app
from optiinfra.web.ports import Decision
from tests.unit.web.outside import BAD, TOKEN, Reviewer, View, client_of, document, serve

OPEN = ("/health", "/health/live", "/health/ready", "/health/detailed", "/metrics")
ALIASES = tuple(f"/api/v1{path}" for path in OPEN[:-1])
RO, CRO = "ResourceOptimization", "ClusterResourceOptimization"
REGISTRATION = {
    "agent_id": "node-1",
    "agent_type": "gpu",
    "capabilities": ["nvml", "cgroup"],
    "endpoint": "http://10.0.0.5:8003",
    "health_check_endpoint": "http://10.0.0.5:8003/health",
    "version": "0.1.0",
    "status": "healthy",
}
BEAT = {"agent_id": "node-1", "status": "healthy", "timestamp": "2026-12-01T00:00:00Z", "metrics": {"gpu_count": 8}}
PROTECTED = [
    ("POST", "/api/v1/agents/register", REGISTRATION),
    ("POST", "/api/v1/agents/heartbeat", BEAT),
    ("DELETE", "/api/v1/agents/node-1", None),
    ("GET", "/api/v1/agents", None),
    ("POST", "/api/v1/optimize/run", {"namespace": "a", "name": "x"}),
    ("GET", "/api/v1/optimize/status", None),
    ("GET", "/api/v1/optimize/status?namespace=a&name=x", None),
    ("GET", "/api/v1/recommendations", None),
    ("GET", "/api/v1/recommendations/abc123/patch", None),
    ("GET", "/api/v1/savings", None),
    ("GET", "/api/v1/decisions/a", None),
]


async def send(client: httpx.AsyncClient, method: str, path: str, body: object = None) -> httpx.Response:
    content = None if body is None else json.dumps(body)
    return await client.request(method, path, content=content, headers={"Content-Type": "application/json"})


# health


@pytest.mark.parametrize("path", OPEN + ALIASES)
async def test_health_and_metrics_need_no_token_and_ask_nobody(path):
    reviewer = Reviewer()
    async with serve(reviewer=reviewer) as client:
        del client.headers["Authorization"]
        assert (await client.get(path)).status_code == 200
    assert reviewer.authenticated == []


async def test_live_and_ready_fail_for_different_reasons():
    async with serve(View(is_ready=BAD)) as client:
        codes = {path: (await client.get(path)).status_code for path in OPEN[:-1]}
    assert codes == {"/health": 503, "/health/live": 200, "/health/ready": 503, "/health/detailed": 503}
    async with serve(View(is_alive=BAD)) as client:
        answer = await client.get("/health/live")
        assert answer.status_code == 503
        assert answer.json() == {"status": "unhealthy", "message": BAD.message}
        assert (await client.get("/health")).json()["message"] == BAD.message


async def test_detailed_health_shows_every_part_and_the_leader():
    async with serve(View(leading=False, is_ready=BAD)) as client:
        body = (await client.get("/health/detailed")).json()
    assert body["components"] == {
        "mirrors": {"status": "unhealthy", "message": BAD.message},
        "rounds": {"status": "healthy", "message": "fine"},
    }
    assert (body["leading"], body["leader"], body["version"]) == (False, "10.0.0.9:8080", __version__)


async def test_metrics_are_those_of_the_operator_in_the_text_format():
    metrics.ROUNDS.labels("ok").inc(0)
    async with serve() as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "# TYPE optiinfra_rounds_total counter" in answer.text


async def test_the_schema_is_open_and_says_that_a_token_is_needed():
    async with serve() as client:
        schema = (await client.get("/openapi.json")).json()
    assert "/api/v1/optimize/run" in schema["paths"]
    assert schema["paths"]["/api/v1/optimize/run"]["post"]["security"]
    assert "security" not in schema["paths"]["/health"]["get"]


# the door


@pytest.mark.parametrize(("method", "path", "body"), PROTECTED)
async def test_everything_else_is_closed_without_a_good_token(method, path, body):
    view = View(documents=[document(RO, "a", "x")])
    reviewer = Reviewer()
    async with serve(view, reviewer) as client:
        for headers in (
            {"Authorization": ""},
            {"Authorization": "Basic Z29vZDpnb29k"},
            {"Authorization": "Bearer bad"},
        ):
            client.headers.update(headers)
            answer = await send(client, method, path, body)
            assert answer.status_code == 401, headers
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "optiinfra" in answer.json()["detail"]
    assert reviewer.authorized == []
    assert view.asked == []


@pytest.mark.parametrize(("method", "path", "body"), PROTECTED)
async def test_every_path_asks_whether_the_caller_may_and_says_what_is_missing(method, path, body):
    class Nobody(Reviewer):
        async def authorize(self, caller, **attributes):
            await super().authorize(caller, **attributes)
            return False

    view, reviewer = View(documents=[document(RO, "a", "x")]), Nobody()
    async with serve(view, reviewer) as client:
        answer = await send(client, method, path, body)
    assert answer.status_code == 403
    asked = reviewer.authorized[0]
    assert asked["group"] == "optiinfra.io"
    assert asked["caller"].user == "ada"
    for word in ("ada", asked["verb"], asked["resource"], "optiinfra.io"):
        assert word in answer.json()["detail"]
    assert view.asked == []


async def test_what_is_asked_of_the_api_server_names_exactly_the_object():
    view, reviewer = View(documents=[document(RO, "a", "x"), document(CRO, "", "c")]), Reviewer()
    async with serve(view, reviewer) as client:
        await send(client, "POST", "/api/v1/optimize/run", {"namespace": "a", "name": "x"})
        await send(client, "POST", "/api/v1/optimize/run", {"kind": CRO, "name": "c"})
        await send(client, "GET", "/api/v1/optimize/status?namespace=a&name=x")
        await send(client, "GET", "/api/v1/decisions/a")
    asked = [(a["verb"], a["resource"], a["subresource"], a["namespace"], a["name"]) for a in reviewer.authorized]
    assert asked == [
        ("create", "resourceoptimizations", "run", "a", "x"),
        ("create", "clusterresourceoptimizations", "run", "", "c"),
        ("get", "resourceoptimizations", "", "a", "x"),
        ("list", "resourceoptimizations", "", "a", ""),
    ]


@pytest.mark.parametrize(("method", "path", "body"), PROTECTED[:5])
async def test_an_api_server_that_does_not_answer_is_503_with_the_reason_and_lets_nobody_in(method, path, body):
    view, reviewer = View(documents=[document(RO, "a", "x")]), Reviewer(down=True)
    async with serve(view, reviewer) as client:
        answer = await send(client, method, path, body)
        assert answer.status_code == 503
        assert "API server" in answer.json()["detail"]
        reviewer.down = False
        assert (await send(client, "GET", "/api/v1/agents")).status_code == 200, "a failure is not remembered"
    assert view.asked == []


async def test_an_authorisation_that_cannot_be_asked_is_503_too():
    class Half(Reviewer):
        async def authenticate(self, token):
            return self.callers.get(token)

    async with serve(reviewer=Half(down=True)) as client:
        assert (await client.get("/api/v1/agents")).status_code == 503


async def test_with_authentication_off_everybody_may():
    async with serve(View(documents=[document(RO, "a", "x")]), open_door=True) as client:
        del client.headers["Authorization"]
        assert (await send(client, "POST", "/api/v1/optimize/run", {"namespace": "a", "name": "x"})).status_code == 202
        assert (await client.get("/api/v1/optimize/status")).json()["items"]


# bodies


async def test_large_bodies_and_bodies_of_unknown_length_are_refused_before_they_are_read():
    read = []

    async def endless():
        for _ in range(1000):
            read.append(1)
            yield b"x" * 1024

    async with serve() as client:
        large = await client.post("/api/v1/agents/register", content=b"x" * (65 * 1024))
        assert large.status_code == 413
        assert "65536" in large.json()["detail"]
        for method in ("POST", "PUT", "PATCH", "DELETE", "GET"):
            answer = await client.request(method, "/api/v1/agents/register", content=endless())
            assert answer.status_code == 413, method
    assert len(read) <= 5, "one chunk a request at most"


@pytest.mark.parametrize("length", ["²", "-1", "+5", "0x10", "", "9" * 5000, "1.5"])
async def test_a_length_that_is_no_number_is_refused(length):
    async with serve() as client:
        answer = await client.post(
            "/api/v1/agents/register", content=b"{}", headers={"Content-Length": length.encode("latin-1")}
        )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/optimize/run", {}),
        ("/api/v1/optimize/run", {"name": "UPPER"}),
        ("/api/v1/optimize/run", {"name": "x", "namespace": "a/b"}),
        ("/api/v1/optimize/run", {"name": "x", "namespace": "n" * 64}),
        ("/api/v1/optimize/run", {"name": "x", "kind": "Deployment"}),
        ("/api/v1/optimize/run", {"name": "../secrets"}),
        ("/api/v1/agents/register", REGISTRATION | {"agent_id": ""}),
        ("/api/v1/agents/register", REGISTRATION | {"agent_id": "a b"}),
        ("/api/v1/agents/register", REGISTRATION | {"capabilities": ["c"] * 65}),
        ("/api/v1/agents/register", REGISTRATION | {"endpoint": "h" * 513}),
        ("/api/v1/agents/heartbeat", BEAT | {"metrics": {f"m{i}": 1 for i in range(65)}}),
        ("/api/v1/agents/heartbeat", BEAT | {"metrics": {"k" * 200: 1}}),
        ("/api/v1/agents/heartbeat", BEAT | {"metrics": {"k": "v" * 2000}}),
        ("/api/v1/agents/heartbeat", BEAT | {"metrics": {"nested": {"a": 1}}}),
        ("/api/v1/agents/heartbeat", BEAT | {"timestamp": None}),
    ],
)
async def test_what_does_not_fit_is_422_and_names_the_field(path, body):
    async with serve() as client:
        answer = await send(client, "POST", path, body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"]


# agents


async def test_an_agent_registers_beats_is_listed_and_leaves():
    async with serve() as client:
        created = await send(client, "POST", "/api/v1/agents/register", REGISTRATION)
        assert created.status_code == 201
        assert created.json()["agent_id"] == "node-1"
        beat = await send(client, "POST", "/api/v1/agents/heartbeat", BEAT | {"status": "degraded"})
        assert beat.json() == {"status": "ok"}
        listed = (await client.get("/api/v1/agents")).json()
        assert [(agent["agent_id"], agent["status"], agent["metrics"]) for agent in listed] == [
            ("node-1", "degraded", {"gpu_count": 8})
        ]
        assert listed[0]["last_heartbeat"] >= listed[0]["registered_at"]
        gone = await client.delete("/api/v1/agents/node-1")
        assert (gone.status_code, gone.content) == (204, b"")
        assert (await client.get("/api/v1/agents")).json() == []


async def test_an_unknown_agent_is_told_to_register_again():
    async with serve() as client:
        beat = await send(client, "POST", "/api/v1/agents/heartbeat", BEAT)
        assert beat.status_code == 404
        assert "register" in beat.json()["detail"]
        assert (await client.delete("/api/v1/agents/node-1")).status_code == 404


async def test_registering_again_replaces_and_does_not_double():
    async with serve() as client:
        await send(client, "POST", "/api/v1/agents/register", REGISTRATION)
        await send(client, "POST", "/api/v1/agents/register", REGISTRATION | {"version": "0.2.0", "unknown": 1})
        assert [agent["version"] for agent in (await client.get("/api/v1/agents")).json()] == ["0.2.0"]


async def test_a_number_that_json_cannot_carry_spoils_the_list_for_nobody():
    async with serve() as client:
        await send(client, "POST", "/api/v1/agents/register", REGISTRATION)
        content = json.dumps(BEAT).replace("8}", "NaN}")
        await client.post("/api/v1/agents/heartbeat", content=content, headers={"Content-Type": "application/json"})
        answer = await client.get("/api/v1/agents")
        assert answer.status_code == 200
        assert "NaN" not in answer.text


# rounds and what came of them


@pytest.fixture
def view() -> View:
    recommendation = {"id": "r-1", "type": "Replicas"}
    return View(
        documents=[
            document(RO, "a", "x", recommendations=[recommendation], savings={"summary": "2 GPUs"}),
            document(RO, "b", "y", recommendations=[]),
            document(CRO, "", "c", recommendations=[{"id": "r-9"}], savings={"summary": "8 GPUs"}),
        ],
        published=[Decision("a", "x", 5, 1000.5), Decision("b", "y", 2, 1001.0)],
    )


async def test_a_run_gives_the_id_of_its_round(view):
    async with serve(view) as client:
        answer = await send(client, "POST", "/api/v1/optimize/run", {"namespace": "a", "name": "x"})
        assert answer.status_code == 202
        assert answer.json() == {"round_id": "round-7", "status": "scheduled"}
        missing = await send(client, "POST", "/api/v1/optimize/run", {"namespace": "a", "name": "zz"})
        assert missing.status_code == 404
        assert "a/zz" in missing.json()["detail"]
    assert view.asked[0] == (RO, "a", "x")


async def test_what_became_of_a_round_is_told_beside_the_status(view):
    path = "/api/v1/optimize/status?namespace=a&name=x"
    async with serve(view) as client:
        answer = (await client.get(f"{path}&round=round-7")).json()
        assert answer.pop("round") == {
            "id": "round-7",
            "state": "Lost",
            "message": f"round-7 of {RO} a/x is nobody's",
        }
        assert answer == view.documents[0]
        assert "round" not in (await client.get(path)).json()
        refused = await client.get("/api/v1/optimize/status?namespace=a&round=round-7")
        assert (refused.status_code, "name the object" in refused.json()["detail"]) == (422, True)
        assert (await client.get(f"{path}&round=../x")).status_code == 422
        assert (await client.get("/api/v1/optimize/status?namespace=a&name=nobody&round=r")).status_code == 404


async def test_status_of_one_of_a_namespace_and_of_all(view):
    async with serve(view) as client:
        one = (await client.get("/api/v1/optimize/status?namespace=a&name=x")).json()
        assert one == view.documents[0]
        cluster = (await client.get(f"/api/v1/optimize/status?kind={CRO}&name=c")).json()
        assert cluster == view.documents[2]
        assert (await client.get("/api/v1/optimize/status?namespace=a&name=y")).status_code == 404
        space = (await client.get("/api/v1/optimize/status?namespace=b")).json()["items"]
        assert [item["metadata"]["name"] for item in space] == ["y"]
        everything = (await client.get("/api/v1/optimize/status")).json()["items"]
        assert [item["metadata"]["name"] for item in everything] == ["x", "y", "c"]
        assert (await client.get("/api/v1/optimize/status?kind=Secret&name=c")).status_code == 422


@pytest.mark.parametrize("path", ["/api/v1/optimize/status", "/api/v1/recommendations", "/api/v1/savings"])
@pytest.mark.parametrize("query", ["", "?namespace="])
async def test_who_may_not_list_cluster_objects_does_not_see_them(view, path, query):
    reviewer = Reviewer(refused={("list", "clusterresourceoptimizations")})
    async with serve(view, reviewer) as client:
        answer = await client.get(path + query)
    assert answer.status_code == 200
    assert CRO not in answer.text
    assert "8 GPUs" not in answer.text


async def test_recommendations_and_savings_come_with_their_object(view):
    async with serve(view) as client:
        items = (await client.get("/api/v1/recommendations?namespace=a")).json()["items"]
        assert [(item["metadata"]["name"], item["recommendation"]["id"]) for item in items] == [("x", "r-1")]
        assert len((await client.get("/api/v1/recommendations")).json()["items"]) == 2
        savings = (await client.get("/api/v1/savings")).json()["items"]
        assert [(item["metadata"]["name"], item["savings"]["summary"]) for item in savings] == [
            ("x", "2 GPUs"),
            ("c", "8 GPUs"),
        ]
        assert (await client.get("/api/v1/savings?namespace=b")).json() == {"items": []}


async def test_decisions_of_one_namespace(view):
    async with serve(view) as client:
        items = (await client.get("/api/v1/decisions/a")).json()["items"]
        assert items == [{"namespace": "a", "name": "x", "replicas": 5, "decided_at": 1000.5}]
        assert (await client.get("/api/v1/decisions/none")).json() == {"items": []}


@pytest.mark.parametrize("query", ["namespace=" + "n" * 64, "name=" + "n" * 254 + "&namespace=a", "kind=" + "k" * 9999])
async def test_queries_are_bounded(query):
    async with serve() as client:
        assert (await client.get(f"/api/v1/optimize/status?{query}")).status_code == 422


async def test_no_answer_leaks_a_token(view):
    app = create_app(operator=view, reviewer=Reviewer(), forwarder=None)
    async with client_of(app) as client:
        for path in ("/health/detailed", "/metrics", "/api/v1/agents", "/api/v1/optimize/status", "/nowhere"):
            answer = await client.get(path, headers=TOKEN)
            assert "good" not in answer.text
