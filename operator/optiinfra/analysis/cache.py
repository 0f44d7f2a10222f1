"""Answers already paid for: a bounded LRU with a time to live, keyed by what was asked, of whom, in which schema.

Numbers enter a prompt with three significant digits, so a service that has not changed asks the identical question and
costs no call. Only answers whose ids were checked are kept. Pure: the time is an argument.
"""

from collections import OrderedDict
from dataclasses import dataclass

from optiinfra.analysis.advice import Advice


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Identity of a question."""

    prompt_hash: str
    model: str
    schema_version: str


class AdviceCache:
    """At most `size` answers, none older than `time_to_live` seconds."""

    def __init__(self, *, size: int = 512, time_to_live: float = 6 * 3600.0) -> None:
        self._size = size
        self._time_to_live = time_to_live
        self._entries: OrderedDict[CacheKey, tuple[float, Advice]] = OrderedDict()

    def get(self, key: CacheKey, *, now: float) -> Advice | None:
        """Return the answer, or None when there is none that is fresh."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        stored, advice = entry
        if now - stored >= self._time_to_live:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return advice

    def put(self, key: CacheKey, advice: Advice, *, now: float) -> None:
        """Keep an answer; the one used least recently goes when there are too many."""
        self._entries[key] = (now, advice)
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)
