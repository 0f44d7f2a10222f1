"""The KV block pool of one engine: live blocks, a real prefix cache, and eviction of what nobody holds.

As in vLLM V1: a full block is known by a hash of its own tokens and of everything before it; requests with the same
beginning hold the same block; a block that nobody holds any more stays in the cache until its place is needed, the
longest unused first, and a sequence's end before its beginning. Such blocks are free blocks: usage does not count
them. Blocks without a hash (half-filled ones) are only counted. Two differences, stated: blocks that were never
hashed are always given out before cached ones (vLLM keeps one queue for both), and a block computed twice at the same
time is a plain one of its second owner.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from optiinfra_sim.errors import EngineError

BlockKey = int
Content = tuple[tuple[int, int], ...]
"""What a text consists of: (identity, tokens) after one another; equal identities are equal tokens."""


@dataclass(slots=True)
class BlockPool:
    """``usable`` blocks; every method keeps ``live + cached <= usable``."""

    usable: int
    live: int = 0
    evicted: int = 0
    """Cached blocks that had to make room, since the beginning."""
    _held: dict[BlockKey, int] = field(default_factory=dict)
    _cached: OrderedDict[BlockKey, None] = field(default_factory=OrderedDict)

    @property
    def free(self) -> int:
        """Blocks that can be given out; what is merely cached counts."""
        return self.usable - self.live

    @property
    def cached(self) -> int:
        """Blocks that hold a known prefix and belong to nobody."""
        return len(self._cached)

    def take(self, count: int) -> None:
        """Give out plain blocks; cached ones make room, the longest unused first."""
        if count > self.free:
            raise EngineError(f"{count} blocks asked for, {self.free} free")
        self.live += count
        crowded = self.live + len(self._cached) - self.usable
        if crowded > 0:
            for _ in range(crowded):
                self._cached.popitem(last=False)
            self.evicted += crowded

    def match(self, keys: Sequence[BlockKey]) -> int:
        """How many of the leading blocks are known."""
        for index, key in enumerate(keys):
            if key not in self._held and key not in self._cached:
                return index
        return len(keys)

    def revived(self, keys: Sequence[BlockKey]) -> int:
        """How many of these known blocks would leave the free ones if they were held."""
        return sum(1 for key in keys if key not in self._held)

    def hold(self, keys: Sequence[BlockKey]) -> None:
        """Hold known blocks once more."""
        for key in keys:
            holders = self._held.get(key, 0)
            if not holders:
                del self._cached[key]
                self.live += 1
            self._held[key] = holders + 1

    def publish(self, keys: Sequence[BlockKey]) -> list[BlockKey]:
        """Make plain live blocks known; returns those that were, duplicates stay plain."""
        held, cached = self._held, self._cached
        fresh = [key for key in keys if key not in held and key not in cached]
        held.update(dict.fromkeys(fresh, 1))
        return fresh

    def release(self, keys: Sequence[BlockKey], *, plain: int) -> None:
        """Give blocks back: known ones stay cached, the first of ``keys`` the longest."""
        held, cached = self._held, self._cached
        freed = plain
        for key in reversed(keys):
            holders = held.pop(key)
            if holders > 1:
                held[key] = holders - 1
            else:
                cached[key] = None
                freed += 1
        self.live -= freed
        if self.live < len(self._held):
            raise EngineError("more blocks were given back than were held")


def block_keys(content: Content, *, tokens: int, block_size: int) -> list[BlockKey]:
    """The keys of the whole blocks in the first ``tokens`` of a text; each depends on all before it."""
    keys: list[BlockKey] = []
    chain, left, room = 0, tokens, block_size
    parts: list[int] = []  # of a block that has begun and needs ``room`` more tokens
    for identity, length in content:
        here, offset = min(length, left), 0
        left -= here
        if parts and here:
            offset = min(room, here)
            parts += (identity, 0, offset)
            room -= offset
            if room:
                continue
            chain = hash((chain, *parts))
            keys.append(chain)
            parts, room = [], block_size
        whole, rest = divmod(here - offset, block_size)
        if whole:
            # Blocks inside one part follow one another: one hash for where they begin, then count.
            first = hash((chain, identity, offset))
            keys.extend(range(first, first + whole))
            chain = first + whole - 1
        if rest:
            parts, room = [identity, offset + whole * block_size, rest], block_size - rest
    return keys
