"""The faults, and the rules that say when one happens: which calls, after how many, how often, how likely.

A rule is asked for every call in the order of the list, and the first that hits decides. Chance comes from the rule's
own seed, so that a run can be repeated as far as the operator repeats its calls.
"""

import random
import threading
from dataclasses import dataclass, field
from typing import TypeAlias

from hack.fault_proxy.calls import Call


@dataclass(frozen=True, slots=True)
class Crash:
    """The operator dies (SIGKILL) before the call reaches the server, or after the server did it."""

    after: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """The server answers this code and does nothing."""

    code: int
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Unheard:
    """The server does what was asked, but its answer is lost: an error code comes instead, or with 0 nothing at all."""

    code: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection is reset before the call reaches the server, or after the server did it."""

    after: bool = False


@dataclass(frozen=True, slots=True)
class Hang:
    """The call is accepted and never answered, and the connection stays open."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The call is kept by the network until `FaultProxy.let_go`, and only then reaches the server."""


@dataclass(frozen=True, slots=True)
class Slow:
    """The answer takes so many seconds longer."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Stale:
    """A read is answered from what the server said at least so many seconds ago; without such a memory it passes."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WatchDropped:
    """Events of a watch are lost, each with this chance; the gap ends with 410 when the faults stop."""

    share: float = 1.0


@dataclass(frozen=True, slots=True)
class WatchMerged:
    """Events of a watch come late, and of several about one object only the last comes."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WatchDelayed:
    """Events of a watch come so many seconds late."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WatchGone:
    """A watch answers 410 Gone as its first event."""


@dataclass(frozen=True, slots=True)
class WatchSilent:
    """A watch is half-open: it says nothing any more, not even bookmarks, and is never ended, also after the faults."""


WatchFault: TypeAlias = WatchDropped | WatchMerged | WatchDelayed | WatchGone | WatchSilent
Fault: TypeAlias = Crash | Refuse | Unheard | Cut | Hang | Hold | Slow | Stale | WatchFault


@dataclass(frozen=True, slots=True)
class Match:
    """Which calls; what is empty matches all. Leases only where `resources` names them."""

    verbs: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    writes: bool = False
    """Only calls that change something."""

    def __call__(self, call: Call) -> bool:
        """Tell whether a call is meant."""
        if call.resource == "leases" and "leases" not in self.resources:
            return False
        return (
            (not self.verbs or call.verb in self.verbs)
            and (not self.resources or call.resource in self.resources)
            and (not self.namespaces or call.namespace in self.namespaces)
            and (call.write or not self.writes)
        )


@dataclass(slots=True)
class Rule:
    """When one fault happens. `skip` calls pass first, then at most `times` are hit (None: all)."""

    fault: Fault
    match: Match = field(default_factory=Match)
    skip: int = 0
    times: int | None = None
    chance: float = 1.0
    seed: int = 0
    seen: int = 0
    hits: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        """Seed its chance."""
        self._random = random.Random(self.seed)  # noqa: S311  repeatable chance, not a secret

    def takes(self, call: Call) -> bool:
        """Tell whether this call is hit, and count it."""
        if not self.match(call) or not self._fits(call):
            return False
        with self._lock:
            if self.times is not None and self.hits >= self.times:
                return False
            self.seen += 1
            if self.seen <= self.skip or (self.chance < 1.0 and self._random.random() >= self.chance):
                return False
            self.hits += 1
            return True

    def _fits(self, call: Call) -> bool:
        if call.verb == "watch":  # else a rule about calls would hit the streams that live beside them
            return isinstance(self.fault, WatchFault) or "watch" in self.match.verbs
        return not isinstance(self.fault, WatchFault)

    @property
    def name(self) -> str:
        """Name the fault for the count of faults."""
        return name_of(self.fault)


def name_of(fault: Fault) -> str:
    """Name a fault as tables do."""
    names: dict[type, str] = {
        Hang: "never answered",
        Hold: "held by the network",
        Slow: "slow answer",
        Stale: "stale read",
        WatchDropped: "watch with lost events",
        WatchMerged: "watch with merged events",
        WatchDelayed: "watch with late events",
        WatchGone: "watch answered 410",
        WatchSilent: "watch half-open",
    }
    match fault:
        case Crash(after):
            return f"crash {'after' if after else 'before'} a write"
        case Cut(after):
            return f"connection reset {'after' if after else 'before'} the call"
        case Refuse(code):
            return f"{code} answered"
        case Unheard(code):
            return f"done, but {code} answered" if code else "done, but never answered"
        case _:
            return names[type(fault)]
