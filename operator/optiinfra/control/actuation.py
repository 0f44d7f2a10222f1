"""How an order reaches the workload: Signal publishes it, Own keeps an HPA that follows it, Floor holds minReplicas.

The only module that decides to write into users' objects. It asks first whether it may (SelfSubjectAccessReview), keeps
to the ownership rules of `optiinfra.cluster.floor`, and answers with what came of it; it never forces and never retries
in the same round. Whatever it cannot do is an `Effect` with the remedy, and the published series stays honest.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from optiinfra.api.reasons import Reason
from optiinfra.api.v1alpha1.common import Mode
from optiinfra.api.v1alpha1.scaling import Actuation
from optiinfra.cluster.access import Attributes, Verdict
from optiinfra.cluster.document import Key
from optiinfra.cluster.errors import AlreadyExists, ClusterError, Conflict
from optiinfra.cluster.own_scaler import OwnScaler
from optiinfra.control import approvals
from optiinfra.control.decisions import DecisionBoard
from optiinfra.control.floor_keeper import FloorKeeper
from optiinfra.control.keys import ObjectKey
from optiinfra.control.kill_switch import ActsStopped
from optiinfra.control.work import Effect, ServiceWork, TargetWork
from optiinfra.domain.policy import beyond_tolerance
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.workload import ScalerFacts

_PERMISSION_SECONDS = 60.0
_LIFETIME_INTERVALS = 3.0
_LEAST_LIFETIME = 30.0
_DISABLED = "ScalingDisabled"
"""What an HPA says whose workload was set to zero by hand."""


class OwnWriter(Protocol):
    """Applies and deletes our own HPAs; `optiinfra.cluster.own_scaler` is the real one."""

    async def apply(self, scaler: OwnScaler, *, uid: str = "") -> str:
        """Create or update; returns the uid."""

    async def delete(self, key: Key, *, uid: str, resource_version: str = "") -> bool:
        """Delete exactly that one."""


class PermissionReader(Protocol):
    """Asks what this process may do; `optiinfra.cluster.access` is the real one."""

    async def may_i(self, attributes: Attributes) -> Verdict:
        """SelfSubjectAccessReview."""


@dataclass(frozen=True, slots=True)
class ExternalMetricsState:
    """Whether our external metrics API can be read by the HPA controller."""

    served: bool
    message: str
    """Why not; empty when it is."""


@dataclass(slots=True)
class Actuator:
    """Carries out orders. `server_minor` and `external` are filled in at start."""

    board: DecisionBoard
    floors: FloorKeeper
    own: OwnWriter
    access: PermissionReader
    external: Callable[[], ExternalMetricsState]
    stopped: Callable[[], bool] = lambda: False
    """Whether the kill switch is on at this very moment; it may have been turned since the plan was made."""
    server_minor: int = 0
    _permissions: dict[tuple[str, str], tuple[float, bool]] = field(default_factory=dict)
    _applied: dict[tuple[ObjectKey, str], tuple[str, OwnScaler]] = field(default_factory=dict)
    """By object and target: what was applied last, and the uid it got."""
    _blocked: dict[tuple[ObjectKey, str], tuple[tuple[str, int, int, OwnScaler], str]] = field(default_factory=dict)
    """By object and target: with which state of our HPA an apply met another manager, and what was said of it."""

    async def carry_out(self, service: ServiceWork, target: TargetWork) -> None:
        """Bring the world to what `target.order` says, and note the effect."""
        if not service.claim.acts:
            self.board.withdraw(service.key.namespace, published_name(service, target))
            target.order = None
            if target.problem is None:
                text = "this operator has just put its name on the object, and acts from the next round on"
                target.effect = Effect(effective=None, reason=Reason.COLLECTING, message=text)
            return
        if target.problem is not None or target.facts is None or target.withheld is not None or self.stopped():
            self.board.withdraw(service.key.namespace, published_name(service, target))
            if not self.stopped() and target.withheld is None:
                await self._give_up(service, target)
            return
        await self._act(service, target)

    async def _act(self, service: ServiceWork, target: TargetWork) -> None:
        try:
            await self._leave(service, target)
            match target.target.scaling.actuation:
                case Actuation.SIGNAL:
                    self._publish(service, target)
                case Actuation.OWN:
                    await self._own(service, target)
                case Actuation.FLOOR:
                    await self._floor(service, target)
        except ActsStopped as error:
            target.effect = Effect(effective=False, reason=error.reason, message=error.message)
        except Conflict as error:
            target.effect = Effect(effective=None, reason=Reason.API_ERROR, message=f"tried again next round: {error}")
        except ClusterError as error:
            target.effect = Effect(effective=False, reason=Reason.API_ERROR, message=str(error)[:500])

    async def _leave(self, service: ServiceWork, target: TargetWork) -> None:
        """Take away what another actuation of before left standing."""
        actuation = target.target.scaling.actuation
        for scaler in target.scalers:
            if scaler.owned_by_us and actuation is not Actuation.OWN and await self._may(service, target, "delete"):
                await self._delete_own(service, scaler)
            if scaler.held and actuation is not Actuation.FLOOR and await self._may(service, target, "patch"):
                await self.floors.give_back(service, target, scaler)

    async def _give_up(self, service: ServiceWork, target: TargetWork) -> None:
        """Let go of floors once somebody else scales the workload as well: two scalers fight, ours must not help."""
        if target.problem is None or target.problem.reason is not Reason.SEVERAL_SCALERS:
            return
        for scaler in target.scalers:
            if scaler.held and await self._may(service, target, "patch"):
                await self.floors.give_up(service, scaler)

    def _publish(self, service: ServiceWork, target: TargetWork) -> None:
        name = published_name(service, target)
        if target.order is None or self.stopped():
            self.board.withdraw(service.key.namespace, name)
            return
        # It outlives a few missed rounds, and no more: what nobody renews must disappear.
        lifetime = max(_LEAST_LIFETIME, _LIFETIME_INTERVALS * service.settings.interval)
        self.board.publish(service.key.namespace, name, replicas=heard(target, target.order), lifetime=lifetime)

    # Own

    async def _own(self, service: ServiceWork, target: TargetWork) -> None:
        ours = next((scaler for scaler in target.scalers if scaler.owned_by_us), None)
        others = sorted(scaler.name for scaler in target.scalers if not scaler.owned_by_us)
        if others or not wants_to_act(service):
            self.board.withdraw(service.key.namespace, published_name(service, target))
            if ours is not None and await self._may(service, target, "delete"):
                await self._delete_own(service, ours)
            if others:
                target.effect = Effect(
                    effective=False,
                    reason=Reason.SCALER_EXISTS,
                    message=f"{', '.join(others[:5])} targets the workload too; delete it, or use Signal or Floor",
                )
            return
        external = self.external()
        if not external.served:
            target.effect = Effect(effective=False, reason=Reason.METRIC_API_OWNED, message=external.message)
            return
        if not await self._may(service, target, "create", "patch"):
            return
        # Published before the HPA exists: the HPA controller's first look must find a number.
        self._publish(service, target)
        wanted = self._own_scaler(service, target)
        slot = (service.key, target.target.name)
        known = self._applied.get(slot)
        unchanged = ours is not None and known == (ours.uid, wanted) and _matches(ours, wanted)
        if unchanged or target.order is None:
            return
        await self._apply_own(target, wanted, ours, slot)

    async def _apply_own(
        self, target: TargetWork, wanted: OwnScaler, ours: ScalerFacts | None, slot: tuple[ObjectKey, str]
    ) -> None:
        """Create or change our HPA; what another manager changed of it is left so, and asked for once."""
        state = None if ours is None else (ours.uid, ours.min_replicas, ours.max_replicas, wanted)
        blocked, text = self._blocked.get(slot, (None, ""))
        if state is not None and state == blocked:
            target.effect = Effect(effective=False, reason=Reason.FIELD_OWNED, message=text)
            return
        try:
            uid = await self.own.apply(wanted, uid=ours.uid if ours is not None else "")
        except AlreadyExists:
            target.effect = Effect(
                effective=False,
                reason=Reason.SCALER_EXISTS,
                message=f"HorizontalPodAutoscaler {wanted.key.name} exists and is not ours; delete or rename it",
            )
            return
        except Conflict as error:
            if state is None:
                raise
            # Asked again only when something changed: a refused request every round is a fight, too.
            text = (
                f"HorizontalPodAutoscaler {wanted.key.name} was changed by somebody; delete it to have it anew: {error}"
            )
            self._blocked[slot] = (state, text[:500])
            target.effect = Effect(effective=False, reason=Reason.FIELD_OWNED, message=text[:500])
            return
        self._applied[slot] = (uid, wanted)

    def _own_scaler(self, service: ServiceWork, target: TargetWork) -> OwnScaler:
        assert target.limits is not None
        reference = target.target.target_ref
        return OwnScaler(
            namespace=service.key.namespace,
            owner_name=service.key.name,
            owner_uid=service.obj.metadata.uid,
            target_api_version=reference.api_version,
            target_kind=reference.kind,
            target_name=reference.name,
            # An HPA with minReplicas 0 needs a gate that most servers lack; zero is reached by other actuations.
            min_replicas=max(1, target.limits.minimum),
            max_replicas=target.limits.maximum,
            server_minor=self.server_minor,
            metric_name=published_name(service, target),
            name=f"optiinfra-{published_name(service, target)}"[:253],
        )

    async def _delete_own(self, service: ServiceWork, ours: ScalerFacts) -> None:
        await self.own.delete(
            Key(service.key.namespace, ours.name), uid=ours.uid, resource_version=ours.resource_version
        )
        for slot in [slot for slot, (uid, _) in self._applied.items() if uid == ours.uid]:
            del self._applied[slot]

    # Floor

    async def _floor(self, service: ServiceWork, target: TargetWork) -> None:
        # The floor is not the published count: whoever reads the gauge is told by actuation Signal.
        self.board.withdraw(service.key.namespace, published_name(service, target))
        assert target.facts is not None
        scaler = target.facts.scaler
        assert scaler is not None  # collect has made its absence a problem
        if not wants_to_act(service):
            if scaler.held and await self._may(service, target, "patch"):
                await self.floors.give_back(service, target, scaler)
            return
        if scaler.scaling_active_reason == _DISABLED:
            text = f"{target.facts.desired_replicas} replicas were set by hand, which disables HorizontalPodAutoscaler"
            text = f"{text} {scaler.name} (ScalingDisabled); set one or more to let it scale again"
            target.effect = Effect(effective=False, reason=Reason.SCALER_INACTIVE, message=text)
        if scaler.held and not scaler.floor_lost and _unauthorised(service, target):
            await self._end_of_approval(service, target, scaler)
            return
        undecided = target.order is None or not isinstance(target.decision, ScalingDecision)
        if (undecided and not scaler.floor_lost) or not await self._may(service, target, "patch"):
            return
        target.effect = await self.floors.keep(service, target)

    async def _end_of_approval(self, service: ServiceWork, target: TargetWork, scaler: ScalerFacts) -> None:
        """Give a floor back that nobody's word holds any more: what was approved ended, and it is not mode Auto."""
        if not await self._may(service, target, "patch"):
            return
        await self.floors.give_back(service, target, scaler)
        original = scaler.original_min_replicas or 1
        text = (
            f"no approval stands any more: minReplicas {scaler.min_replicas} of HorizontalPodAutoscaler {scaler.name} "
            f"goes back to {original}; approve a recommendation to hold it"
        )
        target.effect = Effect(effective=None, reason=Reason.AWAITING_APPROVAL, message=text)

    async def _may(self, service: ServiceWork, target: TargetWork, *verbs: str) -> bool:
        for verb in verbs:
            key = (service.key.namespace, verb)
            known = self._permissions.get(key)
            now = time.monotonic()
            if known is None or known[0] <= now:
                verdict = await self.access.may_i(
                    Attributes(
                        verb=verb,
                        group="autoscaling",
                        resource="horizontalpodautoscalers",
                        namespace=service.key.namespace,
                    )
                )
                known = (now + _PERMISSION_SECONDS, verdict.allowed)
                self._permissions[key] = known
            if not known[1]:
                target.effect = Effect(
                    effective=False,
                    reason=Reason.PERMISSION_MISSING,
                    message=f"may not {verb} HorizontalPodAutoscalers in {service.key.namespace}; "
                    "set actuation.enabled in the chart's values",
                )
                return False
        return True

    def forget(self, key: ObjectKey) -> None:
        """Drop what is remembered of an object that is gone."""
        self.floors.forget(key)
        for slot in [slot for slot in (*self._applied, *self._blocked) if slot[0] == key]:
            self._applied.pop(slot, None)
            self._blocked.pop(slot, None)


def wants_to_act(service: ServiceWork) -> bool:
    """Tell whether this object may change anything at all, whatever the numbers are."""
    modes = service.settings.modes
    acts = {modes.scale_up, modes.scale_down} != {Mode.RECOMMEND}
    return acts and not service.settings.suspended


def _unauthorised(service: ServiceWork, target: TargetWork) -> bool:
    """Tell whether a decision is known and nobody's word lets it be carried out; what is not known is held."""
    modes = service.settings.modes
    asks = Mode.AUTO not in (modes.scale_up, modes.scale_down) and not approvals.standing(service, target)
    return asks and target.order is None and isinstance(target.decision, ScalingDecision)


def published_name(service: ServiceWork, target: TargetWork) -> str:
    """Name under which a target's decision is published: the object's, with the variant's where there are several."""
    if service.obj.spec.target_ref is not None:
        return service.key.name
    return f"{service.key.name}.{target.target.name}"


def heard(target: TargetWork, order: int) -> int:
    """Return the count to publish so that the scaler does what was ordered: an HPA is deaf within its tolerance."""
    facts, limits = target.facts, target.limits
    assert facts is not None
    assert limits is not None
    if facts.scaler is None:
        return order
    return beyond_tolerance(
        order,
        current=facts.desired_replicas,
        tolerance_up=facts.scaler.tolerance_up,
        tolerance_down=facts.scaler.tolerance_down,
        maximum=limits.maximum,
    )


def _matches(ours: ScalerFacts, wanted: OwnScaler) -> bool:
    return ours.min_replicas == wanted.min_replicas and ours.max_replicas == wanted.max_replicas
