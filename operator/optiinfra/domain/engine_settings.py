"""How an engine was started: the settings that decide its limits, read from the pod's arguments or from its page.

Values are what was really found; a setting nobody gave is an `Unknown`, because engine defaults drift between
versions and a guessed default would become a wrong recommendation.
"""

from dataclasses import dataclass

from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason, Value

_NOT_GIVEN = Unknown(UnknownReason.NOT_MEASURED, "not among the pod's arguments")


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
