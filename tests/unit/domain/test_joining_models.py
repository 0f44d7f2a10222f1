"""Models joined from the answers of a metrics server."""

import numpy as np
import pytest

from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.report.history import Lack, OwnerSource
from optiinfra.domain.report.joining_found import Found, Spelling
from tests.unit.domain.answered_fleet import POINTS, STEP_S, TIMES, Fleet, lines, model

HALF = [1.0] * (POINTS // 2) + [np.nan] * (POINTS // 2)
OTHER_HALF = [np.nan] * (POINTS // 2) + [1.0] * (POINTS // 2)


def owned(fleet: Fleet, workload: str, kind: str, name: str, namespace: str = "inference") -> Fleet:
    return fleet.say("state.owners", 1.0, namespace=namespace, workload=workload, owner_kind=kind, owner_name=name)


def test_a_model_is_its_workload_with_everything_its_engine_says():
    fleet = Fleet().engine("vllm", "llama", serving=2.0, prompt_tokens=100.0, generation_tokens=50.0, requests=2.0)
    fleet.engine("vllm", "llama", running=8.0, waiting=1.0, kv_usage=0.6, ttft_mean=0.4, ttft_p95=1.5)
    fleet.say("vllm.models", 2.0, namespace="inference", workload="llama", model_name="meta/Llama-3")
    owned(fleet, "llama", "ReplicaSet", "llama-7d9f8b6c5")
    fleet.say("state.spec_replicas.Deployment", 2.0, namespace="inference", workload="llama")
    fleet.say("state.available.Deployment", 2.0, namespace="inference", workload="llama")
    history = fleet.joined()
    found = model(history, "inference/llama")
    assert (found.kind, found.owner_source, found.name) == ("Deployment", OwnerSource.STATE_METRICS, "meta/Llama-3")
    assert isinstance(found.load.work, np.ndarray)
    assert found.load.work == pytest.approx(np.full(POINTS, 300.0))
    assert isinstance(found.load.prompt_length_mean, np.ndarray)
    assert found.load.prompt_length_mean[0] == 50.0
    assert found.load.ttft_p95 == 1.5
    assert found.load.kv_reserved == Unknown(
        UnknownReason.NOT_MEASURED, "its engine does not publish it, or not on this server"
    )
    assert found.sources["prompt_tokens"] == "vllm.prompt_tokens"
    assert found.sources["available"] == "state.available.Deployment"
    assert [kind for kind, _ in found.engines] == [EngineKind.VLLM]
    assert isinstance(found.replicas, np.ndarray)
    assert found.replicas.tolist() == [2.0] * POINTS
    assert history.hours == pytest.approx(POINTS * STEP_S / 3600.0)
    assert not lines(history, Lack.OWNERS_BY_NAME)
    assert {one.question for one in history.asked} >= {"vllm.serving", "state.owners"}


def test_without_kube_state_metrics_the_pods_names_tell_the_workload_and_it_is_said_what_is_unknown():
    history = Fleet().engine("vllm", "llama", running=1.0).gpu().joined()
    found = model(history, "inference/llama")
    assert (found.kind, found.owner_source) == ("", OwnerSource.POD_NAMES)
    assert isinstance(found.available, Unknown)
    assert isinstance(found.scaler, Unknown)
    assert found.scaler.reason is UnknownReason.NOT_MEASURED
    (line,) = lines(history, Lack.NO_STATE_METRICS)
    assert "requests" in line.what
    assert "install kube-state-metrics" in str(line)
    assert lines(history, Lack.OWNERS_BY_NAME)[0].where == ("inference/llama",)


def test_a_scaler_is_known_with_its_limits_and_its_absence_is_known_too():
    fleet = Fleet().engine("vllm", "llama").engine("vllm", "qwen")
    hpa = {"namespace": "inference", "horizontalpodautoscaler": "keda-hpa-llama-so"}
    fleet.say("state.scaler_targets", 1.0, **hpa, scaletargetref_kind="Deployment", scaletargetref_name="llama")
    fleet.say("state.scaler_min", 1.0, **hpa).say("state.scaler_max", 8.0, **hpa).say(
        "state.scaler_desired", 3.0, **hpa
    )
    fleet.say("state.scaler_metrics", 5.0, **hpa, metric_name="s0-prometheus", metric_target_type="average")
    fleet.say("state.capacity", 8.0, node="node-a", resource="cpu")
    history = fleet.joined()
    scaler = model(history, "inference/llama").scaler
    assert not isinstance(scaler, Unknown)
    assert (scaler.min_replicas, scaler.max_replicas, scaler.keda) == (1.0, 8.0, "llama-so")
    assert scaler.targets == (("s0-prometheus", "average", 5.0),)
    none = model(history, "inference/qwen").scaler
    assert isinstance(none, Unknown)
    assert none.reason is UnknownReason.NOT_CONFIGURED


def test_a_long_name_that_is_cut_in_the_pods_names_is_put_to_its_owner():
    fleet = Fleet().engine("vllm", "very-long-nam", serving=1.0, running=2.0)
    fleet.engine("vllm", "very-long-name", serving=2.0, running=3.0)
    for stem in ("very-long-nam", "very-long-name"):
        owned(fleet, stem, "ReplicaSet", "very-long-name-7d9f8b6c5")
    (found,) = fleet.joined().models
    assert found.key == "inference/very-long-name"
    assert isinstance(found.load.running, np.ndarray)
    assert found.load.running[0] == 5.0
    assert isinstance(found.serving, np.ndarray)
    assert found.serving[0] == 3.0


def test_pods_of_an_argo_rollout_belong_to_it_by_the_owner_of_their_replica_set():
    fleet = owned(Fleet().engine("vllm", "llama"), "llama", "ReplicaSet", "llama-7d9f8b6c5")
    fleet.say(
        "state.replicaset_owners",
        3.0,
        namespace="inference",
        workload="llama",
        owner_kind="Rollout",
        owner_name="llama",
    )
    assert fleet.joined().models[0].kind == "Rollout"


def test_the_workers_of_a_group_of_several_nodes_belong_to_their_leaders():
    fleet = owned(Fleet().engine("vllm", "big", serving=2.0), "big", "StatefulSet", "big")
    for group in ("big-0", "big-1"):
        owned(fleet, group, "StatefulSet", group)
    for workload in ("big", "big-0", "big-1"):
        node = f"node-{workload}"
        amount = 16.0 if workload == "big" else 8.0
        fleet.say(
            "state.gpu_requests", amount, namespace="inference", workload=workload, node=node, resource="nvidia_com_gpu"
        )
        fleet.say(
            "state.container_requests",
            8.0,
            namespace="inference",
            workload=workload,
            container="vllm",
            resource="nvidia_com_gpu",
        )
    (found,) = fleet.joined().models
    assert (found.key, found.kind, found.nodes_per_replica) == ("inference/big", "LeaderWorkerSet", 2.0)
    assert found.gpus_per_replica == 16.0
    assert isinstance(found.gpus_held, np.ndarray)
    assert found.gpus_held[0] == 32.0


def test_a_renamed_model_is_one_history_and_it_is_said():
    fleet = Fleet().engine("vllm", "llama", running=1.0)
    fleet.say("vllm.models", HALF, namespace="inference", workload="llama", model_name="old")
    fleet.say("vllm.models", OTHER_HALF, namespace="inference", workload="llama", model_name="new")
    history = fleet.joined()
    found = model(history, "inference/llama")
    assert [span.text for span in found.names] == ["new", "old"]
    assert found.names[1].last == TIMES[POINTS // 2 - 1]
    (line,) = lines(history, Lack.RENAMED_MODEL)
    assert line.where == ("inference/llama",)
    assert not lines(history, Lack.SEVERAL_MODELS)


def test_several_models_in_one_pod_are_told_together_and_it_is_said():
    fleet = Fleet().engine("vllm", "both", serving=1.0, running=3.0)
    for name in ("a", "b"):
        fleet.say("vllm.models", 1.0, namespace="inference", workload="both", model_name=name)
    history = fleet.joined()
    assert len(model(history, "inference/both").names) == 2
    assert isinstance(model(history, "inference/both").serving, np.ndarray)
    assert model(history, "inference/both").replicas[0] == 1.0  # type: ignore[index]  an array, as just asserted
    assert lines(history, Lack.SEVERAL_MODELS)[0].where == ("inference/both",)


def test_versions_come_from_images_and_a_long_mix_is_said_while_a_roll_out_is_not():
    fleet = Fleet().engine("vllm", "mixed").engine("vllm", "rolled")
    image = "docker.io/vllm/vllm-openai:{}"
    short = [1.0] * (POINTS // 2 + 1) + [np.nan] * (POINTS // 2 - 1)
    for workload, old in (("mixed", 1.0), ("rolled", short)):
        for tag, when in (("v0.10.0", old), ("v0.11.0", 1.0 if workload == "mixed" else OTHER_HALF)):
            fleet.say(
                "state.images",
                when,
                namespace="inference",
                workload=workload,
                container="vllm",
                image=image.format(tag),
            )
    history = fleet.joined()
    assert {span.text for _, span in model(history, "inference/mixed").engines} == {"v0.10.0", "v0.11.0"}
    assert model(history, "inference/rolled").engines[0][1].text == "v0.11.0"
    assert lines(history, Lack.MIXED_VERSIONS)[0].where == ("inference/mixed",)


def test_without_images_the_families_tell_a_range_of_versions():
    fleet = Fleet().engine("vllm", "old").engine("vllm", "new")
    for workload, version in (("old", "<0.12"), ("old", "V0"), ("new", ">=0.9")):
        fleet.say("vllm.versions", 1.0, namespace="inference", workload=workload, version=version)
    history = fleet.joined()
    assert [span.text for _, span in model(history, "inference/old").engines] == ["V0"]
    assert [span.text for _, span in model(history, "inference/new").engines] == [">=0.9"]


def test_a_workload_that_changed_its_engine_is_one_history_and_it_is_said():
    fleet = Fleet().engine("vllm", "llama", serving=HALF, kv_usage=np.array(HALF) * 0.4)
    fleet.engine("sglang", "llama", serving=OTHER_HALF, kv_usage=np.array(OTHER_HALF) * 0.8)
    history = fleet.joined()
    found = model(history, "inference/llama")
    assert [kind for kind, _ in found.engines] == [EngineKind.SGLANG, EngineKind.VLLM]
    assert isinstance(found.load.kv_usage, np.ndarray)
    assert (found.load.kv_usage[0], found.load.kv_usage[-1]) == (0.4, 0.8)
    assert lines(history, Lack.MIXED_ENGINES)


def test_configuration_is_what_all_pods_agree_on():
    fleet = (
        Fleet().engine("vllm", "llama").engine("nim", "nim", batch_limit=64.0).engine("sglang", "sg", kv_capacity=4e5)
    )
    told = {"block_size": "16", "gpu_memory_utilization": "0.9", "cache_dtype": "auto", "enable_prefix_caching": "True"}
    for blocks in ("None", "1000", "998"):
        fleet.say("vllm.config", 1.0, namespace="inference", workload="llama", num_gpu_blocks=blocks, **told)
    history = fleet.joined()
    config = model(history, "inference/llama").config
    assert (config.block_size, config.gpu_blocks, config.kv_capacity_tokens) == (16.0, 998.0, 15_968.0)
    assert (config.memory_share, config.cache_dtype, config.prefix_caching) == (0.9, "auto", True)
    assert config.blocks_overridden is False
    assert isinstance(config.batch_limit, Unknown)
    assert model(history, "inference/nim").config.batch_limit == 64.0
    assert model(history, "inference/sg").config.kv_capacity_tokens == 4e5


def test_pods_that_differ_in_a_setting_leave_it_unknown():
    fleet = Fleet().engine("vllm", "llama")
    for share in ("0.9", "0.8"):
        fleet.say("vllm.config", 1.0, namespace="inference", workload="llama", gpu_memory_utilization=share)
    share = model(fleet.joined(), "inference/llama").config.memory_share
    assert isinstance(share, Unknown)
    assert "differ" in share.detail


def test_lmcache_beside_an_engine_is_joined_by_workload():
    fleet = Fleet().engine("vllm", "llama")
    fleet.say("lmcache.requested_tokens", 100.0, namespace="inference", workload="llama")
    fleet.say("lmcache.hit_tokens", 25.0, namespace="inference", workload="llama")
    cache = model(fleet.joined(), "inference/llama").cache
    assert not isinstance(cache, Unknown)
    assert isinstance(cache.hit_tokens, np.ndarray)
    assert cache.hit_tokens[0] == 25.0
    assert isinstance(cache.disk_bytes, Unknown)


def test_series_without_pods_stand_for_their_service_and_it_is_said():
    found = Found(engines=Spelling(pod=("job", "service"), by_service=True), looked=True)
    history = Fleet(found=found).engine("vllm", "vllm-service").joined()
    assert history.models[0].workload == "vllm-service"
    (line,) = lines(history, Lack.NO_POD_NAMES)
    assert "PodMonitor" in line.remedy
    assert not lines(history, Lack.OWNERS_BY_NAME)


def test_a_model_whose_engine_counts_no_tokens_has_no_work():
    history = Fleet().engine("trtllm", "trt", running=3.0).joined()
    assert isinstance(model(history, "inference/trt").load.work, Unknown)
    assert "return_perf_metrics" in lines(history, Lack.NO_WORK)[0].remedy
    assert lines(history, Lack.NO_LATENCIES)[0].where == ("inference/trt",)


def test_models_of_the_same_name_in_two_namespaces_are_two():
    history = Fleet().engine("vllm", "llama", "a", running=1.0).engine("vllm", "llama", "b", running=2.0).joined()
    assert [one.key for one in history.models] == ["a/llama", "b/llama"]
    assert [one.load.running[0] for one in history.models] == [1.0, 2.0]  # type: ignore[index]  both were given


def test_what_is_read_by_the_hour_says_nothing_of_when_no_engine_answered():
    there = np.ones(POINTS)
    there[6:10] = np.nan
    fleet = Fleet().engine("vllm", "llama", serving=there, running=there, ttft_mean=0.4, preemptions=1.0, resets=0.0)
    load = model(fleet.joined(), "inference/llama").load
    for course in (load.running, load.ttft_mean, load.preemptions):
        assert isinstance(course, np.ndarray)
        assert np.flatnonzero(np.isnan(course)).tolist() == [6, 7, 8, 9]
