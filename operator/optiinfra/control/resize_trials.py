"""Whether a resize was good: judged on what the engines measured, first against pods that it has not reached.

The first pod that has its new size is watched beside the others before any other is asked: same time, same requests,
only the size differs. Where there are no others, or too little is measured of single pods, that stage is left out. Once
all pods have the size, the whole workload is judged against the time before for a verify window, as a change of the
count is. Harm gives every pod its old size back (`resize` does that), and it is not tried again before the next
rollout; what cannot be told is held as it stands. Outcomes count for the rule that asked. Nothing is changed in the
cluster here. A new leader finds the trial in the checkpoint and watches anew; where it finds none, what was begun by
another process is told to be unwatched (`lost`).
"""

from collections.abc import Sequence
from typing import Final

from optiinfra.api.v1alpha1.action_status import ActionState
from optiinfra.api.v1alpha1.status_parts import ResizeState, ResizeStatus
from optiinfra.control import resize_records
from optiinfra.control.trials import rule_name
from optiinfra.control.work import ServiceWork, TargetWork
from optiinfra.domain import verification
from optiinfra.domain.evidence import Direction, Savings
from optiinfra.domain.readings import Unknown
from optiinfra.domain.signals import summarise
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.verification import Block, Candidate, Course, Outcome, ResizeTrial, Scene, Trialled, Verdict
from optiinfra.domain.verification.control_group import LEAST_WINDOWS as IN_COMMON
from optiinfra.domain.verification.judge import LEAST_WINDOWS, SHARED
from optiinfra.domain.verification.trail import block_of

MOST_WINDOWS: Final = 4
"""Windows that are cut out of pods' pages at a time."""
FIRST_PATIENCE: Final = LEAST_WINDOWS + 3
"""Windows for which the first pod is watched at the longest."""
UNREADY_FOR: Final = Seconds(60.0)
"""How long a pod may be without readiness after it got its new size; it was ready when it was asked."""
_WATCHED: Final = (ResizeState.RESIZING, ResizeState.WAITING, ResizeState.RESIZED)


def begin(
    service: ServiceWork, target: TargetWork, *, identifier: str, reason: str, first: str, now: UnixTime
) -> ResizeTrial:
    """Say what is expected of a resize, and keep what was measured before. `first` is the pod asked first."""
    facts, memory = target.facts, target.memory
    assert facts is not None
    others = tuple(sorted(name for name in facts.pages if name != first))
    before_first = blocks(target, (first,), until=now)
    before = memory.trail.before(now, replicas=facts.ready_replicas)
    whole, single = (
        verification.expect(
            known,
            from_replicas=count,
            to_replicas=count,
            objectives=service.settings.objectives,
            growth=1.0,
            ready_within=Seconds(0.0),
            ready_basis="pods keep running while they are resized",
            verify_window=Seconds(service.settings.policy.verify_window),
            savings=Savings(),
        )
        for known, count in ((before, facts.ready_replicas), (before_first, 1))
    )
    memory.resize_trial = ResizeTrial(
        id=identifier,
        rule=rule_name(Direction.RESIZE, reason),
        begun=Scene.of(facts.pods, replicas=facts.desired_replicas),
        expectation=whole,
        before=before,
        first=first,
        first_expectation=single,
        first_before=before_first,
        others=others,
        others_before=blocks(target, others, until=now),
    )
    memory.trial_changed_at = now
    return memory.resize_trial


def of(target: TargetWork, identifier: str) -> ResizeTrial | None:
    """Return the trial of a record; None where it is not watched."""
    trial = target.memory.resize_trial
    return trial if trial is not None and trial.id == identifier else None


def settle(service: ServiceWork, target: TargetWork) -> None:
    """Forget a trial that a checkpoint still had although its action was judged, or its record is gone."""
    trial = target.memory.resize_trial
    if trial is None:
        return
    stands = any(one.id == trial.id and one.state in _WATCHED for one in service.resizes)
    action = resize_records.action_of(service, trial.id)
    if not stands or (action is not None and action.outcome is not None):
        target.memory.resize_trial = None


def unjudged(service: ServiceWork, record: ResizeStatus) -> bool:
    """Tell whether a resize was done, and what came of it was never said."""
    action = resize_records.action_of(service, record.id)
    return action is not None and action.state is ActionState.APPLIED and action.outcome is None


def lost(service: ServiceWork, target: TargetWork, record: ResizeStatus) -> Verdict | None:
    """Return what is to be said of a resize that nobody watches any more; None where it is watched, or was judged."""
    if of(target, record.id) is not None or not unjudged(service, record):
        return None
    text = "the leader that watched it is gone, and its checkpoint does not have what was measured before"
    return Verdict(Outcome.UNKNOWN, "LeaderChanged", text)


def leave(service: ServiceWork, target: TargetWork, record: ResizeStatus, verdict: Verdict, *, now: UnixTime) -> None:
    """End what cannot be judged, watched or not: it counts as unclear for the rule that asked."""
    trial, action = of(target, record.id), resize_records.action_of(service, record.id)
    if trial is not None:
        end(target, trial, verdict, now=now)
    elif action is not None:
        rule = rule_name(Direction.RESIZE, action.reason)
        target.memory.record.unclear(rule, falls=False, stood_at=0, rest=Seconds(0.0), why=verdict.message, at=now)


def unready(target: TargetWork, record: ResizeStatus, message: str, *, now: UnixTime) -> Verdict:
    """Return the verdict on a size with which a pod is not ready any more, and end the trial where there is one."""
    verdict = Verdict(Outcome.REGRESSED, "NotReady", message, roll_back=True)
    trial = of(target, record.id)
    if trial is not None:
        end(target, trial, verdict, now=now)
    return verdict


def judge_first(target: TargetWork, trial: ResizeTrial, *, now: UnixTime) -> Verdict | None:
    """Judge the first pod beside those that have their old size; None where nobody waits for that (any more)."""
    if trial.first_judged or min(len(trial.first_before), len(trial.others_before)) < IN_COMMON:
        return None
    if trial.first_at is None:
        trial.first_at = now
    after = blocks(target, (trial.first,), until=now, since=trial.first_at)
    many = len(trial.others)
    name = "1 pod that was not touched" if many == 1 else f"{many} pods that were not touched"
    control = Candidate(name, trial.others_before, blocks(target, trial.others, until=now, since=trial.first_at))
    longest = min(trial.expectation.verify_window, FIRST_PATIENCE * span_of(target))
    over = len(after) >= LEAST_WINDOWS or now - trial.first_at >= longest
    if over and not after and len(control.after) >= IN_COMMON:
        # What it lacks may be just what it needs to answer; the others answer, so nothing else is to blame.
        text = f"pod {trial.first} is not heard any more since it has the size, and the others are"
        verdict = Verdict(Outcome.REGRESSED, "PodSilent", text, roll_back=True, control=name)
    else:
        verdict = verification.judge(
            Trialled(
                direction=Direction.RESIZE,
                expectation=trial.first_expectation,
                before=trial.first_before,
                after=after,
                settled=True,
                over=over,
                candidates=(control,),
            )
        )
    trial.first_judged = verdict.outcome is not Outcome.TOO_EARLY
    if trial.first_judged:
        target.memory.trial_changed_at = now
    if verdict.reason == SHARED:
        trial.before = ()  # something else changed everything: the time before is no measure any more
    return verdict


def judge_whole(target: TargetWork, trial: ResizeTrial, *, now: UnixTime) -> Verdict:
    """Judge the workload once all its pods have the size."""
    facts = target.facts
    assert facts is not None
    if trial.done_at is None:
        trial.done_at = now
    scene, replicas = Scene.of(facts.pods, replicas=facts.desired_replicas), trial.begun.replicas
    course = Course(begun=trial.begun, from_replicas=replicas, to_replicas=replicas, settled=trial.begun)
    return verification.judge(
        Trialled(
            direction=Direction.RESIZE,
            expectation=trial.expectation,
            before=trial.before,
            after=target.memory.trail.after(trial.done_at),
            settled=True,
            over=now - trial.done_at >= trial.expectation.verify_window,
            disturbance=verification.disturbance(course, scene),
        )
    )


def end(target: TargetWork, trial: ResizeTrial, verdict: Verdict, *, now: UnixTime) -> None:
    """Count the outcome for the rule that asked, and end the trial."""
    record = target.memory.record
    if verdict.outcome is Outcome.VERIFIED:
        record.good(trial.rule, falls=False, at=now)
    elif verdict.outcome is Outcome.REGRESSED:
        record.bad(trial.rule, falls=False, rest=Seconds(0.0), why=verdict.message, at=now)
    else:
        record.unclear(trial.rule, falls=False, stood_at=0, rest=Seconds(0.0), why=verdict.message, at=now)
    target.memory.resize_trial, target.memory.trial_changed_at = None, now


def span_of(target: TargetWork) -> Seconds:
    """Return the length of one window: of that which the round's signals are of."""
    return target.signals.window if target.signals is not None else Seconds(0.0)


def blocks(
    target: TargetWork, names: Sequence[str], *, until: UnixTime, since: UnixTime | None = None
) -> tuple[Block, ...]:
    """Cut windows that do not overlap out of some pods' pages, oldest first; only those in which all were heard."""
    window, facts = span_of(target), target.facts
    pages = {name: facts.pages[name] for name in names if name in facts.pages} if facts is not None else {}
    if window <= 0.0 or not pages or len(pages) < len(names):
        return ()
    found: list[Block] = []
    for back in range(MOST_WINDOWS):
        end_of_window = UnixTime(until - back * window)
        if since is not None and end_of_window - window < since:
            break
        signals = summarise(pages, now=end_of_window, window=window, stale_after=window, replicas_expected=len(pages))
        heard = signals.replicas_reporting == len(pages) and signals.window > 0.0
        if heard and not isinstance(signals.arrival_rate, Unknown):
            found.append(block_of(signals, replicas=len(pages)))
    return tuple(reversed(found))
