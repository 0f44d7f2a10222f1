"""Replays requests with known prefix blocks against prefix caches: hit ratios of all sizes at once, and of routings.

An engine's prefix cache is an LRU of blocks. A block can be used again only behind the same prefix, so blocks are
told apart by the path that leads to them; and engines give a finished request's last block back first (vLLM frees in
reverse order), so that the front of a prefix always outlives its end. Then one pass gives every size: an access hits
in a cache of N blocks exactly if at most N different blocks were used since (Mattson et al., "Evaluation techniques
for storage hierarchies", IBM Systems Journal 1970). Blocks of one request leave the top of the stack in runs, so that
a Fenwick tree over requests, not over accesses, is enough.

Requests are served the moment they arrive and hold nothing while they run: what running requests take from the cache
is not simulated, so that a cache is as good here as it can be. Output is not cached.
"""

import hashlib
import math
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from optiinfra.domain.units import Ratio

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]

NEVER: Final = np.iinfo(np.int64).max
"""Distance of a block that was not used before: no cache holds it."""
HASHED_BLOCKS: Final = 2
"""Blocks that a prefix hash looks at: the first one is often a system prompt that all share."""
LOAD_WEIGHT: Final = 0.1
"""What an excess load of 100 % costs a replica, in shares of the prompt that it holds."""


@dataclass(frozen=True, slots=True)
class PrefixRequest:
    """One request: when it came, and its prompt as identities of consecutive blocks."""

    time: float
    """Seconds."""
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Accesses:
    """Every block access of a replay, in order; all arrays have its length."""

    request: IntArray
    """Index of the request."""
    time: FloatArray
    """Seconds."""
    distance: IntArray
    """Different blocks used since the block's last use, itself included; `NEVER` for a first use."""
    age: FloatArray
    """Seconds since the block's last use; infinite for a first use."""

    @property
    def distinct(self) -> int:
        """How many different blocks there are."""
        return int(np.count_nonzero(self.distance == NEVER))

    def hit_ratios(self, sizes: Sequence[int]) -> tuple[float, ...]:
        """Return the share of accesses that hit in one LRU of each size; nan-free, 0 where there was no access."""
        if not len(self.distance):
            return tuple(0.0 for _ in sizes)
        ordered = np.sort(self.distance)
        return tuple(float(np.searchsorted(ordered, size, side="right")) / len(ordered) for size in sizes)

    @property
    def reusable(self) -> float:
        """The hit ratio of an infinite cache."""
        return 1.0 - self.distinct / len(self.distance) if len(self.distance) else 0.0


class Routing(StrEnum):
    """How requests find a replica."""

    ROUND_ROBIN = "RoundRobin"
    PREFIX_HASH = "PrefixHash"
    """By a hash of the first `HASHED_BLOCKS` blocks."""
    PREFIX_SCORE = "PrefixScore"
    """To the replica with the highest share of the prompt in its cache, less `LOAD_WEIGHT` x its excess load."""


@dataclass(frozen=True, slots=True)
class Routed:
    """What one routing came to."""

    routing: Routing
    hit_ratio: Ratio
    imbalance: float
    """Blocks of the most loaded replica over the mean; 1 is even."""


class Chains:
    """Names a block by the path that leads to it, so that equal identities behind different prefixes differ."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], int] = {}

    def of(self, blocks: Sequence[int]) -> list[int]:
        """Return the names of a prompt's blocks, front first."""
        parent, chain = -1, []
        known = self._known
        for block in blocks:
            parent = known.setdefault((parent, block), len(known))
            chain.append(parent)
        return chain


def accesses(requests: Sequence[PrefixRequest]) -> Accesses:
    """Return the stack distance of every block access, in one pass."""
    chains, last = Chains(), dict[int, int]()
    alive = [0] * (len(requests) + 1)  # Fenwick: blocks whose last use was by the request of this index
    total = 0
    out_request, out_distance, out_age = array("q"), array("q"), array("d")
    for index, one in enumerate(requests):
        chain = chains.of(one.blocks)
        known = 0
        while known < len(chain) and chain[known] in last:
            # What an earlier request was the last to use is the end of its chain: it comes back from its front, as one
            # run. Whatever lies before the run in this chain was used later than the run, and counts as newer.
            earlier, start = last[chain[known]], known
            newer = total - _sum(alive, earlier)
            while known < len(chain) and last.get(chain[known]) == earlier:
                last[chain[known]] = index
                known += 1
            out_distance.extend(range(newer + start + 1, newer + known + 1))
            out_age.extend([one.time - requests[earlier].time] * (known - start))
            _add(alive, earlier, start - known)
            total -= known - start
        for each in chain[known:]:
            last[each] = index
            out_distance.append(int(NEVER))
            out_age.append(math.inf)
        out_request.extend([index] * len(chain))
        _add(alive, index, len(chain))
        total += len(chain)
    request = np.frombuffer(out_request, dtype=np.int64) if out_request else np.zeros(0, dtype=np.int64)
    times = np.array([one.time for one in requests], dtype=np.float64)
    return Accesses(
        request=request,
        time=times[request],
        distance=np.frombuffer(out_distance, dtype=np.int64) if out_distance else np.zeros(0, dtype=np.int64),
        age=np.frombuffer(out_age, dtype=np.float64) if out_age else np.zeros(0, dtype=np.float64),
    )


def route(requests: Sequence[PrefixRequest], *, routing: Routing, replicas: int, blocks: int) -> Routed:
    """Return the hit ratio of several replicas with a cache of `blocks` each.

    Load is counted in blocks since the beginning; the excess load of a replica is its load over the mean, less one.
    """
    if replicas < 1 or blocks < 1:
        raise ValueError(f"at least one replica with one block, got {replicas} with {blocks}")
    chains, caches = Chains(), [_Cache(blocks) for _ in range(replicas)]
    loads, hits, total = [0] * replicas, 0, 0
    for index, one in enumerate(requests):
        chain = chains.of(one.blocks)
        if routing is Routing.ROUND_ROBIN:
            chosen = index % replicas
        elif routing is Routing.PREFIX_HASH:
            chosen = _hash(one.blocks[:HASHED_BLOCKS]) % replicas
        else:
            chosen = _best(chain, caches, loads, total / replicas)
        hits += caches[chosen].matched(chain)
        caches[chosen].use(chain)
        loads[chosen] += len(chain)
        total += len(chain)
    return Routed(
        routing=routing,
        hit_ratio=Ratio(hits / total if total else 0.0),
        imbalance=max(loads) * replicas / total if total else 1.0,
    )


class _Cache:
    """One replica's LRU of blocks."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: OrderedDict[int, None] = OrderedDict()

    def matched(self, chain: Sequence[int]) -> int:
        """Return how many blocks from the front are held."""
        held = self._held
        for count, each in enumerate(chain):
            if each not in held:
                return count
        return len(chain)

    def use(self, chain: Sequence[int]) -> None:
        """Put a prompt's blocks on top, its front last; what no longer fits falls out below."""
        held = self._held
        for each in reversed(chain):
            held[each] = None
            held.move_to_end(each)
        while len(held) > self._size:
            held.popitem(last=False)


def _best(chain: Sequence[int], caches: Sequence[_Cache], loads: Sequence[int], mean: float) -> int:
    def score(replica: int) -> float:
        excess = loads[replica] / mean - 1.0 if mean > 0.0 else 0.0
        return caches[replica].matched(chain) / max(len(chain), 1) - LOAD_WEIGHT * excess

    return max(range(len(caches)), key=score)


def _hash(blocks: Sequence[int]) -> int:
    data = b"".join(block.to_bytes(16, "little", signed=True) for block in blocks)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _sum(tree: Sequence[int], index: int) -> int:
    """Return the sum up to and with an index."""
    total, index = 0, index + 1
    while index > 0:
        total += tree[index]
        index &= index - 1
    return total


def _add(tree: list[int], index: int, amount: int) -> None:
    index += 1
    while index < len(tree):
        tree[index] += amount
        index += index & -index
