"""GPUs: the real agent, the real binding, and a driver library that fails in every way the agent must tell apart."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from optiinfra_agent.errors import SourceUnavailableError
from optiinfra_agent.gpu import GpuCollector
from optiinfra_agent.gpu_fields import NAMES
from optiinfra_agent.nvml import NvmlSession
from tests.nvml_stub import Stub
from tests.unit.agent.conftest import Agent, environment, eventually, once

UUID = "GPU-{0:08d}-0000-4000-8000-{0:012d}"
CLOCKS = ("power_cap", "sync_boost", "software_thermal", "hardware_thermal", "power_brake")
LACKING = {
    "numa_node": "unavailable",
    **dict.fromkeys(
        ("sm_active_ratio", "sm_occupancy_ratio", "tensor_active_ratio", "dram_active_ratio"), "unsupported"
    ),
}


def nvml(snapshot: dict[str, Any]) -> tuple[str, str]:
    source = snapshot["sources"]["nvml"]
    return source["state"], source.get("reason", "")


def test_no_library_is_unavailable_and_the_rest_is_measured() -> None:
    snapshot = once()
    state, reason = nvml(snapshot)
    assert state == "unavailable"
    assert "libnvidia-ml.so.1 not found" in reason
    assert snapshot["gpus"] == []
    assert snapshot["driver_version"] is None
    assert snapshot["memory"]["total_bytes"] > 0


def test_library_that_does_not_load_is_failed(tmp_path: Any) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_bytes(b"not a library")
    assert nvml(once(LD_LIBRARY_PATH=str(tmp_path)))[0] == "failed"


def test_one_gpu_in_full(stub: Stub) -> None:
    stub.rules(
        "value memory_used 0 2000000000",
        "value utilization 0 100",
        "value memory_utilization 0 7",
        "value power 0 627000",
        "value energy 0 123456789",
        "value temperature 0 64",
        "value clock 0 1980",
        "value processes 0 3",
    )
    snapshot = once(**stub.environment)
    assert nvml(snapshot) == ("ok", "")
    assert snapshot["driver_version"] == "590.48.01"
    assert snapshot["gpus"] == [
        {
            "uuid": UUID.format(0),
            "index": 0,
            "model": "NVIDIA H100 80GB HBM3",
            "pci_bus_id": "00000000:18:00.0",
            "pcie_link_bytes_per_second": 63015384615,
            "memory_total_bytes": 85520809984,
            "memory_used_bytes": 2000000000,
            "memory_reserved_bytes": 600000000,
            "utilization_ratio": 1.0,
            "memory_utilization_ratio": 0.07,
            "utilization_mean_ratio": 1,
            "utilization_max_ratio": 1,
            **dict.fromkeys(LACKING),
            "power_watts": 627.0,
            "power_limit_watts": 700.0,
            "energy_joules_total": 123456.789,
            "temperature_celsius": 64,
            "sm_clock_hertz": 1980e6,
            "memory_clock_hertz": 2619e6,
            "clock_event_reasons": 1,
            **dict.fromkeys(NAMES, 0),
            "clock_event_seconds": dict.fromkeys(CLOCKS, 0),
            "bar1_total_bytes": 137438953472,
            "bar1_used_bytes": 1048576,
            "xid_errors": [],
            "mig_enabled": False,
            "processes": 3,
            "unknown": LACKING,
        }
    ]


def test_eight_gpus_are_told_apart(stub: Stub) -> None:
    stub.rules("gpus 8", *(f"value power {index} {index * 1000}" for index in range(8)))
    gpus = once(**stub.environment)["gpus"]
    assert [gpu["uuid"] for gpu in gpus] == [UUID.format(index) for index in range(8)]
    assert [gpu["power_watts"] for gpu in gpus] == list(range(8))


@pytest.mark.parametrize(
    ("code", "state", "words"),
    [
        (9, "unavailable", "driver not loaded"),
        (12, "unavailable", "library not found"),
        (18, "failed", "replaced underneath"),
        (999, "failed", "unknown error"),
        (28, "failed", "no GPU visible"),
        (4, "denied", "no permission"),
        (17, "denied", "operating system"),
        (13, "unsupported", "older"),
        (77, "failed", "NVML error 77"),
    ],
)
def test_initialisation_that_fails(stub: Stub, code: int, state: str, words: str) -> None:
    stub.rules(f"code nvmlInitWithFlags -1 {code}")
    snapshot = once(**stub.environment)
    assert nvml(snapshot)[0] == state
    assert words in nvml(snapshot)[1]
    assert snapshot["gpus"] == []


def test_driver_without_gpu_is_failed_not_empty(stub: Stub) -> None:
    stub.rules("gpus 0")
    assert nvml(once(**stub.environment)) == ("failed", "driver present but no GPU visible")


def test_count_that_nobody_believes(stub: Stub) -> None:
    stub.rules("gpus 100000")
    assert nvml(once(**stub.environment))[0] == "failed"


@pytest.mark.parametrize("code", [15, 16])
def test_gpu_lost_before_it_was_ever_named(stub: Stub, code: int) -> None:
    # It cannot be listed, and a list of the others alone would look like a smaller node.
    stub.rules("gpus 2", f"code nvmlDeviceGetUUID 1 {code}")
    state, reason = nvml(once(**stub.environment))
    assert state == "failed"
    assert "GPU 1" in reason


FIELDS = {
    "nvmlDeviceGetUtilizationRates": ("utilization_ratio", "memory_utilization_ratio"),
    "nvmlDeviceGetMemoryInfo_v2": ("memory_total_bytes", "memory_used_bytes", "memory_reserved_bytes"),
    "nvmlDeviceGetPowerUsage": ("power_watts",),
    "nvmlDeviceGetEnforcedPowerLimit": ("power_limit_watts",),
    "nvmlDeviceGetTotalEnergyConsumption": ("energy_joules_total",),
    "nvmlDeviceGetTemperatureV": ("temperature_celsius",),
    "nvmlDeviceGetClockInfo": ("sm_clock_hertz", "memory_clock_hertz"),
    "nvmlDeviceGetCurrentClocksEventReasons": ("clock_event_reasons",),
    # What only GPUs before Ampere have is left out where it is unsupported.
    "nvmlDeviceGetFieldValues": tuple(name for name in NAMES if "retire" not in name),
    "nvmlDeviceGetBAR1MemoryInfo": ("bar1_total_bytes", "bar1_used_bytes"),
    "nvmlDeviceRegisterEvents": ("xid_errors",),
    "nvmlDeviceGetComputeRunningProcesses_v3": ("processes",),
    "nvmlDeviceGetMaxPcieLinkWidth": ("pcie_link_bytes_per_second",),
    "nvmlDeviceGetSamples": ("utilization_mean_ratio", "utilization_max_ratio"),
    "nvmlDeviceGetName": ("model",),
    "nvmlDeviceGetPciInfo_v3": ("pci_bus_id", "numa_node"),
}


def test_one_field_not_supported_leaves_the_others(stub: Stub) -> None:
    # GPU n lacks the n-th field, the last one lacks none.
    functions = list(FIELDS)
    stub.rules(f"gpus {len(functions) + 1}", *(f"code {name} {index} 3" for index, name in enumerate(functions)))
    snapshot = once(**stub.environment)
    assert nvml(snapshot)[0] == "ok"
    for gpu, function in zip(snapshot["gpus"], [*functions, None], strict=True):
        expected = LACKING | dict.fromkeys(FIELDS.get(function, ()), "unsupported")
        assert gpu["unknown"] == expected, function
        assert {field for field, value in gpu.items() if value is None} == set(expected), function


REASONS = {
    4: "denied",
    17: "denied",
    6: "unavailable",
    21: "unavailable",
    26: "unsupported",
    27: "warming_up",
    2: "failed",
    10: "failed",
}


def test_reason_of_a_value_follows_its_code(stub: Stub) -> None:
    codes = list(REASONS)
    stub.rules(
        f"gpus {len(codes)}",
        *(f"code nvmlDeviceGetPowerUsage {index} {code}" for index, code in enumerate(codes)),
        *(f"code nvmlDeviceGetMigMode {index} {code}" for index, code in enumerate(codes)),
    )
    for gpu, code in zip(once(**stub.environment)["gpus"], codes, strict=True):
        assert gpu["unknown"]["power_watts"] == REASONS[code], code
        assert gpu["mig_enabled"] is None, code
        assert gpu["unknown"]["mig_enabled"] == REASONS[code], code


def test_utilisation_is_unknown_under_mig(stub: Stub) -> None:
    stub.rules("value mig 0 1", "code nvmlDeviceGetUtilizationRates 0 3", "value power 0 295000")
    gpu = once(**stub.environment)["gpus"][0]
    assert gpu["mig_enabled"] is True
    assert gpu["utilization_ratio"] is None
    assert gpu["unknown"]["utilization_ratio"] == "unsupported"
    assert gpu["power_watts"] == 295.0


SENTINELS = (
    ("utilization", 4294967295, "utilization_ratio"),
    ("memory_utilization", 101, "memory_utilization_ratio"),
    ("power", 4294967295, "power_watts"),
    ("power_limit", 4294967295, "power_limit_watts"),
    ("energy", -1, "energy_joules_total"),
    ("temperature", 2147483647, "temperature_celsius"),
    ("clock", 4294967295, "sm_clock_hertz"),
    ("memory_used", 99999999999, "memory_used_bytes"),
    ("memory_reserved", 9e18, "memory_reserved_bytes"),
    ("clock_events", 1e18, "clock_event_reasons"),
    ("bar1_used", 9e18, "bar1_used_bytes"),
    ("field_197", 1.8e19, "pcie_transmit_bytes_total"),
    ("field_144", 4294967295, "remap_pending"),
    ("field_82", 4294967295, "memory_temperature_celsius"),
)


def test_numbers_that_no_hardware_gives_are_unknown(stub: Stub) -> None:
    stub.rules(
        f"gpus {len(SENTINELS)}",
        *(f"value {name} {index} {number}" for index, (name, number, _) in enumerate(SENTINELS)),
    )
    for gpu, (_, _, field) in zip(once(**stub.environment)["gpus"], SENTINELS, strict=True):
        assert gpu[field] is None
        # The samples of the ring buffer are those of the last window, and as wrong.
        others = ("utilization_mean_ratio", "utilization_max_ratio") if field == "utilization_ratio" else ()
        assert gpu["unknown"] == LACKING | dict.fromkeys((field, *others), "failed")


def test_older_driver_without_newer_functions(old_stub: Stub) -> None:
    old_stub.rules("value processes 0 2", "value memory_used 0 5000")
    gpu = once(**old_stub.environment)["gpus"][0]
    assert gpu["unknown"] == LACKING | {"memory_reserved_bytes": "unsupported"}
    assert gpu["memory_used_bytes"] == 5000
    assert gpu["temperature_celsius"] == 31
    assert gpu["processes"] == 2
    assert gpu["mig_enabled"] is False


def test_session_lost_in_the_middle_is_opened_again(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("gpus 2")
    agent = start(**stub.environment)
    assert len(agent.snapshot()["gpus"]) == 2
    stub.rules("gpus 2", "code nvmlDeviceGetPowerUsage 1 999")
    failed = eventually(lambda: nvml(agent.snapshot())[0] == "failed" and agent.snapshot())
    assert failed["gpus"] == []
    assert agent.metrics()["optiinfra_agent_nvml_return_code"] == 999
    assert not any(name.startswith("optiinfra_gpu_") for name in agent.metrics())
    stub.rules("gpus 2")
    eventually(lambda: nvml(agent.snapshot())[0] == "ok")
    assert stub.calls("nvmlInitWithFlags") >= 2
    assert stub.calls("nvmlShutdown") == stub.calls("nvmlInitWithFlags") - 1


def test_session_is_opened_once_and_never_closed_while_all_is_well(start: Callable[..., Agent], stub: Stub) -> None:
    agent = start(**stub.environment)
    eventually(lambda: stub.calls("nvmlDeviceGetCount_v2") >= 3)
    assert agent.snapshot()["gpus"]
    assert stub.calls("nvmlInitWithFlags") == 1
    assert stub.calls("nvmlShutdown") == 0


def test_scrapes_never_touch_the_driver(start: Callable[..., Agent], stub: Stub) -> None:
    agent = start(OPTIINFRA_AGENT_INTERVAL="3600", **stub.environment)
    agent.snapshot()
    before = stub.calls("nvmlDeviceGetCount_v2")
    for path in ("/v1/snapshot", "/metrics", "/health/detailed", "/") * 5:
        assert agent.request(path)[0] == 200
    assert before == stub.calls("nvmlDeviceGetCount_v2") == 1


class Refusing(NvmlSession):
    """A session whose library never initialises, and that notes when it was asked."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self.asked: list[float] = []

    def open(self) -> None:
        self.asked.append(self._clock())
        raise SourceUnavailableError("driver not loaded", code=9)


def test_failing_initialisation_is_repeated_ever_more_rarely() -> None:
    now = [0.0]
    session = Refusing(lambda: now[0])
    collector = GpuCollector(session, clock=lambda: now[0], longest_pause_s=8)
    for second in range(33):
        now[0] = float(second)
        # Between two attempts the last answer stands.
        with pytest.raises(SourceUnavailableError, match="driver not loaded"):
            collector.collect()
    assert session.asked == [0, 1, 3, 7, 15, 23, 31]


def test_one_gpu_lost_stays_in_the_list_with_nothing_known(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("gpus 2")
    agent = start(**stub.environment)
    calls_of_a_pass = 20
    assert len(agent.snapshot()["gpus"]) == 2
    stub.rules("gpus 2", f"lost_after 1 {calls_of_a_pass}")
    snapshot = eventually(lambda: nvml(agent.snapshot())[1] and agent.snapshot())
    assert nvml(snapshot) == ("ok", f"{UUID.format(1)}: GPU is lost (NVML 15)")
    healthy, lost = snapshot["gpus"]
    assert healthy["power_watts"] == 77.7
    assert lost["uuid"] == UUID.format(1)
    assert lost["model"] == "NVIDIA H100 80GB HBM3"
    assert lost["power_watts"] is None
    assert lost["unknown"]["power_watts"] == "failed"
    assert agent.metrics()["optiinfra_agent_nvml_return_code"] == 15


def test_gpu_that_disappears_and_another_that_comes(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("gpus 2")
    agent = start(**stub.environment)
    agent.snapshot()
    stub.rules("gpus 1")
    eventually(lambda: len(agent.snapshot()["gpus"]) == 1)
    stub.rules("gpus 1", "value identity 0 7")
    eventually(lambda: agent.snapshot()["gpus"][0]["uuid"].endswith("-000000000007"))


def test_counters_go_on_between_passes(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("value energy 0 1000000")
    agent = start(**stub.environment)
    name = f'optiinfra_gpu_energy_joules_total{{uuid="{UUID.format(0)}"}}'
    assert eventually(lambda: agent.metrics().get(name)) == 1000
    stub.rules("value energy 0 1500000")
    eventually(lambda: agent.metrics()[name] == 1500)
    # The driver was loaded anew: the counter starts again, and Prometheus knows how to read that.
    stub.rules("value energy 0 10000")
    eventually(lambda: agent.metrics()[name] == 10)


def test_hanging_driver_is_stuck_and_blocks_nobody(start: Callable[..., Agent], stub: Stub) -> None:
    agent = start(OPTIINFRA_AGENT_NVML_DEADLINE="0.5", **stub.environment)
    assert agent.snapshot()["gpus"]
    stub.rules("hang nvmlDeviceGetPowerUsage 0 0")
    snapshot = eventually(lambda: nvml(agent.snapshot())[0] == "stuck" and agent.snapshot())
    assert snapshot["gpus"] == []
    assert snapshot["cpu"]["busy_seconds_total"] > 0
    metrics = agent.metrics()
    assert metrics['optiinfra_agent_source_state{source="nvml",state="stuck"}'] == 1
    assert metrics['optiinfra_agent_source_success{source="nvml"}'] == 0
    assert "optiinfra_agent_nvml_return_code" not in metrics
    assert agent.document("/health")["status"] == "degraded"
    assert agent.request("/health/live")[0] == 200
    # The collection goes on, and there is one waiting call, not one more a pass.
    passes = metrics["optiinfra_agent_collections_total"]
    eventually(lambda: agent.metrics()["optiinfra_agent_collections_total"] >= passes + 2)
    hung = stub.calls("nvmlDeviceGetPowerUsage")
    eventually(lambda: agent.metrics()["optiinfra_agent_collections_total"] >= passes + 4)
    assert stub.calls("nvmlDeviceGetPowerUsage") == hung
    stub.rules()
    eventually(lambda: nvml(agent.snapshot())[0] == "ok")


def test_agent_ends_while_the_driver_hangs(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("hang nvmlInitWithFlags -1 0")
    agent = start(OPTIINFRA_AGENT_NVML_DEADLINE="0.2", **stub.environment)
    assert nvml(agent.snapshot())[0] == "stuck"
    assert agent.terminate() == 0


def test_slow_driver_within_its_deadline_is_waited_for(stub: Stub) -> None:
    stub.rules("delay nvmlDeviceGetMemoryInfo_v2 0 300")
    snapshot = once(**stub.environment)
    assert nvml(snapshot)[0] == "ok"
    assert snapshot["sources"]["nvml"]["duration_s"] >= 0.3


def test_restart_is_asked_for_where_only_a_restart_helps(start: Callable[..., Agent], stub: Stub) -> None:
    agent = start(OPTIINFRA_AGENT_NVML_RESTART_AFTER="2", **stub.environment)
    assert nvml(agent.snapshot())[0] == "ok"
    assert agent.request("/health/live")[0] == 200
    stub.rules("code nvmlDeviceGetCount_v2 -1 999", "code nvmlInitWithFlags -1 999")
    eventually(lambda: agent.request("/health/live")[0] == 503)
    assert "restart" in agent.document("/health/live")["reason"]


def test_no_restart_where_the_driver_never_worked(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("code nvmlInitWithFlags -1 18")
    agent = start(OPTIINFRA_AGENT_NVML_RESTART_AFTER="2", **stub.environment)
    eventually(lambda: agent.metrics().get("optiinfra_agent_collections_total", 0) >= 4)
    assert agent.request("/health/live")[0] == 200


def test_child_of_a_fork_opens_its_own_session(stub: Stub) -> None:
    program = textwrap.dedent(
        """
        import os, time
        from optiinfra_agent.gpu import GpuCollector
        from optiinfra_agent.nvml import NvmlSession
        collector = GpuCollector(NvmlSession(), clock=time.monotonic, longest_pause_s=60)
        def memory():
            # Rates depend on how long ago they were read last, and a loaded machine takes its time.
            return [(gpu.uuid, gpu.memory_used_bytes) for gpu in collector.collect().gpus]
        before = memory()
        child = os.fork()
        if child == 0:
            os._exit(0 if before and memory() == before else 3)
        _, status = os.waitpid(child, 0)
        assert memory() == before
        raise SystemExit(os.waitstatus_to_exitcode(status))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(**stub.environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert stub.calls("nvmlInitWithFlags") == 2
