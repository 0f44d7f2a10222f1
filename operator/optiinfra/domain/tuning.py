"""Advice on batch size, and the door to all advice on engine settings other than the KV cache's.

A full batch with room in the KV cache may grow: as far as the cache holds requests of the measured shape, as far as
the time between tokens keeps its objective, and no further than arrivals need (Little's law). What a request more
costs is read from the engine's own history (`pace`); where history does not tell it, the proposal is the smallest step
from which it could be learned, and the only promise is that a step grows at most in proportion to its batch. A batch
that makes tokens too slow may shrink by the same fit. Preemptions belong to the KV cache's advice, replicas to scaling.

Nothing here is ever applied: a change of the batch restarts every replica.
"""

import math
from math import ceil, floor
from typing import Final

from optiinfra.domain import quantization, step_tokens
from optiinfra.domain.advice import Advice, AdviceInput, because
from optiinfra.domain.batch_case import BUCKETS, ROUNDING, Batch, proposal, throughput, trial
from optiinfra.domain.engine_flags import flags_of
from optiinfra.domain.evidence import Bottleneck, Effect, RecommendationType, Refusal
from optiinfra.domain.kv_cache import requests_that_fit
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.step_cost import OBSERVATIONS, StepCost, needed_batch, smallest_trial, step_cost

KV_TARGET: Final = 0.95
"""Highest KV usage that a larger batch may lead to."""
LARGEST_STEP: Final = 2.0
SMALLEST_STEP: Final = 1.1
"""A change of less is not worth a restart."""
WORTHWHILE: Final = 0.03
"""Gain of throughput below which a larger batch only slows tokens down."""
HEADROOM: Final = 1.1
"""Room that a batch sized for its arrivals leaves above them."""
_BATCH: Final = RecommendationType.BATCH_SIZE


def advise(given: AdviceInput) -> tuple[Advice, ...]:
    """Return a proposal or the reason against it, for batch size, tokens of a step, and quantization."""
    return (_batch_size(given), step_tokens.advise(given), quantization.advise(given))


def _batch_size(given: AdviceInput) -> Advice:
    signals, settings, diagnosis = given.signals, given.settings, given.diagnosis
    if diagnosis.bottleneck is Bottleneck.UNKNOWN:
        return Refusal(_BATCH, "BottleneckUnknown", f"No advice on batch size: {diagnosis.message}")
    slow = signals.inter_token_latency_p95
    missed = not isinstance(slow, Unknown) and slow > given.objectives.inter_token_latency_p95
    lower = diagnosis.bottleneck is Bottleneck.COMPUTE and missed
    if diagnosis.bottleneck is not Bottleneck.BATCH and not lower:
        return Refusal(_BATCH, "NotLimiting", _not_limiting(given))
    if lower and step_tokens.interferes(given):
        text = (
            "Tokens are slow in steps that carry prompts only: the tokens of a step are what to change, not the batch."
        )
        return Refusal(_BATCH, "PrefillInterferes", text)
    flags = flags_of(settings.engine, settings.version)
    if not flags.batch_limit:
        return Refusal(_BATCH, "NoSuchSetting", f"{settings.engine} has no batch limit that can be set.")
    engines = 1.0 if isinstance(settings.data_parallel, Unknown) else max(1.0, settings.data_parallel)
    limit = diagnosis.batch_limit
    if lower:
        # Without a limit that is known, what runs is what a limit would have to cut.
        highest = signals.running_per_replica_max
        limit = highest if isinstance(limit, Unknown) else limit
    if isinstance(limit, Unknown):
        return Refusal(_BATCH, "BatchLimitUnknown", f"The batch limit is not known: {because(limit)}.")
    batch = Batch(given, flags, limit, step_cost(given), engines)
    return _lower(batch) if lower else _raise(batch)


def _not_limiting(given: AdviceInput) -> str:
    if given.diagnosis.reason == "DecodeBound" and math.isinf(given.objectives.inter_token_latency_p95):
        return (
            "Decoding takes the time, and a smaller batch would make each token faster. How fast it has to be nobody "
            "said: give an objective for the time between tokens."
        )
    if step_tokens.prefill_bound(given):
        return "Prompts take the time, not the batch: its limit keeps no request waiting."
    return "The batch limit does not keep requests waiting, nor does it slow tokens."


def _room(batch: Batch) -> Value:
    """Return how many requests the KV cache holds at `KV_TARGET`: as measured, and as their shape says."""
    signals = batch.given.signals
    usage, fit = signals.kv_cache_usage_max, requests_that_fit(signals, batch.given.settings)
    held = [] if isinstance(fit, Unknown) else [fit * KV_TARGET]
    if not isinstance(usage, Unknown):
        held.append(batch.limit * KV_TARGET / usage if usage > 0.0 else math.inf)
        # What was measured at this very batch is surer than what lengths make expect.
        return held[-1] if usage > 0.0 else min(held)
    return min(held) if held else usage


def _raise(batch: Batch) -> Advice:
    given, limit = batch.given, batch.limit
    between, room, safe = given.signals.inter_token_latency_p95, _room(batch), _safe(batch)
    if isinstance(room, Unknown):
        return Refusal(
            _BATCH, "KVCacheUnknown", f"Whether the KV cache has room for more requests is not known: {because(room)}."
        )
    if room < limit * SMALLEST_STEP:
        text = f"{limit:g} requests leave no room for a tenth more in the KV cache (it holds {room:.0f})."
        return Refusal(_BATCH, "KVCacheWouldFill", text)
    if safe < limit * SMALLEST_STEP:
        text = (
            f"A larger batch slows tokens down, and inter-token latency p95 is {between:.2g} s of the "
            f"{given.objectives.inter_token_latency_p95:g} s promised: more replicas help instead."
        )
        return Refusal(_BATCH, "LatencyAtLimit", text)
    upper = min(room, safe, limit * LARGEST_STEP)
    wanted, need = _wanted(batch, upper)
    proposed = floor(wanted / batch.engines + ROUNDING) * batch.engines
    if proposed < limit * SMALLEST_STEP:
        return Refusal(_BATCH, "StepTooSmall", f"From {limit:g} to {proposed:g} requests is not worth a restart.")
    gain, known = throughput(batch, proposed), batch.identified
    if known and not isinstance(gain.expected, Unknown) and not isinstance(gain.before, Unknown):
        ratio = gain.expected / gain.before - 1.0
        if ratio < WORTHWHILE:
            text = (
                f"Steps grow with their batch, so that {proposed:g} instead of {limit:g} requests would make "
                f"{ratio:.1%} more tokens and slow each of them: more replicas help instead."
            )
            return Refusal(_BATCH, "NoThroughputGain", text)
    return proposal(
        batch,
        proposed,
        reason="RaiseBatchLimit" if known or proposed < trial(batch) else "RaiseBatchLimitToLearn",
        text=_raise_text(batch, proposed, gain, need, upper),
        bounds=(limit + batch.engines, upper),
        risk=(
            "Each token takes longer as the batch grows, and longer requests than those measured may fill the KV cache "
            "and be preempted."
        ),
        sure=0.4 if isinstance(between, Unknown) else 0.75 if known else 0.5,
        gain=gain,
    )


def _safe(batch: Batch) -> float:
    """Return the largest batch that surely keeps the time between tokens."""
    limit, cost, share = batch.limit, batch.cost, batch.share_of_objective
    if isinstance(share, Unknown):
        return limit * LARGEST_STEP
    if share <= 0.0:
        return math.inf
    share *= BUCKETS
    # A step grows at most in proportion to its batch, and at most by the upper end of the fit: both bounds are sure.
    by_fit = cost.batch_for(cost.step / share, cost.upper) if isinstance(cost, StepCost) else cost
    if isinstance(by_fit, Unknown) or isinstance(cost, Unknown):
        return limit / share
    return max(limit / share, limit + by_fit - cost.batch)


def _wanted(batch: Batch, upper: float) -> tuple[float, Value]:
    """Return the batch to propose, at most `upper`, and the batch that arrivals need."""
    limit, cost = batch.limit, batch.cost
    if isinstance(cost, Unknown):
        return min(upper, trial(batch)), cost
    need = needed_batch(batch.given, cost)
    if not cost.identified:
        return min(upper, trial(batch)), need
    if isinstance(need, Unknown) or need <= limit:
        return upper, need
    # Clients that wait for their answers ask no faster than they are served: those who wait now count as well.
    return min(upper, max(need * HEADROOM, limit * SMALLEST_STEP, _inside(batch))), need


def _inside(batch: Batch) -> float:
    """Return the requests of one replica that run or wait now."""
    signals = batch.given.signals
    running, waiting = signals.running, signals.waiting
    if isinstance(running, Unknown) or isinstance(waiting, Unknown):
        return math.inf
    return (running + waiting) / max(signals.replicas_reporting, 1)


def _raise_text(batch: Batch, proposed: float, gain: Effect, need: Value, upper: float) -> str:
    """Say what, why, with what effect, and up to where, a sentence each."""
    given, limit = batch.given, batch.limit
    usage, between = given.signals.kv_cache_usage_max, given.signals.inter_token_latency_p95
    full = "" if isinstance(usage, Unknown) else f", with {usage:.0%} of the KV cache in use"
    after = "" if isinstance(usage, Unknown) else f"; {usage * proposed / limit:.0%} of the KV cache is then in use"
    parts = [f"The batch is full at {limit:g} requests{full}."]
    if isinstance(gain.expected, Unknown) or isinstance(gain.before, Unknown):
        parts.append(
            f"At {proposed:g} the engine makes at most {proposed / limit - 1:.0%} more tokens a second{after}."
        )
        parts += _untold(batch, proposed, floor(upper))
    else:
        low, high = gain.lower, gain.upper
        assert not isinstance(low, Unknown)
        assert not isinstance(high, Unknown)
        parts.append(
            f"By its own steps the engine makes {gain.expected / gain.before - 1:.0%} more tokens a second at "
            f"{proposed:g} ({low / gain.before - 1:.0%} to {high / gain.before - 1:.0%}){after}."
        )
    if not isinstance(need, Unknown) and need >= limit * SMALLEST_STEP:
        short = " More replicas have to take the rest." if need > proposed else ""
        parts.append(
            "Requests arrive faster than any batch serves them: more replicas are needed as well."
            if math.isinf(need)
            else f"What arrives needs a batch of {need:.0f}.{short}"
        )
    if isinstance(between, Unknown):
        parts.append("The latency between tokens was not measured.")
    return " ".join(parts)


def _untold(batch: Batch, proposed: float, upper: int) -> list[str]:
    """Say why the gain is not known, how it will be, and how far the limit may go."""
    why, tells = batch.cost.slope if isinstance(batch.cost, StepCost) else batch.cost, trial(batch)
    what = why.detail if isinstance(why, Unknown) and why.detail else str(why)
    free = math.isinf(batch.given.objectives.inter_token_latency_p95)
    bounds = "the KV cache" if free else "KV cache or latency"
    if proposed < tells:
        return [f"How much more is not known: {what}.", f"{tells} would tell it, and {bounds} may not allow as many."]
    allowed = f"; no more than {upper} is safe to try" if upper > proposed else ""
    told = f"{OBSERVATIONS} windows at {proposed:g}, the smallest step that can, will tell it{allowed}."
    return [f"How much more is not known: {what}.", told]


def _lower(batch: Batch) -> Advice:
    given, cost, share = batch.given, batch.cost, batch.share_of_objective
    if isinstance(cost, Unknown):
        return Refusal(
            _BATCH, "StepsUnknown", f"Whether a smaller batch helps is not known: {because(cost)} is not measured."
        )
    assert not isinstance(share, Unknown)
    running = cost.batch
    if running < 2.0:
        text = "Tokens are too slow although hardly more than one request runs: no batch limit makes them faster."
        return Refusal(_BATCH, "BatchAlreadySmall", text)
    if not cost.identified:
        proposed = max(1.0, floor(running / (1.0 + smallest_trial(given)) / batch.engines) * batch.engines)
        text = (
            f"Tokens miss their objective at {running:.0f} requests. What a request costs is not known: "
            f"{cost.slope.detail if isinstance(cost.slope, Unknown) else cost.slope}. {OBSERVATIONS} windows with at "
            f"most {proposed:g} at once, the smallest step that can, will tell it."
        )
        reason, bounds, sure = "LowerBatchLimitToLearn", (1.0, running), 0.3
    else:
        found = [cost.batch_for(cost.step / share, slope) for slope in (cost.lower, cost.slope, cost.upper)]
        low, middle, high = (one if not isinstance(one, Unknown) else 0.0 for one in found)
        if middle < 1.0:
            text = (
                f"Even one request alone would miss {given.objectives.inter_token_latency_p95:g} s between tokens: "
                "the rest of a step does not come from the batch. Quantised weights, more GPUs a replica or faster "
                "ones help."
            )
            return Refusal(_BATCH, "StepTooSlow", text)
        proposed = max(1.0, floor(middle / batch.engines) * batch.engines)
        if proposed > running / SMALLEST_STEP:
            return Refusal(
                _BATCH, "StepTooSmall", f"From {running:.0f} to {proposed:g} requests is not worth a restart."
            )
        text = (
            f"{running:.0f} requests make tokens {share:.2g} times as slow as promised. With {proposed:g} at once they "
            "keep the objective"
        )
        text += _left_waiting(batch, cost, proposed)
        reason, bounds, sure = "LowerBatchLimit", (max(1.0, low), min(high, running)), 0.65
    return proposal(
        batch,
        proposed,
        reason=reason,
        text=text,
        bounds=bounds,
        risk="A smaller batch makes fewer tokens a second: what does not fit waits, and the first token comes later.",
        sure=sure,
        gain=throughput(batch, proposed),
    )


def _left_waiting(batch: Batch, cost: StepCost, proposed: float) -> str:
    """Say what the smaller batch leaves to be served elsewhere."""
    need = needed_batch(batch.given, cost)
    if isinstance(need, Unknown):
        return ". What does not fit waits; how much that is, is not known, for arrivals are not measured well enough."
    if need <= proposed:
        return f". What arrives needs a batch of {need:.0f}, so that nothing has to wait."
    replicas = max(batch.given.signals.replicas_reporting, 1)
    if math.isinf(need):
        return ". Requests arrive faster than any batch serves them: more replicas are needed."
    more = max(1, ceil(replicas * need / proposed) - replicas)
    return f". {more} more replica{'s' if more > 1 else ''} have to take what then does not fit."
