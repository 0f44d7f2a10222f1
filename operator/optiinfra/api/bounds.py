"""Bounds of duration and share fields: `Annotated[Duration, DurationBetween("5s", "1h")]`.

They replace the type's own CEL rule by one that checks grammar and bounds at once, so that a value that does not
parse gives one message and not a second one about a failed comparison.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from optiinfra.api.base import VALIDATIONS
from optiinfra.api.errors import InvalidValue
from optiinfra.api.scalars import Duration, Share, quote


@dataclass(frozen=True, slots=True)
class DurationBetween:
    """Shortest and longest allowed duration."""

    low: str
    high: str

    @property
    def message(self) -> str:
        """What to write."""
        return f"write a duration between {self.low} and {self.high}, such as 30s, 5m or 1h30m (units h, m, s, ms)"

    def check(self, value: Duration) -> Duration:
        """Refuse what is outside."""
        if not Duration(self.low).seconds <= value.seconds <= Duration(self.high).seconds:
            raise InvalidValue(f"{value}: {self.message}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check the bounds after the type."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Write the rule with the bounds."""
        described = handler(schema)
        bounds = f"duration(self) >= duration({quote(self.low)}) && duration(self) <= duration({quote(self.high)})"
        described[VALIDATIONS] = [{"rule": f"{Duration.cel()} && {bounds}", "message": self.message}]
        return described


@dataclass(frozen=True, slots=True)
class ShareBetween:
    """Smallest and largest allowed share, as ratios."""

    low: float
    high: float

    @property
    def message(self) -> str:
        """What to write."""
        return f'write a share between {self.low:g} and {self.high:g} in quotes, or a percentage such as "5%"'

    def check(self, value: Share) -> Share:
        """Refuse what is outside."""
        if not self.low <= value.ratio <= self.high:
            raise InvalidValue(f"{value}: {self.message}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check the bounds after the type."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Write the rule with the bounds."""
        described = handler(schema)
        ratio = "(self.endsWith('%') ? double(self.substring(0, self.size() - 1)) / 100.0 : double(self))"
        bounds = f"{ratio} >= {float(self.low)} && {ratio} <= {float(self.high)}"
        described[VALIDATIONS] = [{"rule": f"{Share.cel()} && {bounds}", "message": self.message}]
        return described
