"""Right-sizing in the round: from samples to proposals, with kills, faults, clocks and what stands already."""

from dataclasses import replace

import pytest

from optiinfra.api.v1alpha1 import ResourceOptimization
from optiinfra.control import sizing
from optiinfra.control.checkpoint import VERSION, pack, unpack
from optiinfra.control.memory import ObjectMemory, TargetMemory
from optiinfra.control.recommend import recommendations_of
from optiinfra.control.usage import UsageSample
from optiinfra.domain.cost import PriceList
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import FindingType, Proposal, RecommendationType, Refusal
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.right_sizing import UsageHistory
from optiinfra.domain.sizing_words import read_amount
from optiinfra.domain.surroundings_agents import Found
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import ContainerFacts, MemoryKill
from tests.unit.control.examples import DEPLOYMENT, NOW, facts, pod, ro_body, service

NONE = Unknown(UnknownReason.NOT_CONFIGURED, "not set")
GIB = 2.0**30
DAY = 86_400.0
APP = ContainerFacts("app", 4.0, NONE, 16 * GIB, 16 * GIB, 0.0)


def samples(*, name="app", days=8, cores=0.5, memory=2 * GIB, starting=False, end=NOW):
    times = [UnixTime(end - days * DAY + 300.0 * step) for step in range(int(days * 288))]
    return [UsageSample(name, time, cores, memory, starting) for time in times]


def made(*containers, heard=None, kills=(), status=None, spec=None, **target):
    placed = pod(containers=containers or (APP,), memory_kills=tuple(kills), gpus=0.0)
    obj = ResourceOptimization.parse(ro_body(status=status, **(spec or {})))
    work = service(obj, facts=facts(pods=(placed,)), settings=EngineSettings(), **target)
    memory = work.targets[0].memory
    sizing.hear(memory, samples() if heard is None else heard, (placed,), now=NOW)
    return work


def answers(work, now=NOW):
    sizing.estimate([work], now=UnixTime(now))
    return sizing.advise(work, work.targets[0])


def test_samples_become_requests():
    first, second = answers(made())
    assert isinstance(first, Proposal)
    assert isinstance(second, Proposal)
    assert 500 <= int(first.proposed.removesuffix("m")) < 800
    assert 2048 <= int(second.proposed.removesuffix("Mi")) < 4096
    assert first.savings.per_month is not None
    assert first.patch.startswith("apiVersion: apps/v1\nkind: Deployment\n")


def test_nothing_is_sized_on_measurements_that_cannot_be():
    (answer,) = answers(made(usage_fault="pod a: container app is said to use 900 cores"))
    assert isinstance(answer, Refusal)
    assert answer.reason == "UsageInvalid"
    assert "900 cores" in answer.message


def test_who_is_not_measured_is_not_sized():
    missing = Unknown(UnknownReason.NOT_CONFIGURED, "metrics.k8s.io is not served; install metrics-server")
    (answer,) = answers(made(heard=[], usage_unknown=missing))
    assert isinstance(answer, Refusal)
    assert "install metrics-server" in answer.message


def test_starts_are_kept_apart():
    plain = answers(made())[0]
    start = sorted([*samples(), *samples(days=0.1, cores=3.9, starting=True)], key=lambda one: one.time)
    assert isinstance(plain, Proposal)
    found = answers(made(heard=start))[0]
    assert isinstance(found, Proposal)
    assert found.proposed == plain.proposed
    assert next(one.value for one in found.evidence if one.signal == "start_up_peak") == pytest.approx(3.9, rel=0.1)


def test_a_kill_for_memory_counts_once_and_survives_a_restart():
    kill = MemoryKill("app", UnixTime(NOW - 3600.0), 16 * GIB)
    work = made(kills=[kill])
    second = answers(work)[1]
    assert isinstance(second, Proposal)
    assert second.reason == "OutOfMemory"
    before = work.targets[0].memory.usage["app"].to_bytes()
    placed = pod(containers=(APP,), memory_kills=(kill,))
    sizing.hear(work.targets[0].memory, (), (placed,), now=NOW)
    assert work.targets[0].memory.usage["app"].to_bytes() == before
    anew = ObjectMemory()
    unpack(pack(work.memory), anew, version=VERSION)
    kept = anew.target("vllm").usage["app"].to_bytes()
    sizing.hear(anew.target("vllm"), (), (placed,), now=NOW)
    assert anew.target("vllm").usage["app"].to_bytes() == kept


def test_a_kill_without_a_limit_is_the_nodes():
    second = answers(made(kills=[MemoryKill("app", UnixTime(NOW - 3600.0), NONE)]))[1]
    assert isinstance(second, Proposal)
    assert second.reason == "OverRequested"


def test_a_restart_keeps_what_was_learned():
    work = made()
    before = answers(work)
    anew = ObjectMemory()
    unpack(pack(work.memory), anew, version=VERSION)
    again = made(heard=[])
    again.targets[0].memory = anew.target("vllm")
    after = answers(again)
    assert len(after) == len(before) == 2
    for old, new in zip(before, after, strict=True):
        assert isinstance(old, Proposal)
        assert isinstance(new, Proposal)
        assert read_amount(new.proposed) == pytest.approx(read_amount(old.proposed), rel=0.01)


def test_what_stands_is_proposed_again_with_its_id():
    work = made()
    first = [one for one in answers(work) if isinstance(one, Proposal)]
    told = recommendations_of([("uid", one) for one in first], (), object_uid="u", texts={}, now=NOW)
    status = {"recommendations": [one.to_wire() for one in told]}
    later = made(heard=samples(cores=0.505), status=status)
    second = [one for one in answers(later) if isinstance(one, Proposal)]
    assert second[0].proposed == first[0].proposed
    old = later.obj.status.recommendations
    kept = recommendations_of([("uid", one) for one in second], old, object_uid="u", texts={}, now=UnixTime(NOW + 60.0))
    assert {one.id for one in kept} == {one.id for one in told}


def test_variants_say_whose_container_it_is():
    other = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "b"}
    variants = [{"name": "a", "targetRef": {**other, "name": "a"}}, {"name": "b", "targetRef": other}]
    first, _ = answers(made(spec={"variants": variants}))
    assert isinstance(first, Proposal)
    assert first.subject == "a/app"


def test_a_clock_that_was_set_back_begins_anew():
    memory = TargetMemory()
    sizing.hear(memory, samples(), (), now=NOW)
    back = UnixTime(NOW - 30 * DAY)
    sizing.hear(memory, [UsageSample("app", back, 0.5, GIB, starting=False)], (), now=back)
    assert memory.usage["app"].last == back


def test_pods_may_overtake_each_other_a_little():
    memory = TargetMemory()
    times = (NOW, NOW - 30.0, NOW - 600.0)
    for time in times:
        sizing.hear(memory, [UsageSample("app", UnixTime(time), 0.5, GIB, starting=False)], (), now=NOW)
    assert memory.usage["app"].samples == 2


def test_what_is_remembered_is_bounded_and_forgotten():
    memory = TargetMemory()
    many = [UsageSample(f"c{number}", NOW, 0.5, GIB, starting=False) for number in range(100)]
    sizing.hear(memory, many, (), now=NOW)
    assert len(memory.usage) == sizing.MOST_CONTAINERS
    sizing.hear(memory, (), (), now=UnixTime(NOW + 15 * DAY))
    assert memory.usage == {}


def test_a_clock_that_leaps_ahead_forgets_nobody_who_is_there():
    work = made()
    leap = UnixTime(NOW + 400 * DAY)
    facts_now = work.targets[0].facts
    assert facts_now is not None
    sizing.hear(work.targets[0].memory, (), facts_now.pods, now=leap)
    (first, _) = answers(work, now=leap)
    assert isinstance(first, Refusal), "too old to say something"
    (again, _) = answers(work)
    assert isinstance(again, Proposal)


def test_between_two_estimates_an_answer_is_not_made_again(monkeypatch):
    work = made()
    before = answers(work)
    monkeypatch.setattr(sizing.sizing_advice, "advise", lambda *_args, **_more: [])
    assert answers(work, now=NOW + 60.0) == before
    work.prices = PriceList(cpu_core_hour=9.0)
    assert answers(work, now=NOW + 60.0) == [], "another price is another answer"


def test_sizes_are_findings_for_the_metrics():
    work = made()
    found = sizing.findings([*answers(work), Refusal(RecommendationType.RESOURCES, "SmallChange", "x")])
    assert [(one.type, one.reason, one.subject) for one in found] == [
        (FindingType.OVER_REQUESTED, "OverRequested", "app"),
        (FindingType.OVER_REQUESTED, "OverRequested", "app"),
    ]


def test_estimates_are_kept_for_a_while_and_all_targets_sized_in_one_call(monkeypatch):
    calls = []

    def counting(histories, *, now):
        calls.append(len(histories))
        return real(histories, now=now)

    real = sizing.right_sizing.estimate
    monkeypatch.setattr(sizing.right_sizing, "estimate", counting)
    works = [made(), made()]
    for at in (NOW, NOW + 60.0, NOW + sizing.KEPT_FOR):
        sizing.estimate(works, now=UnixTime(at))
    assert calls == [2, 2]


def test_one_target_that_cannot_be_sized_does_not_stop_the_others():
    good, bad = made(), made()
    bad.targets[0].memory.usage["app"] = object()  # type: ignore[assignment]  # what no code path makes
    sizing.estimate([bad, good], now=NOW)
    assert set(good.targets[0].memory.sizes) == {"app"}
    assert bad.problem is not None


def test_who_does_not_want_to_be_sized_costs_nothing():
    work = made(spec={"rightSizing": {"enabled": False}})
    sizing.estimate([work], now=NOW)
    assert work.targets[0].memory.sizes == {}


def test_the_newest_pod_speaks_for_the_template():
    smaller = replace(APP, cpu_request_cores=0.55)
    work = made()
    old, new = pod(containers=(APP,)), pod("vllm-2", containers=(smaller,), created=UnixTime(NOW))
    work.targets[0].facts = facts(pods=(new, old))
    first = answers(work)[0]
    current = first.current if isinstance(first, Proposal) else first.message
    assert "550m" in current


def test_a_history_that_is_empty_says_why():
    work = made(heard=[])
    work.targets[0].memory.usage["app"] = UsageHistory()
    first, _ = answers(work)
    assert isinstance(first, Refusal)


def test_no_cpu_is_taken_from_a_container_that_its_limit_holds_back():
    held = Found(0.4, "container app of pod p on node n1")
    work = made(throttled={"app": held}, busiest_source="agent")
    first, second = answers(work)
    assert isinstance(first, Refusal)
    assert first.reason == "CPUThrottled"
    assert "40%" in first.message
    assert "node n1" in first.message
    assert isinstance(second, Proposal)  # its memory is another matter
    assert {fact.source for fact in second.evidence if fact.signal == "container_memory_daily_peak"} == {"agent"}
    work.targets[0].throttled = {"app": Found(0.01)}
    assert isinstance(answers(work)[0], Proposal)


PLACE = "container app of pod p on node n1"


def pressed(work, share, *, now=NOW):
    work.targets[0].pressed = {"app": Found(share, PLACE)}
    sizing.note_pressure(work.targets[0], now=UnixTime(now))
    return answers(work)[1]


def test_no_memory_is_taken_from_a_container_that_waited_for_it_within_a_day():
    work = made()
    assert isinstance(pressed(work, Unknown(UnknownReason.TOO_FEW_SAMPLES)), Proposal)
    assert isinstance(pressed(work, 0.001), Proposal), "with memory to spare there may be a moment"
    held = pressed(work, 0.12)
    assert isinstance(held, Refusal)
    assert (held.reason, "12%" in held.message, PLACE in held.message) == ("MemoryPressure", True, True)
    assert isinstance(answers(work)[0], Proposal), "its CPU is another matter"
    # The peak of the day is over, and says nothing of tomorrow's.
    assert pressed(work, 0.0, now=NOW + 23 * 3600.0) == held
    assert isinstance(pressed(work, 0.0, now=NOW + DAY), Proposal)


def test_a_new_leader_knows_who_waited_for_memory():
    work = made()
    held = pressed(work, 0.12)
    anew = made()
    anew.memory = ObjectMemory()
    unpack(pack(work.memory), anew.memory, version=VERSION)
    anew.targets[0].memory = anew.memory.target("vllm")
    assert pressed(anew, 0.0, now=NOW + 60.0) == held


def test_more_memory_for_a_container_that_waited_for_it_is_evidence_that_names_it():
    tight = replace(APP, memory_request_bytes=1 * GIB, memory_limit_bytes=2.2 * GIB)
    work = made(tight)
    raised = pressed(work, 0.12)
    assert isinstance(raised, Proposal)
    (fact,) = [one for one in raised.evidence if one.signal == "memory_pressure"]
    assert (fact.value, fact.place, fact.source) == (0.12, PLACE, "agent")


def test_who_waits_for_memory_is_remembered_within_bounds():
    work = made()
    target = work.targets[0]
    target.pressed = {f"c{number}": Found(0.5, PLACE) for number in range(99)}
    sizing.note_pressure(target, now=NOW)
    assert len(target.memory.pressed) == 32


def test_containers_of_variants_are_held_back_as_any_other():
    variants = [{"name": name, "targetRef": DEPLOYMENT | {"name": name}} for name in ("spot", "vllm")]
    work = made(spec={"variants": variants})
    target = work.targets[0]
    target.throttled = {"app": Found(0.4, PLACE)}
    target.pressed = {"app": Found(0.4, PLACE)}
    sizing.note_pressure(target, now=NOW)
    assert [one.reason for one in answers(work)] == ["CPUThrottled", "MemoryPressure"]
