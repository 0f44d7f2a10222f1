"""How much GPU memory a workload needs, which is not what it holds.

A program that allocates as it goes needs its peak, loads included. An engine that serves models takes nearly all of the
GPU at its start and fills it with KV blocks: what it holds says nothing, so that its need is put together from what the
weights take, from the KV tokens that were really held at most, and from the rest (activations, graphs, the CUDA
context), which is what it holds less weights and pool. Where one of these is not known, neither is the need. An engine
also refuses to start when its pool does not hold one request of the longest context; that is part of the need.
"""

from dataclasses import dataclass
from typing import Final

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.gpu_use import GpuUse
from optiinfra.domain.model_facts import ModelFacts, kv_bytes_per_token
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.roofline import bytes_each

HEADROOM: Final = 1.1
"""Over a measured peak."""
KV_HEADROOM: Final = 1.2
"""Over the KV tokens that were held at most."""
REST_LEAST: Final = 2.0 * 2**30
"""Activations, graphs and context of an engine take this much at least, whatever a difference of estimates says."""
DEFAULT_SHARE: Final = 0.9
"""Of the GPU's memory that an engine takes where its arguments do not say: vLLM's and TGI's default."""
_CONTRADICTS: Final = -(2**30)


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Memory that a share of a GPU must have."""

    total: float
    """Bytes."""
    basis: str
    """What it is made of, in words."""
    takes: float = 1.0
    """Share of the memory it is given that an engine takes for itself."""

    def fits(self, usable: float) -> bool:
        """Tell whether it fits a share of a GPU with this much memory, bytes."""
        return self.total <= usable * self.takes


def needed(
    use: GpuUse, *, settings: EngineSettings, model: ModelFacts, serves: bool, pool_tokens: Value
) -> MemoryNeed | Unknown:
    """Return the need of a workload on one GPU.

    Args:
        use: what was measured of its GPUs.
        settings: of its engine.
        model: what it serves.
        serves: whether it is an engine at all.
        pool_tokens: KV tokens that its pool holds now.
    """
    if isinstance(use.memory_peak, Unknown):
        return use.memory_peak
    if not serves:
        seen = f"{use.loads} loads among them" if use.loads else "no load was seen"
        return MemoryNeed(HEADROOM * use.memory_peak, f"peak of {_gib(use.memory_peak)} ({seen}) and 10 %")
    parts = _parts(settings, model, use, pool_tokens)
    if isinstance(parts, Unknown):
        return Unknown(parts.reason, f"it takes its memory beforehand, and what it needs is not known: {parts.detail}")
    weights, a_token, tokens, pool = parts
    rest = use.memory_peak - weights - pool * a_token
    if rest < _CONTRADICTS:
        text = "weights and KV cache would take more than it holds: model or settings are not what they are taken for"
        return Unknown(UnknownReason.INVALID, text)
    rest = max(REST_LEAST, rest)
    share = DEFAULT_SHARE if isinstance(settings.gpu_memory_share, Unknown) else settings.gpu_memory_share
    basis = (
        f"weights of {_gib(weights)}, {tokens:,.0f} KV tokens of {a_token / 1024.0:.3g} KiB, {_gib(rest)} beside them"
    )
    return MemoryNeed(weights + rest + tokens * a_token, basis, takes=share)


def _parts(
    settings: EngineSettings, model: ModelFacts, use: GpuUse, pool_tokens: Value
) -> tuple[float, float, float, float] | Unknown:
    """Return bytes of weights, bytes a KV token, KV tokens needed, and KV tokens of the pool now."""
    each, a_token = bytes_each(model, settings), kv_bytes_per_token(model, settings)
    context = model.context_tokens if isinstance(settings.context_tokens, Unknown) else settings.context_tokens
    known: list[float] = []
    for value in (model.parameters, each, a_token, use.kv_tokens_peak, context, pool_tokens):
        if isinstance(value, Unknown):
            return value
        known.append(value)
    parameters, size, token, held, longest, pool = known
    return parameters * size, token, max(KV_HEADROOM * held, longest), pool


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"
