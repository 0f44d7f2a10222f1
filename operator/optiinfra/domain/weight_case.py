"""One replica's weights in one case: what formats are compared on, what each would leave of a time, and the words.

Times are split by the roofline: the least possible part of a measured time shrinks with the format, as if the engine
reached the datasheet (`REACHED` of it is expected); the rest stays. Why there is no case is a refusal with its reason.
"""

from dataclasses import dataclass
from typing import Final

from optiinfra.domain.advice import AdviceInput, because
from optiinfra.domain.engine_flags import flags_of
from optiinfra.domain.evidence import Direction, Effect, Evidence, Proposal, RecommendationType, Refusal, Savings
from optiinfra.domain.gpu_models import GpuModel
from optiinfra.domain.manifests import instruction, undo
from optiinfra.domain.model_facts import gpus_of_tensor_group, kv_bytes_per_token
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason, Value
from optiinfra.domain.roofline import SIXTEEN_BITS, Roofline, bytes_each, roofline
from optiinfra.domain.step_cost import StepCost, step_cost
from optiinfra.domain.units import Ratio, Seconds
from optiinfra.domain.weight_formats import WeightFormat

REACHED: Final = 0.7
"""Share of a datasheet's bandwidth or arithmetic that engines usually reach: what is expected."""
REACHED_LEAST: Final = 0.5
"""And what badly placed ones reach: the most that can be hoped for."""
IMPOSSIBLE: Final = 0.9
"""A step measured shorter than this share of the least possible one: the facts are wrong."""
KV_ROOM: Final = "weight bytes saved / KV bytes per token"
_TYPE: Final = RecommendationType.QUANTIZATION
_READING: Final = "weight bytes / bandwidth (roofline)"


@dataclass(frozen=True, slots=True)
class Case:
    """What all formats are compared on."""

    given: AdviceInput
    engine: EngineKind
    line: Roofline
    now: float
    """Bytes of a parameter now."""
    cost: StepCost


@dataclass(frozen=True, slots=True)
class Times:
    """A time, and what is left of it: at least, expected, at most."""

    before: float
    shortest: float
    expected: float
    longest: float

    @property
    def gain(self) -> float:
        """Share that is saved, as expected."""
        return 1.0 - self.expected / self.before


def case_of(given: AdviceInput) -> Case | Refusal:
    """Return what formats are compared on, or which fact is missing or speaks against it."""
    settings, gpu = given.settings, given.gpu
    if not isinstance(settings.engine, EngineKind):
        return Refusal(_TYPE, "EngineUnknown", f"The engine is {settings.engine}.")
    if not settings.quantization_known:
        return Refusal(
            _TYPE,
            "QuantizationUnknown",
            "Whether the weights are quantised is not known: neither the model's name nor an argument says it.",
        )
    if settings.quantization:
        return Refusal(_TYPE, "AlreadyQuantised", f"The weights are {settings.quantization} already.")
    flags = flags_of(settings.engine, settings.version)
    if not flags.quantization and not flags.model:
        return Refusal(_TYPE, "NoSuchSetting", f"{settings.engine} takes quantised weights only as another model.")
    if isinstance(gpu, Unknown):
        return Refusal(_TYPE, "GPUUnknown", f"What smaller weights gain depends on the GPU: {because(gpu)}.")
    if gpu.shared:
        text = f"The {gpu.name} is shared between pods; what one of them gets of its bandwidth is not known."
        return Refusal(_TYPE, "GPUShared", text)
    return _measured(given, settings.engine, gpu)


def _measured(given: AdviceInput, engine: EngineKind, gpu: GpuModel) -> Case | Refusal:
    settings, name = given.settings, given.model.name or "the model"
    split, each, cost = gpus_of_tensor_group(settings), bytes_each(given.model, settings), step_cost(given)
    if isinstance(split, Unknown):
        return Refusal(
            _TYPE, "GPUCountUnknown", f"Over how many GPUs the weights are split is not known: {because(split)}."
        )
    line = roofline(given.model, gpu, tensor_group=split, stages=settings.pipeline_parallel)
    if isinstance(each, Unknown) or isinstance(line, Unknown):
        text = "What smaller weights gain depends on the model: name its family in spec.model, or give its parameters."
        return Refusal(_TYPE, "ModelUnknown", text)
    if each < SIXTEEN_BITS:
        return Refusal(_TYPE, "AlreadyQuantised", f"{name} is published with {each:g} bytes a parameter.")
    if isinstance(cost, Unknown):
        return Refusal(_TYPE, "StepsUnknown", f"What a step takes now is not known: {because(cost)} is not measured.")
    least = line.read_seconds(cost.batch, each)
    # Speculative decoding makes several tokens a step, and their times are shorter than the step's.
    if cost.step < IMPOSSIBLE * least and settings.speculative is not True:
        text = (
            f"A step takes {cost.step * 1000:.3g} ms, yet reading the weights of {name} on {split:g} x "
            f"{gpu.name} takes {least * 1000:.3g} ms at least: model or GPU are not what they are taken for."
        )
        return Refusal(_TYPE, "FactsContradicted", text)
    return Case(given, engine, line, each, cost)


def decode_times(case: Case, form: WeightFormat) -> Times:
    """Return the step now and with other weights: reading and arithmetic overlap, so that the longer one counts."""
    line, batch, step = case.line, case.cost.batch, case.cost.step
    operations = form.operations(line.gpu)
    after_flops = line.gpu.flops_16 if isinstance(operations, Unknown) else operations
    before = max(line.read_seconds(batch, case.now), line.compute_seconds(batch, line.gpu.flops_16))
    after = max(line.read_seconds(batch, line.mixed(form.bytes_each)), line.compute_seconds(batch, after_flops))
    return _left(step, before, after)


def prefill_times(case: Case, form: WeightFormat, *, seconds: float, tokens: float) -> Times:
    """Return the prefill of a prompt now and in the format's arithmetic."""
    line, operations = case.line, form.operations(case.line.gpu)
    after_flops = line.gpu.flops_16 if isinstance(operations, Unknown) else operations
    before = line.compute_seconds(tokens, line.gpu.flops_16)
    return _left(seconds, before, line.compute_seconds(tokens, after_flops))


def _left(measured: float, before: float, after: float) -> Times:
    """Return what is left of a measured time when its least possible part shrinks from `before` to `after`."""
    saved, most = max(0.0, before - after), measured * max(0.0, 1.0 - after / before) if before > 0.0 else 0.0

    def left(reached: float) -> float:
        return measured - min(most, saved / reached)

    return Times(measured, left(REACHED_LEAST), left(REACHED), left(1.0))


def saved_bytes(case: Case, form: WeightFormat) -> float:
    """Return the weights' bytes that a GPU no longer keeps."""
    return case.line.weight_bytes(case.now) - case.line.weight_bytes(case.line.mixed(form.bytes_each))


def kv_capacity(given: AdviceInput) -> Value:
    """Return the tokens that a replica's KV cache holds."""
    measured = given.signals.kv_cache_capacity_tokens
    return given.settings.kv_cache_capacity_tokens if isinstance(measured, Unknown) else measured


def freed_tokens(case: Case, form: WeightFormat) -> Effect:
    """Predict the tokens that the KV cache holds when the memory share stays."""
    given = case.given
    before = kv_capacity(given)
    each = kv_bytes_per_token(given.model, given.settings, request_tokens=given.signals.request_tokens_highest)
    name, basis = "kv_cache_capacity", KV_ROOM
    fixed = given.settings.kv_blocks
    if not isinstance(fixed, Unknown) and not isinstance(before, Unknown):
        return Effect(name, "tokens", before, before, before, before, "the number of blocks is set by hand")
    if isinstance(each, Unknown) or isinstance(before, Unknown) or each <= 0.0:
        why = each if isinstance(each, Unknown) else before
        why = why if isinstance(why, Unknown) else Unknown(UnknownReason.INVALID, "a token of no bytes")
        return Effect(name, "tokens", before, why, why, why, basis)
    more = saved_bytes(case, form) / each
    return Effect(name, "tokens", before, before + 0.8 * more, before + more, before + 1.1 * more, basis)


def proposal(
    case: Case,
    form: WeightFormat,
    times: Times,
    *,
    reason: str,
    text: str,
    sure: float,
    first: tuple[Effect, ...] = (),
    savings: Savings | None = None,
    room: bool = True,
) -> Proposal:
    """Word a proposal.

    Args:
        case: what it is about.
        form: the proposed format.
        times: a decode step before and after; prefill times for reason QuantiseForPrefill.
        reason: its code.
        text: why, with the numbers.
        sure: factor on the verdict's confidence.
        first: effects that matter most.
        savings: what would be saved.
        room: whether the KV cache grows by what weights leave.
    """
    given = case.given
    signals, settings = given.signals, given.settings
    flags = flags_of(case.engine, settings.version)
    online = bool(form.value)
    setting = flags.quantization if online or not flags.model else flags.model
    proposed = form.value if online else f"{form.name} checkpoint"
    if case.engine is EngineKind.NIM:
        setting, proposed = flags.quantization, f"{form.name} profile"
    how = (
        instruction(setting, form.value, container=settings.container)
        if online
        else f"Serve {form.checkpoint} of the model instead; the engine reads the format from it."
    )
    decode = reason != "QuantiseForPrefill"
    slow = signals.inter_token_latency_p95
    low, middle, high = (
        slow if isinstance(slow, Unknown) else slow * one / times.before
        for one in (times.shortest, times.expected, times.longest)
    )
    latency = Effect("inter_token_latency_p95", "seconds", slow, low, middle, high, _READING)
    return Proposal(
        type=_TYPE,
        reason=reason,
        message=f"{text} {how} Never applied by the operator: compare answers before and after.",
        setting=setting,
        current="none",
        proposed=proposed,
        lower=proposed,
        upper=proposed,
        direction=Direction.RESIZE,
        confidence=Ratio(round(given.diagnosis.confidence * sure, 2)),
        evidence=(
            Evidence("inter_token_latency", slow, "seconds", signals.window, "engine", "p95"),
            Evidence("step_time", case.cost.step, "seconds", signals.window, "engine", "mean"),
            Evidence("requests_running_per_replica", case.cost.batch, "", signals.window, "engine", "mean"),
            Evidence("weight_bytes_per_gpu", case.line.weight_bytes(case.now), "bytes", Seconds(0.0), "derived"),
            Evidence("gpu_memory_bandwidth", _gpu(given).bandwidth, "bytes/s", Seconds(0.0), "derived", "datasheet"),
        ),
        savings=savings or Savings(),
        effects=(*first, *((latency,) if decode else ()), *((freed_tokens(case, form),) if room else ())),
        risk=f"{form.caveat} Latency may rise at large batches on GPUs that compute in 16 bits.",
        verification=(
            "First the same evaluation of answers on both; then, after the restart and under like load, inter-token "
            "latency p50 and p95, time to first token, and the capacity of the KV cache."
        ),
        undo=undo(setting, "none", container=settings.container)
        if online
        else f"Serve the present checkpoint again ({setting}); each replica restarts once.",
    )


def _gpu(given: AdviceInput) -> GpuModel:
    assert isinstance(given.gpu, GpuModel)
    return given.gpu
