"""Windows, expectations and trials that several tests of verification use."""

import math
import random
from collections.abc import Sequence
from typing import Any

from optiinfra.domain.evidence import Direction, Savings
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.verification import Block, Expectation, Trialled, Verdict, expect, judge
from optiinfra.domain.verification.judge import LEAST_EARLY

NOW = UnixTime(1.8e9)
MINUTE = 60.0
UNMEASURED = Unknown(UnknownReason.NOT_MEASURED, "no page has it")
PROMISED = Objectives()


def block(number: int, **values: Any) -> Block:
    """Window `number` after NOW (negative: before it), calm unless said otherwise."""
    known: dict[str, Any] = {
        "time": UnixTime(NOW + MINUTE * number),
        "span": Seconds(MINUTE),
        "replicas": 4 if number <= 0 else 3,
        "reporting": values.get("replicas", 4 if number <= 0 else 3),
        "time_to_first_token": 0.5,
        "inter_token_latency": 0.04,
        "queue_time": 0.1,
        "waiting": 0.0,
        "preemptions": 0.0,
        "arrivals": 10.0,
        "request_work": 1000.0,
    }
    return Block(**(known | values))


def before(count: int = 12, **values: Any) -> tuple[Block, ...]:
    return tuple(block(number, **values) for number in range(1 - count, 1))


def after(count: int = 9, **values: Any) -> tuple[Block, ...]:
    return tuple(block(number, **values) for number in range(1, count + 1))


def expectation(earlier: Sequence[Block], *, rises: bool = False, **changes: Any) -> Expectation:
    known: dict[str, Any] = {
        "from_replicas": 4,
        "to_replicas": 5 if rises else 3,
        "objectives": PROMISED,
        "growth": 1.0,
        "ready_within": Seconds(90.0),
        "ready_basis": "a test",
        "verify_window": Seconds(600.0),
        "savings": Savings(gpus_freed=1.0),
    }
    return expect(earlier, **(known | changes))


def trial(
    earlier: Sequence[Block], later: Sequence[Block], *, direction: Direction = Direction.SCALE_DOWN, **more: Any
):
    rises = direction is Direction.SCALE_UP
    known: dict[str, Any] = {
        "direction": direction,
        "expectation": more.pop("expectation", None) or expectation(earlier, rises=rises),
        "before": tuple(earlier),
        "after": tuple(later),
        "settled": True,
        "over": True,
    }
    return Trialled(**(known | more))


def watched(earlier: Sequence[Block], later: Sequence[Block], **more: Any) -> tuple[Verdict, int]:
    """Judge as the operator does: at every new window, and for good at the end. Returns the windows it took."""
    for count in range(LEAST_EARLY, len(later)):
        verdict = judge(trial(earlier, later[:count], over=False, **more))
        if verdict.outcome != "TooEarly":
            return verdict, count
    return judge(trial(earlier, later, **more)), len(later)


class Noise:
    """Multiplicative noise of a signal: a first-order autoregression of logarithms, with spikes."""

    def __init__(
        self, random_: random.Random, *, deviation: float, correlation: float = 0.3, spikes: float = 0.0
    ) -> None:
        self._random = random_
        self._deviation, self._correlation, self._spikes = deviation, correlation, spikes
        self._level = random_.gauss(0.0, deviation)

    def factor(self) -> float:
        fresh = math.sqrt(1.0 - self._correlation**2) * self._deviation
        self._level = self._correlation * self._level + self._random.gauss(0.0, fresh)
        spike = self._random.uniform(0.5, 1.5) if self._random.random() < self._spikes else 0.0
        return math.exp(self._level + spike)
