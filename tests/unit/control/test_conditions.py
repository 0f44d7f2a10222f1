"""Conditions: what kstatus, Flux, Argo CD and people read."""

from dataclasses import replace
from typing import Any

import pytest

from optiinfra.api.conditions import ConditionStatus, ConditionType, Wanted, merge
from optiinfra.api.reasons import Reason
from optiinfra.control.conditions import cluster_conditions, service_conditions
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.report import InsightState
from optiinfra.control.work import ClusterWork, Effect, Problem, RefusedApproval, ServiceWork
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import NodeFacts
from tests.unit.control.examples import (
    DEPLOYMENT,
    NOW,
    UNMEASURED,
    cro,
    decision,
    facts,
    page,
    pod,
    ro,
    service,
    signals,
)
from tests.unit.control.test_snapshots import snapshot

YES, NO, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
TALK = InsightState(NO, Reason.NOT_CONFIGURED)
KSTATUS = (ConditionType.READY, ConditionType.RECONCILING, ConditionType.STALLED)


def told(work: ServiceWork | ClusterWork) -> dict[ConditionType, Wanted]:
    wanted = service_conditions(work, TALK) if isinstance(work, ServiceWork) else cluster_conditions(work)
    assert len({item.type for item in wanted}) == len(wanted), "each condition once"
    return {item.type: item for item in wanted}


def states(work: ServiceWork | ClusterWork) -> tuple[ConditionStatus, ...]:
    found = told(work)
    return tuple(found[kind].status for kind in KSTATUS)


def well(**changes: Any) -> ServiceWork:
    given: dict[str, Any] = {"signals": signals(), "decision": decision(4)}
    return service(**(given | changes))


def test_every_condition_of_the_reference_is_told():
    # Limits of pools are the cluster's, and nobody approves anything here.
    other = {ConditionType.WITHIN_LIMITS, ConditionType.APPROVALS_ACCEPTED}
    assert set(told(well())) == set(ConditionType) - other


@pytest.mark.parametrize(
    ("work", "ready", "reconciling", "stalled"),
    [
        (well(), YES, NO, NO),
        (well(problem=Problem(Reason.COLLECTING, "being read"), facts=None, signals=None), NO, YES, NO),
        (well(problem=Problem(Reason.TARGET_NOT_FOUND, "x", stalled=True), facts=None), NO, NO, YES),
        (well(problem=Problem(Reason.API_ERROR, "x")), NO, NO, NO),
        (well(problem=Problem(Reason.CONFLICT, "x"), facts=None), NO, NO, NO),
        (well(signals=signals(replicas_reporting=0)), NO, YES, NO),
        (well(signals=None), NO, YES, NO),
        (
            well(facts=replace(facts(), page_errors={"a": UNMEASURED}), signals=signals(replicas_reporting=0)),
            NO,
            NO,
            NO,
        ),
        (well(signals=signals(replicas_reporting=3)), YES, NO, NO),
        (well(facts=facts(0), signals=None, decision=None), YES, NO, NO),
    ],
)
def test_ready_reconciling_and_stalled_never_contradict_each_other(work, ready, reconciling, stalled):
    assert states(work) == (ready, reconciling, stalled)


def test_what_a_person_suspended_is_well():
    work = well(obj=ro(suspend=True), signals=None, decision=None)
    assert states(work) == (YES, NO, NO)
    assert told(work)[ConditionType.READY].reason is Reason.SUSPENDED
    assert told(work)[ConditionType.METRICS_AVAILABLE].status is UNKNOWN


def test_no_combination_is_ready_and_stalled_or_ready_and_reconciling():
    problems = [None, *(Problem(reason, "x", stalled=flag) for reason in Reason for flag in (True, False))]
    for problem in problems:
        for seen in (None, signals(), signals(replicas_reporting=0)):
            ready, reconciling, stalled = states(well(problem=problem, signals=seen))
            assert not (ready is YES and YES in (reconciling, stalled))
            assert not (stalled is YES and reconciling is YES)


REFUSED = Unknown(UnknownReason.REFUSED, "HTTP 401")
INVALID = Unknown(UnknownReason.INVALID, "not a page")
SILENT = signals(replicas_reporting=0)


@pytest.mark.parametrize(
    ("about", "seen", "status", "reason"),
    [
        (facts(0), None, YES, Reason.NO_PODS),
        (facts(2, pods=(pod(ready=False),)), None, NO, Reason.NO_PODS),
        (facts(2, pods=()), None, NO, Reason.NO_PODS),
        (facts(), SILENT, UNKNOWN, Reason.COLLECTING),
        (facts(), None, UNKNOWN, Reason.COLLECTING),
        (replace(facts(), page_errors={"a": UNMEASURED}), SILENT, NO, Reason.ENGINE_UNREACHABLE),
        (replace(facts(), page_errors={"a": REFUSED}), SILENT, NO, Reason.ENGINE_REFUSED),
        (replace(facts(), page_errors={"a": INVALID}), SILENT, NO, Reason.ENGINE_PAGE_INVALID),
        (replace(facts(), pages={"a": (page(NOW - 900),)}), SILENT, NO, Reason.METRICS_STALE),
        (facts(), signals(running=UNMEASURED), NO, Reason.PARTIAL_METRICS),
        (facts(), signals(replicas_reporting=3), YES, Reason.PARTIAL_METRICS),
        (facts(), signals(), YES, Reason.SUCCEEDED),
    ],
)
def test_whether_the_engines_were_heard(about, seen, status, reason):
    found = told(well(facts=about, signals=seen))[ConditionType.METRICS_AVAILABLE]
    assert (found.status, found.reason) == (status, reason)


def test_the_worst_variant_speaks_for_the_service_and_is_named():
    variants = [{"name": name, "targetRef": DEPLOYMENT | {"name": name}} for name in ("spot", "reserved")]
    work = service(ro(variants=variants))
    work.targets[0].signals, work.targets[1].signals = signals(), SILENT
    work.targets[1].facts = replace(facts(), page_errors={"reserved-0": REFUSED})
    found = told(work)[ConditionType.METRICS_AVAILABLE]
    assert found.status is NO
    assert "reserved-0" in found.message


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({}, YES, Reason.SUCCEEDED),
        ({"decision": UNMEASURED}, NO, Reason.PARTIAL_METRICS),
        ({"decision": None}, UNKNOWN, Reason.NOT_YET_ANALYZED),
        ({"problem": Problem(Reason.ANALYSIS_FAILED, "boom")}, NO, Reason.ANALYSIS_FAILED),
    ],
)
def test_whether_the_analysis_came_to_an_end(changes, status, reason):
    found = told(well(**changes))[ConditionType.ANALYSIS_COMPLETE]
    assert (found.status, found.reason) == (status, reason)


@pytest.mark.parametrize(
    ("effect", "status", "reason"),
    [
        (None, UNKNOWN, Reason.NOT_YET_ANALYZED),
        (Effect(effective=True, reason=Reason.SUCCEEDED), YES, Reason.SUCCEEDED),
        (Effect(effective=None, reason=Reason.RECOMMEND_ONLY), UNKNOWN, Reason.RECOMMEND_ONLY),
        (Effect(effective=False, reason=Reason.NOBODY_LISTENS, message="m"), NO, Reason.NOBODY_LISTENS),
    ],
)
def test_whether_actuation_is_effective(effect, status, reason):
    found = told(well(effect=effect))[ConditionType.ACTUATION_EFFECTIVE]
    assert (found.status, found.reason) == (status, reason)


def test_one_ineffective_variant_is_not_hidden_by_an_effective_one():
    variants = [{"name": name, "targetRef": DEPLOYMENT | {"name": name}} for name in ("a", "b", "c")]
    work = service(ro(variants=variants))
    for target, effective in zip(work.targets, (True, None, False), strict=True):
        target.effect = Effect(effective=effective, reason=Reason.SUCCEEDED if effective else Reason.PODS_PENDING)
    assert told(work)[ConditionType.ACTUATION_EFFECTIVE].status is NO
    work.targets[2].effect = None
    assert told(work)[ConditionType.ACTUATION_EFFECTIVE].status is UNKNOWN


def test_what_is_degraded_names_its_reason():
    def degraded(work: ServiceWork) -> tuple[ConditionStatus, Reason]:
        found = told(work)[ConditionType.DEGRADED]
        return found.status, found.reason

    assert degraded(well()) == (NO, Reason.SUCCEEDED)
    assert degraded(well(problem=Problem(Reason.API_ERROR, "x"))) == (YES, Reason.API_ERROR)
    broken_status = ro(status={"observedGeneration": "many"})
    assert degraded(service(broken_status, signals=signals(), decision=decision(4))) == (YES, Reason.INVALID_SPEC)


def test_a_refused_approval_is_named_with_its_reason_and_the_condition_clears():
    work = well()
    assert ConditionType.APPROVALS_ACCEPTED not in told(work), "nobody approves anything"
    work.refused_approvals = (RefusedApproval("r9", "it is unknown"), RefusedApproval("r8", "it expired"))
    found = told(work)[ConditionType.APPROVALS_ACCEPTED]
    assert (found.status, found.reason) == (NO, Reason.APPROVAL_REFUSED)
    assert "r9 is refused: it is unknown; r8 is refused: it expired" in found.message
    shown = merge((), [found], generation=1, now=NOW)
    later = well()
    later.obj = later.obj.model_copy(update={"status": later.obj.status.model_copy(update={"conditions": shown})})
    assert told(later)[ConditionType.APPROVALS_ACCEPTED].status is YES


def test_messages_carry_no_ages_or_counts_that_change_by_themselves():
    for silent in (1, 2, 3):
        one = told(well(signals=signals(replicas_reporting=4 - silent)))[ConditionType.METRICS_AVAILABLE]
        assert one.message == told(well(signals=signals(replicas_reporting=3)))[ConditionType.METRICS_AVAILABLE].message


def test_merged_conditions_fit_the_api_and_keep_their_times():
    first = merge((), service_conditions(well(), TALK), generation=3, now=NOW)
    later = merge(first, service_conditions(well(), TALK), generation=3, now=NOW + 600)
    assert first == later
    assert {condition.observed_generation for condition in first} == {3}


# nodes


def gpu_node(
    name: str, *, heard: bool = False, lately: bool = True, error: Unknown | None = None, gpus: float = 8.0
) -> NodeFacts:
    return NodeFacts(
        name=name,
        pool="",
        gpu_model="H100",
        gpus=gpus,
        cpu_cores=8.0,
        memory_bytes=1e9,
        ready=True,
        unschedulable=False,
        agent=(snapshot(NOW if lately else UnixTime(NOW - 600.0), node=name),) if heard else (),
        agent_error=error,
    )


def lost(node):
    return replace(node, ready=False)


@pytest.mark.parametrize(
    ("nodes", "status", "reason"),
    [
        ([], YES, Reason.SUCCEEDED),
        ([gpu_node("cpu", gpus=0.0)], YES, Reason.SUCCEEDED),
        ([gpu_node("a")], UNKNOWN, Reason.COLLECTING),
        ([gpu_node("a"), gpu_node("cpu", heard=True, gpus=0.0)], NO, Reason.AGENT_UNREACHABLE),
        ([gpu_node("a", error=UNMEASURED)], NO, Reason.AGENT_UNREACHABLE),
        ([gpu_node("a", heard=True, lately=False, error=UNMEASURED)], NO, Reason.AGENT_UNREACHABLE),
        ([gpu_node("a", heard=True, lately=False)], NO, Reason.AGENT_UNREACHABLE),
        ([gpu_node("a", heard=True), gpu_node("b", heard=True, lately=False)], YES, Reason.PARTIAL_METRICS),
        ([gpu_node("a", heard=True), gpu_node("b")], YES, Reason.PARTIAL_METRICS),
        ([gpu_node("a", heard=True), gpu_node("b", heard=True)], YES, Reason.SUCCEEDED),
        ([lost(gpu_node("a"))], NO, Reason.NODES_NOT_READY),
        ([lost(gpu_node("a", heard=True, lately=False, error=UNMEASURED))], NO, Reason.NODES_NOT_READY),
        ([lost(gpu_node("a")), gpu_node("b", error=UNMEASURED)], NO, Reason.AGENT_UNREACHABLE),
        ([lost(gpu_node("a")), gpu_node("b", heard=True)], YES, Reason.PARTIAL_METRICS),
    ],
)
def test_whether_the_agents_were_heard(nodes, status, reason):
    work = ClusterWork(
        key=ObjectKey("ClusterResourceOptimization", "", "c"),
        obj=cro(),
        memory=ObjectMemory(),
        nodes={item.name: item for item in nodes},
        heard=frozenset(item.name for item in nodes if item.agent and item.agent[-1].time == NOW),
    )
    found = told(work)[ConditionType.METRICS_AVAILABLE]
    assert (found.status, found.reason) == (status, reason)
    ready, reconciling, _ = states(work)
    assert (ready is YES) is (status is YES)
    assert (reconciling is YES) is (reason is Reason.COLLECTING)
    silent_and_gone = [item.name for item in nodes if not item.ready]
    if silent_and_gone and reason is not Reason.AGENT_UNREACHABLE:
        assert silent_and_gone[0] in found.message
        assert "not ready" in found.message


def unready(*nodes):
    return tuple(pod(f"vllm-{number}", node=name, ready=False) for number, name in enumerate(nodes))


def test_pods_that_a_lost_node_took_along_are_unknown_and_not_gone():
    gone = well(facts=facts(2, pods=unready("n1", "n2"), ready_replicas=0), signals=None, lost=("n1", "n2"))
    measured = told(gone)[ConditionType.METRICS_AVAILABLE]
    assert (measured.status, measured.reason) == (NO, Reason.NODES_NOT_READY)
    assert "nodes n1, n2, not ready" in measured.message
    assert states(gone) == (NO, NO, NO), "nobody has to mend the object"
    ours = well(facts=facts(2, pods=unready("n1", "n2"), ready_replicas=0), signals=None)
    assert told(ours)[ConditionType.METRICS_AVAILABLE].reason is Reason.NO_PODS, "the nodes are well"


def test_a_lost_node_beside_others_is_named():
    found = told(well(lost=tuple(f"n{number}" for number in range(7))))[ConditionType.METRICS_AVAILABLE]
    assert (found.status, found.reason) == (YES, Reason.PARTIAL_METRICS)
    assert "nodes n0, n1, n2, n3, n4 and 2 more, not ready, is not heard" in found.message
