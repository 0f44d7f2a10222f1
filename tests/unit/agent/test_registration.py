"""Registration: a real agent process against a real HTTP server that fails in every way."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.agent.conftest import Agent, Orchestrator, eventually


def registration(agent: Agent) -> dict[str, object]:
    return agent.document("/health/detailed")["components"]["registration"]


def begin(start: Callable[..., Agent], orchestrator: Orchestrator, **settings: str) -> Agent:
    return start(
        ORCHESTRATOR_URL=orchestrator.url,
        OPTIINFRA_AGENT_HEARTBEAT="1",
        OPTIINFRA_AGENT_ORCHESTRATOR_TIMEOUT="0.5",
        **settings,
    )


def test_registers_beats_and_leaves(start: Callable[..., Agent], orchestrator: Orchestrator) -> None:
    agent = begin(start, orchestrator, OPTIINFRA_AGENT_ENDPOINT="http://10.0.0.7:8003")
    eventually(lambda: orchestrator.count("heartbeat") >= 2)
    _, path, document, authorization = orchestrator.last("register")
    assert path == "/api/v1/agents/register"
    assert authorization == ""
    assert document["agent_id"] == "agent-node-a"
    assert document["agent_type"] == "node"
    assert {"snapshot.v1", "metrics", "cpu", "memory"} <= set(document["capabilities"])
    assert document["endpoint"] == "http://10.0.0.7:8003"
    assert document["health_check_endpoint"] == "http://10.0.0.7:8003/health"
    assert document["status"] in {"healthy", "degraded"}
    assert document["version"]
    _, path, beat, _ = orchestrator.last("heartbeat")
    assert path == "/api/v1/agents/heartbeat"
    assert beat["agent_id"] == "agent-node-a"
    assert beat["timestamp"] <= time.time()
    assert beat["metrics"]["memory_total_bytes"] > 0
    assert "gpus" not in beat["metrics"]
    assert beat["metrics"]["requests_total"] >= 0
    assert orchestrator.count("register") == 1
    assert registration(agent)["state"] == "registered"
    assert agent.metrics()["optiinfra_agent_registered"] == 1
    beaten = orchestrator.count("heartbeat")
    eventually(lambda: orchestrator.count("heartbeat") > beaten)
    told = orchestrator.last("heartbeat")[2]["metrics"]
    assert told["requests_total"] >= 2
    assert 0.0 < told["request_mean_seconds"] < 1.0
    assert agent.terminate() == 0
    assert orchestrator.last("leave")[1] == "/api/v1/agents/agent-node-a"
    assert orchestrator.count("leave") == 1


@pytest.mark.parametrize("mode", ["500", "401", "302", "404", "garbage", "endless", "hang", "drip"])
def test_goes_on_trying_while_registration_fails(
    start: Callable[..., Agent], orchestrator: Orchestrator, mode: str
) -> None:
    orchestrator.mode["register"] = mode
    agent = begin(start, orchestrator)
    eventually(lambda: registration(agent)["state"] == "failing")
    assert registration(agent)["reason"]
    assert agent.request("/v1/snapshot")[0] == 200
    assert agent.document("/health")["status"] == "healthy"
    assert agent.metrics()["optiinfra_agent_registered"] == 0
    eventually(lambda: orchestrator.count("register") >= 2)
    assert orchestrator.count("elsewhere") == 0
    orchestrator.mode["register"] = "ok"
    eventually(lambda: registration(agent)["state"] == "registered")


def test_pauses_grow(start: Callable[..., Agent], orchestrator: Orchestrator) -> None:
    orchestrator.mode["register"] = "500"
    agent = begin(start, orchestrator)
    eventually(lambda: agent.metrics().get("optiinfra_agent_collections_total", 0) >= 6)
    # Full speed would be hundreds; at 1, 2 and 4 s less up to a half each there are at most five in 6 s.
    assert orchestrator.count("register") <= 5


def test_registers_again_when_it_was_forgotten(start: Callable[..., Agent], orchestrator: Orchestrator) -> None:
    agent = begin(start, orchestrator)
    eventually(lambda: orchestrator.count("heartbeat") >= 1)
    orchestrator.mode["heartbeat"] = "404"
    eventually(lambda: orchestrator.count("register") >= 2)
    orchestrator.mode["heartbeat"] = "ok"
    eventually(lambda: registration(agent)["state"] == "registered")


@pytest.mark.parametrize("mode", ["500", "hang", "garbage"])
def test_failing_heartbeats_are_no_reason_to_register(
    start: Callable[..., Agent], orchestrator: Orchestrator, mode: str
) -> None:
    agent = begin(start, orchestrator)
    eventually(lambda: orchestrator.count("heartbeat") >= 1)
    orchestrator.mode["heartbeat"] = mode
    eventually(lambda: registration(agent)["state"] == "failing")
    orchestrator.mode["heartbeat"] = "ok"
    eventually(lambda: registration(agent)["state"] == "registered")
    assert orchestrator.count("register") == 1


def test_nobody_there(start: Callable[..., Agent], silent_port: int) -> None:
    agent = start(ORCHESTRATOR_URL=f"http://127.0.0.1:{silent_port}")
    eventually(lambda: registration(agent)["state"] == "failing")
    assert agent.document("/health")["status"] == "healthy"
    assert agent.terminate() == 0


@pytest.mark.parametrize("call", ["register", "heartbeat", "leave"])
def test_ends_within_5_s_while_the_orchestrator_hangs(
    start: Callable[..., Agent], orchestrator: Orchestrator, call: str
) -> None:
    orchestrator.mode[call] = "hang"
    agent = start(
        ORCHESTRATOR_URL=orchestrator.url,
        OPTIINFRA_AGENT_HEARTBEAT="1",
        OPTIINFRA_AGENT_ORCHESTRATOR_TIMEOUT="60",
    )
    eventually(lambda: orchestrator.count("register" if call == "leave" else call) >= 1)
    agent.process.terminate()
    assert agent.process.wait(timeout=5) == 0
    assert orchestrator.count("leave") == 1


def test_token_is_read_again_at_each_call(
    start: Callable[..., Agent], orchestrator: Orchestrator, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    agent = begin(start, orchestrator, ORCHESTRATOR_TOKEN_FILE=str(token))
    eventually(lambda: orchestrator.count("register") == 1)
    assert orchestrator.last("register")[3] == "Bearer first"
    token.write_text("second\n")
    eventually(lambda: orchestrator.count("heartbeat") and orchestrator.last("heartbeat")[3] == "Bearer second")
    token.unlink()
    eventually(lambda: "ORCHESTRATOR_TOKEN_FILE" in str(registration(agent)["reason"]))
    token.write_text("third\n")
    eventually(lambda: orchestrator.last("heartbeat")[3] == "Bearer third")
    agent.terminate()
    assert orchestrator.last("leave")[3] == "Bearer third"
    assert not any(word in "".join(agent.raw) for word in ("first", "second", "third"))


def test_forgotten_agent_may_still_leave(start: Callable[..., Agent], orchestrator: Orchestrator) -> None:
    agent = begin(start, orchestrator)
    eventually(lambda: orchestrator.count("heartbeat") >= 1)
    orchestrator.mode["leave"] = "404"
    assert agent.terminate() == 0
    assert any(line.get("message") == "left the orchestrator" for line in agent.lines)
