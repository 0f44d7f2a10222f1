"""What each engine calls the settings that advice is about, by version. An empty name: it has no such setting.

Names drift: a flag that is right today breaks the start of last year's image. Each table says from which version on
it holds; where an engine's page does not tell its version (vLLM's does not) the newest table is used, and only names
that have existed for long are in it without a choice. Defaults are texts for people, because they depend on hardware:
they are shown, never calculated with. Sources: vLLM `vllm/engine/arg_utils.py`, SGLang `server_args.py`, TGI
`launcher/src/main.rs`, TensorRT-LLM `commands/serve.py` and `llm_args.py`, NIM's configuration pages.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from optiinfra.domain.readings import EngineKind

Version: TypeAlias = tuple[int, ...]
_VERSION: Final = re.compile(r"v?(\d{1,6})(?:\.(\d{1,6}))?(?:\.(\d{1,6}))?")


@dataclass(frozen=True, slots=True)
class EngineFlags:
    """The names of one engine's settings, and of the values that advice proposes."""

    batch_limit: str = ""
    batch_limit_default: str = ""
    step_tokens: str = ""
    """Tokens of one step, prompts included."""
    step_tokens_default: str = ""
    chunked_prefill: str = ""
    """What switches the splitting of prompts over steps on; empty where it is always on or does not exist."""
    context: str = ""
    memory_share: str = ""
    kv_bytes: str = ""
    kv_blocks: str = ""
    kv_tokens: str = ""
    kv_dtype: str = ""
    kv_dtype_fp8: str = ""
    prefix_on: str = ""
    prefix_off: str = ""
    host_tier: str = ""
    """Host memory for the engine's own KV offloading, in GiB (vLLM) or GB (SGLang)."""
    offload: str = ""
    offload_value: str = ""
    tensor_parallel: str = ""
    queue_limit: str = ""
    model: str = ""
    quantization: str = ""
    quantization_fp8: str = ""
    """The value that quantises 16-bit weights to FP8 while they are loaded; empty where a checkpoint is needed."""


def line(name: str, value: str) -> str:
    """Write a setting as it stands in a manifest: a flag with its value, a switch, or a variable.

    Names with a dot are fields of a YAML file that the engine is given.
    """
    if name.startswith("-"):
        return f"{name}={value}" if value not in {"", "on"} else name
    return f"{name}: {value}" if "." in name else f"{name}={value}"


_LMCACHE: Final = '{"kv_connector":"LMCacheConnectorV1","kv_role":"kv_both"}'
_VLLM_V0: Final = EngineFlags(
    batch_limit="--max-num-seqs",
    batch_limit_default="256",
    step_tokens="--max-num-batched-tokens",
    step_tokens_default="512 to 2048 with chunked prefill, else the context",
    chunked_prefill="--enable-chunked-prefill",
    context="--max-model-len",
    memory_share="--gpu-memory-utilization",
    kv_blocks="--num-gpu-blocks-override",
    kv_dtype="--kv-cache-dtype",
    kv_dtype_fp8="fp8",
    prefix_on="--enable-prefix-caching",
    tensor_parallel="--tensor-parallel-size",
    model="--model",
    quantization="--quantization",
    quantization_fp8="fp8",
)
_VLLM_V1: Final = EngineFlags(
    batch_limit="--max-num-seqs",
    batch_limit_default="1024 on GPUs of 70 GiB and more (not A100), else 256",
    step_tokens="--max-num-batched-tokens",
    step_tokens_default="8192 on GPUs of 70 GiB and more (not A100), else 2048",
    context="--max-model-len",
    memory_share="--gpu-memory-utilization",
    kv_blocks="--num-gpu-blocks-override",
    kv_dtype="--kv-cache-dtype",
    kv_dtype_fp8="fp8",
    prefix_on="--enable-prefix-caching",
    prefix_off="--no-enable-prefix-caching",
    offload="--kv-transfer-config",
    offload_value=_LMCACHE,
    tensor_parallel="--tensor-parallel-size",
    model="--model",
    quantization="--quantization",
    quantization_fp8="fp8",
)
_VLLM_SIZED: Final = EngineFlags(
    **{name: getattr(_VLLM_V1, name) for name in EngineFlags.__dataclass_fields__}
    | {"kv_bytes": "--kv-cache-memory-bytes", "host_tier": "--kv-offloading-size"}
)
_VLLM_ONLINE: Final = EngineFlags(
    **{name: getattr(_VLLM_SIZED, name) for name in EngineFlags.__dataclass_fields__}
    # "fp8" for 16-bit checkpoints goes on to mean the same, and is to be replaced by this name.
    | {"quantization_fp8": "fp8_per_tensor", "queue_limit": "--max-num-queued-reqs"}
)
_VLLM_ANY: Final = EngineFlags(
    **{name: getattr(_VLLM_ONLINE, name) for name in EngineFlags.__dataclass_fields__} | {"quantization_fp8": "fp8"}
)
_TGI: Final = EngineFlags(
    batch_limit="--max-batch-size",
    batch_limit_default="none; --max-concurrent-requests refuses more than 128",
    step_tokens="--max-batch-prefill-tokens",
    step_tokens_default="found at start-up",
    context="--max-total-tokens",
    memory_share="--cuda-memory-fraction",
    kv_tokens="--max-batch-total-tokens",
    kv_dtype="--kv-cache-dtype",
    kv_dtype_fp8="fp8_e4m3fn",
    prefix_on="PREFIX_CACHING",
    tensor_parallel="--num-shard",
    queue_limit="--max-concurrent-requests",
    model="--model-id",
    quantization="--quantize",
    quantization_fp8="fp8",
)
_TABLES: Final[Mapping[EngineKind, tuple[tuple[Version, EngineFlags], ...]]] = {
    EngineKind.VLLM: (
        ((0, 20), _VLLM_ONLINE),
        ((0, 11), _VLLM_SIZED),
        ((0, 8), _VLLM_V1),
        ((0,), _VLLM_V0),
    ),
    EngineKind.SGLANG: (
        (
            (0,),
            EngineFlags(
                batch_limit="--max-running-requests",
                batch_limit_default="what the KV cache holds",
                step_tokens="--chunked-prefill-size",
                step_tokens_default="2048 to 16384 by GPU memory",
                context="--context-length",
                memory_share="--mem-fraction-static",
                kv_tokens="--max-total-tokens",
                kv_dtype="--kv-cache-dtype",
                kv_dtype_fp8="fp8_e4m3",
                prefix_off="--disable-radix-cache",
                host_tier="--hicache-size",
                offload="--enable-lmcache",
                offload_value="on",
                tensor_parallel="--tp-size",
                queue_limit="--max-queued-requests",
                model="--model-path",
                quantization="--quantization",
                quantization_fp8="fp8",
            ),
        ),
    ),
    EngineKind.TGI: (((0,), _TGI),),
    EngineKind.TRTLLM: (
        (
            (0,),
            EngineFlags(
                batch_limit="--max_batch_size",
                batch_limit_default="2048, or what the engine was built for",
                step_tokens="--max_num_tokens",
                step_tokens_default="8192",
                chunked_prefill="--enable_chunked_prefill",
                context="--max_seq_len",
                memory_share="--kv_cache_free_gpu_memory_fraction",
                kv_tokens="kv_cache_config.max_tokens",
                kv_dtype="kv_cache_config.dtype",
                kv_dtype_fp8="fp8",
                prefix_on="kv_cache_config.enable_block_reuse",
                host_tier="kv_cache_config.host_cache_size",
                tensor_parallel="--tp_size",
                model="MODEL",
            ),
        ),
    ),
    EngineKind.NIM: (
        (
            (2,),
            EngineFlags(
                context="NIM_MAX_MODEL_LEN",
                tensor_parallel="NIM_TENSOR_PARALLEL_SIZE",
                model="NIM_MODEL_PATH",
                quantization="NIM_MODEL_PROFILE",
            ),
        ),
        (
            (0,),
            EngineFlags(
                context="NIM_MAX_MODEL_LEN",
                memory_share="NIM_KVCACHE_PERCENT",
                prefix_on="NIM_ENABLE_KV_CACHE_REUSE",
                tensor_parallel="NIM_TENSOR_PARALLEL_SIZE",
                model="NIM_MODEL_NAME",
                quantization="NIM_MODEL_PROFILE",
            ),
        ),
    ),
    EngineKind.TRITON: (((0,), EngineFlags()),),
}
_UNVERSIONED: Final = {EngineKind.VLLM: _VLLM_ANY, EngineKind.NIM: _TABLES[EngineKind.NIM][-1][1]}
"""For pages that do not tell: names and values that hold in every version still in use."""


def parse_version(text: str) -> Version:
    """Read "v0.8.5.post1" as (0, 8, 5); nothing where the text is no version."""
    match = _VERSION.match(text.strip()[:40])
    return tuple(int(part) for part in match.groups() if part is not None) if match is not None else ()


def flags_of(engine: object, version: str = "") -> EngineFlags:
    """Return the names of an engine's settings in a version; none where the engine is not known."""
    if not isinstance(engine, EngineKind):
        return EngineFlags()
    found = parse_version(version)
    if not found:
        return _UNVERSIONED.get(engine, _TABLES[engine][0][1])
    return next((flags for since, flags in _TABLES[engine] if found >= since), _TABLES[engine][-1][1])
