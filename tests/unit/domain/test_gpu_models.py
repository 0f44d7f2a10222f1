"""GPUs by name, as NVML, node labels and clouds write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.gpu_models import GPUS, GpuModel, recognise
from optiinfra.domain.readings import Unknown


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # NVML
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA H200", "H200-SXM"),
        ("NVIDIA H200 NVL", "H200-NVL"),
        ("NVIDIA GH200 480GB", "GH200-96GB"),
        ("NVIDIA GH200 144G HBM3e", "GH200-144GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB-PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB-SXM"),
        ("Tesla V100-SXM2-16GB", "V100-16GB"),
        ("Tesla V100-SXM2-32GB", "V100-32GB"),
        ("Tesla T4", "T4"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX-6000-Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000-Server"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX-PRO-6000-Workstation"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GB200", "GB200"),
        ("AMD Instinct MI300X OAM", "MI300X"),
        ("AMD_Instinct_MI250X", "MI250X-GCD"),
        # labels
        ("NVIDIA-H100-80GB-HBM3", "H100-SXM"),
        ("NVIDIA-A100-SXM4-40GB", "A100-40GB"),
        ("Tesla-T4", "T4"),
        ("NVIDIA-RTX-6000-Ada-Generation", "RTX-6000-Ada"),
        # clouds
        ("nvidia-h100-80gb", "H100-SXM"),
        ("nvidia-h100-mega-80gb", "H100-SXM"),
        ("nvidia-tesla-a100", "A100-40GB"),
        ("nvidia-a100-80gb", "A100-80GB-SXM"),
        ("nvidia-l4", "L4"),
        ("nvidia-h200-141gb", "H200-SXM"),
        ("nvidia-rtx-pro-6000", "RTX-PRO-6000-Server"),
        ("a10g", "A10G"),
        ("p4d.24xlarge", "A100-40GB"),
        ("g5.12xlarge", "A10G"),
        ("g6e.xlarge", "L40S"),
        ("p5.48xlarge", "H100-SXM"),
        ("p5en.48xlarge", "H200-SXM"),
        ("a3-highgpu-8g", "H100-SXM"),
        ("g2-standard-24", "L4"),
        ("Standard_ND96isr_H100_v5", "H100-SXM"),
        ("Standard_NC24ads_A100_v4", "A100-80GB-PCIe"),
    ],
)
def test_a_gpu_is_known_by_its_name(name, expected):
    found = recognise(name)
    assert isinstance(found, GpuModel), found
    assert found.name == expected


@pytest.mark.parametrize(
    "name",
    ["", "GPU", "A100", "NVIDIA", "H1000", "NVIDIA GeForce GTX 1080", "GRID T4-16Q", "NVIDIA A100-40C", "x" * 500],
)  # fmt: skip
def test_an_unknown_name_stays_unknown_and_says_what_to_do(name):
    found = recognise(name)
    assert isinstance(found, Unknown)
    assert found.detail


def test_a_shared_gpu_says_so():
    found = recognise("Tesla-T4-SHARED")
    assert isinstance(found, GpuModel)
    assert (found.name, found.shared) == ("T4", True)


@pytest.mark.parametrize(
    ("name", "memory", "compute"),
    [
        ("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", 1 / 8, 1 / 7),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", 1 / 2, 3 / 7),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.20gb", 1 / 4, 1 / 7),
        ("NVIDIA-H100-80GB-HBM3-MIG-7g.80gb", 1.0, 1.0),
        ("NVIDIA-A30-MIG-2g.12gb", 1 / 2, 1 / 2),
        ("NVIDIA-H200-MIG-1g.18gb", 1 / 8, 1 / 7),
    ],
)
def test_a_slice_has_its_share(name, memory, compute):
    part, whole = recognise(name), recognise(name.upper().partition("MIG")[0].strip(" -"))
    assert isinstance(part, GpuModel)
    assert isinstance(whole, GpuModel)
    assert part.bandwidth == pytest.approx(whole.bandwidth * memory)
    assert part.memory_bytes == pytest.approx(whole.memory_bytes * memory)
    assert part.flops_16 == pytest.approx(whole.flops_16 * compute)
    assert "MIG" in part.name


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_every_row_is_plausible(gpu):
    assert 3e11 <= gpu.bandwidth <= 8e12
    # Operations a byte: between an H20 and a B200.
    assert 30 < gpu.flops_16 / gpu.bandwidth < 600
    if gpu.compute_capability:
        eight = isinstance(gpu.flops_8, float)
        assert eight == (gpu.compute_capability >= 8.9)
        assert isinstance(gpu.flops_4, float) == (gpu.compute_capability >= 10.0)
    for wide, narrow in ((gpu.flops_16, gpu.flops_8), (gpu.flops_8, gpu.flops_4)):
        if not isinstance(wide, Unknown) and not isinstance(narrow, Unknown):
            assert wide <= narrow <= 3.1 * wide


@given(st.text(max_size=200))
def test_any_text_is_a_gpu_or_unknown(text):
    assert isinstance(recognise(text), GpuModel | Unknown)
