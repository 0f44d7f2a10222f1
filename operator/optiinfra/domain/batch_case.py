"""One replica's batch and what another one would do to it: the effects and the words of a proposal.

Effects come from the fit where it tells what a request costs; else only their bounds are known, for a step grows at
most in proportion to its batch. A full batch grows with its limit; a limit below what runs cuts it.
"""

from dataclasses import dataclass
from math import ceil, floor
from typing import Final

from optiinfra.domain.advice import AdviceInput
from optiinfra.domain.engine_flags import EngineFlags
from optiinfra.domain.evidence import Direction, Effect, Evidence, Proposal, RecommendationType
from optiinfra.domain.manifests import instruction, patch, undo
from optiinfra.domain.objectives import said
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.step_cost import OBSERVATIONS, StepCost, smallest_trial
from optiinfra.domain.units import Ratio, Seconds

BUCKETS: Final = 1.05
"""What a 95th percentile read from buckets may be off, as a factor."""
ROUNDING: Final = 1e-9
"""What floating point may lack of a whole number."""
_BATCH: Final = RecommendationType.BATCH_SIZE
_INSTANT: Final = Seconds(0.0)
_PROPORTIONAL: Final = "a step grows at most in proportion to its batch"
_FITTED: Final = "fit of step time over batch on the engine's history"


@dataclass(frozen=True, slots=True)
class Batch:
    """The batch limit of one replica, and what its requests cost."""

    given: AdviceInput
    flags: EngineFlags
    limit: float
    cost: StepCost | Unknown
    engines: float
    """Data-parallel engines that share the limit; a flag is set for each."""

    @property
    def share_of_objective(self) -> Value:
        """Inter-token latency p95 over what is promised."""
        between = self.given.signals.inter_token_latency_p95
        return between if isinstance(between, Unknown) else between / self.given.objectives.inter_token_latency_p95

    @property
    def identified(self) -> bool:
        """Whether history tells what a request costs."""
        return isinstance(self.cost, StepCost) and self.cost.identified

    def flag(self, batch: float) -> str:
        """Return what the flag has to say for a batch of one replica."""
        return str(max(1, floor(batch / self.engines + ROUNDING)))


def trial(batch: Batch) -> int:
    """Return the smallest larger batch from which b could be learned."""
    return ceil(batch.limit * (1.0 + smallest_trial(batch.given)) - ROUNDING)


def _change(batch: Batch, proposed: float) -> tuple[float, float]:
    """Return by how much the batch that runs changes, and what it becomes.

    A full batch grows with its limit; a limit below what runs cuts it, and one above leaves it.
    """
    running = batch.limit if isinstance(batch.cost, Unknown) else batch.cost.batch
    target = running * proposed / batch.limit if proposed > batch.limit else min(running, proposed)
    return target / running, target


def kv_usage(batch: Batch, proposed: float) -> Effect:
    """Predict how full the KV cache becomes."""
    before = batch.given.signals.kv_cache_usage_max
    change, _ = _change(batch, proposed)
    after = before if isinstance(before, Unknown) else min(1.0, before * change)
    low, high = (before, after) if change > 1.0 else (after, before)
    return Effect("kv_cache_usage", "ratio", before, low, after, high, "in proportion to requests")


def throughput(batch: Batch, proposed: float) -> Effect:
    """Predict tokens per second of a replica."""
    cost, rate = batch.cost, batch.given.signals.generation_token_rate
    before = rate if isinstance(rate, Unknown) else rate / max(batch.given.signals.replicas_reporting, 1)
    change, target = _change(batch, proposed)
    if isinstance(cost, StepCost) and cost.identified and not isinstance(before, Unknown):
        ratios = [cost.throughput_ratio(target, slope) for slope in (cost.upper, cost.slope, cost.lower)]
        if not any(isinstance(one, Unknown) for one in ratios):
            low, middle, high = (before * float(one) for one in ratios if not isinstance(one, Unknown))
            return Effect("generation_tokens", "tokens/s", before, min(low, high), middle, max(low, high), _FITTED)
    unknown = cost.slope if isinstance(cost, StepCost) else cost
    middle_unknown = unknown if isinstance(unknown, Unknown) else Unknown(UnknownReason.NOT_MEASURED, "throughput")
    bound = before if isinstance(before, Unknown) else before * change
    low_bound, high_bound = (before, bound) if change > 1.0 else (bound, before)
    return Effect("generation_tokens", "tokens/s", before, low_bound, middle_unknown, high_bound, _PROPORTIONAL)


def latency(batch: Batch, proposed: float) -> Effect:
    """Predict inter-token latency p95, which moves with the step."""
    cost, before = batch.cost, batch.given.signals.inter_token_latency_p95
    unit, name = "seconds", "inter_token_latency_p95"
    if isinstance(before, Unknown):
        return Effect(name, unit, before, before, before, before, _PROPORTIONAL)
    change, target = _change(batch, proposed)
    if isinstance(cost, StepCost) and cost.identified:
        values = [cost.at(target, slope) for slope in (cost.lower, cost.slope, cost.upper)]
        low, middle, high = (before * one / cost.step for one in values if not isinstance(one, Unknown))
        return Effect(name, unit, before, min(low, high) / BUCKETS, middle, max(low, high) * BUCKETS, _FITTED)
    why = cost.slope if isinstance(cost, StepCost) else cost
    expected = why if isinstance(why, Unknown) else before
    low, high = (before, before * change) if change > 1.0 else (before * change, before)
    return Effect(name, unit, before, low / BUCKETS, expected, high * BUCKETS, _PROPORTIONAL)


def proposal(
    batch: Batch,
    proposed: float,
    *,
    reason: str,
    text: str,
    bounds: tuple[float, float],
    risk: str,
    sure: float,
    gain: Effect,
) -> Proposal:
    """Word a proposal for another batch.

    Args:
        batch: what it is about.
        proposed: requests of one replica at once.
        reason: its code.
        text: why, with the numbers.
        bounds: least and most that the analysis would still agree with.
        risk: what can go wrong.
        sure: factor on the verdict's confidence.
        gain: what becomes of the throughput.
    """
    given, setting, value = batch.given, batch.flags.batch_limit, batch.flag(proposed)
    container, source = given.settings.container, given.diagnosis.batch_limit_source
    given_before = batch.flag(batch.limit) if source != "inferred" else "not given"
    usage, window = given.signals.kv_cache_usage_max, given.signals.window
    return Proposal(
        type=_BATCH,
        reason=reason,
        message=f"{text} {instruction(setting, value, container=container)}",
        setting=setting,
        current=batch.flag(batch.limit),
        proposed=value,
        lower=batch.flag(bounds[0]),
        upper=batch.flag(bounds[1]),
        direction=Direction.RESIZE,
        confidence=Ratio(round(given.diagnosis.confidence * sure, 2)),
        evidence=(
            Evidence("requests_waiting", given.signals.waiting, "", _INSTANT, "engine"),
            Evidence("batch_limit", batch.limit, "", _INSTANT, "derived" if source == "inferred" else "engine"),
            Evidence("kv_cache_usage", usage, "ratio", window, "engine", "max"),
            Evidence("inter_token_latency", given.signals.inter_token_latency_p95, "seconds", window, "engine", "p95"),
            Evidence("step_time_per_request", given.pace.slope, "seconds", window, "derived", "fit"),
        ),
        patch=patch(setting, value, container=container),
        effects=(
            gain,
            latency(batch, proposed),
            kv_usage(batch, proposed),
        ),
        risk=risk,
        verification=(
            f"After the restart, for {OBSERVATIONS} windows under like load: generated tokens per second, inter-token "
            f"latency p95 ({said(given.objectives.inter_token_latency_p95)}), waiting requests, no preemptions."
        ),
        undo=undo(setting, given_before, container=container),
    )
