"""Which blocks a request holds: known prefixes first, then plain ones, and what becomes known as it is computed.

The engine decides who may come and when; here is only what that does to the pool. A request that does not say what its
prompt consists of begins with the engine's shared prefix and goes on with tokens that nobody else asks.
"""

from dataclasses import dataclass

from optiinfra_sim.blocks import BlockPool, Content, block_keys
from optiinfra_sim.request import Request
from optiinfra_sim.settings import EngineSettings

_SYSTEM_PROMPT = 1 << 62
"""Identity of the prefix that requests without content share; others count down from here."""


@dataclass(frozen=True, slots=True)
class Seats:
    """The pool of one engine as its requests use it."""

    settings: EngineSettings
    pool: BlockPool

    def take(self, request: Request, *, spoken_for: int) -> bool:
        """Give a request its blocks, known ones first; False where too few are free.

        ``spoken_for`` blocks are needed by this very step's decoding: admission must not take them.
        """
        settings, pool = self.settings, self.pool
        if not request.keys and settings.prefix_caching:
            request.keys = block_keys(self._content(request), tokens=request.prompt, block_size=settings.block_size)
        resident = request.prompt + request.generated
        wanted = request.prompt + request.max_tokens if settings.reserves_answers else resident
        known = request.keys[: pool.match(request.keys[: (resident - 1) // settings.block_size])]
        plain = settings.blocks(wanted) - len(known)
        if plain + pool.revived(known) > pool.free - spoken_for - settings.reserve_blocks:
            return False
        pool.hold(known)
        pool.take(plain)
        request.held = known
        request.plain = plain
        request.published = len(known)
        return True

    def publish(self, request: Request, *, tokens: int) -> None:
        """Make the blocks known that the next ``tokens`` will fill, as vLLM does when it schedules them."""
        computed = request.prompt + request.generated - request.prefill_left + tokens
        known = min(len(request.keys), computed // self.settings.block_size)
        if known > request.published:
            fresh = self.pool.publish(request.keys[request.published : known])
            request.held.extend(fresh)
            request.plain -= len(fresh)
            request.published = known

    def give_back(self, request: Request) -> None:
        """Take the blocks of a request that has no answer yet."""
        self.pool.release(request.held, plain=request.plain)

    def leave(self, request: Request, *, tokens: int, keep_answer: bool) -> None:
        """Take the blocks of a request with so many tokens; its answer may stay known for a later prompt."""
        settings = self.settings
        plain = request.plain if settings.reserves_answers else settings.blocks(tokens) - len(request.held)
        if keep_answer and request.keys:
            answer = request.answer or _SYSTEM_PROMPT - 2 * request.number - 3
            text = (*self._content(request), (answer, tokens - request.prompt))
            keys = block_keys(text, tokens=tokens, block_size=settings.block_size)
            fresh = self.pool.publish(keys[len(request.keys) :])
            request.held.extend(fresh)
            plain -= len(fresh)
        self.pool.release(request.held, plain=plain)

    def _content(self, request: Request) -> Content:
        if request.content:
            return request.content
        shared = min(self.settings.shared_prefix_tokens, request.prompt)
        return ((_SYSTEM_PROMPT, shared), (_SYSTEM_PROMPT - 2 * request.number - 2, request.prompt - shared))
