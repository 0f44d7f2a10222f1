"""Who holds which GPU: by the kubelet's claims and ResourceSlices, by ResourceClaims alone, and by requests."""

from dataclasses import replace

import pytest

from optiinfra.control.attribution import attributed, completed
from optiinfra.domain import gpus
from optiinfra.domain.agent_readings import (
    Attribution,
    Attributor,
    DeviceClaim,
    GpuSharing,
    GpuUser,
    HeldDevice,
    PhysicalDevice,
    SharedBy,
)
from optiinfra.domain.idle.holders import Held, holders_of
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.utilization import summarise
from optiinfra.domain.workload import WorkloadFacts
from tests.unit.domain.made_up import GIB, UNKNOWN, agent, gpu, node, pod

NOW = UnixTime(1000.0)
DEVICES = {
    ("gpu.nvidia.com", "n1", "gpu-0"): PhysicalDevice("GPU-0", "H100", part=False),
    ("gpu.nvidia.com", "n1", "mig-0"): PhysicalDevice("GPU-1", "H100", part=True),
}
TIER_0 = Attribution(Attributor.REQUESTS, "switched off (tier 0)")


def find(*name):
    return DEVICES.get(name)


def claimed(device, name="p1"):
    return DeviceClaim("gpu.nvidia.com", "n1", device, "ns", name, "engine")


def by_kubelet(*claims, **more):
    reading = agent(NOW, gpu("GPU-0"), gpu("GPU-1"), **more)
    return replace(reading, claims=claims, attribution=Attribution(Attributor.KUBELET))


def test_a_device_that_the_kubelet_names_becomes_the_gpu_that_its_slice_says():
    found = attributed(by_kubelet(claimed("gpu-0"), claimed("mig-0", "p2")), None, find)
    held = [(one.gpu_uuid, one.pod, one.container, one.shared) for one in found.allocations]
    assert held == [("GPU-0", "p1", "engine", False), ("GPU-1", "p2", "engine", True)]
    assert found.attribution == Attribution(Attributor.KUBELET)


def test_one_gpu_claimed_by_two_pods_is_shared():
    found = attributed(by_kubelet(claimed("gpu-0"), claimed("gpu-0", "p2")), None, find)
    assert [one.shared for one in found.allocations] == [True, True]


def test_what_no_slice_knows_is_counted_and_said():
    found = attributed(by_kubelet(claimed("nic-0"), claimed("gpu-0")), None, find)
    assert len(found.allocations) == 1
    assert found.attribution.reason.startswith("1 claimed devices")


def test_without_the_kubelet_claims_alone_tell():
    holder = replace(pod(), claimed=(HeldDevice(DEVICES["gpu.nvidia.com", "n1", "gpu-0"], shared=False),))
    reading = replace(agent(NOW, gpu("GPU-0"), gpu("GPU-1")), attribution=TIER_0)
    found = attributed(reading, node(reading, pods=(holder,)), find)
    assert [(one.gpu_uuid, one.pod) for one in found.allocations] == [("GPU-0", "p1")]
    assert found.attribution.by is Attributor.CLAIMS


class View:
    def __init__(self, *nodes):
        self.known = {one.name: one for one in nodes}
        self.asked = 0

    def nodes(self):
        self.asked += 1
        return self.known

    def device(self, *name):
        return find(*name)


@pytest.mark.parametrize("reading", [by_kubelet(), agent(NOW, gpu(), allocations=(("GPU-0", "p1"),))])
def test_what_the_kubelet_told_needs_nothing_more(reading):
    view = View()
    assert completed(reading, view) is reading
    assert view.asked == 0


def test_a_cluster_without_claims_stays_as_it_was():
    reading = replace(agent(NOW, gpu()), attribution=TIER_0)
    assert completed(reading, View(node(reading, pods=(pod(),)))) is reading


def summary(reading, *pods):
    facts = WorkloadFacts("ns", "Deployment", "vllm", "u", 1, 1, pods=(pods[0],), scaler=None)
    nodes = {"n1": node(reading, pods=pods, gpus=2.0)}
    return summarise(facts, nodes, now=NOW, window=Seconds(60.0), stale_after=Seconds(60.0))


def test_the_summary_says_by_whose_word():
    half = agent(NOW, gpu("GPU-0", used=70 * GIB, busy=0.9), gpu("GPU-1", used=0.0))
    told = summary(replace(half, allocations=agent(NOW, allocations=(("GPU-0", "p1"),)).allocations), pod())
    assert (told.gpu_uuids, told.attributed_by) == (("GPU-0",), Attributor.KUBELET)
    untold = summary(replace(half, attribution=TIER_0), pod())
    assert (untold.gpu_uuids, untold.attributed_by) == (("GPU-0",), Attributor.REQUESTS)
    assert untold.gpu_ratio_mean == 0.9


@pytest.mark.parametrize(
    ("gpus_", "pods"),
    [
        ((gpu("GPU-0", used=70 * GIB), gpu("GPU-1", used=70 * GIB)), (pod(),)),  # somebody else filled one
        ((gpu("GPU-0"), gpu("GPU-1")), (pod(),)),  # it has not loaded yet
        ((gpu("GPU-0", used=70 * GIB), gpu("GPU-1", used=UNKNOWN)), (pod(),)),
        ((gpu("GPU-0", used=70 * GIB), gpu("GPU-1")), (pod(), pod("other"))),  # two workloads
    ],
)
def test_requests_that_leave_two_answers_leave_it_unknown(gpus_, pods):
    found = summary(replace(agent(NOW, *gpus_), attribution=TIER_0), *pods)
    assert isinstance(found.gpu_ratio_mean, Unknown)
    assert found.attributed_by is None


def test_an_idle_gpu_is_free_where_the_only_pod_filled_another():
    reading = replace(agent(NOW, gpu("GPU-0", used=70 * GIB), gpu("GPU-1")), attribution=TIER_0)
    here = node(reading, pods=(pod(),), gpus=2.0)
    assert holders_of("GPU-0", here, reading) == Held(("ns/p1",))
    assert holders_of("GPU-1", here, reading) == Held()
    assert gpus.held_by({("ns", "p1")}, here, reading) == frozenset({"GPU-0"})


# ---- GPUs that several share


def users(*rows):
    return tuple(GpuUser(uuid, uid, "aaaaaaaa", 1, memory, share) for uuid, uid, memory, share in rows)


def test_requests_settle_nothing_where_gpus_are_shared_out():
    # One GPU, given out as four: a pod that asks for one of them does not hold the GPU.
    reading = replace(agent(NOW, gpu("GPU-0", used=70 * GIB, busy=0.9)), attribution=TIER_0)
    facts = WorkloadFacts("ns", "Deployment", "vllm", "u", 1, 1, pods=(pod(),), scaler=None)

    def found(**changes):
        one = replace(node(reading, pods=(pod(),)), **changes)
        return summarise(facts, {"n1": one}, now=NOW, window=Seconds(60.0), stale_after=Seconds(60.0))

    assert found().attributed_by is Attributor.REQUESTS
    assert isinstance(found(gpus=4.0).gpu_ratio_mean, Unknown)
    assert isinstance(found(pods=(pod(), pod("other"))).gpu_ratio_mean, Unknown)
    told = replace(reading, sharing=(GpuSharing("GPU-0", SharedBy.MPS, 0),))
    mps = found(agent=(told,))
    assert "shared out by MPS" in mps.gpu_ratio_mean.detail
    assert mps.shared_by == "MPS"


def test_of_a_shared_gpu_a_service_has_what_its_processes_have():
    holders = (("GPU-0", "p1"), ("GPU-0", "p2"))
    shared = replace(
        agent(NOW, gpu("GPU-0", used=70 * GIB, busy=0.95, watts=600.0), allocations=holders),
        sharing=(GpuSharing("GPU-0", SharedBy.TIME_SLICING, 4),),
        users=users(("GPU-0", "p1", 20 * GIB, 0.05), ("GPU-0", "p2", 50 * GIB, 0.9)),
    )
    found = summary(shared, pod("p1"), pod("p2"))
    assert (found.gpu_uuids, found.attributed_by) == (("GPU-0",), Attributor.PROCESSES)
    assert (found.gpu_ratio_mean, found.gpu_memory_ratio) == (0.05, 0.25)
    assert isinstance(found.gpu_power_watts, Unknown)
    assert isinstance(found.sm_active_mean, Unknown)
    assert found.shared_by == "time-slicing"
    # Without the host's processes nobody knows whose load it is.
    dark = summary(replace(shared, users=()), pod("p1"), pod("p2"))
    assert isinstance(dark.gpu_ratio_mean, Unknown)
    assert dark.gpu_uuids == ()


def test_a_gpu_that_only_its_processes_are_on_is_the_service_s_as_a_whole():
    alone = replace(
        agent(NOW, gpu("GPU-0", used=70 * GIB, busy=0.5, watts=600.0), gpu("GPU-1", used=70 * GIB)),
        attribution=TIER_0,
        users=users(("GPU-0", "p1", 20 * GIB, 0.4), ("GPU-1", "other", GIB, 0.1)),
    )
    found = summary(alone, pod("p1"), pod("other"))
    assert (found.gpu_uuids, found.gpu_ratio_mean, found.gpu_power_watts) == (("GPU-0",), 0.5, 600.0)
