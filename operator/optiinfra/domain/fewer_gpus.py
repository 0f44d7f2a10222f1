"""Whether a healthy service could be served by less with smaller weights: half the GPUs a replica, or fewer replicas.

Only what even the least gain frees is proposed, and only where the rest still keeps its objectives and its KV cache.
"""

from dataclasses import replace
from math import ceil
from typing import Final

from optiinfra.domain.advice import Advice
from optiinfra.domain.engine_flags import flags_of
from optiinfra.domain.evidence import Effect, Proposal, RecommendationType, Refusal, Savings
from optiinfra.domain.model_facts import kv_bytes_per_token
from optiinfra.domain.readings import Unknown
from optiinfra.domain.roofline import Roofline
from optiinfra.domain.weight_case import KV_ROOM, REACHED_LEAST, Case, Times, decode_times, kv_capacity, proposal
from optiinfra.domain.weight_formats import WeightFormat

BUSY: Final = 0.9
"""Share of pages with running requests from which replicas count as needed."""
KV_TARGET: Final = 0.9
"""Highest KV usage that a smaller pool may lead to."""
_TYPE: Final = RecommendationType.QUANTIZATION


def fewer_gpus(case: Case, form: WeightFormat) -> Advice:
    """Say whether the same load could be served by less: half the GPUs of each replica, or fewer replicas."""
    signals, replicas = case.given.signals, case.given.signals.replicas_expected
    if replicas >= 2 and (isinstance(signals.busy_share, Unknown) or signals.busy_share < BUSY):
        text = "The service keeps its objectives, and its replicas are idle at times: fewer replicas come first."
        return Refusal(_TYPE, "NotLimiting", text)
    halved = _half_the_gpus(case, form)
    if isinstance(halved, Proposal):
        return halved
    if replicas < 2:
        text = f"The service keeps its objectives, has one replica, and needs its GPUs: {halved}"
        return Refusal(_TYPE, "FreesNothing", text)
    times = decode_times(case, form)
    needed = max(1, ceil(replicas * times.longest / times.before - 1e-9))
    if needed < replicas:
        return _fewer_replicas(case, form, times, needed)
    text = (
        f"{form.name} weights would shorten steps by {1 - times.longest / times.before:.0%} at least, which frees none "
        f"of {replicas} replicas; {halved}"
    )
    return Refusal(_TYPE, "FreesNothing", text)


def _half_the_gpus(case: Case, form: WeightFormat) -> Proposal | str:
    """Propose a format that lets each replica run on half its GPUs, or say why none does.

    A token then takes twice the KV memory on each GPU that is left, and every GPU reads twice the share of the
    smaller weights; a step of the same batch must still keep the objective.
    """
    given, group = case.given, case.line.tensor_group
    if group < 2 or group % 2:
        return f"{group:g} GPUs a replica cannot be halved."
    half = replace(case, line=replace(case.line, tensor_group=group / 2))
    after = replace(given.settings, tensor_parallel=group / 2)
    capacity, usage = kv_capacity(given), given.signals.kv_cache_usage_max
    each = [
        kv_bytes_per_token(given.model, one, request_tokens=given.signals.request_tokens_highest)
        for one in (given.settings, after)
    ]
    known = [one for one in (capacity, usage, *each) if not isinstance(one, Unknown)]
    if len(known) < 4 or not isinstance(given.settings.kv_blocks, Unknown):
        return "whether the KV cache would still fit on half the GPUs is not known."
    tokens, used, now, then = known
    saved = case.line.weight_bytes(case.now) - half.line.weight_bytes(half.line.mixed(form.bytes_each))
    room = (tokens * now + saved) / then
    if room * KV_TARGET < tokens * used:
        return (
            f"on half of them the KV cache would hold {max(0.0, room):,.0f} tokens, and {tokens * used:,.0f} are used."
        )
    before = max(case.line.read_seconds(case.cost.batch, case.now), _arithmetic(case.line, case.cost.batch))
    least = max(
        half.line.read_seconds(case.cost.batch, half.line.mixed(form.bytes_each)),
        _arithmetic(half.line, case.cost.batch, form),
    )
    # What is not reading stays; what is grows as its least possible time does, at the bandwidth that is reached.
    longest, shortest = (max(0.0, (least - before) / reached) + case.cost.step for reached in (REACHED_LEAST, 1.0))
    slow = given.signals.inter_token_latency_p95
    if isinstance(slow, Unknown) or slow * longest / case.cost.step > given.objectives.inter_token_latency_p95:
        return f"on half of them a step would take up to {longest * 1000:.3g} ms, too long for what is promised."
    gpus, replicas = group * case.line.stages, given.signals.replicas_expected
    times = Times(case.cost.step, shortest, (shortest + longest) / 2.0, longest)
    text = (
        f"With {form.name} weights {group / 2:g} instead of {group:g} GPUs hold each replica's model: a step takes "
        f"{shortest * 1000:.3g} to {longest * 1000:.3g} ms (now {case.cost.step * 1000:.3g}), and the KV cache holds "
        f"{room:,.0f} tokens, of which {tokens * used:,.0f} are used. First quantise and compare answers, then halve "
        f"{flags_of(case.engine, given.settings.version).tensor_parallel} and the GPUs of the pod."
    )
    effects = (
        Effect("gpus_per_replica", "gpus", gpus, gpus / 2, gpus / 2, gpus / 2, "weights and KV cache that fit"),
        Effect("kv_cache_tokens_after_both", "tokens", tokens, 0.9 * room, room, room, KV_ROOM),
    )
    saving = Savings(gpus_freed=replicas * gpus / 2)
    return proposal(
        case, form, times, reason="QuantiseForFewerGPUs", text=text, sure=0.4, first=effects, savings=saving, room=False
    )


def _arithmetic(line: Roofline, tokens: float, form: WeightFormat | None = None) -> float:
    operations = line.gpu.flops_16 if form is None else form.operations(line.gpu)
    return line.compute_seconds(tokens, line.gpu.flops_16 if isinstance(operations, Unknown) else operations)


def _fewer_replicas(case: Case, form: WeightFormat, times: Times, needed: int) -> Proposal:
    replicas = case.given.signals.replicas_expected
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
    return proposal(
        case,
        form,
        times,
        reason="QuantiseForFewerReplicas",
        text=text,
        sure=0.45,
        first=(effect,),
        savings=Savings(gpus_freed=(replicas - needed) * gpus),
    )
