"""The last door before a prompt: lines made of closed words and numbers, and a check that nothing else is in them.

`request` already makes free text impossible by type. This is the second, independent check, made on the text itself:
every word of every rendered block is a word of the vocabulary, a number, or an id of the request's form. Should
somebody add a string field to a request and print it here, the check refuses the first prompt that holds one.
"""

import re
import unicodedata
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from typing import Final

from optiinfra.analysis.deterministic import shown
from optiinfra.analysis.errors import RequestRefused
from optiinfra.analysis.request import InsightRequest, NamedNumber
from optiinfra.analysis.vocabulary import NumberName, PlanStepKind, ReasonCode, Statistic, Unit
from optiinfra.domain.evidence import Bottleneck, Direction, RecommendationType

MAX_BLOCK: Final = 24_000
"""Characters of one block: 16 candidates with 24 numbers each stay below it."""

_SCAFFOLD: Final = frozenset({"type", "reason", "direction", "confidence", "savings_per_month", "not_priced", "none"})
_VOCABULARY: Final[tuple[type[StrEnum], ...]] = (
    NumberName,
    Unit,
    Statistic,
    ReasonCode,
    PlanStepKind,
    Bottleneck,
    Direction,
    RecommendationType,
)
_ALLOWED_SHAPE: Final = re.compile(r"-?[0-9]{1,24}(\.[0-9]{1,12})?|r[1-9][0-9]{0,2}", re.ASCII)
_SEPARATORS: Final = re.compile(r"[ \n=:,/]+|^- |\n- ")


@cache
def closed_words() -> frozenset[str]:
    """Return every word that a block may hold."""
    words = set(_SCAFFOLD)
    for kind in _VOCABULARY:
        for member in kind:
            words.update(part for part in re.split(r"[ /]", str(member)) if part)
    return frozenset(words)


def refuse_open_words(block: str, *, field: str) -> None:
    """Check a rendered block.

    Raises:
        RequestRefused: a word is not of the closed sets, or the block is too long. The word itself is not repeated.
    """
    if len(block) > MAX_BLOCK:
        raise RequestRefused(f"prompt block {field!r} is {len(block)} characters long; at most {MAX_BLOCK} are sent")
    if any(unicodedata.category(one).startswith("C") and one != "\n" for one in block):
        raise RequestRefused(f"prompt block {field!r} holds a control or invisible character")
    known = closed_words()
    for line in block.splitlines():
        for word in _SEPARATORS.split(line.removeprefix("- ")):
            if word and word not in known and not _ALLOWED_SHAPE.fullmatch(word):
                raise RequestRefused(f"prompt block {field!r} holds a word that is not of the closed sets")


def signal_lines(request: InsightRequest) -> Iterator[str]:
    """Yield one line for each signal."""
    if not request.signals:
        yield "- none"
    for number in request.signals:
        yield f"- {_told(number)}"


def objective_lines(request: InsightRequest) -> Iterator[str]:
    """Yield one line for each objective."""
    objectives = request.objectives
    for number in (
        NamedNumber(NumberName.TIME_TO_FIRST_TOKEN, objectives.time_to_first_token_p95, Unit.SECONDS, Statistic.P95),
        NamedNumber(NumberName.INTER_TOKEN_LATENCY, objectives.inter_token_latency_p95, Unit.SECONDS, Statistic.P95),
        NamedNumber(NumberName.QUEUE_DELAY, objectives.queue_delay, Unit.SECONDS, Statistic.MAX),
        NamedNumber(NumberName.LATE_SHARE, objectives.late_share, Unit.RATIO, Statistic.MAX),
    ):
        yield f"- {_told(number)}"


def candidate_lines(request: InsightRequest) -> Iterator[str]:
    """Yield one line for each candidate."""
    for one in request.candidates:
        savings = "not_priced" if one.savings_per_month is None else shown(one.savings_per_month)
        parts = [
            f"type={one.type}",
            f"reason={one.reason}",
            f"direction={one.direction}",
            f"confidence={shown(one.confidence)}",
            f"savings_per_month={savings}",
            *(_told(number) for number in one.numbers),
        ]
        yield f"- {one.id}: {', '.join(parts)}"


def step_lines() -> Iterator[str]:
    """Yield one line for each kind of step that a plan may have."""
    for kind in PlanStepKind:
        yield f"- {kind}"


def _told(number: NamedNumber) -> str:
    unit = f" {number.unit}" if number.unit else ""
    statistic = "" if number.statistic is Statistic.LAST else f" {number.statistic}"
    return f"{number.name}={shown(number.value)}{unit}{statistic}"
