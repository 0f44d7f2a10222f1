"""What each engine calls the settings that advice is about. An empty name: that engine has no such setting."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.readings import EngineKind


@dataclass(frozen=True, slots=True)
class EngineFlags:
    """The names of one engine's settings, and of the values that advice proposes."""

    batch_limit: str = ""
    context: str = ""
    kv_dtype: str = ""
    kv_dtype_fp8: str = ""
    offload: str = ""
    offload_value: str = ""
    quantization: str = ""


_FLAGS: Final[Mapping[EngineKind, EngineFlags]] = {
    EngineKind.VLLM: EngineFlags(
        batch_limit="--max-num-seqs",
        context="--max-model-len",
        kv_dtype="--kv-cache-dtype",
        kv_dtype_fp8="fp8",
        offload="--kv-transfer-config",
        offload_value='{"kv_connector":"LMCacheConnectorV1","kv_role":"kv_both"}',
        quantization="--quantization",
    ),
    EngineKind.SGLANG: EngineFlags(
        batch_limit="--max-running-requests",
        context="--context-length",
        kv_dtype="--kv-cache-dtype",
        kv_dtype_fp8="fp8_e4m3",
        offload="--enable-lmcache",
        offload_value="on",
        quantization="--quantization",
    ),
    EngineKind.TGI: EngineFlags(
        batch_limit="--max-batch-size",
        context="--max-total-tokens",
        kv_dtype="--kv-cache-dtype",
        kv_dtype_fp8="fp8_e4m3fn",
        quantization="--quantize",
    ),
    EngineKind.TRTLLM: EngineFlags(batch_limit="--max_batch_size", context="--max_seq_len"),
    EngineKind.NIM: EngineFlags(context="NIM_MAX_MODEL_LEN"),
    EngineKind.TRITON: EngineFlags(),
}


def flags_of(engine: object) -> EngineFlags:
    """Return the names of an engine's settings; none where the engine is not known."""
    return _FLAGS[engine] if isinstance(engine, EngineKind) else EngineFlags()
