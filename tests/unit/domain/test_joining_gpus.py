"""GPUs joined with their nodes and with the workloads that held them."""

import numpy as np
import pytest

from optiinfra.domain.readings import Unknown
from optiinfra.domain.report.history import GpuSource, HolderSource, Lack
from optiinfra.domain.report.joining_found import Found, Spelling
from tests.unit.domain.answered_fleet import POINTS, STEP_S, UUID, Fleet, gpu, lines, model

GIB = 2.0**30


def requested(fleet: Fleet, workload: str, amount: float, node: str = "node-a") -> Fleet:
    return fleet.say(
        "state.gpu_requests", amount, namespace="inference", workload=workload, node=node, resource="nvidia_com_gpu"
    )


def test_a_gpu_is_held_by_the_pod_that_its_exporter_names_for_as_long_as_it_does():
    fleet = Fleet().engine("vllm", "llama").gpu(sm_active=0.3, memory_used=60 * GIB, power=400.0)
    when = [1.0] * 6 + [np.nan] * (POINTS - 6)
    fleet.say(
        "dcgm.holders", when, UUID=UUID, Hostname="node-a", namespace="inference", workload="llama", container="vllm"
    )
    fleet.say(
        "dcgm.models", 0.0, UUID=UUID, Hostname="node-a", modelName="NVIDIA H100 80GB HBM3", instance="10.0.0.1:9400"
    )
    fleet.say("dcgm.memory_free", 20 * GIB, UUID=UUID, Hostname="node-a")
    history = fleet.joined()
    one = gpu(history)
    assert (one.node, one.model, one.source) == ("node-a", "NVIDIA H100 80GB HBM3", GpuSource.DCGM)
    assert (one.holder_source, one.holdings[0].key, one.holdings[0].container) == (
        HolderSource.EXPORTER,
        "inference/llama",
        "vllm",
    )
    assert int(one.held.sum()) == 6
    assert one.memory_total_bytes == 80 * GIB
    assert one.energy_joules == pytest.approx(400.0 * STEP_S * POINTS)
    assert one.activity is one.sm_active
    assert model(history, "inference/llama").gpus == (UUID,)
    held = model(history, "inference/llama").gpus_held
    assert isinstance(held, np.ndarray)
    assert np.nansum(held) == 6.0
    assert not lines(history, Lack.NO_GPU_OWNERS)
    assert not lines(history, Lack.NO_PROFILING)


def test_a_tensor_parallel_engine_holds_several_gpus():
    fleet = Fleet().engine("vllm", "big", serving=1.0)
    for index in range(4):
        fleet.gpu(f"GPU-{index}").say(
            "dcgm.holders", 1.0, UUID=f"GPU-{index}", Hostname="node-a", namespace="inference", workload="big"
        )
    found = model(fleet.joined(), "inference/big")
    assert found.gpus == ("GPU-0", "GPU-1", "GPU-2", "GPU-3")
    assert found.gpus_per_replica == 4.0


def test_exported_labels_name_the_holder_and_the_exporters_own_pod_is_none():
    found = Found(
        gpus=Spelling(namespace=("namespace", "exported_namespace"), pod=("pod", "exported_pod")), looked=True
    )
    fleet = Fleet(found=found).engine("vllm", "llama").gpu("GPU-a").gpu("GPU-b")
    own = {"Hostname": "node-a", "namespace": "gpus"}
    fleet.say("dcgm.holders", 1.0, UUID="GPU-a", **own, exported_namespace="inference", workload="llama")
    fleet.say("dcgm.holders", 1.0, UUID="GPU-b", **own, workload="called-like-no-exporter")
    history = fleet.joined()
    assert gpu(history, "GPU-a").holder_source is HolderSource.EXPORTED
    assert gpu(history, "GPU-a").holdings[0].key == "inference/llama"
    assert gpu(history, "GPU-b").holdings == ()
    assert gpu(history, "GPU-b").holder_source is HolderSource.EXPORTED
    assert "exported_pod" in lines(history, Lack.RELABELLED)[0].why


def test_without_any_pod_labels_holders_are_unknown_and_it_is_said_how_to_get_them():
    fleet = Fleet().engine("vllm", "llama").gpu()
    fleet.say("dcgm.holders", 1.0, UUID=UUID, Hostname="node-a", namespace="monitoring", workload="dcgm-exporter")
    history = fleet.joined()
    assert gpu(history).holder_source is HolderSource.NOBODY
    (line,) = lines(history, Lack.NO_GPU_OWNERS)
    assert line.where == (UUID,)
    assert "DCGM_EXPORTER_KUBERNETES" in line.remedy
    assert isinstance(model(history, "inference/llama").gpus_held, Unknown)


def test_a_daemon_set_that_requests_no_gpu_is_an_exporter_whatever_it_is_called():
    fleet = requested(Fleet().engine("vllm", "llama").gpu(), "llama", 1.0)
    fleet.say(
        "state.owners", 1.0, namespace="monitoring", workload="watcher", owner_kind="DaemonSet", owner_name="watcher"
    )
    fleet.say("dcgm.holders", 1.0, UUID=UUID, Hostname="node-a", namespace="monitoring", workload="watcher")
    one = gpu(fleet.joined())
    assert [holding.key for holding in one.holdings] == ["inference/llama"]
    assert one.holder_source is HolderSource.NODE


def test_requests_settle_who_holds_what_where_one_workload_wants_all_gpus_of_a_node():
    fleet = requested(Fleet().engine("vllm", "llama", serving=2.0).gpu("GPU-a").gpu("GPU-b"), "llama", 2.0)
    history = fleet.joined()
    assert {gpu(history, name).holdings[0].key for name in ("GPU-a", "GPU-b")} == {"inference/llama"}
    assert not lines(history, Lack.NO_GPU_OWNERS)


def test_requests_settle_it_by_filled_memory_where_one_workload_wants_some_of_them():
    fleet = Fleet().engine("vllm", "llama").gpu("GPU-a", memory_used=60 * GIB).gpu("GPU-b", memory_used=0.5 * GIB)
    history = requested(fleet, "llama", 1.0).joined()
    assert gpu(history, "GPU-a").holdings[0].key == "inference/llama"
    assert gpu(history, "GPU-b").holdings == ()
    assert gpu(history, "GPU-b").holder_source is HolderSource.NODE


def test_requests_of_two_workloads_on_a_node_settle_nothing():
    fleet = requested(
        requested(Fleet().engine("vllm", "a").engine("vllm", "b").gpu("GPU-a").gpu("GPU-b"), "a", 1.0), "b", 1.0
    )
    history = fleet.joined()
    assert lines(history, Lack.NO_GPU_OWNERS)[0].count == 2
    held = model(history, "inference/a").gpus_held
    assert isinstance(held, np.ndarray)
    assert held[0] == 1.0


def test_two_exporters_of_one_gpu_are_one_gpu_and_the_better_names_stand():
    fleet = Fleet().gpu(power=300.0)
    fleet.say("agent.utilization", 0.4, uuid=UUID, node="node-a").say("agent.sm_active", 0.2, uuid=UUID, node="node-a")
    history = fleet.joined()
    one = gpu(history)
    assert len(history.gpus) == 1
    assert isinstance(one.utilization, np.ndarray)
    assert isinstance(one.sm_active, np.ndarray)
    assert (one.utilization[0], one.sm_active[0]) == (0.5, 0.2)


def test_the_agent_alone_names_gpus_holders_and_parts():
    fleet = Fleet().engine("vllm", "llama").engine("vllm", "small")
    for uuid in ("GPU-a", "GPU-m"):
        fleet.say("agent.utilization", 0.4, uuid=uuid, node="node-a")
        fleet.say("agent.models", 1.0, uuid=uuid, node="node-a", model="NVIDIA H100 80GB HBM3")
    fleet.say(
        "agent.holders", 1.0, uuid="GPU-a", share="exclusive", namespace="inference", workload="llama", container="vllm"
    )
    fleet.say("agent.parts", 1.0, mig_uuid="MIG-1", node="node-a", uuid="GPU-m", profile="1g.10gb", gpu_instance="7")
    fleet.say("agent.part_sm_active", 0.6, mig_uuid="MIG-1", node="node-a")
    fleet.say(
        "agent.holders", 1.0, uuid="GPU-m", mig_uuid="MIG-1", share="mig", namespace="inference", workload="small"
    )
    history = fleet.joined()
    assert [one.key for one in history.gpus] == ["GPU-a", "GPU-m/7"]
    part = gpu(history, "GPU-m/7")
    assert (part.profile, part.node, part.model) == ("1g.10gb", "node-a", "NVIDIA H100 80GB HBM3")
    assert part.holdings[0].key == "inference/small"
    assert gpu(history, "GPU-a").holder_source is HolderSource.AGENT


def test_the_instances_of_a_cut_gpu_count_and_the_whole_does_not():
    fleet = Fleet().gpu(power=200.0)
    for instance, profile in (("3", "1g.10gb"), ("4", "1g.10gb")):
        fleet.say("dcgm.sm_active", 0.5, UUID=UUID, GPU_I_ID=instance, Hostname="node-a")
        fleet.say("dcgm.models", 0.0, UUID=UUID, GPU_I_ID=instance, GPU_I_PROFILE=profile, Hostname="node-a")
        fleet.say(
            "dcgm.holders", 1.0, UUID=UUID, GPU_I_ID=instance, Hostname="node-a", namespace="x", workload=f"w{instance}"
        )
    history = fleet.joined()
    assert [one.key for one in history.gpus] == [f"{UUID}/3", f"{UUID}/4"]
    assert [one.holdings[0].workload for one in history.gpus] == ["w3", "w4"]
    assert {one.profile for one in history.gpus} == {"1g.10gb"}


def test_the_scaled_dialect_is_told_apart():
    fleet = Fleet().gpu().say("dcgm.models", 1.0, UUID=UUID, Hostname="node-a", modelName="NVIDIA B200")
    assert gpu(fleet.joined()).source is GpuSource.DCGM_SCALED


def test_exporters_without_uuids_tell_gpus_apart_by_node_and_index():
    fleet = Fleet()
    for node in ("node-a", "node-b"):
        fleet.say("dcgm.utilization", 0.5, gpu="0", Hostname=node)
    assert [one.key for one in fleet.joined().gpus] == ["node-a/gpu0", "node-b/gpu0"]


@pytest.mark.parametrize(
    "labels",
    [
        {"Hostname": "ip-10-0-0-7"},
        {"Hostname": "dcgm-exporter-x2x4z", "instance": "10.0.0.7:9400"},
        {"Hostname": "dcgm-exporter-x2x4z"},
        {"node": "ip-10-0-0-7.ec2.internal", "Hostname": "dcgm-exporter-x2x4z"},
        {"instance": "10.0.0.7:9400"},
    ],
    ids=["short", "address", "exporter-pod", "node-label", "instance-only"],
)
def test_a_node_is_found_by_all_that_it_is_called(labels: dict[str, str]):
    full = "ip-10-0-0-7.ec2.internal"
    fleet = Fleet()
    known = {name: text for name, text in labels.items() if name != "instance"}
    fleet.say("dcgm.utilization", 0.5, UUID=UUID, **known).say("dcgm.models", 0.0, UUID=UUID, **labels)
    fleet.say("state.capacity", 8.0, node=full, resource="nvidia_com_gpu")
    fleet.say("state.node_addresses", 1.0, node=full, internal_ip="10.0.0.7")
    fleet.say("state.pods", 1.0, namespace="monitoring", workload="dcgm-exporter", pod="dcgm-exporter-x2x4z", node=full)
    history = fleet.joined()
    assert gpu(history).node == full
    assert [node.name for node in history.nodes] == [full]


def test_missing_dcgm_is_said_and_models_stay():
    history = requested(Fleet().engine("vllm", "llama", serving=2.0), "llama", 4.0).joined()
    assert history.gpus == ()
    assert "dcgm-exporter" in lines(history, Lack.NO_GPU_METRICS)[0].remedy
    assert model(history, "inference/llama").gpus_per_replica == 2.0


def test_missing_profiling_is_said_by_gpu():
    history = Fleet().gpu("GPU-a").gpu("GPU-b", sm_active=0.1).joined()
    assert lines(history, Lack.NO_PROFILING)[0].where == ("GPU-a",)


def test_a_node_with_more_gpus_than_are_seen_is_named():
    fleet = Fleet().engine("vllm", "llama").gpu("GPU-a")
    for node, amount in (("node-a", 8.0), ("node-b", 1.0)):
        fleet.say("state.capacity", amount, node=node, resource="nvidia_com_gpu")
    (line,) = lines(fleet.joined(), Lack.NO_GPU_METRICS)
    assert (line.where, line.count) == (("node-a", "node-b"), 8)
    assert "tolerations" in line.remedy


def test_workloads_that_hold_gpus_without_an_engine_are_named():
    fleet = requested(requested(Fleet().engine("vllm", "llama").gpu(), "llama", 1.0), "notebook", 1.0)
    assert lines(fleet.joined(), Lack.NO_ENGINE_OF_HOLDERS)[0].where == ("inference/notebook",)


def beside_a_node_with_labels(memory: float) -> Fleet:
    fleet = Fleet().engine("vllm", "llama").gpu("GPU-a").gpu("GPU-free")
    fleet.gpu("GPU-b", node="node-b", memory_used=memory)
    return fleet.say("dcgm.holders", 1.0, UUID="GPU-a", Hostname="node-a", namespace="inference", workload="llama")


def test_a_node_whose_exporter_names_nobody_is_settled_by_requests_while_others_name_holders():
    fleet = requested(requested(beside_a_node_with_labels(60 * GIB), "llama", 1.0), "qwen", 1.0, node="node-b")
    history = fleet.joined()
    assert gpu(history, "GPU-b").holdings[0].key == "inference/qwen"
    assert gpu(history, "GPU-b").holder_source is HolderSource.NODE
    assert gpu(history, "GPU-a").holder_source is HolderSource.EXPORTER
    assert gpu(history, "GPU-free").holdings == ()
    assert gpu(history, "GPU-free").holder_source is HolderSource.EXPORTER


@pytest.mark.parametrize(("memory", "source"), [(60 * GIB, HolderSource.NOBODY), (0.2 * GIB, HolderSource.EXPORTER)])
def test_without_requests_a_filled_gpu_that_nobody_names_is_not_taken_for_free(memory: float, source: HolderSource):
    assert gpu(beside_a_node_with_labels(memory).joined(), "GPU-b").holder_source is source


def test_pods_that_wait_for_a_node_hold_nothing():
    fleet = requested(requested(Fleet().engine("vllm", "llama"), "llama", 2.0), "llama", 3.0, node="")
    held = model(fleet.joined(), "inference/llama").gpus_held
    assert isinstance(held, np.ndarray)
    assert held[-1] == 2.0


def test_what_is_read_by_the_hour_says_nothing_of_when_a_gpu_was_not_there():
    seen = np.full(POINTS, 0.5)
    seen[4:9] = np.nan
    history = Fleet().gpu(utilization=seen, sm_active=0.3, power=400.0).joined()
    one = gpu(history)
    assert np.flatnonzero(~one.present).tolist() == [4, 5, 6, 7, 8]
    assert isinstance(one.sm_active, np.ndarray)
    assert np.flatnonzero(np.isnan(one.sm_active)).tolist() == [4, 5, 6, 7, 8]
    assert one.energy_joules == pytest.approx(400.0 * STEP_S * (POINTS - 5))


def test_a_gpu_without_utilisation_is_there_while_anything_is_measured():
    history = Fleet().say("dcgm.sm_active", 0.3, UUID=UUID, Hostname="node-a").joined()
    assert gpu(history).present.all()
