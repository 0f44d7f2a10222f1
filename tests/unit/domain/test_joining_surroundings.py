"""Nodes, containers, and what is told of input that is not as it should be."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.report.history import Lack
from optiinfra.domain.report.joining import join
from optiinfra.domain.report.joining_found import Found
from optiinfra.domain.units import UnixTime
from tests.unit.domain.answered_fleet import END, NOW, POINTS, STEP_S, TIMES, UUID, Fleet, gpu, lines, model

GIB = 2.0**30
SENTINEL = 9223372036854775794.0


def test_a_node_is_what_kube_state_metrics_tells_of_it():
    fleet = Fleet().gpu()
    for resource, amount in (("cpu", 96.0), ("memory", 1e12), ("pods", 110.0), ("nvidia_com_gpu", 8.0)):
        fleet.say("state.capacity", amount, node="node-a", resource=resource)
        fleet.say("state.allocatable", amount * 0.9, node="node-a", resource=resource)
    fleet.say(
        "state.node_labels",
        1.0,
        node="node-a",
        label_node_kubernetes_io_instance_type="p5.48xlarge",
        label_topology_kubernetes_io_zone="us-east-1a",
        label_karpenter_sh_capacity_type="spot",
        label_karpenter_sh_nodepool="h100",
    )
    fleet.say("state.node_requests", 40.0, node="node-a", resource="cpu")
    fleet.say("state.gpu_requests", 4.0, namespace="x", workload="w", node="node-a", resource="nvidia_com_gpu")
    fleet.say("state.unschedulable", 0.0, node="node-a").say("state.node_ready", 1.0, node="node-a")
    fleet.say("state.taints", 1.0, node="node-a", key="nvidia.com/gpu", value="true", effect="NoSchedule")
    fleet.say("root.cpu", 12.0, instance="10.0.0.1:10250").say("root.memory", 1e11, node="node-a")
    fleet.say("state.node_addresses", 1.0, node="node-a", internal_ip="10.0.0.1")
    pod = {"namespace": "x", "pod": "w-7d9f8b6c5-x2x4z"}
    fleet.say("state.pods", 1.0, **pod, workload="w", node="node-a", uid="u1", created_by_kind="ReplicaSet")
    for resource, amount in (("cpu", 4.0), ("memory", 8 * GIB), ("nvidia_com_mig_1g_10gb", 1.0)):
        fleet.say("state.pod_requests", amount, **pod, resource=resource)
    fleet.say("state.pod_created", 1.7e9, **pod).say("state.pod_phase", 1.0, **pod, phase="Running")
    (node,) = fleet.joined().nodes
    assert (node.gpus, node.cpu_cores, node.cpu_cores_allocatable, node.pod_limit) == (8.0, 96.0, 86.4, 99.0)
    assert (node.instance_type, node.zone, node.capacity_type, node.pool) == (
        "p5.48xlarge",
        "us-east-1a",
        "spot",
        "h100",
    )
    assert node.labels["karpenter.sh/nodepool"] == "h100"
    assert (node.ready, node.unschedulable) == (True, False)
    assert node.taints == (("nvidia.com/gpu", "true", "NoSchedule"),)
    for course, value in ((node.cpu_used_cores, 12.0), (node.cpu_requested_cores, 40.0), (node.gpus_requested, 4.0)):
        assert isinstance(course, np.ndarray)
        assert course[-1] == value
    (found,) = node.pods
    assert (found.gpus, found.gpu_resource, found.phase, found.created) == (
        1.0,
        "nvidia.com/mig-1g.10gb",
        "Running",
        1.7e9,
    )
    assert bool(node.present.all())


def test_a_node_that_was_removed_is_present_only_until_then():
    gone = [8.0] * 10 + [np.nan] * (POINTS - 10)
    fleet = Fleet().gpu(node="node-b").say("state.capacity", gone, node="node-a", resource="nvidia_com_gpu")
    node = next(one for one in fleet.joined().nodes if one.name == "node-a")
    assert int(node.present.sum()) == 10
    assert node.gpus == 8.0


def test_without_kube_state_metrics_nodes_are_those_of_gpus():
    (node,) = Fleet().gpu("GPU-a").gpu("GPU-b").joined().nodes
    assert (node.name, node.gpus) == ("node-a", 2.0)
    assert isinstance(node.cpu_cores, Unknown)
    assert isinstance(node.gpus_requested, Unknown)


def test_containers_of_served_workloads_only_with_requests_and_the_largest_pods_use():
    fleet = Fleet().engine("vllm", "llama")
    mine = {"namespace": "inference", "workload": "llama", "container": "vllm"}
    fleet.say("containers.cpu", 3.0, **mine).say("containers.memory", 20 * GIB, **mine).say(
        "containers.pods", 2.0, **mine
    )
    fleet.say("containers.memory_kills", 0.0, **mine)
    fleet.say("containers.cpu", 1.0, namespace="inference", workload="web", container="nginx")
    fleet.say("state.container_requests", 8.0, **mine, resource="cpu")
    fleet.say("state.container_requests", 1.0, **mine, resource="nvidia_com_gpu")
    (one,) = fleet.joined().containers
    assert (one.key, one.container, one.cpu_request_cores, one.gpus) == ("inference/llama", "vllm", 8.0, 1.0)
    assert isinstance(one.memory_limit_bytes, Unknown)
    assert one.memory_limit_bytes.reason is UnknownReason.NOT_CONFIGURED


def test_an_empty_fleet_says_so_and_nothing_else():
    history = Fleet().joined()
    assert history.empty
    assert [line.lack for line in history.missing] == [Lack.NOTHING]
    assert "--since" in history.missing[0].remedy


def test_gpus_without_engines_say_what_is_not_known_of_models():
    history = Fleet().gpu().joined()
    assert "PodMonitor" in lines(history, Lack.NO_ENGINES)[0].remedy


def test_absurd_values_are_unknown_counted_and_said():
    values = np.full(POINTS, 0.5)
    values[3], values[4], values[5] = SENTINEL / 100.0, 1e9, -1.0
    power = np.full(POINTS, 300.0)
    power[7] = SENTINEL
    waiting = np.full(POINTS, 2.0)
    waiting[0] = np.inf
    history = Fleet().engine("vllm", "llama", waiting=waiting).gpu(utilization=values, power=power).joined()
    one = gpu(history)
    assert isinstance(one.utilization, np.ndarray)
    assert isinstance(one.power_watts, np.ndarray)
    assert np.flatnonzero(np.isnan(one.utilization)).tolist() == [3, 4, 5]
    assert np.flatnonzero(np.isnan(one.power_watts)).tolist() == [7]
    assert one.energy_joules == pytest.approx(300.0 * STEP_S * (POINTS - 1))
    (line,) = lines(history, Lack.ABSURD_VALUES)
    assert line.count == 5
    assert line.where[0] == "dcgm.utilization"
    assert "9223372036854775794" in line.remedy


def test_a_gpu_of_which_only_a_sentinel_is_known_has_an_unknown_quantity():
    history = Fleet().gpu(sm_active=SENTINEL).joined()
    assert isinstance(gpu(history).sm_active, Unknown)
    assert lines(history, Lack.NO_PROFILING)


def test_shares_are_rounded_into_their_range_and_no_further():
    history = Fleet().engine("vllm", "llama", ttft_late=-0.01, kv_usage=1.04, kv_usage_highest=1.2).joined()
    load = model(history, "inference/llama").load
    assert isinstance(load.ttft_late, np.ndarray)
    assert isinstance(load.kv_usage, np.ndarray)
    assert isinstance(load.kv_usage_highest, np.ndarray)
    assert (load.ttft_late[0], load.kv_usage[0]) == (0.0, 1.0)
    assert np.isnan(load.kv_usage_highest).all()


def test_samples_of_the_future_are_left_out_and_said():
    fleet = Fleet().engine("vllm", "llama", running=1.0)
    history = fleet.joined(now=UnixTime(END - 10 * STEP_S))
    running = model(history, "inference/llama").load.running
    assert isinstance(running, np.ndarray)
    assert np.isnan(running[-9:]).all()
    assert np.isfinite(running[:-10]).all()
    assert "NTP" in lines(history, Lack.FUTURE)[0].remedy


def test_gaps_are_kept_and_their_hours_told():
    course = np.ones(POINTS)
    course[5:11] = np.nan
    history = Fleet().engine("vllm", "llama", serving=course, running=course).joined()
    running = model(history, "inference/llama").load.running
    assert isinstance(running, np.ndarray)
    assert np.isnan(running[5:11]).all()
    (line,) = lines(history, Lack.HOLES)
    assert line.what.startswith("0.5 h")


def test_an_end_without_samples_is_told_as_stopped_scraping_or_a_clock_behind():
    course = np.ones(POINTS)
    course[-8:] = np.nan
    history = Fleet().engine("vllm", "llama", serving=course).joined()
    assert any("clock" in line.why for line in lines(history, Lack.HOLES))


def test_series_that_begin_late_are_told_as_a_short_history():
    course = np.ones(POINTS)
    course[: POINTS // 2] = np.nan
    assert lines(Fleet().engine("vllm", "llama", serving=course).joined(), Lack.SHORT)


def test_a_model_that_ran_while_nobody_scraped_it_is_named():
    course = np.ones(POINTS)
    course[: POINTS // 2] = np.nan
    fleet = Fleet().engine("vllm", "llama", serving=course).gpu()
    fleet.say("state.available.Deployment", 1.0, namespace="inference", workload="llama")
    assert any(line.where == ("inference/llama",) for line in lines(fleet.joined(), Lack.HOLES))


def test_a_model_of_which_some_replicas_are_not_scraped_is_named():
    fleet = Fleet().engine("vllm", "llama", serving=2.0).gpu()
    fleet.say("state.available.Deployment", 4.0, namespace="inference", workload="llama")
    assert lines(fleet.joined(), Lack.HOLES)[0].where == ("inference/llama",)


def test_counter_resets_are_counted_and_named():
    course = np.zeros(POINTS)
    course[[4, 9]] = (1.0, 2.0)
    (line,) = lines(Fleet().engine("vllm", "llama", resets=course).joined(), Lack.COUNTER_RESETS)
    assert (line.count, line.where) == (3, ("inference/llama",))


def test_copies_clusters_and_unanswered_questions_are_said():
    fleet = Fleet(found=Found(copies=("prometheus-0", "prometheus-1"), clusters=("east", "west"), looked=True))
    fleet.engine("vllm", "llama").unanswered.append(("vllm.ttft_p95", "too many samples"))
    history = fleet.joined()
    assert lines(history, Lack.DUPLICATES)[0].where == ("prometheus-0", "prometheus-1")
    assert "--label" in lines(history, Lack.SEVERAL_CLUSTERS)[0].remedy
    (line,) = lines(history, Lack.UNANSWERED)
    assert "too many samples" in line.why


def test_every_line_says_what_why_and_how_in_one_line():
    fleet = Fleet().engine("vllm", "llama", waiting=SENTINEL).gpu()
    for line in fleet.joined().missing:
        text = str(line)
        assert "\n" not in text
        assert all((line.what, line.why, line.remedy))
        assert len(text) < 400


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.one_of(st.floats(), st.just(SENTINEL)), min_size=POINTS, max_size=POINTS),
    workload=st.text(alphabet="abc-0123", max_size=12),
)
def test_no_answer_makes_a_number_that_cannot_be(values: list[float], workload: str):
    fleet = Fleet().engine("vllm", workload, running=values, kv_usage=values, ttft_late=values)
    fleet.gpu(utilization=values, memory_used=values, power=values)
    fleet.say("dcgm.holders", values, UUID=UUID, Hostname="node-a", namespace="inference", workload=workload)
    fleet.say("state.capacity", values, node="node-a", resource="nvidia_com_gpu")
    history = fleet.joined()
    for one in history.models:
        for course, most in ((one.load.running, 1e6), (one.load.kv_usage, 1.0), (one.load.ttft_late, 1.0)):
            if not isinstance(course, Unknown):
                known = course[np.isfinite(course)]
                assert not np.isinf(course).any()
                assert ((known >= 0.0) & (known <= most)).all()
    for graphic in history.gpus:
        if not isinstance(graphic.energy_joules, Unknown):
            assert 0.0 <= graphic.energy_joules < 1e9


def test_frames_of_nothing_make_an_empty_history():
    history = join((), now=NOW)
    assert history.empty
    assert len(history.times) == 0
    assert len(TIMES) == POINTS


def test_every_lack_stands_in_the_reference():
    page = (Path(__file__).parents[3] / "docs" / "reference" / "report-gaps.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE) == [lack.value for lack in Lack]
