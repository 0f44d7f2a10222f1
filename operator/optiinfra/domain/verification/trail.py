"""What a workload's signals were, window by window: the measurements that actions are judged by.

The windows of a trail do not overlap, so that each is a new witness; how alike neighbours still are is for `shift` to
estimate. Bounded to what one judgement can use. It holds no load history (`history` does) and judges nothing.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.signals import GENERATION_WEIGHT, ServiceSignals
from optiinfra.domain.units import Seconds, UnixTime

MOST_BLOCKS: Final = 24
"""Windows kept: with the usual minute each, what came before an action and a long verify window after it."""
OVERLAP: Final = 0.1
"""Share of a window that may lie in the one before it: rounds do not end on the second."""


@dataclass(frozen=True, slots=True)
class Block:
    """What was measured of one workload in one window."""

    time: UnixTime
    """End of the window."""
    span: Seconds
    replicas: int
    """Replicas that were ready."""
    reporting: int
    """Replicas whose engines were heard."""
    time_to_first_token: Value
    """p95, seconds, as the two below."""
    inter_token_latency: Value
    queue_time: Value
    waiting: Value
    """Requests that were not scheduled at the end of the window, all replicas."""
    preemptions: Value
    """Per second, all replicas."""
    arrivals: Value
    """Requests that came in per second, all replicas. What comes in does not depend on how well it is served."""
    request_work: Value
    """Tokens of one request: prompt + 4 x generated, mean of those that finished."""

    @property
    def start(self) -> UnixTime:
        """Begin of the window."""
        return UnixTime(self.time - self.span)

    @property
    def demand(self) -> Value:
        """Tokens per second that were asked for; requests per second where their length is not known."""
        if isinstance(self.arrivals, Unknown) or isinstance(self.request_work, Unknown):
            return self.arrivals
        return self.arrivals * self.request_work


def block_of(signals: ServiceSignals, *, replicas: int) -> Block:
    """Take what is judged from a window's signals. A rate that is not known is not known here either."""
    return Block(
        time=signals.time,
        span=signals.window,
        replicas=replicas,
        reporting=signals.replicas_reporting,
        time_to_first_token=signals.time_to_first_token_p95,
        inter_token_latency=signals.inter_token_latency_p95,
        queue_time=signals.queue_time_p95,
        waiting=signals.waiting,
        preemptions=signals.preemption_rate,
        arrivals=signals.arrival_rate,
        request_work=_request_work(signals),
    )


def _request_work(signals: ServiceSignals) -> Value:
    prompt, generated = signals.prompt_tokens_mean, signals.generation_tokens_mean
    if isinstance(prompt, Unknown) or isinstance(generated, Unknown):
        return Unknown(UnknownReason.NOT_MEASURED, "the length of requests is not known")
    return prompt + GENERATION_WEIGHT * generated


@dataclass(slots=True)
class Trail:
    """The last windows of one workload, oldest first."""

    _blocks: deque[Block] = field(default_factory=lambda: deque(maxlen=MOST_BLOCKS))

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks)

    def observe(self, signals: ServiceSignals, *, replicas: int) -> bool:
        """Note a window if it is a new one; tells whether it was. A clock that was set back begins anew."""
        if signals.window <= 0.0 or signals.replicas_reporting <= 0:
            return False
        last = self._blocks[-1] if self._blocks else None
        if last is not None and signals.time < last.time:
            self._blocks.clear()
            last = None
        if last is not None and signals.time - signals.window < last.time - OVERLAP * signals.window:
            return False
        self._blocks.append(block_of(signals, replicas=replicas))
        return True

    def before(self, moment: UnixTime, *, replicas: int) -> tuple[Block, ...]:
        """Return the windows that ended by a moment and in which so many replicas were ready without a break."""
        kept: list[Block] = []
        for block in reversed(self._blocks):
            if block.time > moment:
                continue
            if block.replicas != replicas:
                # The window in which the count changed ended with this one, and began with another.
                del kept[-1:]
                break
            kept.append(block)
        return tuple(reversed(kept))

    def after(self, moment: UnixTime) -> tuple[Block, ...]:
        """Return the windows that lie wholly after a moment."""
        return tuple(block for block in self._blocks if block.start >= moment - OVERLAP * block.span)
