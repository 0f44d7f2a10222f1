"""The HPA baselines beside the real controller, tick by tick: the same question, two answers.

A workload's trace moves on by one sync of 15 s each time the controller asks for its metric, so both decide about the
same moments however fast the machine is. Before each answer the model takes over the replicas that the controller asked
for, and the baseline is asked for its decision; what the controller makes of the answer is read at its next question.
So a difference is one of rules, never of phase or of an earlier difference that grew.

One thing cannot be made equal: the controller's window of the highest recommendation is in seconds of its own clock,
the baseline's is twenty syncs. The baseline is therefore also asked with every other length, and a decision that
follows from the syncs which really lay within the controller's window is called one of the window.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

import numpy as np

from hack.real_hpa import Behavior, Question, Seen
from hack.real_hpa.clock import STABILIZATION_SECONDS, TICK_SECONDS
from optiinfra.domain.replay.baselines import HpaRate, Stabilized
from optiinfra.domain.replay.fluid import SYNC_S, Fleet, FloatArray, IntArray, Policy, View, play

CAPACITY: Final = 1000.0
"""Work per second of one replica: large, because the controller reads thousandths."""
SYNCS: Final = 20
LENGTHS: Final = tuple(range(1, 26))
EDGE_SECONDS: Final = 0.2
"""How late a decision may be beyond what its neighbours say; see `Moment`."""
MAXIMUM: Final = 60


class Verdict(StrEnum):
    """How the controller's decision compares with the baseline's."""

    SAME = "the same"
    WINDOW = "as with the syncs within its window"
    FIRST = "keeps what ran at first"
    FEW = "rises to four at most"
    OLDER = "does not rise to an older recommendation"
    PERIOD = "waits for the end of a policy's period"
    PODS = "while pods were missing"
    OTHER = "differs"


@dataclass(frozen=True, slots=True)
class Moment:
    """When the controller decided, in wall seconds: not before it was answered, and a sync before its next question."""

    asked: float
    earliest: float
    latest: float

    @classmethod
    def between(cls, asked: float, answered: float, asked_next: float) -> Self:
        """Bound a decision by what was seen of it."""
        return cls(asked, answered, max(answered, asked_next - TICK_SECONDS) + EDGE_SECONDS)


@dataclass(frozen=True, slots=True)
class Tick:
    """One sync."""

    moment: Moment
    seen: Seen
    baseline: int
    real: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class SeenByController(View):
    """What a rule sees, but with the number of pods that the controller counted."""

    running: int = 0

    @property
    def replicas(self) -> IntArray:
        """Pods there are."""
        return np.array([self.running], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Setting:
    """One HPA to compare."""

    name: str
    load: FloatArray
    """(steps,): in replicas."""
    rule: Callable[[], HpaRate]
    target: float
    start_up_s: float
    initial: int
    behavior: Behavior | None = None

    def fleet(self) -> Fleet:
        """Return a run of the model that has not begun."""
        one = np.ones(1, dtype=np.int64)
        return Fleet(
            self.load[None, :],
            start_up_s=np.array([self.start_up_s]),
            initial=one * self.initial,
            minimum=one,
            maximum=one * MAXIMUM,
        )

    def alone(self) -> IntArray:
        """Return what the baseline asks for without any controller, a number a sync."""
        asked: IntArray = play(self.fleet(), self.rule()).asked[0].astype(np.int64)
        return asked


class Stepped:
    """One workload while it is compared. `look` reads its Deployment."""

    def __init__(self, setting: Setting, *, look: Callable[[], Seen]) -> None:
        self.setting = setting
        self.ticks: list[Tick] = []
        self.finished = threading.Event()
        self.fleet = setting.fleet()
        self._look = look
        self._rules: dict[int, Policy] = {length: windowed(setting.rule(), length) for length in LENGTHS}
        self._source = setting.rule()
        self._open: _Open | None = None
        self._total = 0.0
        self._lock = threading.Lock()

    @property
    def syncs(self) -> int:
        """How many there will be."""
        return self.fleet.syncs

    def answer(self, question: Question) -> float:
        """Return the metric's total for the controller's next sync."""
        with self._lock:
            seen = self._look()
            if self._open is not None:
                self._close(self._open, real=seen.asked, asked_next=question.at)
            if not self.finished.is_set():
                self._ask(question.at, seen)
            return self._total * CAPACITY

    def _close(self, was: "_Open", *, real: int, asked_next: float) -> None:
        moment = Moment.between(was.asked, was.answered, asked_next)
        verdict = self._verdict(real, was, moment)
        self.ticks.append(Tick(moment, was.seen, was.by_length[SYNCS], real, verdict))
        self.fleet.order(np.array([real]))
        self.fleet.advance()
        if self.fleet.step >= self.fleet.load.shape[1]:
            self._open = None
            self.finished.set()

    def _ask(self, at: float, seen: Seen) -> None:
        view = SeenByController(self.fleet, running=seen.running)
        self._total = float(self._source.metric(view)[0])
        by_length = {length: _limited(rule(view)) for length, rule in self._rules.items()}
        self._open = _Open(at, time.monotonic(), seen, self._total, by_length)

    def _verdict(self, real: int, was: "_Open", now: Moment) -> Verdict:
        if real == was.by_length[SYNCS]:
            return Verdict.SAME
        moments = [tick.moment for tick in self.ticks]
        within = {was.by_length[length] for length in lengths(moments, now)}
        written = self.setting.behavior is not None
        current, raw, highest = was.seen.asked, was.by_length[1], max(within)
        untouched = int(np.ceil(was.total / self.setting.target - 1e-9))
        first = not self.ticks or now.earliest - self.ticks[0].moment.latest < STABILIZATION_SECONDS
        change = self.ticks[-1].real - self.ticks[-1].seen.asked if self.ticks else 0
        # One question after the other: a later reason is only looked for where no earlier one is enough.
        by_reason: Sequence[tuple[Verdict, bool]] = (
            (Verdict.WINDOW, real in within),
            (Verdict.FIRST, first and real == max(highest, self.setting.initial)),
            (Verdict.FEW, not written and real in {min(each, max(2 * current, 4)) for each in within}),
            (Verdict.OLDER, written and highest > current and real == max(raw, current)),
            (Verdict.PERIOD, written and change > 0 and current <= real < highest),
            (Verdict.PODS, was.seen.running != was.seen.asked),
            # Its count of pods is a moment older than ours. Of an older one the tolerance need not hold.
            (Verdict.PODS, change != 0 and real == min(max(untouched, highest), 2 * current)),
        )
        return next((verdict for verdict, holds in by_reason if holds), Verdict.OTHER)


@dataclass(frozen=True, slots=True)
class _Open:
    """A question that is answered, and whose decision is not known yet."""

    asked: float
    answered: float
    seen: Seen
    total: float
    """Of the metric, in replicas."""
    by_length: dict[int, int]
    """What the baseline would do with a window of so many syncs."""


def lengths(earlier: Sequence[Moment], now: Moment) -> range:
    """Return how many of the newest syncs, this one included, the controller's window may have held."""
    certain = sum(now.latest - one.earliest < STABILIZATION_SECONDS for one in earlier) + 1
    possible = sum(now.earliest - one.latest < STABILIZATION_SECONDS for one in earlier) + 1
    return range(min(certain, LENGTHS[-1]), min(possible, LENGTHS[-1]) + 1)


def windowed(rule: HpaRate, syncs: int) -> HpaRate:
    """Return a baseline with another window of the highest recommendation."""
    rule._stabilized = Stabilized(seconds=syncs * SYNC_S)  # noqa: SLF001 - the window is no setting of the baseline
    return rule


def _limited(asked: IntArray) -> int:
    return int(np.clip(asked[0], 1, MAXIMUM))


def counts(ticks: Sequence[Tick]) -> dict[Verdict, int]:
    """Count the verdicts, each of them."""
    return {verdict: sum(tick.verdict is verdict for tick in ticks) for verdict in Verdict}
