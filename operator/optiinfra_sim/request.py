"""One request on its way through a simulated engine, with the moments that the metrics are made of.

It is mutable and owned by exactly one engine at a time (or by the fleet's router): whoever holds it may write it.
"""

from dataclasses import dataclass, field

from optiinfra_sim.blocks import BlockKey, Content

OUTPUT_WEIGHT = 4
"""A generated token costs about as much as four prompt tokens; the benchmark weighs work the same way."""


@dataclass(slots=True, eq=False)
class Request:
    """A request: what was asked for, and what has happened to it so far."""

    number: int
    arrival: float
    prompt: int
    output: int
    limit: int = 0
    """``max_tokens``: the most it may generate; 0 means exactly ``output`` (it then ends by length)."""
    content: Content = ()
    """What the prompt consists of; empty means the engine's shared prefix and then nothing anybody else asks."""
    answer: int = 0
    """Identity of the generated tokens, for a later prompt that repeats them; 0 means its own number."""
    adapter: str = ""
    """LoRA adapter; empty means the base model."""
    external: int = 0
    """Prompt tokens that a remote KV cache holds and that are fetched instead of computed."""
    scheduled_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    """Set where a preemption interrupts it: the gap until its next token is an inter-token latency too."""
    preemptions: int = 0
    preemptions_told: int = 0
    """Those that vLLM has counted: a preemption is told with the request's next token."""
    restarts: int = 0
    """How often an engine vanished under it while it ran; its first queueing has been counted by then."""
    generated: int = 0
    """Tokens generated up to the moment it joined the decoding batch; the engine knows how many since."""
    cached: int = 0
    """Prompt tokens that needed no computing, found here or fetched."""
    fetched: int = 0
    prefill_left: int = 0
    keys: list[BlockKey] = field(default_factory=list)
    """Keys of the whole blocks of its prompt, computed once."""
    held: list[BlockKey] = field(default_factory=list)
    """Known blocks that it holds."""
    plain: int = 0
    """Blocks of its own that it was given at admission, known ones not counted."""
    published: int = 0
    """How many of its whole blocks have been made known."""
    resident: int = 0
    """Tokens in the cache at the moment it joined the decoding batch."""
    joined_step: int = -1
    """The engine's decode step at which it joined; -1 while it is not decoding."""
    finish_step: int = -1
    ready_at: float | None = None
    """When its fetch from the remote cache ends; None while none has begun."""
    deferred: bool = False
    """Whether it waits for something else than capacity: an adapter slot, a fetch."""

    @property
    def max_tokens(self) -> int:
        """The most it may generate."""
        return self.limit or self.output

    @property
    def work(self) -> int:
        """Its size in the unit of the benchmark: input tokens + 4 x output tokens."""
        return self.prompt + OUTPUT_WEIGHT * self.output

    def restart(self) -> None:
        """Forget all progress: its engine is gone, another one begins again. Only its arrival stays."""
        self.restarts += 1
        self.scheduled_at = None
        self.first_token_at = None
        self.last_token_at = None
        self.preemptions = 0
        self.preemptions_told = 0
        self.generated = 0
        self.forget_cache()

    def forget_cache(self) -> None:
        """What it held in a cache is lost; what it has generated stays known."""
        self.cached = 0
        self.fetched = 0
        self.prefill_left = 0
        self.held = []
        self.plain = 0
        self.published = 0
        self.resident = 0
        self.joined_step = -1
        self.finish_step = -1
        self.ready_at = None
        self.deferred = False
