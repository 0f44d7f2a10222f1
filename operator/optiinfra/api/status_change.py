"""Whether a status is worth a write: an idle fleet must cost the API server nothing.

Words decide at once (conditions, enums, reasons, ids, a number that became unknown); so does a decided replica count.
Other numbers, times and sentences with numbers in them are written at most every five minutes, and what is equal
never. `lastRound` says when the status was last written and is no difference by itself.
"""

from typing import Any, Final

from optiinfra.api.v1alpha1.cluster_resource_optimization import ClusterResourceOptimizationStatus
from optiinfra.api.v1alpha1.resource_optimization import ResourceOptimizationStatus
from optiinfra.domain.units import Seconds, UnixTime

NUMBERS_INTERVAL: Final = Seconds(300.0)
"""Numbers alone are written at most this often."""

Status = ResourceOptimizationStatus | ClusterResourceOptimizationStatus

_VOLATILE = frozenset(
    {"message", "summary", "at", "since", "measuredAt", "expiresAt", "lower", "upper", "patch", "lastTransitionTime"}
)
"""Texts that carry numbers or times; a change of meaning shows in the words beside them."""


def is_meaningful_change(old: Status | None, new: Status, *, now: UnixTime) -> bool:
    """Tell whether the new status is to be written now."""
    if old is None or old.last_round is None:
        return True
    before, after = _content(old), _content(new)
    if before == after:
        return False
    if _words(before) != _words(after):
        return True
    return now - old.last_round.at.unix >= NUMBERS_INTERVAL


def _content(status: Status) -> dict[str, Any]:
    content = status.to_wire()
    content.pop("lastRound", None)
    return content


def _words(value: Any, key: str = "", parent: str = "") -> Any:
    """Return the value with numbers and volatile texts blanked."""
    match value:
        case dict():
            return {name: _words(part, name, key or parent) for name, part in value.items()}
        case list():
            return [_words(part, "", key or parent) for part in value]
        case bool():
            return value
        case int() | float():
            return value if key == "observedGeneration" or (key == "replicas" and parent == "desired") else 0
        case str():
            if key in _VOLATILE:
                return ""
            return value.split(":", 1)[0] if key == "unknown" else value
    return value
