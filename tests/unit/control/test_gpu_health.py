"""Unhealthy GPUs in the round: who holds them, that nothing shrinks onto them, and what people are told."""

from dataclasses import replace

import pytest

from optiinfra import metrics
from optiinfra.api.conditions import ConditionStatus, ConditionType
from optiinfra.api.reasons import Reason
from optiinfra.control import gpu_health
from optiinfra.control.conditions import cluster_conditions, service_conditions
from optiinfra.control.report import InsightState
from optiinfra.control.work import ClusterWork
from optiinfra.domain.agent_readings import GpuFaults
from optiinfra.domain.gpu_health import HealthMemory
from optiinfra.domain.units import UnixTime
from tests.unit.control import examples
from tests.unit.control.examples import NOW, cro, decision, service
from tests.unit.control.test_idle_gpus import KEY
from tests.unit.domain.made_up import agent, gpu, node, pod


def nodes(*, holder="vllm-1", action=1.0, namespace="inference"):
    ill = replace(gpu(), faults=GpuFaults((), action, 0.0))
    reading = agent(NOW, ill, allocations=(("GPU-0", holder),))
    reading = replace(reading, allocations=tuple(replace(one, namespace=namespace) for one in reading.allocations))
    found = {"n1": node(reading, pods=(replace(pod(holder), namespace=namespace),))}
    gpu_health.mark(found, HealthMemory(), now=NOW)
    return found


def held(service_, nodes_):
    target = service_.targets[0]
    target.facts = examples.facts(pods=(examples.pod("vllm-1", namespace="inference"),))
    target.sick = gpu_health.held_by(target, nodes_)
    return target


def test_marked_on_the_node_and_counted():
    assert [one.reason for one in nodes()["n1"].troubles] == ["RecoveryNeeded"]
    assert metrics.UNHEALTHY_GPUS.labels("RecoveryNeeded")._value.get() == 1.0
    assert nodes(action=0.0)["n1"].troubles == ()
    assert metrics.UNHEALTHY_GPUS.labels("RecoveryNeeded")._value.get() == 0.0


def test_the_service_that_holds_it_does_not_shrink_and_may_grow():
    target = held(service(), nodes())
    target.decision = decision(desired=2, current=4)
    gpu_health.hold(target)
    assert (target.decision.desired, target.decision.floor >= 4) == (4, True)
    assert "GPU GPU-0 of node n1" in target.decision.message
    assert target.decision.shrink_blocked[-1].startswith("GPUUnhealthy")
    target.decision = decision(desired=6, current=4)
    gpu_health.hold(target)
    assert target.decision.desired == 6


@pytest.mark.parametrize("found", [{"action": 0.0}, {"holder": "someone-else"}, {"namespace": "elsewhere"}])
def test_others_shrink_as_before(found):
    target = held(service(), nodes(**found))
    target.decision = decision(desired=2, current=4)
    gpu_health.hold(target)
    assert (target.sick, target.decision.desired) == ((), 2)


def test_both_objects_are_degraded_and_say_which_gpu_and_whose():
    work = service()
    held(work, nodes())
    insight = InsightState(ConditionStatus.UNKNOWN, Reason.NOT_CONFIGURED, "")
    of_service = {one.type: one for one in service_conditions(work, insight)}[ConditionType.DEGRADED]
    cluster = ClusterWork(KEY, cro(), work.memory, nodes=nodes())
    of_cluster = {one.type: one for one in cluster_conditions(cluster)}[ConditionType.DEGRADED]
    for told in (of_service, of_cluster):
        assert (told.status, told.reason) == (ConditionStatus.TRUE, "GPUUnhealthy")
        assert "GPU GPU-0 of node n1" in told.message
        assert "a reset of the GPU" in told.message
    assert "inference/vllm-1" in of_cluster.message
    gpu_health.judge(cluster)
    assert [(one.type, one.reason, one.subject) for one in cluster.findings] == [
        ("UnhealthyGPU", "RecoveryNeeded", "GPU-0")
    ]


def test_many_are_counted_and_three_are_named():
    found = {}
    for number in range(5):
        ill = replace(gpu(f"GPU-{number}"), faults=GpuFaults((), 1.0, 0.0))
        found[f"n{number}"] = node(agent(NOW, ill), name=f"n{number}")
    gpu_health.mark(found, HealthMemory(), now=UnixTime(NOW))
    told = gpu_health.cluster_condition(ClusterWork(KEY, cro(), service().memory, nodes=found))
    assert told.message.count("its driver asks for") == 3
    assert "; and 2 more." in told.message
