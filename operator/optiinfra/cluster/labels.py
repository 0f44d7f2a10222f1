"""Label selectors: the grammar of `kubectl -l` and of metav1.LabelSelector, matched here because pods are held here.

A selector that cannot be parsed is `Malformed`, never "matches nothing" and never "matches everything".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from optiinfra.cluster.document import labels_of, objects, text, texts
from optiinfra.cluster.errors import Malformed


class Operator(StrEnum):
    """How a requirement compares."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    ABSENT = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether the labels satisfy it; like the API server's, NotIn holds where the label is absent."""
        value = labels.get(self.key)
        if self.operator is Operator.IN:
            return value is not None and value in self.values
        if self.operator is Operator.NOT_IN:
            return value is None or value not in self.values
        return (value is not None) == (self.operator is Operator.EXISTS)


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; an empty selector matches everything."""

    requirements: tuple[Requirement, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether the labels satisfy every requirement."""
        return all(requirement.matches(labels) for requirement in self.requirements)


_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?"
_VALUE = r"[-A-Za-z0-9_.]*"
_PART = re.compile(
    rf"\s*(?:(?P<absent>!\s*{_NAME})"
    rf"|(?P<set_key>{_NAME})\s+(?P<set_operator>in|notin)\s*\((?P<set_values>[-A-Za-z0-9_.,\s]*)\)"
    rf"|(?P<key>{_NAME})\s*(?P<operator>==|=|!=)\s*(?P<value>{_VALUE})"
    rf"|(?P<exists>{_NAME}))\s*(?:,|$)"
)


@lru_cache(maxsize=8192)
def parse_selector(written: str) -> Selector:
    """Parse "a=b,c!=d,e in (f,g),h,!i"."""
    requirements: list[Requirement] = []
    position = 0
    stripped = written.strip()
    if len(stripped) > 4096:
        raise Malformed("label selector of more than 4096 characters")
    while position < len(stripped):
        part = _PART.match(stripped, position)
        if part is None:
            raise Malformed(f"label selector {stripped[:128]!r} is not valid at {stripped[position:][:32]!r}")
        requirements.append(_requirement(part))
        position = part.end()
    if stripped.endswith(","):
        raise Malformed(f"label selector {stripped[:128]!r} ends in a comma")
    return Selector(tuple(requirements))


def _requirement(part: re.Match[str]) -> Requirement:
    groups = part.groupdict()
    if groups["absent"]:
        return Requirement(groups["absent"].lstrip("! \t"), Operator.ABSENT)
    if groups["set_key"]:
        values = frozenset(value.strip() for value in groups["set_values"].split(","))
        return Requirement(
            groups["set_key"], Operator.IN if groups["set_operator"] == "in" else Operator.NOT_IN, values
        )
    if groups["key"]:
        operator = Operator.NOT_IN if groups["operator"] == "!=" else Operator.IN
        return Requirement(groups["key"], operator, frozenset({groups["value"]}))
    return Requirement(groups["exists"], Operator.EXISTS)


def selector_of(document: Mapping[str, Any]) -> Selector:
    """Parse a metav1.LabelSelector."""
    requirements = [
        Requirement(key, Operator.IN, frozenset({value})) for key, value in labels_of(document, "matchLabels").items()
    ]
    for expression in objects(document, "matchExpressions"):
        try:
            operator = Operator(text(expression, "operator"))
        except ValueError as error:
            raise Malformed(f"label selector operator {text(expression, 'operator')[:32]!r}") from error
        requirements.append(Requirement(text(expression, "key"), operator, frozenset(texts(expression, "values"))))
    return Selector(tuple(requirements))


def format_selector(selector: Selector) -> str:
    """Write a selector in the grammar of `kubectl -l`."""
    return ",".join(_format(requirement) for requirement in selector.requirements)


def _format(requirement: Requirement) -> str:
    if requirement.operator is Operator.EXISTS:
        return requirement.key
    if requirement.operator is Operator.ABSENT:
        return f"!{requirement.key}"
    if requirement.operator is Operator.IN and len(requirement.values) == 1:
        return f"{requirement.key}={next(iter(requirement.values))}"
    word = "in" if requirement.operator is Operator.IN else "notin"
    return f"{requirement.key} {word} ({','.join(sorted(requirement.values))})"
