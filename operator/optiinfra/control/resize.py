"""Requests of running pods, changed in place where `modes.resize` lets it: one pod at a time, until the next rollout.

A resize is one change of one container's resource for all pods of one revision of the template. It begins with what
the status already recommends (in Auto) or with an approved id, after policy (one axis at a time, cooldown, windows) and
a SelfSubjectAccessReview; then pod after pod is asked, each only when the one before has what it was asked for and all
are ready. A disruption budget that allows nothing holds it. What the kubelet answers is read back: `Deferred` waits,
`Infeasible` gives every pod its old size back. Where it stands is in `status.resizes`, with the patch that makes it
last, so that a new leader goes on from there. Never touched: memory of model servers, templates, QoS classes, requests
that an HPA divides by, and, by itself, containers that a resize would restart.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol
from weakref import WeakValueDictionary

from optiinfra.api.status_from import cut, to_effect
from optiinfra.api.v1alpha1.action_status import MAX_EXPECTED, ActionState, Judgement
from optiinfra.api.v1alpha1.common import Mode
from optiinfra.api.v1alpha1.status_parts import RecommendationStatus, ResizeState, ResizeStatus
from optiinfra.cluster.access import Attributes, Verdict
from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import Absent, ClusterError, Conflict, Denied, Invalid
from optiinfra.cluster.resize import INFEASIBLE, PodSize, Wish, asked, granted
from optiinfra.control import resize_trials
from optiinfra.control.keys import ObjectKey
from optiinfra.control.resize_pods import (
    SizeChange,
    change_of,
    pods_lacking,
    pods_of,
    pods_with,
    revision_label,
    revision_of,
)
from optiinfra.control.resize_records import act, new_record, offered, put, records_of, size_text, tell, written
from optiinfra.control.work import ServiceWork, TargetWork
from optiinfra.domain import policy, verification
from optiinfra.domain.evidence import RecommendationType, Refusal
from optiinfra.domain.policy import Axis
from optiinfra.domain.units import UnixTime
from optiinfra.domain.verification import Outcome, ResizeTrial
from optiinfra.domain.workload import PodFacts

_LOG = logging.getLogger(__name__)
_MOST_PODS: Final = 256
_UNDER_WAY: Final = (ResizeState.RESIZING, ResizeState.WAITING)


class Resizes(Protocol):
    """Reads and resizes pods; `optiinfra.cluster.resize` is the real one."""

    async def supported(self) -> bool:
        """Whether the server has the subresource."""

    async def read(self, key: Key) -> PodSize:
        """A pod as it stands."""

    async def resize(self, pod: PodSize, wish: Wish) -> bool:
        """Ask for a size."""


class PermissionReader(Protocol):
    """Asks what this process may do."""

    async def may_i(self, attributes: Attributes) -> Verdict:
        """SelfSubjectAccessReview."""


@dataclass(slots=True)
class Resizer:
    """Carries resizes on from round to round; all it has to remember is in the status."""

    pods: Resizes
    access: PermissionReader
    enabled: bool
    """Whether this installation may resize (chart value actuation.resize)."""
    stopped: Callable[[], bool] = lambda: False
    """Whether the kill switch is on at this very moment."""
    _serial: "WeakValueDictionary[ObjectKey, asyncio.Lock]" = field(default_factory=WeakValueDictionary)

    def wanted(self, service: ServiceWork) -> bool:
        """Tell whether there is anything to look at."""
        return service.settings.modes.resize is not Mode.RECOMMEND or bool(service.resizes)

    async def carry_out(self, service: ServiceWork, *, now: UnixTime) -> None:
        """Bring the resizes of a service one step on, and write down where they stand."""
        for target in service.targets:
            if target.facts is None or target.problem is not None or not target.facts.pods:
                continue
            try:
                await self._target(service, target, now=now)
            except ClusterError as error:
                _LOG.warning("resize not carried on", extra={"object": str(service.key), "error": str(error)})
                self._halt(service, target, "ApiError", f"tried again next round: {error}", now=now)

    async def _target(self, service: ServiceWork, target: TargetWork, *, now: UnixTime) -> None:
        revision = revision_of(target)
        resize_trials.settle(service, target)
        for record in records_of(service, target):
            if record.revision != revision and record.state is not ResizeState.ENDED:
                self._overtaken(service, target, record, now=now)
        hold = self._held_back(service, target)
        if hold is not None:
            self._halt(service, target, *hold, now=now)
            return
        current = [record for record in records_of(service, target) if record.revision == revision]
        for record in current:
            if record.state is ResizeState.ROLLED_BACK and (left := pods_with(target, record, change_of(record).wish)):
                await self._give_back(service, target, record, left, now=now)
                return
        active = next((record for record in current if record.state in _UNDER_WAY), None)
        if active is None:
            resized = [one for one in current if one.state is ResizeState.RESIZED]
            active = next(
                (
                    one
                    for one in resized
                    if pods_lacking(target, one)
                    or resize_trials.of(target, one.id)
                    or resize_trials.lost(service, target, one)
                ),
                None,
            )
        if active is None:
            active = await self._begin(service, target, current, revision=revision, now=now)
        if active is not None:
            await self._advance(service, target, active, now=now)

    @staticmethod
    def _overtaken(service: ServiceWork, target: TargetWork, record: ResizeStatus, *, now: UnixTime) -> None:
        text = "a rollout has made pods of the template's size; apply the patch to make a size last"
        put(service, record, now=now, state=ResizeState.ENDED, reason="Rollout", message=text, pod="")
        if resize_trials.unjudged(service, record):
            verdict = verification.Verdict(Outcome.UNKNOWN, "Rollout", "a rollout came before it was judged")
            resize_trials.leave(service, target, record, verdict, now=now)
            tell(service, record, verdict, ActionState.APPLIED, f"{verdict.outcome}: {verdict.message}", now=now)

    def _held_back(self, service: ServiceWork, target: TargetWork) -> tuple[str, str] | None:
        """Say what holds all resizes of a target back, as reason and sentence."""
        settings = service.settings
        if self.stopped():
            return "KillSwitch", "the kill switch is on"
        if settings.suspended:
            return "Suspended", "spec.suspend is true"
        if settings.modes.resize is Mode.RECOMMEND:
            return "RecommendOnly", "modes.resize is Recommend; pods keep what they have until the next rollout"
        if not self.enabled:
            text = "this installation does not resize; set actuation.resize in the chart's values"
            _refuse(target, text)
            return "PermissionMissing", text
        return None

    @staticmethod
    def _halt(service: ServiceWork, target: TargetWork, reason: str, message: str, *, now: UnixTime) -> None:
        for record in records_of(service, target):
            if record.state in _UNDER_WAY:
                put(service, record, now=now, state=ResizeState.WAITING, reason=reason, message=message)

    # beginning

    async def _begin(
        self,
        service: ServiceWork,
        target: TargetWork,
        current: Sequence[ResizeStatus],
        *,
        revision: str,
        now: UnixTime,
    ) -> ResizeStatus | None:
        """Begin the first resize that may begin now; returns its record."""
        assert target.limits is not None
        for proposal, item in offered(service, target):
            change = proposal.in_place
            assert change is not None
            approved = item.id in service.approved
            if service.settings.modes.resize is Mode.APPROVE and not approved:
                continue
            size = size_text(change.request, change.limit)
            if any(one.setting == item.setting and one.to == size for one in current):
                continue  # it was tried on these pods, or is so already
            why = change.refused
            if not why and not await self.pods.supported():
                why = "this server has no resize of pods (Kubernetes 1.33 and later have it)"
            if not why and not revision:
                why = "its pods bear no revision of their template, so that nobody could say when a rollout has come"
            record = new_record(item, change, revision=revision, now=now)
            if why:
                _refuse(target, f"{item.setting}: not done to running pods: {why}")
                if approved:
                    put(service, record, now=now, state=ResizeState.REFUSED, reason="NotInPlace", message=why, pod="")
                    act(service, record, ActionState.REFUSED, why, now=now)
                continue
            delay = policy.delayed(
                Axis.RESIZE, limits=target.limits, state=target.memory.policy, now=now, gates=target.gates
            )
            if delay is not None:
                _refuse(target, f"{item.setting}: the resize waits: {delay.message}", reason=str(delay.limit))
                return None
            put(service, record, now=now, state=ResizeState.RESIZING, reason="Begun", message="")
            self._watch(service, target, record, item, now=now)
            target.memory.policy = target.memory.policy.changed(Axis.RESIZE, at=now)
            return record
        return None

    @staticmethod
    def _watch(
        service: ServiceWork, target: TargetWork, record: ResizeStatus, item: RecommendationStatus, *, now: UnixTime
    ) -> None:
        """Tell the action with what is expected of it, and keep what it is going to be judged by."""
        first = next((pod.name for pod in pods_lacking(target, record)), "")
        trial = resize_trials.begin(service, target, identifier=item.id, reason=str(item.reason), first=first, now=now)
        act(
            service,
            record,
            ActionState.APPLIED,
            f"in place, pod after pod: {item.message}",
            now=now,
            reason=cut(str(item.reason), 64),
            expected=tuple(to_effect(effect) for effect in trial.expectation.effects[:MAX_EXPECTED]),
        )

    async def _undo(
        self,
        service: ServiceWork,
        target: TargetWork,
        record: ResizeStatus,
        trial: ResizeTrial,
        verdict: verification.Verdict,
        *,
        now: UnixTime,
    ) -> bool:
        """Give every pod its old size back where a verdict asks for that; tells whether it did."""
        if not verdict.roll_back or not service.settings.policy.rollback:
            return False
        resize_trials.end(target, trial, verdict, now=now)
        text = f"{Judgement.REGRESSED}: {verdict.message}"
        await self._roll_back(service, target, record, reason=verdict.reason, message=text, now=now, verdict=verdict)
        return True

    async def _judge_whole(
        self, service: ServiceWork, target: TargetWork, record: ResizeStatus, trial: ResizeTrial, *, now: UnixTime
    ) -> None:
        """Judge a resize that all pods have, and tell what it came to."""
        verdict = resize_trials.judge_whole(target, trial, now=now)
        if verdict.outcome is Outcome.TOO_EARLY or await self._undo(service, target, record, trial, verdict, now=now):
            return
        resize_trials.end(target, trial, verdict, now=now)
        good = verdict.outcome is Outcome.VERIFIED
        state = ActionState.VERIFIED if good else ActionState.APPLIED
        tell(service, record, verdict, state, f"{verdict.outcome}: {verdict.message}; what stands is held", now=now)

    # going on

    async def _advance(self, service: ServiceWork, target: TargetWork, record: ResizeStatus, *, now: UnixTime) -> None:
        change, pods = change_of(record), pods_of(target, record)
        counts = {"done": len(pods_with(target, record, change.wish)), "pods": len(pods)}
        if record.pod and any(pod.name == record.pod for pod in pods):
            answer = await self._answer(service, record, change, now=now)
            if answer is not None:
                state, reason, message = answer
                if state is ResizeState.ROLLED_BACK:
                    harm = resize_trials.unready(target, record, message, now=now) if reason != INFEASIBLE else None
                    await self._roll_back(
                        service, target, record, reason=reason, message=message, now=now, verdict=harm
                    )
                else:
                    put(service, record, now=now, state=state, reason=reason, message=message, **counts)
                return
        lacking = [pod for pod in pods_lacking(target, record) if pod.name != record.pod]
        if not lacking:
            await self._complete(service, target, record, counts, now=now)
            return
        lost = resize_trials.lost(service, target, record)
        if lost is not None and service.settings.policy.rollback:
            # Nobody watches what some pods have: those that have it give it back before others are asked.
            resize_trials.leave(service, target, record, lost, now=now)
            reason, text = lost.reason, lost.message
            await self._roll_back(service, target, record, reason=reason, message=text, now=now, verdict=lost)
            return
        trial = resize_trials.of(target, record.id)
        watched = trial is not None and counts["done"]
        if trial is not None and watched and await self._watched(service, target, record, trial, counts, now=now):
            return
        waits = self._waits(target) or await self._forbidden(service)
        if waits is not None:
            reason, message = waits
            put(service, record, now=now, state=ResizeState.WAITING, reason=reason, message=message, pod="", **counts)
            return
        await self._next(service, target, record, lacking[0], now=now, counts=counts)

    async def _complete(
        self, service: ServiceWork, target: TargetWork, record: ResizeStatus, counts: dict[str, int], *, now: UnixTime
    ) -> None:
        """Say that all pods have the size, and judge it; without what it would be judged by, say that."""
        text = f"all {counts['pods']} pods have it, until the next rollout; apply the patch to make it last"
        put(service, record, now=now, state=ResizeState.RESIZED, reason="Succeeded", message=text, pod="", **counts)
        if record.state is not ResizeState.RESIZED:
            act(service, record, ActionState.APPLIED, text, now=now)
        trial, lost = resize_trials.of(target, record.id), resize_trials.lost(service, target, record)
        if trial is not None:
            await self._judge_whole(service, target, record, trial, now=now)
        elif lost is not None:
            resize_trials.leave(service, target, record, lost, now=now)
            text = f"{lost.outcome}: {lost.message}; what stands is held"
            tell(service, record, lost, ActionState.APPLIED, text, now=now)

    async def _watched(
        self,
        service: ServiceWork,
        target: TargetWork,
        record: ResizeStatus,
        trial: ResizeTrial,
        counts: dict[str, int],
        *,
        now: UnixTime,
    ) -> bool:
        """Look at the first pod beside those that were not touched; tells whether the next one has to wait."""
        verdict = resize_trials.judge_first(target, trial, now=now)
        if verdict is None:
            return False
        if await self._undo(service, target, record, trial, verdict, now=now):
            return True
        if verdict.outcome is not Outcome.TOO_EARLY:
            return False
        text = f"pod {trial.first} has the size and is watched beside the others: {verdict.message}"
        put(service, record, now=now, state=ResizeState.RESIZING, reason="Watching", message=text, pod="", **counts)
        return True

    async def _answer(
        self, service: ServiceWork, record: ResizeStatus, change: SizeChange, *, now: UnixTime
    ) -> tuple[ResizeState, str, str] | None:
        """Say what became of the pod under way; None once it has what it was asked for and is ready."""
        try:
            pod = await self.pods.read(Key(service.key.namespace, record.pod))
        except Absent:
            return None
        if pod.terminating or not asked(pod, change.wish):
            return None  # it goes, or somebody gave it another size: the next look counts it anew
        if pod.pending_reason == INFEASIBLE:
            return ResizeState.ROLLED_BACK, INFEASIBLE, f"pod {record.pod}: {pod.pending_message or 'infeasible'}"
        if pod.pending_reason:
            text = f"pod {record.pod} waits for its node: {pod.pending_message or pod.pending_reason}"
            return ResizeState.WAITING, pod.pending_reason, text
        if pod.in_progress and pod.progress_reason:
            text = f"pod {record.pod}: {pod.progress_message or pod.progress_reason}"
            return ResizeState.WAITING, pod.progress_reason, text
        if not granted(pod, change.wish):
            return (
                ResizeState.RESIZING,
                "InProgress",
                f"the kubelet has not told of the new size of pod {record.pod} yet",
            )
        if pod.ready:
            return None
        text = f"pod {record.pod} has the new size and is not ready"
        since = pod.unready_since
        if since is None or now - since < resize_trials.UNREADY_FOR or not service.settings.policy.rollback:
            return ResizeState.WAITING, "NotReady", text
        return ResizeState.ROLLED_BACK, "NotReady", f"{text} for {now - since:.0f} s; it was when it was asked"

    @staticmethod
    def _waits(target: TargetWork) -> tuple[str, str] | None:
        """Say what the next pod has to wait for."""
        assert target.facts is not None
        if target.gates.resize is not None:
            return str(target.gates.resize.limit), target.gates.resize.message
        removable = target.running.removable if target.running is not None else None
        if removable is not None and removable.replicas < 1:
            return "PodDisruptionBudget", removable.why
        staying = [pod for pod in target.facts.pods if not pod.terminating]
        if len({revision_label(pod) for pod in staying}) > 1:
            return "RolloutInProgress", "pods of two revisions run side by side"
        unready = next((pod.name for pod in staying if not pod.ready), None)
        if unready is not None:
            return "NotReady", f"pod {unready} is not ready; one pod at a time, and only while all are well"
        return None

    async def _forbidden(self, service: ServiceWork) -> tuple[str, str] | None:
        for verb, subresource in (("get", ""), ("patch", "resize")):
            attributes = Attributes(verb, "", "pods", namespace=service.key.namespace, subresource=subresource)
            if not (await self.access.may_i(attributes)).allowed:
                what = f"pods/{subresource}" if subresource else "pods"
                text = f"may not {verb} {what} in {service.key.namespace}; set actuation.resize in the chart's values"
                return "PermissionMissing", text
        return None

    async def _next(
        self,
        service: ServiceWork,
        target: TargetWork,
        record: ResizeStatus,
        pod: PodFacts,
        *,
        now: UnixTime,
        counts: dict[str, int],
    ) -> None:
        wish = change_of(record).wish
        # Two rounds of an object never overlap, but a dry run beside one must not make two pods of one. Not one lock
        # for all: a call that is not answered would hold it.
        async with self._serial.setdefault(service.key, asyncio.Lock()):
            try:
                size = await self.pods.read(Key(service.key.namespace, pod.name))
                restarts = (
                    size.containers[wish.container].restarts_for if wish.container in size.containers else frozenset()
                )
                if wish.resource in restarts and service.settings.modes.resize is not Mode.APPROVE:
                    text = f"its resizePolicy restarts container {wish.container} for {wish.resource}: a disruption"
                    put(
                        service,
                        record,
                        now=now,
                        state=ResizeState.REFUSED,
                        reason="RestartContainer",
                        message=text,
                        pod="",
                    )
                    act(service, record, ActionState.REFUSED, text, now=now)
                    return
                if not counts["done"]:
                    # The way back is to what is written there now, to the letter.
                    put(service, record, now=now, state=record.state, reason=record.reason, from_=written(size, wish))
                await self.pods.resize(size, wish)
            except (Conflict, Absent) as error:
                text = f"pod {pod.name} changed; tried again next round: {error}"
                put(
                    service,
                    record,
                    now=now,
                    state=ResizeState.WAITING,
                    reason="Conflict",
                    message=text,
                    pod="",
                    **counts,
                )
                return
            except Denied as error:
                text = str(error)
                put(
                    service, record, now=now, state=ResizeState.WAITING, reason="Denied", message=text, pod="", **counts
                )
                return
            except Invalid as error:
                await self._roll_back(service, target, record, reason="Invalid", message=f"refused: {error}", now=now)
                return
        text = f"pod {pod.name} was asked; {counts['done']} of {counts['pods']} have the size"
        put(service, record, now=now, state=ResizeState.RESIZING, reason="Asked", message=text, pod=pod.name, **counts)

    # going back

    async def _roll_back(
        self,
        service: ServiceWork,
        target: TargetWork,
        record: ResizeStatus,
        *,
        reason: str,
        message: str,
        now: UnixTime,
        verdict: verification.Verdict | None = None,
    ) -> None:
        under_way = record.pod
        text = f"{message}; every pod gets {record.from_} back, and it is not tried again on this revision"
        put(service, record, now=now, state=ResizeState.ROLLED_BACK, reason=reason, message=text, pod="", done=0)
        if verdict is None:
            act(service, record, ActionState.ROLLED_BACK, text, now=now)
        else:
            tell(service, record, verdict, ActionState.ROLLED_BACK, text, now=now)
        target.memory.policy = target.memory.policy.changed(Axis.RESIZE, at=now)
        record = next(one for one in service.resizes if one.id == record.id)
        have = {pod.name: pod for pod in pods_with(target, record, change_of(record).wish)}
        if under_way:  # the mirror may not know yet that it was asked
            have |= {pod.name: pod for pod in pods_of(target, record) if pod.name == under_way}
        await self._give_back(service, target, record, list(have.values()), now=now)

    async def _give_back(
        self, service: ServiceWork, target: TargetWork, record: ResizeStatus, pods: Sequence[PodFacts], *, now: UnixTime
    ) -> None:
        """Ask for the old size; what is left over is asked in the next round again."""
        back = change_of(record).back
        for pod in pods[:_MOST_PODS]:
            try:
                await self.pods.resize(await self.pods.read(Key(service.key.namespace, pod.name)), back)
            except (Conflict, Absent) as error:
                extra = {"object": str(service.key), "pod": pod.name, "error": str(error)}
                _LOG.warning("size not given back; tried again", extra=extra)
        target.memory.policy = target.memory.policy.changed(Axis.RESIZE, at=now)


def _refuse(target: TargetWork, message: str, *, reason: str = "NotInPlace") -> None:
    target.refusals = (*target.refusals, Refusal(RecommendationType.RESOURCES, reason, message))
