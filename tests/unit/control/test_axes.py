"""One axis at a time: what changed last, by us or by others, and that it survives a restart."""

from dataclasses import replace

import pytest

from optiinfra.api.v1alpha1.action_status import ActionStatus
from optiinfra.control import axes
from optiinfra.control.checkpoint import VERSION, pack, unpack
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.plan import plan
from optiinfra.control.work import ServiceWork, Work
from optiinfra.domain.policy import Axis, PolicyState
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import ContainerFacts
from tests.unit.control.examples import NOW, decision, facts, pod, ro, service, signals, time_text

CONTAINER = ContainerFacts(
    name="engine",
    cpu_request_cores=4.0,
    cpu_limit_cores=Unknown(UnknownReason.NOT_CONFIGURED),
    memory_request_bytes=8e9,
    memory_limit_bytes=8e9,
    gpus=1.0,
    arguments=("serve", "--max-num-seqs=64"),
    image="vllm:1",
)


def running(*containers: ContainerFacts, desired: int = 2) -> ServiceWork:
    work = service(ro(mode="Auto"), decision=decision(desired))
    seen(work, *containers)
    return work


def seen(work: ServiceWork, *containers: ContainerFacts) -> None:
    """The newest pod has the last container, each older one that before it."""
    pods = tuple(
        pod(f"vllm-{number}", containers=(one,), created=UnixTime(NOW - 1000 + number))
        for number, one in enumerate(containers)
    )
    work.targets[0].facts = replace(facts(4), pods=pods)


def planned(work: ServiceWork, *, at: float = NOW) -> tuple[int | None, list[str]]:
    batch = Work(round_id="r", at=UnixTime(at), keys=(work.key,), services=[work])
    plan(batch, actuation_enabled=True, stop=None)
    return work.targets[0].order, [str(reason.limit) for reason in work.targets[0].clamped.reasons]


def test_what_was_never_seen_before_is_no_change():
    assert planned(running(CONTAINER)) == (2, [])


@pytest.mark.parametrize(
    "changed",
    [
        replace(CONTAINER, arguments=("serve", "--max-num-seqs=128")),
        replace(CONTAINER, image="vllm:2"),
        replace(CONTAINER, environment={"VLLM_USE_V1": "1"}),
        replace(CONTAINER, cpu_request_cores=8.0),
        replace(CONTAINER, memory_request_bytes=16e9),
    ],
)
def test_after_anybodys_change_of_settings_or_requests_a_fall_waits_and_a_rise_does_not(changed):
    work = running(CONTAINER)
    axes.observe(work, work.targets[0], now=UnixTime(NOW - 60))
    seen(work, CONTAINER, changed)
    assert planned(work) == (4, ["OtherAxis"])
    work.targets[0].decision = decision(6)
    assert planned(work) == (6, [])
    work.targets[0].decision = decision(2)
    assert planned(work, at=NOW + 299.0) == (4, ["OtherAxis"])
    assert planned(work, at=NOW + 300.0) == (2, [])


def test_an_old_pod_beside_new_ones_and_one_that_goes_away_are_no_change():
    changed = replace(CONTAINER, image="vllm:2")
    work = running(changed, CONTAINER)
    planned(work, at=NOW - 60)
    seen(work, CONTAINER)
    assert planned(work) == (2, [])


def action(state: str = "Applied", before: str = "6", after: str = "4", **parts) -> dict:
    body = {
        "id": "act-1",
        "recommendationId": "rec-1",
        "type": "Replicas",
        "subject": "vllm",
        "state": state,
        "from": before,
        "to": after,
        "at": time_text(NOW - 100),
    }
    return body | parts


@pytest.mark.parametrize(
    ("body", "axis"),
    [
        (action(), Axis.SCALE_DOWN),
        (action("Verified"), Axis.SCALE_DOWN),
        (action("RolledBack"), Axis.SCALE_UP),
        (action(before="4", after="6"), Axis.SCALE_UP),
        (action(type="Resources", **{"from": "4", "to": "2"}), Axis.RESIZE),
        (action("Refused"), None),
        (action("Failed"), None),
        (action(type="HPATarget"), None),
        (action(before="a", after="b"), None),
    ],
)
def test_a_new_leader_reads_back_what_the_old_one_did(body, axis):
    state = axes.recalled(PolicyState(), ActionStatus.model_validate(body))
    assert {one: state.at(one) for one in Axis if state.at(one) is not None} == (
        {} if axis is None else {axis: NOW - 100}
    )


def test_the_cooldown_survives_a_crash_by_the_status():
    work = service(ro(mode="Auto", status={"actions": [action(before="4", after="6")]}), decision=decision(2))
    assert planned(work) == (4, ["Cooldown"])
    other = service(ro(mode="Auto", status={"actions": [action(subject="other")]}), decision=decision(2))
    assert planned(other)[1] == ["Cooldown"], "the one target of an object is meant, whatever it was called"


def test_what_was_seen_of_others_survives_a_restart_by_the_checkpoint():
    memory = ObjectMemory()
    target = memory.target("vllm")
    target.history.observe(signals(running=30.0, waiting=0.0), 4)
    for axis, ago in zip(Axis, (40.0, 30.0, 20.0, 10.0), strict=True):
        target.policy = target.policy.changed(axis, at=UnixTime(NOW - ago))
    restored = ObjectMemory()
    unpack(pack(memory), restored, version=VERSION)
    known = restored.target("vllm").policy
    assert [known.at(axis) for axis in Axis] == [NOW - 40.0, NOW - 30.0, NOW - 20.0, NOW - 10.0]
    assert known.in_flight == ""
