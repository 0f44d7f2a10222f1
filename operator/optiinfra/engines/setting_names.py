"""Where each engine takes its settings from: flags first, environment variables after.

Flags are written with dashes; `arguments.parse` turns underscores into dashes. Only names whose meaning was checked are
here: a name that means something else in another engine would become a wrong recommendation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.readings import EngineKind

GIB: Final = float(2**30)
GIGABYTE: Final = 1e9


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one engine's settings."""

    programs: tuple[str, ...]
    batch_limit: tuple[str, ...] = ()
    limit_is_of_one_engine: bool = False
    """The batch limit is that of one data-parallel engine, and a page adds the engines of its pod up."""
    step_tokens: tuple[str, ...] = ()
    context_tokens: tuple[str, ...] = ()
    gpu_memory_share: tuple[str, ...] = ()
    tensor_parallel: tuple[str, ...] = ()
    pipeline_parallel: tuple[str, ...] = ()
    data_parallel: tuple[str, ...] = ()
    block_size: tuple[str, ...] = ()
    kv_blocks: tuple[str, ...] = ()
    kv_bytes: tuple[str, ...] = ()
    kv_capacity: tuple[str, ...] = ()
    kv_dtype: tuple[str, ...] = ()
    dtype: tuple[str, ...] = ()
    quantization: tuple[str, ...] = ()
    prefix_on: tuple[str, ...] = ()
    prefix_off: tuple[str, ...] = ()
    chunked_on: tuple[str, ...] = ()
    chunked_off: tuple[str, ...] = ()
    speculative: tuple[str, ...] = ()
    lora_limit: tuple[str, ...] = ()
    queue_limit: tuple[str, ...] = ()
    offload: tuple[str, ...] = ()
    offload_unit: float = GIB
    model: tuple[str, ...] = ("--model", "--model-path", "--model-id", "MODEL_ID", "HF_MODEL_ID", "NIM_MODEL_NAME")


NAMES: Final[Mapping[EngineKind, Names]] = {
    EngineKind.VLLM: Names(
        programs=("vllm", "vllm.entrypoints.openai.api_server", "vllm.entrypoints.api_server", "dynamo.vllm"),
        batch_limit=("--max-num-seqs",),
        limit_is_of_one_engine=True,
        step_tokens=("--max-num-batched-tokens",),
        context_tokens=("--max-model-len",),
        gpu_memory_share=("--gpu-memory-utilization",),
        tensor_parallel=("--tensor-parallel-size", "-tp"),
        pipeline_parallel=("--pipeline-parallel-size", "-pp"),
        data_parallel=("--data-parallel-size-local", "-dpl", "--data-parallel-size", "-dp"),
        block_size=("--block-size",),
        kv_blocks=("--num-gpu-blocks-override",),
        kv_bytes=("--kv-cache-memory-bytes",),
        kv_dtype=("--kv-cache-dtype",),
        dtype=("--dtype",),
        quantization=("--quantization", "-q"),
        prefix_on=("--enable-prefix-caching",),
        prefix_off=("--no-enable-prefix-caching",),
        chunked_on=("--enable-chunked-prefill",),
        chunked_off=("--no-enable-chunked-prefill",),
        speculative=("--speculative-config", "-sc", "--speculative-model", "--num-speculative-tokens"),
        lora_limit=("--max-loras",),
        queue_limit=("--max-num-queued-reqs",),
        offload=("--kv-offloading-size",),
    ),
    EngineKind.SGLANG: Names(
        programs=("sglang", "sglang.launch_server", "sglang_router.launch_server", "dynamo.sglang"),
        batch_limit=("--max-running-requests",),
        step_tokens=("--chunked-prefill-size",),
        context_tokens=("--context-length",),
        gpu_memory_share=("--mem-fraction-static",),
        tensor_parallel=("--tensor-parallel-size", "--tp-size", "--tp"),
        pipeline_parallel=("--pipeline-parallel-size", "--pp-size", "--pp"),
        data_parallel=("--data-parallel-size", "--dp-size", "--dp"),
        block_size=("--page-size",),
        kv_capacity=("--max-total-tokens",),
        kv_dtype=("--kv-cache-dtype",),
        dtype=("--dtype",),
        quantization=("--quantization",),
        prefix_off=("--disable-radix-cache",),
        speculative=("--speculative-algorithm", "--speculative-algo"),
        lora_limit=("--max-loras-per-batch",),
        queue_limit=("--max-queued-requests",),
        offload=("--hicache-size",),
        offload_unit=GIGABYTE,
    ),
    EngineKind.TGI: Names(
        programs=("text-generation-launcher",),
        batch_limit=("--max-batch-size", "MAX_BATCH_SIZE"),
        step_tokens=("--max-batch-prefill-tokens", "MAX_BATCH_PREFILL_TOKENS"),
        context_tokens=("--max-total-tokens", "MAX_TOTAL_TOKENS"),
        gpu_memory_share=("--cuda-memory-fraction", "CUDA_MEMORY_FRACTION"),
        tensor_parallel=("--num-shard", "NUM_SHARD"),
        kv_capacity=("--max-batch-total-tokens", "MAX_BATCH_TOTAL_TOKENS"),
        kv_dtype=("--kv-cache-dtype", "KV_CACHE_DTYPE"),
        dtype=("--dtype", "DTYPE"),
        quantization=("--quantize", "QUANTIZE"),
        prefix_on=("PREFIX_CACHING", "USE_PREFIX_CACHING"),
        speculative=("--speculate",),
        queue_limit=("--max-concurrent-requests", "MAX_CONCURRENT_REQUESTS"),
    ),
    EngineKind.TRTLLM: Names(
        programs=("trtllm-serve", "dynamo.trtllm"),
        batch_limit=("--max-batch-size",),
        step_tokens=("--max-num-tokens",),
        context_tokens=("--max-seq-len",),
        gpu_memory_share=("--kv-cache-free-gpu-memory-fraction",),
        tensor_parallel=("--tp-size",),
        pipeline_parallel=("--pp-size",),
    ),
    EngineKind.NIM: Names(
        programs=(),
        context_tokens=("NIM_MAX_MODEL_LEN",),
        gpu_memory_share=("NIM_KVCACHE_PERCENT",),
        tensor_parallel=("NIM_TENSOR_PARALLEL_SIZE",),
        pipeline_parallel=("NIM_PIPELINE_PARALLEL_SIZE",),
        prefix_on=("NIM_ENABLE_KV_CACHE_REUSE",),
    ),
    EngineKind.TRITON: Names(programs=("tritonserver",)),
}
NOT_SETTINGS: Final = frozenset({"programs", "limit_is_of_one_engine", "offload_unit"})
"""Fields of `Names` that name no setting."""


def names_in(names: Names, *, without: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return every flag and variable of an engine, of all its settings but some."""
    fields = names.__dataclass_fields__.keys() - NOT_SETTINGS - without
    return frozenset(name for field in fields for name in getattr(names, field))


ENVIRONMENT: Final = frozenset(
    name for names in NAMES.values() for name in names_in(names) if not name.startswith("-")
) | {"LMCACHE_CONFIG_FILE"}
"""Environment variables that engines are configured by; `LMCACHE_*` besides. Whoever reads pods needs only these."""
CONFIG_FILES: Final = frozenset({"--config", "--args-file", "--extra-llm-api-options", "--config-file"})
"""Flags that name a file in which any setting may stand."""
