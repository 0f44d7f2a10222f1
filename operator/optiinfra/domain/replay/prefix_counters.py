"""What an engine with a prefix cache would have counted on a trace: the input of a prediction, in order to judge it.

The counters are those that vLLM publishes: tokens looked up and hit by scrape, and, for a sample of blocks, how long
evicted ones had been idle and the gaps between their uses. As there, a block reports when it is evicted and not
before, from its last four uses, its first one not among them. Nothing of the trace but these counters comes out.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from optiinfra.domain.prefix_reuse import ReuseHistory, ReuseWindow
from optiinfra.domain.readings import Histogram
from optiinfra.domain.replay.prefix_cache import Chains, PrefixRequest

SCRAPE_S: Final = 15.0
SAMPLED: Final = 0.01
"""Share of the blocks that are followed: vLLM's own default (--kv-cache-metrics-sample)."""
USES_KEPT: Final = 4
BOUNDS: Final = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0,
    1200.0, 1800.0, math.inf,
)  # fmt: skip


def observe(
    requests: Sequence[PrefixRequest],
    *,
    blocks: int,
    block_tokens: int,
    scrape: float = SCRAPE_S,
    sampled: float = SAMPLED,
    seed: int = 0,
) -> ReuseHistory:
    """Replay a trace against a cache of `blocks` that is empty at its first request, and return the counters."""
    draw, chains = np.random.default_rng(seed), Chains()
    held: OrderedDict[int, None] = OrderedDict()
    followed: dict[int, list[float]] = {}
    queried, hit = Counter[int](), Counter[int]()
    gaps: list[float] = []
    idle: list[float] = []
    start = requests[0].time if requests else 0.0
    for one in requests:
        chain = chains.of(one.blocks)
        known = next((count for count, each in enumerate(chain) if each not in held), len(chain))
        window = int((one.time - start) // scrape)
        queried[window] += len(chain)
        hit[window] += known
        for each in chain[:known]:
            if each in followed:
                followed[each].append(one.time)
        # A block that was thrown out and comes back is a new one.
        for each, chosen in zip(chain[known:], draw.random(len(chain) - known) < sampled, strict=True):
            if chosen:
                followed[each] = [one.time]
        for each in reversed(chain):
            held[each] = None
            held.move_to_end(each)
        while len(held) > blocks:
            gone, _ = held.popitem(last=False)
            uses = followed.pop(gone, None)
            if uses is not None:
                idle.append(one.time - uses[-1])
                gaps += [later - earlier for earlier, later in pairwise(uses[1:][-USES_KEPT:])]
    windows = tuple(
        ReuseWindow(
            start + index * scrape,
            start + (index + 1) * scrape,
            float(queried[index] * block_tokens),
            float(hit[index] * block_tokens),
        )
        for index in range(max(queried, default=-1) + 1)
    )
    return ReuseHistory(windows, float(blocks * block_tokens), start, _histogram(gaps), _histogram(idle))


def _histogram(values: Sequence[float]) -> Histogram | None:
    if not values:
        return None
    ordered = np.sort(np.array(values))
    cumulative = tuple(float(np.searchsorted(ordered, bound, side="right")) for bound in BOUNDS)
    return Histogram(BOUNDS, cumulative, float(ordered.sum()), float(len(ordered)))
