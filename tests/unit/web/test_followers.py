"""A follower passes calls on as they came, answers what is its own, and never guesses."""

import json
from pathlib import Path

import pytest

from optiinfra.web.followers import LeaderDecisions
from optiinfra.web.ports import Decision
from tests.unit.web.outside import Leader, Reviewer, View, document, serve

FOLLOWING = {"leading": False}


async def test_method_path_query_token_and_body_reach_the_leader_and_its_answer_comes_back():
    reviewer, leader = Reviewer(), Leader(answer=(202, "application/json", b'{"round_id": "r"}'))
    async with serve(View(**FOLLOWING), reviewer, leader) as client:
        answer = await client.post(
            "/api/v1/optimize/run?trace=1", json={"name": "x"}, headers={"X-Remote-User": "admin", "Cookie": "a=b"}
        )
    assert (answer.status_code, answer.json()) == (202, {"round_id": "r"})
    ((method, address, target, headers, body),) = leader.calls
    assert (method, address, target) == ("POST", "10.0.0.9:8080", "/api/v1/optimize/run?trace=1")
    assert json.loads(body) == {"name": "x"}
    assert headers["authorization"] == "Bearer good"
    assert headers["content-type"] == "application/json"
    assert headers["x-optiinfra-forwarded"] == "1"
    assert set(headers) <= {"authorization", "content-type", "accept", "x-optiinfra-forwarded"}
    assert reviewer.authenticated == [], "the leader checks; this replica grants nothing"


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/decisions/a%3Fb",
        "/api/v1/decisions/a%2Fb%20c",
        "/api/v1/optimize/status?namespace=a%26b&name=%C3%BC",
        "/api/v1/agents/n%25de",
    ],
)
async def test_a_path_is_passed_on_without_being_decoded(target):
    leader = Leader()
    async with serve(View(**FOLLOWING), leader=leader) as client:
        await client.get(target)
    assert leader.calls[0][2] == target


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_every_method_is_passed_on(method):
    leader = Leader(answer=(204, "", b""))
    async with serve(View(**FOLLOWING), leader=leader) as client:
        answer = await client.request(method, "/api/v1/agents/node-1", content=b"")
    assert answer.status_code == 204
    assert leader.calls[0][0] == method


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/api/v1/health/live", "/metrics", "/openapi.json"])
async def test_health_metrics_and_the_schema_are_answered_by_the_replica_that_was_asked(path):
    leader = Leader()
    async with serve(View(**FOLLOWING), leader=leader) as client:
        assert (await client.get(path)).status_code == 200
    assert leader.calls == []


async def test_a_leader_answers_itself():
    leader = Leader()
    async with serve(View(documents=[document("ResourceOptimization", "a", "x")]), leader=leader) as client:
        assert (await client.get("/api/v1/optimize/status?namespace=a")).json()["items"]
    assert leader.calls == []


async def test_what_was_passed_on_once_is_not_passed_on_again():
    leader = Leader()
    async with serve(View(**FOLLOWING), leader=leader) as client:
        answer = await client.get("/api/v1/agents", headers={"X-OptiInfra-Forwarded": "1"})
    assert answer.status_code == 503
    assert "leadership" in answer.json()["detail"]
    assert leader.calls == []


async def test_when_nobody_leads_the_answer_is_503_with_the_reason():
    leader = Leader()
    async with serve(View(leading=False, leader_address=""), leader=leader) as client:
        answer = await client.get("/api/v1/agents")
    assert answer.status_code == 503
    assert "no replica leads" in answer.json()["detail"]
    assert leader.calls == []


async def test_a_leader_that_does_not_answer_is_503_with_the_reason():
    async with serve(View(**FOLLOWING), leader=Leader(dead=True)) as client:
        answer = await client.get("/api/v1/agents")
    assert answer.status_code == 503
    assert "connection refused" in answer.json()["detail"]


@pytest.mark.parametrize("code", [200, 401, 403, 404, 422, 500])
async def test_the_leaders_codes_are_kept(code):
    async with serve(View(**FOLLOWING), leader=Leader(answer=(code, "application/json", b"{}"))) as client:
        assert (await client.get("/api/v1/agents")).status_code == code


async def test_a_large_or_endless_body_is_not_passed_on():
    async def endless():
        for _ in range(1000):
            yield b"x" * 1024

    leader = Leader()
    async with serve(View(**FOLLOWING), leader=leader) as client:
        for method in ("POST", "DELETE", "GET"):
            assert (await client.request(method, "/api/v1/agents/a", content=endless())).status_code == 413
        assert (await client.post("/api/v1/agents/register", content=b"x" * 70_000)).status_code == 413
    assert leader.calls == []


async def test_a_single_replica_without_a_proxy_answers_itself():
    async with serve(View(**FOLLOWING)) as client:
        assert (await client.get("/api/v1/agents")).status_code == 200


# decisions of the leader, for external.metrics.k8s.io on a follower

DECISIONS = [Decision("a", "x", 5, 1000.5)]
ANSWER = b'{"items": [{"namespace": "a", "name": "x", "replicas": 5, "decided_at": 1000.5}]}'


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("mine\n")
    return file


async def test_a_leader_tells_its_own_decisions(token):
    leader = Leader()
    mine = LeaderDecisions(View(published=DECISIONS), leader, token)
    assert list(await mine.of("a")) == DECISIONS
    assert leader.calls == []


async def test_a_follower_asks_the_leader_with_its_own_token(token):
    leader = Leader(answer=(200, "application/json", ANSWER))
    theirs = LeaderDecisions(View(**FOLLOWING, published=[Decision("a", "x", 1, 1.0)]), leader, token)
    assert list(await theirs.of("a")) == DECISIONS
    method, address, target, headers, _ = leader.calls[0]
    assert (method, address, target) == ("GET", "10.0.0.9:8080", "/api/v1/decisions/a")
    assert headers["authorization"] == "Bearer mine"


async def test_a_rotated_token_is_read_anew(token):
    leader = Leader(answer=(200, "application/json", ANSWER))
    theirs = LeaderDecisions(View(**FOLLOWING), leader, token)
    await theirs.of("a")
    token.write_text("rotated")
    await theirs.of("a")
    assert leader.calls[1][3]["authorization"] == "Bearer rotated"


@pytest.mark.parametrize("namespace", ["../secrets", "a/b", "a?x=1", "a b"])
async def test_a_namespace_stays_one_part_of_the_path(token, namespace):
    leader = Leader(answer=(200, "application/json", b'{"items": []}'))
    await LeaderDecisions(View(**FOLLOWING), leader, token).of(namespace)
    tail = leader.calls[0][2].removeprefix("/api/v1/decisions/")
    assert "/" not in tail
    assert "?" not in tail


@pytest.mark.parametrize(
    "leader",
    [
        Leader(dead=True),
        Leader(answer=(403, "application/json", b"{}")),
        Leader(answer=(200, "application/json", b"not json")),
        Leader(answer=(200, "application/json", b"[]")),
        Leader(answer=(200, "application/json", b'{"items": [{"name": "x"}]}')),
        Leader(answer=(200, "application/json", b'{"items": [{"namespace": 1, "name": "x", "replicas": "many"}]}')),
        Leader(answer=(200, "application/json", b'{"items": 5}')),
    ],
)
async def test_while_the_leader_cannot_tell_there_is_no_decision(token, leader):
    stale = View(**FOLLOWING, published=DECISIONS)
    assert list(await LeaderDecisions(stale, leader, token).of("a")) == []


async def test_without_a_leader_or_a_token_there_is_no_decision(token, tmp_path):
    leader = Leader(answer=(200, "application/json", ANSWER))
    assert list(await LeaderDecisions(View(leading=False, leader_address=""), leader, token).of("a")) == []
    assert list(await LeaderDecisions(View(**FOLLOWING), leader, None).of("a")) == []
    assert list(await LeaderDecisions(View(**FOLLOWING), leader, tmp_path / "absent").of("a")) == []
    assert leader.calls == []
