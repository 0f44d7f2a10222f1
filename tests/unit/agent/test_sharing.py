"""GPUs in several hands, told apart by kubelet and driver together, and the processes of containers on them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from optiinfra.cluster.agents import parse_snapshot
from optiinfra_agent.cgroups import container_of
from tests.kubelet_stub import Kubelet, claim, device, pod
from tests.nvml_stub import Stub
from tests.unit.agent.stepped import Step, Stepped

GPU = "GPU-{0:08d}-0000-4000-8000-{0:012d}"
REPLICAS = tuple(f"{GPU.format(0)}::{number}" for number in range(4))
UID = "0a1b2c3d-1111-2222-3333-444455556666"


class Shared:
    """A node whose kubelet and driver obey."""

    def __init__(self, stub: Stub, kubelet: Kubelet) -> None:
        self.stub = stub
        self.kubelet = kubelet
        self.agent = Stepped(OPTIINFRA_AGENT_POD_RESOURCES=str(kubelet.folder), **stub.environment)


@pytest.fixture
def node(stub: Stub, kubelet: Kubelet) -> Iterator[Shared]:
    found = Shared(stub, kubelet)
    yield found
    found.agent.end()


def by(step: Step) -> list[tuple[str, int]]:
    """Return in which way each GPU is shared, which the metrics have to say, too."""
    for one in step.snapshot["sharing"]:
        assert step.metrics[f'optiinfra_gpu_sharing_info{{by="{one["by"]}",uuid="{one["gpu_uuid"]}"}}'] == 1
        replicas = step.metrics.get(f'optiinfra_gpu_replicas{{uuid="{one["gpu_uuid"]}"}}', 0)
        assert replicas == one["replicas"]
    return [(one["by"], one["replicas"]) for one in step.snapshot["sharing"]]


def test_time_slicing_and_mps_are_told_apart(node: Shared) -> None:
    replicas = device(*REPLICAS, resource="nvidia.com/gpu.shared")
    node.kubelet.serve(pod("a", device(REPLICAS[1])), allocatable=[replicas])
    assert by(node.agent.step()) == [("time_slicing", 4)]
    # MPS by its mark on the driver, before any client runs.
    node.stub.rules("value compute_mode 0 3")
    assert by(node.agent.step()) == [("mps", 4)]
    # And by its clients, whatever the mode is.
    node.stub.rules("value processes 0 3", "value mps 0 2")
    step = node.agent.step()
    assert by(step) == [("mps", 4)]
    assert parse_snapshot(json.dumps(step.snapshot).encode()).sharing == ((GPU.format(0), "mps", 4),)
    assert step.snapshot["sharing"][0]["mps_processes"] == 2
    assert step.capability("mps_process_lists") == "ok"
    # A driver that does not tell is not guessed at.
    node.stub.rules("code nvmlDeviceGetComputeMode 0 4", "code nvmlDeviceGetMPSComputeRunningProcesses_v3 0 4")
    step = node.agent.step()
    assert by(step) == [("replicas", 4)]
    assert step.snapshot["sharing"][0]["unknown"] == {"mps_processes": "denied"}
    assert step.capability("mps_process_lists") == "denied"


def test_mig_several_containers_and_nobody(node: Shared) -> None:
    node.stub.rules("gpus 3", "value mig 0 1")
    node.kubelet.serve(
        pod("a", device(GPU.format(1))), pod("b", device(GPU.format(1))), pod("c", device(GPU.format(2)))
    )
    step = node.agent.step()
    assert [(one["gpu_uuid"], one["by"]) for one in step.snapshot["sharing"]] == [
        (GPU.format(0), "mig"),
        (GPU.format(1), "containers"),
    ]
    # Without the kubelet nobody knows who holds what; what the driver says stays.
    node.kubelet.stop()
    assert by(node.agent.step()) == [("mig", 0)]


def test_replicas_are_known_without_the_list_of_what_could_be_given_out(node: Shared) -> None:
    node.kubelet.serve(pod("a", device(*REPLICAS[:2])))
    node.kubelet.fault("status", code=12, method="GetAllocatableResources")
    step = node.agent.step()
    assert by(step) == [("time_slicing", 2)]
    assert step.capability("allocatable_devices") == "unavailable"


def test_claims_carry_their_names(node: Shared) -> None:
    node.kubelet.serve(pod("a", claim("gpu-3", name="chat-gpu")))
    assert node.agent.step().snapshot["claims"] == [
        {
            "driver": "gpu.nvidia.com",
            "pool": "node-a",
            "device": "gpu-3",
            "namespace": "inference",
            "pod": "a",
            "container": "engine",
            "claim": "chat-gpu",
        }
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"0::/kubepods/burstable/pod{UID}/{'a' * 64}\n", (UID, "a" * 8)),
        (f"0::/../../kubepods-pod{UID.replace('-', '_')}.slice/crio-{'b' * 64}.scope/container\n", (UID, "b" * 8)),
        (f"5:devices:/x\n4:memory:/kubepods/pod{'c' * 32}/{'d' * 64}\n", ("c" * 32, "d" * 8)),
        ("0::/system.slice/dcgm.service\n", None),
        (f"0::/kubepods/burstable/pod{UID}\n", None),
        ("", None),
        ("nonsense", None),
    ],
)
def test_container_of_a_process(text: str, expected: tuple[str, str] | None) -> None:
    assert container_of(text) == expected


def test_processes_of_a_pod_that_shares_a_gpu(stub: Stub, tmp_path: Path) -> None:
    procfs = tmp_path / "proc"
    (procfs / "2").mkdir(parents=True)
    (procfs / "2" / "comm").write_text("kthreadd\n")
    for pid, letter in ((1000, "a"), (1001, "b")):
        (procfs / str(pid)).mkdir()
        (procfs / str(pid) / "cgroup").write_text(f"0::/kubepods/burstable/pod{UID}/{letter * 64}\n")
    stub.rules("gpus 2", "value processes 1 3", "value process_memory 1 7000000")
    agent = Stepped(OPTIINFRA_AGENT_PROCFS=str(procfs), **stub.environment)
    try:
        first, second = agent.step(), agent.step()
    finally:
        agent.end()
    # Its utilisation is known from the second list on: before, the driver would average over a span of its own.
    assert first.snapshot["gpu_users"][0][5:] == [None, {"sm_ratio": "warming_up"}]
    assert second.snapshot["gpu_users"] == [
        [1, "", "", 1, 7000000, 0.25],
        [1, UID, "a" * 8, 1, 7000000, 0.25],
        [1, UID, "b" * 8, 1, 7000000, 0.25],
    ]
    labels = f'uuid="{GPU.format(1)}",workload_container_id="{"a" * 8}",workload_pod_uid="{UID}"'
    assert second.metrics[f"optiinfra_gpu_workload_memory_bytes{{{labels}}}"] == 7000000
    # And as the operator reads it.
    reading = parse_snapshot(json.dumps(second.snapshot).encode())
    assert [(one.gpu_uuid, one.pod_uid, one.memory_bytes, one.sm_ratio) for one in reading.users] == [
        (GPU.format(1), "", 7000000, 0.25),
        (GPU.format(1), UID, 7000000, 0.25),
        (GPU.format(1), UID, 7000000, 0.25),
    ]
