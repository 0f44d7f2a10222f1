"""The pages of a real agent process: what they say, who may read them, and what abuse does."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from optiinfra_agent.listener import make_server
from optiinfra_agent.server import Application, TokenFile
from optiinfra_agent.settings import read_settings
from optiinfra_agent.snapshot import SourceName
from optiinfra_agent.sockets import open_socket
from tests.nvml_stub import Stub
from tests.unit.agent.conftest import Agent, eventually, run_agent

OPEN = ("/health", "/health/detailed", "/health/ready", "/health/live")
PROTECTED = ("/", "/metrics", "/v1/snapshot", "/v1/gpus", "/v1/system", "/v1/pods", "/v1/config")


def test_snapshot_of_a_known_procfs(start: Callable[..., Agent], procfs: Path) -> None:
    agent = start(OPTIINFRA_AGENT_PROCFS=str(procfs), NODE_NAME="cpu-1")
    snapshot = agent.snapshot()
    assert snapshot["version"] == 1
    assert snapshot["node"] == "cpu-1"
    assert snapshot["agent"]["id"] == "agent-cpu-1"
    assert snapshot["agent"]["started"] <= snapshot["time"] <= time.time()
    assert set(snapshot["sources"]) == {str(name) for name in SourceName}
    assert snapshot["cpu"]["cores"] == 2
    assert snapshot["cpu"]["load1"] == 3.2
    assert snapshot["memory"]["used_bytes"] == 6000 * 1024
    assert snapshot["pressure"]["io_full_ratio"] == 0.2
    assert snapshot["allocations"] == []
    assert snapshot["sources"]["pod_resources"]["state"] == "unavailable"
    assert snapshot["attribution"]["by"] == "requests"
    assert "falls back to the GPU requests of pods" in snapshot["attribution"]["reason"]
    # The counters of a fixture stand still: no share can be made of them, and it is not 0.
    later = eventually(lambda: agent.metrics()["optiinfra_agent_collections_total"] >= 2 and agent.snapshot())
    assert later["cpu"]["utilization_ratio"] is None
    assert later["cpu"]["unknown"] == {"utilization_ratio": "failed"}


def test_source_that_fails_is_unknown_and_the_others_go_on(start: Callable[..., Agent], procfs: Path) -> None:
    (procfs / "meminfo").write_text("nonsense\n")
    (procfs / "pressure" / "cpu").unlink()
    (procfs / "pressure" / "memory").unlink()
    (procfs / "pressure" / "io").unlink()
    agent = start(OPTIINFRA_AGENT_PROCFS=str(procfs))
    snapshot = agent.snapshot()
    assert snapshot["sources"]["memory"]["state"] == "failed"
    assert set(snapshot["memory"]["unknown"].values()) == {"failed"}
    assert snapshot["sources"]["pressure"]["state"] == "unsupported"
    assert set(snapshot["pressure"]["unknown"].values()) == {"unsupported"}
    assert snapshot["cpu"]["cores"] == 2
    metrics = agent.metrics()
    assert not any(name.startswith(("optiinfra_node_memory", "optiinfra_node_pressure")) for name in metrics)
    assert 'optiinfra_agent_source_age_seconds{source="memory"}' not in metrics
    health = agent.document("/health")
    assert health["status"] == "degraded"
    assert health["reasons"] == ["memory is failed: meminfo holds no MemTotal"]
    root = agent.document("/")
    assert root["missing"]["memory"] == "failed: meminfo holds no MemTotal"
    assert "cpu" in root["capabilities"]
    assert "memory" not in root["capabilities"]


def test_metrics_of_two_gpus(start: Callable[..., Agent], stub: Stub, procfs: Path) -> None:
    stub.rules("gpus 2", "code nvmlDeviceGetUtilizationRates 1 3", "value utilization 0 42")
    agent = start(OPTIINFRA_AGENT_PROCFS=str(procfs), **stub.environment)
    agent.snapshot()
    status, headers, body = agent.request("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    metrics = agent.metrics()
    snapshot = agent.snapshot()
    assert len(snapshot["gpus"]) == 2, snapshot["sources"]["nvml"]
    first, second = (gpu["uuid"] for gpu in snapshot["gpus"])
    assert metrics[f'optiinfra_gpu_utilization_ratio{{uuid="{first}"}}'] == 0.42
    assert f'optiinfra_gpu_utilization_ratio{{uuid="{second}"}}' not in metrics
    assert metrics[f'optiinfra_gpu_power_watts{{uuid="{second}"}}'] == 77.7
    assert not any(name.startswith("optiinfra_gpu_sm_active") for name in metrics)
    info = next(name for name in metrics if name.startswith("optiinfra_gpu_info") and first in name)
    assert 'model="NVIDIA H100 80GB HBM3"' in info
    assert 'driver="590.48.01"' in info
    assert metrics["optiinfra_node_cpu_busy_seconds_total"] == 18
    assert metrics['optiinfra_node_pressure_ratio{kind="some",resource="cpu"}'] == 0.125
    assert metrics['optiinfra_agent_source_success{source="nvml"}'] == 1
    assert metrics["optiinfra_agent_nvml_return_code"] == 0
    assert metrics["process_resident_memory_bytes"] > 0
    text = body.decode().lower()
    assert "nan" not in text.replace("nanoseconds", "")
    assert "# type optiinfra_gpu_energy_joules_total counter" in text
    assert "optiinfra_agent_registered" not in text


def test_every_name_has_the_prefix_or_is_of_the_process(start: Callable[..., Agent], stub: Stub) -> None:
    agent = start(**stub.environment)
    agent.snapshot()
    assert all(name.startswith(("optiinfra_", "process_")) for name in agent.metrics())


def test_health_pages(start: Callable[..., Agent], procfs: Path) -> None:
    agent = start(OPTIINFRA_AGENT_PROCFS=str(procfs))
    eventually(lambda: agent.request("/health/ready")[0] == 200)
    assert agent.document("/health")["status"] == "healthy"
    assert agent.document("/health/live") == {"status": "live", "reason": ""}
    detail = agent.document("/health/detailed")
    assert detail["components"]["nvml"]["state"] == "unavailable"
    assert detail["components"]["cpu"]["state"] == "ok"
    assert detail["components"]["collection"]["passes"] >= 1
    assert detail["components"]["registration"]["state"] == "off"


def test_not_ready_before_the_first_snapshot_but_alive(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("delay nvmlInitWithFlags -1 2500")
    agent = start(**stub.environment)
    assert agent.request("/health/ready")[0] == 503
    assert agent.request("/health")[0] == 503
    assert agent.request("/health/live")[0] == 200
    status, headers, body = agent.request("/v1/snapshot")
    assert (status, headers["retry-after"]) == (503, "1")
    assert "no snapshot yet" in json.loads(body)["error"]
    assert "process_resident_memory_bytes" in agent.metrics()
    eventually(lambda: agent.request("/health/ready")[0] == 200)
    assert agent.snapshot()["sources"]["nvml"]["state"] == "ok"


def test_standing_loop_is_not_live_and_its_snapshot_goes_stale(start: Callable[..., Agent], procfs: Path) -> None:
    agent = start(OPTIINFRA_AGENT_PROCFS=str(procfs), OPTIINFRA_AGENT_NVML_DEADLINE="0.1")
    agent.snapshot()
    # Opening a pipe that nobody writes to never returns: the loop stands still for good.
    (procfs / "loadavg").unlink()
    os.mkfifo(procfs / "loadavg")
    eventually(lambda: agent.request("/health/live")[0] == 503)
    assert "stood still" in agent.document("/health/live")["reason"]
    eventually(lambda: agent.request("/health/ready")[0] == 503)
    assert agent.document("/health")["status"] == "unhealthy"
    # The old snapshot is still served, with its age: the reader decides.
    status, headers, _ = agent.request("/v1/snapshot")
    assert status == 200
    assert float(headers["x-snapshot-age-seconds"]) > 3
    assert agent.terminate() == 0


def test_unknown_page_and_wrong_method(start: Callable[..., Agent]) -> None:
    agent = start()
    assert agent.request("/v2/snapshot")[0] == 404
    status, headers, _ = agent.request("/metrics", method="POST", body=b"x" * 1000)
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    status, headers, body = agent.request("/health/live", method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 0


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("a-secret\n")
    return path


def test_token_guards_all_but_health(start: Callable[..., Agent], token: Path) -> None:
    agent = start(OPTIINFRA_AGENT_TOKEN_FILE=str(token))
    for path in OPEN:
        eventually(lambda path=path: agent.request(path)[0] == 200)
    wrong = ("", "Bearer", "Bearer ", "Bearer a-secre", "Bearer a-secrets", "Basic a-secret", "a-secret")
    for path in (*PROTECTED, "/nowhere"):
        assert agent.request(path)[0] == 401
        for header in wrong:
            status, headers, body = agent.request(path, headers={"Authorization": header})
            assert status == 401, header
            assert headers["www-authenticate"] == "Bearer"
            assert b"a-secret" not in body
    for path in PROTECTED:
        assert agent.request(path, headers={"Authorization": "Bearer a-secret"})[0] == 200
    agent.terminate()
    assert "a-secret" not in "".join(agent.raw)


def test_empty_token_file_locks_everybody_out(start: Callable[..., Agent], token: Path) -> None:
    token.write_text("")
    agent = start(OPTIINFRA_AGENT_TOKEN_FILE=str(token))
    assert agent.request("/metrics")[0] == 401
    assert agent.request("/metrics", headers={"Authorization": "Bearer "})[0] == 401


def test_token_is_rotated_within_10_s_and_never_widens(token: Path) -> None:
    now = [100.0]
    guard = TokenFile(token, clock=lambda: now[0])
    assert guard.admits(b"bearer a-secret")
    token.write_text("another")
    now[0] += 11
    assert guard.admits(b"Bearer another")
    assert not guard.admits(b"Bearer a-secret")
    token.unlink()
    now[0] += 11
    assert not guard.admits(b"Bearer another")
    assert not guard.admits(b"Bearer ")
    token.write_text("x" * 10_000)
    now[0] += 11
    assert not guard.admits(b"Bearer " + b"x" * 10_000)


def is_cut(connection: socket.socket) -> bool:
    connection.settimeout(0)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a_flood_of_silent_connections_locks_nobody_out(start: Callable[..., Agent]) -> None:
    agent = start(OPTIINFRA_AGENT_CONNECTIONS="4")
    agent.snapshot()
    crowd = [socket.create_connection(("127.0.0.1", agent.port), timeout=10) for _ in range(20)]
    try:
        for _ in range(5):
            assert agent.request("/health/live")[0] == 200
            assert agent.request("/v1/snapshot")[0] == 200
        # The oldest were cut to make room: at most four of all connections are open at any time.
        assert sum(is_cut(one) for one in crowd) >= 16
    finally:
        for one in crowd:
            one.close()


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"])
async def test_client_that_never_finishes_its_request_is_cut(sent: bytes) -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("no whole request came")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = make_server(cast("Application", application), connections=8, request_s=0.3)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(sent)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        server.should_exit = True
        await serving


def test_oversized_and_broken_requests(start: Callable[..., Agent]) -> None:
    agent = start()
    for request in (b"\x00\xff garbage\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", agent.port), timeout=10) as connection:
            connection.sendall(request)
            try:
                answer = connection.recv(64)
            except ConnectionResetError:
                answer = b""
            assert b" 200 " not in answer
    assert agent.request("/health/live")[0] == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "::"])
def test_answers_are_not_held_back_for_an_acknowledgement(address: str) -> None:
    # An answer is two small packets; without this option the second waits 40 ms for the reader.
    settings = read_settings({"OPTIINFRA_AGENT_LISTEN_ADDRESS": address, "OPTIINFRA_AGENT_LISTEN_PORT": "0"})
    with open_socket(settings) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            listener.settimeout(10)
            taken, _ = listener.accept()
            with taken:
                assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_taken_port_is_one_line_and_exit_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_agent(OPTIINFRA_AGENT_LISTEN_PORT=str(port))
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    assert "OPTIINFRA_AGENT_LISTEN_PORT" in lines[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_right_after_the_socket_opened_is_not_lost(start: Callable[..., Agent], number: int) -> None:
    agent = start()
    agent.process.send_signal(number)
    assert agent.wait() == 0


def test_ends_cleanly_and_logs_json(start: Callable[..., Agent]) -> None:
    agent = start()
    agent.snapshot()
    assert agent.terminate() == 0
    assert all(text.startswith("{") for text in agent.raw)
    assert {"time", "level", "logger", "message"} <= set(agent.lines[0])
    assert agent.lines[-1]["message"] == "the agent has ended"
