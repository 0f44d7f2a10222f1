"""Whether a status is worth a write: an idle fleet must cost the API server nothing.

Words decide at once (conditions, enums, reasons, ids, a number that became unknown); so does a decided replica count.
Other numbers, and sentences that say something else, are written at most every five minutes. What is equal is never
written, nor are times, spans and the numbers inside sentences by themselves: "no work in the last 45 s" would else
cost a write every few minutes for as long as nothing happens. `lastRound` says when the status was last written.
What the savings ledger has come to grows with time alone: it is written with other changes, and by itself now and then.
"""

import re
from typing import Any, Final

from optiinfra.api.v1alpha1.cluster_resource_optimization import ClusterResourceOptimizationStatus
from optiinfra.api.v1alpha1.resource_optimization import ResourceOptimizationStatus
from optiinfra.domain.units import Seconds, UnixTime

NUMBERS_INTERVAL: Final = Seconds(300.0)
"""Numbers alone are written at most this often."""

Status = ResourceOptimizationStatus | ClusterResourceOptimizationStatus

_TIMES = frozenset({"at", "since", "asOf", "measuredAt", "expiresAt", "lastTransitionTime", "window", "restsUntil"})
"""Times and spans: they go on by themselves, and are right again whenever something else is written."""

_REASONED = frozenset({"unknown", "noCounterfactual"})
"""Texts that begin with a reason, which counts; what follows it is a sentence."""

_SENTENCES = _REASONED | {"message", "summary"}
"""Texts that may carry numbers or times; a change of meaning shows in the words beside them."""

_FIGURES = frozenset({"lower", "upper", "patch", "horizon", "body"})
"""Numbers in the dress of a text."""

_BACKGROUND = frozenset({"learned", "startUp"})
"""Parts that move with every tick and decide nothing by themselves; they are right again when something else is."""

LEDGER_INTERVAL: Final = Seconds(3600.0)
"""An object's books are brought up to date by themselves at most this often: a restart proves the time in between."""

_BOOKED: Final = {
    "savings": frozenset({"thisMonth", "lastMonth", "total", "unwatchedHours", "asOf"}),
    "entries": frozenset({"accrued"}),
    "nodeEntries": frozenset({"money"}),
    "bases": frozenset({"seen"}),
}
"""By part of the ledger: what its entries and totals have come to."""

_SLOW: Final = frozenset({"steps", "fullness"})
"""Parts whose words change as pods come and go: they are written as numbers are."""

_FORECAST = "forecast"
"""Its words are what numbers made of them."""

_DIGITS = re.compile(r"\d+(?:\.\d+)?(?:\s?(?:ms|s|min|h|d)\b)?")
"""Numbers with their unit of time: 63 s that became 6 min are no news."""


def is_meaningful_change(old: Status | None, new: Status, *, now: UnixTime) -> bool:
    """Tell whether the new status is to be written now."""
    if old is None or old.last_round is None:
        return True
    before, after = _content(old), _content(new)
    if before == after:
        return False
    if _reduced(before, numbers=False) != _reduced(after, numbers=False):
        return True
    if now - old.last_round.at.unix < NUMBERS_INTERVAL:
        return False
    if _booked(before) != _booked(after) and now - _booked_until(old) >= _ledger_interval(new):
        return True
    return bool(_reduced(before, numbers=True) != _reduced(after, numbers=True))


def _ledger_interval(status: Status) -> Seconds:
    # There is one cluster ledger, and nothing proves to a new leader which nodes were gone while nobody watched.
    return NUMBERS_INTERVAL if isinstance(status, ClusterResourceOptimizationStatus) else LEDGER_INTERVAL


def _booked(content: dict[str, Any]) -> Any:
    savings = content.get("savings", {})
    return [savings.get(name) for name in ("thisMonth", "total")]


def _booked_until(status: Status) -> UnixTime:
    savings = status.savings
    return UnixTime(0.0) if savings is None or savings.as_of is None else savings.as_of.unix


def _content(status: Status) -> dict[str, Any]:
    content = status.to_wire()
    content.pop("lastRound", None)
    return content


def _reduced(value: Any, key: str = "", parent: str = "", *, numbers: bool) -> Any:
    """Return what counts of a value: its words, and with `numbers` also its numbers and sentences."""
    match value:
        case dict():
            return {
                name: _reduced(part, name, key or parent, numbers=numbers)
                for name, part in value.items()
                if name not in _BACKGROUND
                and (numbers or name not in _SLOW)
                and name not in _BOOKED.get(key or parent, ())
            }
        case list():
            return [_reduced(part, "", key or parent, numbers=numbers) for part in value]
        case bool():
            return value
        case int() | float():
            counts = numbers or key == "observedGeneration" or (key == "replicas" and parent == "desired")
            return value if counts else 0
        case str() if key in _TIMES:
            return ""
        case str() if key in _SENTENCES:
            words = value.split(":", 1)[0] if key in _REASONED else ""
            return _DIGITS.sub("#", value) if numbers else words
        case str() if key in _FIGURES or parent == _FORECAST:
            return value if numbers else ""
    return value
