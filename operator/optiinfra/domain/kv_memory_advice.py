"""Levers that make one replica's KV cache larger: more memory, more blocks, smaller elements, more GPUs.

Each is proposed only with what it needs to be computed, and refused with the reason otherwise: 8-bit keys and values
need hardware with FP8 arithmetic (Ada, Hopper, Blackwell, CDNA3; older GPUs only store such values and convert them,
and not in every engine), a split over more GPUs needs the model's size. A size that somebody set by hand, in blocks or
bytes, comes first: as long as it stands, the memory share changes nothing (measured: an override of the blocks leaves
even the page's own kv_cache_memory_bytes behind).
"""

from dataclasses import replace
from math import ceil
from typing import Final

from optiinfra.domain.advice import Advice, because
from optiinfra.domain.evidence import Effect
from optiinfra.domain.gpu_models import GpuModel
from optiinfra.domain.kv_capacity import sized
from optiinfra.domain.kv_case import WATCHED, KVCase
from optiinfra.domain.model_facts import Attention, gpus_of_tensor_group, kv_bytes_per_token
from optiinfra.domain.readings import EngineKind, Unknown, Value

SIXTEEN_BITS: Final = frozenset({"auto", "half", "float16", "fp16", "bfloat16", "bf16"})
MEMORY_ROOM: Final = 1.1
"""What is proposed beyond the need at p99: blocks are whole, and loads grow."""
LARGEST_STEP: Final = 4.0
"""Times the present size; more is another machine."""
SHARE_CEILING: Final = {EngineKind.VLLM: 0.95, EngineKind.SGLANG: 0.92}
"""Highest share of a GPU's memory that is proposed; above it, engines run out of memory under long prompts."""
SHARE_STEP: Final = 0.05
LEAST_SHARE_STEP: Final = 0.01
SPLIT_GAIN: Final = 1.3
"""KV tokens per GPU that a split over twice the GPUs must gain; below it a second replica gives as much."""
HEAVY_WEIGHTS: Final = 0.4
"""Share of a GPU's memory from which weights are what keeps the cache small."""
MOST_GPUS: Final = 8.0
"""GPUs of one node, over which tensor parallelism pays."""


def advise(case: KVCase) -> tuple[Advice, ...]:
    """Return each lever, or why it is not one, the cheapest first."""
    return (_by_hand(case), _memory_share(case), _fp8(case), _split(case))


def _by_hand(case: KVCase) -> Advice:
    """Raise a size that was set by hand to what the workload needs."""
    settings, flags = case.given.settings, case.flags
    given = settings.kv_cache_bytes
    if not case.overridden and isinstance(given, Unknown):
        return case.refuse("KVSizeAutomatic", f"{case.engine} sizes the KV cache by the memory that is free.")
    if isinstance(case.capacity, Unknown):
        return case.refuse(
            "CapacityUnknown", f"How many tokens the KV cache holds is not known: {because(case.capacity)}."
        )
    if isinstance(case.need, Unknown):
        return case.refuse(
            "LengthsUnknown", f"What the workload needs of the KV cache is not known: {because(case.need)}."
        )
    wanted = case.need.p99 * MEMORY_ROOM
    factor = min(wanted / case.capacity, LARGEST_STEP)
    if factor <= 1.0:
        text = f"{case.capacity:,.0f} tokens are set by hand; {case.need.requests:.0f} requests need {wanted:,.0f}."
        return case.refuse("KVSizeSuffices", text)
    effects = case.capacity_effects(
        lower=1.0, expected=factor, upper=factor, basis="in proportion; less where the memory is not there"
    )
    need = (
        f"{case.need.requests:.0f} requests of the measured lengths hold {case.need.mean:,.0f} tokens on average and "
        f"{case.need.p99:,.0f} at p99. The KV cache was set by hand to {case.capacity:,.0f} tokens"
    )
    risk = "The engine does not start where the memory is not there; the smallest size that helps is the lower bound."
    if case.overridden:
        blocks, size = settings.kv_blocks, settings.block_size
        if isinstance(blocks, Unknown):
            blocks = Unknown(blocks.reason) if isinstance(size, Unknown) else case.capacity / size
        if isinstance(blocks, Unknown) or not flags.kv_blocks:
            return case.refuse("BlocksUnknown", "The number of blocks is overridden, and the present one is not known.")
        return case.propose(
            "RaiseKVBlocks",
            f"{need}, in {blocks:,.0f} blocks. Without the override the engine takes what memory there is.",
            setting=flags.kv_blocks,
            current=f"{blocks:.0f}",
            proposed=str(ceil(blocks * factor)),
            lower=str(ceil(blocks * max(1.0, min(factor, case.need.mean / case.capacity)))),
            upper=str(ceil(blocks * min(LARGEST_STEP, max(factor, case.need.worst / case.capacity)))),
            sure=0.85,
            effects=effects,
            risk=risk,
        )
    assert not isinstance(given, Unknown)
    if not flags.kv_bytes:
        return case.refuse("NoSuchSetting", f"{case.engine} takes no size of its KV cache in bytes.")
    gpu = case.given.gpu
    sure = 0.7
    if not isinstance(gpu, Unknown):
        factor = min(factor, max(1.0, gpu.memory_bytes * 0.9 / given))
        sure = 0.75
    return case.propose(
        "RaiseKVMemory",
        f"{need}, in {sized(given)}.",
        setting=flags.kv_bytes,
        current=f"{given:.0f}",
        proposed=str(ceil(given * factor)),
        lower=str(ceil(given * max(1.0, min(factor, case.need.mean / case.capacity)))),
        upper=str(ceil(given * min(LARGEST_STEP, max(factor, case.need.worst / case.capacity)))),
        sure=sure,
        effects=effects,
        risk=risk,
    )


def _memory_share(case: KVCase) -> Advice:
    settings, flags, gpu = case.given.settings, case.flags, case.given.gpu
    share = settings.gpu_memory_share
    if not flags.memory_share or settings.engine not in SHARE_CEILING:
        return case.refuse("NoSuchSetting", f"{case.engine} takes all memory that it may by itself.")
    if case.overridden or not isinstance(settings.kv_cache_bytes, Unknown):
        return case.refuse("MemoryShareUnused", "The KV cache has a size of its own; the memory share changes nothing.")
    if isinstance(share, Unknown):
        return case.refuse(
            "MemoryShareUnknown", f"The engine's share of the GPU's memory is not known: {because(share)}."
        )
    assert isinstance(settings.engine, EngineKind)
    room = SHARE_CEILING[settings.engine] - share
    used = case.given.surroundings.gpu_memory_usage
    if not isinstance(used, Unknown):
        # What others use beside the engine, and what graphs and libraries take outside its share, is not to be had.
        room = min(room, 1.0 - max(used, share) - 0.02)
    if not isinstance(gpu, Unknown) and gpu.shared:
        return case.refuse("GPUShared", f"The {gpu.name} is shared with other pods; its memory is not this engine's.")
    step = min(SHARE_STEP, room)
    if step < LEAST_SHARE_STEP:
        return case.refuse("MemoryShareHigh", f"The engine takes {share:.0%} of the GPU's memory already.")
    gained = _tokens_of(case, gpu, step)
    if isinstance(gained, Unknown) or isinstance(case.capacity, Unknown):
        effects: tuple[Effect, ...] = (
            Effect("kv_cache_capacity", "tokens", case.capacity, case.capacity, gained, gained, "needs GPU and model"),
        )
        gain = "how many tokens that gives is not computable without the GPU's memory and the model's size"
    else:
        factor = 1.0 + gained / case.capacity
        effects = case.capacity_effects(
            lower=1.0 + 0.8 * (factor - 1.0), expected=factor, upper=factor, basis="memory x share / bytes per token"
        )
        gain = f"that gives {gained:,.0f} tokens to {case.capacity:,.0f}"
    return case.propose(
        "RaiseMemoryShare",
        f"The engine takes {share:.0%} of the GPU's memory; at {share + step:.0%} {gain}.",
        setting=flags.memory_share,
        current=f"{share:g}",
        proposed=f"{share + step:.2f}",
        lower=f"{share + LEAST_SHARE_STEP:.2f}",
        upper=f"{share + max(step, room):.2f}",
        sure=0.6 if not isinstance(gained, Unknown) else 0.35,
        effects=effects,
        risk="Less is left for activations: a long prompt may run out of memory, and the pod restarts.",
    )


def _tokens_of(case: KVCase, gpu: GpuModel | Unknown, share: float) -> Value:
    if isinstance(gpu, Unknown):
        return gpu
    each = case.bytes_per_token
    return each if isinstance(each, Unknown) else gpu.memory_bytes * share / each


def _fp8(case: KVCase) -> Advice:
    settings, flags, gpu = case.given.settings, case.flags, case.given.gpu
    dtype = settings.kv_cache_dtype
    if not flags.kv_dtype:
        return case.refuse("NoSuchSetting", f"{case.engine} has no setting for the type of the KV cache.")
    if not dtype:
        return case.refuse("KVTypeUnknown", "The type of the KV cache is not known, so that halving it may not help.")
    if dtype not in SIXTEEN_BITS:
        return case.refuse("KVTypeQuantised", f"The KV cache is {dtype} already.")
    if isinstance(gpu, Unknown):
        return case.refuse("HardwareUnknown", f"8-bit keys and values need a GPU with FP8: {because(gpu)}.")
    if isinstance(gpu.flops_8, Unknown):
        text = f"8-bit keys and values need FP8 arithmetic (Ada, Hopper or newer); the {gpu.name} is {gpu.generation}."
        return case.refuse("HardwareWithoutFP8", text)
    if settings.engine is EngineKind.TGI and gpu.compute_capability <= 0.0:
        return case.refuse("HardwareUnsupported", f"TGI keeps 8-bit keys and values on CUDA only, not on {gpu.name}.")
    if case.given.model.attention is Attention.HYBRID:
        return case.refuse(
            "HybridModel", "A hybrid model's state stays at its own precision; what 8 bits free is open."
        )
    # With "auto" the checkpoint may bring 8-bit keys and values of its own.
    least = 1.0 if dtype == "auto" else 1.9
    latent = case.given.model.attention is Attention.LATENT
    gain = (
        "" if isinstance(case.capacity, Unknown) else (f": {case.capacity:,.0f} tokens become {2 * case.capacity:,.0f}")
    )
    if not isinstance(case.fit, Unknown):
        gain += f", and {case.fit:.0f} requests of the measured length become {2 * case.fit:.0f}"
    return case.propose(
        "QuantiseKVCache",
        f"8-bit keys and values take half of 16-bit ones{gain}. The {gpu.name} has FP8 arithmetic.",
        setting=flags.kv_dtype,
        current=dtype,
        proposed=flags.kv_dtype_fp8,
        sure=(0.7 if dtype == "auto" else 0.8) * (0.8 if latent else 1.0),
        effects=case.capacity_effects(lower=least, expected=2.0, upper=2.0, basis="bytes per element, 2 to 1"),
        risk=(
            "Answers change a little, most of all at long context and without calibrated scales: compare them on your "
            "own evaluation first." + (" Not every attention kernel for latent attention takes FP8." if latent else "")
        ),
    )


def _split(case: KVCase) -> Advice:
    """Split the model over twice the GPUs, where weights leave little room for the cache."""
    settings, flags, gpu, model = case.given.settings, case.flags, case.given.gpu, case.given.model
    split = gpus_of_tensor_group(settings)
    if not flags.tensor_parallel:
        return case.refuse("NoSuchSetting", f"{case.engine} does not split a model over GPUs.")
    for value, what in ((split, "split of the model"), (model.parameters, "model's size"), (gpu, "GPU")):
        if isinstance(value, Unknown):
            return case.refuse("SplitNotComputable", f"What more GPUs give needs the {what}: {because(value)}.")
    each = case.bytes_per_token
    if isinstance(each, Unknown) or isinstance(case.capacity, Unknown):
        why = each if isinstance(each, Unknown) else case.capacity
        return case.refuse("SplitNotComputable", f"What more GPUs give is not computable: {because(why)}.")
    assert not isinstance(split, Unknown)
    assert not isinstance(gpu, Unknown)
    assert not isinstance(model.parameters, Unknown)
    doubled = split * 2.0
    if doubled > MOST_GPUS:
        return case.refuse("SplitWide", f"The model is split over {split:g} GPUs; more do not stand in one node.")
    element = _weight_bytes(case)
    after = kv_bytes_per_token(model, replace(settings, tensor_parallel=doubled))
    if isinstance(element, Unknown) or isinstance(after, Unknown):
        why = element if isinstance(element, Unknown) else after
        return case.refuse("SplitNotComputable", f"What more GPUs give is not computable: {because(why)}.")
    weights = model.parameters * element
    if weights / split < HEAVY_WEIGHTS * gpu.memory_bytes:
        text = (
            f"Weights take {sized(weights / split)} of each GPU's {sized(gpu.memory_bytes)}: they are not what leaves "
            "too little."
        )
        return case.refuse("WeightsLight", text)
    # What is not weights today goes to the cache; tomorrow it gains what the other GPUs take of the weights.
    today = case.capacity * each
    tomorrow = (today + weights / split - weights / doubled) / after
    factor, per_gpu = tomorrow / case.capacity, tomorrow / case.capacity / 2.0
    if per_gpu < SPLIT_GAIN:
        text = (
            f"Over {doubled:g} GPUs the KV cache would hold {factor:.1f} times the tokens, {per_gpu:.2f} times a GPU: "
            f"more replicas give as much without the traffic between GPUs."
        )
        return case.refuse("SplitGainsLittle", text)
    return case.propose(
        "SplitOverGPUs",
        f"Weights take {sized(weights / split)} of each GPU and leave {sized(today)} to the KV cache; "
        f"over {doubled:g} GPUs it holds {factor:.1f} times the tokens.",
        setting=flags.tensor_parallel,
        current=f"{split:g}",
        proposed=f"{doubled:g}",
        sure=0.5,
        effects=case.capacity_effects(
            lower=0.85 * factor, expected=factor, upper=factor, basis="weights and kv heads / GPUs"
        ),
        risk=(
            "Each replica takes twice the GPUs, in one node with fast links; fewer replicas fit, and every step pays "
            "for the exchange between GPUs."
        ),
        verification=f"kv_cache_capacity rises at the restart; inter_token_latency does not within {WATCHED}.",
    )


def _weight_bytes(case: KVCase) -> Value:
    """Return the bytes of one parameter as they are loaded."""
    settings = case.given.settings
    if settings.quantization and settings.quantization_known:
        found = {
            "fp8": 1.0,
            "int8": 1.0,
            "w8a8": 1.0,
            "awq": 0.55,
            "gptq": 0.55,
            "awq_marlin": 0.55,
            "gptq_marlin": 0.55,
        }
        return found.get(settings.quantization, case.given.model.weight_bytes_each)
    return case.given.model.weight_bytes_each
