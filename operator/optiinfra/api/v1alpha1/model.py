"""`spec.model`: facts about the served model, for formulas, where the engine's arguments and the table do not tell.

Every fact is optional and wins over what is read elsewhere, field by field: a fine-tune with an extended context is
its family with one number changed. `configMapRef` names the model's own file, which comes second. Numbers that make no
model (more windowed layers than layers) are refused here.
"""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from optiinfra.api.base import ApiModel, Rule
from optiinfra.api.scalars import ObjectName, Text
from optiinfra.domain.model_facts import Attention

_SUFFIXES: Final = {"M": 1e6, "B": 1e9, "T": 1e12}


class ModelSize(Text):
    """A number of parameters: 8B, 70.6B, 125M or 1.04T."""

    __slots__ = ()
    MAX_LENGTH = 12
    PATTERN = r"^(0\.[0-9]{0,2}[1-9]|[1-9][0-9]{0,3}(\.[0-9]{1,3})?)[MBT]$"
    MESSAGE = "write a number of parameters such as 125M, 8B, 70.6B or 1.04T"

    @property
    def parameters(self) -> float:
        """The number itself."""
        return float(self[:-1]) * _SUFFIXES[self[-1]]


class WeightType(StrEnum):
    """Types of weights as published."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FP8 = "fp8"
    INT8 = "int8"
    FP4 = "fp4"
    INT4 = "int4"

    @property
    def bytes_each(self) -> float:
        """Bytes of one parameter, with the scales of formats of four bits."""
        return _BYTES[self]


_BYTES: Final = {
    WeightType.FLOAT32: 4.0,
    WeightType.BFLOAT16: 2.0,
    WeightType.FLOAT16: 2.0,
    WeightType.FP8: 1.0,
    WeightType.INT8: 1.0,
    WeightType.FP4: 0.5625,
    WeightType.INT4: 0.53,
}


class AttentionType(StrEnum):
    """How a model keeps keys and values; the names of `Attention` that people can state."""

    FULL = "Full"
    LATENT = "Latent"
    SLIDING = "Sliding"
    HYBRID = "Hybrid"

    @property
    def attention(self) -> Attention:
        """The same for the domain."""
        return Attention(self.value)


class ConfigMapKey(Text):
    """A key of a ConfigMap."""

    __slots__ = ()
    PATTERN = r"^[-._a-zA-Z0-9]+$"
    MESSAGE = "write a key of a ConfigMap, such as config.json: letters, digits, dashes, dots and underscores"


class ConfigMapKeyRef(ApiModel):
    """Reference to one key of a ConfigMap in the same namespace."""

    name: ObjectName
    """Name of the ConfigMap."""
    key: ConfigMapKey = ConfigMapKey("config.json")
    """Key that holds the model's own config.json."""


class Model(ApiModel):
    """Facts about the served model, where the engine's arguments do not tell."""

    family: Annotated[str, Field(max_length=128)] = ""
    """Model family, for KV-cache and roofline formulas, such as llama-3.1-70b; empty: read from the engine."""
    config_map_ref: ConfigMapKeyRef | None = None
    """ConfigMap with the model's config.json (Hugging Face); facts stated here win over it, it over a family's."""
    parameters: ModelSize | None = None
    """All parameters, such as 70.6B."""
    active_parameters: ModelSize | None = None
    """Parameters that one token uses, in a mixture of experts."""
    layers: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Layers (num_hidden_layers)."""
    kv_heads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Heads of keys and values, of the whole model (num_key_value_heads)."""
    head_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Elements of one head (head_dim)."""
    dtype: WeightType | None = None
    """Type of the weights as published."""
    context_tokens: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Longest context, prompt and answer together."""
    attention: AttentionType | None = None
    """Full; Latent (MLA); Sliding (windows in some or all layers); Hybrid (state-space or linear layers)."""
    window_tokens: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Tokens that a windowed layer keeps, with attention Sliding."""
    windowed_layers: Annotated[int, Field(ge=1, le=1000)] | None = None
    """How many layers are windowed, with attention Sliding."""
    latent_size: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Elements of one latent vector with its positional part (kv_lora_rank + qk_rope_head_dim), with Latent."""

    RULES = (
        Rule(
            cel="!has(self.windowedLayers) || !has(self.layers) || self.windowedLayers <= self.layers",
            message="windowedLayers may not be above layers",
            field="windowedLayers",
            holds=lambda m: m.windowed_layers is None or m.layers is None or m.windowed_layers <= m.layers,
        ),
        Rule(
            cel="!has(self.activeParameters) || has(self.parameters)",
            message="activeParameters needs parameters: state all of them as well",
            field="activeParameters",
            holds=lambda m: m.active_parameters is None or m.parameters is not None,
        ),
    )
