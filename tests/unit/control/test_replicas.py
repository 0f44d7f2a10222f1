"""How many replicas each target of a round needs: what goes into the domain, and what becomes of its answers."""

from dataclasses import replace

import pytest

from optiinfra.control import replicas
from optiinfra.control.replicas import ScalingTimes
from optiinfra.control.work import Work
from optiinfra.domain.evidence import FindingType, Proposal, Refusal
from optiinfra.domain.readings import EngineReading, Signal, Unknown
from optiinfra.domain.scaler.decision import Infeasibility
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.scaling_rules import Rule
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import ScalerMetric
from tests.unit.control import test_variants as variants
from tests.unit.control.examples import NOW, decision, facts, limits, page, pod, ro, scaler, service, signals

TIMES = ScalingTimes(tick=Seconds(15.0), hold=Seconds(180.0), stale_after=Seconds(45.0))


def busy_page(at, *, running=8.0, waiting=0.0):
    base = page(at)
    return EngineReading(
        time=base.time,
        engine=base.engine,
        version=base.version,
        model=base.model,
        gauges={
            Signal.REQUESTS_RUNNING: running,
            Signal.REQUESTS_WAITING: waiting,
            Signal.KV_CACHE_USAGE: 0.2,
        },
        counters={
            Signal.REQUESTS_FINISHED: at - NOW + 1000.0,
            Signal.PROMPT_TOKENS: (at - NOW + 1000.0) * 200.0,
            Signal.GENERATION_TOKENS: (at - NOW + 1000.0) * 200.0,
        },
    )


def watched(at=NOW, *, replicas_=4, **changes):
    names = [f"vllm-{number}" for number in range(replicas_)]
    pages = {name: tuple(busy_page(at - 40.0 + 5.0 * step) for step in range(9)) for name in names}
    return facts(replicas_, pages=pages, **changes)


def round_of(at=NOW, *, work=None, known=None, **spec):
    given = work or service(ro(**spec))
    target = given.targets[0]
    target.facts = known or watched(at)
    target.signals = signals(time=UnixTime(at), running=32.0, running_max=32.0, work_rate=4000.0)
    target.limits = replicas.limits_of(given, target, target.facts)
    made = replicas.scaling_input(given, target, target.facts, TIMES, now=UnixTime(at))
    replicas.decide([(given, target, made)], now=UnixTime(at))
    return given, target, made


def test_ticks_are_read_out_of_the_pages_and_what_was_learned_is_kept():
    given, target, made = round_of()
    one = made.samples[-1]
    assert (one.reporting, one.running, one.finished) == (4, 32.0, pytest.approx(4.0))
    assert one.served == pytest.approx(4.0 * (200.0 + 800.0))
    assert isinstance(target.decision, ScalingDecision)
    assert target.memory.decided
    first = target.memory.scaler
    assert first.tick > 0
    _, _, later = round_of(NOW + 30.0, work=given)
    assert len(later.samples) == 2
    assert target.memory.scaler.tick == first.tick + 2


def test_a_round_within_a_tick_reads_no_page():
    given, target, _ = round_of()
    before = target.decision
    _, _, made = round_of(NOW + 5.0, work=given)
    assert made.samples == ()
    assert target.decision.desired == before.desired


def test_start_ups_are_measured_on_the_own_pods_unless_they_are_given():
    known = watched(pods=(pod(created=UnixTime(NOW - 3600.0), became_ready=UnixTime(NOW - 3510.0)),))
    _, target, made = round_of(known=known)
    assert (made.start_up_p50, made.start_up_p95) == (90.0, 90.0)
    assert target.start_up is not None
    assert target.start_up.samples == 1
    _, _, told = round_of(known=known, scaling={"startupTime": "4m"})
    assert told.start_up_p95 == 240.0


def test_a_careful_start_up_stands_in_while_none_was_measured():
    known = watched(pods=())
    _, _, made = round_of(known=known)
    assert made.start_up_p95 == replicas.UNMEASURED_STARTUP


@pytest.mark.parametrize(
    ("changes", "paused"),
    [({}, False), ({"scaling_active": False, "scaling_active_reason": "ScalingDisabled"}, True)],
)
def test_an_hpa_that_was_switched_off_by_hand_pauses(changes, paused):
    _, target, made = round_of(known=watched(scaler=scaler(**changes)))
    assert made.paused is paused
    assert not paused or target.decision.desired == 4


KEDA = "ScaledObject/chat"


@pytest.mark.parametrize(
    ("owner", "triggers", "own", "minimum", "refused"),
    [
        ("", 2, 0, 1, True),
        (KEDA, 2, 0, 0, False),
        (KEDA, 2, 1, 0, False),  # what KEDA writes into its HPA for a minReplicaCount of 0
        (KEDA, 2, 3, 3, False),
        (KEDA, 1, 1, 1, True),  # the one trigger is ours, and sees no queue without replicas
        ("KServe/chat", 2, 0, 1, True),
    ],
)
def test_zero_is_allowed_only_where_somebody_else_sees_the_queue(owner, triggers, own, minimum, refused):
    metrics = (ScalerMetric(type="External"),) * triggers + (ScalerMetric(type="Resource", resource="cpu"),)
    known = watched(scaler=scaler(controller_owner=owner, min_replicas=own, metrics=metrics))
    given, target, _ = round_of(known=known, scaling={"scaleToZero": {"enabled": True}})
    assert target.limits.minimum == minimum
    answers = replicas.proposals(given, target)
    assert any(isinstance(one, Refusal) and one.reason == "QueueNotSeen" for one in answers) is refused


def test_the_minimum_of_kedas_hpa_holds_where_zero_is_not_allowed():
    external = (ScalerMetric(type="External"),) * 2
    known = watched(scaler=scaler(controller_owner=KEDA, min_replicas=1, metrics=external))
    _, target, _ = round_of(known=known)
    assert target.limits.minimum == 1


def test_what_is_not_known_is_refused_with_its_reason():
    given, target, _ = round_of(known=facts(4))
    assert isinstance(target.decision, Unknown)
    refusals = replicas.proposals(given, target)
    assert [one.reason for one in refusals] == [str(target.decision.reason)]


def test_one_that_spoils_the_fleet_spoils_only_itself():
    good, first, made = round_of()
    bad, second, wrong = round_of()
    first.decision = second.decision = None
    broken = replace(wrong, minimum=9, maximum=3)
    replicas.decide([(good, first, made), (bad, second, broken)], now=NOW)
    assert isinstance(first.decision, ScalingDecision)
    assert second.decision is None
    assert bad.problem is not None
    assert good.problem is None


def test_the_users_own_scaler_gets_a_target_or_the_reason_why_not():
    given, target, _ = round_of(known=watched(scaler=scaler()))
    target.decision = decision(4)
    answers = replicas.hpa_target(given, target, now=NOW)
    assert [one.reason for one in answers] == ["TooFewSamples"]
    for at in range(1000):
        target.memory.history.observe(signals(time=UnixTime(NOW + 15.0 * at), work_rate=9000.0), 4)
    assert replicas.hpa_target(given, target, now=UnixTime(NOW + 60.0)) == answers
    later = replicas.hpa_target(given, target, now=UnixTime(NOW + 3600.0))
    assert isinstance(later[0], Proposal)
    assert later[0].setting.startswith("HorizontalPodAutoscaler/hpa")
    target.facts = replace(target.facts, scaler=scaler(owned_by_us=True))
    assert replicas.hpa_target(given, target, now=UnixTime(NOW + 3600.0)) == []


def test_an_objective_that_cannot_be_held_is_a_finding_with_what_would_help():
    _, target, _ = round_of(known=watched())
    assert replicas.findings(target) == []
    made = decision(4)
    lost = Infeasibility(0.04, 0.03, 2.5, 0.004, 0.01, spares=3)
    target.decision = replace(made, learned=replace(made.learned, infeasible=lost))
    (found,) = replicas.findings(target)
    assert found.type is FindingType.INFEASIBLE_OBJECTIVE
    assert "quarter of the start-up time 0.4%, with 3 warm spares 1.0%" in found.message


@pytest.mark.parametrize(
    ("spec", "living", "ordered", "asked"),
    [
        (4, 4, None, 4),
        (4, 2, None, 4),  # nobody ordered that: two are missing
        (4, 2, 2, 2),  # the fall was followed, and the spec was read before
        (4, 4, 2, 4),  # the fall is not followed yet
        (4, 3, 2, 4),  # nor half of it
        (2, 2, 2, 2),
        (2, 2, 4, 2),  # a rise is followed when the spec says so
    ],
)
def test_a_spec_that_was_read_before_a_fall_was_followed_is_no_reason_to_take_it_back(spec, living, ordered, asked):
    pods = tuple(pod(f"vllm-{number}") for number in range(living))
    gone = (pod("vllm-9", terminating=True),)
    known = replace(facts(spec), pods=(*pods, *gone), ready_replicas=living)
    assert replicas.asked_for(known, ordered=ordered) == asked


def test_limits_are_the_scalers_narrowed_by_the_object():
    given, target, _ = round_of(
        known=watched(scaler=scaler(min_replicas=2, max_replicas=9)), scaling={"maxReplicas": 6}
    )
    assert (target.limits.minimum, target.limits.maximum) == (2, 6)
    assert limits().gpus_per_replica == 1.0
    assert given.problem is None


def test_variants_share_their_load_the_cheapest_way_and_who_may_not_shrink_keeps_what_he_has():

    made = variants.given(
        variants.two(maxShare="40%"), rest=variants.decided(5, current=5), spot=variants.decided(1, current=1)
    )
    work = Work(round_id="r", at=NOW, keys=(), nodes=variants.NODES, prices=variants.POOLS, services=[made])
    replicas.mix(made, work)
    by_name = {target.target.name: target.decision for target in made.targets}
    assert (by_name["spot"].desired, by_name["spot"].rule) == (2, Rule.MIX)
    assert "alone:" in by_name["spot"].message
    assert (by_name["rest"].desired, by_name["rest"].rule) == (5, Rule.LEARNED)

    ready = variants.given(
        variants.two(maxShare="40%"), rest=variants.decided(5, current=5), spot=variants.decided(2, current=2)
    )
    silent = replace(ready.targets[0].decision, shrink_blocked=("1 of 5 replicas reports",))
    assert ready.targets[0].target.name == "rest"
    ready.targets[0].decision = silent
    replicas.mix(ready, replace(work, services=[ready]))
    assert ready.targets[0].decision.desired == 5
