"""Attribution: device ids of every form, faults of the kubelet as the pages show them, and what each tier says."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from optiinfra.cluster.agents import parse_snapshot
from optiinfra_agent import privilege
from optiinfra_agent.errors import SourceDeniedError, SourceFailedError, ValueUnknownError
from optiinfra_agent.mig import MigParents
from optiinfra_agent.podresources import Container, Devices, Pod
from optiinfra_agent.pods import (
    MAX_ALLOCATIONS,
    NOTHING,
    Known,
    PodCollector,
    PodPass,
    attribute,
    mig_devices,
    read_minors,
)
from optiinfra_agent.snapshot import Attribution, Reason, SourceReport, SourceState
from tests.kubelet_stub import Kubelet, claim, device, pod
from tests.nvml_stub import Stub
from tests.unit.agent.conftest import Agent, eventually, once, run_agent


def held(*pods: tuple[str, str, tuple[str, ...]], known: Known = NOTHING) -> Attribution:
    """Return the attribution of pods given as name, resource, device ids."""
    taken = tuple(Pod("ns", name, (Container("engine", (Devices(resource, ids),)),)) for name, resource, ids in pods)
    return attribute(PodPass(pods=taken, allocatable=()), known)


def shown(attribution: Attribution) -> list[tuple[str, str, bool]]:
    return [(one.pod, one.gpu_uuid, one.shared) for one in attribution.allocations]


@pytest.mark.parametrize(
    ("resource", "device_id", "expected"),
    [
        ("nvidia.com/gpu", "GPU-a", ("p", "GPU-a", False)),
        ("nvidia.com/gpu", "GPU-a::3", ("p", "GPU-a", True)),
        ("nvidia.com/gpu.shared", "GPU-a::0", ("p", "GPU-a", True)),
        ("nvidia.com/gpu.shared", "GPU-a", ("p", "GPU-a", True)),
        ("example.com/renamed", "GPU-a", ("p", "GPU-a", False)),
        ("nvidia.com/mig-1g.10gb", "MIG-x", ("p", "GPU-parent", True)),
        ("nvidia.com/mig-1g.10gb.shared", "MIG-x::1", ("p", "GPU-parent", True)),
        ("nvidia.com/gpu", "MIG-GPU-0a1b/7/0", ("p", "GPU-0a1b", True)),
        ("nvidia.com/gpu", "nvidia3", ("p", "GPU-third", False)),
        ("nvidia.com/gpu", "nvidia3/vgpu1", ("p", "GPU-third", True)),
        ("nvidia.com/gpu", "nvidia3/gi2", ("p", "GPU-third", True)),
    ],
)
def test_every_form_of_device(resource: str, device_id: str, expected: tuple[str, str, bool]) -> None:
    known = Known(minors={3: "GPU-third"}, mig_parents={"MIG-x": "GPU-parent"})
    found = held(("p", resource, (device_id,)), known=known)
    assert shown(found) == [expected]
    assert found.unresolved == 0


@pytest.mark.parametrize("device_id", ["MIG-x", "nvidia3", "nvidia3/gi2", "0", "", "GPU"])
def test_device_of_no_known_gpu_is_counted_and_not_guessed(device_id: str) -> None:
    found = held(("p", "nvidia.com/gpu", (device_id,)))
    assert found.allocations == ()
    assert (found.unresolved, found.unresolved_devices) == (1, (device_id,))


def test_devices_of_others_are_nobody_s_gpu() -> None:
    found = held(("p", "rdma/hca", ("mlx5_0",)), ("q", "amd.com/gpu", ("0000:03:00.0",)))
    assert (found.allocations, found.unresolved) == ((), 0)


def test_gpu_in_two_hands_is_shared_and_two_replicas_in_one_are_one_allocation() -> None:
    found = held(
        ("a", "nvidia.com/gpu", ("GPU-1",)),
        ("b", "nvidia.com/gpu", ("GPU-1", "GPU-2")),
        ("c", "nvidia.com/gpu", ("GPU-3::0", "GPU-3::1")),
    )
    assert shown(found) == [("a", "GPU-1", True), ("b", "GPU-1", True), ("b", "GPU-2", False), ("c", "GPU-3", True)]


def test_minor_numbers_come_from_the_driver_s_part_of_procfs(tmp_path: Path) -> None:
    for bus, text in {
        "0000:01:00.0": "Model: \t\t NVIDIA H100\nGPU UUID: \t GPU-0a-1b\nDevice Minor: \t 3\n",
        "0000:02:00.0": "Model: NVIDIA H100\nGPU UUID: \t GPU-????????-????\nDevice Minor: \t 4\n",
    }.items():
        folder = tmp_path / "driver" / "nvidia" / "gpus" / bus
        folder.mkdir(parents=True)
        (folder / "information").write_text(text)
    (tmp_path / "driver" / "nvidia" / "gpus" / "0000:03:00.0").mkdir()
    assert read_minors(tmp_path) == {3: "GPU-0a-1b"}
    assert read_minors(tmp_path / "nowhere") == {}


class Driver:
    """A driver that knows one MIG device."""

    is_open = True

    def __init__(self) -> None:
        self.asked = 0

    def call(self, name: str, argument: str) -> str:
        if name == "nvmlDeviceGetHandleByUUID":
            self.asked += 1
            if argument != "MIG-x":
                raise ValueUnknownError("not found", reason=Reason.UNAVAILABLE, code=6)
        return {"nvmlDeviceGetUUID": "GPU-parent"}.get(name, argument)


def test_mig_devices_are_asked_once_while_in_use() -> None:
    driver = Driver()
    parents = MigParents(driver)
    for _ in range(3):
        assert parents.resolve({"MIG-x"}) == {"MIG-x": "GPU-parent"}
    assert driver.asked == 1
    assert parents.resolve({"MIG-gone"}) == {}
    assert parents.resolve({"MIG-x"}) == {"MIG-x": "GPU-parent"}
    assert driver.asked == 3
    driver.is_open = False
    assert parents.resolve({"MIG-x"}) == {"MIG-x": "GPU-parent"}
    taken = (Pod("n", "p", (Container("c", (Devices("r", ("MIG-x::1", "MIG-GPU-1/2/3", "GPU-1")),)),)),)
    assert mig_devices(PodPass(pods=taken, allocatable=())) == {"MIG-x"}


def test_more_allocations_than_any_node_has_are_not_believed(kubelet: Kubelet) -> None:
    kubelet.serve(pod("a", device(*(f"GPU-{index}" for index in range(MAX_ALLOCATIONS + 1)))))
    with pytest.raises(SourceFailedError, match="1025 allocations and 0 claims"):
        PodCollector(kubelet.folder, deadline_s=20).collect()


def test_list_without_allocatable_is_still_a_list_and_says_so(kubelet: Kubelet) -> None:
    kubelet.serve(pod("a", device("GPU-1")), allocatable=[device("GPU-1", "GPU-2")])
    kubelet.fault("status", code=12, method="GetAllocatableResources")
    collector = PodCollector(kubelet.folder, deadline_s=20)
    found = attribute(collector.collect(), NOTHING)
    assert len(found.allocations) == 1
    assert found.allocatable == {}
    assert found.reason == "allocatable devices are not known: status 12 of gRPC: status 12 on request"
    kubelet.fault("ok")
    found = attribute(collector.collect(), NOTHING)
    assert (found.reason, found.allocatable) == ("", {"nvidia.com/gpu": 2})
    collector.collect()
    assert kubelet.calls("GetAllocatableResources") == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_folder_that_may_not_be_entered_is_denied(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(SourceDeniedError):
        PodCollector(tmp_path / "closed" / "pod-resources", deadline_s=1).collect()


# ---- a whole agent


def uuids(agent: Agent) -> list[str]:
    return [gpu["uuid"] for gpu in agent.snapshot()["gpus"]]


def test_pages_of_a_node_with_pods(start: Callable[..., Agent], stub: Stub, kubelet: Kubelet) -> None:
    stub.rules("gpus 3")
    first, second, _third = (gpu["uuid"] for gpu in once(**stub.environment)["gpus"])
    kubelet.serve(
        pod("llama-0", device(first, numa=[0])),
        pod("whisper-0", device(f"{second}::0", resource="nvidia.com/gpu.shared")),
        pod("whisper-1", device(f"{second}::1", resource="nvidia.com/gpu.shared"), claim("gpu-2")),
        pod("stranger", device("MIG-unknown", resource="nvidia.com/mig-1g.10gb")),
        pod("web"),
        allocatable=[device(first), device(f"{second}::0", f"{second}::1", resource="nvidia.com/gpu.shared")],
    )
    agent = start(OPTIINFRA_AGENT_POD_RESOURCES=str(kubelet.folder), **stub.environment)
    snapshot = agent.snapshot()
    assert snapshot["sources"]["pod_resources"]["state"] == "ok"
    assert snapshot["attribution"] == {
        "by": "kubelet",
        "allocatable": {"nvidia.com/gpu": 1, "nvidia.com/gpu.shared": 2},
        "unresolved": 1,
        "unresolved_devices": ["MIG-unknown"],
    }
    assert snapshot["allocations"][0] == {
        "gpu_uuid": first,
        "namespace": "inference",
        "pod": "llama-0",
        "container": "engine",
        "resource": "nvidia.com/gpu",
    }
    assert [one["device"] for one in snapshot["claims"]] == ["gpu-2"]
    # The operator reads the same document.
    reading = parse_snapshot(json.dumps(snapshot).encode())
    assert [(one.pod, one.gpu_uuid, one.shared) for one in reading.allocations] == [
        ("llama-0", first, False),
        ("whisper-0", second, True),
        ("whisper-1", second, True),
    ]
    metrics = agent.metrics()
    series = [name for name in metrics if name.startswith("optiinfra_gpu_allocation_info")]
    assert len(series) == 3
    assert any('workload_pod="llama-0"' in name and 'share="exclusive"' in name for name in series)
    assert sum('share="shared"' in name for name in series) == 2
    assert metrics['optiinfra_node_allocatable_devices{resource="nvidia.com/gpu.shared"}'] == 2
    assert metrics["optiinfra_agent_unresolved_devices"] == 1
    assert metrics["optiinfra_agent_privilege_tier"] >= 1
    components = agent.document("/health/detailed")["components"]
    assert components["pod_resources"]["state"] == "ok"
    assert (components["attribution"]["state"], components["attribution"]["by"]) == ("incomplete", "kubelet")
    assert "allocations" in agent.document("/")["capabilities"]


def test_devices_by_minor_number_and_a_gpu_pass_that_fails(
    start: Callable[..., Agent], stub: Stub, kubelet: Kubelet, procfs: Path
) -> None:
    stub.rules("gpus 1")
    folder = procfs / "driver" / "nvidia" / "gpus" / "0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text("GPU UUID: \t GPU-0a-1b\nDevice Minor: \t 0\n")
    kubelet.serve(pod("a", device("nvidia0/vgpu1")), pod("b", device("GPU-other")))
    agent = start(
        OPTIINFRA_AGENT_PROCFS=str(procfs), OPTIINFRA_AGENT_POD_RESOURCES=str(kubelet.folder), **stub.environment
    )
    held = {one["pod"]: (one["gpu_uuid"], one.get("shared", False)) for one in agent.snapshot()["allocations"]}
    assert held == {"a": ("GPU-0a-1b", True), "b": ("GPU-other", False)}
    # Without the driver what needs it is unresolved, and what the kubelet says outright still stands.
    stub.rules("gpus 0")
    eventually(lambda: agent.snapshot()["sources"]["nvml"]["state"] == "failed")
    snapshot = agent.snapshot()
    assert [one["pod"] for one in snapshot["allocations"]] == ["b"]
    assert snapshot["attribution"]["unresolved_devices"] == ["nvidia0/vgpu1"]


def test_kubelet_that_hangs_restarts_and_comes_back(start: Callable[..., Agent], stub: Stub, kubelet: Kubelet) -> None:
    stub.rules("gpus 1")
    uuid = once(**stub.environment)["gpus"][0]["uuid"]
    kubelet.serve(pod("llama-0", device(uuid)))
    agent = start(
        OPTIINFRA_AGENT_POD_RESOURCES=str(kubelet.folder),
        OPTIINFRA_AGENT_POD_RESOURCES_DEADLINE="0.3",
        **stub.environment,
    )
    allocated = eventually(lambda: agent.snapshot()["allocations"])
    assert allocated[0]["pod"] == "llama-0"

    def state() -> str:
        # Whatever the kubelet does, every page answers and the GPUs are measured on.
        snapshot = agent.snapshot()
        assert agent.request("/metrics")[0] == 200
        assert len(snapshot["gpus"]) == 1
        return str(snapshot["sources"]["pod_resources"]["state"])

    kubelet.fault("hang")
    eventually(lambda: state() == "stuck")
    snapshot = agent.snapshot()
    assert snapshot["allocations"] == []
    assert snapshot["attribution"]["by"] == "requests"
    assert "optiinfra_agent_unresolved_devices" not in agent.metrics()
    assert agent.document("/health")["status"] == "degraded"
    assert agent.request("/health/live")[0] == 200
    kubelet.kill()
    eventually(lambda: state() == "failed")
    assert "nobody listens" in agent.snapshot()["sources"]["pod_resources"].get("reason", "")
    kubelet.stop()
    eventually(lambda: "does not exist" in agent.snapshot()["sources"]["pod_resources"].get("reason", ""))
    kubelet.fault("ok")
    kubelet.start()
    eventually(lambda: state() == "ok")
    assert agent.snapshot()["allocations"][0]["gpu_uuid"] == uuid


def test_command_says_what_the_kubelet_gave_to_one_pod(kubelet: Kubelet) -> None:
    kubelet.serve(pod("llama-0", device("GPU-1")), pod("web"))
    asked = {"OPTIINFRA_AGENT_POD_RESOURCES": str(kubelet.folder), "OPTIINFRA_AGENT_POD_RESOURCES_DEADLINE": "20"}
    done = run_agent("--pod", "inference/llama-0", **asked)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["containers"][0]["devices"][0]["ids"] == ["GPU-1"]
    done = run_agent("--pod", "inference/nobody", **asked)
    assert (done.returncode, done.stdout) == (1, "")
    assert "status 5 of gRPC" in done.stderr
    for wrong in ("llama-0", "/llama-0", "inference/"):
        done = run_agent("--pod", wrong, **asked)
        assert (done.returncode, "NAMESPACE/NAME" in done.stderr) == (2, True)
    assert run_agent("--pod", "inference/llama-0").returncode == 2


# ---- tiers


def report(state: SourceState, reason: str = "") -> SourceReport:
    return SourceReport(state=state, reason=reason, time=1.0, duration_s=0.0)


@pytest.mark.parametrize(
    ("pods", "pids", "administration", "tier", "missing"),
    [
        (SourceState.UNAVAILABLE, "no", "no", 0, {1, 2, 3}),
        (SourceState.OK, "no", "no", 1, {2, 3}),
        (SourceState.OK, "", "no", 2, {3}),
        (SourceState.OK, "", "", 3, set()),
        (SourceState.OK, "no", "", 1, {2}),
        (SourceState.STUCK, "", "", 0, {1}),
    ],
)
def test_tier_is_what_is_there(pods: SourceState, pids: str, administration: str, tier: int, missing: set[int]) -> None:
    process = privilege.Process(host_pids=pids, administration=administration)
    found = privilege.assess(process, report(pods, "why"))
    assert (found.tier, set(found.missing)) == (tier, missing)
    assert all(found.missing.values())


def test_what_the_kernel_says_of_a_process(tmp_path: Path) -> None:
    (tmp_path / "ns").mkdir()
    (tmp_path / "ns" / "pid").symlink_to("pid:[4026531836]")
    (tmp_path / "status").write_text("Name:\tx\nCapEff:\t0000000000200000\n")
    assert privilege.read_process(tmp_path) == privilege.Process(host_pids="", administration="")
    (tmp_path / "ns" / "pid").unlink()
    (tmp_path / "ns" / "pid").symlink_to("pid:[4026532500]")
    (tmp_path / "status").write_text("Name:\tx\nCapEff:\t0000000000000000\n")
    found = privilege.read_process(tmp_path)
    assert "hostPID" in found.host_pids
    assert found.administration == "without CAP_SYS_ADMIN"
    found = privilege.read_process(tmp_path / "nowhere")
    assert "not known" in found.host_pids
    assert "not known" in found.administration
