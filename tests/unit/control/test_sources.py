"""Background tables: which pages there are to read, where targets stand, what containers use."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

import pytest

from optiinfra.api.v1alpha1 import TargetRef
from optiinfra.cluster.errors import Absent, ClusterError, Invalid, Unavailable
from optiinfra.cluster.targets import TargetFacts
from optiinfra.control.registry import Registry
from optiinfra.control.sources import Sources
from optiinfra.control.targets import TargetTable
from optiinfra.domain.workload import PodFacts
from optiinfra.settings import OperatorSettings, Scope
from tests.unit.control import virtual
from tests.unit.control.examples import DEPLOYMENT, NOW, pending, pod, ro_body
from tests.unit.control.test_collect import target_facts

REF = TargetRef.model_validate(DEPLOYMENT)
AGENTS = "app.kubernetes.io/name=optiinfra,app.kubernetes.io/component=agent"


@dataclass
class Cluster:
    pods: dict[tuple[str, str], tuple[PodFacts, ...]]
    errors: dict[str, ClusterError] = field(default_factory=dict)
    synced: bool = True

    def pods_of(self, namespace: str, selector: str) -> tuple[PodFacts, ...]:
        if selector in self.errors:
            raise self.errors[selector]
        return self.pods.get((namespace, selector), ())


@dataclass
class Reader:
    """Reads targets, slowly if told."""

    answers: dict[str, TargetFacts | ClusterError]
    seconds: float = 0.0
    reads: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def read(self, *, api_version: str, kind: str, namespace: str, name: str) -> TargetFacts:
        self.reads.append(name)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.seconds)
        self.at_once -= 1
        answer = self.answers[name]
        if isinstance(answer, ClusterError):
            raise answer
        return answer


PODS = {
    ("inference", "app=vllm"): (
        pod("a", ip="10.0.0.1"),
        pod("six", ip="fd00::6"),
        pod("loading", ready=False),
        pod("leaving", terminating=True),
        pod("no-address", ip=""),
        pending(),
    ),
    ("optiinfra", AGENTS): (pod("agent-1", node="n1", ip="10.1.0.1"), pod("agent-2", node="n2", ready=False)),
}


async def sources(*bodies: dict[str, Any], cluster: Cluster | None = None, **settings: Any) -> Sources:
    registry = Registry()
    for body in bodies:
        registry.upsert("ResourceOptimization", body)
    table = TargetTable(
        reader=Reader({"vllm": target_facts(), "odd": target_facts("odd", selector="odd in")}), clock=lambda: NOW
    )
    for key, obj in registry.services():
        if obj.spec.target_ref is not None:
            await table.refresh(key.namespace, obj.spec.target_ref)
    inventory: Any = cluster or Cluster(PODS)
    return Sources(settings=OperatorSettings(**settings), registry=registry, targets=table, inventory=inventory)


async def test_each_ready_engine_pod_and_each_ready_agent_is_a_page():
    body = ro_body(engine={"port": 9000, "path": "/m", "scheme": "https"})
    found = list((await sources(body, scrape_interval_seconds=7, agent_interval_seconds=20)).all())
    assert [(source.kind, source.key, str(source.url), source.interval) for source in found] == [
        ("engine", "uid-of-a", "https://10.0.0.1:9000/m", 7.0),
        ("engine", "uid-of-six", "https://[fd00::6]:9000/m", 7.0),
        ("agent", "n1", "http://10.1.0.1:8003/v1/snapshot", 20.0),
    ]


async def test_agents_are_asked_about_the_pods_of_services_by_uid_and_by_name():
    made = await sources(ro_body())
    pods, names = made.pods, made.names
    list(made.all())
    assert pods == {one.uid for one in PODS["inference", "app=vllm"]}
    assert names == {("inference", one.name) for one in PODS["inference", "app=vllm"]}
    made.inventory.pods = {}
    list(made.all())
    assert (pods, names) == (set(), set()), "the same sets: the scraper holds on to them"


@pytest.mark.parametrize("spec", [{"suspend": True}, {"engine": {"source": "Prometheus"}}])
async def test_what_is_suspended_or_read_elsewhere_is_not_read_here(spec):
    assert [source.kind for source in (await sources(ro_body(**spec))).all()] == ["agent"]


async def test_with_scope_namespaces_there_are_no_agents():
    found = list((await sources(ro_body(), scope=Scope.NAMESPACES)).all())
    assert {source.kind for source in found} == {"engine"}


async def test_before_the_mirrors_are_full_nothing_is_read():
    assert list((await sources(ro_body(), cluster=Cluster(PODS, synced=False))).all()) == []


async def test_one_object_that_cannot_be_read_does_not_stop_the_others_and_is_logged_once(caplog):
    cluster = Cluster(PODS, errors={"odd in": Invalid("selector 'odd in' is not understood")})
    odd = ro_body("odd", uid="u0", targetRef=DEPLOYMENT | {"name": "odd"})
    there = await sources(odd, ro_body(), cluster=cluster)
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            assert [source.kind for source in there.all()] == ["engine", "engine", "agent"]
    assert len(caplog.records) == 1


# targets


def test_one_target_asked_for_by_many_at_once_is_one_request_and_many_are_bounded():
    async def story() -> tuple[Reader, TargetTable]:
        reader = Reader({f"t{number}": target_facts(f"t{number}") for number in range(40)}, seconds=1.0)
        table = TargetTable(reader=reader, clock=virtual.now, concurrency=4)
        references = [REF.model_copy(update={"name": f"t{number}"}) for number in range(40)]
        await asyncio.gather(*(table.refresh("inference", ref) for ref in references for _ in range(3)))
        assert table.age("inference", references[0]) == pytest.approx(9.0, abs=0.1)
        return reader, table

    reader, _ = virtual.run(story)
    assert len(reader.reads) == 40
    assert reader.most_at_once == 4


async def test_no_answer_is_no_news_about_a_target():
    reader = Reader({"vllm": Absent("gone")})
    table = TargetTable(reader=reader, clock=lambda: NOW)
    await table.refresh("inference", REF)
    reader.answers["vllm"] = Unavailable("the API server restarts")
    await table.refresh("inference", REF)
    known = table.get("inference", REF)
    assert known is not None
    assert isinstance(known.error, Absent), "what was certain still stands"
    never = TargetTable(reader=reader, clock=lambda: NOW)
    await never.refresh("inference", REF)
    unread = never.get("inference", REF)
    assert unread is not None
    assert isinstance(unread.error, Unavailable), "nothing else is known"


async def test_without_an_answer_what_was_read_is_believed_for_a_while_and_not_for_ever():
    reader, now = Reader({"vllm": target_facts()}), [NOW]
    table = TargetTable(reader=reader, clock=lambda: now[0])
    await table.refresh("inference", REF)
    known = table.get("inference", REF)
    reader.answers["vllm"] = Unavailable("no answer")
    for _ in range(17):
        now[0] += 10.0
        await table.refresh("inference", REF)
        assert known.error is None, "an outage of minutes is no news"
    now[0] += 30.0
    await table.refresh("inference", REF)
    assert isinstance(known.error, Unavailable)
    reader.answers["vllm"] = target_facts(desired_replicas=9)
    await table.refresh("inference", REF)
    assert (known.error, known.facts.desired_replicas) == (None, 9)
    reader.answers["vllm"] = Unavailable("no answer")
    for _ in range(2):
        now[0] += 3600.0
        await table.refresh("inference", REF)
        assert known.error is None, "rare looks need as many failures"
    await table.refresh("inference", REF)
    assert isinstance(known.error, Unavailable)


async def test_the_last_good_answer_stays_beside_an_error_and_a_success_clears_it():
    reader = Reader({"vllm": target_facts()})
    table = TargetTable(reader=reader, clock=lambda: NOW)
    assert table.get("inference", REF) is None
    assert table.age("inference", REF) == float("inf")
    await table.refresh("inference", REF)
    reader.answers["vllm"] = Absent("gone")
    await table.refresh("inference", REF)
    known = table.get("inference", REF)
    assert known is not None
    assert known.facts is not None
    assert isinstance(known.error, Absent)
    reader.answers["vllm"] = target_facts(desired_replicas=9)
    await table.refresh("inference", REF)
    assert known.error is None
    assert known.facts.desired_replicas == 9


async def test_a_cancelled_read_can_be_made_again():
    reader = Reader({"vllm": target_facts()}, seconds=60.0)
    table = TargetTable(reader=reader, clock=lambda: NOW)
    task = asyncio.create_task(table.refresh("inference", REF))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    reader.seconds = 0.0
    await table.refresh("inference", REF)
    known = table.get("inference", REF)
    assert known is not None
    assert known.facts is not None


async def test_targets_nobody_points_at_are_forgotten():
    table = TargetTable(reader=Reader({"vllm": target_facts()}), clock=lambda: NOW)
    await table.refresh("inference", REF)
    await table.refresh("other", REF)
    table.forget_except({("other", REF)})
    assert table.get("inference", REF) is None
    assert table.get("other", REF) is not None
