"""The demonstration's verdict: each claim fails when what it claims did not happen, and says what was seen."""

import dataclasses
import io

import pytest
from rich.console import Console

from hack.demo.play import History, Outage, not_ready
from hack.demo.report import writes_of
from hack.demo.verdict import OPERATOR, Facts, judge
from hack.demo.waste import print_waste
from hack.demo.watch import METRIC, Scaler, Service, Sight, Trace

SCALER = Scaler(
    name="optiinfra-chat", owner="ResourceOptimization/chat", active=True, reason="ValidMetricFound", reads=METRIC
)
HPA = ("create", "horizontalpodautoscalers", "inference/optiinfra-chat")
STATUS = ("patch", "resourceoptimizations/status", "inference/embed-idle")
CLUSTER = {
    "idleGpus": {
        "gpus": [
            {"holders": ["inference/embed-idle-7c9d8f-abcde"], "state": "IdleHeldMemory", "perHour": {"value": 2.5}},
            {"holders": ["inference/embed-idle-7c9d8f-fghij"], "state": "IdleHeldMemory", "perHour": {"value": 2.5}},
            {"holders": [], "state": "IdleUnallocated", "perHour": {"unknown": "no GPU price"}},
        ]
    },
    "consolidation": {
        "nodes": [{"name": "gpu-4", "gpus": 8, "pods": 1, "warmServers": 1}],
        "steps": [{"step": 1, "pod": "embed-idle-7c9d8f-abcde", "from": "gpu-4", "to": "gpu-1"}],
        "held": [{"reason": "ReceivesPods", "nodes": 3, "example": "gpu-1", "message": "pods come here"}],
        "scheduler": {"habit": "Spreads", "placements": 9},
    },
    "savings": {"summary": "56,400 USD"},
}


def service(name, *, replicas=1, bottleneck="Healthy", recommendations=(), savings="", generation=1):
    return Service(
        name=name,
        mode="Recommend",
        replicas=replicas,
        generation=generation,
        ready=True,
        desired=replicas,
        rule="Steady",
        effective="True",
        bottleneck=bottleneck,
        gpu_percent="50",
        savings=savings,
        recommendations=recommendations,
    )


def sight(at, *, chat, late=0.0, seconds=None, **changes):
    services = {
        "chat": service("chat", replicas=chat),
        "embed-idle": service("embed-idle", replicas=6, recommendations=("Replicas 6 -> 1",), savings="10,080 USD"),
        "summarize": service("summarize", bottleneck="KVCache", recommendations=("KVCache auto -> fp8",)),
    }
    trace = Trace(seconds=seconds, length=200.0, description="", arrived=10, late_share=late, ttft_p95=1.0, done=False)
    values = {
        "at": at,
        "services": services,
        "scaler": SCALER,
        "metric": chat,
        "trace": trace,
        "idle_gpus": "23",
        "emptyable_nodes": "1",
        "cluster_savings": "",
        "leading": True,
    }
    return Sight(**values | changes)


def replaced(history, name, **changes):
    """The same history, with one service changed in its last sight."""
    last = history.sights[-1]
    services = dict(last.services) | {name: dataclasses.replace(last.services[name], **changes)}
    return History(sights=[*history.sights[:-1], dataclasses.replace(last, services=services)], outage=history.outage)


@pytest.fixture
def history():
    replicas = [2, 2, 3, 3, 3, 4, 5, 6, 6, 4, 2]
    sights = [
        sight(0.0, chat=2),
        *(sight(t, chat=count, seconds=10.0 * t) for t, count in enumerate(replicas, start=1)),
    ]
    outage = Outage(
        killed_at=3.2,
        killed_pid=11,
        replicas=3,
        trace_seconds=30.0,
        restarted_at=4.0,
        new_pid=12,
        leading_at=4.5,
        metric_back_at=5.0,
        replicas_meanwhile={3},
        scaler_reasons={"FailedGetExternalMetric"},
    )
    return History(sights=sights, outage=outage)


@pytest.fixture
def facts():
    return Facts(
        scaler_events=(
            f"New size: 3; reason: external metric {METRIC}(...) above target",
            "New size: 4; reason: All metrics below target",
        ),
        agents=({"agent_id": "agent-here"},),
        snapshot={"cpu": {"cores": 2}, "memory": {"total_bytes": 2**34}, "gpus": []},
        real_agent="agent-here",
        cpus=2,
        writes={HPA: 1, STATUS: 5},
        cluster=CLUSTER,
    )


def failed(history, facts):
    return [check for check in judge(history, facts) if not check.holds]


def the_failed(history, facts):
    checks = failed(history, facts)
    assert len(checks) == 1, checks
    return checks[0]


def test_everything_holds_when_everything_happened(history, facts):
    assert failed(history, facts) == []


def test_nothing_holds_when_nothing_was_seen(facts):
    nothing = dataclasses.replace(facts, scaler_events=(), agents=(), snapshot={}, writes={}, cluster={})
    assert not any(check.holds for check in judge(History(), nothing))


@pytest.mark.parametrize(
    "scaler",
    [dataclasses.replace(SCALER, owner=""), dataclasses.replace(SCALER, owner="Other/chat")],
)
def test_a_scaler_of_somebody_else_is_not_ours(history, facts, scaler):
    history.sights = [dataclasses.replace(one, scaler=scaler) for one in history.sights]
    assert "created the HorizontalPodAutoscaler" in the_failed(history, facts).claim


def test_a_scaler_that_never_was_active_fails(history, facts):
    scaler = dataclasses.replace(SCALER, active=False, reason="FailedGetExternalMetric")
    history.sights = [dataclasses.replace(one, scaler=scaler) for one in history.sights]
    assert "FailedGetExternalMetric" in the_failed(history, facts).seen


def test_too_late_is_not_in_time(history, facts):
    history.sights = [
        dataclasses.replace(one, trace=dataclasses.replace(one.trace, late_share=0.06)) for one in history.sights
    ]
    assert "6.0% late" in the_failed(history, facts).seen


def test_lateness_after_the_rise_does_not_count_against_it(history, facts):
    last = history.sights[-1]
    history.sights[-1] = dataclasses.replace(last, trace=dataclasses.replace(last.trace, late_share=0.2))
    assert failed(history, facts) == []


def test_replicas_must_fall_again(history, facts):
    assert "6 at the peak, 6 at the end" in the_failed(replaced(history, "chat", replicas=6), facts).seen


def test_the_hpa_must_have_scaled_by_our_metric(history, facts):
    events = (
        "New size: 3; reason: cpu resource utilization above target",
        "New size: 2; reason: All metrics below target",
    )
    check = the_failed(history, dataclasses.replace(facts, scaler_events=events))
    assert "0 rescales up" in check.seen


def test_an_operator_that_never_led_again_fails(history, facts):
    history.outage.leading_at = None
    history.outage.metric_back_at = None
    assert [check.seen for check in failed(history, facts)] == [
        "pid 11 killed; pid 12 never led",
        "the metric never came back",
    ]


def test_an_operator_that_was_not_killed_proves_nothing(history, facts):
    history.outage = None
    assert "never killed" in failed(history, facts)[0].seen


def test_a_fall_while_the_metric_was_away_is_seen(history, facts):
    history.outage.replicas_meanwhile = {1, 3}
    assert "1 to 3 replicas" in the_failed(history, facts).seen


def test_scaling_must_go_on_after_the_kill(history, facts):
    history.outage.metric_back_at = 10.5
    assert "afterwards up to 2" in the_failed(history, facts).seen


@pytest.mark.parametrize("recommendations", [(), ("Replicas 6 -> 8",), ("Resources 4 -> 2",)])
def test_the_idle_service_must_be_told_to_shrink(history, facts, recommendations):
    history = replaced(history, "embed-idle", recommendations=recommendations)
    assert "embed-idle" in the_failed(history, facts).claim


def test_savings_must_be_money_where_a_price_is_known(history, facts):
    assert "5 GPUs" in the_failed(replaced(history, "embed-idle", savings="5 GPUs"), facts).seen


@pytest.mark.parametrize("idle", ["0", "unknown: NotMeasured", "?"])
def test_idle_gpus_must_be_counted(history, facts, idle):
    history.sights[-1] = dataclasses.replace(history.sights[-1], idle_gpus=idle)
    assert idle in the_failed(history, facts).seen


@pytest.mark.parametrize("changes", [{"bottleneck": "Batch"}, {"recommendations": ()}])
def test_the_short_service_needs_its_bottleneck_and_advice(history, facts, changes):
    assert "KVCache" in the_failed(replaced(history, "summarize", **changes), facts).claim


@pytest.mark.parametrize(
    "changes",
    [
        {"agents": ({"agent_id": "agent-gpu-1"},)},
        {"snapshot": {"simulated": True, "cpu": {"cores": 2}, "memory": {"total_bytes": 1}}},
        {"snapshot": {"cpu": {"cores": 192}, "memory": {"total_bytes": 1}}},
        {"snapshot": {}},
    ],
)
def test_the_agent_must_be_real_and_registered(history, facts, changes):
    assert "real agent" in the_failed(history, dataclasses.replace(facts, **changes)).claim


@pytest.mark.parametrize(
    "write",
    [
        ("patch", "deployments", "inference/embed-idle"),
        ("update", "deployments/scale", "inference/summarize"),
        ("create", "horizontalpodautoscalers", "inference/optiinfra-embed-idle"),
        ("delete", "pods", "inference/chat-1"),
    ],
)
def test_a_write_to_somebody_elses_object_is_seen(history, facts, write):
    check = the_failed(history, dataclasses.replace(facts, writes=dict(facts.writes) | {write: 1}))
    assert write[1] in check.seen


def test_a_changed_deployment_is_seen(history, facts):
    assert "embed-idle" in the_failed(replaced(history, "embed-idle", generation=2), facts).seen


def test_an_empty_audit_log_proves_nothing(history, facts):
    assert "no write of the operator" in the_failed(history, dataclasses.replace(facts, writes={})).seen


def event(verb, resource, *, user=OPERATOR, **reference):
    import json

    return json.dumps({"user": {"username": user}, "verb": verb, "objectRef": {"resource": resource, **reference}})


def test_writes_are_counted_from_the_audit_log():
    lines = [
        event("patch", "resourceoptimizations", subresource="status", namespace="inference", name="embed-idle"),
        event("patch", "resourceoptimizations", subresource="status", namespace="inference", name="embed-idle"),
        event("list", "pods"),
        event("create", "tokenreviews"),
        event("delete", "pods", user="somebody", namespace="inference", name="chat-1"),
        event("create", "horizontalpodautoscalers", namespace="inference", name="optiinfra-chat"),
    ]
    assert writes_of(lines, user=OPERATOR) == {STATUS: 2, HPA: 1}


def test_the_load_waits_for_what_is_missing(history):
    complete = history.sights[0]
    assert not_ready(complete) == []
    bare = dataclasses.replace(complete, scaler=None, leading=None, services={})
    assert not_ready(bare) == [
        "the operator does not lead",
        "0 of 3 services are seen",
        "no HorizontalPodAutoscaler for chat",
    ]
    inactive = dataclasses.replace(complete, scaler=dataclasses.replace(SCALER, active=False, reason="Why"))
    assert not_ready(inactive) == ["ScalingActive of optiinfra-chat is not True (Why)"]


def test_idle_gpus_without_price_or_of_nobody_else_are_not_the_service_s(history, facts):
    unpriced = [dict(gpu, perHour={"unknown": "no GPU price"}) for gpu in CLUSTER["idleGpus"]["gpus"]]
    changed = dataclasses.replace(facts, cluster=CLUSTER | {"idleGpus": {"gpus": unpriced}})
    assert "with what they cost" in the_failed(history, changed).claim
    nobodys = [dict(gpu, holders=[]) for gpu in CLUSTER["idleGpus"]["gpus"]]
    changed = dataclasses.replace(facts, cluster=CLUSTER | {"idleGpus": {"gpus": nobodys}})
    assert the_failed(history, changed).seen == "2 by nobody, 1 by nobody"


def test_a_pod_without_a_place_fails_the_plan(history, facts):
    plan = CLUSTER["consolidation"] | {"steps": []}
    changed = dataclasses.replace(facts, cluster=CLUSTER | {"consolidation": plan})
    assert the_failed(history, changed).seen == "gpu-4 (8 GPUs, 1 pods to move)"


def test_waste_is_printed_as_the_status_says_it():
    console = Console(width=200, record=True, file=io.StringIO())
    print_waste(console, CLUSTER)
    text = console.export_text()
    assert "inference/embed-idle" in text
    assert "5.00" in text
    assert "no price" in text
    assert "node gpu-4 with 8 GPUs could go: by moving 1 pods (embed-idle-7c9d8f-abcde -> gpu-1)" in text
    assert "3 nodes stay: ReceivesPods (pods come here)" in text
    assert "how the scheduler fills nodes, by 9 placements: Spreads" in text
    assert "56,400 USD could be saved a month" in text
