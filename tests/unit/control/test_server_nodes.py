"""Nodes and GPUs by a metrics server: as an agent would tell them, with the order of the sources kept."""

import dataclasses
from pathlib import Path

import pytest
from aiohttp import web

from optiinfra.control.metrics_servers import MetricsServers
from optiinfra.control.registry import Registry
from optiinfra.control.server_nodes import ServerNodes
from optiinfra.control.snapshots import SnapshotStore
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.workload import NodeFacts
from optiinfra.settings import OperatorSettings
from tests.unit.control.examples import cro_body, pod
from tests.unit.control.scraped_server import scraped

UUID = "GPU-1"


def node(name, **more):
    return NodeFacts(name, "", "H100", 1.0, 64.0, 1e12, ready=True, unschedulable=False, **more)


def dcgm(utilization, *, holder="chat-0", hostname="n1", dialect=""):
    held = f',pod="{holder}",namespace="ns",container="vllm"' if holder else ""
    labels = f'{{gpu="0",UUID="{UUID}",modelName="NVIDIA H100 80GB HBM3",Hostname="{hostname}"{held}}}'
    lines = {
        f"DCGM_FI_DEV_GPU_UTIL{dialect}": utilization,
        "DCGM_FI_DEV_FB_USED": 40_960.0,
        "DCGM_FI_DEV_FB_FREE": 40_960.0,
        "DCGM_FI_PROF_SM_ACTIVE": 0.25,
        "DCGM_FI_DEV_POWER_USAGE": 300.0,
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 5_000_000.0,
    }
    return "".join(f"{name}{labels} {value}\n" for name, value in lines.items()).encode()


def host(busy, idle):
    text = "".join(
        f'node_cpu_seconds_total{{cpu="{cpu}",mode="{mode}"}} {value}\n'
        for cpu in (0, 1)
        for mode, value in (("user", busy), ("idle", idle))
    )
    return (text + "node_memory_MemTotal_bytes 1e12\nnode_memory_MemAvailable_bytes 4e11\n").encode()


class World:
    def __init__(self, server, *sources):
        self.server, self.store, self.registry = server, SnapshotStore(), Registry()
        listed = sources or ({"type": "Prometheus", "url": server.url},)
        body = cro_body(metricsSources=list(listed))
        self.registry.upsert("ClusterResourceOptimization", body)
        self.servers = MetricsServers(OperatorSettings(), self.registry)
        self.nodes = {"n1": node("n1", pods=(pod("dcgm-1", node="n1", namespace="gpu"),)), "n2": node("n2")}
        self.reader = ServerNodes(
            nodes=lambda: self.nodes,
            servers=self.servers,
            store=self.store,
            interval_s=15.0,
            window_s=150.0,
            stale_after_s=45.0,
            clock=lambda: server.now,
        )

    async def turn(self):
        await self.reader.turn()
        await self.servers.aclose()

    def newest(self, name="n1"):
        readings, error = self.store.agent(name)
        return (readings[-1] if readings else None), error


@pytest.fixture(name="server")
def a_server():
    with scraped() as server:
        yield server


async def test_a_gpu_and_its_host_are_read_as_from_an_agent(server):
    world = World(server)
    server.scrape("dcgm-1", dcgm(50.0), at=server.now - 5, namespace="gpu", container="dcgm-exporter")
    for back, busy in ((65.0, 100.0), (5.0, 160.0)):
        server.scrape("node-exporter-1", host(busy, 1000.0), at=server.now - back, namespace="mon", node="n1")
    await world.turn()
    reading, error = world.newest()
    assert error is None
    (gpu,) = reading.gpus
    assert (gpu.uuid, gpu.model, gpu.utilization_ratio) == (UUID, "NVIDIA H100 80GB HBM3", 0.5)
    assert (gpu.memory_used_bytes, gpu.memory_total_bytes) == (40 * 2**30, 80 * 2**30)
    assert (gpu.power_watts, gpu.energy_joules, gpu.sm_active_ratio) == (300.0, 5_000.0, 0.25)
    (held,) = reading.allocations
    assert (held.gpu_uuid, held.namespace, held.pod, held.container) == (UUID, "ns", "chat-0", "vllm")
    assert reading.cpu_utilization_ratio == pytest.approx(1.0)
    assert (reading.cpu_cores, reading.memory_total_bytes, reading.memory_available_bytes) == (2.0, 1e12, 4e11)
    assert reading.time == server.now - 5
    assert world.store.source("n1") == server.url
    assert len(server.asked) == 2, "two questions for all nodes"


async def test_a_node_without_series_is_unknown_with_the_reason(server):
    world = World(server)
    server.scrape("dcgm-1", dcgm(50.0), at=server.now - 5, namespace="gpu")
    await world.turn()
    reading, error = world.newest("n2")
    assert reading is None
    assert error.reason is UnknownReason.NOT_MEASURED
    assert "node n2" in error.detail


async def test_stale_series_are_no_reading(server):
    world = World(server)
    server.scrape("dcgm-1", dcgm(50.0), at=server.now - 100, namespace="gpu")
    await world.turn()
    reading, error = world.newest()
    assert reading is None
    assert error.reason is UnknownReason.NOT_MEASURED


async def test_an_idle_exporter_names_no_holder(server):
    world = World(server)
    server.scrape("dcgm-1", dcgm(0.0, holder=""), at=server.now - 5, namespace="gpu", container="dcgm-exporter")
    await world.turn()
    reading, _ = world.newest()
    assert reading.allocations == ()
    assert reading.attribution is None
    assert reading.gpus[0].utilization_ratio == 0.0


async def test_a_gpu_without_utilization_is_unknown_and_not_zero(server):
    world = World(server)
    page = b"\n".join(line for line in dcgm(50.0).split(b"\n") if b"GPU_UTIL" not in line)
    server.scrape("dcgm-1", page, at=server.now - 5, namespace="gpu")
    await world.turn()
    assert isinstance(world.newest()[0].gpus[0].utilization_ratio, Unknown)


async def test_the_new_dialect_is_read(server):
    world = World(server)
    server.scrape("dcgm-1", dcgm(0.7, dialect="_RATIO"), at=server.now - 5, namespace="gpu")
    await world.turn()
    assert world.newest()[0].gpus[0].utilization_ratio == 0.7


async def test_a_server_that_is_away_is_said_of_every_node(server):
    world = World(server)
    server.answer = web.Response(status=503, text="starting")
    await world.turn()
    assert world.newest()[1].reason is UnknownReason.UNREACHABLE


async def test_the_first_source_of_the_list_wins_as_long_as_it_tells(server):
    world = World(server, {"type": "Agent"}, {"type": "Prometheus", "url": server.url})
    assert world.servers.agents_read
    server.scrape("dcgm-1", dcgm(50.0), at=server.now - 5, namespace="gpu")
    await world.turn()
    first, _ = world.newest()
    assert world.store.source("n1") == server.url, "no agent tells of it"
    assert world.store.offered(dataclasses.replace(first, time=server.now), rank=world.servers.agents_rank)
    assert world.store.source("n1") == "Agent"
    assert len(world.store.agent("n1")[0]) == 1, "counters of two sources are not one"
    server.now += 20.0
    server.scrape("dcgm-1", dcgm(90.0), at=server.now - 1, namespace="gpu")
    await world.turn()
    assert world.store.source("n1") == "Agent"
    server.now += 80.0
    server.scrape("dcgm-1", dcgm(90.0), at=server.now - 1, namespace="gpu")
    await world.turn()
    assert world.store.source("n1") == server.url, "the agent went silent"


def test_without_agents_in_the_list_they_are_not_asked(server):
    world = World(server)
    assert not world.servers.agents_read
    assert world.servers.nodes_read


def test_credentials_go_to_their_own_address_alone():
    settings = OperatorSettings(prometheus_url="https://mine.example/prometheus", prometheus_token_file=Path("/t"))
    servers = MetricsServers(settings, Registry())
    assert servers.described("https://mine.example/prometheus").token_file == Path("/t")
    assert servers.described("https://theirs.example").token_file is None
    assert servers.described("https://mine.example").token_file is None
