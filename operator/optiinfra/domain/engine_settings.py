"""How an engine was started: the settings that decide its limits, read from the pod's arguments or from its page.

Values are what was really found; a setting nobody gave is an `Unknown`, because engine defaults drift between
versions and a guessed default would become a wrong recommendation.
"""

from dataclasses import dataclass, field

from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason, Value

_NOT_GIVEN = Unknown(UnknownReason.NOT_MEASURED, "not among the pod's arguments")


@dataclass(frozen=True, slots=True)
class LMCacheSettings:
    """How LMCache was configured, by LMCACHE_* variables or its file where that is literal."""

    chunk_tokens: Value = _NOT_GIVEN
    local_bytes: Value = _NOT_GIVEN
    """Host memory of one worker's pool (max_local_cpu_size)."""
    disk_bytes: Value = _NOT_GIVEN
    remote: bool | Unknown = _NOT_GIVEN
    """Whether a remote store is configured; its address is never kept."""
    policy: str = ""
    """LRU, LFU ...; empty when not known."""
    workers: Value = _NOT_GIVEN


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings of one engine, the same for all replicas of a workload."""

    engine: EngineKind | Unknown = _NOT_GIVEN
    version: str = ""
    container: str = ""
    """Name of the container that runs the engine."""
    batch_limit: Value = _NOT_GIVEN
    """Requests that run at once: --max-num-seqs, --max-running-requests."""
    batch_limit_source: str = ""
    """One of "argument", "page", or "inferred" (plateau of running while requests wait)."""
    step_tokens: Value = _NOT_GIVEN
    """--max-num-batched-tokens, --chunked-prefill-size."""
    context_tokens: Value = _NOT_GIVEN
    """--max-model-len, --context-length."""
    gpu_memory_share: Value = _NOT_GIVEN
    """--gpu-memory-utilization, --mem-fraction-static; ratio."""
    tensor_parallel: Value = _NOT_GIVEN
    kv_cache_capacity_tokens: Value = _NOT_GIVEN
    kv_cache_dtype: str = ""
    """For example "auto" or "fp8" ...; empty when not known."""
    quantization: str = ""
    """Empty when the engine was given none, or when it is not known; see quantization_known."""
    quantization_known: bool = False
    prefix_caching: bool | Unknown = _NOT_GIVEN
    lmcache: bool | Unknown = _NOT_GIVEN
    lmcache_settings: LMCacheSettings = field(default_factory=LMCacheSettings)
    """What LMCache was configured with; all unknown where it is off or nobody says."""
    role: str = ""
    """Prefill, Decode or empty: the part of a disaggregated engine that this one plays."""
    data_parallel: Value = _NOT_GIVEN
    """Engines behind one page; `batch_limit` is that of all of them together."""
    pipeline_parallel: Value = _NOT_GIVEN
    block_size: Value = _NOT_GIVEN
    """Tokens of one KV block or page."""
    kv_blocks: Value = _NOT_GIVEN
    kv_cache_bytes: Value = _NOT_GIVEN
    """Memory given to the KV cache, of one GPU; unknown where a block override makes the page's figure wrong."""
    chunked_prefill: bool | Unknown = _NOT_GIVEN
    model: str = ""
    """Model as the arguments name it. User text: never shown to an LLM."""
    model_dtype: str = ""
    """Type of the weights as given ("auto", "bfloat16" ...); empty when not known."""
    speculative: bool | Unknown = _NOT_GIVEN
    lora_limit: Value = _NOT_GIVEN
    """--max-loras."""
    queue_limit: Value = _NOT_GIVEN
    """Requests admitted to the queue before new ones are refused."""
    offload_bytes: Value = _NOT_GIVEN
    """Host memory given to the engine's own KV offloading."""
    sliding_window: Value = _NOT_GIVEN
    """Tokens, where the page says that attention is windowed."""
