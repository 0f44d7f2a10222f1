"""Right-sizing: the published vectors of the Vertical Pod Autoscaler, and what is proposed or refused."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.evidence import Direction, Proposal, Refusal
from optiinfra.domain.histogram import DAY, InvalidCheckpointError
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.right_sizing import MEBIBYTE, ContainerUsage, ContainerUsageHistory, recommend, vpa
from optiinfra.domain.units import Bytes, Seconds, UnixTime
from optiinfra.domain.workload import ContainerFacts

START = UnixTime(1.7e9)
MINUTES = 1440
UNMEASURED = Unknown(UnknownReason.UNREACHABLE, "agent of node a")


def used(cpu, memory_mib, *, days):
    """Usage at one sample a minute; `cpu` and `memory_mib` are functions of the minute."""
    usage = ContainerUsageHistory()
    for minute in range(int(days * MINUTES)):
        usage.observe(
            ContainerUsage(
                time=UnixTime(START + minute * 60.0),
                cpu_cores=cpu(minute),
                memory_bytes=memory_mib(minute) * MEBIBYTE,
            )
        )
    return usage


def day_wave(minute):
    return math.sin(2 * math.pi * minute / MINUTES)


TRACES = {
    "flat": (lambda m, _: 0.5, lambda m, _: 1000),
    "steps": (lambda m, _: (m % 10 + 1) / 10, lambda m, _: 500),
    "day": (lambda m, _: 1 + 0.9 * day_wave(m), lambda m, _: 2000 + 500 * day_wave(m)),
    "growth": (lambda m, n: 0.2 + 0.8 * m / n, lambda m, n: 1000 + 1000 * m / n),
    "drop": (lambda m, n: 1.0 if m < n / 2 else 0.2, lambda m, n: 3000 if m < n / 2 else 1000),
}


# Measured with the libraries of VPA 1.2.1, one sample a minute, memory as daily peaks; cores and MiB.
@pytest.mark.parametrize(
    ("trace", "days", "target", "lower", "upper", "memory"),
    [
        ("flat", 1, 0.587, 0.585, 1.174, 1181.3),
        ("flat", 2, 0.587, 0.586, 0.880, 1181.3),
        ("flat", 8, 0.587, 0.586, 0.660, 1181.3),
        ("steps", 1, 1.168, 0.714, 2.336, 599.6),
        ("steps", 8, 1.168, 0.715, 1.314, 599.6),
        ("day", 1, 2.162, 0.918, 4.563, 2990.9),
        ("day", 8, 2.162, 0.919, 2.566, 2990.9),
        ("growth", 1, 1.101, 0.811, 2.336, 2421.7),
        ("growth", 8, 1.168, 1.037, 1.314, 2421.7),
        ("drop", 2, 1.168, 0.246, 1.752, 3496.9),
        ("drop", 8, 0.247, 0.246, 1.314, 1181.3),
    ],
)
def test_the_estimate_is_that_of_the_vpa(trace, days, target, lower, upper, memory):
    cpu, memory_mib = TRACES[trace]
    total = days * MINUTES
    estimate = vpa(used(lambda m: cpu(m, total), lambda m: memory_mib(m, total), days=days))
    # The libraries truncate to millicores after each step, and the bounds take a step more than the target.
    assert estimate.cpu.target == pytest.approx(target, abs=0.002)
    assert estimate.cpu.lower == pytest.approx(lower, abs=0.0025)
    assert estimate.cpu.upper == pytest.approx(upper, abs=0.004)
    assert estimate.memory.target / MEBIBYTE == pytest.approx(memory, abs=0.1)


def facts(*, cpu=4.0, memory=16384 * MEBIBYTE, cpu_limit=None, memory_limit=None, name="vllm"):
    unset = Unknown(UnknownReason.NOT_CONFIGURED, "no limit")
    return ContainerFacts(
        name=name,
        cpu_request_cores=cpu,
        cpu_limit_cores=unset if cpu_limit is None else cpu_limit,
        memory_request_bytes=memory,
        memory_limit_bytes=unset if memory_limit is None else memory_limit,
        gpus=1.0,
    )


def test_an_over_requested_container_gets_a_patch_and_its_savings():
    cpu, memory = recommend(facts(), used(lambda _: 0.5, lambda _: 1000, days=1), replicas=3)
    assert isinstance(cpu, Proposal)
    assert isinstance(memory, Proposal)
    assert (cpu.reason, cpu.current, cpu.proposed, cpu.direction) == (
        "OverRequested",
        "4000m",
        "588m",
        Direction.RESIZE,
    )
    assert cpu.savings.cpu_cores_freed == pytest.approx(3 * (4.0 - 0.5877), abs=0.01)
    assert cpu.savings.per_month is None
    assert memory.savings.memory_bytes_freed == pytest.approx(3 * (16384 - 1181.3) * MEBIBYTE, rel=1e-3)
    patch = yaml.safe_load(cpu.patch)
    assert patch["spec"]["template"]["spec"]["containers"] == [
        {"name": "vllm", "resources": {"requests": {"cpu": "588m"}}}
    ]
    assert "4000m is requested" in cpu.message
    assert {fact.statistic for fact in cpu.evidence} >= {"p50", "p90", "p95"}


def test_an_under_requested_container_is_raised():
    cpu, _ = recommend(facts(cpu=0.1), used(lambda _: 0.5, lambda _: 1000, days=1))
    assert (cpu.reason, cpu.proposed) == ("UnderRequested", "588m")
    assert cpu.savings.cpu_cores_freed == 0.0


def test_a_missing_request_is_said_to_be_missing_not_zero():
    cpu, _ = recommend(
        facts(cpu=Unknown(UnknownReason.NOT_CONFIGURED, "no request")), used(lambda _: 0.5, lambda _: 1000, days=1)
    )
    assert (cpu.reason, cpu.current, cpu.proposed) == ("RequestMissing", "", "588m")
    assert "no request is set" in cpu.message


def test_usage_that_was_not_measured_is_refused_per_resource():
    usage = ContainerUsageHistory()
    for minute in range(MINUTES):
        usage.observe(ContainerUsage(UnixTime(START + minute * 60.0), 0.5, UNMEASURED))
    cpu, memory = recommend(facts(), usage)
    assert isinstance(cpu, Proposal)
    assert isinstance(memory, Refusal)
    assert memory.reason == "NotMeasured"


def test_nothing_measured_refuses_both():
    assert [answer.reason for answer in recommend(facts(), ContainerUsageHistory())] == ["NotMeasured"] * 2


def test_unknown_usage_leaves_no_trace():
    usage = ContainerUsageHistory()
    assert not usage.observe(ContainerUsage(START, UNMEASURED, UNMEASURED))
    assert usage.last is None
    assert usage.samples == 0


def test_a_short_history_is_refused_with_the_time_it_needs():
    answers = recommend(facts(), used(lambda _: 0.5, lambda _: 1000, days=0.02))
    assert [answer.reason for answer in answers] == ["TooFewSamples"] * 2
    assert "3600 s are needed" in answers[0].message
    answers = recommend(facts(), used(lambda _: 0.5, lambda _: 1000, days=0.02), least_history=Seconds(600.0))
    assert all(isinstance(answer, Proposal) for answer in answers)


@pytest.mark.parametrize(("request_cores", "refused"), [(0.55, True), (0.64, True), (0.67, False), (0.52, False)])
def test_a_change_below_ten_percent_is_not_worth_a_restart(request_cores, refused):
    cpu, _ = recommend(facts(cpu=request_cores), used(lambda _: 0.5, lambda _: 1000, days=1))
    assert isinstance(cpu, Refusal) is refused
    if refused:
        assert cpu.reason == "SmallChange"


def test_a_limit_is_never_passed():
    cpu, _ = recommend(facts(cpu=0.2, cpu_limit=0.4), used(lambda _: 0.5, lambda _: 1000, days=1))
    assert cpu.proposed == "400m"
    assert "limit 400m" in cpu.message


def test_memory_of_a_model_server_comes_with_a_warning_and_less_confidence():
    usage = used(lambda _: 0.5, lambda _: 1000, days=1)
    _, plain = recommend(facts(), usage)
    _, model = recommend(facts(), usage, model_server=True)
    assert model.reason == "ModelServerMemory"
    assert "recommendation only" in model.message
    assert model.confidence < plain.confidence


def test_floors_are_divided_among_the_containers_of_a_pod():
    usage = used(lambda _: 0.0, lambda _: 1, days=1)
    assert vpa(usage).cpu.target == pytest.approx(0.025)
    assert vpa(usage).memory.target == pytest.approx(250e6)
    assert vpa(usage, containers=5).memory.target == pytest.approx(50e6)


def test_a_kill_for_memory_raises_the_target_above_what_was_used():
    usage = used(lambda _: 0.5, lambda _: 1000, days=1)
    usage.observe_out_of_memory(time=UnixTime(START + DAY), used=Bytes(2000 * MEBIBYTE))
    assert vpa(usage).memory.target > 2400 * MEBIBYTE


@given(
    st.floats(0.0, 64.0),
    st.floats(1.0, 1e6),
    st.floats(0.01, 64.0),
    st.floats(1e6, 1e12),
    st.booleans(),
)
def test_a_proposal_covers_use_and_keeps_its_bounds_in_order(cpu_used, memory_mib, cpu_request, memory_request, server):
    usage = used(lambda _: cpu_used, lambda _: memory_mib, days=0.05)
    for answer in recommend(facts(cpu=cpu_request, memory=memory_request), usage, model_server=server):
        if isinstance(answer, Refusal):
            assert answer.reason == "SmallChange"
            continue
        low, mid, high = (int(text.rstrip("mMi")) for text in (answer.lower, answer.proposed, answer.upper))
        assert low <= mid <= high
        used_here = cpu_used * 1000 if answer.setting.endswith("cpu") else min(memory_mib, 1e12 / MEBIBYTE)
        assert mid >= used_here
        assert 0.0 <= answer.confidence <= 1.0


def test_a_checkpoint_goes_on_where_it_stopped():
    usage = used(lambda m: 0.3 + (m % 7) / 10, lambda m: 900 + m % 50, days=1.5)
    data = usage.to_bytes()
    assert len(data) <= 2048
    back = ContainerUsageHistory.from_bytes(data)
    assert vpa(back) == vpa(usage)
    later = ContainerUsage(UnixTime(START + 2 * DAY), 0.5, 5000 * MEBIBYTE)
    assert back.observe(later)
    assert usage.observe(later)
    assert vpa(back).memory.target == pytest.approx(vpa(usage).memory.target)


@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_do_anything_but_fail_cleanly(data, prefix):
    valid = ContainerUsageHistory().to_bytes()
    with pytest.raises(InvalidCheckpointError):
        ContainerUsageHistory.from_bytes(valid[:30] + data if prefix and data != valid[30:] else data)
