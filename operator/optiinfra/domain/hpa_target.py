"""The target that the user's own HPA should have, with a replay of the workload's load as evidence.

Who keeps a scaler of his own gets what a plain HPA can do: the cheapest target on the rate of work of one replica that
held the objective on the load of the last hours, with this workload's start-up and limits, and the stabilisation
window that goes with it. It is a model, `replay.evidence`, and says what it left out by naming what it replayed. It
refuses to name a target while what one replica serves is a guess, or on less than three hours of load.
"""

from typing import Final

import numpy as np

from optiinfra.domain.evidence import Direction, Proposal, RecommendationType, Refusal
from optiinfra.domain.history import Column, LoadHistory, stack
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.replay.evidence import ReplayEvidence, replay_evidence
from optiinfra.domain.replay.fluid import FloatArray
from optiinfra.domain.replica_capacity import Basis
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.units import Ratio, Seconds

HPA_TARGET: Final = RecommendationType.HPA_TARGET
LEAST_HISTORY: Final = Seconds(3 * 3600.0)
TICK_S: Final = 15.0
_TRUSTED: Final = frozenset({Basis.MEASURED, Basis.STEP_TIMES})
_NOT_KEPT: Final = Unknown(UnknownReason.NOT_CONFIGURED, "what was decided meanwhile is not kept")
_OTHER_METRIC: Final = Unknown(UnknownReason.NOT_MEASURED, "the HPA that runs does not scale on the rate of work")


def propose(
    history: LoadHistory,
    decision: ScalingDecision,
    *,
    minimum: int,
    maximum: int,
    late_share: float,
    scaler: str,
    subject: str,
) -> Proposal | Refusal:
    """Propose a target in work per second and replica; at most 50 ms for what a history keeps."""
    capacity = decision.capacity
    if isinstance(capacity.work, Unknown) or capacity.basis not in _TRUSTED:
        text = f"what one replica serves is not measured yet ({capacity.basis}), so that no target can be told in work"
        return Refusal(HPA_TARGET, "CapacityUnknown", text)
    load = load_in_replicas(history, capacity=capacity.work)
    known = float(np.isfinite(load).sum()) * TICK_S
    if known < LEAST_HISTORY or not float(np.nansum(load)) > 0.0:
        text = f"{known / 3600.0:.1f} of {LEAST_HISTORY / 3600.0:.0f} hours of load are known"
        return Refusal(HPA_TARGET, str(UnknownReason.TOO_FEW_SAMPLES), text)
    found = replay_evidence(
        load,
        start_up_s=float(decision.start_up),
        minimum=minimum,
        maximum=maximum,
        current_target=_OTHER_METRIC,
        decided=_NOT_KEPT,
        late_share=late_share,
    )
    best = found.best
    if isinstance(best, Unknown):
        text = f"no target of a plain HPA held the objective on the last {found.hours:.1f} hours: {best.detail}"
        return Refusal(HPA_TARGET, "NoTargetHolds", text)
    return _worded(found, decision, target=best.target, work=capacity.work, scaler=scaler, subject=subject)


def load_in_replicas(history: LoadHistory, *, capacity: float) -> FloatArray:
    """(ticks,) of 15 s: the load that a history keeps, NaN where it was not measured.

    A history of longer steps is repeated, one of shorter steps thinned.
    """
    newest = history.newest
    if newest is None:
        return np.full(0, np.nan)
    rows = stack([history], now=newest, steps=len(history))[Column.WORK_RATE, 0].astype(np.float64) / capacity
    ends = (np.arange(int(len(rows) * history.step / TICK_S)) + 1) * TICK_S
    load: FloatArray = rows[np.minimum(np.ceil(ends / history.step).astype(np.int64) - 1, len(rows) - 1)]
    return load


def _worded(
    found: ReplayEvidence, decision: ScalingDecision, *, target: float, work: float, scaler: str, subject: str
) -> Proposal:
    best = found.best
    assert not isinstance(best, Unknown)
    proposed = float(f"{target * work:.2g}")
    window = max(15.0, round(decision.learned.shrink_delay_s / 15.0) * 15.0)
    return Proposal(
        type=HPA_TARGET,
        reason="CheapestThatHeld",
        message=(
            f"an HPA on the rate of work (prompt tokens + 4 x generated ones) at {proposed:g} a second and replica, "
            f"{target:.0%} of what one serves, would have run the last {found.hours:.1f} hours at cost "
            f"{best.outcome.cost:.2f} (1 is always busy) with {best.outcome.late10:.2%} of the work late; scale-down "
            f"stabilisation {min(3600.0, window):.0f} s"
        ),
        setting=f"HorizontalPodAutoscaler/{scaler} averageValue of work/s",
        current="another metric",
        proposed=f"{proposed:g}",
        lower=f"{proposed:g}",
        upper=f"{proposed:g}",
        direction=Direction.NONE,
        confidence=Ratio(round(0.8 * decision.capacity.confidence, 3)),
        evidence=found.as_evidence(),
        subject=subject,
        risk="the replay is a fluid model without batches and caches; the last hours may not be like the next ones",
        verification="waiting requests and time to first token over the next busy hours",
        undo="set the metric and the target of before",
    )
