"""The base of all API models: frozen, camelCase outside, tolerant of fields it does not know, with rules.

A `Rule` is one constraint over several fields, written twice side by side: as CEL for the API server and as a Python
predicate for objects that never met this schema (older objects, files given to a command). Both give the same
message. Models are the only schema source; whatever the CRDs say is read from here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from optiinfra import footprint

VALIDATIONS = "x-kubernetes-validations"
RULE_ERROR = "rule"
"""Type of the pydantic error that a broken rule raises; its context carries `field`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One constraint of a model, for the API server and for Python."""

    cel: str
    message: str
    """Names the field and the remedy."""
    field: str = ""
    """Property of the model that the message is about (its name in JSON); empty for the model as a whole."""
    holds: Callable[[Any], bool] | None = None
    """The same in Python, given the model. None for transition rules, which need the old object."""

    def to_schema(self) -> dict[str, str]:
        """Return the entry of x-kubernetes-validations."""
        entry = {"rule": self.cel, "message": self.message}
        if self.field:
            entry["fieldPath"] = f".{self.field}"
        return entry


@dataclass(frozen=True, slots=True)
class Unique:
    """Marks a list whose entries must differ, as a whole or in one field; the API server knows it by the list type."""

    field: str = ""

    def check(self, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        """Refuse the second of two equal entries."""
        seen = set()
        for entry in entries:
            key = getattr(entry, self.field) if self.field else entry
            if key in seen:
                raise PydanticCustomError("duplicate", "{text}", {"text": f"{key} is listed twice; remove one"})
            seen.add(key)
        return entries

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check after the entries themselves."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))


class ApiModel(BaseModel):
    """A part of a custom resource."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=footprint.descriptions,
        allow_inf_nan=False,
    )

    RULES: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        for rule in self.RULES:
            if rule.holds is not None and not rule.holds(self):
                raise PydanticCustomError(RULE_ERROR, "{text}", {"text": rule.message, "field": rule.field})
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add the rules to the model's schema."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        if cls.RULES:
            schema[VALIDATIONS] = [rule.to_schema() for rule in cls.RULES]
        return schema

    def to_wire(self) -> dict[str, Any]:
        """Return plain JSON data as the API server takes it; fields without a value are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
