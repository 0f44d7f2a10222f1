"""Every fault of a driver that the stub reproduces: what snapshot, metrics and health then show, and that it passes.

group          case                                  test
library        absent                                test_library_absent
               missing symbols (an older driver)     test_library_of_an_older_driver
               initialisation gives 9, 12, 18, 999   test_initialisation_fails
               calls before initialisation (1)       test_session_that_nobody_opened
enumeration    no GPU                                test_no_gpu
               eight, sixteen GPUs                   test_many_gpus
               MIG, numbers used again               test_partition_made_anew_uses_numbers_again
               a GPU disappears, appears             test_gpu_disappears_and_appears
one GPU        15, 16 on one only                    test_one_gpu_is_lost_and_back
               lost after some calls                 test_gpu_lost_in_the_middle_of_a_pass
               3 for one field                       test_one_value_is_refused[3]
               4, 17                                 test_one_value_is_refused[4], [17]
               25, 26, 27                            test_one_value_is_refused[25], [26], [27]
utilisation    one tiny kernel is 100 %              test_one_tiny_kernel
               unsupported under MIG                 test_no_utilisation_of_a_partitioned_gpu
               no new samples (6)                    test_no_new_samples
               success with zero process samples     test_no_process_was_busy
               garbage samples                       test_garbage_samples
processes      memory of all ones                    test_memory_of_processes_is_all_ones
               empty list                            test_no_processes
               changing PIDs                         test_changing_processes
counters       energy grows, and begins anew         test_counters_begin_anew_with_the_driver
               PCIe wraps                            test_pcie_counter_wraps
               sentinel values                       test_sentinels
GPM            unsupported before Hopper             test_gpu_before_hopper
               a pair too close                      test_gpm_samples_too_close
               leak if not freed                     test_gpm_samples_are_given_back
events         Xid sequence, time-out, none before   test_xids_since_the_start
time           delay                                 test_slow_call
               permanent hang                        test_hang
fork           child inherits dead state             test_gpu.py: test_child_of_a_fork_opens_its_own_session
"""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nvml_stub import Stub
from tests.unit.agent.stepped import Step, Stepped

UUID = "GPU-{0:08d}-0000-4000-8000-{0:012d}"
HOPPER = ("value gpm -1 1", "value gpm_2 -1 61.5", "value gpm_3 -1 20", "value gpm_5 -1 12.5", "value gpm_10 -1 50")
POD = "0a1b2c3d-1111-2222-3333-444455556666"
SERIES = re.compile(r"optiinfra_gpu_")


class Node:
    """A node whose driver obeys; every test begins and ends with one that is well."""

    def __init__(self, stub: Stub, folder: Path) -> None:
        self.stub = stub
        self.procfs = folder
        self.agent = Stepped(
            OPTIINFRA_AGENT_NVML_DEADLINE="2",
            OPTIINFRA_AGENT_NVML_RESTART_AFTER="3",
            OPTIINFRA_AGENT_PROCFS=str(folder),
            **stub.environment,
        )

    def well(self, *rules: str) -> Step:
        """Let all be well, with these rules, and return what is shown."""
        self.stub.rules(*rules)
        end = time.monotonic() + 30
        while (step := self.agent.step()).state != "ok" or step.health["components"]["capabilities"]["probes"] == 0:
            assert time.monotonic() < end, step.reason
        return step

    def fails(self, *rules: str, ahead: float = 120.0) -> Step:
        """Change the rules and collect once."""
        self.stub.rules(*rules)
        return self.agent.step(ahead=ahead)

    def process(self, pid: int, container: str) -> None:
        """Let a process be in a container of the pod."""
        folder = self.procfs / str(pid)
        folder.mkdir(exist_ok=True)
        slice_ = f"kubepods-burstable-pod{POD.replace('-', '_')}.slice"
        (folder / "cgroup").write_text(f"0::/../../{slice_}/cri-containerd-{container * 64}.scope\n")


@pytest.fixture(scope="module")
def one_node(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    procfs = folder / "proc"
    (procfs / "2").mkdir(parents=True)
    (procfs / "2" / "comm").write_text("kthreadd\n")
    (procfs / "stat").write_text("cpu  1 0 1 8 0 0 0 0 0 0\ncpu0 1 0 1 8 0 0 0 0 0 0\n")
    node = Node(Stub(library=library, folder=folder), procfs)
    yield node
    node.agent.end()


@pytest.fixture
def node(one_node: Node) -> Iterator[Node]:
    one_node.well("gpus 1")
    yield one_node
    after = one_node.well("gpus 1")
    # Whatever was wrong, it has passed, and the process was not in need of a restart for good.
    assert after.live == ""
    assert after.metrics['optiinfra_agent_source_success{source="nvml"}'] == 1


def no_gpus(step: Step, *, state: str) -> None:
    """Assert that nothing is said of GPUs, and that the source says why, on every page."""
    assert step.state == state
    assert step.snapshot["gpus"] == []
    assert step.metrics[f'optiinfra_agent_source_state{{source="nvml",state="{state}"}}'] == 1
    assert step.metrics['optiinfra_agent_source_success{source="nvml"}'] == 0
    assert not [name for name in step.metrics if SERIES.match(name) and not name.startswith("optiinfra_gpu_value")]
    assert step.health["components"]["nvml"]["state"] == state
    unwell = state in {"failed", "denied", "stuck"}
    assert [one.startswith("nvml is") for one in step.health["reasons"] if "nvml" in one] == [True] * unwell
    assert step.capability("gpm") == step.capability("power") == state


def lacks(step: Step, value: str, *, reason: str, metric: str) -> None:
    """Assert that one value of the first GPU is unknown, has no series, and that the source is well."""
    assert step.state == "ok"
    assert step.gpu[value] is None
    assert step.gpu["unknown"][value] == reason
    assert not [name for name in step.of_gpus(metric) if step.gpu["uuid"] in name]
    assert step.health["components"]["nvml"]["state"] == "ok"


# ---- library


def test_library_absent(tmp_path: Path) -> None:
    agent = Stepped()
    try:
        step = agent.step()
    finally:
        agent.end()
    no_gpus(step, state="unavailable")
    assert "not found" in step.reason
    assert step.live == ""
    assert step.snapshot["cpu"]["cores"] > 0


def test_library_of_an_older_driver(old_stub: Stub) -> None:
    old_stub.rules("value memory_used 0 5000", "value utilization 0 40")
    agent = Stepped(**old_stub.environment)
    try:
        step = agent.step()
    finally:
        agent.end()
    lacks(step, "memory_reserved_bytes", reason="unsupported", metric="memory_reserved_bytes")
    lacks(step, "sm_active_ratio", reason="unsupported", metric="sm_active_ratio")
    assert step.gpu["memory_used_bytes"] == 5000
    # The older call counts what the driver reserves: that is said, and not passed off as the same.
    assert step.snapshot["value_sources"][0]["nvml_v1"] == ["memory_used_bytes"]
    assert step.metrics['optiinfra_gpu_value_sources{source="nvml_v1",value="memory_used_bytes"}'] == 1
    assert step.gpu["utilization_max_ratio"] == 0.4
    assert step.capability("memory_reserved") == step.capability("mps_process_lists") == "unsupported"
    assert step.capability("memory") == step.capability("utilization_samples") == "ok"


@pytest.mark.parametrize(
    ("code", "state", "words"),
    [
        (9, "unavailable", "driver not loaded"),
        (12, "unavailable", "library not found"),
        (18, "failed", "restart the pod"),
        (999, "failed", "unknown error"),
    ],
)
def test_initialisation_fails(node: Node, code: int, state: str, words: str) -> None:
    gone = (f"code nvmlInitWithFlags -1 {code}", "code nvmlDeviceGetCount_v2 -1 999")
    node.fails(*gone)
    step = node.fails(*gone)
    no_gpus(step, state=state)
    assert words in step.reason
    assert step.metrics["optiinfra_agent_nvml_return_code"] == code
    assert step.live == ""
    for _ in range(3):
        step = node.fails(*gone)
    # Only what a restart of the container cures asks for one, and only after a driver that had answered.
    assert ("restart" in step.live) is (code in {18, 999})


def test_session_that_nobody_opened(node: Node) -> None:
    opened = node.stub.calls("nvmlInitWithFlags")
    step = node.fails("code nvmlDeviceGetCount_v2 -1 1")
    no_gpus(step, state="failed")
    assert "not initialised" in step.reason
    assert node.well().gpu["power_watts"] == 77.7
    assert node.stub.calls("nvmlInitWithFlags") == opened + 1


# ---- enumeration


def test_no_gpu(node: Node) -> None:
    step = node.fails("gpus 0")
    no_gpus(step, state="failed")
    assert step.reason == "driver present but no GPU visible"


@pytest.mark.parametrize("count", [8, 16])
def test_many_gpus(node: Node, count: int) -> None:
    step = node.well(f"gpus {count}", *(f"value power {index} {1000 * index}" for index in range(count)))
    assert [gpu["power_watts"] for gpu in step.snapshot["gpus"]] == list(range(count))
    assert len(step.of_gpus("power_watts")) == count
    assert step.metrics['optiinfra_gpu_value_sources{source="nvml",value="power_watts"}'] == count
    assert step.health["components"]["capabilities"]["able"]["power"] == {"state": "ok", "gpus": count}


def test_partition_made_anew_uses_numbers_again(node: Node) -> None:
    node.well(*HOPPER, "value mig 0 1", "value parts 0 2")
    time.sleep(0.12)  # the hardware's pair of samples needs a tenth of a second
    before = node.fails(*HOPPER, "value mig 0 1", "value parts 0 2")
    assert [part["gpu_instance"] for part in before.snapshot["mig_devices"]] == [3, 4]
    assert before.gpu["sm_active_ratio"] == pytest.approx(0.615 * 2 / 7, abs=1e-5)
    assert before.metrics['optiinfra_gpu_value_sources{source="mig_aggregate",value="sm_active_ratio"}'] == 1
    after = node.fails(*HOPPER, "value mig 0 1", "value parts 0 1", "value identity 0 9")
    # The same number of a GPU instance under another uuid: nothing is compared with what the old part did.
    (part,) = after.snapshot["mig_devices"]
    assert (part["gpu_instance"], part["uuid"][-1]) == (3, "9")
    assert part["unknown"]["sm_active_ratio"] == after.gpu["unknown"]["sm_active_ratio"] == "warming_up"
    assert len(after.of_gpus("mig_device_info")) == 1
    assert not after.of_gpus("sm_active_ratio")
    assert after.capability("gpm") == "warming_up"


def test_gpu_disappears_and_appears(node: Node) -> None:
    two = node.well("gpus 2")
    one = node.fails("gpus 1")
    assert (len(two.snapshot["gpus"]), len(one.snapshot["gpus"])) == (2, 1)
    assert len(one.of_gpus("info")) == 1
    back = node.well("gpus 2")
    assert [gpu["uuid"] for gpu in back.snapshot["gpus"]] == [UUID.format(0), UUID.format(1)]
    # It is asked anew what it can do.
    probes = [step.health["components"]["capabilities"]["probes"] for step in (two, one, back)]
    assert probes[1] == probes[0]
    assert probes[2] == probes[1] + 1


# ---- one GPU


@pytest.mark.parametrize("code", [15, 16])
def test_one_gpu_is_lost_and_back(node: Node, code: int) -> None:
    node.well("gpus 2")
    time.sleep(0.12)
    before = node.well("gpus 2", *HOPPER)
    step = node.fails("gpus 2", *HOPPER, f"code nvmlDeviceGetMemoryInfo_v2 1 {code}")
    assert step.state == "ok"
    assert step.reason.startswith(f"{UUID.format(1)}: GPU")
    well, lost = step.snapshot["gpus"]
    assert well["power_watts"] == 77.7
    assert (lost["uuid"], lost["power_watts"], lost["unknown"]["power_watts"]) == (UUID.format(1), None, "failed")
    assert list(step.of_gpus("power_watts")) == [f'optiinfra_gpu_power_watts{{uuid="{UUID.format(0)}"}}']
    assert step.metrics["optiinfra_agent_nvml_return_code"] == code
    assert step.health["components"]["capabilities"]["able"]["power"] == {"state": "ok", "gpus": 1}
    back = node.well("gpus 2", *HOPPER)
    assert back.snapshot["gpus"][1]["power_watts"] == 77.7
    # After the error it was asked anew what it can do: its activity begins anew, the other one's went on.
    assert back.snapshot["gpus"][1]["unknown"]["sm_active_ratio"] == "warming_up"
    probes = [one.metrics["optiinfra_agent_gpu_probes_total"] for one in (before, back)]
    assert probes[1] == probes[0] + 1


def test_gpu_lost_in_the_middle_of_a_pass(node: Node) -> None:
    node.well("gpus 2")
    calls = sum(line.endswith(" 1") for line in node.stub._calls.read_text().splitlines())
    step = node.fails("gpus 2", f"lost_after 1 {calls + 6}")
    lost = step.snapshot["gpus"][1]
    assert step.reason.endswith("GPU is lost (NVML 15)")
    assert lost["power_watts"] is lost["memory_used_bytes"] is None
    assert step.snapshot["gpus"][0]["power_watts"] == 77.7
    assert len(step.of_gpus("memory_used_bytes")) == 1
    assert step.health["status"] == "healthy" or "nvml" not in str(step.health["reasons"])


@pytest.mark.parametrize(
    ("code", "reason"),
    [(3, "unsupported"), (4, "denied"), (17, "denied"), (25, "unsupported"), (26, "unsupported"), (27, "warming_up")],
    ids=str,
)
def test_one_value_is_refused(node: Node, code: int, reason: str) -> None:
    step = node.fails(f"code nvmlDeviceGetTotalEnergyConsumption 0 {code}")
    lacks(step, "energy_joules_total", reason=reason, metric="energy_joules_total")
    assert step.gpu["power_watts"] == 77.7
    assert step.capability("energy") == reason
    assert step.metrics["optiinfra_agent_nvml_return_code"] == 0


# ---- utilisation


def test_one_tiny_kernel(node: Node) -> None:
    busy = (*HOPPER, "value identity 0 2", "value utilization 0 100", "value gpm_2 0 0.8")
    node.well(*busy)
    time.sleep(0.12)
    step = node.fails(*busy)
    told = [step.gpu[f"{name}_ratio"] for name in ("utilization", "utilization_mean", "sm_active")]
    assert told == [1, 1, 0.008]
    uuid = f'{{uuid="{step.gpu["uuid"]}"}}'
    assert step.metrics[f"optiinfra_gpu_utilization_ratio{uuid}"] == 1
    assert step.metrics[f"optiinfra_gpu_sm_active_ratio{uuid}"] == 0.008
    assert step.snapshot["value_sources"][0]["gpm"][0] == "sm_active_ratio"
    assert step.capability("gpm") == "ok"


def test_no_utilisation_of_a_partitioned_gpu(node: Node) -> None:
    step = node.fails("value mig 0 1", "code nvmlDeviceGetUtilizationRates 0 3", "value power 0 295000")
    lacks(step, "utilization_ratio", reason="unsupported", metric="utilization_ratio")
    lacks(step, "utilization_max_ratio", reason="unsupported", metric="utilization_max_ratio")
    assert step.gpu["power_watts"] == 295
    assert step.capability("utilization") == "unsupported"
    assert step.snapshot["sharing"] == [
        {"gpu_uuid": UUID.format(0), "by": "mig", "replicas": 0, "mps_processes": 0},
    ]


def test_no_new_samples(node: Node) -> None:
    step = node.fails("value samples 0 0", "value utilization 0 40")
    lacks(step, "utilization_mean_ratio", reason="unavailable", metric="utilization_mean_ratio")
    assert step.gpu["utilization_ratio"] == 0.4
    assert step.capability("utilization_samples") == "unavailable"


def test_a_burst_between_two_collections_is_seen(node: Node) -> None:
    time.sleep(0.12)
    step = node.fails("value utilization 0 0", "value sample_burst 0 90")
    assert step.gpu["utilization_ratio"] == 0
    assert 0 < step.gpu["utilization_mean_ratio"] < step.gpu["utilization_max_ratio"] == 0.9


def test_garbage_samples(node: Node) -> None:
    time.sleep(0.12)
    step = node.fails("value utilization 0 40", "value sample_last 0 4294967295")
    # What no hardware gives is left out, and the rest is used.
    assert (step.gpu["utilization_mean_ratio"], step.gpu["utilization_max_ratio"]) == (0.4, 0.4)
    time.sleep(0.12)
    step = node.fails("value utilization 0 4294967295")
    lacks(step, "utilization_max_ratio", reason="failed", metric="utilization_max_ratio")
    assert step.capability("utilization_samples") == "failed"
    node.process(1000, "a")
    node.well("value processes 0 1", "value process_memory 0 5000")
    step = node.fails("value processes 0 1", "value process_memory 0 5000", "value process_sm 0 4294967295")
    assert step.snapshot["gpu_users"] == [[0, POD, "a" * 8, 1, 5000, 0]]


# ---- processes


def test_no_process_was_busy(node: Node) -> None:
    node.process(1000, "a")
    running = ("value processes 0 1", "value process_memory 0 5000")
    node.well(*running)
    # The binding takes "success" with zero samples for an error.
    step = node.fails(*running, "value process_samples 0 0")
    assert step.snapshot["gpu_users"] == [[0, POD, "a" * 8, 1, 5000, 0]]
    step = node.fails(*running, "code nvmlDeviceGetProcessUtilization 0 6")
    assert step.snapshot["gpu_users"] == [[0, POD, "a" * 8, 1, 5000, 0]]
    (series,) = step.of_gpus("workload_sm_ratio").items()
    assert series[1] == 0
    assert step.capability("processes_by_pod") == step.capability("process_lists") == "ok"


def test_memory_of_processes_is_all_ones(node: Node) -> None:
    node.process(1000, "a")
    node.well("value processes 0 1")
    step = node.fails("value processes 0 1")
    assert step.snapshot["gpu_users"] == [[0, POD, "a" * 8, 1, None, 0.25, {"memory_bytes": "unavailable"}]]
    assert not step.of_gpus("workload_memory_bytes")
    assert step.gpu["processes"] == 1
    assert step.capability("process_lists") == "ok"


def test_no_processes(node: Node) -> None:
    step = node.fails("value processes 0 0")
    assert step.gpu["processes"] == 0
    assert step.metrics[f'optiinfra_gpu_processes{{uuid="{UUID.format(0)}"}}'] == 0
    assert "gpu_users" not in step.snapshot
    assert not step.of_gpus("workload_processes")
    assert step.capability("process_lists") == "ok"


def test_changing_processes(node: Node) -> None:
    for pid, container in ((1000, "a"), (1001, "a"), (2000, "b")):
        node.process(pid, container)
    node.well("value processes 0 2", "value process_memory 0 1000")
    first = node.fails("value processes 0 2", "value process_memory 0 1000")
    assert first.snapshot["gpu_users"] == [[0, POD, "a" * 8, 2, 2000, 0.5]]
    # The next list names others, one of which is in no pod (or has ended before it was looked up).
    second = node.fails("value processes 0 2", "value first_pid 0 2000", "value process_memory 0 1000")
    assert [row[:4] for row in second.snapshot["gpu_users"]] == [[0, "", "", 1], [0, POD, "b" * 8, 1]]
    assert len(second.of_gpus("workload_processes")) == 2
    # Between two readings the last one stands: process lists are the dearest calls.
    asked = node.stub.calls("nvmlDeviceGetComputeRunningProcesses_v3")
    third = node.fails("value processes 0 0", ahead=15)
    assert third.snapshot["gpu_users"] == second.snapshot["gpu_users"]
    assert node.stub.calls("nvmlDeviceGetComputeRunningProcesses_v3") == asked


# ---- counters


def test_counters_begin_anew_with_the_driver(node: Node) -> None:
    name = f'optiinfra_gpu_energy_joules_total{{uuid="{UUID.format(0)}"}}'
    values = [
        node.well("value energy 0 1000000"),
        node.fails("value energy 0 1500000"),
        node.fails("value energy 0 1500000", "code nvmlDeviceGetCount_v2 -1 9"),
        node.well("value energy 0 10000"),
    ]
    assert [step.metrics.get(name) for step in values] == [1000, 1500, None, 10]
    assert [step.state for step in values] == ["ok", "ok", "unavailable", "ok"]
    assert values[3].gpu["energy_joules_total"] == 10


def test_pcie_counter_wraps(node: Node) -> None:
    name = f'optiinfra_gpu_pcie_transmit_bytes_total{{uuid="{UUID.format(0)}"}}'
    steps = [node.well("value field_197 0 4294967000"), node.fails("value field_197 0 704")]
    # It is passed on as it is: a counter that falls has begun anew, which every reader of counters knows.
    assert [step.metrics[name] for step in steps] == [4294967000, 704]
    assert steps[1].gpu["pcie_transmit_bytes_total"] == 704
    assert steps[1].capability("pcie_counters") == "ok"


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("power 0 4294967295", "power_watts"),
        ("energy 0 -1", "energy_joules_total"),
        ("temperature 0 2147483647", "temperature_celsius"),
        ("field_197 0 1.8e19", "pcie_transmit_bytes_total"),
        ("pcie_generation 0 99", "pcie_link_bytes_per_second"),
    ],
    ids=lambda one: one.split()[0],
)
def test_sentinels(node: Node, rule: str, value: str) -> None:
    # Another GPU in its place, so that what is asked once is asked, too.
    step = node.fails(f"value {rule}", "value identity 0 5")
    lacks(step, value, reason="failed", metric=value)


# ---- GPM


def test_gpu_before_hopper(node: Node) -> None:
    step = node.fails("value utilization 0 70")
    lacks(step, "sm_active_ratio", reason="unsupported", metric="sm_active_ratio")
    assert step.capability("gpm") == "unsupported"
    # Never borrowed: what is known of use before Hopper has its own names.
    assert step.gpu["utilization_ratio"] == 0.7


def test_gpm_samples_too_close(node: Node) -> None:
    node.well("value identity 0 3", *HOPPER)
    step = node.fails("value identity 0 3", *HOPPER, ahead=0.0)
    assert step.gpu["unknown"]["sm_active_ratio"] == "warming_up"
    assert not step.of_gpus("sm_active_ratio")
    assert step.capability("gpm") == "warming_up"
    time.sleep(0.12)
    assert node.fails("value identity 0 3", *HOPPER).gpu["sm_active_ratio"] == 0.615


def test_gpm_samples_are_given_back(node: Node) -> None:
    def held() -> int:
        return node.stub.calls("nvmlGpmSampleAlloc") - node.stub.calls("nvmlGpmSampleFree")

    node.well("gpus 1")
    before = held()
    for _ in range(5):
        node.well("gpus 4", "value identity 0 8", *HOPPER)
        assert held() == before + 8
        node.fails("gpus 4", "value identity 0 8", *HOPPER, "code nvmlDeviceGetMemoryInfo_v2 2 15")
        assert held() == before + 6
        step = node.well("gpus 1")
        assert held() == before
    assert step.capability("gpm") == "unsupported"


# ---- events, time


def test_xids_since_the_start(node: Node) -> None:
    gpu = node.well("value identity 0 6").gpu
    assert gpu["xid_errors"] == []
    step = node.fails("value identity 0 6", "xid 0 31", "xid 0 79", "xid 0 31")
    assert step.gpu["xid_errors"] == [[31, 2], [79, 1]]
    assert sorted(step.of_gpus("xid_errors_total").values()) == [1, 2]
    assert step.capability("xid_events") == "ok"
    # The wait that finds nothing is no error, and nothing is counted twice.
    again = node.fails("value identity 0 6", "xid 0 31", "xid 0 79", "xid 0 31")
    assert again.gpu["xid_errors"] == [[31, 2], [79, 1]]
    assert again.metrics["optiinfra_agent_nvml_return_code"] == 0


def test_slow_call(node: Node) -> None:
    step = node.fails("delay nvmlDeviceGetPowerUsage 0 300")
    assert step.state == "ok"
    assert step.metrics['optiinfra_agent_source_duration_seconds{source="nvml"}'] >= 0.3
    assert step.gpu["power_watts"] == 77.7


def test_hang(node: Node) -> None:
    step = node.fails("hang nvmlDeviceGetPowerUsage 0 0")
    no_gpus(step, state="stuck")
    assert "optiinfra_agent_nvml_return_code" not in step.metrics
    assert step.live == ""
    asked = node.stub.calls("nvmlDeviceGetPowerUsage")
    again = node.fails("hang nvmlDeviceGetPowerUsage 0 0")
    no_gpus(again, state="stuck")
    assert "has not come back" in again.reason
    assert node.stub.calls("nvmlDeviceGetPowerUsage") == asked


# ---- the table


def test_every_row_of_the_table_has_its_test() -> None:
    here = {name for name in globals() if name.startswith("test_")}
    named = set(re.findall(r"\b(test_\w+)(?!\.py)\b", __doc__ or "")) - {"test_gpu"}
    elsewhere = Path(__file__).with_name("test_gpu.py").read_text()
    assert not [name for name in named - here if f"def {name}(" not in elsewhere]
