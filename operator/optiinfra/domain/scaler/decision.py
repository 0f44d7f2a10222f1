"""What was decided, why, and what it beat: arrays over a fleet, and one workload's decision as people read it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.scaler.forecasts import FORECAST_REASONS, ForecastReason, Outlook
from optiinfra.domain.scaler.grid import CHOICES, HOLD_OF
from optiinfra.domain.scaler.ledger import FORECASTERS, Forecaster
from optiinfra.domain.scaler.tuning import TARGETS, TICK_S

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class ScalerReason(StrEnum):
    """Why a decision is what it is; the strongest one that holds."""

    PAUSED = "Paused"
    """Somebody paused scaling; the answer is what runs."""
    UNKNOWN = "LoadUnknown"
    """The load is not known now: nothing is given back."""
    QUEUE = "QueueDrain"
    """A backlog would be left when a replica asked for now is ready; this many clear it in time."""
    COLLAPSED = "CollapseHeld"
    """A steady load vanished within an hour; its capacity is kept for its return."""
    BY_HAND = "ChangedByOthers"
    """Somebody else asked for more; that is respected for five minutes."""
    YOUNG = "Prior"
    """Too little history to choose by: mostly the prior speaks."""
    LEARNED = "Learned"
    """The shadows' scores on this workload's own load."""
    AT_MINIMUM = "AtMinimum"
    AT_MAXIMUM = "AtMaximum"


REASONS = tuple(ScalerReason)


@dataclass(frozen=True, slots=True)
class Alternative:
    """A rule that lived beside the decision: what it would have cost, and how late its work was."""

    rule: str
    cost: float
    """Replica-seconds over the work they serve, where 1 is always busy."""
    late_share: float


@dataclass(frozen=True, slots=True)
class Infeasibility:
    """The objective is not held at a bearable price by a rule that cannot see the future; what would help, priced."""

    late_share: float
    """What is late now, over two days: the objective could be relaxed to it."""
    best_late_share: float
    """What the safest rule reaches."""
    best_cost: float
    """And what it costs, where 1 is always busy."""
    shorter_start_late_share: float
    """The same rule at a quarter of the start-up time."""
    spares_late_share: float
    """The same rule with as many warm spares as the mean load."""
    spares: int
    """Warm spares that this means."""


@dataclass(frozen=True, slots=True)
class ForecastRecord:
    """How one forecaster of the load one start-up ahead did on this workload's last day."""

    forecaster: Forecaster
    reason: ForecastReason
    """Why it is believed or not."""
    error: float | Unknown
    """Back-tested mean absolute error, as a share of the mean load."""
    loss_share: float | Unknown
    """Asymmetric loss as a share of the level's in the same minutes; below one is better than repeating the level."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One workload's decision, readable."""

    desired: int
    floor: int
    """minReplicas worth holding on a scaler of the user's: the need without queue and hysteresis."""
    reason: ScalerReason
    rule: str
    """The rule that weighs most."""
    weight: float
    """Its share of the decision."""
    need: float
    hpa_target: float | Unknown
    """Best target of a plain HPA on this load; unknown where none holds the objective."""
    shrink_delay_s: float
    """Weighted hold time: the stabilisation window to give a scaler of the user's."""
    forecast: float
    """Load when an order of now is ready, in replicas."""
    late_share: float
    """Realised over two days."""
    late_budget_left: float
    """1 minus realised over objective; negative when it is overspent."""
    cost: float | Unknown
    """Cost of the leading rule on this workload's own load."""
    alternatives: tuple[Alternative, ...]
    infeasible: Infeasibility | None
    forecaster: Forecaster
    """Whom the back-test believes."""
    forecast_point: float | Unknown
    """What that one expects when an order of now is ready, in replicas."""
    forecast_upper: float | Unknown
    """Upper end of it, in replicas, at the quantile that lateness at its dearest is worth."""
    forecast_coverage: float | Unknown
    """Share of the last day's minutes in which really no more came."""
    forecast_error: float | Unknown
    """Back-tested mean absolute error of the believed forecaster, as a share of the mean load."""
    forecast_level_error: float | Unknown
    """The same of repeating the last minute."""
    forecast_records: tuple[ForecastRecord, ...]
    forecast_added: float
    """Replicas, unrounded, that a believed profile added to the need; never negative."""
    burst: bool | Unknown
    """The load is in a burst now."""
    changed: bool | Unknown
    """The load changed for good within the last hour."""


@dataclass(frozen=True, slots=True)
class FleetDecision:
    """Decisions of a fleet; every array has the workload first."""

    desired: Ints
    floor: Ints
    reason: Ints
    """Index into `REASONS`."""
    need: Floats
    weights: Floats
    cost: Floats
    """(workloads, choices): with the prior."""
    late: Floats
    measured: Floats
    """Work that the scores rest on, as hours of mean load."""
    hpa_target: Ints
    """Index into TARGETS, -1 for none."""
    forecast: Floats
    late_share: Floats
    late_budget: Floats
    what_if_late: Floats
    """(workloads, 3): late shares of the shadows that are never chosen."""
    what_if_cost: Floats
    infeasible: npt.NDArray[np.bool_]
    mean: Floats
    outlook: Outlook
    forecast_added: Floats

    def __len__(self) -> int:
        return len(self.desired)

    def of(self, row: int) -> Decision:
        """One workload's decision."""
        weights = self.weights[row]
        leading = int(weights.argmax())
        order = np.argsort(-weights, kind="stable")[1:4]
        target = int(self.hpa_target[row])
        records = self._records(row)
        infeasible = None
        if self.infeasible[row]:
            safest, shorter, spared = (float(value) for value in self.what_if_late[row])
            spares = int(np.ceil(self.mean[row]))
            late, cost = float(self.late_share[row]), float(self.what_if_cost[row, 0])
            infeasible = Infeasibility(late, safest, cost, shorter, spared, spares)
        return Decision(
            desired=int(self.desired[row]),
            floor=int(self.floor[row]),
            reason=REASONS[int(self.reason[row])],
            rule=CHOICES[leading].name,
            weight=float(weights[leading]),
            need=float(self.need[row]),
            hpa_target=TARGETS[target]
            if target >= 0
            else Unknown(UnknownReason.TOO_FEW_SAMPLES, "no target held the objective on the history"),
            shrink_delay_s=float((weights * HOLD_OF[: len(weights)]).sum() * TICK_S),
            forecast=float(self.forecast[row]),
            late_share=float(self.late_share[row]),
            late_budget_left=1.0 - float(self.late_share[row] / self.late_budget[row]),
            cost=float(self.cost[row, leading])
            if self.measured[row] > 0.0
            else Unknown(UnknownReason.TOO_FEW_SAMPLES, "nothing lived through yet"),
            alternatives=tuple(
                Alternative(CHOICES[index].name, float(self.cost[row, index]), float(self.late[row, index]))
                for index in order
            ),
            infeasible=infeasible,
            forecaster=FORECASTERS[int(self.outlook.forecaster[row])],
            forecast_point=_known(self.outlook.point[row], self.outlook.bounded[row], "forecasts"),
            forecast_upper=_known(self.outlook.upper[row], self.outlook.bounded[row], "forecasts"),
            forecast_coverage=_known(self.outlook.coverage[row], self.outlook.covered[row], "upper ends"),
            forecast_error=records[int(self.outlook.forecaster[row])].error,
            forecast_level_error=records[0].error,
            forecast_records=records,
            forecast_added=float(self.forecast_added[row]),
            burst=bool(self.outlook.burst[row]) if self.outlook.burst_told[row] else _YOUNG,
            changed=bool(self.outlook.changed[row]) if self.outlook.changed_told[row] else _YOUNG,
        )

    def _records(self, row: int) -> tuple[ForecastRecord, ...]:
        """How each forecaster did."""
        outlook = self.outlook
        return tuple(
            ForecastRecord(
                forecaster,
                FORECAST_REASONS[int(outlook.reason[row, index])],
                _known(outlook.error[row, index], outlook.told[row, index], "forecasts"),
                _known(outlook.share[row, index], outlook.told[row, index], "forecasts"),
            )
            for index, forecaster in enumerate(FORECASTERS)
        )


_YOUNG = Unknown(UnknownReason.TOO_FEW_SAMPLES, "less than an hour of load was measured")


def _known(value: np.floating[Any], known: np.bool_, what: str) -> float | Unknown:
    """Give a number that was judged often enough, or say that it was not."""
    return float(value) if known else Unknown(UnknownReason.TOO_FEW_SAMPLES, f"too few {what} were judged yet")
