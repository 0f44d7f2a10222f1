"""Parallelism, KV cache, speculation, adapters, roles and LMCache: from arguments, JSON values, variables and pages."""

import pytest

from optiinfra.domain.engine_settings import LMCacheSettings
from optiinfra.domain.readings import EngineKind, Unknown
from optiinfra.engines import page, settings
from tests.unit.engines.recorded import BATCH_BOUND, lmcache_page, raw, readings, written
from tests.unit.engines.test_settings import container, read

GIB = 2.0**30
PREFILL = '{"kv_connector": "NixlConnector", "kv_role": "kv_producer"}'
MULTI = (
    '{"kv_connector": "MultiConnector", "kv_role": "kv_both", "kv_connector_extra_config": {"connectors": ['
    '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}, {"kv_connector": "LMCacheConnectorV1"}]}}'
)


def test_everything_that_vllm_can_be_told():
    found = read(
        "vllm", "serve", "Qwen/Qwen3-32B", "-tp", "4", "--pipeline_parallel_size=2", "--data-parallel-size=8", "-dpl=2",
        "--block-size", "32", "--num-gpu-blocks-override=512", "--kv-cache-memory-bytes", "1G", "--dtype=bfloat16",
        "--no-enable-chunked-prefill", "--max-loras", "4", "--max-num-queued-reqs", "100",
        "--kv-offloading-size", "16", "--speculative-config", '{"method": "ngram", "num_speculative_tokens": 3}',
    )  # fmt: skip
    assert found.model == "Qwen/Qwen3-32B"
    assert found.tensor_parallel == 4.0
    assert found.pipeline_parallel == 2.0
    assert found.data_parallel == 2.0
    assert found.block_size == 32.0
    assert found.kv_blocks == 512.0
    assert found.kv_cache_bytes == GIB
    assert found.model_dtype == "bfloat16"
    assert found.chunked_prefill is False
    assert found.lora_limit == 4.0
    assert found.queue_limit == 100.0
    assert found.offload_bytes == 16 * GIB
    assert found.speculative is True


def test_everything_that_sglang_can_be_told():
    found = read(
        "python", "-m", "sglang.launch_server", "--model-path", "m", "--tp", "2", "--pp-size=2", "--dp", "2",
        "--page-size", "16", "--chunked-prefill-size", "4096", "--max-queued-requests", "50", "--hicache-size", "30",
        "--max-loras-per-batch=8", "--speculative-algorithm", "EAGLE", "--max-running-requests", "64",
    )  # fmt: skip
    assert found.tensor_parallel == 2.0
    assert found.pipeline_parallel == 2.0
    assert found.data_parallel == 2.0
    # SGLang divides the limit among its data-parallel engines; vLLM gives it to each.
    assert found.batch_limit == 64.0
    assert found.block_size == 16.0
    assert found.chunked_prefill is True
    assert found.queue_limit == 50.0
    assert found.offload_bytes == 30e9
    assert found.lora_limit == 8.0
    assert found.speculative is True


def test_the_other_engines():
    tgi = read("text-generation-launcher", "--model-id", "m", environment={"DTYPE": "float16", "MAX_BATCH_SIZE": "9"})
    assert (tgi.model, tgi.model_dtype, tgi.batch_limit, tgi.speculative) == ("m", "float16", 9.0, False)
    trtllm = read("trtllm-serve", "meta/llama", "--tp_size", "2", "--pp_size", "4", "--max_batch_size", "256")
    assert (trtllm.model, trtllm.tensor_parallel, trtllm.pipeline_parallel) == ("meta/llama", 2.0, 4.0)
    nim = settings.read((container(environment={"NIM_MODEL_NAME": "n"}),), written("nim.txt"))
    assert nim.model == "n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("vllm", "serve", "m"), False),
        (("vllm", "serve", "m", "-sc", '{"method": "mtp"}'), True),
        (("vllm", "serve", "m", "--speculative-config.method=mtp"), True),
        (("vllm", "serve", "m", "--speculative_model", "draft"), True),
        (("text-generation-launcher", "--speculate", "2"), True),
        (("text-generation-launcher", "--speculate", "0"), False),
        (("python", "-m", "sglang.launch_server", "--speculative-algorithm", "None"), False),
    ],
)
def test_speculation_is_off_unless_asked_for(arguments, expected):
    assert read(*arguments).speculative is expected


def test_speculation_is_unknown_where_a_file_or_a_variable_may_ask_for_it():
    assert isinstance(read("vllm", "serve", "m", "--config", "/etc/vllm.yaml").speculative, Unknown)
    assert isinstance(read("vllm", "serve", "m", "--speculative-config", "$(SPECULATIVE)").speculative, Unknown)


def test_a_page_that_counts_drafts_proves_speculation():
    reading = page.read(b"vllm:num_requests_running 1\nvllm:spec_decode_num_draft_tokens_total 5\n", at=0.0)
    assert settings.read((container("vllm", "serve", "m"),), reading).speculative is True


@pytest.mark.parametrize(
    ("arguments", "role"),
    [
        (("vllm", "serve", "m", "--kv-transfer-config", PREFILL), "Prefill"),
        (("vllm", "serve", "m", f"--kv_transfer_config={PREFILL.replace('producer', 'consumer')}"), "Decode"),
        (("vllm", "serve", "m", "--kv-transfer-config.kv_role", "kv_producer"), "Prefill"),
        (("vllm", "serve", "m", "--kv-transfer-config", PREFILL.replace("producer", "both")), ""),
        (("sh", "-c", f"vllm serve m --kv-transfer-config '{PREFILL}'"), "Prefill"),
        (("python", "-m", "sglang.launch_server", "--disaggregation-mode", "decode"), "Decode"),
        (("python", "-m", "sglang.launch_server", "--disaggregation-mode=null"), ""),
        (("python3", "-m", "dynamo.vllm", "--model", "m", "--is-prefill-worker"), "Prefill"),
        (("trtllm-serve", "m", "--server_role", "CONTEXT"), "Prefill"),
        (("vllm", "serve", "m"), ""),
        (("vllm", "serve", "m", "--kv-transfer-config", "@/etc/kv.json"), ""),
    ],
)
def test_the_role_in_a_disaggregated_engine(arguments, role):
    assert read(*arguments).role == role


def test_lmcache_among_several_connectors():
    assert read("vllm", "serve", "m", "--kv-transfer-config", MULTI).lmcache is True
    assert read("vllm", "serve", "m", "--kv-transfer-config.kv_connector=LMCacheMPConnector").lmcache is True
    assert isinstance(read("vllm", "serve", "m", "--kv-transfer-config", "/etc/kv.json").lmcache, Unknown)


def test_lmcache_settings_from_variables():
    found = read(
        "vllm", "serve", "m", "--kv-transfer-config", '{"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}',
        environment={
            "LMCACHE_CHUNK_SIZE": "512", "LMCACHE_MAX_LOCAL_CPU_SIZE": "20.5", "LMCACHE_MAX_LOCAL_DISK_SIZE": "100",
            "LMCACHE_REMOTE_URL": "redis://:secret@cache:6379", "LMCACHE_CACHE_POLICY": "lfu",
        },
    ).lmcache_settings  # fmt: skip
    assert found.chunk_tokens == 512.0
    assert found.local_bytes == 20.5 * GIB
    assert found.disk_bytes == 100 * GIB
    assert found.remote is True
    assert found.policy == "LFU"
    # The container has one GPU, hence one worker.
    assert found.workers == 1.0
    assert "secret" not in repr(found)


def test_lmcache_settings_from_the_connector_and_variables_before_them():
    config = (
        '{"kv_connector": "LMCacheConnectorV1", "kv_connector_extra_config": '
        '{"lmcache.chunk_size": 128, "lmcache.max_local_cpu_size": 8, "discard_partial_chunks": false}}'
    )
    found = read(
        "vllm", "serve", "m", "--kv-transfer-config", config, environment={"LMCACHE_CHUNK_SIZE": "64"}
    ).lmcache_settings
    assert found.chunk_tokens == 64.0
    assert found.local_bytes == 8 * GIB


def test_what_lmcache_reads_from_a_file_is_unknown_and_says_so():
    found = read("vllm", "serve", "m", environment={"LMCACHE_CONFIG_FILE": "/etc/lmcache.yaml"})
    assert found.lmcache is True
    assert isinstance(found.lmcache_settings.local_bytes, Unknown)
    assert "file" in found.lmcache_settings.local_bytes.detail
    assert isinstance(found.lmcache_settings.remote, Unknown)


def test_lmcache_that_is_off_or_told_nonsense():
    assert read("vllm", "serve", "m").lmcache_settings == LMCacheSettings()
    told = {"LMCACHE_LOCAL_CPU": "False", "LMCACHE_CHUNK_SIZE": "many", "LMCACHE_REMOTE_URL": "None"}
    found = read("vllm", "serve", "m", environment=told).lmcache_settings
    assert found.local_bytes == 0.0
    assert isinstance(found.chunk_tokens, Unknown)
    assert found.remote is False


def test_lmcache_workers_are_those_on_the_page():
    two = lmcache_page() + lmcache_page().replace(b'worker_id="0"', b'worker_id="1"')
    reading = page.read(raw(BATCH_BOUND)[100][0] + two, at=1.0)
    found = settings.read((container("vllm", "serve", "m", gpus=8.0),), reading)
    assert found.lmcache is True
    assert found.lmcache_settings.workers == 2.0


def test_the_page_tells_blocks_and_whether_their_memory_can_be_believed():
    found = settings.read((container("vllm", "serve", "m", "--block-size=16"),), readings(BATCH_BOUND)[0])
    assert found.version == "V1 (>=0.30)"
    assert (found.block_size, found.kv_blocks) == (32.0, 100.0)
    # The page shows 1 GiB, and 100 blocks by an override: 3200 tokens are not a GiB.
    assert isinstance(found.kv_cache_bytes, Unknown)
    assert isinstance(found.offload_bytes, Unknown)
    info = (
        b'vllm:num_requests_running 1\nvllm:cache_config_info{kv_cache_memory_bytes="5",num_gpu_blocks_override="None",'
    )
    reading = page.read(info + b'sliding_window="4096",kv_offloading_size="2"} 1\n', at=0.0)
    found = settings.read((), reading)
    assert (found.kv_cache_bytes, found.sliding_window, found.offload_bytes) == (5.0, 4096.0, 2 * GIB)


def test_data_parallel_engines_are_counted_on_the_page():
    reading = page.read(b'vllm:num_requests_running{engine="0"} 1\nvllm:num_requests_running{engine="1"} 1\n', at=0.0)
    assert settings.read((), reading).data_parallel == 2.0


def test_the_configuration_that_trtllm_serve_shows():
    reading = page.read(
        b"trtllm_num_requests_running 1\ntrtllm_max_num_active_requests 256\n"
        b'trtllm_parallel_config_info{tp_size="4",pp_size="1"} 1\n',
        at=0.0,
    )
    found = settings.read((), reading)
    assert found.engine is EngineKind.TRTLLM
    assert (found.tensor_parallel, found.batch_limit, found.batch_limit_source) == (4.0, 256.0, "page")


def test_a_switch_before_a_word_that_is_not_its_value():
    assert read("vllm", "serve", "--enable-prefix-caching", "Qwen/Qwen3-8B").prefix_caching is True
    assert read("vllm", "serve", "m", "--enable-prefix-caching=False").prefix_caching is False


@pytest.mark.parametrize("value", ["{", "[1]", "{" * 3000, "null", '{"kv_connector_extra_config": {"connectors": 5}}'])
def test_json_that_is_none_is_survived(value):
    found = read("vllm", "serve", "m", "--kv-transfer-config", value)
    assert found.role == ""
    assert found.lmcache is False or isinstance(found.lmcache, Unknown)
