"""The stage: pods of the cluster become engines, in virtual time."""

import pytest

from optiinfra_sim.agents import GPU_MEMORY_BYTES, Agents
from optiinfra_sim.cluster import ClusterView, NodeView
from optiinfra_sim.errors import ScenarioError
from optiinfra_sim.scenario import Scenario
from optiinfra_sim.stage import Stage
from tests.unit.sim.stagehands import EPOCH, SCENARIO, agent, pod, service


@pytest.fixture
def stage(tmp_path):
    return Stage(SCENARIO, folder=tmp_path, epoch=EPOCH)


def state(stage, name):
    return next(one for one in stage.states() if one.service == name)


def run(stage, *, to):
    while stage.now < to:
        stage.advance(to=min(to, stage.now + 0.1))


def test_pods_that_were_ready_before_serve_at_once_and_new_ones_after_their_start_up(stage, read_gauge):
    a, b = pod("a", "chat", address="127.20.0.1"), pod("b", "chat", address="127.20.0.2")
    stage.follow([a, b])
    stage.advance(to=0.1)
    assert state(stage, "chat").serving == 2
    assert read_gauge(stage.page("127.20.0.1"), "vllm:num_requests_running") >= 0
    new = pod("c", "chat", address="127.20.0.3", started=EPOCH + 1, ready=EPOCH + 2)
    run(stage, to=5)
    stage.follow([a, b, new])
    assert stage.knows("127.20.0.3")
    run(stage, to=15.9)
    assert stage.page("127.20.0.3") is None
    assert (state(stage, "chat").serving, state(stage, "chat").starting) == (2, 1)
    run(stage, to=16.2)  # fifteen seconds after its start
    assert stage.page("127.20.0.3") is not None


def test_a_pod_that_never_gets_ready_never_serves(stage):
    stage.follow([pod("a", "idle", ready=None, address="127.20.0.1")])
    run(stage, to=60)
    assert stage.page("127.20.0.1") is None
    assert state(stage, "idle").starting == 1


def test_losing_readiness_does_not_stop_an_engine_but_terminating_does(stage):
    stage.follow([pod("a", "idle", address="127.20.0.1")])
    stage.advance(to=1)
    stage.follow([pod("a", "idle", address="127.20.0.1", ready=None)])
    assert stage.page("127.20.0.1") is not None
    stage.follow([pod("a", "idle", address="127.20.0.1", terminating=True)])
    assert not stage.knows("127.20.0.1")
    assert state(stage, "idle").replicas == 0


def test_the_trace_begins_when_the_initial_replicas_serve(stage):
    stage.follow([pod("a", "chat")])
    run(stage, to=10)
    assert state(stage, "chat").trace_seconds is None
    assert state(stage, "chat").arrived == 0
    stage.follow([pod("a", "chat"), pod("b", "chat")])
    run(stage, to=30)
    chat = state(stage, "chat")
    assert chat.trace_seconds == pytest.approx(20, abs=0.2)
    assert chat.arrived > 50
    assert chat.replica_seconds == pytest.approx(40, abs=0.5)
    run(stage, to=120)
    chat = state(stage, "chat")
    assert chat.done
    assert chat.finished == chat.arrived > 200
    assert chat.trace.startswith("bundled:azure-conversation")


def test_the_trace_begins_on_command_where_the_scenario_says_so(tmp_path):
    waiting = Scenario.model_validate(
        {"services": [service("chat", "simulated", begin="Command", trace={"duration_seconds": 60})]}
    )
    stage = Stage(waiting, folder=tmp_path, epoch=EPOCH)
    stage.follow([pod("a", "chat")])
    run(stage, to=5)
    assert state(stage, "chat").trace_seconds is None
    stage.begin("chat")
    run(stage, to=10)
    assert state(stage, "chat").trace_seconds == pytest.approx(5)
    with pytest.raises(ScenarioError, match="begun already"):
        stage.begin("chat")


def test_only_services_with_a_trace_can_begin(stage):
    for name in ("idle", "old", "unheard-of"):
        with pytest.raises(ScenarioError, match="no trace"):
            stage.begin(name)


def test_decisions_are_the_replica_counts_since_the_trace_began(stage):
    pods = [pod("a", "chat"), pod("b", "chat")]
    stage.follow(pods)
    run(stage, to=20)
    more = [*pods, pod("c", "chat", started=EPOCH + 20, ready=EPOCH + 20), pod("d", "chat", started=EPOCH + 20)]
    stage.follow(more)
    run(stage, to=50)
    stage.follow(pods)
    decided = [(round(one.time), one.replicas) for one in state(stage, "chat").decisions]
    assert decided == [(0, 2), (20, 4), (50, 2)]


def test_requests_survive_the_removal_of_their_replica(stage):
    pods = [pod("a", "chat"), pod("b", "chat"), pod("c", "chat")]
    stage.follow(pods)
    run(stage, to=30)
    stage.follow(pods[:1])
    run(stage, to=200)
    chat = state(stage, "chat")
    assert chat.done
    assert chat.finished == chat.arrived


def test_a_recorded_pod_serves_the_recording_unmodified(stage, memory_bound):
    stage.follow([pod("a", "old", address="127.20.0.9", started=EPOCH, ready=EPOCH + 3)])
    run(stage, to=2.9)
    assert stage.page("127.20.0.9") is None
    run(stage, to=13.5)
    assert stage.page("127.20.0.9") == memory_bound.pages[10].body
    run(stage, to=43.5)
    assert state(stage, "old").waiting == memory_bound.pages[40].waiting == 12


def test_agents_follow_the_engines_on_their_node(stage):
    agents = Agents(started=EPOCH, load=stage.load)
    pods = (
        pod("a", "chat"),
        pod("b", "chat"),
        pod("i", "idle", gpus=2),
        pod("elsewhere", "chat", node="gpu-2"),
        agent("gpu-1", "127.20.1.1"),
        agent("gpu-2", "127.20.1.2"),
    )
    nodes = tuple(
        NodeView(name=name, gpus=8, gpu_model=None, gpu_memory_bytes=None, cores=64) for name in ("gpu-1", "gpu-2")
    )
    view = ClusterView(pods=pods, nodes=nodes)
    stage.follow(view.pods)
    agents.follow(view)
    while stage.now < 20:
        stage.advance(to=stage.now + 0.5)
        agents.advance(to=EPOCH + stage.now)
    snapshot = agents.snapshot("127.20.1.1")
    assert (snapshot["version"], snapshot["simulated"], snapshot["node"]) == (1, True, "gpu-1")
    assert snapshot["time"] == EPOCH + 20
    held = {(one["pod"], one["gpu_uuid"]) for one in snapshot["allocations"]}
    assert sorted(name for name, _ in held) == ["a", "b", "i", "i"]
    by_uuid = {gpu["uuid"]: gpu for gpu in snapshot["gpus"]}
    assert len(by_uuid) == 8
    for name, uuid in held:
        gpu = by_uuid.pop(uuid)
        assert gpu["memory_used_bytes"] == int(GPU_MEMORY_BYTES * 0.92)
        assert (gpu["utilization_ratio"] > 0.3) == (name in {"a", "b"})
        assert gpu["processes"] == 1
    for empty in by_uuid.values():
        assert (empty["utilization_ratio"], empty["memory_used_bytes"], empty["processes"]) == (0, 0, 0)
        assert empty["power_watts"] == 70
        assert empty["energy_joules_total"] == pytest.approx(70 * 20)
    assert len(agents.snapshot("127.20.1.2")["allocations"]) == 1
    assert b"\noptiinfra_simulated 1\n" in agents.metrics("127.20.1.1")


def test_a_gpu_never_moves_between_pods_and_is_free_again_afterwards(stage):
    agents = Agents(started=EPOCH, load=stage.load)
    nodes = (NodeView(name="gpu-1", gpus=4, gpu_model=None, gpu_memory_bytes=None, cores=8),)

    def held(*pods):
        agents.follow(ClusterView(pods=(*pods, agent("gpu-1", "127.20.1.1")), nodes=nodes))
        return {one["pod"]: one["gpu_uuid"] for one in agents.snapshot("127.20.1.1")["allocations"]}

    before = held(pod("a", "chat"), pod("b", "chat"), pod("c", "chat"))
    after = held(pod("a", "chat"), pod("c", "chat"), pod("d", "chat"))
    assert (after["a"], after["c"]) == (before["a"], before["c"])
    assert after["d"] == before["b"]
    crowded = held(*(pod(f"p{index}", "chat") for index in range(9)))
    assert len(crowded) == 4  # a node has no more than it has


def test_an_agent_that_is_not_ready_or_whose_node_is_gone_answers_nothing(stage):
    agents = Agents(started=EPOCH, load=stage.load)
    agents.follow(ClusterView(pods=(agent("gone", "127.20.1.1"),), nodes=()))
    assert not agents.knows("127.20.1.1")
    assert agents.snapshot("127.20.1.1") is None
    assert agents.metrics("127.20.1.1") is None
