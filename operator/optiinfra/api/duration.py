"""Durations as Kubernetes writes them in new APIs (GEP-2257): `30s`, `5m`, `1h30m`, `1s500ms`.

A strict little parser of the same grammar as `kubernetes.utils.duration`, which only `cluster` may import: one to
four pairs of a whole number (at most five digits) and a unit. It refuses `1d`, `1.5h`, signs and blanks, because
the API server's own `duration()` refuses them, or reads them differently.
"""

import re

from optiinfra.api.errors import InvalidValue
from optiinfra.domain.units import Seconds

PATTERN = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"
"""The grammar of GEP-2257, also in the CRDs."""

MAX_LENGTH = 28
"""Four pairs of five digits and the longest unit."""

REMEDY = "write a duration such as 30s, 5m or 1h30m (units h, m, s, ms; whole numbers)"

_WHOLE = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")
_PAIR = re.compile(r"([0-9]{1,5})(h|ms|m|s)")
_MILLISECONDS = {"h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_MAX_SECONDS = 99_999 * 3600


def parse_duration(text: str) -> Seconds:
    """Return the length in seconds of a duration such as `1h30m`."""
    if not _WHOLE.fullmatch(text, 0, MAX_LENGTH + 1):
        raise InvalidValue(f"{text[:MAX_LENGTH]!r} is not a duration: {REMEDY}")
    return Seconds(sum(int(number) * _MILLISECONDS[unit] for number, unit in _PAIR.findall(text)) / 1000)


def format_duration(seconds: float) -> str:
    """Write a length in the shortest form of the grammar, to the millisecond; zero is `0s`."""
    if not 0 <= seconds <= _MAX_SECONDS:
        raise InvalidValue(f"{seconds} s cannot be written as a duration: it must be between 0 and 99999h")
    rest = round(seconds * 1000)
    parts = []
    for unit in ("h", "m", "s", "ms"):
        count, rest = divmod(rest, _MILLISECONDS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
