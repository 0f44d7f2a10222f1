"""What is known of a served model: its size and the shape of its attention, for KV-cache and roofline formulas.

Facts come from `spec.model`, from a ConfigMap, from the engine's arguments, or from a small table of public
architectures, in this order; what none of them says is unknown. Models whose cache does not follow the plain formula
(latent, sliding-window, hybrid) say so in `attention`, and whoever computes uses their own formula or refuses.
Nothing is guessed from a model's size: two models of seven billion parameters differ ninefold in their cache.
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason, Value

_NOT_KNOWN = Unknown(UnknownReason.NOT_MEASURED, "the model is not known")
NOT_GIVEN: Final = Unknown(UnknownReason.NOT_CONFIGURED, "no length of a request was given")
_SCALE_BYTES: Final = 4.0
"""Size of the scale that per-token-head cache types keep beside each head's vector."""
_CACHE_BYTES: Final = {
    "half": 2.0,
    "float16": 2.0,
    "fp16": 2.0,
    "bfloat16": 2.0,
    "bf16": 2.0,
    "float": 4.0,
    "float32": 4.0,
    "fp32": 4.0,
    "fp8": 1.0,
    "fp8_e4m3": 1.0,
    "fp8_e4m3fn": 1.0,
    "fp8_e4m3fnuz": 1.0,
    "fp8_e5m2": 1.0,
    "fp8_inc": 1.0,
    "int8": 1.0,
    # Four bits, and an 8-bit scale for every 16 elements.
    "nvfp4": 0.5625,
    "fp4_e2m1": 0.5625,
}
_SIXTEEN_BITS: Final = 2.0
_ONE_GPU_BY_DEFAULT: Final = frozenset({EngineKind.VLLM, EngineKind.SGLANG, EngineKind.TRTLLM})
"""Engines that split a model over GPUs only when told to; TGI and NIM decide for themselves."""


class Attention(StrEnum):
    """How a model keeps keys and values."""

    FULL = "Full"
    """Every layer keeps every token (MHA, GQA, MQA)."""
    LATENT = "Latent"
    """One compressed vector a token and layer (MLA)."""
    SLIDING = "Sliding"
    """Some or all layers keep a window only."""
    HYBRID = "Hybrid"
    """Some layers keep a state of fixed size (Mamba, linear attention)."""
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model's architecture. Counts are of the whole model, before any split over GPUs."""

    name: str = ""
    """Family, as the table knows it; empty when not known."""
    parameters: Value = _NOT_KNOWN
    active_parameters: Value = _NOT_KNOWN
    """Those that one token uses: fewer than all in a mixture of experts."""
    layers: Value = _NOT_KNOWN
    kv_heads: Value = _NOT_KNOWN
    head_size: Value = _NOT_KNOWN
    weight_bytes_each: Value = _NOT_KNOWN
    """Bytes of one parameter as published (2 for bfloat16)."""
    context_tokens: Value = _NOT_KNOWN
    attention: Attention = Attention.UNKNOWN
    window_tokens: Value = _NOT_KNOWN
    """Of sliding layers."""
    windowed_layers: Value = _NOT_KNOWN
    latent_size: Value = _NOT_KNOWN
    """Elements of one latent vector with its positional part (MLA)."""


def merged(*layers: ModelFacts) -> ModelFacts:
    """Join what several sources say; earlier ones win, field by field."""
    found: dict[str, Any] = {}
    for one in fields(ModelFacts):
        said = [getattr(layer, one.name) for layer in layers]
        known = (value for value in said if not isinstance(value, Unknown) and value not in {"", Attention.UNKNOWN})
        if (first := next(known, said[0] if said else None)) is not None:
            found[one.name] = first
    return ModelFacts(**found)


def kv_bytes_per_token(model: ModelFacts, settings: EngineSettings, *, request_tokens: Value = NOT_GIVEN) -> Value:
    """Return the bytes that one token takes in the KV cache of one GPU.

    Full attention: `2 x layers x kv heads / GPUs x head size x bytes` (vLLM, `kv_cache_interface.py`). Latent: one
    vector a layer, which every GPU of a tensor-parallel group keeps whole: `layers x latent size x bytes` (DeepSeek-V2,
    arXiv 2405.04434). Sliding: windowed layers stop growing at the window, so that a request of `n` tokens holds
    `2 x heads x head size x bytes x (full layers + windowed layers x min(1, window / n))` a token on average.

    Args:
        model: its facts.
        settings: the engine's; the type of the cache and the split over GPUs are taken from them.
        request_tokens: length of a request, for sliding windows; left out, the longest that the engine admits.

    Returns:
        Bytes, or why they cannot be computed; hybrid models are always refused, their state is no function of tokens.
    """
    size, split = kv_element_bytes(model, settings), gpus_of_tensor_group(settings)
    for value in (size, split, model.layers):
        if isinstance(value, Unknown):
            return value
    assert not isinstance(size, Unknown)
    assert not isinstance(split, Unknown)
    assert not isinstance(model.layers, Unknown)
    layers = model.layers / (1.0 if isinstance(settings.pipeline_parallel, Unknown) else settings.pipeline_parallel)
    match model.attention:
        case Attention.LATENT:
            return model.latent_size if isinstance(model.latent_size, Unknown) else layers * model.latent_size * size
        case Attention.HYBRID:
            return Unknown(UnknownReason.UNSUPPORTED, "a hybrid model's state does not grow with its tokens alone")
        case Attention.UNKNOWN:
            return Unknown(UnknownReason.NOT_MEASURED, "how the model keeps keys and values is not known")
    if isinstance(model.kv_heads, Unknown):
        return model.kv_heads
    if isinstance(model.head_size, Unknown):
        return model.head_size
    # Fewer heads than GPUs are copied, never cut.
    a_layer = 2.0 * max(1.0, model.kv_heads / split) * model.head_size * size
    if model.attention is Attention.FULL:
        return layers * a_layer
    share = _kept_share(model, settings, request_tokens)
    return share if isinstance(share, Unknown) else layers * a_layer * share


def _kept_share(model: ModelFacts, settings: EngineSettings, request_tokens: Value) -> Value:
    """Return the share of its tokens that a layer of a sliding model keeps, mean over layers."""
    window, windowed, layers = model.window_tokens, model.windowed_layers, model.layers
    lengths = (request_tokens, settings.context_tokens, model.context_tokens)
    length = next((one for one in lengths if not isinstance(one, Unknown)), NOT_GIVEN)
    for value in (window, windowed, layers, length):
        if isinstance(value, Unknown):
            return value
    assert not isinstance(window, Unknown)
    assert not isinstance(windowed, Unknown)
    assert not isinstance(layers, Unknown)
    assert not isinstance(length, Unknown)
    if length <= 0.0 or layers <= 0.0 or not 0.0 <= windowed <= layers:
        return Unknown(UnknownReason.INVALID, f"{windowed:g} windowed layers of {layers:g}, {length:g} tokens")
    return (layers - windowed + windowed * min(1.0, window / length)) / layers


def kv_element_bytes(model: ModelFacts, settings: EngineSettings) -> Value:
    """Return the bytes of one element of the KV cache, scales included; unknown for types that are not in the table.

    "auto" is the type the model computes in, which is never that of quantised weights: 16 bits, unless 32 were asked.
    """
    dtype = settings.kv_cache_dtype
    if not dtype and not settings.container:
        return Unknown(UnknownReason.NOT_MEASURED, "the type of the KV cache is not known")
    if dtype in {"", "auto"}:
        return _CACHE_BYTES.get(settings.model_dtype, _SIXTEEN_BITS)
    if dtype.endswith("_per_token_head") and not isinstance(model.head_size, Unknown) and model.head_size > 0.0:
        element = {"int8": 1.0, "fp8": 1.0, "int4": 0.5}.get(dtype.removesuffix("_per_token_head"))
        if element is not None:
            return element + _SCALE_BYTES / model.head_size
    found = _CACHE_BYTES.get(dtype)
    if found is None:
        return Unknown(UnknownReason.UNSUPPORTED, f"the size of KV-cache type {dtype[:24]} is not known")
    return found


def gpus_of_tensor_group(settings: EngineSettings) -> Value:
    """Return over how many GPUs each layer is split; 1 for engines that split only when told to."""
    if not isinstance(settings.tensor_parallel, Unknown):
        return settings.tensor_parallel
    if isinstance(settings.engine, EngineKind) and settings.engine in _ONE_GPU_BY_DEFAULT:
        return 1.0
    return Unknown(UnknownReason.NOT_MEASURED, "over how many GPUs the engine splits the model is not known")
