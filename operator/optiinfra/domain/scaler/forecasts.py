"""The load one start-up ahead: four forecasters that have to prove themselves, and an upper end that keeps its word.

    memory.observe(load, features, windows=..., tick=..., start_ticks=..., measured=..., tuning=...)
    memory.outlook()

The horizon is the start-up plus what the signal lags, in whole minutes. Once a minute the level, the trend, the daily
and the weekly profile say what they expect; `ledger` judges them when the minute comes, `conformal` adds the upper end
to the one that is believed, `changes` looks for change-points (profiles are distrusted, and forget faster) and bursts.
The decision uses two answers: `trending`, whether the trend may be extrapolated at all, and `need`, what a believed
profile asks for beyond what the shadows do. A forecast never lowers a decision. It refuses to speak before it has been
judged: `outlook` says who was.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.scaler import ledger
from optiinfra.domain.scaler.changes import LEAST_WINDOWS, Changes
from optiinfra.domain.scaler.conformal import Conformal
from optiinfra.domain.scaler.ledger import FIRST_PROFILE, FORECASTERS, MINUTE, TREND, ErrorLedger
from optiinfra.domain.scaler.load import LAG_TICKS, LEVEL_TICKS, Features
from optiinfra.domain.scaler.profiles import DAILY_BIN_TICKS, DAY_TICKS, WEEKLY_BIN_TICKS, Profile
from optiinfra.domain.scaler.tuning import WINDOW_TICKS, Tuning

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DAYS_OF_DAILY: Final = 1.0
"""Days in the daily profile before it speaks."""
WEEKS_OF_WEEKLY: Final = 2.0
"""Weeks in the weekly profile before it speaks."""


class ForecastReason(StrEnum):
    """Why a forecaster is on or off."""

    BASELINE = "Baseline"
    """The level: what the others have to beat."""
    BELIEVED = "Believed"
    """Its losses of the last day are clearly below the level's."""
    NOT_BETTER = "NotBetterThanLevel"
    """It was judged, and repeating the last minute loses no more."""
    CHANGED = "LoadChanged"
    """A change-point within six hours: a profile of the old load is not believed now."""
    TOO_YOUNG = "TooYoung"
    """Not judged often enough yet, or not a full period seen."""


FORECAST_REASONS: Final = tuple(ForecastReason)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is expected one start-up ahead; arrays over a fleet. Numbers that are not `told` mean nothing yet."""

    forecaster: Ints
    """Index into `FORECASTERS` of the one that is believed."""
    point: Floats
    """Its forecast of the newest minute, in replicas."""
    upper: Floats
    """Upper end, where `bounded`."""
    bounded: Bools
    coverage: Floats
    """Share of the judged minutes of about a day that the upper end covered, where `covered`."""
    covered: Bools
    error: Floats
    """(workloads, forecasters): mean absolute error as a share of the mean load, where `told`."""
    share: Floats
    """(workloads, forecasters): loss as a share of the level's in the same minutes, where `told`."""
    told: Bools
    """(workloads, forecasters): judged at least an hour."""
    reason: Ints
    """(workloads, forecasters): index into `FORECAST_REASONS`."""
    burst: Bools
    burst_told: Bools
    changed: Bools
    changed_told: Bools


@dataclass(slots=True)
class ForecastMemory:
    """What forecasting remembers of a fleet."""

    daily: Profile
    weekly: Profile
    ledger: ErrorLedger
    conformal: Conformal
    changes: Changes
    clean: Ints
    """Ticks measured in a row, up to a window."""
    forecaster: Ints
    """Who is believed, since the newest whole minute."""
    point: Floats
    upper: Floats
    bounded: Bools
    profile: Floats
    """Highest forecast of a believed profile; 0 where none is believed."""

    @classmethod
    def empty(cls, workloads: int) -> "ForecastMemory":
        """Nothing seen yet."""
        return cls(
            daily=Profile.empty(workloads, bins=DAY_TICKS // DAILY_BIN_TICKS),
            weekly=Profile.empty(workloads, bins=7 * DAY_TICKS // WEEKLY_BIN_TICKS),
            ledger=ErrorLedger.empty(workloads),
            conformal=Conformal.empty(workloads),
            changes=Changes.empty(workloads),
            clean=np.zeros(workloads, dtype=np.int64),
            forecaster=np.zeros(workloads, dtype=np.int64),
            point=np.zeros(workloads, dtype=np.float32),
            upper=np.zeros(workloads, dtype=np.float32),
            bounded=np.zeros(workloads, dtype=np.bool_),
            profile=np.zeros(workloads, dtype=np.float32),
        )

    def observe(
        self,
        load: Floats,
        features: Features,
        *,
        recent: Floats,
        window: Floats,
        tick: int,
        start_ticks: Ints,
        measured: Bools,
        tuning: Tuning,
    ) -> None:
        """Take in one tick.

        `features` are those of this tick, `recent` the loads of the last five minutes, (workloads, ticks) in any order,
        `window` the newest closed five-minute mean. Loads that were not measured are neither learned nor judged.
        """
        self.clean = np.where(measured, np.minimum(self.clean + 1, WINDOW_TICKS), 0)
        self.changes.tick(load, measured=measured)
        relearning = self.changes.relearning
        # A load that vanished for a while says nothing about other days.
        learned = measured & ~features.collapsed
        self.daily.learn(load, measured=learned, changed=relearning, tick=tick, bin_ticks=DAILY_BIN_TICKS)
        self.weekly.learn(load, measured=learned, changed=relearning, tick=tick, bin_ticks=WEEKLY_BIN_TICKS)
        if tick % WINDOW_TICKS == WINDOW_TICKS - 1:
            whole = (self.clean >= WINDOW_TICKS) & ~features.collapsed
            moved = self._moved(tick=tick)
            self.changes.window(window, moved=moved, measured=whole)
        if tick % MINUTE == MINUTE - 1:
            whole = self.clean >= LEVEL_TICKS
            self.changes.look_for_burst(recent, features.level, measured=self.clean >= WINDOW_TICKS)
            minute = tick // MINUTE
            self.ledger.judge(
                features.level,
                mean=features.mean,
                minute=minute,
                measured=whole,
                distrusted=self.changes.distrusted,
                late_price=tuning.late_price,
            )
            self.conformal.judge(features.level, minute=minute, measured=whole, miss=miss(tuning))
            self._speak(features, tick=tick, start_ticks=start_ticks, measured=whole, miss_share=miss(tuning))

    def _moved(self, *, tick: int) -> Floats:
        """(workloads, 3): the last window as a share of the one before if it stays, by the day, by the week."""
        back = np.full(len(self.clean), WINDOW_TICKS)
        daily, weekly = self._ratios(tick=tick - WINDOW_TICKS, ahead=back)
        return np.stack([np.ones_like(daily[0]), daily[0], weekly[0]], axis=1)

    def _ratios(self, *, tick: int, ahead: Ints) -> tuple[tuple[Floats, Bools], tuple[Floats, Bools]]:
        """What the daily and the weekly profile say of `ahead` ticks after `tick`, and whether they know."""
        return (
            self.daily.ratio(tick=tick, ahead=ahead, bin_ticks=DAILY_BIN_TICKS, least_periods=DAYS_OF_DAILY),
            self.weekly.ratio(tick=tick, ahead=ahead, bin_ticks=WEEKLY_BIN_TICKS, least_periods=WEEKS_OF_WEEKLY),
        )

    def _speak(self, features: Features, *, tick: int, start_ticks: Ints, measured: Bools, miss_share: float) -> None:
        """Let everybody forecast, and note it."""
        ahead = horizon(start_ticks)
        level = features.level
        (daily, knows_day), (weekly, knows_week) = self._ratios(tick=tick, ahead=ahead)
        trend = level + features.slope * ahead
        points = np.stack([level, trend, level * daily, level * weekly], axis=1).astype(np.float32)
        said = np.stack([measured, measured, measured & knows_day, measured & knows_week], axis=1)
        points = self.ledger.note(points, minute=tick // MINUTE, ahead=ahead, said=said)
        self.forecaster = self.ledger.best(said)
        self.point = points[np.arange(len(level)), self.forecaster]
        self.upper, enough = self.conformal.upper(self.point, mean=features.mean, miss=miss_share)
        self.bounded = enough & measured
        speaking = (self.ledger.believed & said)[:, FIRST_PROFILE:]
        self.profile = np.where(speaking, points[:, FIRST_PROFILE:], 0.0).max(axis=1).astype(np.float32)
        self.conformal.note(
            np.where(measured, self.point, -1.0).astype(np.float32),
            self.upper,
            known=self.bounded,
            mean=features.mean,
            minute=tick // MINUTE,
            ahead=ahead,
        )

    def interrupt(self) -> None:
        """Forget what is open: the clock jumped, or nothing was seen for long."""
        for part in (self.daily, self.weekly, self.ledger, self.conformal, self.changes):
            part.interrupt()
        self.clean[:] = 0
        self.forecaster[:] = 0
        self.bounded[:] = False
        self.profile[:] = 0.0

    @property
    def trending(self) -> Bools:
        """Where a trend may be extrapolated: until it was judged, and while it loses less than the level.

        Its absolute error does not matter here: what it adds where nothing comes is bought at the prices.
        """
        useful = self.ledger.share[:, TREND] < ledger.USELESS
        may: Bools = useful | (self.ledger.scored[:, TREND] < ledger.LEAST_SCORED)
        return may

    def need(self, *, margin: Floats, mean: Floats) -> Floats:
        """Replicas for what a believed profile expects, with a headroom of `margin` as shadows have it; 0 for none."""
        wanted: Floats = np.where(self.profile > 0.0, self.profile + margin * mean, np.float32(0.0))
        return wanted

    def outlook(self) -> Outlook:
        """Say what is expected, and how far that can be believed."""
        told = self.ledger.scored >= ledger.LEAST_TOLD
        judged = self.ledger.scored >= ledger.LEAST_SCORED
        distrusted = self.changes.distrusted[:, None] & (np.arange(len(FORECASTERS)) >= FIRST_PROFILE)
        reason = np.select(
            [self.ledger.believed, ~judged, distrusted],
            [FORECAST_REASONS.index(one) for one in _OFF_OR_ON],
            FORECAST_REASONS.index(ForecastReason.NOT_BETTER),
        )
        reason[:, 0] = FORECAST_REASONS.index(ForecastReason.BASELINE)
        return Outlook(
            forecaster=self.forecaster.copy(),
            point=self.point.copy(),
            upper=self.upper.copy(),
            bounded=self.bounded.copy(),
            coverage=self.conformal.coverage(),
            covered=self.conformal.judged >= ledger.LEAST_TOLD,
            error=self.ledger.mean_error(),
            share=self.ledger.share,
            told=told,
            reason=reason,
            burst=self.changes.burst.copy(),
            burst_told=self.changes.told,
            changed=self.changes.recent,
            changed_told=self.changes.windows > LEAST_WINDOWS,
        )


_OFF_OR_ON: Final = (ForecastReason.BELIEVED, ForecastReason.TOO_YOUNG, ForecastReason.CHANGED)


def horizon(start_ticks: Ints) -> Ints:
    """Ticks from the newest minute to the one in which an order of now serves, in whole minutes."""
    ahead = start_ticks + LAG_TICKS + 1.0
    return (np.ceil(ahead / MINUTE) * MINUTE).astype(np.int64)


def miss(tuning: Tuning) -> float:
    """Share of minutes that may exceed the upper end: the critical ratio's rest where lateness is at its dearest."""
    return 1.0 / (1.0 + tuning.late_price * tuning.late_price_most)
