"""What the scaler decided and knows, as the status shows it: few digits, every unknown with its reason.

Two significant digits are what a person reads; more would only make noise a change worth a write.
"""

import math
from typing import Final

from optiinfra.api.scalars import Duration
from optiinfra.api.status_from import cut, to_measured, to_percent
from optiinfra.api.v1alpha1.resource_optimization import ForecastStatus, LearnedStatus, StageStatus, StartUpStatus
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.scaling_words import infeasibility
from optiinfra.domain.start_up_summary import StartUp, said

_DIGITS: Final = 2
_LONGEST_HISTORY: Final = 7 * 86_400.0
_HISTORY_STEP: Final = 3600.0
_SECONDS_STEP: Final = 5.0
_MOST_COST: Final = 100.0
_NO_WORK: Final = Unknown(UnknownReason.TOO_FEW_SAMPLES, "hardly any work came that could be paid for")


def to_learned(decision: ScalingDecision) -> LearnedStatus:
    """Write what a decision rests on."""
    learned, capacity = decision.learned, decision.capacity
    return LearnedStatus(
        rule=cut(learned.rule, 64),
        weight_percent=to_percent(learned.weight),
        history=Duration.of(math.floor(min(decision.history, _LONGEST_HISTORY) / _HISTORY_STEP) * _HISTORY_STEP),
        load=to_measured(_short(decision.load.replicas)),
        replica_capacity=to_measured(_short(capacity.work)),
        capacity_basis=str(capacity.basis),
        start_up=Duration.of(_seconds(decision.start_up)),
        late_share=to_measured(_short(learned.late_share)),
        late_budget_left_percent=to_percent(max(-10.0, learned.late_budget_left)),
        cost=to_measured(_short(_NO_WORK if _costly(learned.cost) else learned.cost)),
        hpa_target=to_measured(learned.hpa_target),
        shrink_delay=Duration.of(_seconds(learned.shrink_delay_s)),
        alternatives=tuple(
            f"{other.rule}: cost {other.cost:.2g}, {other.late_share:.2g} of the work late"
            for other in learned.alternatives
            if not _costly(other.cost)
        ),
        infeasible="" if learned.infeasible is None else cut(infeasibility(learned.infeasible), 1024),
    )


def to_forecast(decision: ScalingDecision) -> ForecastStatus:
    """Write what load is expected when a replica asked for now would serve."""
    learned = decision.learned
    expected = max(0.0, learned.forecast)
    notes = [f"{decision.load.replicas:.1f} busy replicas become {expected:.1f}"]
    if learned.burst is True:
        notes.append("the load is in a burst")
    if learned.changed is True:
        notes.append("the load changed for good within the last hour")
    return ForecastStatus(
        horizon=Duration.of(_seconds(decision.start_up)),
        replicas=math.ceil(expected - 1e-6),
        upper=to_measured(_short(learned.forecast_upper)),
        coverage=to_measured(_short(learned.forecast_coverage)),
        forecaster=str(learned.forecaster),
        backtested_error=to_measured(_short(learned.forecast_error)),
        level_error=to_measured(_short(learned.forecast_level_error)),
        message="; ".join(notes),
    )


def to_start_up(found: StartUp) -> StartUpStatus:
    """Write how long pods take to serve, and where the time goes."""
    return StartUpStatus(
        p50=to_measured(_whole(found.p50)),
        p95=to_measured(_whole(found.p95)),
        samples=found.samples,
        stages=tuple(
            StageStatus(name=str(stage), p50=to_measured(_whole(one.p50)), p95=to_measured(_whole(one.p95)))
            for stage, one in found.stages.items()
            if not isinstance(one.p95, Unknown) and one.p95 > 0.0
        ),
        pending=found.pending,
        stock_outs=found.stock_outs,
        message=cut(said(found), 1024),
    )


def _costly(cost: Value) -> bool:
    """Tell whether a cost only says that there was no work."""
    return not isinstance(cost, Unknown) and cost > _MOST_COST


def _whole(value: Value) -> Value:
    return value if isinstance(value, Unknown) else float(round(value))


def _seconds(value: float) -> float:
    return max(_SECONDS_STEP, round(value / _SECONDS_STEP) * _SECONDS_STEP)


def _short(value: Value) -> Value:
    if isinstance(value, Unknown) or not math.isfinite(value):
        return value
    return float(f"{value:.{_DIGITS}g}")
