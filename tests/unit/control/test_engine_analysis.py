"""Verdicts over rounds, and what advice is told of the hardware and the model."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from optiinfra.control import engine_analysis
from optiinfra.control.model_files import ModelFile
from optiinfra.control.surroundings import container_cpu, gpu_of
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Bottleneck, RecommendationType, Refusal
from optiinfra.domain.gpu_models import GpuModel
from optiinfra.domain.model_facts import ModelFacts
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.utilization import summarise
from optiinfra.domain.workload import AgentReading, ContainerFacts, GpuFacts, NodeFacts
from tests.unit.control.examples import NOW, facts, page, pod, ro, service, signals

TIMES = SimpleNamespace(window=Seconds(60.0), stale_after=Seconds(45.0))
UNKNOWN = Unknown(UnknownReason.NOT_MEASURED)
QUIET = {"running": 4.0, "waiting": 0.0, "kv_cache_usage_max": 0.3, "preemption_rate": 0.0, "waiting_share": 0.0}
FULL = {"waiting": 9.0, "kv_cache_usage_max": 0.99, "kv_cache_usage": 0.99, "preemption_rate": 1.0}


class Rounds:
    """One target whose windows a test plays one after the other."""

    def __init__(self):
        self.work = service(facts=facts())
        self.target = self.work.targets[0]

    def see(self, *, at, page_at, **values):
        self.target.signals = replace(
            signals(time=UnixTime(NOW + at), replicas_expected=4, replicas_reporting=4, window=60.0), **(QUIET | values)
        )
        newest = None if page_at is None else page(NOW + page_at)
        found = engine_analysis.diagnose(
            self.work, self.target, newest, idle_span=Seconds(300.0), now=UnixTime(NOW + at)
        )
        self.target.diagnosis = found
        return found.bottleneck


def advised(rounds):
    given = engine_analysis.advice_input(rounds.work, rounds.target, {})
    return engine_analysis.advise(rounds.work, rounds.target, given)


def test_the_same_pages_judged_twice_are_no_second_witness():
    rounds = Rounds()
    first = rounds.see(at=0, page_at=0)
    assert first is not Bottleneck.KV_CACHE
    assert rounds.see(at=30, page_at=30, **FULL) is first
    for again in range(5):
        assert rounds.see(at=31 + again, page_at=30, **FULL) is first
    assert rounds.see(at=60, page_at=60, **FULL) is Bottleneck.KV_CACHE


def test_pages_that_stop_coming_end_the_verdict():
    rounds = Rounds()
    rounds.see(at=0, page_at=0, **FULL)
    for at in (60, 90, 120):
        found = rounds.see(at=at, page_at=0, replicas_reporting=0, running=UNKNOWN, waiting=UNKNOWN)
    assert found is Bottleneck.UNKNOWN


def node(name="n1", *, agent_models=(), label=""):
    gpus = tuple(
        GpuFacts(
            uuid=f"{name}-{index}",
            model=model,
            memory_total_bytes=8e10,
            memory_used_bytes=1e9,
            utilization_ratio=0.5,
            power_watts=UNKNOWN,
            power_limit_watts=UNKNOWN,
        )
        for index, model in enumerate(agent_models)
    )
    reading = AgentReading(
        time=NOW,
        node=name,
        agent_version="test",
        cpu_cores=8.0,
        cpu_utilization_ratio=0.1,
        memory_total_bytes=1e11,
        memory_available_bytes=5e10,
        gpus=gpus,
        gpu_source=1.0,
    )
    return NodeFacts(
        name=name,
        pool="",
        gpu_model=label,
        gpus=float(len(gpus) or 1),
        cpu_cores=8.0,
        memory_bytes=1e11,
        ready=True,
        unschedulable=False,
        agent=(reading,) if gpus else (),
    )


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node(agent_models=["NVIDIA H100 80GB HBM3"])], "H100"),
        ([node(label="NVIDIA-L40S")], "L40S"),
        ([node(agent_models=["NVIDIA H100 80GB HBM3"], label="NVIDIA-L40S")], "H100"),
        ([node("n1", label="NVIDIA-L40S"), node("n2", label="Tesla-T4")], None),
        ([node()], None),
        ([node(label="A card of tomorrow")], None),
    ],
)
def test_the_gpu_that_advice_computes_with(nodes, expected):
    known = {one.name: one for one in nodes}
    workload = facts(
        pods=tuple(
            pod(f"p-{one.name}", node=one.name, gpus=1.0, phase="Running", namespace="inference") for one in nodes
        )
    )
    used = summarise(workload, known, now=NOW, window=Seconds(600.0), stale_after=Seconds(60.0))
    found = gpu_of(workload, used, known)
    assert isinstance(found, Unknown) if expected is None else isinstance(found, GpuModel)
    if expected:
        assert found.name.startswith(expected)


def test_advice_knows_the_model_that_the_object_names():
    rounds = Rounds()
    rounds.work = service(ro(model={"family": "llama-3.1-8b"}), facts=facts())
    rounds.target = rounds.work.targets[0]
    rounds.see(at=0, page_at=0, **FULL)
    rounds.target.utilization = summarise(
        rounds.target.facts, {}, now=NOW, window=Seconds(600.0), stale_after=Seconds(60.0)
    )
    given = engine_analysis.advice_input(rounds.work, rounds.target, {})
    assert given.model.layers == 32
    assert advised(rounds)


def test_a_group_of_pods_is_one_replica_and_its_leader_speaks():
    def member(name, argument):
        container = ContainerFacts("engine", UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, gpus=8.0, arguments=(argument,))
        return pod(name, containers=(container,))

    pods = (member("vllm-0-1", "worker"), member("vllm-0", "leader"), member("vllm-1", "leader"))
    pages = {"vllm-0": (page(NOW - 5),), "vllm-0-1": (page(NOW),)}
    group = facts(kind="LeaderWorkerSet", name="vllm", pods=pods, pages=pages)
    assert engine_analysis.containers(group)[0].arguments == ("leader",)
    assert engine_analysis.newest_page(group).time == NOW - 5
    alone = replace(group, kind="Deployment")
    assert engine_analysis.newest_page(alone).time == NOW


def variants(*roles):
    target = {"apiVersion": "apps/v1", "kind": "Deployment"}
    return service(
        ro(
            variants=[
                {"name": f"v{index}", "role": role, "targetRef": target | {"name": f"t{index}"}}
                for index, role in enumerate(roles)
            ]
        )
    )


def test_prefill_and_decode_parts_are_one_service():
    work = variants("Prefill", "Decode")
    work.targets[0].signals = signals(waiting=7.0, kv_cache_usage_max=0.1)
    work.targets[1].signals = signals(waiting=0.0, kv_cache_usage_max=0.8)
    joined = engine_analysis.whole(work, TIMES, now=NOW)
    assert (joined.waiting, joined.kv_cache_usage_max) == (7.0, 0.8)


def test_variants_of_one_role_are_added_up():
    work = variants("Unified", "Unified")
    for target in work.targets:
        target.facts = facts(pages={"p": (page(NOW - 20), page(NOW - 5))})
        target.signals = signals()
    joined = engine_analysis.whole(work, TIMES, now=NOW)
    assert joined.replicas_reporting == 2
    assert joined.replicas_expected == 8


def test_without_a_word_of_any_target_there_is_no_whole():
    assert engine_analysis.whole(variants("Unified", "Unified"), TIMES, now=NOW) is None


def test_a_forecast_of_hits_is_made_for_a_pool_that_limits_and_then_kept(monkeypatch):
    asked = []

    def predict(pages, *, capacity):
        asked.append(capacity)
        return ()

    monkeypatch.setattr(engine_analysis.prefix_reuse, "predict_from_pages", predict)
    rounds = Rounds()
    rounds.target.utilization = summarise(facts(), {}, now=NOW, window=Seconds(600.0), stale_after=Seconds(60.0))
    rounds.see(at=0, page_at=0)
    advised(rounds)
    assert asked == []
    rounds = Rounds()
    rounds.target.utilization = summarise(facts(), {}, now=NOW, window=Seconds(600.0), stale_after=Seconds(60.0))
    for at, expected in ((0, 1), (30, 1), (590, 1), (700, 2)):
        rounds.see(at=at, page_at=at, **FULL)
        advised(rounds)
        assert len(asked) == expected


def test_advice_rests_on_the_file_of_the_model_and_says_when_it_could_not():
    rounds = Rounds()
    named = ro(model={"family": "llama-3.1-8b", "layers": 30}, kvCache={"enabled": False})
    rounds.work = service(named, facts=facts())
    rounds.target = rounds.work.targets[0]
    rounds.see(at=0, page_at=0, **FULL)
    rounds.target.utilization = summarise(
        rounds.target.facts, {}, now=NOW, window=Seconds(600.0), stale_after=Seconds(60.0)
    )
    rounds.work.model_file = ModelFile(ModelFacts(layers=31.0, kv_heads=4.0))
    given = engine_analysis.advice_input(rounds.work, rounds.target, {})
    assert (given.model.layers, given.model.kv_heads, given.model.head_size) == (30.0, 4.0, 128.0)
    why = Refusal(RecommendationType.KV_CACHE, "ModelFileUnreadable", "it does not exist")
    rounds.work.model_file = ModelFile(notes=(why,))
    assert why in advised(rounds)
    assert engine_analysis.advice_input(rounds.work, rounds.target, {}).model.kv_heads == 8.0


@pytest.mark.parametrize(
    ("used", "limit", "age", "expected"),
    [
        (3.9, 4.0, 60.0, 0.975),
        (5.0, 4.0, 60.0, 1.0),
        (3.9, UNKNOWN, 60.0, UnknownReason.UNSUPPORTED),
        (3.9, 4.0, 600.0, UnknownReason.NOT_MEASURED),
        (None, 4.0, 60.0, UnknownReason.NOT_MEASURED),
    ],
)
def test_what_the_engines_container_uses_of_its_cpu(used, limit, age, expected):
    container = ContainerFacts("engine", UNKNOWN, limit, UNKNOWN, UNKNOWN, gpus=1.0)
    work = service(facts=facts(pods=(pod(containers=(container,)),)), settings=EngineSettings(container="engine"))
    if used is not None:
        work.targets[0].busiest = {"engine": (UnixTime(NOW - age), used), "sidecar": (NOW, 9.0)}
    found = container_cpu(work.targets[0], now=NOW)
    assert (found.reason if isinstance(found, Unknown) else found) == expected
