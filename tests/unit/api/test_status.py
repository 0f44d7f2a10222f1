"""From findings to status: rounding, cutting, unknowns; and when a status is worth a write."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.api.conditions import ConditionStatus, ConditionType, Wanted, merge
from optiinfra.api.identity import LENGTH, action_id, recommendation_id
from optiinfra.api.reasons import Reason
from optiinfra.api.scalars import Time
from optiinfra.api.status_change import is_meaningful_change
from optiinfra.api.status_from import (
    round_ratio,
    to_bottleneck,
    to_evidence,
    to_measured,
    to_percent,
    to_recommendation,
    to_refusal,
)
from optiinfra.api.status_scaling import to_learned
from optiinfra.api.v1alpha1 import (
    DesiredStatus,
    ReplicaStatus,
    ResourceOptimizationStatus,
    RoundStatus,
    UtilizationStatus,
)
from optiinfra.api.v1alpha1.resource_optimization import TargetStatus
from optiinfra.domain.bottleneck import Alternative, Diagnosis
from optiinfra.domain.evidence import (
    Bottleneck,
    Direction,
    Evidence,
    Proposal,
    RecommendationType,
    Refusal,
    Savings,
)
from optiinfra.domain.readings import Unknown, UnknownReason
from tests.unit.control.examples import decision

STALE = Unknown(UnknownReason.STALE, "last seen 90 s ago")


def evidence(value=0.97123456):
    return Evidence("kv_cache_usage", value, "ratio", 300.0, "engine", "p95")


def proposal(**fields):
    return Proposal(
        **{
            "type": RecommendationType.REPLICAS,
            "reason": "UnderUsed",
            "message": "4 replicas serve what 3 could",
            "setting": "replicas",
            "current": "4",
            "proposed": "3",
            "lower": "3",
            "upper": "3",
            "direction": Direction.SCALE_DOWN,
            "confidence": 0.83,
            "evidence": (evidence(), evidence(STALE)),
            "savings": Savings(gpus_freed=8, per_month=14_601.23),
        }
        | fields
    )


def recommended(**fields):
    found = proposal(**fields)
    identifier = recommendation_id(object_uid="o", target_uid="t", proposal=found, issued=1000.0)
    return to_recommendation(found, identifier=identifier, issued=1000.0, expires=1000.0 + 86_400)


def test_recommendation_carries_everything_to_argue_with():
    wire = recommended().to_wire()
    assert wire["confidence"] == 0.85
    assert wire["issuedAt"] == "1970-01-01T00:16:40Z"
    assert wire["expiresAt"] == "1970-01-02T00:16:40Z"
    assert wire["savings"] == {"gpus": 8, "cpuCores": 0, "memoryGiB": 0, "perMonth": 14_600}
    assert wire["evidence"][0] == {
        "signal": "kv_cache_usage",
        "value": 0.9712,
        "unit": "ratio",
        "window": "5m",
        "source": "engine",
        "statistic": "p95",
    }
    assert wire["evidence"][1]["unknown"] == "Stale: last seen 90 s ago"
    assert "value" not in wire["evidence"][1]


def test_no_price_is_not_a_price_of_zero():
    assert "perMonth" not in recommended(savings=Savings(gpus_freed=1)).to_wire()["savings"]


def test_too_long_texts_are_cut_and_a_patch_that_is_too_long_is_left_out():
    found = recommended(message="m" * 5000, reason="R" * 200, patch="p" * 5000, evidence=(evidence(),) * 40)
    assert len(found.message) == 1024
    assert len(found.reason) == 64
    assert found.patch == ""
    assert len(found.evidence) == 16


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_becomes_an_unknown(number):
    assert to_measured(number).unknown == "Invalid: not a finite number"
    assert to_evidence(evidence(number)).value is None
    assert to_percent(number) == "Invalid"


@given(st.floats(0, 1))
def test_ratios_in_steps(ratio):
    rounded = round_ratio(ratio)
    assert abs(rounded - ratio) <= 0.025 + 1e-9
    assert round(rounded * 100) % 5 == 0
    assert to_percent(ratio) == round(rounded * 100)


@given(st.one_of(st.floats(), st.just(STALE)))
def test_measured_is_exactly_one_of_both(value):
    wire = to_measured(value).to_wire()
    assert len(wire) == 1


def test_bottleneck_and_refusal():
    unknown = Unknown(UnknownReason.NOT_MEASURED)
    other = Alternative(Bottleneck.BATCH, "The KV cache would have to be below 90 % full.")
    diagnosis = Diagnosis(
        Bottleneck.KV_CACHE, 0.9, "CacheFull", "The KV cache is full", (evidence(),), unknown, "", alternative=other
    )
    wire = to_bottleneck(diagnosis, since=60.0).to_wire()
    assert wire["since"] == "1970-01-01T00:01:00Z"
    assert wire["alternative"] == {"type": "Batch", "message": "The KV cache would have to be below 90 % full."}
    assert to_refusal(Refusal(RecommendationType.RESOURCES, "TooYoung", "x" * 2000)).message.endswith("…")


def test_id_is_short_and_speaks_about_one_change_only():
    def identity(*, issued=1000.0, object_uid="o", target_uid="t", **fields):
        return recommendation_id(
            object_uid=object_uid, target_uid=target_uid, proposal=proposal(**fields), issued=issued
        )

    first = identity()
    assert len(first) == LENGTH
    assert first == identity(message="said otherwise", confidence=0.1) == identity(issued=1000.9)
    others = {
        identity(issued=1001.0),
        identity(object_uid="p"),
        identity(target_uid="p"),
        identity(object_uid="ot", target_uid=""),
        identity(current="5"),
        identity(proposed="2"),
        identity(setting="x"),
        identity(subject="x"),
        identity(type=RecommendationType.BATCH_SIZE),
    }
    assert first not in others
    assert len(others) == 9
    assert action_id(recommendation=first, started=1.0) != action_id(recommendation=first, started=1.0, attempt=1)


def status(**fields):
    base = {
        "observed_generation": 1,
        "conditions": merge(
            [], [Wanted(ConditionType.READY, ConditionStatus.TRUE, Reason.SUCCEEDED)], generation=1, now=0
        ),
        "replicas": ReplicaStatus(current=4, desired=4, ready=4),
        "desired": DesiredStatus(replicas=4, rule="Saturation", reason="Steady", at=Time.of(0)),
        "utilization": UtilizationStatus(
            gpu_percent=40, gpu_memory_percent=90, kv_cache_percent=50, batch_percent=5, measured_at=Time.of(0)
        ),
        "recommendations": (recommended(),),
        "last_round": RoundStatus(id="a", at=Time.of(0)),
    }
    return ResourceOptimizationStatus(**(base | fields))


def utilization(**fields):
    return status().utilization.model_copy(update=fields)


WORDS = {
    "condition": {
        "conditions": merge(
            [], [Wanted(ConditionType.READY, ConditionStatus.FALSE, Reason.NO_PODS)], generation=1, now=5
        )
    },
    "reason": {
        "conditions": merge(
            [], [Wanted(ConditionType.READY, ConditionStatus.TRUE, Reason.NO_PODS)], generation=1, now=0
        )
    },
    "generation": {"observed_generation": 2},
    "decision": {"desired": status().desired.model_copy(update={"replicas": 5})},
    "rule": {"desired": status().desired.model_copy(update={"rule": "Forecast"})},
    "no longer known": {"utilization": utilization(gpu_percent="Stale")},
    "utilization gone": {"utilization": None},
    "recommendation gone": {"recommendations": ()},
    "another recommendation": {"recommendations": (recommended(proposed="2"),)},
    "evidence lost": {"recommendations": (recommended(evidence=(evidence(STALE), evidence(STALE))),)},
}
NUMBERS = {
    "percent": {"utilization": utilization(kv_cache_percent=55)},
    "running replicas": {"replicas": ReplicaStatus(current=4, desired=4, ready=3)},
    "times and sentences": {
        "utilization": utilization(measured_at=Time.of(30)),
        "desired": status().desired.model_copy(update={"at": Time.of(30), "message": "4.1 would do"}),
    },
    "detail of an unknown": {
        "recommendations": (recommended(evidence=(evidence(), evidence(Unknown(UnknownReason.STALE, "95 s")))),)
    },
    "confidence": {"recommendations": (recommended(confidence=0.7),)},
}


@pytest.mark.parametrize("change", WORDS.values(), ids=WORDS)
def test_words_are_written_at_once(change):
    assert is_meaningful_change(status(), status(**change), now=1.0)


@pytest.mark.parametrize("change", NUMBERS.values(), ids=NUMBERS)
def test_numbers_are_written_every_five_minutes(change):
    assert not is_meaningful_change(status(), status(**change), now=299.0)
    assert is_meaningful_change(status(), status(**change), now=300.0)


def test_time_that_passes_is_never_written():
    def idle(seconds):
        seen = replace(evidence(Unknown(UnknownReason.STALE, f"{seconds} s")), window=float(seconds))
        desired = status().desired.model_copy(update={"message": f"nothing for {seconds} s", "at": Time.of(seconds)})
        return status(
            recommendations=(recommended(evidence=(evidence(), seen)),),
            utilization=utilization(measured_at=Time.of(seconds)),
            desired=desired,
        )

    assert not is_meaningful_change(idle(45), idle(50), now=1.0)
    assert not is_meaningful_change(idle(45), idle(86400), now=1e9)


@pytest.mark.parametrize("later", ["6 min", "2 h", "45.5 s", "3 d"])
def test_a_span_that_is_told_in_another_unit_is_no_news(later):
    def idle(span):
        return status(desired=status().desired.model_copy(update={"message": f"no request in the last {span}."}))

    assert not is_meaningful_change(idle("63 s"), idle(later), now=1e9)


def test_what_was_learned_and_start_ups_cause_no_write_by_themselves():
    made = decision(2)
    before = TargetStatus(name="chat", target="Deployment/chat", learned=to_learned(made))
    moved = replace(
        made, load=replace(made.load, replicas=3.3), learned=replace(made.learned, rule="another", weight=0.9)
    )
    after = before.model_copy(update={"learned": to_learned(moved)})
    assert before.learned != after.learned
    assert not is_meaningful_change(status(targets=(before,)), status(targets=(after,)), now=1e9)


def test_a_sentence_that_says_something_else_is_written_in_time():
    def blaming(pod):
        return status(desired=status().desired.model_copy(update={"message": f"pod {pod} is silent"}))

    assert not is_meaningful_change(blaming("chat-a"), blaming("chat-b"), now=299.0)
    assert is_meaningful_change(blaming("chat-a"), blaming("chat-b"), now=300.0)


def test_what_is_equal_is_never_written():
    assert not is_meaningful_change(status(), status(last_round=RoundStatus(id="b", at=Time.of(9e8))), now=1e9)
    read_back = ResourceOptimizationStatus.model_validate(status().to_wire())
    assert not is_meaningful_change(read_back, status(), now=1e9)


def test_first_status_is_always_written():
    assert is_meaningful_change(None, status(), now=0.0)
    assert is_meaningful_change(ResourceOptimizationStatus(), status(), now=0.0)
