"""Advice on quantised weights: where they help, by how much at least, and why they do not where they do not.

A decode step at small batch mostly reads weights, so that weights of half the size save about half of that reading:
at least `bytes saved / bandwidth`, which is what is promised, and more on engines that do not reach the bandwidth of
the datasheet. Prefill is arithmetic, which only formats that also compute in fewer bits speed up. Smaller weights
leave room for keys and values whatever limits. A healthy service whose steps are mostly reading can serve the same
load with fewer replicas, which is proposed where even the promised gain frees one.

Quantization changes answers. It is never applied by the operator, whatever the mode: a person compares answers first.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final

from optiinfra.domain.advice import Advice, AdviceInput
from optiinfra.domain.engine_flags import flags_of
from optiinfra.domain.evidence import (
    Bottleneck,
    Direction,
    Effect,
    Evidence,
    Proposal,
    RecommendationType,
    Refusal,
    Savings,
)
from optiinfra.domain.gpu_models import GpuModel
from optiinfra.domain.manifests import instruction, undo
from optiinfra.domain.model_facts import gpus_of_tensor_group, kv_bytes_per_token
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.roofline import SIXTEEN_BITS, Roofline, bytes_each, roofline
from optiinfra.domain.step_cost import StepCost, step_cost
from optiinfra.domain.units import Ratio, Seconds
from optiinfra.domain.weight_formats import Arithmetic, WeightFormat, formats_for

REACHED: Final = 0.7
"""Share of a datasheet's bandwidth or arithmetic that engines usually reach: what is expected."""
REACHED_LEAST: Final = 0.5
"""And what badly placed ones reach: the most that can be hoped for."""
WORTHWHILE: Final = 0.1
"""Gain below which nobody should change a model."""
IMPOSSIBLE: Final = 0.9
"""A step measured shorter than this share of the least possible one: the facts are wrong."""
BUSY: Final = 0.9
_TYPE: Final = RecommendationType.QUANTIZATION
_READING: Final = "weight bytes / bandwidth (roofline)"
_COUNTING: Final = "2 x active parameters x tokens / operations per second (roofline)"


@dataclass(frozen=True, slots=True)
class _Case:
    """What all formats are compared on."""

    given: AdviceInput
    engine: EngineKind
    line: Roofline
    now: float
    """Bytes of a parameter now."""
    cost: StepCost


@dataclass(frozen=True, slots=True)
class _Times:
    """A time, and what is left of it: at least, expected, at most."""

    before: float
    shortest: float
    expected: float
    longest: float

    @property
    def gain(self) -> float:
        """Share that is saved, as expected."""
        return 1.0 - self.expected / self.before


def advise(given: AdviceInput) -> Advice:
    """Return a proposal for the format of the weights, or why there is none."""
    diagnosis = given.diagnosis
    if diagnosis.bottleneck is Bottleneck.UNKNOWN:
        return Refusal(_TYPE, "BottleneckUnknown", f"No advice on quantization: {diagnosis.message}")
    if diagnosis.bottleneck not in {Bottleneck.COMPUTE, Bottleneck.KV_CACHE, Bottleneck.HEALTHY}:
        text = f"{diagnosis.bottleneck} limits the service, and smaller weights do not change that."
        return Refusal(_TYPE, "NotLimiting", text)
    case = _case(given)
    if isinstance(case, Refusal):
        return case
    formats = formats_for(case.engine, given.settings.version, case.line.gpu)
    if not formats:
        gpu = case.line.gpu
        text = f"{case.engine} has no format of weights that pays on {gpu.name} ({gpu.generation})."
        return Refusal(_TYPE, "NoFormatForGPU", text)
    match diagnosis.bottleneck:
        case Bottleneck.COMPUTE:
            between = given.signals.inter_token_latency_p95
            slow = not isinstance(between, Unknown) and between > given.objectives.inter_token_latency_p95
            return _faster_tokens(case, formats) if slow else _faster_prompts(case, formats)
        case Bottleneck.KV_CACHE:
            return _room(case, formats)
        case _:
            return _fewer_replicas(case, formats)


def _case(given: AdviceInput) -> _Case | Refusal:
    settings, gpu = given.settings, given.gpu
    if not isinstance(settings.engine, EngineKind):
        return Refusal(_TYPE, "EngineUnknown", f"The engine is {settings.engine}.")
    if not settings.quantization_known:
        return Refusal(_TYPE, "QuantizationUnknown", "Whether the weights are quantised is not known.")
    if settings.quantization:
        return Refusal(_TYPE, "AlreadyQuantised", f"The weights are {settings.quantization} already.")
    flags = flags_of(settings.engine, settings.version)
    if not flags.quantization and not flags.model:
        return Refusal(_TYPE, "NoSuchSetting", f"{settings.engine} takes quantised weights only as another model.")
    if isinstance(gpu, Unknown):
        return Refusal(_TYPE, "GPUUnknown", f"What smaller weights gain depends on the GPU, which is {gpu}.")
    if gpu.shared:
        text = f"The {gpu.name} is shared between pods; what one of them gets of its bandwidth is not known."
        return Refusal(_TYPE, "GPUShared", text)
    return _measured_case(given, settings.engine, gpu)


def _measured_case(given: AdviceInput, engine: EngineKind, gpu: GpuModel) -> _Case | Refusal:
    settings, name = given.settings, given.model.name or "the model"
    split, each, cost = gpus_of_tensor_group(settings), bytes_each(given.model, settings), step_cost(given)
    if isinstance(split, Unknown):
        return Refusal(_TYPE, "GPUCountUnknown", f"Over how many GPUs the weights are split is {split}.")
    line = roofline(given.model, gpu, tensor_group=split, stages=settings.pipeline_parallel)
    if isinstance(each, Unknown) or isinstance(line, Unknown):
        text = "What smaller weights gain depends on the model: name its family in spec.model, or give its parameters."
        return Refusal(_TYPE, "ModelUnknown", text)
    if each < SIXTEEN_BITS:
        return Refusal(_TYPE, "AlreadyQuantised", f"{name} is published with {each:g} bytes a parameter.")
    if isinstance(cost, Unknown):
        return Refusal(_TYPE, "StepsUnknown", f"What a step takes now is {cost}.")
    least = line.read_seconds(cost.batch, each)
    # Speculative decoding makes several tokens a step, and their times are shorter than the step's.
    if cost.step < IMPOSSIBLE * least and settings.speculative is not True:
        text = (
            f"A step takes {cost.step * 1000:.3g} ms, yet reading the weights of {name} on {split:g} x "
            f"{gpu.name} takes {least * 1000:.3g} ms at least: model or GPU are not what they are taken for."
        )
        return Refusal(_TYPE, "FactsContradicted", text)
    return _Case(given, engine, line, each, cost)


def decode_times(case: _Case, form: WeightFormat) -> _Times:
    """Return the step now and with other weights: reading and arithmetic overlap, so that the longer one counts."""
    line, batch, step = case.line, case.cost.batch, case.cost.step
    operations = form.operations(line.gpu)
    after_flops = line.gpu.flops_16 if isinstance(operations, Unknown) else operations
    before = max(line.read_seconds(batch, case.now), line.compute_seconds(batch, line.gpu.flops_16))
    after = max(line.read_seconds(batch, line.mixed(form.bytes_each)), line.compute_seconds(batch, after_flops))
    return _left(step, before, after)


def prefill_times(case: _Case, form: WeightFormat, *, seconds: float, tokens: float) -> _Times:
    """Return the prefill of a prompt now and in the format's arithmetic."""
    line, operations = case.line, form.operations(case.line.gpu)
    after_flops = line.gpu.flops_16 if isinstance(operations, Unknown) else operations
    before = line.compute_seconds(tokens, line.gpu.flops_16)
    return _left(seconds, before, line.compute_seconds(tokens, after_flops))


def _left(measured: float, before: float, after: float) -> _Times:
    """Return what is left of a measured time when its least possible part shrinks from `before` to `after`."""
    saved, most = max(0.0, before - after), measured * max(0.0, 1.0 - after / before) if before > 0.0 else 0.0

    def left(reached: float) -> float:
        return measured - min(most, saved / reached)

    return _Times(measured, left(REACHED_LEAST), left(REACHED), left(1.0))


def _faster_tokens(case: _Case, formats: tuple[WeightFormat, ...]) -> Advice:
    given, promised = case.given, case.given.objectives.inter_token_latency_p95
    slow = given.signals.inter_token_latency_p95
    assert not isinstance(slow, Unknown)
    found = [(form, decode_times(case, form)) for form in formats]
    # The most accurate one that is enough; where none is, the one that helps most.
    enough = [(form, times) for form, times in found if slow * times.expected / times.before <= promised]
    form, times = enough[0] if enough else max(found, key=lambda one: one[1].gain)
    if times.gain < WORTHWHILE:
        share = case.line.read_seconds(case.cost.batch, case.now) / times.before
        text = (
            f"At {case.cost.batch:.0f} requests reading weights is at most {share:.0%} of a step of "
            f"{times.before * 1000:.3g} ms: smaller weights would save {times.gain:.0%}."
        )
        return Refusal(_TYPE, "ReadingNotLimiting", text)
    after = slow * times.expected / times.before
    text = (
        f"At {case.cost.batch:.0f} requests a step of {times.before * 1000:.3g} ms reads "
        f"{case.line.weight_bytes(case.now) / 1e9:.3g} GB of weights on each GPU. With {form.name} it takes about "
        f"{times.expected * 1000:.3g} ms ({times.shortest * 1000:.3g} to {times.longest * 1000:.3g}), so that "
        f"inter-token latency p95 falls from {slow:.2g} s to about {after:.2g} s of the {promised:g} s promised."
    )
    if not enough:
        text += " That alone is not enough."
    return _proposal(case, form, times, reason="QuantiseForLatency", text=text, sure=0.65 if enough else 0.45)


def _faster_prompts(case: _Case, formats: tuple[WeightFormat, ...]) -> Advice:
    given = case.given
    signals = given.signals
    computing = [form for form in formats if form.arithmetic is not Arithmetic.SIXTEEN]
    if not computing:
        text = (
            f"Prefill is arithmetic, and on {case.line.gpu.name} quantised weights are read smaller but computed with "
            "in 16 bits: they do not make prompts faster."
        )
        return Refusal(_TYPE, "PrefillComputeBound", text)
    prefill, prompt, hits = signals.prefill_time_mean, signals.prompt_tokens_mean, signals.prefix_hit_ratio
    first = signals.time_to_first_token_p95
    for value in (prefill, prompt, first):
        if isinstance(value, Unknown):
            return Refusal(_TYPE, "PrefillUnknown", f"How long prompts are computed is {value}.")
    assert not isinstance(prefill, Unknown)
    assert not isinstance(prompt, Unknown)
    assert not isinstance(first, Unknown)
    tokens = prompt * (1.0 - (0.0 if isinstance(hits, Unknown) else hits))
    found = [(form, prefill_times(case, form, seconds=prefill, tokens=tokens)) for form in computing]
    form, times = next(((one, left) for one, left in found if left.gain >= WORTHWHILE), found[0])
    if times.gain < WORTHWHILE:
        text = (
            f"A prompt's arithmetic takes {case.line.compute_seconds(tokens, case.line.gpu.flops_16) * 1000:.3g} ms of "
            f"{prefill * 1000:.3g} ms prefill: faster arithmetic would save {times.gain:.0%}."
        )
        return Refusal(_TYPE, "ArithmeticNotLimiting", text)
    text = (
        f"Prefill of {tokens:.0f} tokens takes {prefill:.2g} s. In {form.arithmetic} arithmetic it takes about "
        f"{times.expected:.2g} s ({times.shortest:.2g} to {times.longest:.2g})."
    )
    saved = (times.before - times.longest, times.before - times.expected, times.before - times.shortest)
    effect = Effect(
        "time_to_first_token_p95",
        "seconds",
        first,
        max(0.0, first - saved[2]),
        max(0.0, first - saved[1]),
        max(0.0, first - saved[0]),
        _COUNTING,
    )
    return _proposal(case, form, times, reason="QuantiseForPrefill", text=text, sure=0.5, first=(effect,))


def _room(case: _Case, formats: tuple[WeightFormat, ...]) -> Advice:
    form = formats[0]
    freed = _freed_tokens(case, form)
    if isinstance(freed.expected, Unknown) or isinstance(freed.before, Unknown):
        why = freed.expected if isinstance(freed.expected, Unknown) else freed.before
        return Refusal(_TYPE, "KVRoomUnknown", f"How many tokens smaller weights make room for is {why}.")
    gain = freed.expected / freed.before - 1.0
    if gain < WORTHWHILE:
        return Refusal(_TYPE, "LittleRoom", f"Smaller weights would enlarge the KV cache by {gain:.0%} only.")
    text = (
        f"{form.name} weights take {_saved_bytes(case, form) / 2**30:.3g} GiB less on each GPU; at the same memory "
        f"share the KV cache then holds about {freed.expected:,.0f} tokens instead of {freed.before:,.0f}."
    )
    return _proposal(case, form, decode_times(case, form), reason="QuantiseForKVCache", text=text, sure=0.5)


def _fewer_replicas(case: _Case, formats: tuple[WeightFormat, ...]) -> Advice:
    signals, replicas = case.given.signals, case.given.signals.replicas_expected
    if replicas < 2:
        return Refusal(_TYPE, "NotLimiting", "The service keeps its objectives, and has no replica to spare.")
    if isinstance(signals.busy_share, Unknown) or signals.busy_share < BUSY:
        text = "The service keeps its objectives, and its replicas are idle at times: fewer replicas come first."
        return Refusal(_TYPE, "NotLimiting", text)
    form = formats[0]
    times = decode_times(case, form)
    needed = max(1, ceil(replicas * times.longest / times.before - 1e-9))
    if needed >= replicas:
        text = (
            f"{form.name} weights would shorten steps by {1 - times.longest / times.before:.0%} at least, which frees "
            f"none of {replicas} replicas."
        )
        return Refusal(_TYPE, "FreesNothing", text)
    hopeful = max(1, ceil(replicas * times.expected / times.before - 1e-9))
    text = (
        f"Steps of {times.before * 1000:.3g} ms mostly read weights. With {form.name} they take "
        f"{times.longest * 1000:.3g} ms at most, so that {needed} replicas serve what {replicas} serve now"
        + (f" (about {hopeful} are expected to)" if hopeful < needed else "")
        + ". Scaling takes the rest away by itself."
    )
    gpus = case.line.tensor_group * case.line.stages
    effect = Effect(
        "replicas",
        "",
        float(replicas),
        float(max(1, ceil(replicas * times.shortest / times.before - 1e-9))),
        float(hopeful),
        float(needed),
        "replicas x step after / step before",
    )
    return _proposal(
        case,
        form,
        times,
        reason="QuantiseForFewerReplicas",
        text=text,
        sure=0.45,
        first=(effect,),
        savings=Savings(gpus_freed=(replicas - needed) * gpus),
    )


def _saved_bytes(case: _Case, form: WeightFormat) -> float:
    """Return the weights' bytes that a GPU no longer keeps."""
    return case.line.weight_bytes(case.now) - case.line.weight_bytes(case.line.mixed(form.bytes_each))


def _freed_tokens(case: _Case, form: WeightFormat) -> Effect:
    """Predict the tokens that the KV cache holds when the memory share stays."""
    given = case.given
    measured = given.signals.kv_cache_capacity_tokens
    before = given.settings.kv_cache_capacity_tokens if isinstance(measured, Unknown) else measured
    each = kv_bytes_per_token(given.model, given.settings, request_tokens=given.signals.request_tokens_highest)
    name, basis = "kv_cache_capacity", "weight bytes saved / KV bytes per token"
    fixed = given.settings.kv_blocks
    if not isinstance(fixed, Unknown) and not isinstance(before, Unknown):
        return Effect(name, "tokens", before, before, before, before, "the number of blocks is set by hand")
    if isinstance(each, Unknown) or isinstance(before, Unknown) or each <= 0.0:
        why = each if isinstance(each, Unknown) else before
        why = why if isinstance(why, Unknown) else Unknown(UnknownReason.INVALID, "a token of no bytes")
        return Effect(name, "tokens", before, why, why, why, basis)
    more = _saved_bytes(case, form) / each
    return Effect(name, "tokens", before, before + 0.8 * more, before + more, before + 1.1 * more, basis)


def _proposal(
    case: _Case,
    form: WeightFormat,
    times: _Times,
    *,
    reason: str,
    text: str,
    sure: float,
    first: tuple[Effect, ...] = (),
    savings: Savings | None = None,
) -> Proposal:
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
        effects=(*first, *((latency,) if decode else ()), _freed_tokens(case, form)),
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
