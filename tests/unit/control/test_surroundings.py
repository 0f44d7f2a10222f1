"""What agents say of a service's containers reaches its verdict and its sizes, by id, or by name without one."""

import asyncio
from types import SimpleNamespace

import orjson
import pytest
from yarl import URL

from optiinfra.cluster.fetch import Transport
from optiinfra.control.scraper import Scraper, Source
from optiinfra.control.snapshots import SnapshotStore
from optiinfra.control.surroundings import surround
from optiinfra.domain.agent_readings import ContainerCounters, NamedCounters
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.utilization import summarise
from optiinfra.domain.workload import AgentReading, ContainerFacts, NodeFacts
from tests.unit.control.examples import NOW, facts, pod, service

APP = ContainerFacts("vllm", 4.0, 8.0, 2.0**34, 2.0**34, 1.0)
POD = pod("vllm-1", containers=(APP,), container_ids=(("aaaaaaaa", "vllm"),), namespace="inference")
PLACE = "container vllm of pod vllm-1 on node n1"


def reading(at, **told):
    return AgentReading(UnixTime(NOW + at), "n1", "1", 8.0, 0.1, 1.0, 1.0, gpus=(), gpu_source=1.0, **told)


def surrounded(*readings, of=POD):
    known, now, window, stale = facts(1, pods=(of,)), UnixTime(NOW), Seconds(60.0), Seconds(90.0)
    nodes = {"n1": NodeFacts("n1", "", "", 8.0, 96.0, 2.0**40, ready=True, unschedulable=False, agent=readings)}
    used = summarise(known, nodes, now=now, window=window, stale_after=stale)
    (target,) = service(facts=known, settings=EngineSettings(container="vllm"), utilization=used).targets
    surround(target, nodes, now=now, window=window, stale_after=stale)
    return target


def test_what_a_container_waits_for_is_told_with_its_place():
    rows = [
        reading(at, containers=(ContainerCounters(POD.uid, "aaaaaaaa", at, 1.0, memory_waiting_seconds=waited),))
        for at, waited in ((-60.0, 100.0), (0.0, 112.0))
    ]
    target = surrounded(*rows)
    assert target.surroundings.memory_pressure == pytest.approx(0.2)
    assert target.surroundings.places["memory_pressure"] == PLACE
    assert (target.pressed["vllm"].value, target.pressed["vllm"].place) == (pytest.approx(0.2), PLACE)
    assert isinstance(target.surroundings.io_pressure, Unknown)


@pytest.mark.parametrize("ids", [(), (("bbbbbbbb", "vllm"),)])
def test_a_container_whose_id_the_mirror_does_not_know_is_found_by_name(ids):
    of = pod("vllm-1", containers=(APP,), container_ids=ids)
    rows = [
        reading(at, named=(NamedCounters("inference", "vllm-1", "vllm", cpu, 1.0),))
        for at, cpu in ((-60.0, 0.0), (0.0, 240.0))
    ]
    target = surrounded(*rows, of=of)
    assert target.surroundings.container_cpu == pytest.approx(0.5)
    assert target.surroundings.places["container_cpu"] == PLACE


async def test_the_scraper_asks_agents_about_the_pods_by_uid_and_by_name():
    rows = [["c", 5, 6]]
    document = {
        "version": 1,
        "time": NOW,
        "node": "elsewhere",
        "container_fields": ["id", "cpu_seconds_total"],
        "pods": {"u1": [["aaaaaaaa", 1]], "u2": [["bbbbbbbb", 1]]},
        "named_container_fields": ["name", "cpu_seconds_total", "working_set_bytes"],
        "named_pods": [{"namespace": "n", "pod": name, "containers": rows} for name in ("p", "q")],
    }

    async def fetch(*_, **__):
        return SimpleNamespace(body=orjson.dumps(document))

    read = asyncio.Event()
    store = SnapshotStore()
    source = Source(kind="agent", key="n1", url=URL("http://agent"), interval=60.0, transport=Transport())
    scraper = Scraper(
        sources=lambda: (source,),
        fetcher=SimpleNamespace(fetch=fetch),
        store=store,
        concurrency=1,
        timeout_s=1.0,
        limit_bytes=1 << 20,
        read=lambda _: read.set(),
        pods={"u1"},
        names={("n", "p")},
    )
    task = asyncio.create_task(scraper.run())
    async with asyncio.timeout(30):
        await read.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    ((told,), error) = store.agent("n1")
    assert error is None
    assert [one.pod_uid for one in told.containers] == ["u1"]
    assert [(one.namespace, one.pod, one.name) for one in told.named] == [("n", "p", "c")]
