"""Utilisation of a workload: whose GPUs, which moments, and when it is not known."""

import pytest

from optiinfra.domain import utilization
from optiinfra.domain.readings import EngineKind, EngineReading, Signal, Unknown, UnknownReason
from optiinfra.domain.workload import WorkloadFacts
from tests.unit.domain.made_up import GIB, UNKNOWN, agent, gpu, node, pod

NOW = 1000.0


def workload(*pods, pages=None, errors=None):
    return WorkloadFacts(
        namespace="ns",
        kind="Deployment",
        name="w",
        uid="u",
        desired_replicas=len(pods),
        ready_replicas=len(pods),
        pods=pods,
        scaler=None,
        pages=pages or {},
        page_errors=errors or {},
    )


def summarise(facts, *nodes):
    return utilization.summarise(facts, {one.name: one for one in nodes}, now=NOW, window=300.0, stale_after=60.0)


def test_only_the_gpus_that_the_pods_hold_count():
    readings = [
        agent(
            time,
            gpu("GPU-0", busy=busy, used=40 * GIB, watts=300.0),
            gpu("GPU-1", busy=1.0, used=80 * GIB, watts=700.0),
            allocations=(("GPU-0", "p1"), ("GPU-1", "other")),
        )
        for time, busy in ((900.0, 0.2), (950.0, 0.6), (990.0, 0.4))
    ]
    found = summarise(workload(pod()), node(*readings, pods=(pod(), pod("other")), gpus=2.0))
    assert found.gpu_uuids == ("GPU-0",)
    assert found.gpu_ratio_mean == pytest.approx(0.4)
    assert found.gpu_ratio_max == 0.6
    assert found.gpu_memory_ratio == 0.5
    assert found.gpu_power_watts == 300.0
    assert found.measured == 990.0
    assert found.node_cpu_ratio == 0.25
    assert found.node_memory_ratio == pytest.approx(0.25)
    assert (found.gpus_expected, found.gpus_measured) == (1.0, 1)


def test_a_pod_that_requests_the_whole_node_holds_all_its_gpus():
    reading = agent(990.0, gpu("GPU-0", busy=0.0), gpu("GPU-1", busy=1.0))
    found = summarise(workload(pod(gpus=2.0)), node(reading, pods=(pod(gpus=2.0),), gpus=2.0))
    assert found.gpu_ratio_mean == 0.5


def test_a_part_of_a_node_without_the_kubelets_word_is_unknown():
    reading = agent(990.0, gpu("GPU-0"), gpu("GPU-1"))
    found = summarise(workload(pod()), node(reading, pods=(pod(),), gpus=2.0))
    assert isinstance(found.gpu_ratio_mean, Unknown)
    assert "pod-resources" in found.gpu_ratio_mean.detail


def test_a_gpu_shared_with_another_workload_is_unknown():
    reading = agent(990.0, gpu("GPU-0"), allocations=(("GPU-0", "p1"), ("GPU-0", "other")))
    found = summarise(workload(pod()), node(reading, pods=(pod(), pod("other"))))
    assert isinstance(found.gpu_ratio_mean, Unknown)
    assert "shared" in found.gpu_ratio_mean.detail


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (node(pods=(pod(),)), UnknownReason.NOT_MEASURED),
        (node(pods=(pod(),), error=Unknown(UnknownReason.UNREACHABLE, "timed out")), UnknownReason.UNREACHABLE),
        (node(agent(800.0, gpu()), pods=(pod(),)), UnknownReason.STALE),
        (
            node(agent(990.0, source=Unknown(UnknownReason.REFUSED, "no permission")), pods=(pod(),)),
            UnknownReason.REFUSED,
        ),
        (node(agent(990.0, gpu(), cpu=UNKNOWN), pods=(pod(),), name="elsewhere"), UnknownReason.NOT_MEASURED),
    ],
)
def test_why_gpus_are_not_known_is_carried_along(one, reason):
    found = summarise(workload(pod()), one)
    assert isinstance(found.gpu_ratio_mean, Unknown)
    assert found.gpu_ratio_mean.reason is reason
    assert isinstance(found.gpu_memory_ratio, Unknown)


def test_half_of_the_pods_speak_for_all_less_do_not():
    first, second, third = pod("p1"), pod("p2", node="n2"), pod("p3", node="n3")
    seen = node(agent(990.0, gpu(busy=0.8), allocations=(("GPU-0", "p1"),)), pods=(first,))
    dark = node(pods=(second,), name="n2")
    half = summarise(workload(first, second), seen, dark)
    assert half.gpu_ratio_mean == 0.8
    assert (half.gpus_expected, half.gpus_measured) == (2.0, 1)
    third_of_them = summarise(workload(first, second, third), seen, dark, node(pods=(third,), name="n3"))
    assert isinstance(third_of_them.gpu_ratio_mean, Unknown)


def test_a_workload_without_gpus_or_pods():
    found = summarise(workload(pod(gpus=0.0)), node(agent(990.0), pods=(pod(gpus=0.0),)))
    assert isinstance(found.gpu_ratio_mean, Unknown)
    assert found.gpu_ratio_mean.reason is UnknownReason.UNSUPPORTED
    assert summarise(workload()).measured is None


def test_one_failed_reading_does_not_hide_the_window():
    readings = [
        agent(time, gpu(busy=busy), allocations=(("GPU-0", "p1"),))
        for time, busy in ((900.0, 0.5), (930.0, UNKNOWN), (960.0, 0.5))
    ]
    assert summarise(workload(pod()), node(*readings, pods=(pod(),))).gpu_ratio_mean == 0.5


def test_kv_cache_is_that_of_the_fullest_replica():
    def page(time, usage):
        return EngineReading(time, EngineKind.VLLM, "", "m", gauges={Signal.KV_CACHE_USAGE: usage})

    pages = {"p1": (page(990.0, 0.3),), "p2": (page(990.0, 0.7),), "stale": (page(800.0, 0.9),)}
    assert summarise(workload(pages=pages)).kv_cache_ratio == 0.7
    error = Unknown(UnknownReason.REFUSED, "403")
    assert summarise(workload(errors={"p1": error})).kv_cache_ratio == error
