"""What a larger or smaller batch would cost and bring, from the fit of the engine's own steps (`pace`).

Everything is told relative to what runs now: step(B) = now + s x (B - batch now), so that an error in the fit's base
cancels. `s` is b of the fit, and where prompts have a cost of their own also the prompt tokens that come with each
request in the batch, for more requests bring more prompts. Where b is not identified, s is unknown, and all that is
sure is that a step grows at most in proportion to its batch.
"""

import math
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.advice import AdviceInput
from optiinfra.domain.readings import Unknown, UnknownReason, Value

OBSERVATIONS: Final = 10
"""Windows that a trial lasts, before and after."""
PRECISION: Final = 0.25
"""Half of the interval that a trial is to reach, as a share of the largest possible b."""
STUDENT: Final = 2.1
"""97.5th percentile of Student's distribution for two times `OBSERVATIONS` less two."""
USUAL_NOISE: Final = 0.05
"""Scatter of a window's step time, where history does not tell it."""
SMALLEST_TRIAL: Final = 0.1
LARGEST_TRIAL: Final = 1.0


@dataclass(frozen=True, slots=True)
class StepCost:
    """One replica's step now, and what each request more adds to it. Seconds."""

    batch: float
    step: float
    slope: Value
    lower: Value
    upper: Value
    """Interval of the slope (95 %)."""

    @property
    def identified(self) -> bool:
        """Whether history tells what a request costs."""
        return not isinstance(self.slope, Unknown)

    def at(self, batch: float, slope: Value) -> Value:
        """Return the time of a step with another batch."""
        return slope if isinstance(slope, Unknown) else max(0.0, self.step + slope * (batch - self.batch))

    def throughput_ratio(self, batch: float, slope: Value) -> Value:
        """Return tokens per second with another batch, over those now: (B / step(B)) / (batch / step)."""
        step = self.at(batch, slope)
        if isinstance(step, Unknown):
            return step
        if step <= 0.0:
            return Unknown(UnknownReason.INVALID, "the fit leaves nothing of a step at this batch")
        return batch / step / (self.batch / self.step)

    def batch_for(self, step: float, slope: Value) -> Value:
        """Return the batch at which a step takes this long; infinite where requests cost nothing."""
        if isinstance(slope, Unknown):
            return slope
        if slope <= 0.0:
            return math.inf if step >= self.step else 0.0
        return self.batch + (step - self.step) / slope


def step_cost(given: AdviceInput) -> StepCost | Unknown:
    """Return what is known of the service's steps now."""
    signals, pace = given.signals, given.pace
    steps = (signals.inter_token_latency_mean, signals.inter_token_latency_p50, signals.inter_token_latency_p95)
    batches = (signals.running_mean, signals.running_per_replica_max)
    step = next((one for one in steps if not isinstance(one, Unknown) and one > 0.0), None)
    batch = next((one for one in batches if not isinstance(one, Unknown) and one > 0.0), None)
    if step is None:
        return Unknown(UnknownReason.NOT_MEASURED, "the time between tokens")
    if batch is None:
        return Unknown(UnknownReason.NOT_MEASURED, "the batch")
    if not pace.identified:
        why = pace.slope if isinstance(pace.slope, Unknown) else Unknown(UnknownReason.TOO_FEW_SAMPLES, _wide(given))
        return StepCost(batch, step, why, why, why)
    more = 0.0
    if not isinstance(pace.prompt_slope, Unknown) and not isinstance(signals.step_tokens_mean, Unknown):
        more = pace.prompt_slope * max(0.0, signals.step_tokens_mean - batch) / batch
    return StepCost(
        batch,
        step,
        *(one if isinstance(one, Unknown) else one + more for one in (pace.slope, pace.slope_lower, pace.slope_upper)),
    )


def _wide(given: AdviceInput) -> str:
    low, high = given.pace.slope_lower, given.pace.slope_upper
    if isinstance(low, Unknown) or isinstance(high, Unknown):
        return "what a request costs is not known"
    return f"a request costs {low * 1000:.2g} to {high * 1000:.2g} ms a step, which is too wide to decide on"


def smallest_trial(given: AdviceInput) -> float:
    """Return the smallest change of the batch, as a share of it, from which b could be learned.

    Two levels a share d apart, observed n windows each with relative scatter e, give b to within
    `t x e x sqrt(2 / n) / d` of step / batch (the largest that b can be); solved for d at `PRECISION`.
    """
    noise = USUAL_NOISE if isinstance(given.pace.noise, Unknown) else given.pace.noise
    share = STUDENT * noise * math.sqrt(2.0 / OBSERVATIONS) / PRECISION
    return min(LARGEST_TRIAL, max(SMALLEST_TRIAL, share))


def needed_batch(given: AdviceInput, cost: StepCost) -> Value:
    """Return the batch of one replica that takes all that arrives (Little: batch = arrivals x time in the batch).

    Time in the batch is prefill and one step a token, and the step depends on the batch: with arrivals l, prefill P,
    answers of G tokens and step(B) = t + s (B - B0), B = l (P + G (t - s B0)) / (1 - l G s). Infinite where requests
    come faster than any batch makes tokens.
    """
    signals = given.signals
    arrivals, tokens, prefill = signals.arrival_rate, signals.generation_tokens_mean, signals.prefill_time_mean
    for value in (arrivals, tokens, prefill, cost.slope):
        if isinstance(value, Unknown):
            return value
    assert not isinstance(arrivals, Unknown)
    assert not isinstance(tokens, Unknown)
    assert not isinstance(prefill, Unknown)
    assert not isinstance(cost.slope, Unknown)
    each = arrivals / max(signals.replicas_reporting, 1)
    left = 1.0 - each * tokens * cost.slope
    if left <= 0.0:
        return math.inf
    return max(0.0, each * (prefill + tokens * (cost.step - cost.slope * cost.batch)) / left)
