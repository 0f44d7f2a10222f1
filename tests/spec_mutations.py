"""Hypothesis strategies of changes to an object's spec, made from the schema of its CRD.

A change names a path of the schema and the value to put there: one that the schema was meant for, one at or just past a
bound, one of another type, or nothing at all. Changes are applied to whatever the object holds at that moment, so a
sequence of them wanders away from any object that a person would write. Whether the API server takes it is its matter.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]
Path = tuple[str, ...]
ABSENT = object()
_OTHER_TYPES: tuple[Any, ...] = (None, [], {}, "x", -1, True, 1.5, [{}], {"unknown": "field"})
_WORDS = ("a", "svc", "no-such-thing", "", "A b", "-a", "a" * 64, "ä", "../../etc/passwd", "${HOME}", "x\ny", "%s%s")
_BY_RULE = (
    ("(h|m|s|ms)", ("5s", "30s", "1m30s", "10m", "24h", "0s", "1ms", "99999h", "5", "-5s", "1d", "1h1h1h1h1h")),
    ("%", ("1%", "0.05", "100%", "101%", "0", "1", "1.0000001", "-1%", "NaN", "1e-3")),
    ("[MBT]", ("7B", "70B", "0.5M", "1.5T", "0B", "7", "1e9", "9999.999T")),
    ("[0-5][0-9]", ("00:00", "23:59", "24:00", "7:00")),
    ("_+-]*(/", ("UTC", "Europe/Berlin", "America/New_York", "Mars/Phobos", "UTC+25", "A/B/C/D")),
    ("@%/?-", ("/metrics", "/", "/metrics?name=%00", "metrics", "/a b", "/" * 257)),
)
_MOMENTS = (
    "2026-01-01T00:00:00Z",
    "2026-12-31T23:59:59+14:00",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z",
    "today",
)


@dataclass(frozen=True)
class Change:
    """One value at one place of a spec."""

    path: Path
    value: Any

    def apply(self, spec: Any) -> Any:
        """Return a changed copy; lists on the way are changed in their first entry."""
        changed = copy.deepcopy(spec)
        if not self.path:
            return changed
        place = changed
        for step in self.path[:-1]:
            inner = place.get(step) if isinstance(place, dict) else None
            if isinstance(inner, list) and inner and isinstance(inner[0], dict):
                place = inner[0]
                continue
            if not isinstance(inner, dict):
                inner = {}
                place[step] = inner
            place = inner
        if self.value is ABSENT:
            place.pop(self.path[-1], None)
        else:
            place[self.path[-1]] = copy.deepcopy(self.value)
        return changed


def changes(schema: Schema) -> st.SearchStrategy[Change]:
    """Strategy of changes anywhere in a schema; each field of the spec is as likely as any other, large or small."""
    fields = [list(_places(each, (name,))) for name, each in schema["properties"].items()]

    def at(place: tuple[Path, Schema]) -> st.SearchStrategy[Change]:
        path, found = place
        odd = st.one_of(st.just(ABSENT), st.sampled_from(_OTHER_TYPES))
        usual = _values(found)
        return st.one_of(usual, usual, usual, usual, odd).map(lambda value: Change(path, value))

    return st.sampled_from(fields).flatmap(st.sampled_from).flatmap(at)


def _places(schema: Schema, path: Path) -> Iterator[tuple[Path, Schema]]:
    yield path, schema
    inner = schema["items"] if schema.get("type") == "array" else schema
    for name, each in inner.get("properties", {}).items():
        yield from _places(each, (*path, name))


def _values(schema: Schema) -> st.SearchStrategy[Any]:
    kind = schema.get("type")
    if kind == "object":
        return _objects(schema)
    if kind == "array":
        most = min(schema.get("maxItems", 3), 3)
        return st.lists(_values(schema["items"]), max_size=most + 1)
    if kind == "integer":
        bounds = (schema.get("minimum", 0), schema.get("maximum", 100))
        low, high = bounds
        good = [low, low + 1, min(low + 2, high), (low + high) // 2, high - 1, high]
        return st.sampled_from([*good, low - 1, high + 1, 2**63 - 1])
    if kind == "boolean":
        return st.booleans()
    return st.sampled_from(_texts(schema))


def _texts(schema: Schema) -> tuple[str, ...]:
    if "enum" in schema:
        return (*schema["enum"], *schema["enum"], "Unknown", schema["enum"][0].lower())
    if schema.get("format") == "date-time":
        return _MOMENTS
    rules = " ".join(rule["rule"] for rule in schema.get("x-kubernetes-validations", ()))
    longest = "a" * schema.get("maxLength", 300)
    return (*next((texts for mark, texts in _BY_RULE if mark in rules), _WORDS), longest, longest + "a")


def _objects(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    properties = schema.get("properties", {})
    needed = {name: _values(properties[name]) for name in schema.get("required", ()) if name in properties}
    optional = {name: _values(each) for name, each in properties.items() if name not in needed}
    some = dict(list(optional.items())[:4])
    return st.fixed_dictionaries(needed, optional=some)
