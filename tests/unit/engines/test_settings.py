"""Settings from arguments as people write them, from environments, and from pages."""

import pytest

from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.workload import ContainerFacts
from optiinfra.engines import settings
from tests.unit.engines.recorded import MEMORY_BOUND, readings, written

SCRIPT = """# --max-num-seqs 1
pip list; python3 -m vllm.entrypoints.openai.api_server --model 'Qwen/Qwen2.5-7B' \\
  --max-num-seqs 64 --max-model-len 8192
"""
ANY = Unknown(UnknownReason.NOT_MEASURED)


def container(*arguments, name="engine", gpus=1.0, environment=None):
    return ContainerFacts(
        name=name,
        cpu_request_cores=ANY,
        cpu_limit_cores=ANY,
        memory_request_bytes=ANY,
        memory_limit_bytes=ANY,
        gpus=gpus,
        arguments=arguments,
        environment=environment or {},
    )


def read(*arguments, environment=None, reading=None):
    return settings.read((container(*arguments, environment=environment),), reading)


@pytest.mark.parametrize(
    "arguments",
    [
        ("vllm", "serve", "Qwen/Qwen2.5-7B", "--max-num-seqs", "64", "--max-model-len", "8192"),
        ("vllm", "serve", "Qwen/Qwen2.5-7B", "--max-num-seqs=64", "--max-model-len=8192"),
        ("vllm", "serve", "Qwen/Qwen2.5-7B", "--max_num_seqs=64", "--max_model_len", "8K"),
        ("/bin/sh", "-c", "exec vllm serve Qwen/Qwen2.5-7B --max-num-seqs 64 \\\n  --max-model-len 8192"),
        (
            "bash",
            "-ec",
            SCRIPT,
        ),
        ("--model", "Qwen/Qwen2.5-7B", "--max-num-seqs", "1", "--max-num-seqs", "64", "--max-model-len", "8192"),
        ("vllm", "serve", "Qwen/Qwen2.5-7B", "--max-num-seqs $(SEQS) --max-model-len ${LEN:-8192}"),
    ],
    ids=["words", "equals", "underscores", "shell", "script", "last one counts", "variables"],
)
def test_vllm_arguments_however_they_are_written(arguments):
    found = read(*arguments, environment={"SEQS": "64"})
    assert found.engine is EngineKind.VLLM
    assert found.container == "engine"
    assert found.batch_limit == 64.0
    assert found.batch_limit_source == "argument"
    assert found.context_tokens == 8192.0


def test_what_nobody_gave_is_unknown_and_not_a_default():
    found = read("vllm", "serve", "m")
    assert isinstance(found.batch_limit, Unknown)
    assert isinstance(found.gpu_memory_share, Unknown)
    assert found.batch_limit_source == ""
    assert found.kv_cache_dtype == ""


def test_a_variable_from_a_secret_is_unknown_and_says_so():
    found = read("vllm", "serve", "m", "--max-num-seqs", "$(SEQS)")
    assert isinstance(found.batch_limit, Unknown)
    assert "variable" in found.batch_limit.detail


@pytest.mark.parametrize("value", ["-1", "0", "auto"])
def test_a_choice_left_to_the_engine_is_unknown(value):
    assert isinstance(read("vllm", "serve", "m", "--max-model-len", value).context_tokens, Unknown)


def test_data_parallel_engines_of_a_pod_multiply_the_batch_limit():
    assert read("vllm", "serve", "m", "--max-num-seqs=32", "--data-parallel-size", "4").batch_limit == 128.0
    assert (
        read("vllm", "serve", "m", "--max-num-seqs=32", "-dp", "8", "--data-parallel-size-local=2").batch_limit == 64.0
    )


def test_switches_and_their_negation():
    assert read("vllm", "serve", "m", "--enable-prefix-caching").prefix_caching is True
    assert read("vllm", "serve", "m", "--no-enable-prefix-caching").prefix_caching is False
    assert read("python", "-m", "sglang.launch_server", "--disable-radix-cache").prefix_caching is False
    assert isinstance(read("vllm", "serve", "m").prefix_caching, Unknown)


def test_sglang_arguments():
    found = read(
        "python3", "-m", "sglang.launch_server", "--model-path", "Qwen/Qwen3-8B", "--max-running-requests", "48",
        "--tp", "2", "--mem-fraction-static=0.85", "--chunked-prefill-size", "-1", "--context-length", "32768",
        "--kv-cache-dtype", "fp8_e4m3", "--enable-lmcache",
    )  # fmt: skip
    assert found.engine is EngineKind.SGLANG
    assert found.batch_limit == 48.0
    assert found.tensor_parallel == 2.0
    assert found.gpu_memory_share == 0.85
    assert isinstance(found.step_tokens, Unknown)
    assert found.context_tokens == 32768.0
    assert found.kv_cache_dtype == "fp8_e4m3"
    assert found.lmcache is True


def test_tgi_takes_flags_before_its_environment():
    found = read(
        "text-generation-launcher", "--max-batch-total-tokens", "16000",
        environment={"MAX_BATCH_TOTAL_TOKENS": "9", "MAX_TOTAL_TOKENS": "4096", "QUANTIZE": "awq", "NUM_SHARD": "2"},
    )  # fmt: skip
    assert found.engine is EngineKind.TGI
    assert found.kv_cache_capacity_tokens == 16000.0
    assert found.context_tokens == 4096.0
    assert found.tensor_parallel == 2.0
    assert (found.quantization, found.quantization_known) == ("awq", True)


def test_an_image_with_an_entry_point_is_recognised_by_its_flags():
    assert read("--max-num-seqs", "8").engine is EngineKind.VLLM
    assert isinstance(read("--port", "80").engine, Unknown)


def test_the_page_names_the_engine_where_arguments_do_not():
    sidecar = container("/metrics-proxy", "--max-total-tokens", "5", name="proxy", gpus=0.0)
    engine = container("--max-num-seqs", "16", name="main")
    found = settings.read((sidecar, engine), readings(MEMORY_BOUND)[-1])
    assert found.engine is EngineKind.VLLM
    assert found.container == "main"
    assert found.batch_limit == 16.0


def test_the_page_corrects_the_arguments():
    found = read(
        "vllm", "serve", "m", "--gpu-memory-utilization", "0.5", "--no-enable-prefix-caching",
        reading=readings(MEMORY_BOUND)[-1],
    )  # fmt: skip
    assert found.gpu_memory_share == 0.92
    assert found.prefix_caching is True
    assert found.kv_cache_capacity_tokens == 2080.0
    assert found.kv_cache_dtype == "auto"


def test_nim_takes_its_batch_limit_from_the_page():
    found = settings.read((container(environment={"NIM_MAX_MODEL_LEN": "8192"}),), written("nim.txt"))
    assert found.engine is EngineKind.NIM
    assert (found.batch_limit, found.batch_limit_source) == (64.0, "page")
    assert found.context_tokens == 8192.0


def test_without_containers_the_page_still_speaks():
    found = settings.read((), readings(MEMORY_BOUND)[-1])
    assert found.engine is EngineKind.VLLM
    assert found.kv_cache_capacity_tokens == 2080.0
    assert isinstance(settings.read((), None).engine, Unknown)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("vllm", "serve", "m", "--quantization", "awq_marlin"), ("awq_marlin", True)),
        (("vllm", "serve", "m", "-q", "fp8"), ("fp8", True)),
        (("vllm", "serve", "neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8"), ("fp8", True)),
        (("vllm", "serve", "TheBloke/Llama-2-13B-GPTQ"), ("gptq", True)),
        (("vllm", "serve", "meta-llama/Llama-3.1-8B-Instruct"), ("", True)),
        (("vllm", "serve", "openai/gpt-oss-120b"), ("", False)),
        (("vllm", "serve", "/models/llama"), ("", False)),
        (("vllm", "serve", "--port", "80"), ("", False)),
    ],
)
def test_quantization_is_known_only_where_something_says_so(arguments, expected):
    found = read(*arguments)
    assert (found.quantization, found.quantization_known) == expected


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (("vllm", "serve", "m", "--kv-transfer-config", '{"kv_connector": "LMCacheConnectorV1"}'), {}, True),
        (("vllm", "serve", "m", "--kv-transfer-config", '{"kv_connector": "NixlConnector"}'), {}, False),
        (("vllm", "serve", "m"), {"LMCACHE_CHUNK_SIZE": "256"}, True),
        (("vllm", "serve", "m"), {}, False),
    ],
)
def test_lmcache(arguments, environment, expected):
    assert read(*arguments, environment=environment).lmcache is expected


def test_lmcache_is_unknown_where_a_file_configures_the_engine():
    assert isinstance(read("vllm", "serve", "m", "--config", "/etc/vllm.yaml").lmcache, Unknown)


def test_text_that_is_no_command_line_is_survived():
    assert isinstance(read("sh", "-c", "echo 'unclosed --max-num-seqs 8").batch_limit, (float, Unknown))
    assert isinstance(read("vllm", "serve", "m", "--max-num-seqs").batch_limit, Unknown)
    assert isinstance(read("vllm", "serve", "m", "--max-num-seqs", "9" * 400).batch_limit, Unknown)
    assert isinstance(read("vllm", "serve", "m", "--gpu-memory-utilization", "92").gpu_memory_share, Unknown)
