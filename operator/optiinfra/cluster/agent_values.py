"""Single values of an agent's snapshot: a number, or an Unknown with the reason that the agent gives.

Null means what the object's `unknown` map says. A number that cannot be (negative, infinite, a share above 1) becomes
an Unknown of that one value; it never spoils the rest of the document. A snapshot holds some hundred of these, so they
are read without a detour.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from optiinfra.cluster.document import JsonObject
from optiinfra.domain.readings import Unknown, UnknownReason, Value

_INFINITE: Final = math.inf
_LARGE: Final = 1 << 1000
"""Integers from here on may be too large for a float."""
_RATIO_CEILING: Final = 1.05
"""Sampling jitter lets a busy ratio exceed 1 a little; it is then 1."""
_REASONS: Final[Mapping[str, UnknownReason]] = {
    "unsupported": UnknownReason.UNSUPPORTED,
    "failed": UnknownReason.INVALID,
    "denied": UnknownReason.REFUSED,
    "unavailable": UnknownReason.UNSUPPORTED,
    "warming_up": UnknownReason.TOO_FEW_SAMPLES,
}


def plain(value: object) -> float | None:
    """Return a finite number, or None for whatever else it is."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    # An integer too large for a float is as impossible as infinity.
    try:
        return float(value)
    except OverflowError:
        return None


def amount(holder: JsonObject, name: str) -> Value:
    """Return a number of at least 0."""
    value = holder.get(name)
    if type(value) is float and 0.0 <= value < _INFINITE:
        return value
    # Agents write whole numbers without a point, and most numbers are.
    if type(value) is int and 0 <= value < _LARGE:
        return float(value)
    return amount_of(value, holder.get("unknown"), name)


def amount_of(value: object, unknown: Any, name: str) -> Value:
    """Return a number of at least 0 out of a row; `unknown` is the row's map of reasons, if it has one."""
    if type(value) is float and 0.0 <= value < math.inf:
        return value
    if value is None:
        said = unknown.get(name) if isinstance(unknown, dict) else None
        return _absent(name, str(said or "not reported")[:128])
    number = plain(value)
    if number is None or number < 0.0:
        return Unknown(UnknownReason.INVALID, f"agent: {name} is not a number of that kind")
    return number


@lru_cache(maxsize=1024)
def _absent(name: str, said: str) -> Unknown:
    """Return why a value is null; the same few are said of every GPU of a fleet, and share one object."""
    return Unknown(_REASONS.get(said, UnknownReason.NOT_MEASURED), f"agent: {name} {said}")


def ratio(holder: JsonObject, name: str) -> Value:
    """Return a share of 0 to 1."""
    found = holder.get(name)
    if type(found) is float and 0.0 <= found <= 1.0:
        return found
    value = amount(holder, name)
    if isinstance(value, Unknown) or value <= 1.0:
        return value
    return 1.0 if value <= _RATIO_CEILING else Unknown(UnknownReason.INVALID, f"agent: {name} is above 1")


def both(one: Value, other: Value) -> Value:
    """Add two numbers up; unknown where either is."""
    if isinstance(one, Unknown):
        return one
    return other if isinstance(other, Unknown) else one + other


def known_of(one: Value, other: Value) -> Value:
    """Add up what is known of two parts; unknown where neither is."""
    if isinstance(one, Unknown):
        return other
    return one if isinstance(other, Unknown) else one + other
