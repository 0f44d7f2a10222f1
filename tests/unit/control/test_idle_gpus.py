"""Idle GPUs through a cluster's rounds: windows that outlast the snapshots, engines' words, doubts, and the status."""

from dataclasses import replace

import pytest

from optiinfra.api.conditions import ConditionStatus, ConditionType
from optiinfra.api.status_change import is_meaningful_change
from optiinfra.control.analyze import AnalysisTimes, analyze
from optiinfra.control.cluster_report import cluster_status
from optiinfra.control.idle_gpus import engines_of, services_of
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.snapshots import SnapshotStore
from optiinfra.control.work import ClusterWork, Work
from optiinfra.domain.cost import PriceList
from optiinfra.domain.evidence import RecommendationType
from optiinfra.domain.idle import GpuState
from optiinfra.domain.readings import EngineKind, EngineReading, Signal
from optiinfra.domain.workload import ContainerFacts
from tests.unit.control.examples import cro, ro
from tests.unit.domain.made_up import GIB, UNKNOWN, agent, gpu, node, pod

TIMES = AnalysisTimes(window=60.0, stale_after=90.0, tick=15.0, hold=600.0, idle_span=600.0)
DEPLOYMENT = ("ReplicaSet", "vllm-7c9d")
KEY = ObjectKey("ClusterResourceOptimization", "", "cluster")


class Rounds:
    """One cluster object, one node, a round a minute; agents are remembered for half an hour."""

    def __init__(self, *, price=2.5, window="1h", owner=DEPLOYMENT, services=None):
        self.obj, self.memory = cro(idleGpus={"window": window}), ObjectMemory()
        self.prices = {"": PriceList() if price is None else PriceList(gpu_hour=price)}
        self.pods = (replace(pod(created=-1e6), owner=owner),)
        self.kept, self.now, self.services, self.engines = [], 0.0, services or {}, {}
        self.work = None

    def pass_(self, minutes, **facts):
        for _ in range(minutes):
            self.now += 60.0
            facts.setdefault("used", 70 * GIB)
            self.kept.append(agent(self.now, gpu(**facts), allocations=(("GPU-0", "p1"),)))
            self.kept = self.kept[-30:]
            self.run()
        return self

    def run(self):
        one = node(*self.kept, pods=self.pods)
        self.work = ClusterWork(
            KEY,
            self.obj,
            self.memory,
            nodes={"n1": one},
            prices=self.prices,
            services=self.services,
            engines=self.engines,
        )
        analyze(Work("r", self.now, (KEY,), clusters=[self.work]), TIMES)
        return self.work

    @property
    def advice(self):
        return [one for one in self.work.proposals if one.type is RecommendationType.IDLE_GPU]

    @property
    def status(self):
        return cluster_status(self.work, round_id="r", now=self.now)


def test_a_gpu_is_proposed_when_it_was_idle_for_the_whole_window_however_short_the_snapshots_reach():
    rounds = Rounds().pass_(58)
    assert not rounds.advice
    assert rounds.work.verdicts[0].state is GpuState.IDLE_HELD_MEMORY
    (advice,) = rounds.pass_(4).advice
    assert advice.reason == "ScaleIn"
    assert advice.subject == "ns/vllm"
    assert advice.savings.per_month == pytest.approx(2.5 * 730)


def test_work_begins_the_window_anew():
    rounds = Rounds().pass_(90)
    assert rounds.advice
    assert not rounds.pass_(1, busy=0.8).advice
    assert not rounds.pass_(58).advice
    assert rounds.pass_(6).advice


def test_a_restart_begins_anew_and_cautiously():
    rounds = Rounds().pass_(90)
    rounds.memory = ObjectMemory()
    rounds.run()
    assert not rounds.advice
    assert rounds.work.verdicts[0].state is GpuState.IDLE_HELD_MEMORY


def test_the_status_names_the_holder_since_when_and_the_price():
    rounds = Rounds().pass_(90)
    status = rounds.status
    (shown,) = status.idle_gpus.gpus
    assert (shown.uuid, shown.node, shown.holders) == ("GPU-0", "n1", ("ns/p1",))
    assert shown.state == "IdleHeldMemory"
    assert shown.per_hour.value == 2.5
    assert shown.since.unix == 60.0
    assert status.summary.idle_gpus == 1
    assert Rounds(price=None).pass_(90).status.idle_gpus.gpus[0].per_hour.value is None


def test_an_idle_cluster_is_written_once():
    rounds = Rounds().pass_(90)
    first = rounds.status
    rounds.obj = rounds.obj.model_copy(update={"status": first})
    rounds.pass_(1)
    assert not is_meaningful_change(first, rounds.status, now=rounds.now)


def test_a_busy_cluster_shows_no_idle_gpus():
    assert Rounds().pass_(90, busy=0.9).status.idle_gpus is None


def test_readings_that_cannot_be_are_a_condition_and_no_recommendation():
    rounds = Rounds().pass_(90)
    rounds.pass_(1, used=200 * GIB)
    assert not rounds.advice
    degraded = next(one for one in rounds.status.conditions if one.type == ConditionType.DEGRADED)
    assert degraded.status == ConditionStatus.TRUE
    assert "GPU-0 of node n1" in degraded.message
    assert "80 GiB" in degraded.message


def test_an_unknown_model_is_refused_with_the_reason():
    rounds = Rounds().pass_(60)
    rounds.kept = [
        replace(one, gpus=tuple(replace(each, model="Wonder 9000") for each in one.gpus)) for one in rounds.kept
    ]
    rounds.run()
    assert not rounds.advice
    for _ in range(30):
        rounds.now += 60.0
        rounds.kept.append(
            agent(rounds.now, replace(gpu(used=70 * GIB), model="Wonder 9000"), allocations=(("GPU-0", "p1"),))
        )
        rounds.kept = rounds.kept[-30:]
        rounds.run()
    assert not rounds.advice
    assert "UnknownGpuModel" in {one.reason for one in rounds.work.refusals}


def test_a_clock_that_went_back_leaves_nothing_proposed():
    rounds = Rounds().pass_(90)
    rounds.now, rounds.kept = 100.0, []
    assert not rounds.pass_(3).advice
    assert rounds.work.verdicts[0].state is GpuState.UNKNOWN


def test_a_service_with_an_object_keeps_its_saving_there():
    rounds = Rounds(services={("ns", "Deployment", "vllm"): "chat"}).pass_(90)
    (advice,) = rounds.advice
    assert advice.savings.gpus_freed == 0.0
    assert "ns/chat" in advice.message


# ---- what engines say


def page(at, *, running=0.0, tokens=1000.0, sleeping=0.0):
    return EngineReading(
        time=at,
        engine=EngineKind.VLLM,
        version="0.11",
        model="m",
        gauges={Signal.REQUESTS_RUNNING: running, Signal.REQUESTS_WAITING: 0.0, Signal.SLEEPING: sleeping},
        counters={Signal.GENERATION_TOKENS: tokens},
    )


def words(*pages, now=1000.0, arguments=()):
    store = SnapshotStore()
    held = replace(
        pod(),
        owner=DEPLOYMENT,
        containers=(ContainerFacts("c", UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, 1.0, arguments=arguments),),
    )
    for one in pages:
        store.page(held.uid, one)
    return engines_of([node(pods=(held,))], store, {("ns", "Deployment", "vllm"): "chat"}, now=now)


def test_an_engine_works_when_requests_run_or_tokens_are_made():
    assert not words(page(940.0), page(1000.0))["ns/p1"].working
    assert words(page(940.0), page(1000.0, running=1.0))["ns/p1"].working
    assert words(page(940.0, running=1.0), page(1000.0))["ns/p1"].working
    assert words(page(940.0), page(1000.0, tokens=1001.0))["ns/p1"].working
    assert not words(page(940.0, tokens=5000.0), page(1000.0, tokens=0.0))["ns/p1"].working


def test_old_pages_say_nothing_and_an_engine_says_whether_it_can_sleep():
    assert words(page(100.0)) == {}
    word = words(page(1000.0, sleeping=1.0), arguments=("serve", "--enable-sleep-mode"))["ns/p1"]
    assert word.can_sleep
    assert word.sleeping
    assert word.service == "chat"
    assert not words(page(1000.0))["ns/p1"].can_sleep


def test_an_engine_at_work_is_no_idle_gpu():
    rounds = Rounds().pass_(30)
    rounds.engines = words(page(1740.0), page(1800.0, running=3.0), now=1800.0)
    assert rounds.pass_(1).work.verdicts[0].state is not GpuState.IDLE_HELD_MEMORY


def test_the_workloads_that_objects_look_after():
    known = [(ObjectKey("ResourceOptimization", "inference", "chat"), ro())]
    assert list(services_of(known).values()) == ["chat"]
