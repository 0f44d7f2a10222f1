"""The objects as last seen, parsed once. Events, sweeps and our own writes put them here; rounds only read.

An object whose spec cannot be parsed stays here as `Broken`, so that its status can say why: it must not vanish from
sight because somebody mistyped a field. The registry also knows which of several objects on one target acts: the
older one, then the one with the smaller uid. It keeps no history and decides nothing else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pydantic import ValidationError

from optiinfra.api.errors import InvalidObject
from optiinfra.api.v1alpha1 import (
    APPROVE_ANNOTATION,
    ClusterResourceOptimization,
    ObjectMeta,
    ResourceOptimization,
    TargetRef,
)
from optiinfra.control.keys import Kind, ObjectKey

DRY_RUN_ANNOTATION = "optiinfra.io/dry-run"


@dataclass(frozen=True, slots=True)
class Broken:
    """An object whose spec cannot be acted on."""

    metadata: ObjectMeta
    field: str
    remedy: str
    status: Mapping[str, Any]
    """The stored status as it is, so that conditions keep their times."""


Known: TypeAlias = ResourceOptimization | ClusterResourceOptimization | Broken

_KINDS: dict[Kind, type[ResourceOptimization] | type[ClusterResourceOptimization]] = {
    "ResourceOptimization": ResourceOptimization,
    "ClusterResourceOptimization": ClusterResourceOptimization,
}


@dataclass(frozen=True, slots=True)
class Change:
    """What an event meant."""

    key: ObjectKey
    is_new: bool
    spec_changed: bool
    approval_changed: bool

    @property
    def needs_round(self) -> bool:
        """Whether somebody asked for something. Our own status writes come back as events and ask for nothing."""
        return self.is_new or self.spec_changed or self.approval_changed


@dataclass(slots=True)
class Registry:
    """Parsed objects by key."""

    _objects: dict[ObjectKey, Known] = field(default_factory=dict)
    _by_target: dict[tuple[str, str, str, str], set[ObjectKey]] = field(default_factory=dict)
    _clusters: dict[ObjectKey, ClusterResourceOptimization] = field(default_factory=dict)
    """Those among the objects; asked for with each object of a round."""

    def upsert(self, kind: Kind, body: Mapping[str, Any]) -> Change:
        """Take an object as the API server gives it.

        Raises:
            InvalidObject: the metadata itself cannot be read; nothing is kept.
        """
        if (same := self._unchanged(kind, body)) is not None:
            return same
        known = _parse(kind, body)
        key = key_of(kind, known.metadata)
        old = self._objects.get(key)
        if old is not None and _older(known, old):
            return Change(key, is_new=False, spec_changed=False, approval_changed=False)
        self.remove(key)
        self._put(key, known)
        for target in _targets(known):
            self._by_target.setdefault(target, set()).add(key)
        is_new = old is None or old.metadata.uid != known.metadata.uid
        return Change(
            key,
            is_new=is_new,
            spec_changed=is_new or (old is not None and old.metadata.generation != known.metadata.generation),
            approval_changed=old is not None and _asked(old) != _asked(known),
        )

    def _unchanged(self, kind: Kind, body: Mapping[str, Any]) -> Change | None:
        """Answer for a version that is known, as echoes of our own writes are: it is not parsed again."""
        metadata = body.get("metadata")
        if not isinstance(metadata, Mapping):
            return None
        key = ObjectKey(kind, str(metadata.get("namespace", "")), str(metadata.get("name", "")))
        old = self._objects.get(key)
        version = (metadata.get("uid"), metadata.get("resourceVersion"))
        if old is None or not version[1] or version != (old.metadata.uid, old.metadata.resource_version):
            return None
        return Change(key, is_new=False, spec_changed=False, approval_changed=False)

    def replace(self, key: ObjectKey, known: Known) -> None:
        """Put back an object whose status or version our own write changed; its spec must be the same."""
        if key in self._objects:
            self._put(key, known)

    def _put(self, key: ObjectKey, known: Known) -> None:
        self._objects[key] = known
        if isinstance(known, ClusterResourceOptimization):
            self._clusters[key] = known

    def remove(self, key: ObjectKey) -> bool:
        """Forget an object; tells whether it was known."""
        known = self._objects.pop(key, None)
        self._clusters.pop(key, None)
        if known is None:
            return False
        for target in _targets(known):
            keys = self._by_target.get(target, set())
            keys.discard(key)
            if not keys:
                self._by_target.pop(target, None)
        return True

    def get(self, key: ObjectKey) -> Known | None:
        """Return an object as last seen."""
        return self._objects.get(key)

    def all_keys(self) -> tuple[ObjectKey, ...]:
        """All keys."""
        return tuple(self._objects)

    def services(self) -> Iterable[tuple[ObjectKey, ResourceOptimization]]:
        """All ResourceOptimizations that could be parsed."""
        return [(key, known) for key, known in self._objects.items() if isinstance(known, ResourceOptimization)]

    def clusters(self) -> Iterable[tuple[ObjectKey, ClusterResourceOptimization]]:
        """All ClusterResourceOptimizations that could be parsed, oldest first."""
        return sorted(self._clusters.items(), key=lambda pair: _age_order(pair[1].metadata))

    def acting(self, key: ObjectKey, target: TargetRef) -> ObjectKey:
        """Tell which object acts on this target: the older one, then the one with the smaller uid."""
        rivals = self._by_target.get(_target_key(key.namespace, target), {key})
        return min(rivals, key=lambda rival: _age_order(self._objects[rival].metadata)) if rivals else key


def key_of(kind: Kind, metadata: ObjectMeta) -> ObjectKey:
    """Return the key of an object."""
    return ObjectKey(kind, metadata.namespace, metadata.name)


def _parse(kind: Kind, body: Mapping[str, Any]) -> Known:
    try:
        return _KINDS[kind].parse(body)
    except InvalidObject as error:
        try:
            metadata = ObjectMeta.model_validate(body.get("metadata"))
        except ValidationError:
            raise error from None  # it names the field; without a name there is nothing to keep it under
        status = body.get("status")
        return Broken(
            metadata=metadata,
            field=error.field,
            remedy=error.remedy,
            status=status if isinstance(status, Mapping) else {},
        )


def _older(new: Known, old: Known) -> bool:
    # resourceVersions are opaque by contract, but equal ones are equal; order is only compared where both are numbers
    # (KEP-5504 makes them comparable). A late event must not undo what our own write already told us, nor bring back a
    # predecessor of the same name: whatever its uid, what exists now was created later.
    mine, theirs = new.metadata.resource_version, old.metadata.resource_version
    return mine.isdigit() and theirs.isdigit() and int(mine) < int(theirs)


def _asked(known: Known) -> tuple[str, str]:
    annotations = known.metadata.annotations
    return annotations.get(APPROVE_ANNOTATION, ""), annotations.get(DRY_RUN_ANNOTATION, "")


def _target_key(namespace: str, target: TargetRef) -> tuple[str, str, str, str]:
    return namespace, target.api_version.partition("/")[0], target.kind, target.name


def _targets(known: Known) -> list[tuple[str, str, str, str]]:
    if not isinstance(known, ResourceOptimization) or known.metadata.deleting:
        return []
    references = [known.spec.target_ref] if known.spec.target_ref else [v.target_ref for v in known.spec.variants or ()]
    return [_target_key(known.metadata.namespace, reference) for reference in references]


def _age_order(metadata: ObjectMeta) -> tuple[float, str]:
    created = metadata.creation_timestamp
    return (created.unix if created is not None else float("inf")), metadata.uid
