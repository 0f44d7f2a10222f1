"""What the round notes of a target's GPUs, and the share that it comes to."""

from dataclasses import replace

import pytest

from optiinfra.control import gpu_share
from optiinfra.domain import gpu_models
from optiinfra.domain.advice import AdviceInput
from optiinfra.domain.cost import PriceList
from optiinfra.domain.diagnosis import Diagnosis
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Bottleneck, Proposal, Refusal
from optiinfra.domain.gpu_use import GpuUse
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import Ratio, Seconds, UnixTime
from optiinfra.domain.workload import (
    AgentReading,
    ContainerFacts,
    GpuAllocation,
    GpuFacts,
    NodeFacts,
)
from tests.unit.control.examples import NOW, UNMEASURED, facts, pod, service, signals

NONE = Unknown(UnknownReason.NOT_MEASURED, "not measured")
GIB = 2.0**30
STALE = Seconds(120.0)
TRAINER = ContainerFacts("app", NONE, NONE, NONE, NONE, 1.0, gpu_resources=(("nvidia.com/gpu", 1.0),))


def node(at, *, sm=0.2, memory=15 * GIB, held="vllm-1"):
    gpu = GpuFacts("gpu-0", "NVIDIA H100 80GB HBM3", 80 * GIB, memory, 0.5, 300.0, 700.0, sm_active_ratio=sm)
    other = replace(gpu, uuid="gpu-1", sm_active_ratio=1.0)
    allocations = (GpuAllocation("gpu-0", "inference", held, "app", shared=False),) if held else ()
    reading = AgentReading(UnixTime(at), "n1", "1", 8.0, 0.5, 64 * GIB, 32 * GIB, (gpu, other), 1.0, allocations)
    placed = pod(containers=(TRAINER,), namespace="inference")
    return NodeFacts(
        "n1", "", "H100", 2.0, 8.0, 64 * GIB, ready=True, unschedulable=False, pods=(placed,), agent=(reading,)
    )


def work(**changes):
    placed = pod(containers=(TRAINER,), namespace="inference", **changes)
    made = service(facts=facts(pods=(placed,)), settings=EngineSettings())
    made.targets[0].signals = signals()
    made.prices = PriceList(gpu_hour=2.0)
    return made


def watched(made, *, hours=30, **how):
    target = made.targets[0]
    for minute in range(0, hours * 60, 5):
        at = NOW - hours * 3600.0 + minute * 60.0
        gpu_share.observe(target, {"n1": node(at, **how)}, now=UnixTime(at), stale_after=STALE)
    return target.memory.gpu_use.summary()


def test_only_the_gpus_that_the_pods_hold_are_noted():
    found = watched(work())
    assert isinstance(found, GpuUse)
    assert (found.activity_most, found.memory_peak) == (0.2, 15 * GIB)


@pytest.mark.parametrize("how", [{"held": ""}, {"sm": NONE}])
def test_gpus_that_cannot_be_told_apart_are_dark(how):
    found = watched(work(), **how)
    if how == {"sm": NONE}:
        assert isinstance(found, GpuUse)
        assert found.bound
    else:
        assert isinstance(found, Unknown)


def test_an_agent_that_is_silent_is_dark_and_not_idle():
    made = work()
    target = made.targets[0]
    for minute in range(0, 30 * 60, 5):
        at = UnixTime(NOW + minute * 60.0)
        gpu_share.observe(target, {"n1": node(NOW - 7200.0)}, now=at, stale_after=STALE)
    assert isinstance(target.memory.gpu_use.summary(), Unknown)


def test_a_clock_that_was_set_back_begins_a_history_anew():
    made = work()
    watched(made)
    target, back = made.targets[0], UnixTime(NOW - 40 * 86_400.0)
    gpu_share.observe(target, {"n1": node(back)}, now=back, stale_after=STALE)
    assert target.memory.gpu_use.last == back


def advised(made):
    target = made.targets[0]
    verdict = Diagnosis(Bottleneck.HEALTHY, Ratio(0.9), "Stated", "Stated by the test.", (), UNMEASURED, "")
    gpu = gpu_models.recognise("NVIDIA H100 80GB HBM3")
    given = AdviceInput(target.signals, target.settings, verdict, made.settings.objectives, gpu=gpu)
    return gpu_share.advise(made, target, given)


def test_a_smaller_profile_is_proposed_with_its_price():
    made = work()
    watched(made)
    (answer,) = advised(made)
    assert isinstance(answer, Proposal)
    assert answer.proposed == "1 x nvidia.com/mig-3g.40gb"
    assert answer.subject == made.targets[0].target.name, "what replicas free is not counted again"
    assert answer.savings.per_month == pytest.approx(made.targets[0].facts.ready_replicas * 0.5 * 2.0 * 730.0)


def test_too_short_a_watch_is_refused():
    made = work()
    watched(made, hours=5)
    (answer,) = advised(made)
    assert isinstance(answer, Refusal)
    assert answer.reason == "TooFewSamples"
