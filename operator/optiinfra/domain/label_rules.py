"""Conditions on labels, as selectors and node affinity state them.

The semantics are the API server's: an absent label satisfies NotIn and DoesNotExist, Gt and Lt compare whole numbers
and hold for nothing else. A selector that is not there at all selects nothing, which is why it is `None` at its
holder and never an empty tuple: the empty one selects everything.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class LabelOperator(StrEnum):
    """How a rule compares."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    ABSENT = "DoesNotExist"
    GREATER = "Gt"
    LESS = "Lt"


@dataclass(frozen=True, slots=True)
class LabelRule:
    """One condition on one label."""

    key: str
    operator: LabelOperator
    values: frozenset[str] = frozenset()
    """One whole number for Gt and Lt."""

    def holds(self, value: str | None) -> bool:
        """Tell whether a label with this value satisfies it; None is a label that is not there."""
        match self.operator:
            case LabelOperator.IN:
                return value is not None and value in self.values
            case LabelOperator.NOT_IN:
                return value is None or value not in self.values
            case LabelOperator.EXISTS:
                return value is not None
            case LabelOperator.ABSENT:
                return value is None
            case LabelOperator.GREATER | LabelOperator.LESS:
                return self._compares(value)

    def _compares(self, value: str | None) -> bool:
        given, bound = _whole(value), _whole(next(iter(self.values), None))
        if given is None or bound is None:
            return False
        return given > bound if self.operator is LabelOperator.GREATER else given < bound


LabelSelector: TypeAlias = tuple[LabelRule, ...]
"""All of its rules must hold; the empty one selects everything."""


def selects(selector: Iterable[LabelRule], labels: Mapping[str, str]) -> bool:
    """Tell whether labels satisfy every rule."""
    return all(rule.holds(labels.get(rule.key)) for rule in selector)


def _whole(written: str | None) -> int | None:
    # The API server's ParseInt: an optional sign and ASCII digits, which is less than what int() takes.
    if written is None or len(written) > 20:
        return None
    digits = written[1:] if written[:1] in ("+", "-") else written
    return int(written) if digits.isascii() and digits.isdigit() else None
