"""The GPUs under dcgm-exporter's legacy names: only where they are asked for, in its units, with its labels."""

from collections.abc import Callable

from tests.kubelet_stub import Kubelet, device, pod
from tests.nvml_stub import Stub
from tests.unit.agent.conftest import Agent, eventually

UUID = "GPU-{0:08d}-0000-4000-8000-{0:012d}"


def labels(index: int, *, namespace: str = "", pod: str = "", container: str = "") -> str:
    named = {
        "Hostname": "gpu-1",
        "UUID": UUID.format(index),
        "container": container,
        "device": f"nvidia{index}",
        "gpu": str(index),
        "modelName": "NVIDIA H100 80GB HBM3",
        "namespace": namespace,
        "pci_bus_id": f"00000000:{0x18 + index:02X}:00.0",
        "pod": pod,
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in named.items()) + "}"


def test_they_are_off_unless_asked_for(start: Callable[..., Agent], stub: Stub) -> None:
    agent = start(**stub.environment)
    agent.snapshot()
    assert not any(name.startswith("DCGM") for name in agent.metrics())


def test_units_and_holders_are_dcgm_exporter_s(start: Callable[..., Agent], stub: Stub, kubelet: Kubelet) -> None:
    stub.rules(
        "gpus 3",
        "value utilization 0 42",
        "value memory_used 0 1073741824",
        "value memory_reserved 0 536870912",
        "value memory_total 0 85899345920",
        "value energy 0 123456789",
        "value clock 0 1980",
        "code nvmlDeviceGetPowerUsage 1 3",
    )
    shared = UUID.format(1)
    kubelet.serve(
        pod("llama-0", device(UUID.format(0)), namespace="inference", container="vllm"),
        pod("a", device(f"{shared}::0"), namespace="n", container="c"),
        pod("b", device(f"{shared}::1"), namespace="n", container="c"),
    )
    agent = start(
        NODE_NAME="gpu-1",
        OPTIINFRA_AGENT_DCGM_NAMES="on",
        OPTIINFRA_AGENT_POD_RESOURCES=str(kubelet.folder),
        **stub.environment,
    )
    agent.snapshot()
    held = labels(0, namespace="inference", pod="llama-0", container="vllm")
    metrics = eventually(lambda: (found := agent.metrics()) and f"DCGM_FI_DEV_GPU_UTIL{held}" in found and found)
    assert metrics[f"DCGM_FI_DEV_GPU_UTIL{held}"] == 42
    assert metrics[f"DCGM_FI_DEV_FB_USED{held}"] == 1024
    assert metrics[f"DCGM_FI_DEV_FB_FREE{held}"] == 80 * 1024 - 1024 - 512
    assert metrics[f"DCGM_FI_DEV_SM_CLOCK{held}"] == 1980
    assert metrics[f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{held}"] == 123456789
    # Shared by two: the figures are neither's. Not measured: absent.
    assert f"DCGM_FI_DEV_GPU_UTIL{labels(1)}" in metrics
    assert f"DCGM_FI_DEV_POWER_USAGE{labels(1)}" not in metrics
    assert metrics[f"DCGM_FI_DEV_POWER_USAGE{labels(2)}"] == 77.7
    assert not any(name.startswith("DCGM_FI_PROF") for name in metrics)
