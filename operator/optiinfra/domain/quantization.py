"""Advice on quantised weights: where they help, by how much at least, and why they do not where they do not.

A decode step at small batch mostly reads weights, so that weights of half the size save about half of that reading:
at least `bytes saved / bandwidth`, which is what is promised, and more on engines that do not reach the bandwidth of
the datasheet. Prefill is arithmetic, which only formats that also compute in fewer bits speed up. Smaller weights
leave room for keys and values whatever limits. A healthy service whose steps are mostly reading can serve the same
load with fewer replicas, which is proposed where even the promised gain frees one.

Quantization changes answers. It is never applied by the operator, whatever the mode: a person compares answers first.
"""

from typing import Final

from optiinfra.domain.advice import Advice, AdviceInput, because
from optiinfra.domain.evidence import Bottleneck, Effect, RecommendationType, Refusal
from optiinfra.domain.fewer_gpus import fewer_gpus
from optiinfra.domain.objectives import said
from optiinfra.domain.readings import Unknown
from optiinfra.domain.step_tokens import interferes
from optiinfra.domain.weight_case import (
    Case,
    case_of,
    decode_times,
    freed_tokens,
    prefill_times,
    proposal,
    saved_bytes,
)
from optiinfra.domain.weight_formats import Arithmetic, WeightFormat, formats_for

WORTHWHILE: Final = 0.1
"""Gain below which nobody should change a model."""
_TYPE: Final = RecommendationType.QUANTIZATION
_COUNTING: Final = "2 x active parameters x tokens / operations per second (roofline)"


def advise(given: AdviceInput) -> Advice:
    """Return a proposal for the format of the weights, or why there is none."""
    diagnosis = given.diagnosis
    if diagnosis.bottleneck is Bottleneck.UNKNOWN:
        return Refusal(_TYPE, "BottleneckUnknown", f"No advice on quantization: {diagnosis.message}")
    if diagnosis.bottleneck not in {Bottleneck.COMPUTE, Bottleneck.KV_CACHE, Bottleneck.HEALTHY}:
        text = f"The verdict is {diagnosis.bottleneck}, and smaller weights do not change that."
        return Refusal(_TYPE, "NotLimiting", text)
    case = case_of(given)
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
            # Without a promise no token is too slow, yet decoding is what the verdict names.
            decoding = slow or given.diagnosis.reason == "DecodeBound"
            evenly = decoding and not isinstance(between, Unknown) and not interferes(given)
            return _faster_tokens(case, formats) if evenly else _faster_prompts(case, formats)
        case Bottleneck.KV_CACHE:
            return _room(case, formats)
        case _:
            return fewer_gpus(case, formats[0])


def _faster_tokens(case: Case, formats: tuple[WeightFormat, ...]) -> Advice:
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
        f"inter-token latency p95 falls from {slow:.2g} s to about {after:.2g} s ({said(promised)})."
    )
    if not enough:
        text += " That alone is not enough."
    return proposal(case, form, times, reason="QuantiseForLatency", text=text, sure=0.65 if enough else 0.45)


def _faster_prompts(case: Case, formats: tuple[WeightFormat, ...]) -> Advice:
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
            return Refusal(_TYPE, "PrefillUnknown", f"How long prompts are computed is not known: {because(value)}.")
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
    return proposal(case, form, times, reason="QuantiseForPrefill", text=text, sure=0.5, first=(effect,))


def _room(case: Case, formats: tuple[WeightFormat, ...]) -> Advice:
    form = formats[0]
    freed = freed_tokens(case, form)
    if isinstance(freed.expected, Unknown) or isinstance(freed.before, Unknown):
        why = freed.expected if isinstance(freed.expected, Unknown) else freed.before
        return Refusal(
            _TYPE, "KVRoomUnknown", f"How many tokens smaller weights make room for is not known: {because(why)}."
        )
    gain = freed.expected / freed.before - 1.0
    if gain < WORTHWHILE:
        return Refusal(_TYPE, "LittleRoom", f"Smaller weights would enlarge the KV cache by {gain:.0%} only.")
    text = (
        f"{form.name} weights take {saved_bytes(case, form) / 2**30:.3g} GiB less on each GPU; at the same memory "
        f"share the KV cache then holds about {freed.expected:,.0f} tokens instead of {freed.before:,.0f}."
    )
    return proposal(case, form, decode_times(case, form), reason="QuantiseForKVCache", text=text, sure=0.5)
