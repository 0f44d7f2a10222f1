"""The floor: `minReplicas` that the operator holds on a user's HPA, taken and given back without a trace.

Who owns the field decides, read from managedFields immediately before each write. Unowned, or only ours: server-side
apply without force. Anybody else: no write, and a `FloorRefusal` that names the manager and the remedy; only where
nobody but update managers own it may a caller say `force`, and whether it may say so twice is not known here. The HPA
is never read, changed and written back as a whole: its metric list is atomic and a round trip loses what we do not
know.

Giving back takes two writes in this order: an apply of the original value, then a JSON patch that removes our
managedFields entry, label and annotation, guarded by resourceVersion. An empty apply does not restore (measured), and
dropping the entry first would leave a raised floor that nobody owns.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from optiinfra.cluster.client import FIELD_MANAGER, KubernetesClient, PatchKind
from optiinfra.cluster.document import JsonObject, Key, mapping, objects, text
from optiinfra.cluster.errors import Conflict, Invalid
from optiinfra.cluster.scalers import (
    HELD_LABEL,
    ORIGINAL_ANNOTATION,
    OUR_MANAGER,
    RELEASE_STEP_ANNOTATION,
    field_managers,
    hpa_path,
    parse_scaler,
)
from optiinfra.domain.workload import ScalerFacts

_OURS = (OUR_MANAGER,)
_MARKS = (("labels", HELD_LABEL), ("annotations", ORIGINAL_ANNOTATION), ("annotations", RELEASE_STEP_ANNOTATION))
_ATTEMPTS = 3
"""An HPA's status changes every 15 s, and each change is a new resourceVersion."""


class FloorCase(StrEnum):
    """Why the floor is not ours to move."""

    APPLY_MANAGER = "ApplyManager"
    """Another server-side-apply manager owns minReplicas."""
    UPDATE_MANAGER = "UpdateManager"
    """It was set by an update (kubectl edit, a client-side apply, Helm 3)."""
    CONTROLLER_OWNER = "ControllerOwner"
    """The HPA belongs to another controller."""
    NOT_HELD = "NotHeld"
    """It is not held by us (any more)."""


@dataclass(frozen=True, slots=True)
class FloorRefusal:
    """The floor was not written, because it is not ours."""

    case: FloorCase
    manager: str
    remedy: str


@dataclass(frozen=True, slots=True)
class FloorHeld:
    """The floor is held."""

    value: int
    original: int
    resource_version: str


@dataclass(frozen=True, slots=True)
class FloorReleased:
    """Nothing of ours is on the HPA any more."""

    value: int
    """minReplicas now."""
    restored: bool
    """False when the field was not ours any more (or its original unknown) and was left as it is."""


FloorResult: TypeAlias = FloorHeld | FloorRefusal


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be held, and how."""

    value: int
    force: bool = False
    release_step: int | None = None
    """None: as it is written already."""


class Floor:
    """Takes, moves and releases floors. Every call reads the live HPA first."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client

    async def take(
        self, key: Key, *, uid: str, value: int, force: bool = False, release_step: int | None = None
    ) -> FloorResult:
        """Hold minReplicas at `value`; the value found becomes the original. Taking twice is moving.

        `release_step` is written beside it: the replicas by which whoever gives it back goes at a time, 0 for at once.
        With `force` a field that only update managers own is taken from them.
        """
        order = _Order(value, force=force, release_step=release_step)
        return await self._hold(key, order, uid=uid, must_be_held=False)

    async def move(self, key: Key, *, uid: str, value: int) -> FloorResult:
        """Move a floor that is held; `NOT_HELD` when label or field are ours no longer."""
        return await self._hold(key, _Order(value), uid=uid, must_be_held=True)

    async def give_way(self, key: Key, *, uid: str) -> FloorHeld | FloorReleased | FloorRefusal:
        """Take our marks from an HPA whose minReplicas somebody else changed; `FloorHeld` when it is ours after all."""
        document = await self._read(key, uid=uid)
        facts = parse_scaler(document).facts
        if not facts.floor_lost:
            original = facts.original_min_replicas
            return FloorHeld(
                facts.min_replicas, facts.min_replicas if original is None else original, facts.resource_version
            )
        return await self.release(key, uid=uid)

    async def release(
        self, key: Key, *, uid: str = "", max_step: int | None = None
    ) -> FloorHeld | FloorReleased | FloorRefusal:
        """Give the floor back, at most `max_step` replicas at a time: `FloorHeld` says that another step is needed."""
        for attempt in range(1, _ATTEMPTS + 1):
            document = await self._read(key, uid=uid)
            facts = parse_scaler(document).facts
            if not facts.held and not _own_entries(document):
                return FloorRefusal(FloorCase.NOT_HELD, "", "nothing to release")
            original = facts.original_min_replicas
            ours = original is not None and (facts.min_replicas_managers == _OURS or _copied(document, facts))
            try:
                if ours and original is not None and original != facts.min_replicas:
                    value = _step(facts.min_replicas, original, max_step)
                    document = await self._restore(key, document, facts, value=value, original=original)
                    facts = parse_scaler(document).facts
                    if value != original:
                        return FloorHeld(value, original, facts.resource_version)
                await self._strip(key, document)
            except (Conflict, Invalid) as error:
                # A failed `test` of a JSON patch is answered with 422; a stale fence of an apply with 409.
                if attempt == _ATTEMPTS or not await self._changed(key, document, error):
                    raise
                continue
            return FloorReleased(facts.min_replicas, restored=ours)
        raise Conflict("the HPA kept changing", verb="release", path=hpa_path(key.namespace, key.name), code=409)

    async def _hold(self, key: Key, order: "_Order", *, uid: str, must_be_held: bool) -> FloorResult:
        value = order.value
        for attempt in range(1, _ATTEMPTS + 1):
            document = await self._read(key, uid=uid)
            facts = parse_scaler(document).facts
            refusal = refusal_of(facts)
            forced = order.force and refusal is not None and refusal.case is FloorCase.UPDATE_MANAGER
            if refusal is not None and not forced:
                return refusal
            ours = facts.min_replicas_managers == _OURS
            # What an update manager owns is its own value, whatever was written beside it before.
            original = facts.original_min_replicas if (facts.held or ours) and not forced else None
            if original is None and ours:
                # The present value is ours, so it must not become the "original".
                return FloorRefusal(FloorCase.NOT_HELD, "", f"release it: {ORIGINAL_ANNOTATION} was removed")
            if original is None:
                if must_be_held:
                    return FloorRefusal(FloorCase.NOT_HELD, "", "take the floor again before moving it")
                original = facts.min_replicas
            if not original <= value <= facts.max_replicas:
                raise Invalid(
                    f"floor {value} of HPA {key} must lie between its original {original}"
                    f" and its maximum {facts.max_replicas}"
                )
            try:
                written = await self._apply(key, facts, order, original=original, force=forced)
            except Conflict:
                # Changed, or taken by somebody, between our read and our write: the next read tells which.
                if attempt == _ATTEMPTS:
                    raise
                continue
            return FloorHeld(value, original, text(written, "metadata", "resourceVersion"))
        raise Conflict("the HPA kept changing", verb="apply", path=hpa_path(key.namespace, key.name), code=409)

    async def _read(self, key: Key, *, uid: str) -> JsonObject:
        path = hpa_path(key.namespace, key.name)
        document = await self._client.get(path)
        if uid and text(document, "metadata", "uid") != uid:
            raise Conflict("the HPA was replaced since it was seen", verb="get", path=path, code=409)
        return document

    async def _apply(
        self, key: Key, facts: ScalerFacts, order: "_Order", *, original: int, force: bool = False
    ) -> JsonObject:
        step = facts.release_step if order.release_step is None else order.release_step
        annotations = {ORIGINAL_ANNOTATION: str(original)}
        if step is not None:
            annotations[RELEASE_STEP_ANNOTATION] = str(step)
        body = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {
                "name": key.name,
                "namespace": key.namespace,
                "uid": facts.uid,
                "resourceVersion": facts.resource_version,
                # An apply without them would remove them.
                "labels": {HELD_LABEL: "true"},
                "annotations": annotations,
            },
            "spec": {"minReplicas": order.value},
        }
        return await self._client.apply(hpa_path(key.namespace, key.name), body, force=force)

    async def _restore(
        self, key: Key, document: JsonObject, facts: ScalerFacts, *, value: int, original: int
    ) -> JsonObject:
        if facts.min_replicas_managers == _OURS:
            return await self._apply(key, facts, _Order(value), original=original)
        # In a copy no apply is free of conflicts: the copying tool owns every field.
        patch = [*_fence(document), {"op": "replace", "path": "/spec/minReplicas", "value": value}]
        return await self._client.patch(hpa_path(key.namespace, key.name), patch, kind=PatchKind.JSON)

    async def _strip(self, key: Key, document: JsonObject) -> None:
        metadata = mapping(document, "metadata")
        patch = _fence(document)
        # From the last to the first, because each removal moves what follows it.
        patch.extend(
            {"op": "remove", "path": f"/metadata/managedFields/{index}"} for index in reversed(_own_entries(document))
        )
        for field, name in _MARKS:
            if name in mapping(metadata, field):
                patch.append({"op": "remove", "path": f"/metadata/{field}/{name.replace('/', '~1')}"})
        await self._client.patch(hpa_path(key.namespace, key.name), patch, kind=PatchKind.JSON)

    async def _changed(self, key: Key, document: JsonObject, error: Conflict | Invalid) -> bool:
        if isinstance(error, Conflict):
            return True
        now = await self._client.get(hpa_path(key.namespace, key.name))
        return text(now, "metadata", "resourceVersion") != text(document, "metadata", "resourceVersion")


def refusal_of(facts: ScalerFacts) -> FloorRefusal | None:
    """Tell why the minimum of this HPA is not ours to hold; None when it is."""
    if facts.controller_owner or facts.owned_by_us:
        owner = facts.controller_owner or "optiinfra"
        return FloorRefusal(FloorCase.CONTROLLER_OWNER, owner, f"set the minimum in {owner}, which owns this HPA")
    others = [(name, how) for name, how in facts.min_replicas_managers if (name, how) != OUR_MANAGER]
    for name, how in others:
        if how == "Apply":
            return FloorRefusal(FloorCase.APPLY_MANAGER, name, _remedy(name))
    if others:
        name = others[0][0]
        return FloorRefusal(FloorCase.UPDATE_MANAGER, name, _remedy_of_update(name))
    return None


def _remedy(manager: str) -> str:
    return f"remove minReplicas from the manifest of {manager}"


def _remedy_of_update(manager: str) -> str:
    # The API server fills the field in for whoever creates an HPA by anything but server-side apply.
    return f"{manager} wrote minReplicas, or left it to be filled in: leave it out there and set takeover to Once"


def _step(current: int, goal: int, max_step: int | None) -> int:
    if max_step is None:
        return goal
    step = max(1, max_step)
    return max(goal, current - step) if goal < current else min(goal, current + step)


def _copied(document: JsonObject, facts: ScalerFacts) -> bool:
    """Tell whether a tool copied the HPA with our floor on it (a backup restored, ownership records wiped).

    Then whoever owns minReplicas owns our annotation, too. Somebody who only changed minReplicas does not.
    """
    copiers = set(field_managers(document, "metadata", "annotations", ORIGINAL_ANNOTATION))
    owners = facts.min_replicas_managers
    return facts.held and bool(owners) and {entry for entry in owners if entry[0] != FIELD_MANAGER} <= copiers


def _fence(document: JsonObject) -> list[JsonObject]:
    metadata = mapping(document, "metadata")
    return [
        {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
        {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
    ]


def _own_entries(document: JsonObject) -> list[int]:
    return [
        index
        for index, entry in enumerate(objects(document, "metadata", "managedFields"))
        if text(entry, "manager") == FIELD_MANAGER and not text(entry, "subresource")
    ]
