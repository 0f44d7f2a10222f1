"""Reading JSON documents: tolerant of absence, intolerant of lies.

A missing field gives the empty value of its type, because the API omits empty fields. A field of the wrong type raises
`Malformed` with its path: it is never coerced. This is the only place above the transport that touches dictionaries.
"""

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, TypeVar

import orjson

from optiinfra.cluster.errors import Malformed
from optiinfra.domain.units import UnixTime

Json: TypeAlias = Any
"""Opaque JSON: passed on, never looked into above this package."""

JsonObject: TypeAlias = dict[str, Any]

_T = TypeVar("_T")


class Key(NamedTuple):
    """Namespace and name of an object; the namespace of a cluster-scoped one is empty."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def decode(data: bytes, *, what: str) -> JsonObject:
    """Decode a JSON object; anything else is `Malformed`."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Malformed(f"{what} is a JSON {type(value).__name__}, not an object")
    return value


def _find(document: Mapping[str, Any], path: tuple[str, ...], kind: type[_T]) -> _T | None:
    # Most fields lie at the top of a dictionary; asking an abstract class whether it is one costs more than the rest.
    if len(path) == 1 and type(document) is dict:
        value: Any = document.get(path[0])
    else:
        value = _descend(document, path)
    if value is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Malformed(f"field {'.'.join(path)} is {type(value).__name__}, not {kind.__name__}")
    return value


def _descend(document: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = document
    for depth, step in enumerate(path):
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise Malformed(f"field {'.'.join(path[:depth])} is {type(value).__name__}, not an object")
        value = value.get(step)
    return value


def text(document: Mapping[str, Any], *path: str) -> str:
    """Return a string field, or an empty string."""
    return _find(document, path, str) or ""


def integer(document: Mapping[str, Any], *path: str) -> int:
    """Return an integer field, or 0 (the API omits zeros)."""
    return _find(document, path, int) or 0


def integer_or_none(document: Mapping[str, Any], *path: str) -> int | None:
    """Return an integer field, or None when it is absent."""
    return _find(document, path, int)


def flag(document: Mapping[str, Any], *path: str) -> bool:
    """Return a boolean field, or False."""
    return _find(document, path, bool) or False


def mapping(document: Mapping[str, Any], *path: str) -> JsonObject:
    """Return an object field, or an empty one."""
    return _find(document, path, dict) or {}


def objects(document: Mapping[str, Any], *path: str) -> list[JsonObject]:
    """Return a list of objects, or an empty list."""
    found = _find(document, path, list) or []
    for entry in found:
        if not isinstance(entry, dict):
            raise Malformed(f"field {'.'.join(path)} holds {type(entry).__name__}, not objects")
    return found


def texts(document: Mapping[str, Any], *path: str) -> tuple[str, ...]:
    """Return a list of strings, or an empty tuple."""
    found = _find(document, path, list) or []
    for entry in found:
        if not isinstance(entry, str):
            raise Malformed(f"field {'.'.join(path)} holds {type(entry).__name__}, not strings")
    return tuple(found)


def labels_of(document: Mapping[str, Any], *path: str) -> dict[str, str]:
    """Return a map of strings with interned keys and values: fleets repeat them thousands of times."""
    found = mapping(document, *path)
    for key, value in found.items():
        if not isinstance(value, str):
            raise Malformed(f"field {'.'.join(path)}.{key} is {type(value).__name__}, not str")
    return {sys.intern(key): sys.intern(value) for key, value in found.items()}


def key_of(document: Mapping[str, Any]) -> Key:
    """Return the key of an API object."""
    name = text(document, "metadata", "name")
    if not name:
        raise Malformed("object without metadata.name")
    return Key(sys.intern(text(document, "metadata", "namespace")), name)


def time_of(document: Mapping[str, Any], *path: str) -> UnixTime | None:
    """Return an RFC 3339 time field, or None when it is absent."""
    written = text(document, *path)
    if not written:
        return None
    try:
        return _moment(written)
    except ValueError as error:
        raise Malformed(f"field {'.'.join(path)} is not a time: {written[:64]!r}") from error


@lru_cache(maxsize=4096)
def _moment(written: str) -> UnixTime:
    """Parse a time; equal ones share one number, as the many moments of a fleet's pods mostly fall together."""
    return UnixTime(datetime.fromisoformat(written).timestamp())


def rfc3339(moment: UnixTime) -> str:
    """Write a moment as metav1.MicroTime, which metav1.Time readers accept too."""
    return datetime.fromtimestamp(moment, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
