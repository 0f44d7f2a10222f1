"""Trials as plain numbers and words, so that the next leader goes on with them: read from its checkpoint.

What was measured before and what is expected is kept, because nobody can measure it again. What was measured since is
not: a new leader watches anew, for a whole window, from when it first looks. Effects are for people and stand in the
action's status. Bounded: of a workload with more pods than `MOST_OTHERS` the comparison of the first pod with the
others is left out, and the whole is judged against the time before. Unknown stays Unknown, with its reason.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from optiinfra.domain.evidence import Direction
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import Ratio, Seconds, UnixTime
from optiinfra.domain.verification.attribution import Scene
from optiinfra.domain.verification.expectation import Expectation
from optiinfra.domain.verification.resize_trial import ResizeTrial
from optiinfra.domain.verification.trail import MOST_BLOCKS, Block

MOST_OTHERS: Final = 64
"""Pods whose names are kept."""
_MOST_REVISIONS: Final = 8
_DETAIL: Final = 96
_NAME: Final = 253
_DIGITS: Final = 6
_NUMBERS: Final = tuple(field.name for field in fields(Block))
_PLAIN: Final = ("time", "span", "replicas", "reporting")
"""Of a block, what is always known."""


@dataclass(frozen=True, slots=True)
class KeptTrial:
    """A change of replicas under verification, without its action: that stands in the status."""

    id: str
    """Of the action."""
    rule: str
    direction: Direction
    actuation: str
    started: UnixTime
    expectation: Expectation
    before: tuple[Block, ...]
    begun: Scene


def packed_action(trial: KeptTrial) -> dict[str, Any]:
    """Return what is kept of a change of replicas."""
    return {
        "id": trial.id,
        "rule": trial.rule,
        "direction": str(trial.direction),
        "actuation": trial.actuation,
        "started": trial.started,
        "expectation": _expectation(trial.expectation),
        "before": _blocks(trial.before),
        "replicas": trial.begun.replicas,
        "revisions": sorted(trial.begun.revisions)[:_MOST_REVISIONS],
    }


def unpacked_action(saved: Mapping[str, Any]) -> KeptTrial:
    """Read it back. Raises ValueError, TypeError, KeyError or AttributeError for what is none."""
    return KeptTrial(
        id=str(saved["id"])[:_NAME],
        rule=str(saved["rule"])[:_NAME],
        direction=Direction(saved["direction"]),
        actuation=str(saved["actuation"])[:_NAME],
        started=UnixTime(_number_of(saved["started"])),
        expectation=_expected(saved["expectation"]),
        before=_read(saved["before"]),
        begun=Scene(int(saved["replicas"]), _names(saved["revisions"], most=_MOST_REVISIONS)),
    )


def packed(trial: ResizeTrial) -> dict[str, Any]:
    """Return what is kept of a resize."""
    whole = len(trial.others) <= MOST_OTHERS
    return {
        "id": trial.id,
        "rule": trial.rule,
        "replicas": trial.begun.replicas,
        "revisions": sorted(trial.begun.revisions)[:_MOST_REVISIONS],
        "expectation": _expectation(trial.expectation),
        "before": _blocks(trial.before),
        "first": trial.first,
        "firstExpectation": _expectation(trial.first_expectation),
        "firstBefore": _blocks(trial.first_before) if whole else [],
        "others": list(trial.others) if whole else [],
        "othersBefore": _blocks(trial.others_before) if whole else [],
        "firstJudged": trial.first_judged,
    }


def unpacked(saved: Mapping[str, Any]) -> ResizeTrial:
    """Read a trial back. Raises ValueError, TypeError, KeyError or AttributeError for what is none."""
    return ResizeTrial(
        id=str(saved["id"])[:_NAME],
        rule=str(saved["rule"])[:_NAME],
        begun=Scene(int(saved["replicas"]), _names(saved["revisions"], most=_MOST_REVISIONS)),
        expectation=_expected(saved["expectation"]),
        before=_read(saved["before"]),
        first=str(saved["first"])[:_NAME],
        first_expectation=_expected(saved["firstExpectation"]),
        first_before=_read(saved["firstBefore"]),
        others=tuple(sorted(_names(saved["others"], most=MOST_OTHERS))),
        others_before=_read(saved["othersBefore"]),
        first_judged=bool(saved["firstJudged"]),
    )


def _names(given: Sequence[Any], *, most: int) -> frozenset[str]:
    return frozenset(str(one)[:_NAME] for one in given[:most])


def _expectation(made: Expectation) -> dict[str, Any]:
    promised = made.objectives
    return {
        "from": made.from_replicas,
        "to": made.to_replicas,
        # JSON has no infinity: what nobody promised is null.
        "objectives": [
            None if math.isinf(value) else value
            for value in (promised.time_to_first_token_p95, promised.inter_token_latency_p95, promised.queue_delay)
        ],
        "lateShare": promised.late_share,
        "readyWithin": made.ready_within,
        "window": made.verify_window,
        "demand": [_number(made.demand), _number(made.demand_upper)],
    }


def _expected(saved: Mapping[str, Any]) -> Expectation:
    first, between, queue = (Seconds(math.inf if one is None else float(one)) for one in saved["objectives"])
    demand, upper = saved["demand"]
    return Expectation(
        from_replicas=int(saved["from"]),
        to_replicas=int(saved["to"]),
        objectives=Objectives(first, between, queue, Ratio(float(saved["lateShare"]))),
        ready_within=Seconds(float(saved["readyWithin"])),
        verify_window=Seconds(float(saved["window"])),
        demand=_value(demand),
        demand_upper=_value(upper),
    )


def _blocks(blocks: Sequence[Block]) -> list[list[Any]]:
    return [[_number(getattr(one, name)) for name in _NUMBERS] for one in blocks[-MOST_BLOCKS:]]


def _read(saved: Sequence[Any]) -> tuple[Block, ...]:
    return tuple(_block(row) for row in saved[-MOST_BLOCKS:])


def _block(row: Sequence[Any]) -> Block:
    values: dict[str, Any] = {name: _value(one) for name, one in zip(_NUMBERS, row, strict=True)}
    if any(isinstance(values[name], Unknown) for name in _PLAIN):
        raise ValueError("a window without its time or its replicas")
    counts = {name: int(values[name]) for name in ("replicas", "reporting")}
    return Block(**(values | counts))


def _number(value: Value) -> float | list[str]:
    """Write a value: a number, or the reason why there is none."""
    if isinstance(value, Unknown):
        return [str(value.reason), value.detail[:_DETAIL]]
    # Six digits tell more than a p95 is worth; times need theirs.
    return round(value, 3) if value >= 10.0**_DIGITS else float(f"{value:.{_DIGITS}g}")


def _value(saved: Any) -> Value:
    if isinstance(saved, list):
        reason, detail = saved
        return Unknown(UnknownReason(reason), str(detail)[:_DETAIL])
    return _number_of(saved)


def _number_of(saved: Any) -> float:
    number = float(saved)
    if not math.isfinite(number):
        raise ValueError("a number that is none")
    return number
