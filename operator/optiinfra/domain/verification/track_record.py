"""How a workload's rules did so far: the confidence that each earned, and the rest after harm.

Each judged action is one trial of the rule that asked for it, and the share of good ones is estimated as that of coin
tosses with a Beta prior (Gelman and others, Bayesian Data Analysis, 3rd edition, section 2.4): Beta(4, 1) before
anything is known. What could not be judged counts for neither side. Old trials fade once there are more than a rule can
use, so that a changed workload is not judged by its past for ever.

After harm the workload rests: no replicas are taken away for a time that doubles with each harm in a row, from the
longer of cooldown and verify window up to a day. A verified fall ends the row. Bounded, and kept in the checkpoint.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from optiinfra.domain.units import Ratio, Seconds, UnixTime

PRIOR_GOOD: Final = 4.0
PRIOR_BAD: Final = 1.0
MOST_TRIALS: Final = 30.0
"""Trials of a rule that are remembered with full weight; more fade."""
MOST_RULES: Final = 32
MOST_ROW: Final = 16
LONGEST_REST: Final = Seconds(24 * 3600.0)
_PRIOR_MEAN: Final = PRIOR_GOOD / (PRIOR_GOOD + PRIOR_BAD)


@dataclass(frozen=True, slots=True)
class Record:
    """How one rule did in one direction."""

    good: float = 0.0
    bad: float = 0.0
    unclear: int = 0
    """Actions that could not be judged; they change no confidence."""

    @property
    def trust(self) -> float:
        """Mean of the posterior over that of the prior: 1 before anything is known, less after harm."""
        mean = (PRIOR_GOOD + self.good) / (PRIOR_GOOD + PRIOR_BAD + self.good + self.bad)
        return mean / _PRIOR_MEAN

    def with_trial(self, *, good: bool) -> "Record":
        """Return the record after one more trial."""
        fade = min(1.0, (MOST_TRIALS - 1.0) / max(1.0, self.good + self.bad))
        return replace(self, good=self.good * fade + good, bad=self.bad * fade + (not good))


@dataclass(slots=True)
class TrackRecord:
    """What became of a workload's actions."""

    records: dict[str, Record] = field(default_factory=dict)
    """By direction and rule: "ScaleDown/Learned"."""
    row: int = 0
    """Falls in a row that did harm."""
    rests_until: UnixTime = UnixTime(0.0)
    """Until when no replicas are taken away."""
    why: str = ""
    """Why it rests, in a sentence; empty when it never did."""
    safe: int | None = None
    """The last count that was verified, or stood before falls that were not; None while the present one is."""
    as_of: UnixTime = UnixTime(0.0)
    """Time of the newest action that was counted."""
    woken: int = 0
    """Times in a row that the last replica was needed again soon after it had gone."""

    def of(self, rule: str) -> Record:
        """Return the record of a rule, an empty one where it did nothing yet."""
        return self.records.get(rule, Record())

    def confidence(self, rule: str, stated: Ratio) -> Ratio:
        """Return how far to trust what a rule says, between 0 and 1."""
        return Ratio(round(min(1.0, max(0.0, stated * self.of(rule).trust)), 3))

    def resting(self, *, now: UnixTime) -> Seconds:
        """Return for how long replicas may not be taken away yet; 0 when they may."""
        # No rest is longer than the longest: a clock that was set back must not hold a workload for ever.
        return Seconds(min(max(0.0, self.rests_until - now), LONGEST_REST))

    def good(self, rule: str, *, falls: bool, at: UnixTime) -> None:
        """Count an action that did what was expected."""
        self._note(rule, self.of(rule).with_trial(good=True), at=at)
        self.safe = None
        if falls:
            self.row, self.rests_until, self.why = 0, UnixTime(0.0), ""

    def bad(self, rule: str, *, falls: bool, rest: Seconds, why: str, at: UnixTime) -> Seconds:
        """Count an action that did harm; returns how long the workload rests for it (0 for a rise)."""
        self._note(rule, self.of(rule).with_trial(good=False), at=at)
        if not falls:
            return Seconds(0.0)
        self.row = min(self.row + 1, MOST_ROW)
        length = Seconds(min(LONGEST_REST, rest * 2.0 ** (self.row - 1)))
        self.rests_until, self.why, self.safe = UnixTime(at + length), why[:256], None
        return length

    def woke(self, rule: str, *, at: UnixTime) -> None:
        """Count a last replica that was needed again soon. Nothing rests: the next one waits for longer quiet."""
        self._note(rule, self.of(rule).with_trial(good=False), at=at)
        self.woken = min(self.woken + 1, MOST_ROW)

    def slept(self, rule: str, *, at: UnixTime) -> None:
        """Count a last replica that nobody missed."""
        self.good(rule, falls=False, at=at)
        self.woken = 0

    def unclear(self, rule: str, *, falls: bool, stood_at: int, rest: Seconds, why: str, at: UnixTime) -> None:
        """Count an action that could not be judged. After a fall what stands is held for a while, as it is."""
        record = self.of(rule)
        self._note(rule, replace(record, unclear=min(record.unclear + 1, 1_000_000)), at=at)
        if falls:
            self.safe = max(self.safe or 0, stood_at)
            if at + rest > self.rests_until:
                self.rests_until, self.why = UnixTime(at + rest), why[:256]

    def restored(self, replicas: int) -> int:
        """Return the count to go back to after harm: the one before the action, or the last verified if higher."""
        return max(replicas, self.safe or 0)

    def _note(self, rule: str, record: Record, *, at: UnixTime) -> None:
        self.records.pop(rule, None)
        self.records[rule] = record
        while len(self.records) > MOST_RULES:
            del self.records[next(iter(self.records))]
        self.as_of = UnixTime(max(self.as_of, at))

    def to_dict(self) -> dict[str, Any]:
        """Return a checkpoint: plain numbers and words."""
        return {
            "rules": {name: [round(r.good, 4), round(r.bad, 4), r.unclear] for name, r in self.records.items()},
            "row": self.row,
            "restsUntil": self.rests_until,
            "why": self.why,
            "safe": self.safe,
            "asOf": self.as_of,
            "woken": self.woken,
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "TrackRecord":
        """Read a checkpoint back. Raises ValueError, TypeError, KeyError or AttributeError for what is none."""
        records = {
            str(name)[:64]: Record(_count(good), _count(bad), int(unclear))
            for name, (good, bad, unclear) in tuple(saved["rules"].items())[:MOST_RULES]
        }
        safe = saved["safe"]
        return cls(
            records,
            min(max(0, int(saved["row"])), MOST_ROW),
            UnixTime(_finite(saved["restsUntil"])),
            str(saved["why"])[:256],
            None if safe is None else max(0, int(safe)),
            UnixTime(_finite(saved["asOf"])),
            # Checkpoints of before do not have it.
            min(max(0, int(saved.get("woken", 0))), MOST_ROW),
        )


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no time")
    return number


def _count(value: Any) -> float:
    return min(max(0.0, _finite(value)), MOST_TRIALS)
