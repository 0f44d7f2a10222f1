"""Models by name, and what a token of theirs takes in the KV cache."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain import model_table
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.model_facts import Attention, ModelFacts, kv_bytes_per_token, kv_element_bytes, merged
from optiinfra.domain.model_table import facts_of, recognise
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason

KIB = 1024.0


def settings_of(**changes):
    return EngineSettings(**{"engine": EngineKind.VLLM, "kv_cache_dtype": "auto"} | changes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 128 * KIB),
        ("meta-llama/Llama-3.1-70B-Instruct", 320 * KIB),
        ("Qwen/Qwen2.5-7B-Instruct", 56 * KIB),
        ("meta-llama/Llama-2-13b-chat-hf", 800 * KIB),
    ],
)
def test_published_models_take_what_was_published(name, expected):
    assert kv_bytes_per_token(recognise(name), settings_of()) == expected
    assert kv_bytes_per_token(recognise(name), settings_of(kv_cache_dtype="fp8")) == expected / 2


SMALL = ModelFacts(layers=4.0, kv_heads=2.0, head_size=64.0, attention=Attention.FULL)


def test_the_measured_model():
    each = kv_bytes_per_token(SMALL, settings_of(kv_cache_dtype="bfloat16"))
    assert each == 2048.0
    assert 2**30 // (16 * each) == 32768
    assert 2**30 // (32 * each) == 16384


@pytest.mark.parametrize(
    ("gpus", "expected"), [(1.0, 131072.0), (4.0, 32768.0), (8.0, 16384.0), (16.0, 16384.0)]
)  # eight heads: more GPUs than heads keep copies
def test_a_tensor_parallel_group_splits_heads_and_never_cuts_one(gpus, expected):
    facts = recognise("llama-3.1-8b")
    assert kv_bytes_per_token(facts, settings_of(tensor_parallel=gpus)) == expected


def test_a_pipeline_splits_layers():
    assert kv_bytes_per_token(SMALL, settings_of(pipeline_parallel=2.0)) == 1024.0


def test_latent_attention_has_its_own_formula_and_is_not_split():
    facts = recognise("deepseek-ai/DeepSeek-R1")
    assert kv_bytes_per_token(facts, settings_of()) == 61 * 576 * 2
    assert kv_bytes_per_token(facts, settings_of(tensor_parallel=8.0)) == 61 * 576 * 2


def test_a_sliding_window_stops_growing():
    facts = recognise("google/gemma-3-27b-it")
    whole = 2.0 * 62 * 16 * 128 * 2
    short = kv_bytes_per_token(facts, settings_of(), request_tokens=1000.0)
    assert short == whole
    long = kv_bytes_per_token(facts, settings_of(), request_tokens=102_400.0)
    assert long == pytest.approx(whole * (10 + 52 * 0.01) / 62)
    admitted = kv_bytes_per_token(facts, settings_of(context_tokens=102_400.0))
    assert admitted == long


def test_a_hybrid_is_refused():
    value = kv_bytes_per_token(recognise("nvidia/Nemotron-H-56B-Base-8K"), settings_of())
    assert isinstance(value, Unknown)
    assert value.reason is UnknownReason.UNSUPPORTED


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (ModelFacts(), {}),
        (SMALL, {"kv_cache_dtype": ""}),
        (SMALL, {"kv_cache_dtype": "turboquant"}),
        (SMALL, {"engine": EngineKind.TGI}),
        (ModelFacts(layers=4.0, kv_heads=2.0, head_size=64.0), {}),
    ],
)
def test_what_is_not_known_is_not_computed(model, settings):
    assert isinstance(kv_bytes_per_token(model, settings_of(**settings)), Unknown)


def test_arguments_without_a_type_mean_the_model_s():
    assert kv_element_bytes(SMALL, settings_of(kv_cache_dtype="", container="vllm")) == 2.0
    assert kv_element_bytes(SMALL, settings_of(model_dtype="float32")) == 4.0


def test_scales_beside_each_head_are_counted():
    assert kv_element_bytes(SMALL, settings_of(kv_cache_dtype="int8_per_token_head")) == 1.0 + 4.0 / 64
    assert kv_element_bytes(SMALL, settings_of(kv_cache_dtype="int4_per_token_head")) == 0.5 + 4.0 / 64


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b"),
        ("llama3.1:8b", "llama-3.1-8b"),
        ("/models/llama-3-1-70b-instruct", "llama-3.1-70b"),
        ("hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", "llama-3.1-8b"),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "llama-3.3-70b"),
        ("nvidia/Llama-3.1-Nemotron-70B-Instruct-HF", "llama-3.1-70b"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "qwen2.5-32b"),
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "qwen3-8b"),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek-v3"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507-FP8", "qwen3-30b-a3b"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("mistralai/Mistral-7B-Instruct-v0.1", "mistral-7b-v0.1"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
        ("/cache/hub/models--facebook--opt-125m/snapshots/27dcfa74d334bc871f3234de431e71c6", "opt-125m"),
        ("s3://bucket/01-ai/Yi-34B-Chat", "yi-34b"),
    ],
)  # fmt: skip
def test_a_model_is_known_by_its_name(name, expected):
    assert recognise(name).name == expected


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/mnt/models",
        "my-company/chat",
        "my-company/adopt-13b",
        "llama",
        "meta-llama/Llama-3.2-11B-Vision-Instruct",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "Qwen/Qwen3-Embedding-8B",
        "nvidia/Llama-3_3-Nemotron-Super-49B-v1",
        "deepseek-ai/DeepSeek-V3.2-Exp",
        "moonshotai/Kimi-K2.5",
        "yuhuili/EAGLE-LLaMA3.1-Instruct-8B",
        "llama-3.1-8b" * 40,
    ],
)
def test_another_model_under_a_like_name_stays_unknown(name):
    assert recognise(name) == ModelFacts()


@pytest.mark.parametrize("name", model_table.MODELS)
def test_every_row_is_found_under_its_own_name_and_is_plausible(name):
    facts = recognise(name)
    assert facts.name == name
    assert 1e8 < facts.active_parameters <= facts.parameters
    assert facts.context_tokens >= 2048
    assert isinstance(kv_bytes_per_token(facts, settings_of()), float)
    if facts.attention is Attention.SLIDING:
        assert 0 < facts.windowed_layers <= facts.layers


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_none(text):
    assert recognise(text).name in {"", *model_table.MODELS} or recognise(text).attention is Attention.HYBRID


def test_what_is_stated_wins_over_the_table_field_by_field():
    stated = ModelFacts(layers=30.0, weight_bytes_each=1.0)
    facts = facts_of(stated, ("/mnt/models", "meta-llama/Llama-3.1-8B"))
    assert (facts.name, facts.layers, facts.kv_heads, facts.weight_bytes_each) == ("llama-3.1-8b", 30.0, 8.0, 1.0)


def test_the_surest_name_wins():
    assert facts_of(ModelFacts(), ("qwen2.5-7b", "meta-llama/Llama-3.1-8B")).name == "qwen2.5-7b"


def test_nothing_known_stays_nothing():
    assert facts_of(ModelFacts(), ()) == ModelFacts()
    assert merged() == ModelFacts()


def test_a_model_that_nobody_knows_is_a_plain_one_when_its_shape_is_stated():
    facts = facts_of(ModelFacts(layers=4.0, kv_heads=2.0, head_size=64.0), ("my-company/chat",))
    assert facts.attention is Attention.FULL
    assert kv_bytes_per_token(facts, settings_of()) == 2048.0
    assert facts_of(ModelFacts(layers=4.0), ()).attention is Attention.UNKNOWN
    assert facts_of(ModelFacts(layers=4.0, kv_heads=2.0, head_size=64.0), ("jamba-mini",)).attention is Attention.HYBRID


def test_the_file_of_a_model_comes_after_what_is_stated_and_before_the_table():
    file = ModelFacts(layers=30.0, kv_heads=4.0, head_size=64.0, context_tokens=1000.0, attention=Attention.FULL)
    facts = facts_of(ModelFacts(layers=29.0), ("meta-llama/Llama-3.1-8B",), file=file)
    assert (facts.layers, facts.kv_heads, facts.head_size, facts.context_tokens) == (29.0, 4.0, 64.0, 1000.0)
    assert facts.parameters == pytest.approx(8.03e9, rel=0.01)
    assert (facts.name, facts.attention) == ("llama-3.1-8b", Attention.FULL)


def test_layers_that_the_file_calls_no_known_kind_are_never_taken_for_plain_ones():
    file = ModelFacts(layers=4.0, kv_heads=2.0, head_size=64.0)
    assert facts_of(ModelFacts(), (), file=file).attention is Attention.UNKNOWN
    assert facts_of(file, (), file=file).attention is Attention.UNKNOWN
    assert facts_of(file, (), file=ModelFacts()).attention is Attention.FULL
    assert facts_of(ModelFacts(attention=Attention.SLIDING), (), file=file).attention is Attention.SLIDING
