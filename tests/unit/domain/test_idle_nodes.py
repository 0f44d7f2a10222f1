"""Idle GPUs of nodes: what agents cannot have measured, who shares a GPU, and what is done about which."""

from dataclasses import replace

import pytest

from optiinfra.domain.agent_readings import GpuSharing, GpuUser, SharedBy
from optiinfra.domain.cost import PriceList
from optiinfra.domain.idle import GpuState, IdleMemory, IdlePolicy
from optiinfra.domain.idle.holders import EngineWord
from optiinfra.domain.idle.nodes import Watch, fleet_verdicts
from optiinfra.domain.idle.remedies import Given, Remedy, remedies, workload_of
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.workload import ContainerFacts, GpuAllocation
from tests.unit.domain.made_up import GIB, UNKNOWN, agent, gpu, node, pod

NOW = 7200.0
TIMES = [float(time) for time in range(0, 7201, 60)]
HOLD = (("GPU-0", "p1"),)


def watch(**changes):
    values = {"now": NOW, "window": 7200.0, "stale_after": 90.0, "policy": IdlePolicy()}
    return Watch(**(values | changes))


def readings(*, uuids=("GPU-0",), allocations=(), times=TIMES, **facts):
    return [agent(time, *(gpu(uuid, **facts) for uuid in uuids), allocations=allocations) for time in times]


def judge(*nodes, memory=None, **changes):
    found = fleet_verdicts(nodes, watch(**changes), IdleMemory() if memory is None else memory)
    return [verdict for several in found.values() for verdict in several]


# ---- what agents cannot have measured


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"busy": 3.0}, "no share"),
        ({"busy": -0.5}, "no share"),
        ({"sm": 1.5}, "no share"),
        ({"watts": -4.0}, "cannot be"),
        ({"used": 200 * GIB}, "more than the 80 GiB"),
        ({"used": -1.0}, "cannot be"),
    ],
)
def test_what_cannot_have_been_measured_is_named_and_never_idle(facts, said):
    (verdict,) = judge(node(*readings(**facts)))
    assert (verdict.state, verdict.reason) == (GpuState.UNKNOWN, "BadReading")
    assert said in verdict.message


def test_a_bad_moment_breaks_the_quiet_time():
    several = readings(allocations=HOLD, used=70 * GIB)
    several[-5] = agent(TIMES[-5], gpu(busy=7.0, used=70 * GIB), allocations=HOLD)
    (verdict,) = judge(node(*several, pods=(pod(),)))
    assert verdict.reason == "ActivityUnknown"


def test_the_energy_counter_sees_what_the_power_reading_missed():
    several = [
        agent(time, replace(gpu(used=70 * GIB, watts=80.0), energy_joules=time * 500.0), allocations=HOLD)
        for time in TIMES
    ]
    (verdict,) = judge(node(*several, pods=(pod(),)))
    assert verdict.reason == "PowerContradicts"


def test_bytes_over_pcie_keep_a_gpu_from_being_idle_and_a_reset_counter_is_none():
    def moving(rate, back=1e9):
        several = [
            agent(time, replace(gpu(used=70 * GIB), pcie_bytes=rate * (time % back)), allocations=HOLD)
            for time in TIMES
        ]
        (verdict,) = judge(node(*several, pods=(pod(),)))
        return verdict.reason

    assert moving(1e9) == "WarmUp"
    assert moving(1e5) == "IdleHeldMemory"
    assert moving(1e5, back=900.0) == "IdleHeldMemory"


def test_an_energy_counter_that_was_reset_is_no_energy():
    several = [
        agent(time, replace(gpu(used=70 * GIB, watts=80.0), energy_joules=80.0 * (time % 900.0)), allocations=HOLD)
        for time in TIMES
    ]
    (verdict,) = judge(node(*several, pods=(pod(),)))
    assert verdict.state is GpuState.IDLE_HELD_MEMORY


# ---- rounds, clocks, GPUs that come and go


def test_a_round_takes_only_what_is_new_and_comes_to_the_same_verdict():
    several = readings(allocations=HOLD, used=70 * GIB)
    memory = IdleMemory()
    for end in range(1, len(several) + 1):
        kept = several[max(0, end - 30) : end]
        (stepwise,) = judge(node(*kept, pods=(pod(),)), memory=memory, now=kept[-1].time)
    (at_once,) = judge(node(*several, pods=(pod(),)))
    assert stepwise.state is at_once.state is GpuState.IDLE_HELD_MEMORY
    assert stepwise.since == at_once.since == 0.0
    assert stepwise.confidence == at_once.confidence


def test_an_agent_whose_clock_went_back_is_watched_anew():
    memory = IdleMemory()
    judge(node(*readings(used=70 * GIB)), memory=memory)
    early = readings(used=70 * GIB, times=[100.0, 160.0])
    (verdict,) = judge(node(*early), memory=memory, now=170.0)
    assert verdict.reason == "Gap"
    (later,) = judge(
        node(*readings(used=70 * GIB, times=[100.0 + 60 * n for n in range(100)])), memory=memory, now=6100.0
    )
    assert later.state is GpuState.IDLE_HELD_MEMORY


def test_readings_of_the_future_are_left_out():
    (verdict,) = judge(node(*readings(), *readings(busy=1.0, times=[NOW + 600.0])))
    assert verdict.state is GpuState.IDLE_UNALLOCATED


def test_a_gpu_that_was_lost_and_came_back_is_not_idle_at_once():
    memory = IdleMemory()
    both = readings(uuids=("GPU-0", "GPU-1"), times=TIMES[:60])
    one = readings(uuids=("GPU-0",), times=TIMES[60:100])
    again = readings(uuids=("GPU-0", "GPU-1"), times=TIMES[100:104])
    judge(node(*both), memory=memory, now=TIMES[59])
    found = {verdict.uuid: verdict.reason for verdict in judge(node(*both, *one), memory=memory, now=TIMES[99])}
    assert found["GPU-1"] == "Lost"
    (_, back) = judge(node(*both, *one, *again), memory=memory, now=TIMES[103])
    assert back.reason == "Gap"


def test_gpus_of_nodes_that_went_are_forgotten():
    memory = IdleMemory()
    judge(node(*readings(), name="a"), node(*readings(), name="b"), memory=memory)
    assert len(memory) == 2
    judge(node(*readings(), name="a"), memory=memory)
    assert len(memory) == 1


def test_the_same_uuid_on_two_nodes_is_two_gpus():
    found = judge(node(*readings(), name="a"), node(*readings(busy=1.0), name="b"))
    assert [verdict.state for verdict in found] == [GpuState.IDLE_UNALLOCATED, GpuState.ACTIVE]


# ---- who holds it


def test_all_who_share_a_gpu_are_named_and_one_at_work_is_enough():
    holders = (("GPU-0", "p1"), ("GPU-0", "p2"))
    shared = node(*readings(allocations=holders, used=30 * GIB), pods=(pod("p1"), pod("p2")))
    (verdict,) = judge(shared)
    assert verdict.holders == ("ns/p1", "ns/p2")
    assert "ns/p1, ns/p2" in verdict.message
    word = EngineWord(time=NOW, span=NOW, working=True)
    (busy,) = judge(shared, engines={"ns/p2": word})
    assert busy.state not in {GpuState.IDLE_HELD_MEMORY, GpuState.UNKNOWN}


def using(pod_uid, *, share, memory=10 * GIB, uuid="GPU-0"):
    return GpuUser(uuid, pod_uid, "aaaaaaaa", 1, memory, share)


def sharing(*users, way=SharedBy.TIME_SLICING, allocations=(), **facts):
    ways = (GpuSharing("GPU-0", way, 4),) if way else ()
    return [replace(one, sharing=ways, users=users) for one in readings(allocations=allocations, **facts)]


@pytest.mark.parametrize("way", [SharedBy.TIME_SLICING, SharedBy.MPS, SharedBy.REPLICAS])
def test_a_shared_gpu_is_not_idle_because_one_of_its_users_is(way):
    holders, pods = (("GPU-0", "p1"), ("GPU-0", "p2")), (pod("p1"), pod("p2"))
    quiet, busy = using("p1", share=0.0), using("p2", share=0.4)
    # The device's own counter missed what the second one did.
    (verdict,) = judge(node(*sharing(quiet, busy, way=way, allocations=holders, used=30 * GIB), pods=pods))
    assert verdict.state not in {GpuState.IDLE_HELD_MEMORY, GpuState.IDLE_ALLOCATED_EMPTY, GpuState.IDLE_UNALLOCATED}
    both = sharing(quiet, using("p2", share=0.0), way=way, allocations=holders, used=30 * GIB)
    (verdict,) = judge(node(*both, pods=pods))
    assert verdict.state is GpuState.IDLE_HELD_MEMORY
    assert "pods ns/p1, ns/p2, sharing it by" in verdict.message


def test_a_pod_that_was_given_no_gpu_and_uses_one_is_its_holder():
    sees_all = replace(pod("debug"), gpus=0.0)
    (verdict,) = judge(node(*sharing(using("debug", share=0.0), way=None, used=30 * GIB), pods=(sees_all,)))
    assert (verdict.state, verdict.holders) == (GpuState.IDLE_HELD_MEMORY, ("ns/debug",))
    # A context alone leaves the memory as good as empty: it is still no free GPU.
    small = sharing(using("debug", share=0.0, memory=GIB), way=None, used=GIB)
    (verdict,) = judge(node(*small, pods=(sees_all,)))
    assert verdict.state is GpuState.IDLE_ALLOCATED_EMPTY
    (verdict,) = judge(node(*sharing(using("gone", share=0.0), way=None, used=30 * GIB), pods=(sees_all,)))
    assert (verdict.state, verdict.holders) == (GpuState.IDLE_HELD_MEMORY, ())
    assert "a pod that the API server does not show" in verdict.message


def test_processes_outside_every_pod_are_still_a_process_outside_kubernetes():
    (verdict,) = judge(node(*sharing(using("", share=0.0), way=None, used=30 * GIB)))
    assert "a process outside Kubernetes" in verdict.message


def test_a_partitioned_gpu_without_multiprocessors_is_not_judged_and_with_them_it_is():
    slices = tuple(GpuAllocation("GPU-0", "ns", name, "c", shared=True) for name in ("p1", "p2"))

    def mig(**facts):
        return [replace(one, allocations=slices) for one in readings(busy=UNKNOWN, used=20 * GIB, **facts)]

    pods = (pod("p1"), pod("p2"))
    (dark,) = judge(node(*mig(), pods=pods))
    assert (dark.state, dark.reason) == (GpuState.UNKNOWN, "ActivityUnknown")
    (seen,) = judge(node(*mig(sm=0.0), pods=pods))
    assert seen.state is GpuState.IDLE_HELD_MEMORY
    assert seen.holders == ("ns/p1", "ns/p2")


def test_an_engine_with_requests_is_no_idle_gpu_and_an_old_word_does_not_count():
    held = node(*readings(allocations=HOLD, used=70 * GIB), pods=(pod(),))
    (busy,) = judge(held, engines={"ns/p1": EngineWord(time=NOW, span=300.0, working=True)})
    assert busy.state is GpuState.UNDER_USED
    (idle,) = judge(held, engines={"ns/p1": EngineWord(time=NOW - 6000.0, span=300.0, working=True)})
    assert idle.state is GpuState.IDLE_HELD_MEMORY


def test_a_price_is_said_and_an_unknown_one_is_said_to_be_unknown():
    held = node(*readings(allocations=HOLD, used=70 * GIB), pods=(pod(),))
    (priced,) = judge(held, prices={"": PriceList(gpu_hour=2.5)})
    assert priced.cost_per_hour == 2.5
    assert "at 2.50 an hour" in priced.message
    (free,) = judge(held, prices={"": PriceList()})
    assert isinstance(free.cost_per_hour, Unknown)


# ---- remedies

ENGINE = EngineWord(time=NOW, span=300.0, working=False)


def held_by(owner, *, state=GpuState.IDLE_HELD_MEMORY, engine=None, services=None, freed=(), count=1, price=2.0):
    uuids = tuple(f"GPU-{number}" for number in range(count))
    pods = tuple(replace(pod(f"p{number}"), owner=owner) for number in range(count))
    allocations = tuple((uuid, f"p{number}") for number, uuid in enumerate(uuids))
    used = 70 * GIB if state is GpuState.IDLE_HELD_MEMORY else 0.0
    one = node(*readings(uuids=uuids, allocations=allocations, used=used), pods=pods, gpus=float(count))
    prices = {"": PriceList() if price is None else PriceList(gpu_hour=price)}
    engines = {f"ns/{held.name}": engine for held in pods} if engine else {}
    found = judge(one, prices=prices)
    assert {verdict.state for verdict in found} == {state}
    return remedies(found, Given({"n1": one}, engines, services or {}, prices, freed))


DEPLOYMENT = ("ReplicaSet", "chat-7c9d")
EMPTY = GpuState.IDLE_ALLOCATED_EMPTY


@pytest.mark.parametrize(
    ("facts", "remedy"),
    [
        ({"owner": DEPLOYMENT}, Remedy.SCALE_IN),
        ({"owner": ("StatefulSet", "chat")}, Remedy.SCALE_IN),
        ({"owner": DEPLOYMENT, "engine": replace(ENGINE, can_sleep=True)}, Remedy.SLEEP),
        ({"owner": DEPLOYMENT, "engine": replace(ENGINE, can_sleep=True, sleeping=True)}, Remedy.SCALE_IN),
        ({"owner": DEPLOYMENT, "engine": replace(ENGINE, can_sleep=True, has_scaler=True)}, Remedy.SCALE_IN),
        ({"owner": DEPLOYMENT, "state": EMPTY}, Remedy.MOVE),
        ({"owner": DEPLOYMENT, "state": EMPTY, "engine": replace(ENGINE, sleeping=True)}, Remedy.SCALE_IN),
        ({"owner": ("", "")}, Remedy.STOP),
        ({"owner": ("Job", "train")}, Remedy.STOP),
        ({"owner": ("DaemonSet", "warmers")}, Remedy.STOP),
    ],
)
def test_the_remedy_follows_who_holds_it_and_what_is_kept(facts, remedy):
    (proposal,), refusals = held_by(**facts)
    assert proposal.reason == str(remedy)
    assert not refusals
    assert proposal.evidence
    assert proposal.risk
    assert proposal.verification
    assert proposal.undo


def test_one_proposal_for_all_pods_of_a_workload_with_the_price_of_all():
    (proposal,), _ = held_by(DEPLOYMENT, count=4)
    assert proposal.subject == "ns/chat"
    assert proposal.current == "4 idle"
    assert proposal.savings.gpus_freed == 4.0
    assert proposal.savings.per_month == pytest.approx(4 * 2.0 * 730)
    assert "8.00 an hour" in proposal.message


def test_without_a_price_gpus_are_freed_and_no_money_is_named():
    (proposal,), _ = held_by(DEPLOYMENT, price=None)
    assert proposal.savings.gpus_freed == 1.0
    assert proposal.savings.per_month is None
    assert "unknown price" in proposal.message


def test_what_the_consolidation_or_a_service_counts_is_not_counted_again():
    (proposal,), _ = held_by(DEPLOYMENT, freed={"n1"})
    assert (proposal.savings.gpus_freed, proposal.savings.per_month) == (0.0, None)
    assert "consolidation counts" in proposal.message
    (proposal,), _ = held_by(DEPLOYMENT, services={("ns", "Deployment", "chat"): "chat-ro"})
    assert proposal.reason == str(Remedy.SCALE_IN)
    assert proposal.savings.gpus_freed == 0.0
    assert "ns/chat-ro" in proposal.message


def test_sleep_frees_memory_and_no_gpu():
    (proposal,), _ = held_by(DEPLOYMENT, engine=replace(ENGINE, can_sleep=True))
    assert proposal.savings.gpus_freed == 0.0
    assert "/wake_up" in proposal.message
    assert "wakes" in proposal.risk


def test_free_gpus_are_left_to_the_consolidation():
    one = node(*readings())
    proposals, (refusal,) = remedies(judge(one), Given({"n1": one}, {}, {}, {}))
    assert proposals == ()
    assert refusal.reason == "Unallocated"
    assert "consolidation" in refusal.message


def test_a_process_outside_kubernetes_is_named_for_a_person():
    one = node(*readings(used=70 * GIB))
    ((proposal,), _) = remedies(judge(one), Given({"n1": one}, {}, {}, {"": PriceList()}))
    assert proposal.reason == str(Remedy.STOP)
    assert "outside Kubernetes on node n1" in proposal.message


def test_an_unknown_holder_and_an_unknown_model_are_refused_with_the_reason():
    one = node(*readings(uuids=("GPU-0", "GPU-1"), used=70 * GIB), pods=(pod(),), gpus=2.0)
    proposals, (refusal,) = remedies(judge(one), Given({"n1": one}, {}, {}, {}))
    assert proposals == ()
    assert refusal.reason == "HolderUnknown"
    odd = [replace(verdict, model="Wonder 9000") for verdict in judge(one)]
    proposals, (refusal,) = remedies(odd, Given({"n1": one}, {}, {}, {}))
    assert proposals == ()
    assert refusal.reason == "UnknownGpuModel"


def test_under_used_gpus_are_to_be_shared():
    several = readings(allocations=HOLD, used=20 * GIB, busy=0.2)
    one = node(*several, pods=(replace(pod(), owner=DEPLOYMENT),))
    (verdict,) = judge(one)
    assert verdict.state is GpuState.UNDER_USED
    ((proposal,), _) = remedies([verdict], Given({"n1": one}, {}, {}, {"": PriceList()}))
    assert proposal.reason == str(Remedy.SHARE)
    assert "MIG" in proposal.message


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"owner": DEPLOYMENT}, "Deployment ns/chat"),
        (
            {"owner": ("StatefulSet", "chat-0"), "labels": {"leaderworkerset.sigs.k8s.io/name": "big"}},
            "LeaderWorkerSet ns/big",
        ),
        ({}, "Pod ns/p1"),
    ],
)
def test_what_a_person_would_scale(facts, said):
    assert str(workload_of(replace(pod(), **facts))) == said


def test_silence_of_the_kubelet_is_said():
    error = Unknown(UnknownReason.UNREACHABLE, "no answer")
    assert judge(node(pods=(pod(),), error=error)) == []


def test_containers_of_made_up_pods_are_of_no_consequence():
    facts = ContainerFacts("c", UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, 1.0)
    (verdict,) = judge(node(*readings(allocations=HOLD), pods=(replace(pod(), containers=(facts,)),)))
    assert verdict.pod == "ns/p1"
