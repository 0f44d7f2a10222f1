"""Advice on batch size and on quantization: settings that make one replica do more.

Batch size: a full batch with room in the KV cache may grow, as far as the cache allows and as far as the time between
tokens surely allows. That time grows with the batch at most in proportion, so that `limit x objective / measured` is
safe without knowing the hardware; the true optimum is higher and is found by repeating.

Quantization: a small batch reads all weights for every token, so that 8-bit weights can at best halve the time between
tokens. That bound is all that is stated. At a large batch arithmetic limits, not the reading of weights, and nothing is
promised. Accuracy is never judged here.
"""

from math import floor
from typing import Final

from optiinfra.domain.advice import AdviceInput
from optiinfra.domain.bottleneck import Diagnosis
from optiinfra.domain.engine_flags import flags_of
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Bottleneck, Direction, Evidence, Proposal, RecommendationType, Refusal
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Ratio, Seconds

KV_TARGET: Final = 0.95
"""Highest KV usage that a larger batch may lead to."""
LARGEST_STEP: Final = 2.0
SMALLEST_STEP: Final = 1.1
"""A change of less is not worth a restart."""
ROUNDING: Final = 1e-9
"""What floating point may lack of a whole number."""
SMALL_BATCH: Final = 32.0
"""Requests of one replica up to which reading the weights dominates a step."""
_BATCH: Final = RecommendationType.BATCH_SIZE
_QUANTIZATION: Final = RecommendationType.QUANTIZATION
_INSTANT: Final = Seconds(0.0)


def advise(given: AdviceInput) -> tuple[Proposal | Refusal, ...]:
    """Return a proposal or the reason against it, for batch size and for quantization."""
    signals, settings, diagnosis, objectives = given.signals, given.settings, given.diagnosis, given.objectives
    return (
        _batch_size(signals, settings, diagnosis, objectives),
        _quantization(signals, settings, diagnosis, objectives),
    )


def _batch_size(
    signals: ServiceSignals, settings: EngineSettings, diagnosis: Diagnosis, objectives: Objectives
) -> Proposal | Refusal:
    limit, usage, flag = diagnosis.batch_limit, signals.kv_cache_usage_max, flags_of(settings.engine).batch_limit
    if diagnosis.bottleneck is Bottleneck.UNKNOWN:
        return Refusal(_BATCH, "BottleneckUnknown", f"No advice on batch size: {diagnosis.message}")
    if diagnosis.bottleneck is not Bottleneck.BATCH or isinstance(limit, Unknown):
        return Refusal(_BATCH, "NotLimiting", "The batch limit does not keep requests waiting.")
    if not flag:
        return Refusal(_BATCH, "NoSuchSetting", f"{settings.engine} has no batch limit that can be set.")
    if isinstance(usage, Unknown):
        return Refusal(_BATCH, "KVCacheUnknown", f"Whether the KV cache has room for more requests is {usage}.")
    by_memory = limit * KV_TARGET / usage if usage > 0.0 else limit * LARGEST_STEP
    pace = signals.inter_token_latency_p95
    by_pace = limit * LARGEST_STEP
    if not isinstance(pace, Unknown) and pace > 0.0:
        by_pace = limit * objectives.inter_token_latency_p95 / pace
    if by_pace < limit * SMALLEST_STEP:
        return Refusal(
            _BATCH,
            "LatencyAtLimit",
            f"A larger batch slows tokens down, and inter-token latency p95 is {pace:.2g} s of the "
            f"{objectives.inter_token_latency_p95:g} s promised: more replicas help instead.",
        )
    if by_memory < limit * SMALLEST_STEP:
        return Refusal(
            _BATCH,
            "KVCacheWouldFill",
            f"{limit:g} requests fill {usage:.0%} of the KV cache; a tenth more does not fit.",
        )
    proposed = floor(min(by_memory, by_pace, limit * LARGEST_STEP) + ROUNDING)
    if proposed < limit * SMALLEST_STEP:
        return Refusal(_BATCH, "StepTooSmall", f"From {limit:g} to {proposed} requests is not worth a restart.")
    sure = 0.5 if isinstance(pace, Unknown) else 0.7
    return Proposal(
        type=_BATCH,
        reason="RaiseBatchLimit",
        message=(
            f"The batch is full at {limit:g} requests with {usage:.0%} of the KV cache in use. "
            f"At {proposed} it would be {usage * proposed / limit:.0%} in use; "
            f"throughput rises by at most {proposed / limit - 1:.0%}"
            + (", and latency between tokens was not measured." if isinstance(pace, Unknown) else ".")
        ),
        setting=flag,
        current=f"{limit:g}",
        proposed=str(proposed),
        lower=str(int(limit) + 1),
        upper=str(floor(min(by_memory, limit * LARGEST_STEP) + ROUNDING)),
        direction=Direction.RESIZE,
        confidence=Ratio(round(diagnosis.confidence * sure, 2)),
        evidence=(
            Evidence("requests_waiting", signals.waiting, "", _INSTANT, "engine"),
            Evidence(
                "batch_limit",
                limit,
                "",
                _INSTANT,
                "derived" if diagnosis.batch_limit_source == "inferred" else "engine",
            ),
            Evidence("kv_cache_usage", usage, "ratio", signals.window, "engine", "max"),
            Evidence("inter_token_latency", pace, "seconds", signals.window, "engine", "p95"),
        ),
    )


def _quantization(
    signals: ServiceSignals, settings: EngineSettings, diagnosis: Diagnosis, objectives: Objectives
) -> Proposal | Refusal:
    flag, batch = flags_of(settings.engine).quantization, signals.running_per_replica_max
    pace, promised = signals.inter_token_latency_p95, objectives.inter_token_latency_p95
    if diagnosis.bottleneck is Bottleneck.UNKNOWN:
        return Refusal(_QUANTIZATION, "BottleneckUnknown", f"No advice on quantization: {diagnosis.message}")
    if diagnosis.bottleneck is not Bottleneck.COMPUTE:
        return Refusal(_QUANTIZATION, "NotLimiting", "The GPU's speed does not limit the service.")
    if not settings.quantization_known:
        return Refusal(_QUANTIZATION, "QuantizationUnknown", "Whether the weights are quantised is not known.")
    if settings.quantization:
        return Refusal(_QUANTIZATION, "AlreadyQuantised", f"The weights are {settings.quantization} already.")
    if not flag:
        return Refusal(_QUANTIZATION, "NoSuchSetting", f"{settings.engine} takes quantised weights only as a model.")
    if isinstance(pace, Unknown) or pace <= promised:
        return Refusal(
            _QUANTIZATION, "DecodeNotLimiting", "Quantised weights speed up decoding, which keeps its objective."
        )
    if isinstance(batch, Unknown) or batch > SMALL_BATCH:
        return Refusal(
            _QUANTIZATION,
            "BatchNotSmall",
            "Reading weights limits only small batches; what quantization gains at this one is not computable.",
        )
    return Proposal(
        type=_QUANTIZATION,
        reason="QuantiseWeights",
        message=(
            f"At {batch:.0f} requests a step mostly reads weights; 8-bit weights at best halve the time between tokens "
            f"({pace:.2g} s to {pace / 2:.2g} s, promised {promised:g} s). Compare answers before and after."
        ),
        setting=flag,
        current="none",
        proposed="fp8",
        lower="fp8",
        upper="fp8",
        direction=Direction.RESIZE,
        # Even the best case may not be enough; then it is a part of the answer.
        confidence=Ratio(round(diagnosis.confidence * (0.8 if pace / 2 <= promised else 0.5), 2)),
        evidence=(
            Evidence("inter_token_latency", pace, "seconds", signals.window, "engine", "p95"),
            Evidence("requests_running_per_replica", batch, "", signals.window, "engine", "max"),
        ),
    )
