"""How a router in front of several replicas chooses one for a request.

It knows what a real one knows: which replicas serve, how many requests it has sent to each that are unanswered, and
where it sent which prompts before. It cannot look into an engine's cache. Prefix-aware routing scores a replica by the
share of the prompt's blocks last sent there, less 0.1 for every outstanding request above the fewest, which keeps the
hit ratio of prefix hashing without its imbalance. Prompts that do not say what they consist of are never alike.
"""

import enum
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from optiinfra_sim.blocks import block_keys
from optiinfra_sim.errors import EngineError
from optiinfra_sim.request import Request

LOAD_PENALTY = 0.1
MAX_REMEMBERED_BLOCKS = 200_000


class Routing(enum.StrEnum):
    """The ways to choose."""

    LEAST_LOADED = "least-loaded"
    """The fewest outstanding requests; the oldest replica among equals."""
    ROUND_ROBIN = "round-robin"
    PREFIX_AWARE = "prefix-aware"
    PREFIX_HASH = "prefix-hash"
    """By the first thing that a prompt consists of, whatever the load: what session affinity does."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A serving replica and the requests that it still owes an answer."""

    name: str
    outstanding: int


@dataclass(slots=True)
class Router:
    """One router and what it remembers."""

    routing: Routing
    block_size: int
    _turn: int = 0
    _sent: OrderedDict[int, str] = field(default_factory=OrderedDict)
    _owned: dict[str, int] = field(default_factory=dict)
    """Remembered blocks by replica."""

    def choose(self, request: Request, candidates: Sequence[Candidate]) -> str:
        """The replica that gets the request; there must be one."""
        if not candidates:
            raise EngineError("no replica to route to")
        if self.routing is Routing.ROUND_ROBIN:
            self._turn += 1
            return candidates[(self._turn - 1) % len(candidates)].name
        if self.routing is Routing.PREFIX_HASH and request.content:
            return candidates[request.content[0][0] % len(candidates)].name
        if self.routing is Routing.PREFIX_AWARE and request.content:
            return self._by_prefix(request, candidates)
        return min(candidates, key=lambda one: one.outstanding).name

    def _by_prefix(self, request: Request, candidates: Sequence[Candidate]) -> str:
        keys = block_keys(request.content, tokens=request.prompt, block_size=self.block_size)
        known: dict[str, int] = {}
        for key in keys:
            owner = self._sent.get(key)
            if owner is not None:
                known[owner] = known.get(owner, 0) + 1
        fewest = min(one.outstanding for one in candidates)
        blocks = max(1, len(keys))

        def score(one: Candidate) -> float:
            return known.get(one.name, 0) / blocks - LOAD_PENALTY * (one.outstanding - fewest)

        # Among equals the one with the fewest prefixes: else an idle fleet would send all of them to its first replica.
        chosen = max(candidates, key=lambda one: (score(one), -one.outstanding, -self._owned.get(one.name, 0))).name
        for key in keys:
            self._forget(self._sent.pop(key, None))
            self._sent[key] = chosen
        self._owned[chosen] = self._owned.get(chosen, 0) + len(keys)
        while len(self._sent) > MAX_REMEMBERED_BLOCKS:
            self._forget(self._sent.popitem(last=False)[1])
        return chosen

    def _forget(self, owner: str | None) -> None:
        if owner is not None:
            self._owned[owner] -= 1
