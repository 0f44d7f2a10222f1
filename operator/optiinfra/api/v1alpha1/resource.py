"""What all kinds have in common: group, version, names, metadata, parsing at the door.

An object is parsed once, where it enters; beyond that only these frozen models travel. Unknown fields are ignored (a
newer API server or client may know more); a wrong value is an `InvalidObject` that names field and remedy. A status
that does not fit (written by another version of the operator) is set aside with its reason in `status_error`, because
an object that can never be parsed again could never be repaired by us.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, ValidationError

from optiinfra.api.base import RULE_ERROR, ApiModel
from optiinfra.api.errors import InvalidObject
from optiinfra.api.scalars import Time

GROUP = "optiinfra.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

APPROVE_ANNOTATION = f"{GROUP}/approve"
"""Comma list of recommendation ids that a human approves."""
HELD_LABEL = f"{GROUP}/held"
"""On a HorizontalPodAutoscaler whose minReplicas is a floor of ours."""
ORIGINAL_ANNOTATION = f"{GROUP}/original"
"""On the same: the values before we came."""


@dataclass(frozen=True, slots=True)
class Column:
    """A printer column of `kubectl get`."""

    name: str
    type: str
    json_path: str
    description: str
    priority: int = 0
    """1: only with -o wide."""


class OwnerReference(ApiModel):
    """Another object that this one belongs to."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False


class ObjectMeta(ApiModel):
    """The part of an object's metadata that is read here."""

    name: str
    namespace: str = ""
    """Empty for cluster-scoped objects."""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: Time | None = None
    deletion_timestamp: Time | None = None
    """Set while the object is being deleted."""
    annotations: Mapping[str, str] = Field(default_factory=dict)
    labels: Mapping[str, str] = Field(default_factory=dict)
    owner_references: Annotated[tuple[OwnerReference, ...], Field()] = ()

    @property
    def deleting(self) -> bool:
        """Whether the object is being deleted."""
        return self.deletion_timestamp is not None


class CustomResource(ApiModel):
    """One object of ours."""

    GROUP: ClassVar[str] = GROUP
    VERSION: ClassVar[str] = VERSION
    API_VERSION: ClassVar[str] = API_VERSION
    KIND: ClassVar[str]
    PLURAL: ClassVar[str]
    SINGULAR: ClassVar[str]
    SHORT_NAMES: ClassVar[tuple[str, ...]]
    CATEGORIES: ClassVar[tuple[str, ...]] = ("optiinfra",)
    SCOPE: ClassVar[str] = "Namespaced"
    STATUS_SUBRESOURCE: ClassVar[bool] = True
    COLUMNS: ClassVar[tuple[Column, ...]]

    metadata: ObjectMeta
    status_error: str = Field(default="", exclude=True)
    """Why the stored status was set aside; empty when it was read."""

    @property
    def key(self) -> str:
        """`namespace/name`, or `name` when cluster-scoped."""
        return f"{self.metadata.namespace}/{self.metadata.name}" if self.metadata.namespace else self.metadata.name

    @classmethod
    def parse(cls, obj: Mapping[str, Any]) -> Self:
        """Read an object as the API server or a file gives it."""
        subject = cls._subject(obj)
        if obj.get("kind", cls.KIND) != cls.KIND or obj.get("apiVersion", API_VERSION) != API_VERSION:
            found = f"{obj.get('apiVersion')} {obj.get('kind')}"
            raise InvalidObject(
                subject=subject, field="kind", remedy=f"found {found}, expected {API_VERSION} {cls.KIND}"
            )
        content = {key: value for key, value in obj.items() if key in ("metadata", "spec")}
        status_error = ""
        if isinstance(obj.get("status"), Mapping) and "status" in cls.model_fields:
            try:
                cls.model_fields["status"].annotation.model_validate(obj["status"])  # type: ignore[union-attr]  # a model
                content["status"] = obj["status"]
            except ValidationError as error:
                field, remedy = _first(error)
                status_error = f"status.{field}: {remedy}"
        try:
            return cls.model_validate({**content, "statusError": status_error})
        except ValidationError as error:
            field, remedy = _first(error)
            raise InvalidObject(subject=subject, field=field, remedy=remedy) from error

    @classmethod
    def _subject(cls, obj: Mapping[str, Any]) -> str:
        metadata = obj.get("metadata")
        if not isinstance(metadata, Mapping):
            return cls.KIND
        return f"{cls.KIND} {'/'.join(str(metadata[key]) for key in ('namespace', 'name') if metadata.get(key))}"


def _first(error: ValidationError) -> tuple[str, str]:
    """Return field and remedy of the first thing that is wrong."""
    details = error.errors(include_url=False, include_input=False)
    first = details[0]
    location = list(first["loc"])
    if first["type"] == RULE_ERROR and first["ctx"]["field"]:
        location.append(first["ctx"]["field"])
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    message = first["msg"].removeprefix("Value error, ")
    if len(details) > 1:
        message += f" (and {len(details) - 1} more)"
    return path.removeprefix(".") or "spec", message
