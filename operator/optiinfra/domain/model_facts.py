"""What is known of a served model: its size and the shape of its attention, for KV-cache and roofline formulas.

Facts come from `spec.model`, from a ConfigMap, from the engine's arguments, or from a small table of public
architectures, in this order; what none of them says is unknown. Models whose cache does not follow the plain formula
(latent, sliding-window, hybrid) say so in `attention`, and whoever computes uses their own formula or refuses.
"""

from dataclasses import dataclass
from enum import StrEnum

from optiinfra.domain.readings import Unknown, UnknownReason, Value

_NOT_KNOWN = Unknown(UnknownReason.NOT_MEASURED, "the model is not known")


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
