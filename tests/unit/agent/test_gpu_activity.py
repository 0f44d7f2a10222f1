"""What a GPU did between two collections (GPM), its counters (fields), and its errors (Xid)."""

from collections.abc import Callable
from typing import Any

import pytest

from optiinfra_agent.gpm import METRICS
from tests.nvml_stub import Stub
from tests.unit.agent.conftest import Agent, eventually, once

UUID = "GPU-{0:08d}-0000-4000-8000-{0:012d}"
BUSY = ("value gpm -1 1", "value gpm_2 -1 61.5", "value gpm_3 -1 20", "value gpm_5 -1 12.5", "value gpm_10 -1 100.4")


def gpu_with(agent: Agent, test: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    return eventually(lambda: next((gpu for gpu in agent.snapshot()["gpus"] if test(gpu)), None))


def test_activity_is_the_mean_between_two_collections(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules(*BUSY, "value utilization 0 100")
    first = once(**stub.environment)["gpus"][0]
    assert {first["unknown"][name] for name in METRICS} == {"warming_up"}
    agent = start(OPTIINFRA_AGENT_INTERVAL="1", **stub.environment)
    gpu = gpu_with(agent, lambda gpu: gpu["sm_active_ratio"] is not None)
    # A tenth of a per cent too much is the driver's rounding, and no mark of "not available".
    assert [gpu[name] for name in METRICS] == [0.615, 0.2, 0.125, 1.0]
    assert gpu["utilization_ratio"] == 1.0
    metrics = agent.metrics()
    assert metrics[f'optiinfra_gpu_sm_active_ratio{{uuid="{UUID.format(0)}"}}'] == 0.615
    assert metrics[f'optiinfra_gpu_tensor_active_ratio{{uuid="{UUID.format(0)}"}}'] == 0.125


def test_a_metric_that_the_gpu_lacks_leaves_the_others(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules(*BUSY, "value gpm_5 0 -1", "value gpm_10 0 250")
    agent = start(OPTIINFRA_AGENT_INTERVAL="1", **stub.environment)
    gpu = gpu_with(agent, lambda gpu: gpu["sm_active_ratio"] is not None)
    assert gpu["unknown"]["tensor_active_ratio"] == "unsupported"
    assert gpu["unknown"]["dram_active_ratio"] == "failed"


def test_a_gpu_without_gpm_is_asked_once(start: Callable[..., Agent], stub: Stub) -> None:
    agent = start(OPTIINFRA_AGENT_INTERVAL="1", **stub.environment)
    agent.snapshot()
    eventually(lambda: agent.metrics()["optiinfra_agent_collections_total"] >= 3)
    assert stub.calls("nvmlGpmQueryDeviceSupport") == 1
    assert stub.calls("nvmlGpmSampleAlloc") == 0


def test_samples_are_two_for_each_gpu_and_given_back(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("gpus 3", *BUSY)
    agent = start(OPTIINFRA_AGENT_INTERVAL="1", **stub.environment)
    agent.snapshot()
    eventually(lambda: agent.metrics()["optiinfra_agent_collections_total"] >= 3)
    assert stub.calls("nvmlGpmSampleAlloc") == 6
    stub.rules("gpus 1", *BUSY)
    eventually(lambda: len(agent.snapshot()["gpus"]) == 1)
    assert stub.calls("nvmlGpmSampleFree") == 4


def test_a_partitioned_gpu_has_the_activity_of_its_parts(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules(*BUSY, "value mig 0 1", "value parts 0 2", "value part_memory_used 0 5000")
    agent = start(OPTIINFRA_AGENT_INTERVAL="1", **stub.environment)
    parts = eventually(
        lambda: (
            found
            if len(found := agent.snapshot()["mig_devices"]) == 2 and found[1]["sm_active_ratio"] is not None
            else None
        )
    )
    snapshot = agent.snapshot()
    gpu = snapshot["gpus"][0]
    # Two of seven compute slices, each 61.5 % active; memory bandwidth by the share of the memory.
    assert gpu["sm_active_ratio"] == pytest.approx(0.615 * 2 / 7, abs=1e-5)
    assert gpu["dram_active_ratio"] == pytest.approx(2 * 10468982784 / 85520809984, abs=1e-5)
    assert gpu["unknown"]["utilization_mean_ratio"] == "unsupported"
    assert snapshot["value_sources"][gpu.get("value_sources", 0)]["mig_aggregate"] == list(METRICS)
    assert stub.calls("nvmlGpmSampleGet") == 0
    assert parts[1] == {
        "uuid": "MIG-00000000-0001-5000-8000-000000000000",
        "gpu_uuid": UUID.format(0),
        "profile": "1g.10gb",
        "gpu_instance": 4,
        "memory_total_bytes": 10468982784,
        "memory_used_bytes": 5000,
        "sm_active_ratio": 0.615,
        "sm_occupancy_ratio": 0.2,
        "tensor_active_ratio": 0.125,
        "dram_active_ratio": 1.0,
    }
    assert agent.document("/v1/gpus")["mig_devices"][0]["gpu_instance"] == 3
    metrics = agent.metrics()
    assert metrics['optiinfra_gpu_value_sources{source="mig_aggregate",value="sm_active_ratio"}'] == 1
    assert metrics[f'optiinfra_gpu_sharing_info{{by="mig",uuid="{UUID.format(0)}"}}'] == 1
    assert metrics['optiinfra_gpu_mig_sm_active_ratio{mig_uuid="MIG-00000000-0001-5000-8000-000000000000"}'] == 0.615


def test_a_new_partition_is_read_anew_and_a_whole_gpu_again_as_a_whole(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules(*BUSY, "value mig 0 1", "value parts 0 2")
    agent = start(OPTIINFRA_AGENT_INTERVAL="1", **stub.environment)
    eventually(lambda: len(agent.snapshot()["mig_devices"]) == 2)
    # The same GPU instance, another uuid: nothing is compared with what the old part did.
    stub.rules(*BUSY, "value mig 0 1", "value parts 0 1", "value identity 0 9")
    eventually(lambda: [part["uuid"][-1] for part in agent.snapshot()["mig_devices"]] == ["9"])
    assert stub.calls("nvmlGpmSampleFree") == 4
    stub.rules(*BUSY)
    gpu_with(agent, lambda gpu: gpu["sm_active_ratio"] == 0.615)
    assert agent.snapshot()["mig_devices"] == []


def test_partitioned_into_nothing_is_an_empty_list(stub: Stub) -> None:
    stub.rules("value mig 0 1")
    snapshot = once(**stub.environment)
    assert snapshot["gpus"][0]["mig_enabled"] is True
    assert snapshot["mig_devices"] == []


def test_activity_begins_anew_with_a_new_session(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules(*BUSY)
    agent = start(OPTIINFRA_AGENT_INTERVAL="1", **stub.environment)
    gpu_with(agent, lambda gpu: gpu["sm_active_ratio"] is not None)
    stub.rules(*BUSY, "code nvmlDeviceGetCount_v2 -1 999")
    eventually(lambda: agent.snapshot()["sources"]["nvml"]["state"] == "failed")
    stub.rules(*BUSY)
    gpu_with(agent, lambda gpu: gpu["sm_active_ratio"] == 0.615)
    assert stub.calls("nvmlGpmSampleAlloc") == 4


def test_fields_in_base_units(stub: Stub) -> None:
    stub.rules(
        "value field_197 0 5000000000",
        "value field_138 0 2048",
        "value field_74 0 1500000000",
        "value field_271 0 -1",
        "value field_230 0 2",
        "value field_82 0 71",
    )
    gpu = once(**stub.environment)["gpus"][0]
    assert gpu["pcie_transmit_bytes_total"] == 5e9
    assert gpu["nvlink_transmit_bytes_total"] == 2048 * 1024
    assert gpu["clock_event_seconds"]["power_cap"] == 1.5
    assert gpu["clock_event_seconds"]["power_brake"] is None
    assert gpu["clock_event_seconds"]["unknown"] == {"power_brake": "unsupported"}
    assert gpu["recovery_action"] == 2
    assert gpu["memory_temperature_celsius"] == 71
    assert stub.calls("nvmlDeviceGetFieldValues") == 1


def test_clock_events_have_their_reasons(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("value clock_events 0 36", "value field_269 0 2500000000")
    agent = start(**stub.environment)
    agent.snapshot()
    metrics = agent.metrics()
    active = {name for name in metrics if name.startswith("optiinfra_gpu_clock_event_active")}
    assert active == {
        f'optiinfra_gpu_clock_event_active{{reason="{reason}",uuid="{UUID.format(0)}"}}'
        for reason in ("power_cap", "software_thermal")
    }
    seconds = f'optiinfra_gpu_clock_event_seconds_total{{reason="software_thermal",uuid="{UUID.format(0)}"}}'
    assert metrics[seconds] == 2.5


def test_an_older_driver_tells_the_clock_events_by_their_older_name(old_stub: Stub) -> None:
    old_stub.rules("value clock_events 0 4")
    assert once(**old_stub.environment)["gpus"][0]["clock_event_reasons"] == 4


def test_xids_are_counted_by_gpu_and_number(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("gpus 2")
    agent = start(OPTIINFRA_AGENT_INTERVAL="1", **stub.environment)
    assert [gpu["xid_errors"] for gpu in agent.snapshot()["gpus"]] == [[], []]
    stub.rules("gpus 2", "xid 1 31", "xid 1 79", "xid 1 31")
    gpu_with(agent, lambda gpu: gpu["xid_errors"] == [[31, 2], [79, 1]] and gpu["index"] == 1)
    assert agent.metrics()[f'optiinfra_gpu_xid_errors_total{{uuid="{UUID.format(1)}",xid="31"}}'] == 2
    assert stub.calls("nvmlDeviceRegisterEvents") == 2


def test_the_last_xid_of_a_lost_gpu_is_still_told(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("gpus 2")
    agent = start(OPTIINFRA_AGENT_INTERVAL="1", **stub.environment)
    agent.snapshot()
    stub.rules("gpus 2", "xid 0 79", "code nvmlDeviceGetUUID 0 15")
    gpu = gpu_with(agent, lambda gpu: gpu["index"] == 0 and gpu["power_watts"] is None)
    assert gpu["xid_errors"] == [[79, 1]]


def test_unavailability_and_recovery_are_counted_beside_xids(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("gpus 2")
    agent = start(OPTIINFRA_AGENT_INTERVAL="1", **stub.environment)
    # None is the usual: told by the metrics, left out of the snapshot.
    assert "unavailable_events" not in agent.snapshot()["gpus"][1]

    def counted(event: str) -> float:
        return agent.metrics()[f'optiinfra_gpu_events_total{{event="{event}",uuid="{UUID.format(1)}"}}']

    assert counted("unavailable") == 0
    stub.rules("gpus 2", "event 1 16384", "xid 1 79", "event 1 32768", "event 1 32768")
    gpu = gpu_with(agent, lambda gpu: gpu["index"] == 1 and gpu.get("recovery_events") == 2)
    assert (gpu["unavailable_events"], gpu["xid_errors"]) == (1, [[79, 1]])
    assert counted("recovery_action") == 2
    assert "unavailable_events" not in agent.snapshot()["gpus"][0]


@pytest.mark.parametrize("rule", ["value event_types 0 8", "code nvmlDeviceGetSupportedEventTypes 0 13"])
def test_a_driver_without_the_younger_events_still_tells_xids(
    start: Callable[..., Agent], stub: Stub, rule: str
) -> None:
    stub.rules(rule)
    agent = start(OPTIINFRA_AGENT_INTERVAL="1", **stub.environment)
    agent.snapshot()
    stub.rules(rule, "xid 0 31")
    gpu_with(agent, lambda gpu: gpu["xid_errors"] == [[31, 1]])
    assert not [name for name in agent.metrics() if name.startswith("optiinfra_gpu_events_total")]
    states = agent.document("/health/detailed")["components"]["capabilities"]["able"]
    assert (states["xid_events"]["state"], states["unavailable_events"]["state"]) == ("ok", "unsupported")


def test_rows_are_remapped_or_pages_retired(stub: Stub) -> None:
    stub.rules(*(f"value field_{number} 0 -1" for number in (29, 30, 31)))
    hopper = once(**stub.environment)["gpus"][0]
    assert not [name for name in hopper if "retire" in name]
    assert hopper["remapped_rows_uncorrected"] == 0
    stub.rules(
        *(f"value field_{number} 0 -1" for number in range(142, 146)), "value field_29 0 2", "value field_30 0 1"
    )
    volta = once(**stub.environment)["gpus"][0]
    assert (volta["retired_pages_corrected"], volta["retired_pages_uncorrected"]) == (2, 1)
    assert volta["page_retirement_pending"] == 0
    assert volta["unknown"]["remapped_rows_uncorrected"] == "unsupported"


def test_power_of_the_moment_beside_its_mean(stub: Stub) -> None:
    stub.rules("value field_186 0 613370")
    gpu = once(**stub.environment)["gpus"][0]
    assert (gpu["power_watts"], gpu["power_instant_watts"]) == (77.7, 613.37)
    stub.rules("value field_186 0 -1")
    gpu = once(**stub.environment)["gpus"][0]
    assert gpu["unknown"]["power_instant_watts"] == "unsupported"
    stub.rules("value field_186 0 4294967295")
    gpu = once(**stub.environment)["gpus"][0]
    assert gpu["unknown"]["power_instant_watts"] == "failed"


@pytest.mark.parametrize(("code", "reason"), [(3, "unsupported"), (4, "denied")])
def test_without_events_the_count_is_unknown_and_not_zero(stub: Stub, code: int, reason: str) -> None:
    stub.rules(f"code nvmlEventSetCreate -1 {code}")
    gpu = once(**stub.environment)["gpus"][0]
    assert gpu["xid_errors"] is None
    assert gpu["unknown"]["xid_errors"] == reason


def test_more_numbers_than_are_kept_are_counted_together(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules()
    agent = start(OPTIINFRA_AGENT_INTERVAL="1", **stub.environment)
    agent.snapshot()
    stub.rules(*(f"xid 0 {100 + number}" for number in range(70)))
    gpu = gpu_with(agent, lambda gpu: sum(count for _, count in gpu["xid_errors"]) == 70)
    assert len(gpu["xid_errors"]) == 33
    assert gpu["xid_errors"][0] == [0, 38]
