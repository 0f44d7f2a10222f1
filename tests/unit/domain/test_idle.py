"""Idle verdicts: what counts, what vetoes, and what is never called idle."""

from dataclasses import replace

import pytest

from optiinfra.domain import idle
from optiinfra.domain.evidence import FindingType
from optiinfra.domain.idle import GpuState
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.utilization import Utilization
from tests.unit.domain.made_up import GIB, UNKNOWN, agent, gpu, node, pod, signals_of

TIMES = [float(time) for time in range(0, 1201, 60)]
NOW = 1200.0


def judge(*, times=TIMES, now=NOW, pods=(), allocations=(), uuids=("GPU-0",), at=None, error=None, **facts):
    """One node whose GPUs show the same facts at every time; `at` changes single moments."""
    at = at or {}
    readings = [
        agent(time, *(gpu(uuid, **(facts | at.get(time, {}))) for uuid in uuids), allocations=allocations)
        for time in times
    ]
    return idle.verdicts(node(*readings, pods=pods, error=error), now=now, window=1800.0, stale_after=90.0)


def state(**facts):
    (verdict,) = judge(**facts)
    return verdict.state, verdict.reason


HELD = {"pods": (pod(),), "allocations": (("GPU-0", "p1"),)}


def test_free_and_quiet():
    (verdict,) = judge()
    assert verdict.state is GpuState.IDLE_UNALLOCATED
    assert verdict.pod == ""
    assert verdict.finding().type is FindingType.IDLE_GPU
    assert verdict.finding().subject == "GPU-0"


def test_held_and_empty():
    (verdict,) = judge(**HELD, used=0.4 * GIB)
    assert verdict.state is GpuState.IDLE_ALLOCATED_EMPTY
    assert verdict.pod == "ns/p1"


def test_held_and_filled():
    (verdict,) = judge(**HELD, used=70 * GIB)
    assert verdict.state is GpuState.IDLE_HELD_MEMORY
    assert "70 GiB" in verdict.message


def test_filled_by_nobody_in_kubernetes():
    (verdict,) = judge(used=70 * GIB)
    assert verdict.state is GpuState.IDLE_HELD_MEMORY
    assert "outside Kubernetes" in verdict.message


def test_one_busy_moment_is_not_idle_however_low_the_mean():
    (verdict,) = judge(**HELD, at={600.0: {"busy": 1.0}})
    assert verdict.state is GpuState.UNDER_USED
    assert idle.idle_gpus([verdict]) == 0


def test_active_and_under_used():
    assert state(**HELD, busy=0.9) == (GpuState.ACTIVE, "Active")
    assert state(**HELD, busy=0.2) == (GpuState.UNDER_USED, "LowActivity")
    # Any kernel makes the utilisation 1; the multiprocessors tell the truth.
    assert state(**HELD, busy=1.0, sm=0.1) == (GpuState.UNDER_USED, "LowActivity")


def test_activity_by_multiprocessors_where_utilisation_is_not_measured():
    assert state(**HELD, busy=UNKNOWN, sm=0.0)[0] is GpuState.IDLE_ALLOCATED_EMPTY
    assert state(**HELD, busy=0.0, sm=0.8)[0] is GpuState.ACTIVE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"times": TIMES[-5:]}, "TooFewSamples"),
        ({"times": [NOW - 11.0 * step for step in range(11, -1, -1)]}, "TooFewSamples"),
        ({"times": [*TIMES[:8], *TIMES[13:]]}, "Gap"),
        ({"now": NOW + 300.0}, "NoFreshReading"),
        ({"at": {600.0: {"busy": UNKNOWN}}}, "ActivityUnknown"),
        ({"busy": UNKNOWN}, "ActivityUnknown"),
        ({"used": UNKNOWN}, "MemoryUnknown"),
        ({"watts": 500.0}, "PowerContradicts"),
        ({"pods": (pod(),), "allocations": (), "uuids": ("GPU-0", "GPU-1")}, "AllocationUnknown"),
    ],
)
def test_what_is_missing_or_contradicts_is_never_idle(changes, reason):
    for verdict in judge(**(HELD | changes)):
        assert (verdict.state, verdict.reason) == (GpuState.UNKNOWN, reason)
        assert verdict.confidence == 0.0
        assert verdict.finding() is None


@pytest.mark.parametrize("young", [pod(created=NOW - 60, ready=None), pod(created=0.0, ready=NOW - 60)])
def test_a_pod_that_loads_its_model_is_not_idle(young):
    assert state(pods=(young,), allocations=(("GPU-0", "p1"),)) == (GpuState.UNKNOWN, "WarmUp")


def test_a_gpu_that_the_agent_no_longer_shows_is_lost():
    readings = [agent(time, gpu("GPU-0"), gpu("GPU-1")) for time in TIMES[:-1]]
    readings.append(agent(TIMES[-1], gpu("GPU-0")))
    found = {one.uuid: one.reason for one in idle.verdicts(node(*readings), now=NOW, window=1800.0, stale_after=90.0)}
    assert found == {"GPU-0": "IdleUnallocated", "GPU-1": "Lost"}


def test_a_failed_driver_is_unknown_and_not_idle():
    readings = [agent(time, gpu()) for time in TIMES[:-1]]
    readings.append(agent(TIMES[-1], source=Unknown(UnknownReason.INVALID, "driver not loaded")))
    (verdict,) = idle.verdicts(node(*readings), now=NOW, window=1800.0, stale_after=90.0)
    assert verdict.reason == "NoFreshReading"
    assert "driver not loaded" in verdict.message


def test_a_node_without_agent_has_no_verdicts():
    assert idle.verdicts(node(pods=(pod(),)), now=NOW, window=1800.0, stale_after=90.0) == ()


def test_whole_node_requests_attribute_without_the_kubelet():
    (first, second) = judge(pods=(pod(gpus=2.0),), uuids=("GPU-0", "GPU-1"))
    assert first.pod == second.pod == "ns/p1"
    assert first.state is GpuState.IDLE_ALLOCATED_EMPTY


def test_more_signals_make_it_surer():
    (weak,) = judge(**HELD, watts=UNKNOWN)
    (strong,) = judge(**HELD, watts=80.0, sm=0.0)
    assert weak.confidence < strong.confidence <= 0.98


def test_findings_of_a_node():
    verdicts = judge(uuids=("GPU-0", "GPU-1"))
    assert [one.subject for one in idle.node_findings(verdicts)] == ["GPU-0", "GPU-1"]
    assert idle.idle_gpus(verdicts) == 2


# ---- services -------------------------------------------------------------------------------------------------------

QUIET = {
    "window": 900.0, "running": 0.0, "running_max": 0.0, "waiting_max": 0.0, "busy_share": 0.0,
    "generation_token_rate": 0.0,
}  # fmt: skip


def used(busiest):
    return Utilization(1000.0, 4.0, 4, busiest, busiest, UNKNOWN, 0.9, 300.0, 0.0, 0.1, 0.2)


def test_an_idle_service():
    found = idle.workload_idle(signals_of(**QUIET), used(0.0))
    assert found.reason == "ServiceIdle"
    assert found.confidence == 0.95
    assert "4 GPUs" in found.message
    assert idle.workload_idle(signals_of(**QUIET), used(UNKNOWN)).confidence == 0.7


def test_a_silent_service_on_shared_gpus_is_under_used_and_no_idle_gpu():
    found = idle.workload_idle(signals_of(**QUIET), replace(used(UNKNOWN), shared_by="MPS"))
    assert (found.type, found.reason) == (FindingType.UNDER_USED, "ServiceIdle")
    assert "shares them by MPS" in found.message


def test_gpus_that_work_contradict_silent_engines():
    assert isinstance(idle.workload_idle(signals_of(**QUIET), used(0.6)), Unknown)


def test_a_service_that_works_is_nothing_to_report():
    assert idle.workload_idle(signals_of(window=900.0), used(0.9)) is None


def test_a_service_that_rarely_works_is_under_used():
    found = idle.workload_idle(signals_of(window=900.0, busy_share=0.05), used(1.0))
    assert found.type is FindingType.UNDER_USED


@pytest.mark.parametrize(
    "changes",
    [
        {"replicas_expected": 2},
        {"replicas_reporting": 0},
        {"window": 60.0},
        {"generation_token_rate": UNKNOWN},
        {"running_max": UNKNOWN},
    ],
)
def test_a_service_is_not_idle_by_missing_data(changes):
    assert isinstance(idle.workload_idle(signals_of(**(QUIET | changes)), used(0.0)), Unknown)


def test_a_burst_between_two_readings_is_work():
    quiet = [agent(at, replace(gpu(), utilization_max_ratio=0.0)) for at in TIMES]
    burst = [*quiet[:-3], agent(TIMES[-3], replace(gpu(), utilization_max_ratio=0.6)), *quiet[-2:]]
    for readings, expected in ((quiet, GpuState.IDLE_UNALLOCATED), (burst, None)):
        (found,) = idle.verdicts(node(*readings), now=NOW, window=1800.0, stale_after=120.0)
        assert (found.state is GpuState.IDLE_UNALLOCATED) == (expected is not None)
