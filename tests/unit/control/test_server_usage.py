"""Containers' use by cAdvisor's series, where metrics.k8s.io is not there."""

import pytest
from aiohttp import web

from optiinfra.cluster.usage import PodUsage
from optiinfra.control.metrics_servers import MetricsServers
from optiinfra.control.registry import Registry
from optiinfra.control.server_usage import PROMETHEUS, UsageWithServer
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.settings import OperatorSettings
from tests.unit.control.scraped_server import scraped

ABSENT = Unknown(UnknownReason.NOT_CONFIGURED, "metrics.k8s.io is not served; install metrics-server")


class Api:
    def __init__(self, answer):
        self.answer = answer

    async def pods(self, namespace):
        return self.answer


@pytest.fixture(name="server")
def a_server():
    with scraped() as server:
        yield server


async def use(server, answer=ABSENT, **settings):
    servers = MetricsServers(OperatorSettings(prometheus_url=server.url, **settings), Registry())
    try:
        return await UsageWithServer(Api(answer), servers, 'cluster="a"').pods("ns")
    finally:
        await servers.aclose()


def kubelet(server, back, cpu, memory, *, pod="chat-0", container="vllm", **more):
    target = {"job": "kubelet", "instance": "n1", "cluster": "a"} | more
    for name, value in (("container_cpu_usage_seconds_total", cpu), ("container_memory_working_set_bytes", memory)):
        labels = {"__name__": name, "container": container, "pod": pod, "namespace": "ns", **target}
        server.samples.setdefault(tuple(sorted(labels.items())), []).append((server.now - back, value))


async def test_cores_are_the_counters_growth_and_memory_the_last_working_set(server):
    for back, cpu, memory in ((120.0, 1000.0, 1e9), (60.0, 1090.0, 2e9), (0.0, 1180.0, 3e9)):
        kubelet(server, back, cpu, memory)
    found = (await use(server))["chat-0"]
    assert found.source == PROMETHEUS
    assert (found.time, found.window_s) == (server.now, 120.0)
    assert found.containers["vllm"].cpu_cores == pytest.approx(1.5)
    assert found.containers["vllm"].memory_bytes == 3e9
    assert len(server.asked) == 1


async def test_metrics_k8s_io_is_asked_first_and_then_nobody(server):
    served = {"chat-0": PodUsage(1.0, 15.0, {})}
    assert await use(server, served) == served
    assert server.asked == []


async def test_a_container_that_began_anew_and_one_scrape_say_no_cores(server):
    kubelet(server, 60.0, 1000.0, 1e9)
    kubelet(server, 0.0, 3.0, 1e9)
    kubelet(server, 0.0, 3.0, 1e9, container="sidecar")
    found = (await use(server))["chat-0"].containers
    assert isinstance(found["vllm"].cpu_cores, Unknown)
    assert isinstance(found["sidecar"].cpu_cores, Unknown)
    assert found["sidecar"].memory_bytes == 1e9


async def test_copies_of_one_series_are_not_added_up(server):
    for replica in "ab":
        for back, cpu in ((60.0, 0.0), (0.0, 60.0)):
            kubelet(server, back, cpu, 1e9, prometheus_replica=replica)
    assert (await use(server))["chat-0"].containers["vllm"].cpu_cores == pytest.approx(1.0)


async def test_neither_knows(server):
    found = await use(server)
    assert found.reason is UnknownReason.NOT_CONFIGURED
    assert "container_cpu_usage_seconds_total" in found.detail
    server.answer = web.Response(status=500, text="out of order")
    found = await use(server)
    assert found.reason is UnknownReason.UNREACHABLE
    assert "metrics-server" in found.detail
    assert "out of order" in found.detail
