"""Engines' pages out of a metrics server: the same readings as from the pods, and one clear word for each fault."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from optiinfra.api.reasons import Reason
from optiinfra.control.keys import ObjectKey
from optiinfra.control.metrics_servers import MetricsServers
from optiinfra.control.prometheus_source import PrometheusPages
from optiinfra.control.registry import Registry
from optiinfra.control.snapshots import SnapshotStore
from optiinfra.control.sources import EnginePod
from optiinfra.domain.readings import EngineKind, Signal, UnknownReason
from optiinfra.domain.units import Seconds
from optiinfra.domain.windows import Window
from optiinfra.engines.page import read
from optiinfra.settings import OperatorSettings
from tests.engine_pages import Page, nan_page
from tests.unit.control.scraped_server import ScrapedServer, scraped

OWNER = ObjectKey("ResourceOptimization", "ns", "svc")
DATA = Path(__file__).parents[2] / "data" / "engines"
VLLM = Page(running=20, waiting=3, kv_cache_usage=0.5).text().encode()


@dataclass
class World:
    """One object's pods, a server, and what was read."""

    server: ScrapedServer
    pods: list[EnginePod] = field(default_factory=lambda: [engine_pod("a")])
    read: list[str] = field(default_factory=list)
    store: SnapshotStore = field(default_factory=SnapshotStore)
    settings: dict[str, object] = field(default_factory=dict)
    source: PrometheusPages = field(init=False)

    def __post_init__(self) -> None:
        settings = OperatorSettings(**({"prometheus_url": self.server.url} | self.settings))
        self.source = PrometheusPages(
            pods=lambda: self.pods,
            servers=MetricsServers(settings, Registry()),
            store=self.store,
            interval_s=10.0,
            stale_after_s=45.0,
            matchers=settings.prometheus_matchers,
            read=lambda pod: self.read.append(pod.name),
            clock=lambda: self.server.now,
        )

    async def turn(self, *, after: float = 0.0) -> None:
        self.server.now += after
        await self.source.turn()

    def pages(self, pod: str = "a"):
        return self.store.pages({pod: f"uid-{pod}"}).get(pod, ())

    def error(self, pod: str = "a"):
        return self.store.page_errors({pod: f"uid-{pod}"}).get(pod)

    @property
    def trouble(self):
        return self.source.troubles.get(OWNER)


def engine_pod(name: str, **more) -> EnginePod:
    return EnginePod(OWNER, f"uid-{name}", "ns", name, **({"port": 8000} | more))


@pytest.fixture(name="world")
async def a_world():
    with scraped() as server:
        world = World(server)
        yield world
        await world.source.servers.aclose()


def content(reading):
    return (
        reading.engine,
        reading.version,
        reading.model,
        reading.gauges,
        reading.counters,
        reading.histograms,
        reading.facts,
        reading.members,
    )


# ---- the same as from pods


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("*.txt")))
async def test_a_scraped_page_of_every_engine_reads_as_it_does_from_its_pod(world, name):
    page = (DATA / name).read_bytes()
    world.server.scrape("a", page, at=world.server.now - 5.0)
    await world.turn()
    (found,) = world.pages()
    assert content(found) == content(read(page, at=found.time))
    assert found.time == world.server.now - 5.0
    assert world.error() is None
    assert world.trouble is None
    assert world.read == ["a"]


async def test_labels_of_the_target_do_not_reach_facts_nor_tell_engines_apart(world):
    for number in (0, 1):
        target = {"container": "vllm", "node": "n", "engine": "of-the-target", "team": "search"}
        world.server.scrape("a", VLLM, at=world.server.now - 10.0 * number - 1, **target)
    await world.turn()
    assert content(world.pages()[-1]) == content(read(VLLM, at=0.0))
    assert not {"job", "instance", "team", "container"} & set(world.pages()[-1].facts)


async def test_without_up_the_usual_labels_are_taken_for_the_targets(world):
    world.server.scrape("a", VLLM, at=world.server.now - 1)
    for key in [key for key in world.server.samples if ("__name__", "up") in key]:
        del world.server.samples[key]
    await world.turn()
    assert content(world.pages()[-1]) == content(read(VLLM, at=0.0))


async def test_every_scrape_is_one_page_and_none_is_read_twice(world):
    for back in (40.0, 25.0, 10.0):
        world.server.scrape("a", VLLM, at=world.server.now - back)
    await world.turn()
    assert [world.server.now - page.time for page in world.pages()] == [40.0, 25.0, 10.0]
    await world.turn()
    assert len(world.read) == 3
    world.server.scrape("a", VLLM, at=world.server.now + 5.0)
    await world.turn(after=10.0)
    assert len(world.read) == 4


async def test_a_counter_that_was_reset_counts_from_zero_as_on_pods(world):
    before = VLLM.replace(b"vllm:generation_tokens_total{", b"vllm:generation_tokens_total{")
    for back, tokens in ((45.0, 1000.0), (30.0, 1600.0), (15.0, 90.0), (0.0, 390.0)):
        page = with_value(before, "vllm:generation_tokens_total", tokens)
        world.server.scrape("a", page, at=world.server.now - back)
    await world.turn()
    window = Window.of({"a": world.pages()}, now=world.server.now, window=Seconds(60.0), stale_after=Seconds(45.0))
    assert window.rate(Signal.GENERATION_TOKENS) == pytest.approx((600.0 + 90.0 + 300.0) / 45.0)


def with_value(page: bytes, name: str, value: float) -> bytes:
    lines = page.decode().split("\n")
    changed = [f"{line.rpartition(' ')[0]} {value}" if line.startswith(f"{name}{{") else line for line in lines]
    assert changed != lines
    return "\n".join(changed).encode()


async def test_the_servers_clock_is_brought_to_ours(world):
    world.server.ahead = 90.0
    world.server.scrape("a", VLLM, at=world.server.now - 5.0)
    await world.turn()
    assert abs(world.pages()[-1].time - (world.server.now - 5.0)) < 1.5


# ---- many at once


async def test_a_fleet_is_asked_for_together_and_not_pod_by_pod(world):
    world.pods = [engine_pod(f"pod-{n}") for n in range(40)]
    for pod in world.pods:
        world.server.scrape(pod.name, VLLM, at=world.server.now - 3)
    await world.turn()
    assert len(world.read) == 40
    assert len(world.server.asked) <= 12
    assert all("pod-0|" in query for query in world.server.asked)


async def test_what_is_too_large_for_the_server_is_asked_for_fewer_pods(world):
    world.pods = [engine_pod(f"pod-{n}") for n in range(24)]
    for pod in world.pods:
        world.server.scrape(pod.name, VLLM, at=world.server.now - 3)
    world.server.most_series = 2_000
    await world.turn()
    assert sorted(set(world.read)) == sorted(pod.name for pod in world.pods)
    asked = len(world.server.asked)
    for pod in world.pods:
        world.server.scrape(pod.name, VLLM, at=world.server.now + 5)
    await world.turn(after=10.0)
    assert len(world.server.asked) - asked < asked, "the size that worked is kept"


async def test_matchers_of_the_installation_are_in_every_question():
    with scraped() as server:
        world = World(server, settings={"prometheus_matchers": 'cluster="east",env=~"p.*"'})
        server.scrape("a", VLLM, at=server.now - 1, cluster="east", env="prod")
        server.scrape("a", with_value(VLLM, "vllm:num_requests_running", 63.0), at=server.now - 1, cluster="west")
        await world.turn()
        await world.source.servers.aclose()
        assert world.pages()[-1].gauges[Signal.REQUESTS_RUNNING] == 20.0
        assert all('cluster="east",env=~"p.*"' in query for query in server.asked)


# ---- several targets, engine and container by name


async def test_two_replicas_of_prometheus_are_not_added_up_nor_mixed(world):
    for replica, back in (("b", 2.0), ("a", 7.0)):
        for extra in (0.0, 15.0, 30.0):
            at = world.server.now - back - extra
            world.server.scrape("a", VLLM, at=at, prometheus_replica=replica)
    await world.turn()
    assert [world.server.now - page.time for page in world.pages()] == [37.0, 22.0, 7.0]
    world.server.scrape("a", VLLM, at=world.server.now + 10, prometheus_replica="b")
    await world.turn(after=12.0)
    assert len(world.pages()) == 3, "one replica missed a scrape: no reason to mix counters of two"
    for extra in (40.0, 55.0, 70.0, 100.0):
        world.server.scrape("a", VLLM, at=world.server.now + extra, prometheus_replica="b")
    await world.turn(after=110.0)
    assert world.pages()[-1].time == world.server.now - 10.0, "it is gone for good: the other one goes on"


async def test_the_target_at_the_engines_port_is_the_engine(world):
    proxy = with_value(VLLM, "vllm:num_requests_running", 99.0)
    world.server.scrape("a", proxy, at=world.server.now - 1, instance="10.0.0.1:15020")
    world.server.scrape("a", VLLM, at=world.server.now - 1, instance="10.0.0.1:8000")
    await world.turn()
    assert world.pages()[-1].gauges[Signal.REQUESTS_RUNNING] == 20.0


async def test_the_named_container_is_the_engine(world):
    world.pods = [engine_pod("a", container="proxy")]
    proxy = with_value(VLLM, "vllm:num_requests_running", 99.0)
    world.server.scrape("a", VLLM, at=world.server.now - 1, container="vllm")
    await world.turn()
    assert world.trouble.reason is Reason.SERIES_MISSING
    assert 'container="proxy"' in world.trouble.message
    world.server.scrape("a", proxy, at=world.server.now, container="proxy", instance="a:9000")
    await world.turn()
    assert world.pages()[-1].gauges[Signal.REQUESTS_RUNNING] == 99.0


async def test_the_named_engine_is_read_where_a_page_has_two(world):
    both = VLLM + (DATA / "sglang.txt").read_bytes()
    world.server.scrape("a", both, at=world.server.now - 1)
    world.pods = [engine_pod("a", kind=EngineKind.SGLANG)]
    await world.turn()
    assert world.pages()[-1].engine is EngineKind.SGLANG
    world.pods = [engine_pod("b", kind=EngineKind.TGI)]
    world.server.scrape("b", both, at=world.server.now - 1)
    await world.turn()
    assert "of TGI" in world.trouble.message


# ---- faults


async def test_a_server_that_is_away_is_said_and_read_again_when_it_is_back(world, caplog):
    world.server.answer = web.Response(status=503, text="starting")
    world.server.scrape("a", VLLM, at=world.server.now - 1)
    await world.turn()
    assert world.trouble.reason is Reason.METRICS_SERVER_UNREACHABLE
    assert world.error().reason is UnknownReason.UNREACHABLE
    assert world.pages() == ()
    await world.turn()
    assert sum("metrics server not read" in line for line in caplog.messages) == 1, "told once"
    world.server.answer = None
    await world.turn()
    assert len(world.pages()) == 1
    assert world.trouble is None
    assert world.error() is None


async def test_nothing_listens():
    with scraped() as server:
        pass
    world = World(server)
    await world.turn()
    await world.source.servers.aclose()
    assert world.trouble.reason is Reason.METRICS_SERVER_UNREACHABLE
    assert server.url in world.trouble.message


async def test_a_login_page_is_no_answer(world):
    world.server.answer = web.Response(text="<html>log in first</html>", content_type="text/html")
    await world.turn()
    assert world.trouble.reason is Reason.METRICS_SERVER_INVALID
    assert "JSON" in world.trouble.message


async def test_a_wrong_token_is_told_and_never_shown(tmp_path, caplog):
    (tmp_path / "token").write_text("wrong-and-secret")
    with scraped(token="right") as server:
        world = World(server, settings={"prometheus_token_file": tmp_path / "token"})
        await world.turn()
        assert world.trouble.reason is Reason.METRICS_SERVER_REFUSED
        (tmp_path / "token").write_text("right")
        server.scrape("a", VLLM, at=server.now - 1)
        await world.turn()
        await world.source.servers.aclose()
    assert world.trouble is None
    assert len(world.pages()) == 1
    assert "wrong-and-secret" not in caplog.text + world.settings.__repr__()


async def test_a_token_file_that_is_missing_is_told(tmp_path):
    with scraped() as server:
        world = World(server, settings={"prometheus_token_file": tmp_path / "none"})
        await world.turn()
        assert world.trouble.reason is Reason.METRICS_SERVER_NOT_CONFIGURED
        assert "token file" in world.trouble.message
        (tmp_path / "none").write_text("t")
        server.scrape("a", VLLM, at=server.now - 1)
        await world.turn()
        await world.source.servers.aclose()
        assert world.trouble is None


async def test_no_server_is_named():
    with scraped() as server:
        world = World(server, settings={"prometheus_url": ""})
        await world.turn()
    assert world.trouble.reason is Reason.METRICS_SERVER_NOT_CONFIGURED


async def test_what_is_absent_is_unknown_and_never_carried_over(world):
    world.pods = [engine_pod("a"), engine_pod("b")]
    world.server.scrape("a", VLLM, at=world.server.now - 1)
    await world.turn()
    assert world.error("a") is None
    assert world.error("b").reason is UnknownReason.NOT_MEASURED
    assert world.trouble.reason is Reason.SERIES_MISSING
    assert 'namespace="ns",pod="b"' in world.trouble.message
    await world.turn(after=200.0)
    assert world.error("a").reason is UnknownReason.STALE
    await world.turn(after=10.0)
    assert world.error("a").reason is UnknownReason.NOT_MEASURED
    assert len(world.pages("a")) == 1


async def test_a_stale_scrape_is_not_fresh(world):
    world.server.scrape("a", VLLM, at=world.server.now - 48)
    await world.turn()
    assert world.error().reason is UnknownReason.STALE
    assert world.trouble.reason is Reason.METRICS_STALE
    assert "OPTIINFRA_STALE_AFTER_SECONDS" in world.trouble.message
    window = Window.of({"a": world.pages()}, now=world.server.now, window=Seconds(60), stale_after=Seconds(45))
    assert window.fresh == {}


async def test_a_target_that_is_down_is_unreachable(world):
    world.server.scrape("a", None, at=world.server.now - 1)
    await world.turn()
    assert world.error().reason is UnknownReason.UNREACHABLE
    assert world.trouble.reason is Reason.ENGINE_UNREACHABLE
    assert "up is 0" in world.trouble.message


async def test_nan_is_unknown_as_on_a_page(world):
    world.server.scrape("a", nan_page().encode(), at=world.server.now - 1)
    await world.turn()
    assert content(world.pages()[-1]) == content(read(nan_page().encode(), at=0.0))
    assert Signal.REQUESTS_RUNNING not in world.pages()[-1].gauges


async def test_nothing_but_nan_is_no_page(world):
    world.server.scrape("a", b'vllm:num_requests_running{engine="0"} NaN\n', at=world.server.now - 1)
    await world.turn()
    assert world.pages() == ()
    assert world.trouble.reason is Reason.ENGINE_PAGE_INVALID


async def test_a_scrape_that_is_still_being_written_waits(world):
    world.server.scrape("a", VLLM, at=world.server.now - 16)
    await world.turn()
    half = VLLM[: VLLM.index(b"vllm:generation_tokens_total{")]
    world.server.scrape("a", half, at=world.server.now + 5)
    await world.turn(after=6.0)
    assert len(world.pages()) == 1
    world.server.samples.clear()
    world.server.scrape("a", VLLM, at=world.server.now - 1)
    await world.turn()
    assert content(world.pages()[-1]) == content(read(VLLM, at=0.0))


async def test_pods_that_go_are_forgotten(world):
    world.server.scrape("a", VLLM, at=world.server.now - 1)
    await world.turn()
    world.pods = []
    world.server.answer = web.Response(status=503)
    await world.turn()
    assert world.trouble is None
    assert world.source._newest == {}
    assert len(world.server.asked) <= 12
