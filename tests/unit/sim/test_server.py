"""The sockets: one listener plays many pods, told apart by the connection's local address."""

import socket

import aiohttp
import pytest

from optiinfra_sim.agents import Agents
from optiinfra_sim.cluster import ClusterView, NodeView
from optiinfra_sim.server import Server
from optiinfra_sim.stage import Stage
from tests.unit.sim.stagehands import EPOCH, SCENARIO, agent, pod

CHAT, LOADING, OLD, AGENT, UNKNOWN = (f"127.77.0.{number}" for number in range(1, 6))


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
async def served(tmp_path):
    stage = Stage(SCENARIO, folder=tmp_path, epoch=EPOCH)
    agents = Agents(started=EPOCH, load=stage.load)
    view = ClusterView(
        pods=(
            pod("a", "chat", address=CHAT),
            pod("b", "chat", address=LOADING, started=EPOCH, ready=EPOCH),
            pod("c", "old", address=OLD),
            agent("gpu-1", AGENT),
        ),
        nodes=(NodeView(name="gpu-1", gpus=8, gpu_model=None, gpu_memory_bytes=None, cores=8),),
    )
    stage.follow(view.pods)
    agents.follow(view)
    stage.advance(to=1.0)
    agents.advance(to=EPOCH + 1)
    server = Server(stage=stage, agents=agents)
    engine_port, agent_port, control_port = free_ports(3)
    await server.start(
        engine_port=engine_port,
        agent_port=agent_port,
        control_port=control_port,
        addresses=[CHAT, LOADING, OLD, AGENT, UNKNOWN],
    )
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        yield session, engine_port, agent_port, control_port
    await server.stop()


async def test_every_address_gets_its_own_engine_s_page(served, memory_bound):
    session, port, _, _ = served
    async with session.get(f"http://{CHAT}:{port}/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        assert b'model_name="llama-3.1-8b"' in await answer.read()
    async with session.get(f"http://{OLD}:{port}/metrics") as answer:
        assert await answer.read() in {page.body for page in memory_bound.pages}
    async with session.get(f"http://{CHAT}:{port}/health") as answer:
        assert answer.status == 200
    async with session.get(f"http://{CHAT}:{port}/v1/models") as answer:
        assert [one["id"] for one in (await answer.json())["data"]] == ["llama-3.1-8b"]
    async with session.get(f"http://{OLD}:{port}/v1/models") as answer:
        assert answer.status == 503


@pytest.mark.parametrize("address", [LOADING, UNKNOWN, AGENT])
async def test_an_engine_that_is_loading_or_not_there_is_a_closed_connection(served, address):
    session, port, _, _ = served
    with pytest.raises(aiohttp.ClientConnectionError):
        await session.get(f"http://{address}:{port}/metrics")


async def test_agents_answer_on_their_own_port_and_nobody_else_does(served):
    session, _, port, _ = served
    async with session.get(f"http://{AGENT}:{port}/v1/snapshot") as answer:
        snapshot = await answer.json()
    assert (snapshot["simulated"], snapshot["node"], len(snapshot["gpus"])) == (True, "gpu-1", 8)
    async with session.get(f"http://{AGENT}:{port}/health") as answer:
        assert (await answer.json())["simulated"] is True
    async with session.get(f"http://{AGENT}:{port}/metrics") as answer:
        assert b"optiinfra_simulated 1" in await answer.read()
    with pytest.raises(aiohttp.ClientConnectionError):
        await session.get(f"http://{CHAT}:{port}/v1/snapshot")


async def test_the_control_port_shows_the_state_and_begins_a_trace(served):
    session, _, _, port = served
    async with session.get(f"http://127.0.0.1:{port}/sim/v1/state") as answer:
        state = await answer.json()
    assert state["simulated"] is True
    chat = next(one for one in state["services"] if one["service"] == "chat")
    assert (chat["serving"], chat["starting"], chat["trace_seconds"], chat["done"]) == (1, 1, None, False)
    async with session.post(f"http://127.0.0.1:{port}/sim/v1/begin/chat") as answer:
        assert answer.status == 200
    async with session.post(f"http://127.0.0.1:{port}/sim/v1/begin/chat") as answer:
        assert answer.status == 409
        assert "begun already" in (await answer.json())["error"]


async def test_a_port_that_is_taken_is_an_error(served, tmp_path):
    _, port, _, _ = served
    stage = Stage(SCENARIO, folder=tmp_path, epoch=EPOCH)
    other = Server(stage=stage, agents=Agents(started=EPOCH, load=stage.load))
    agent_port, control_port = free_ports(2)
    with pytest.raises(OSError, match="in use"):
        await other.start(engine_port=port, agent_port=agent_port, control_port=control_port, addresses=[CHAT])
    await other.stop()
