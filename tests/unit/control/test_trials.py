"""The life of an action: what it expects, how it is judged, undone, counted, and told."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from optiinfra import metrics
from optiinfra.api.conditions import ConditionStatus
from optiinfra.api.reasons import Reason
from optiinfra.api.v1alpha1.action_status import ActionState, Judgement
from optiinfra.cluster.events import EventOutcome
from optiinfra.control import track
from optiinfra.control.checkpoint import VERSION, pack, unpack
from optiinfra.control.execute import _note
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory
from optiinfra.control.monitor import monitor
from optiinfra.control.report import InsightState, merge_actions
from optiinfra.control.steps import Steps
from optiinfra.control.trials import show_known
from optiinfra.control.work import Work
from optiinfra.domain.evidence import Direction
from optiinfra.domain.policy import Clamped
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import Ratio, UnixTime
from optiinfra.domain.verification import TrackRecord
from optiinfra.domain.workload import NodeFacts
from tests.unit.control.examples import NOW, decision, facts, pod, proposal, ro, service, signals

MINUTE = 60.0
NO_PAGE = Unknown(UnknownReason.NOT_MEASURED, "no page")
POLICY = {"verifyWindow": "5m", "cooldown": "1m"}
OTHER = {"template": "new"}


@dataclass
class Writer:
    """Takes orders down instead of carrying them out."""

    orders: list[int | None] = field(default_factory=list)

    async def carry_out(self, _service: Any, target: Any) -> None:
        self.orders.append(target.order)


@dataclass
class Play:
    """Rounds of one object, a minute apart, whose memory and status go on."""

    spec: dict[str, Any] = field(default_factory=lambda: {"mode": "Auto", "policy": POLICY})
    memory: ObjectMemory = field(default_factory=ObjectMemory)
    writer: Writer = field(default_factory=Writer)
    at: float = NOW
    actions: tuple[Any, ...] = ()
    nodes: dict[str, NodeFacts] = field(default_factory=dict)

    async def round(
        self, replicas: int, order: int | None = None, *, so: dict[str, Any] | None = None, **seen: Any
    ) -> Any:
        """One round in which so many replicas run and so many are ordered."""
        self.at += MINUTE
        now = UnixTime(self.at)
        order = replicas if order is None else order
        status = {"actions": [action.to_wire() for action in self.actions]}
        work = service(ro(status=status, **self.spec), order=order, decision=decision(order, current=replicas))
        target = work.targets[0]
        work.memory, target.memory = self.memory, self.memory.target(target.target.name)
        target.facts = facts(replicas, **(so or {}))
        heard = {"replicas_expected": replicas, "replicas_reporting": replicas, "arrival_rate": 10.0} | seen
        target.signals = signals(time=now, **heard)
        target.clamped = Clamped(order)
        batch = Work("round", now, (), nodes=self.nodes, services=[work])
        track.adopt(batch)
        track.hold(batch)
        await self.writer.carry_out(work, target)
        _note(work, target, now=now)
        await monitor(batch, self.writer)  # type: ignore[arg-type]  # the writer stands in for the actuator
        self.actions = merge_actions(self.actions, list(self.memory.untold.values()))
        self.memory.untold.clear()
        return work

    async def calm(self, replicas: int, *, minutes: int, **seen: Any) -> Any:
        work = None
        for _ in range(minutes):
            work = await self.round(replicas, **seen)
        return work

    async def fall(self) -> Any:
        """Ten calm minutes on four replicas, then three are ordered."""
        await self.calm(4, minutes=10)
        return await self.round(4, 3)

    @property
    def last(self) -> Any:
        return self.actions[-1]

    @property
    def target(self) -> Any:
        return self.memory.target("vllm")


async def test_an_action_says_beforehand_what_it_expects_and_by_when_it_is_judged():
    play = Play()
    await play.fall()
    action = play.last
    assert (action.state, action.from_, action.to, action.outcome) == (ActionState.APPLIED, "4", "3", None)
    expected = {one.signal: one for one in action.expected}
    assert expected["replicas_ready"].expected.value == 3
    assert expected["time_to_first_token_p95"].before.value == 0.5
    assert expected["time_to_first_token_p95"].upper.value == 2.0
    assert expected["load_per_replica"].before.value == 2.5
    assert expected["load_per_replica"].expected.value == pytest.approx(3.333)
    assert expected["gpus_freed"].expected.value == 1.0
    assert action.verify_until.unix == action.started_at.unix + 90 + 300


async def test_a_rise_is_expected_within_the_start_up_time():
    play = Play()
    await play.calm(4, minutes=3)
    await play.round(4, 6)
    within = next(one for one in play.last.expected if one.signal == "seconds_until_ready")
    assert within.upper.value == 180.0 + 90.0
    assert "careful value" in within.basis
    await play.round(6, so={"ready_replicas": 4})
    await play.calm(6, minutes=4)
    assert play.last.outcome.verdict is Judgement.VERIFIED


async def test_a_good_fall_is_verified_and_earns_trust():
    play = Play()
    await play.fall()
    await play.calm(3, minutes=7)
    action = play.last
    assert (action.state, action.outcome.verdict) == (ActionState.VERIFIED, Judgement.VERIFIED)
    assert action.outcome.control.startswith("none: a change of the count")
    assert {one.signal for one in action.outcome.compared} >= {"time_to_first_token_p95", "requests_waiting"}
    assert play.target.record.of("ScaleDown/Learned").trust > 1.0
    assert play.target.policy.in_flight == ""


async def test_harm_is_undone_with_a_rest_that_grows_and_a_recommendation_that_says_so():
    play, rests = Play(), []
    for _ in range(3):
        await play.fall()
        for _ in range(8):
            await play.round(3, time_to_first_token_p95=8.0)
            if play.last.outcome is not None:
                break
        action = play.last
        assert (action.state, action.outcome.verdict) == (ActionState.ROLLED_BACK, Judgement.REGRESSED)
        assert play.writer.orders[-1] == 4
        rests.append(action.outcome.rests_until.unix - action.at.unix)
        held = await play.round(4, 3)
        assert held.targets[0].order == 4, "nothing is taken away while it rests"
        assert "did harm" in held.targets[0].harmed
        assert "rests" in held.targets[0].clamped.reasons[0].message
        marked = track.marked(held.targets[0], proposal("4", "3"), now=UnixTime(play.at))
        assert marked.past.regressed >= 1
        assert marked.past.rests_until is not None
        assert action.id in marked.risk
        assert marked.confidence < 0.9
        play.at = action.outcome.rests_until.unix
    assert rests == [300.0, 600.0, 1200.0]


async def test_a_rollback_stands_until_the_workload_has_followed_it():
    play = Play()
    await play.fall()
    while play.last.outcome is None:
        await play.round(3, time_to_first_token_p95=8.0)
    for _ in range(3):
        again = await play.round(3, time_to_first_token_p95=8.0)
        assert again.targets[0].order == 4
    await play.round(4)
    assert play.target.rollback is None
    assert play.last.state is ActionState.ROLLED_BACK, "giving back is no action of its own"


async def test_the_last_verified_count_comes_back_not_the_one_before():
    play = Play()
    await play.fall()
    await play.calm(3, minutes=7, arrival_rate=2.0)
    assert play.last.outcome.reason == "LoadFell"
    assert play.target.record.safe == 4
    play.at += 600.0
    await play.calm(3, minutes=6)
    await play.round(3, 2)
    while play.last.outcome is None:
        await play.round(2, time_to_first_token_p95=9.0)
    assert (play.last.state, play.writer.orders[-1]) == (ActionState.ROLLED_BACK, 4)


async def test_without_rollback_harm_is_said_and_left():
    play = Play({"mode": "Auto", "policy": {**POLICY, "rollback": False}})
    await play.fall()
    while play.last.outcome is None:
        await play.round(3, time_to_first_token_p95=8.0)
    assert (play.last.state, play.last.outcome.verdict) == (ActionState.APPLIED, Judgement.REGRESSED)
    assert "not undone" in play.last.message
    assert 4 not in play.writer.orders[-2:]


REVISION = {"pod-template-hash": "new"}


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"arrival_rate": 30.0}, "LoadRose"),
        ({"so": {"pods": tuple(pod(f"vllm-{n}", labels=REVISION) for n in range(3))}}, "Rollout"),
        ({"so": {"desired_replicas": 7}}, "ReplicasMoved"),
        ({"so": {"pods": tuple(pod(f"vllm-{n}", node="n2") for n in range(3))}, "lost": "n1"}, "NodesLost"),
    ],
)
async def test_harm_that_something_else_explains_is_unknown_and_holds(how, reason):
    play = Play()
    play.nodes = {name: node(name) for name in ("n1", "n2")}
    old = {"pods": tuple(pod(f"vllm-{n}", labels={"pod-template-hash": "old"}) for n in range(4))}
    for _ in range(10):
        await play.round(4, so=old)
    await play.round(4, 3, so=old)
    await play.round(3, so={"pods": old["pods"][:3]})
    if "lost" in how:
        play.nodes[how.pop("lost")] = node("n1", ready=False)
    for _ in range(8):
        await play.round(3, **(how | {"time_to_first_token_p95": 8.0}))
        if play.last.outcome is not None:
            break
    action = play.last
    assert (action.state, action.outcome.verdict, action.outcome.reason) == (
        ActionState.APPLIED,
        Judgement.UNKNOWN,
        reason,
    )
    assert play.target.record.of("ScaleDown/Learned").trust == 1.0
    held = await play.round(3, 2)
    assert held.targets[0].order == 3, "what cannot be judged is held, never a reason to shrink"


def node(name: str, *, ready: bool = True) -> NodeFacts:
    return NodeFacts(name, "", "", 8.0, 64.0, 1e12, ready=ready, unschedulable=False)


async def test_a_rise_in_the_window_ends_the_trial_of_a_fall():
    play = Play()
    await play.fall()
    await play.round(3)
    await play.round(3, 5)
    fall, rise = play.actions
    assert (fall.outcome.verdict, fall.outcome.reason) == (Judgement.UNKNOWN, "Superseded")
    assert (rise.to, rise.outcome) == ("5", None)


async def test_what_is_never_followed_is_unknown():
    play = Play()
    await play.fall()
    for _ in range(8):
        await play.round(4, 3)
    assert play.last.outcome.reason == "NotReached"
    assert "4 are asked for" in play.last.outcome.message


async def test_a_new_leader_counts_what_was_judged_and_cannot_judge_what_was_not():
    play = Play()
    await play.fall()
    while play.last.outcome is None:
        await play.round(3, time_to_first_token_p95=8.0)
    judged = play.last
    heir = Play(actions=play.actions, at=play.at)
    held = await heir.round(4, 3)
    assert held.targets[0].order == 4
    assert heir.target.record.rests_until == judged.outcome.rests_until.unix
    assert heir.target.record.of("ScaleDown/Learned").bad == 1.0
    play = Play()
    await play.fall()
    heir = Play(actions=play.actions, at=play.at)
    await heir.round(3)
    assert (heir.last.outcome.verdict, heir.last.outcome.reason) == (Judgement.UNKNOWN, "LeaderChanged")
    assert (await heir.round(3, 2)).targets[0].order == 3


def inherited(play, *, after=lambda state: state):
    """The next leader: with what the checkpoint and the status hold, and nothing else."""
    memory = ObjectMemory()
    unpack(after(pack(play.memory)), memory, version=VERSION)
    return Play(memory=memory, actions=play.actions, at=play.at)


async def test_a_new_leader_judges_on_what_its_checkpoint_has():
    for late, verdict in ((8.0, Judgement.REGRESSED), (0.5, Judgement.VERIFIED)):
        play = Play()
        await play.fall()
        await play.round(3, time_to_first_token_p95=late)
        heir = inherited(play)
        assert heir.target.kept_trial.id == play.last.id
        for _ in range(20):
            await heir.round(3, time_to_first_token_p95=late)
            if heir.last.outcome is not None:
                break
        assert heir.last.id == play.last.id
        assert heir.last.outcome.verdict is verdict
        assert heir.last.expected == play.last.expected, "what was expected is what was said beforehand"
        assert (4 in heir.writer.orders) is (verdict is Judgement.REGRESSED), "harm is undone by whoever leads"
        assert heir.target.trial is heir.target.kept_trial is None


async def test_a_new_leader_holds_the_next_fall_while_it_watches_the_last_one():
    play = Play()
    await play.fall()
    heir = inherited(play)
    await heir.round(3)
    assert heir.target.policy.in_flight == play.last.id
    assert heir.last.outcome is None


async def test_a_checkpoint_of_another_action_is_no_help():
    play = Play()
    await play.fall()
    older = play.memory.target("vllm").trial
    older.action = older.action.model_copy(update={"id": "another"})
    heir = inherited(play)
    await heir.round(3)
    assert (heir.last.outcome.verdict, heir.last.outcome.reason) == (Judgement.UNKNOWN, "LeaderChanged")
    assert heir.target.trial is heir.target.kept_trial is None


async def test_what_was_judged_after_the_checkpoint_is_not_judged_again():
    play = Play()
    await play.fall()
    kept = pack(play.memory)
    while play.last.outcome is None:
        await play.round(3, time_to_first_token_p95=0.5)
    heir = inherited(play, after=lambda _: kept)
    for _ in range(3):
        await heir.round(3)
    assert heir.target.trial is heir.target.kept_trial is None
    assert heir.last.outcome.at == play.last.outcome.at


async def test_rests_and_trust_outlive_a_restart_in_the_checkpoint():
    play = Play()
    await play.fall()
    while play.last.outcome is None:
        await play.round(3, time_to_first_token_p95=8.0)
    fresh = ObjectMemory()
    unpack(pack(play.memory), fresh, version=VERSION)
    assert fresh.target("vllm").record == play.target.record
    heir = Play(memory=fresh, actions=play.actions, at=play.at)
    await heir.round(4)
    assert heir.target.record.of("ScaleDown/Learned").bad == 1.0, "what the checkpoint counted is not counted again"


async def test_one_id_in_the_status_the_metric_and_the_log(caplog):
    play = Play()
    metrics.LAST_ACTION.clear()
    with caplog.at_level("INFO"):
        await play.fall()
        await play.calm(3, minutes=7)
    logged = {record.action for record in caplog.records if hasattr(record, "action")}
    assert logged == {play.last.id}
    series = [sample.labels for sample in metrics.LAST_ACTION.collect()[0].samples if sample.labels["target"] == "vllm"]
    assert [(one["action"], one["outcome"]) for one in series] == [(play.last.id, "verified")]
    show_known({ObjectKey("ResourceOptimization", "inference", "svc"): play.memory})
    assert len(metrics.LAST_ACTION.collect()[0].samples) == 1
    show_known({})
    assert not metrics.LAST_ACTION.collect()[0].samples


def test_old_actions_keep_their_words_and_lose_their_numbers():
    import asyncio

    play = Play()
    asyncio.run(play.fall())
    many = tuple(play.last.model_copy(update={"id": f"a{number}"}) for number in range(40))
    kept = merge_actions(many, [])
    assert len(kept) == 32
    assert [bool(action.expected) for action in kept] == [False] * 24 + [True] * 8
    assert all(action.message for action in kept)


class Quiet:
    """Plays savings, insights, reporter and events; the first status is not written."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.notes: list[str] = []
        self.fails = True

    async def observe(self, _work: Any) -> None: ...

    def shown(self, *_: Any) -> None: ...

    def consider(self, *_: Any) -> None: ...

    def state(self, *_: Any) -> InsightState:
        return InsightState(ConditionStatus.FALSE, Reason.NOT_CONFIGURED)

    def get(self, *_: Any) -> None: ...

    async def report(self, _key: Any, _obj: Any, status: Any, **_: Any) -> bool:
        self.written.append(status)
        self.fails, failed = False, self.fails
        return not failed

    async def record(self, _about: Any, **event: Any) -> EventOutcome:
        self.notes.append(f"{event['reason']} {event['note']}")
        return EventOutcome.WRITTEN

    @property
    def board(self) -> "Quiet":
        return self


async def test_an_action_whose_status_was_not_written_is_told_with_the_next_one():
    play, quiet = Play(), Quiet()
    work = await play.fall()
    action = play.last
    steps = Steps.__new__(Steps)
    for part in ("savings", "reporter", "events", "insights", "actuator"):
        setattr(steps, part, quiet)
    play.memory.untold[action.id] = action
    await steps.report(Work("r1", UnixTime(play.at), (), services=[work]))
    assert quiet.notes == []
    assert list(play.memory.untold) == [action.id]
    work.actions = []
    await steps.report(Work("r2", UnixTime(play.at), (), services=[work]))
    assert not play.memory.untold
    assert [one.id for one in quiet.written[-1].actions] == [action.id]
    (note,) = [one for one in quiet.notes if one.startswith("ActionApplied")]
    assert note.startswith(f"ActionApplied {action.id}: vllm from 4 to 3: Signal: ")
    assert "time_to_first_token_p95 at most 2 s" in note


@pytest.mark.parametrize("trials", [0, 1, 5, 100])
def test_trust_is_bounded_and_moves_the_right_way(trials):
    record = Play().target.record
    for number in range(trials):
        record.good("ScaleDown/Learned", falls=True, at=UnixTime(NOW + number))
    good = record.of("ScaleDown/Learned")
    assert 1.0 <= good.trust <= 1.25
    assert good.good <= 30.0
    assert record.confidence("ScaleDown/Learned", Ratio(0.9)) <= 1.0
    for number in range(trials):
        record.bad("ScaleDown/Learned", falls=True, rest=300.0, why="harm", at=UnixTime(NOW + number))
    assert record.of("ScaleDown/Learned").trust <= good.trust
    assert record.resting(now=UnixTime(NOW)) <= 24 * 3600.0
    assert record.row <= 16


def test_only_a_fall_makes_rest():
    record = Play().target.record
    assert record.bad("ScaleUp/QueueDrain", falls=False, rest=300.0, why="late", at=NOW) == 0.0
    assert record.resting(now=NOW) == 0.0
    assert replace(proposal(), direction=Direction.SCALE_UP).past is None


async def test_a_last_replica_that_nobody_missed_is_verified():
    play = Play()
    await play.calm(1, minutes=3)
    await play.round(1, 0)
    for _ in range(12):
        await play.round(0)
    assert (play.last.to, play.last.state, play.last.outcome.reason) == ("0", "Verified", "NotMissed")
    assert play.target.record.woken == 0
    assert not play.target.record.resting(now=UnixTime(play.at))


async def test_a_last_replica_that_was_needed_again_makes_the_next_zero_wait_and_nothing_rest():
    play = Play()
    for times in (1, 2):
        await play.round(1, 0)
        await play.round(0)
        await play.round(1)
        assert (play.last.outcome.verdict, play.last.outcome.reason) == (Judgement.REGRESSED, "NeededAgain")
        assert f"{2**times} times as long" in play.last.message
        assert play.target.record.woken == times
    assert not play.target.record.resting(now=UnixTime(play.at)), "falls from many replicas go on"
    # A new leader counts it from the status, and a checkpoint keeps it.
    fresh = Play(actions=play.actions)
    await fresh.round(1)
    assert fresh.target.record.woken == 2
    assert TrackRecord.from_dict(json.loads(json.dumps(play.target.record.to_dict()))).woken == 2
    old = {name: value for name, value in play.target.record.to_dict().items() if name != "woken"}
    assert TrackRecord.from_dict(old).woken == 0
