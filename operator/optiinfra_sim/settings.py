"""What one simulated engine is: whose page it shows, its limits as vLLM names them, and what a step costs it.

The defaults resemble an 8B model in bf16 on one H100 (80 GB): a decode step reads 16 GB of weights (about 5 ms
at 3.35 TB/s, 7 ms with what surrounds it), every sequence adds the reading of its own cache, and prefill runs at
about 40,000 tokens a second. They are plausible, not measured: benchmark conclusions need the user's own numbers.
"""

import enum
import math
from dataclasses import dataclass

from optiinfra_sim.errors import EngineError


class EngineKind(enum.StrEnum):
    """Whose metric page is shown, and whose habits the scheduler has."""

    VLLM = "vllm"
    """Prefill in chunks beside decoding; preemption by recompute."""
    SGLANG = "sglang"
    """Prefill in steps of its own, decoding pauses; retraction by recompute."""
    TGI = "tgi"
    """Prefill in steps of its own; blocks for the whole answer reserved at admission, so nothing is ever preempted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Limits and costs of one engine. All times in seconds, all sizes in tokens or blocks."""

    kind: EngineKind = EngineKind.VLLM
    model_name: str = "llama-3.1-8b"
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_model_len: int = 16384
    block_size: int = 16
    num_blocks: int = 28_000
    gpu_memory_utilization: float = 0.92
    watermark: float = 0.0
    """Share of the blocks that an admission must leave free."""
    step_seconds: float = 0.007
    sequence_seconds: float = 0.00006
    prefill_token_seconds: float = 0.000025
    host_seconds: float = 0.0
    """CPU time of every step during which the GPU waits: scheduling, tokens to text, launches."""
    prefix_caching: bool = True
    prefix_hit_share: float = 0.0
    """Share of a prompt found in the cache from earlier turns, for traces that do not say what prompts consist of;
    its blocks belong to the request all the same."""
    shared_prefix_tokens: int = 0
    """A system prompt common to all requests that do not say what they consist of."""
    max_loras: int = 0
    """Adapters that one batch may use; 0 means no limit."""
    remote_seconds: float = 0.0
    """Latency of one fetch from a remote KV cache."""
    remote_token_seconds: float = 0.0
    """Time that the link to it needs for the KV of one token; fetches queue for the link."""

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size", "num_blocks"):
            if getattr(self, name) < 1:
                raise EngineError(f"{name} must be at least 1")
        if not self.model_name or set(self.model_name) & set('"\\\n'):
            raise EngineError("model_name must not be empty, nor hold a quote, a backslash or a line break")
        if not 0 <= self.watermark < 1:
            raise EngineError("watermark must lie in [0, 1)")
        if (self.usable_blocks - self.reserve_blocks) * self.block_size < self.max_model_len:
            raise EngineError(
                f"num_blocks {self.num_blocks} of {self.block_size} tokens cannot hold one request of "
                f"max_model_len {self.max_model_len}: enlarge num_blocks or lower max_model_len"
            )
        if self.step_seconds <= 0 or min(self.sequence_seconds, self.prefill_token_seconds, self.host_seconds) < 0:
            raise EngineError("step_seconds must be above 0, sequence, prefill and host costs at least 0")
        if min(self.remote_seconds, self.remote_token_seconds, self.max_loras, self.shared_prefix_tokens) < 0:
            raise EngineError("remote costs, max_loras and shared_prefix_tokens must be at least 0")
        if not 0 <= self.prefix_hit_share < 1:
            raise EngineError("prefix_hit_share must lie in [0, 1)")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise EngineError("max_num_batched_tokens must not be below max_num_seqs, or a full batch starves")

    @property
    def usable_blocks(self) -> int:
        """One block is vLLM's own null block; usage is measured against the rest."""
        return self.num_blocks - 1

    @property
    def reserve_blocks(self) -> int:
        """Blocks that an admission must leave free."""
        return int(self.watermark * self.num_blocks)

    @property
    def prefills_alone(self) -> bool:
        """Whether decoding pauses while prompts are computed."""
        return self.kind is not EngineKind.VLLM

    @property
    def reserves_answers(self) -> bool:
        """Whether a request gets the blocks of its whole answer at admission."""
        return self.kind is EngineKind.TGI

    def blocks(self, tokens: int) -> int:
        """Blocks that ``tokens`` fill."""
        return math.ceil(tokens / self.block_size)

    def found(self, prompt: int, *, known_blocks: int) -> int:
        """Tokens of a prompt that need no computing: whole blocks, and never the whole prompt."""
        known = known_blocks * self.block_size
        found = known + int(max(0, prompt - known) * self.prefix_hit_share)
        return min(found, prompt - 1) // self.block_size * self.block_size
