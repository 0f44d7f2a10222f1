"""The floor of one target from round to round: taken, moved, given way with, given back.

What it remembers of an HPA is small and may be lost: how fast the user lets it rise, and which maximum it had. What
must not be lost is in the object's status: that `takeover: Once` is used up is written there in the round before the
forced apply, and forced is only what this very process has announced. So a takeover happens once or, after a crash in
between, not at all; it never happens twice.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from optiinfra.api.reasons import Reason
from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1.scaling import Release, Takeover
from optiinfra.api.v1alpha1.status_parts import TakeoverStatus
from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import Conflict, Invalid
from optiinfra.cluster.floor import FloorCase, FloorHeld, FloorRefusal, FloorReleased, refusal_of
from optiinfra.control.floor_steps import FloorStep, floor_step, wanted_floor
from optiinfra.control.keys import ObjectKey
from optiinfra.control.work import Effect, ServiceWork, TargetWork
from optiinfra.domain.scale_up_rules import Look, highest, remember
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import ScalerFacts

AT_ONCE = 0
"""As a release step: the whole way in one write."""


class FloorWriter(Protocol):
    """Takes and releases floors; `optiinfra.cluster.floor` is the real one."""

    async def take(
        self, key: Key, *, uid: str, value: int, force: bool = False, release_step: int | None = None
    ) -> FloorHeld | FloorRefusal:
        """Hold minReplicas at a value."""

    async def give_way(self, key: Key, *, uid: str) -> FloorHeld | FloorReleased | FloorRefusal:
        """Take our marks away where somebody else changed the value."""

    async def release(
        self, key: Key, *, uid: str = "", max_step: int | None = None
    ) -> FloorHeld | FloorReleased | FloorRefusal:
        """Give the floor back."""


@dataclass(slots=True)
class _Memory:
    """What is remembered of one target's HPA."""

    uid: str = ""
    looks: tuple[Look, ...] = ()
    maximum: int | None = None
    """The live maximum when a floor was last seen held."""
    rests_until: float = 0.0
    """A maximum was lowered to the floor: until then nothing is taken again, unless the maximum is raised."""
    written: str = ""
    """resourceVersion of our last write; a mirror that is older than that shows the past."""
    announced: bool = False
    """This process has put the takeover into the status, and has not forced anything yet."""


@dataclass(slots=True)
class FloorKeeper:
    """Keeps floors; `clock` is that of statuses."""

    floors: FloorWriter
    clock: Callable[[], float] = time.time
    _memories: dict[tuple[ObjectKey, str], _Memory] = field(default_factory=dict)

    async def keep(self, service: ServiceWork, target: TargetWork) -> Effect | None:
        """Bring the floor to what the order asks for; returns what is in its way.

        Raises:
            ClusterError: the API server refused or did not answer.
        """
        assert target.facts is not None
        scaler = target.facts.scaler
        assert scaler is not None  # collect has made its absence a problem
        memory = self._memory(service, target, scaler)
        if _behind(scaler.resource_version, memory.written):
            return Effect(effective=None, reason=Reason.SCALING_IN_PROGRESS, message="the floor was written just now")
        if scaler.floor_lost:
            return await self._give_way(service, scaler)
        if scaler.held and scaler.controller_owner:
            await self.give_up(service, scaler)
            text = f"{scaler.controller_owner} owns HorizontalPodAutoscaler {scaler.name} now; set the minimum there"
            return Effect(effective=False, reason=Reason.SCALER_OWNED_BY_CONTROLLER, message=text)
        if target.order is None or not isinstance(target.decision, ScalingDecision):
            return None
        now = UnixTime(self.clock())
        look = Look(now, target.facts.desired_replicas, wanted_floor(target, scaler))
        memory.looks = remember(memory.looks, look, rules=scaler.scale_up)
        if (lowered := await self._maximum_lowered(service, target, scaler, memory, now=now)) is not None:
            return lowered
        current = max(scaler.min_replicas, target.facts.desired_replicas)
        fastest = highest(scaler.scale_up, memory.looks, now=now, current=current)
        step = floor_step(target, scaler, step=service.settings.policy.max_replica_step, highest=fastest)
        return await self._write(service, target, scaler, memory, step)

    async def give_back(self, service: ServiceWork, target: TargetWork, scaler: ScalerFacts) -> None:
        """Give a held floor back: one step of it, or all of it where the object says so."""
        step = release_step(service, target)
        await self.floors.release(
            Key(service.key.namespace, scaler.name), uid=scaler.uid, max_step=None if step == AT_ONCE else step
        )

    async def give_up(self, service: ServiceWork, scaler: ScalerFacts) -> None:
        """Give a held floor back at once, because somebody else scales the workload as well."""
        await self.floors.release(Key(service.key.namespace, scaler.name), uid=scaler.uid, max_step=None)

    def forget(self, key: ObjectKey) -> None:
        """Drop what is remembered of an object that is gone."""
        for slot in [slot for slot in self._memories if slot[0] == key]:
            del self._memories[slot]

    def _memory(self, service: ServiceWork, target: TargetWork, scaler: ScalerFacts) -> _Memory:
        slot = (service.key, target.target.name)
        memory = self._memories.get(slot)
        if memory is None or memory.uid != scaler.uid:
            # Another HPA of that name has another past; the replicas have not.
            memory = self._memories[slot] = _Memory(uid=scaler.uid, looks=memory.looks if memory is not None else ())
        return memory

    async def _give_way(self, service: ServiceWork, scaler: ScalerFacts) -> Effect:
        outcome = await self.floors.give_way(Key(service.key.namespace, scaler.name), uid=scaler.uid)
        if isinstance(outcome, FloorHeld):
            return Effect(effective=None, reason=Reason.SCALING_IN_PROGRESS, message="the floor is being looked at")
        refusal = refusal_of(scaler)
        who = refusal.manager if refusal is not None and refusal.manager else "somebody"
        text = (
            f"HorizontalPodAutoscaler {scaler.name}: {who} set minReplicas to {scaler.min_replicas}, which holds from "
            "now on; nothing of ours is left on it"
        )
        return Effect(effective=False, reason=Reason.FLOOR_LOST, message=text)

    async def _maximum_lowered(
        self, service: ServiceWork, target: TargetWork, scaler: ScalerFacts, memory: _Memory, *, now: UnixTime
    ) -> Effect | None:
        """Give way to a maximum that was lowered to the floor; the API server refuses one below it."""
        before, memory.maximum = memory.maximum, scaler.max_replicas
        own = target.target.scaling.max_replicas
        # With a maximum of the object's own that is no higher, nothing was lowered that it had not asked for itself.
        lowered = before is not None and scaler.max_replicas < min(before, own if own is not None else before)
        if scaler.held and lowered and scaler.min_replicas >= scaler.max_replicas:
            memory.rests_until = now + service.settings.policy.cooldown
            await self.give_up(service, scaler)
        elif before is not None and scaler.max_replicas > before:
            memory.rests_until = 0.0
        # No rest is longer than the cooldown: a clock that was set back must not hold the floor down for ever.
        memory.rests_until = min(memory.rests_until, now + service.settings.policy.cooldown)
        if now >= memory.rests_until:
            return None
        text = (
            f"HorizontalPodAutoscaler {scaler.name}: maxReplicas was lowered to {scaler.max_replicas}, the held floor"
        )
        return Effect(effective=False, reason=Reason.MAXIMUM_LOWERED, message=f"{text}; it was given back at once")

    async def _write(
        self, service: ServiceWork, target: TargetWork, scaler: ScalerFacts, memory: _Memory, step: FloorStep
    ) -> Effect | None:
        back = release_step(service, target)
        stands = scaler.held and (scaler.min_replicas, scaler.release_step) == (step.value, back)
        if step.value is None or stands:
            return step.effect
        refused = self._takeover(service, target, scaler, memory)
        if refused is not None:
            return refused
        force = memory.announced
        try:
            outcome = await self.floors.take(
                Key(service.key.namespace, scaler.name),
                uid=scaler.uid,
                value=step.value,
                force=force,
                release_step=back,
            )
        except (Conflict, Invalid):
            raise  # certainly not written: what was announced may still be done
        except BaseException:
            memory.announced = False  # perhaps written, perhaps not: never a second time
            raise
        memory.announced = False
        if isinstance(outcome, FloorRefusal):
            text = f"HorizontalPodAutoscaler {scaler.name}: {outcome.remedy}"
            return Effect(effective=False, reason=_REFUSED[outcome.case], message=text)
        memory.written = outcome.resource_version
        return step.effect

    def _takeover(
        self, service: ServiceWork, target: TargetWork, scaler: ScalerFacts, memory: _Memory
    ) -> Effect | None:
        """Settle whether a field that update managers own is taken now; an effect says why not."""
        refusal = refusal_of(scaler)
        if refusal is None or refusal.case is not FloorCase.UPDATE_MANAGER:
            memory.announced = False
            return None
        name = target.target.name
        if target.target.scaling.takeover is not Takeover.ONCE:
            text = f"HorizontalPodAutoscaler {scaler.name}: {refusal.remedy}"
            return Effect(effective=False, reason=Reason.FIELD_OWNED, message=text)
        used = next((item for item in service.obj.status.takeovers if item.name == name), None)
        if used is None:
            memory.announced = True
            record = TakeoverStatus(
                name=name,
                scaler=scaler.name,
                manager=refusal.manager[:128],
                value=scaler.min_replicas,
                at=Time.of(UnixTime(self.clock())),
            )
            service.takeovers.append(record)
            text = f"minReplicas of HorizontalPodAutoscaler {scaler.name} is taken from {refusal.manager} next round"
            return Effect(effective=False, reason=Reason.FIELD_OWNED, message=f"{text} (takeover: Once)")
        if memory.announced:
            return None
        text = (
            f"HorizontalPodAutoscaler {scaler.name}: minReplicas {scaler.min_replicas} belongs to {refusal.manager}, "
            f"and takeover: Once was used up at {used.at}; set it to Never, and to Once when status.takeovers is empty"
        )
        return Effect(effective=False, reason=Reason.FLOOR_LOST, message=text)


def release_step(service: ServiceWork, target: TargetWork) -> int:
    """Return the replicas by which a floor goes back at a time; `AT_ONCE` for the whole way."""
    immediate = target.target.scaling.release is Release.IMMEDIATE
    return AT_ONCE if immediate else service.settings.policy.max_replica_step


def _behind(seen: str, written: str) -> bool:
    # resourceVersions are opaque by contract; order is only compared where both are numbers (KEP-5504).
    return seen.isdigit() and written.isdigit() and int(seen) < int(written)


_REFUSED = {
    FloorCase.APPLY_MANAGER: Reason.FIELD_OWNED,
    FloorCase.UPDATE_MANAGER: Reason.FIELD_OWNED,
    FloorCase.CONTROLLER_OWNER: Reason.SCALER_OWNED_BY_CONTROLLER,
    FloorCase.NOT_HELD: Reason.FLOOR_LOST,
}
