"""GPU, CPU and network pages: three dialects, sentinels, sharing, MIG, and other people's families on the same text."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.surroundings_readings import GpuQuantity, NodeQuantity
from optiinfra.engines import gpu_page, page
from optiinfra.engines.errors import PageError
from optiinfra_agent import gpu_families as agent_gpu_families
from optiinfra_agent import metrics as agent_metrics
from tests.unit.engines.recorded import BATCH_BOUND, raw

G, N = GpuQuantity, NodeQuantity
MIB = 2.0**20
LABELS = 'gpu="0",UUID="GPU-a",pci_bus_id="00000000:1B:00.0",device="nvidia0",modelName="NVIDIA H100",Hostname="n"'
LEGACY = "".join(
    f"# TYPE {name} gauge\n{name}{{{LABELS}}} {value}\n"
    for name, value in (
        ("DCGM_FI_DEV_GPU_UTIL", 97),
        ("DCGM_FI_PROF_SM_ACTIVE", 0.61),
        ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 0.22),
        ("DCGM_FI_PROF_DRAM_ACTIVE", 0.7),
        ("DCGM_FI_DEV_FB_USED", 70000),
        ("DCGM_FI_DEV_FB_FREE", 10000),
        ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", 4),
    )
)
NEWER = "".join(
    f'{name}{{gpu="0",UUID="GPU-a"}} {value}\n'
    for name, value in (
        ("DCGM_FI_DEV_GPU_UTIL_RATIO", 0.97),
        ("DCGM_FI_PROF_SM_UTIL_RATIO", 0.61),
        ("DCGM_FI_PROF_TENSOR_UTIL_RATIO", 0.22),
        ("DCGM_FI_PROF_DRAM_UTIL_RATIO", 0.7),
        ("DCGM_FI_DEV_FB_USED_BYTES", 70000 * MIB),
        ("DCGM_FI_DEV_FB_FREE_BYTES", 10000 * MIB),
        ("DCGM_FI_DEV_GPU_POWER_THROTTLE_SECONDS_TOTAL", 12.5),
        ("DCGM_FI_DEV_GPU_THERMAL_THROTTLE_SECONDS_TOTAL", 2.5),
    )
)
AGENT = """optiinfra_gpu_utilization_ratio{uuid="GPU-a"} 0.97
optiinfra_gpu_sm_active_ratio{uuid="GPU-a"} 0.61
optiinfra_gpu_memory_used_bytes{uuid="GPU-a"} 70
optiinfra_gpu_memory_total_bytes{uuid="GPU-a"} 100
optiinfra_gpu_memory_reserved_bytes{uuid="GPU-a"} 10
optiinfra_node_cpu_cores 64.0
optiinfra_node_cpu_busy_seconds_total 1000.5
optiinfra_node_cpu_utilization_ratio 0.3
optiinfra_node_pressure_ratio{resource="cpu",kind="some"} 0.12
optiinfra_node_pressure_ratio{resource="memory",kind="some"} 0.9
"""
NODE = """node_cpu_seconds_total{cpu="0",mode="idle"} 900
node_cpu_seconds_total{cpu="0",mode="iowait"} 50
node_cpu_seconds_total{cpu="0",mode="user"} 40
node_cpu_seconds_total{cpu="1",mode="idle"} 980
node_cpu_seconds_total{cpu="1",mode="system"} 20
node_pressure_cpu_waiting_seconds_total 77.5
node_network_receive_bytes_total{device="eth0"} 1000
node_network_transmit_bytes_total{device="eth0"} 2000
node_network_speed_bytes{device="eth0"} 1.25e+09
node_network_receive_bytes_total{device="veth1"} 1
node_network_transmit_bytes_total{device="veth1"} 1
node_network_speed_bytes{device="veth1"} -125000
node_infiniband_port_data_received_bytes_total{device="mlx5_0",port="1"} 5
node_infiniband_port_data_transmitted_bytes_total{device="mlx5_0",port="1"} 6
node_infiniband_rate_bytes_per_second{device="mlx5_0",port="1"} 5e+10
"""


def read(text):
    return gpu_page.read(text.encode(), at=5.0)


def only_gpu(text):
    (gpu,) = read(text).gpus
    return gpu


@pytest.mark.parametrize("text", [LEGACY, NEWER], ids=["legacy", "4.9"])
def test_both_dialects_of_dcgm_say_the_same(text):
    gpu = only_gpu(text)
    assert gpu.uuid == "GPU-a"
    assert gpu.values[G.UTILIZATION] == pytest.approx(0.97)
    assert gpu.values[G.SM_ACTIVE] == 0.61
    assert gpu.values[G.TENSOR_ACTIVE] == 0.22
    assert gpu.values[G.DRAM_ACTIVE] == 0.7
    assert gpu.values[G.MEMORY_USED] == 70000 * MIB
    assert gpu.values[G.MEMORY_FREE] == 10000 * MIB


def test_what_holds_clocks_down_comes_as_bits_or_as_seconds_of_all_causes():
    assert only_gpu(LEGACY).values[G.CLOCK_EVENTS] == 4.0
    assert only_gpu(NEWER).values[G.THROTTLED_SECONDS] == 15.0


def test_a_page_with_both_dialects_is_read_in_base_units_once():
    assert only_gpu(LEGACY + NEWER).values[G.UTILIZATION] == 0.97
    assert only_gpu(LEGACY + NEWER).values[G.MEMORY_USED] == 70000 * MIB


def test_the_agents_own_page():
    reading = read(AGENT)
    (gpu,) = reading.gpus
    assert gpu.values[G.UTILIZATION] == 0.97
    assert (gpu.values[G.MEMORY_USED], gpu.values[G.MEMORY_TOTAL], gpu.values[G.MEMORY_RESERVED]) == (70, 100, 10)
    assert reading.node == {
        N.CPU_BUSY_SECONDS: 1000.5,
        N.CPU_CORES: 64.0,
        N.CPU_RATIO: 0.3,
        N.CPU_WAITING_RATIO: 0.12,
    }


def test_the_names_read_are_those_that_the_agent_exports():
    source = "".join(Path(module.__file__).read_text() for module in (agent_metrics, agent_gpu_families))
    exported = {f"optiinfra_{name}" for name in re.findall(r'"((?:gpu|node)_[a-z0-9_]+)"', source)}
    read_here = {name for name in gpu_page.tables.FAMILIES if name.startswith("optiinfra_")}
    assert read_here <= exported
    assert "optiinfra_gpu_utilization_ratio" in read_here


def test_node_exporters_cpu_pressure_and_links():
    reading = read(NODE)
    assert reading.gpus == ()
    assert reading.node[N.CPU_BUSY_SECONDS] == 60.0
    assert reading.node[N.CPU_CORES] == 2.0
    assert reading.node[N.CPU_WAITING_SECONDS] == 77.5
    ethernet, virtual, infiniband = reading.links
    assert (ethernet.received_bytes, ethernet.sent_bytes, ethernet.speed) == (1000.0, 2000.0, 1.25e9)
    assert isinstance(virtual.speed, Unknown)
    assert (infiniband.name, infiniband.speed) == ("mlx5_0/1", 5e10)


@pytest.mark.parametrize("value", ["9223372036854775794", "NaN", "+Inf", "-1", "101.5"])
def test_what_is_unsupported_or_cannot_be_is_absent(value):
    gpu = only_gpu(f'DCGM_FI_DEV_GPU_UTIL{{UUID="GPU-a"}} {value}\nDCGM_FI_DEV_FB_USED{{UUID="GPU-a"}} 1\n')
    assert set(gpu.values) == {G.MEMORY_USED}


def test_a_gpu_that_pods_share_is_one_gpu_and_its_literal_zero_is_none():
    text = 'DCGM_FI_DEV_GPU_UTIL{UUID="GPU-a",pod="x"} 0\nDCGM_FI_DEV_GPU_UTIL{UUID="GPU-a",pod="y"} 40\n'
    assert only_gpu(text).values[G.UTILIZATION] == pytest.approx(0.4)


def test_mig_instances_are_told_apart():
    text = (
        'DCGM_FI_PROF_SM_ACTIVE{UUID="GPU-a",GPU_I_ID="1"} 0.2\nDCGM_FI_PROF_SM_ACTIVE{UUID="GPU-a",GPU_I_ID="2"} 0.4\n'
    )
    assert [gpu.uuid for gpu in read(text).gpus] == ["GPU-a/1", "GPU-a/2"]


def test_an_engines_page_with_gpus_on_it_is_read_by_both_and_each_leaves_the_others_alone():
    engine = raw(BATCH_BOUND)[100][0]
    whole = LEGACY.encode() + NODE.encode() + engine + AGENT.encode()
    for _ in range(4):  # with care, and by its layout
        assert page.read(whole, at=1.0) == page.read(engine, at=1.0)
        reading = gpu_page.read(whole, at=1.0)
    assert page.read(whole, at=1.0).engine is EngineKind.VLLM
    assert reading.gpus[0].values[G.SM_ACTIVE] == 0.61
    assert len(reading.links) == 3


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"", "empty"),
        (b"<html>", "HTML"),
        (raw(BATCH_BOUND)[0][0], "no GPU"),
        (b'DCGM_FI_DEV_GPU_UTIL{UUID="a"} 3', "cut short"),
        (b'DCGM_FI_DEV_GPU_UTIL{UUID="a\n', "labels"),
        (b"".join(b'DCGM_FI_DEV_GPU_UTIL{UUID="%d"} 1\n' % one for one in range(300)), "more than 256"),
    ],
    ids=["empty", "html", "an engine's", "cut", "labels", "many"],
)
def test_a_page_that_cannot_be_read_says_why(content, detail):
    with pytest.raises(PageError, match=detail) as raised:
        gpu_page.read(content, at=1.0)
    assert raised.value.unknown.reason is UnknownReason.INVALID


def test_virtual_interfaces_by_the_hundred_do_not_crowd_out_real_ones():
    many = "".join(
        f'node_network_receive_bytes_total{{device="veth{one}"}} 1\n'
        f'node_network_transmit_bytes_total{{device="veth{one}"}} 1\n'
        for one in range(400)
    )
    assert {link.name for link in read(many + NODE).links} == {"eth0", "mlx5_0/1"}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_pages_are_read_or_refused(data):
    content = (LEGACY + NEWER + AGENT + NODE).encode()
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        content = content[:start] + data.draw(st.binary(max_size=20)) + content[start + data.draw(st.integers(0, 30)) :]
    try:
        reading = gpu_page.read(content, at=1.0)
    except PageError:
        return
    for gpu in reading.gpus:
        assert all(0.0 <= value < 1e15 for value in gpu.values.values())
    assert all(value >= 0.0 for value in reading.node.values())
