"""The scalar types of the API: durations, shares, amounts of money, moments, names, paths.

Each is a `str` with a grammar, a length limit and a message; the API server checks the same grammar with a CEL rule
rather than a `pattern`, because a failed pattern shows people a regular expression and nothing else. Floats stay out
of specs: they do not survive every client's encoding.
"""

import re
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from optiinfra.api import duration
from optiinfra.api.base import VALIDATIONS
from optiinfra.api.errors import InvalidValue
from optiinfra.domain.units import Money, Ratio, Seconds, UnixTime


class Text(str):
    """A string with a grammar. Subclasses set the class variables."""

    __slots__ = ()

    MAX_LENGTH: ClassVar[int] = 253
    PATTERN: ClassVar[str] = ""
    """Regular expression that both CEL (RE2) and Python read; empty for any text."""
    MESSAGE: ClassVar[str] = ""
    """What to write instead."""
    FORMAT: ClassVar[str] = ""
    """OpenAPI format, where the API server checks one."""

    @classmethod
    def check(cls, text: str) -> Self:
        """Return the text as this type, or raise InvalidValue with the remedy."""
        pattern = cls.PATTERN.removeprefix("^").removesuffix("$")
        if pattern and not re.fullmatch(pattern, text):
            raise InvalidValue(f"{text[:64]!r}: {cls.MESSAGE}")
        return cls(text)

    @classmethod
    def cel(cls) -> str:
        """Return the grammar as a CEL expression about `self`."""
        return f"self.matches({quote(cls.PATTERN)})" if cls.PATTERN else ""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate as a bounded string, then by the grammar."""
        return core_schema.no_info_after_validator_function(
            cls.check,
            core_schema.str_schema(max_length=cls.MAX_LENGTH, strict=True),
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe the type for the CRD."""
        described: JsonSchemaValue = {"type": "string", "maxLength": cls.MAX_LENGTH}
        if cls.FORMAT:
            described["format"] = cls.FORMAT
        if cls.PATTERN:
            described[VALIDATIONS] = [{"rule": cls.cel(), "message": cls.MESSAGE}]
        return described


def quote(text: str) -> str:
    """Write a text as a CEL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Duration(Text):
    """A length of time such as 30s, 5m or 1h30m (GEP-2257)."""

    __slots__ = ()
    MAX_LENGTH = duration.MAX_LENGTH
    PATTERN = duration.PATTERN
    MESSAGE = duration.REMEDY

    @property
    def seconds(self) -> Seconds:
        """The same in seconds."""
        return duration.parse_duration(self)

    @classmethod
    def of(cls, seconds: float) -> Self:
        """Write a number of seconds as a duration."""
        return cls(duration.format_duration(seconds))


class AutoDuration(Text):
    """A duration, or "Auto" for a measured one."""

    __slots__ = ()
    MAX_LENGTH = duration.MAX_LENGTH
    PATTERN = f"^(Auto|{duration.PATTERN.strip('^$')})$"
    MESSAGE = f"write Auto, or {duration.REMEDY.removeprefix('write ')}"

    @property
    def seconds(self) -> Seconds | None:
        """The length in seconds; None when it is to be measured."""
        return None if self == "Auto" else duration.parse_duration(self)


class Share(Text):
    """A share of a whole: "60%" or "0.6"."""

    __slots__ = ()
    MAX_LENGTH = 12
    PATTERN = r"^((100|[0-9]{1,2}(\.[0-9]{1,4})?)%|0(\.[0-9]{1,6})?|1(\.0{1,6})?)$"
    MESSAGE = 'write a share between 0 and 1 in quotes, such as "0.01", or a percentage such as 60%'

    @property
    def ratio(self) -> Ratio:
        """The share, 0 to 1."""
        return Ratio(float(self[:-1]) / 100 if self.endswith("%") else float(self))


class Amount(Text):
    """An amount of money: a whole number, or a decimal number in quotes."""

    __slots__ = ()
    MAX_LENGTH = 20
    PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,6})?$"
    MESSAGE = 'write an amount such as 2 or "2.50" (quotes around decimals, no currency sign)'

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Take whole numbers too, as YAML gives them without quotes."""
        return core_schema.no_info_before_validator_function(
            lambda value: str(value) if type(value) is int else value,
            super().__get_pydantic_core_schema__(source, handler),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe an int-or-string; the rule has to look at both."""
        rule = f"type(self) == int ? self >= 0 : ({cls.cel()})"
        return {
            "x-kubernetes-int-or-string": True,
            "maxLength": cls.MAX_LENGTH,
            VALIDATIONS: [{"rule": rule, "message": cls.MESSAGE}],
        }

    @property
    def money(self) -> Money:
        """The amount as a number."""
        return Money(float(self))


class Time(Text):
    """A moment, RFC 3339 in UTC, to the second."""

    __slots__ = ()
    MAX_LENGTH = 35
    FORMAT = "date-time"

    @classmethod
    def check(cls, text: str) -> Self:
        """Refuse what is not a moment with its offset."""
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise InvalidValue(f"{text[:40]!r}: write a time such as 2026-01-31T12:00:00Z ({error})") from error
        if moment.tzinfo is None:
            raise InvalidValue(f"{text[:40]!r}: write the time with its offset, such as 2026-01-31T12:00:00Z")
        return cls(text)

    @property
    def unix(self) -> UnixTime:
        """Seconds since 1970-01-01 UTC."""
        return UnixTime(datetime.fromisoformat(self).timestamp())

    @classmethod
    def of(cls, moment: float) -> Self:
        """Write a Unix time, cut to the second."""
        return cls(datetime.fromtimestamp(int(moment), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


class Label(Text):
    """A DNS label: lower-case letters, digits and dashes, at most 63."""

    __slots__ = ()
    MAX_LENGTH = 63
    PATTERN = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
    MESSAGE = "write lower-case letters, digits and dashes, beginning and ending with a letter or digit"


class ContainerName(Label):
    """The name of a container, or nothing."""

    __slots__ = ()
    PATTERN = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"


class ObjectName(Text):
    """The name of a Kubernetes object (DNS subdomain)."""

    __slots__ = ()
    PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
    MESSAGE = "write the object's name: lower-case letters, digits, dashes and dots"


class UrlPath(Text):
    """An absolute path of a URL."""

    __slots__ = ()
    MAX_LENGTH = 256
    PATTERN = "^/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*$"
    MESSAGE = 'write a path that begins with "/", such as /metrics, without blanks'


class Url(Text):
    """An http or https address without credentials in it."""

    __slots__ = ()
    MAX_LENGTH = 512
    PATTERN = r"^https?://[A-Za-z0-9.\[\]:_-]+(/[A-Za-z0-9._~!$&'()*+,;=:%/?-]*)?$"
    MESSAGE = (
        "write http://host:port or https://host:port, with a path if needed; a user name or password never belongs here"
    )
