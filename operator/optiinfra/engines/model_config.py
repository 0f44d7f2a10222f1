"""A model's own `config.json` (Hugging Face), as a ConfigMap may hold it: its architecture as facts.

It is the surest source of shapes and says nothing of the number of parameters. What it holds comes from outside: its
size is bounded, numbers that make no model are left unknown, and kinds of layers that nobody here knows make the
whole attention unknown rather than plain.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.model_facts import Attention, ModelFacts
from optiinfra.domain.readings import Unknown, UnknownReason, Value

MOST_BYTES: Final = 256 * 1024
_LARGEST: Final = 1e9
_ABSENT: Final = Unknown(UnknownReason.NOT_MEASURED, "the model's config.json does not say")
_BYTES: Final = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
_QUANTISED: Final = {"fp8": 1.0, "awq": 0.53, "gptq": 0.53, "mxfp4": 0.56}
_STATE_KEYS: Final = (
    "hybrid_override_pattern",
    "attn_layer_period",
    "mamba_d_state",
    "ssm_cfg",
    "linear_num_key_heads",
    "layers_block_type",
)
_WINDOWED: Final = frozenset({"sliding_attention", "chunked_attention", "local_attention"})
_ALL_WINDOWED: Final = frozenset({"mistral", "phi3", "starcoder2"})
"""Models whose layers are all windowed where a window is given; others alternate without saying how in older files."""
_FULL: Final = frozenset({"full_attention", "attention", "global_attention"})


def facts_from(text: str) -> ModelFacts | Unknown:
    """Read a config.json; unknown, with the reason, where it is none."""
    if len(text) > MOST_BYTES:
        size = MOST_BYTES // 1024
        return Unknown(UnknownReason.INVALID, f"config.json: more than {size} KiB; give the model's own file")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return Unknown(UnknownReason.INVALID, "config.json: not JSON; give the model's own file")
    if not isinstance(document, Mapping):
        return Unknown(UnknownReason.INVALID, "config.json: not an object; give the model's own file")
    # Models that see or hear keep the language model's shape in a part of its own.
    part = document.get("text_config", document.get("llm_config", document))
    return _Config(part if isinstance(part, Mapping) else document, document).facts()


@dataclass(frozen=True, slots=True)
class _Config:
    fields: Mapping[str, object]
    whole: Mapping[str, object]

    def number(self, *names: str) -> Value:
        """Return the first of the fields that is a plausible count."""
        for name in names:
            value = self.fields.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST:
                return float(value)
        return _ABSENT

    def facts(self) -> ModelFacts:
        layers = self.number("num_hidden_layers", "n_layer", "num_layers")
        heads = self.number("num_attention_heads", "n_head", "num_heads")
        attention, windowed = self.attention(layers)
        return ModelFacts(
            layers=layers,
            kv_heads=self.kv_heads(heads),
            head_size=self.head_size(heads),
            weight_bytes_each=self.weight_bytes(),
            context_tokens=self.number("max_position_embeddings", "n_positions", "max_sequence_length"),
            attention=attention,
            window_tokens=self.number("sliding_window", "attention_chunk_size"),
            windowed_layers=windowed,
            latent_size=self.latent(),
        )

    def kv_heads(self, heads: Value) -> Value:
        if self.fields.get("multi_query") is True and self.fields.get("new_decoder_architecture") is not True:
            return 1.0
        found = self.number("num_key_value_heads", "num_kv_heads", "n_head_kv")
        # A model from before grouped queries has as many as it has heads.
        return heads if isinstance(found, Unknown) else found

    def head_size(self, heads: Value) -> Value:
        found, width = self.number("head_dim"), self.number("hidden_size", "n_embd", "d_model")
        if not isinstance(found, Unknown) or isinstance(width, Unknown) or isinstance(heads, Unknown):
            return found
        return width / heads if width % heads == 0.0 else _ABSENT

    def latent(self) -> Value:
        rank, rope = self.number("kv_lora_rank"), self.number("qk_rope_head_dim")
        return _ABSENT if isinstance(rank, Unknown) or isinstance(rope, Unknown) else rank + rope

    def weight_bytes(self) -> Value:
        quantised = self.whole.get("quantization_config")
        if isinstance(quantised, Mapping):
            return _QUANTISED.get(str(quantised.get("quant_method", "")), _ABSENT)
        named = self.fields.get("dtype", self.fields.get("torch_dtype", self.whole.get("torch_dtype")))
        return _BYTES.get(str(named).removeprefix("torch."), _ABSENT)

    def attention(self, layers: Value) -> tuple[Attention, Value]:
        """Return how keys and values are kept, and how many layers are windowed."""
        if not isinstance(self.latent(), Unknown):
            # A second cache beside the latent one (an index of keys) makes its size another.
            return (Attention.UNKNOWN if "index_topk" in self.fields else Attention.LATENT), _ABSENT
        if any(self.fields.get(key) for key in _STATE_KEYS):
            return Attention.HYBRID, _ABSENT
        kinds = self.fields.get("layer_types")
        if isinstance(kinds, list) and kinds:
            return _by_layer([str(kind) for kind in kinds], layers)
        window = self.number("sliding_window")
        if isinstance(window, Unknown) or self.fields.get("use_sliding_window") is False:
            return (Attention.UNKNOWN if isinstance(layers, Unknown) else Attention.FULL), _ABSENT
        pattern = self.number("sliding_window_pattern")
        if isinstance(layers, Unknown):
            return Attention.UNKNOWN, _ABSENT
        context = self.number("max_position_embeddings")
        if not isinstance(context, Unknown) and window >= context:
            return Attention.FULL, _ABSENT
        full = 0.0 if isinstance(pattern, Unknown) else layers // pattern
        if isinstance(pattern, Unknown) and str(self.fields.get("model_type", "")) not in _ALL_WINDOWED:
            return Attention.UNKNOWN, _ABSENT
        return Attention.SLIDING, layers - full


def _by_layer(kinds: list[str], layers: Value) -> tuple[Attention, Value]:
    windowed = sum(kind in _WINDOWED for kind in kinds)
    if isinstance(layers, Unknown) or len(kinds) != layers:
        return Attention.UNKNOWN, _ABSENT
    if windowed + sum(kind in _FULL for kind in kinds) < len(kinds):
        return Attention.HYBRID, _ABSENT
    return (Attention.SLIDING, float(windowed)) if windowed else (Attention.FULL, _ABSENT)
