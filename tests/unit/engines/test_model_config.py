"""A model's own configuration file, as facts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.model_facts import Attention, ModelFacts, kv_bytes_per_token
from optiinfra.domain.readings import EngineKind, Unknown
from optiinfra.engines.model_config import facts_from

VLLM = EngineSettings(engine=EngineKind.VLLM, kv_cache_dtype="auto")
LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


def facts(**changes):
    found = facts_from(json.dumps({key: value for key, value in (LLAMA | changes).items() if value is not None}))
    assert isinstance(found, ModelFacts)
    return found


def test_a_plain_model():
    found = facts()
    assert (found.layers, found.kv_heads, found.head_size, found.weight_bytes_each) == (32.0, 8.0, 128.0, 2.0)
    assert found.attention is Attention.FULL
    assert kv_bytes_per_token(found, VLLM) == 128 * 1024
    assert isinstance(found.parameters, Unknown)


def test_heads_of_their_own_size_and_models_without_groups():
    assert facts(head_dim=256).head_size == 256.0
    assert facts(num_key_value_heads=None).kv_heads == 32.0
    assert facts(multi_query=True, num_key_value_heads=None).kv_heads == 1.0
    assert isinstance(facts(hidden_size=4097).head_size, Unknown)


def test_a_latent_model():
    found = facts(
        num_hidden_layers=61, kv_lora_rank=512, qk_rope_head_dim=64, quantization_config={"quant_method": "fp8"}
    )
    assert found.attention is Attention.LATENT
    assert (found.latent_size, found.weight_bytes_each) == (576.0, 1.0)
    assert facts(kv_lora_rank=512, qk_rope_head_dim=64, index_topk=2048).attention is Attention.UNKNOWN


@pytest.mark.parametrize(
    ("changes", "attention", "windowed"),
    [
        ({"layer_types": ["sliding_attention"] * 20 + ["full_attention"] * 12, "sliding_window": 128}, "Sliding", 20.0),
        ({"layer_types": ["full_attention"] * 32}, "Full", None),
        ({"layer_types": ["linear_attention"] * 24 + ["full_attention"] * 8}, "Hybrid", None),
        ({"layer_types": ["full_attention"] * 5}, "Unknown", None),
        ({"sliding_window": 1024, "sliding_window_pattern": 6}, "Sliding", 27.0),
        ({"sliding_window": 4096, "model_type": "mistral"}, "Sliding", 32.0),
        ({"sliding_window": 4096, "model_type": "gemma2"}, "Unknown", None),
        ({"sliding_window": 4096, "use_sliding_window": False}, "Full", None),
        ({"sliding_window": 262144, "model_type": "phi3"}, "Full", None),
        ({"hybrid_override_pattern": "M-M*"}, "Hybrid", None),
        ({"num_hidden_layers": None}, "Unknown", None),
    ],
)
def test_how_keys_and_values_are_kept(changes, attention, windowed):
    found = facts(**changes)
    assert found.attention is Attention(attention)
    assert found.windowed_layers == windowed if windowed else isinstance(found.windowed_layers, Unknown)


def test_the_language_part_of_a_model_that_sees():
    found = facts_from(json.dumps({"model_type": "vlm", "text_config": LLAMA}))
    assert isinstance(found, ModelFacts)
    assert found.layers == 32.0


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 100_000, " " * (256 * 1024 + 1)])
def test_what_is_no_configuration_is_unknown(text):
    found = facts_from(text)
    assert isinstance(found, Unknown)
    assert "config.json" in found.detail


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "32", 10**12, None, [32]])
def test_implausible_numbers_are_left_unknown(value):
    assert isinstance(facts(num_hidden_layers=value).layers, Unknown)


values = (
    st.none()
    | st.booleans()
    | st.integers(-5, 10**6)
    | st.text(max_size=8)
    | st.lists(st.text(max_size=20), max_size=4)
)
names = st.sampled_from(
    [*LLAMA, "head_dim", "layer_types", "sliding_window", "sliding_window_pattern", "kv_lora_rank", "qk_rope_head_dim"]
)


@given(st.dictionaries(names, values))
def test_any_fields_make_facts(fields):
    found = facts_from(json.dumps(fields))
    assert isinstance(found, ModelFacts)
    assert isinstance(kv_bytes_per_token(found, VLLM), float | Unknown)
