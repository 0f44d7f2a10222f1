"""The operator's own right-sizing over recorded use: a decision a day for every container, from what came before it.

At each midnight everything older is in the histories, nothing newer; the containers that still run are decided
together, as the operator does it. A day whose memory peak exceeds the request is a kill that the next decision knows
of. It decides nothing by itself: `optiinfra.domain.right_sizing` does.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from optiinfra.domain.histogram import DAY
from optiinfra.domain.readings import Unknown
from optiinfra.domain.replay.usage import Requests, Usage
from optiinfra.domain.right_sizing import (
    SizingPolicy,
    SizingReason,
    UsageHistory,
    estimate,
    remember,
)
from optiinfra.domain.units import Bytes, UnixTime


@dataclass(frozen=True, slots=True)
class Sized:
    """What was decided; one `Requests` a container, in their order."""

    requests: tuple[Requests, ...]
    cpu_reasons: Counter[SizingReason] = field(default_factory=Counter)
    memory_reasons: Counter[SizingReason] = field(default_factory=Counter)
    stated_over_time: float = 0.0
    """Mean of the stated probabilities, to be held against the figures."""
    stated_exceedance: float = 0.0


def size(
    usages: Sequence[Usage],
    *,
    policy: SizingPolicy | None = None,
    on_day: Callable[[int], None] = lambda _: None,
) -> Sized:
    """Decide at every midnight of every container; `on_day` hears of each decision day that is done."""
    at = [usage.midnights() for usage in usages]
    cpu, memory = ([np.full(len(moments), np.nan) for moments in at] for _ in range(2))
    histories = [UsageHistory() for _ in usages]
    read = [0] * len(usages)
    reasons: tuple[Counter[SizingReason], Counter[SizingReason]] = (Counter(), Counter())
    stated: tuple[list[float], list[float]] = ([], [])
    days = np.unique(np.concatenate(at)) if at else np.zeros(0)
    for count, now in enumerate(days.tolist()):
        running = [row for row, moments in enumerate(at) if len(moments) and moments[0] <= now <= moments[-1]]
        for row in running:
            before = memory[row][max(0, round((now - at[row][0]) / DAY) - 1)]
            read[row] = _live(histories[row], usages[row], begin=read[row], now=now, request=float(before))
        estimates = estimate([histories[row] for row in running], now=UnixTime(now), policy=policy)
        for row, one in zip(running, estimates, strict=True):
            index = round((now - at[row][0]) / DAY)
            for side, (values, answer) in enumerate(((cpu, one.cpu), (memory, one.memory))):
                if not isinstance(answer, Unknown):
                    values[row][index] = answer.target
                    reasons[side][answer.reason] += 1
                    stated[side].append(answer.exceedance)
            remember(histories[row], one, now=UnixTime(now))
        on_day(count)
    requests = tuple(Requests(*three) for three in zip(at, cpu, memory, strict=True))
    return Sized(requests, *reasons, *(float(np.mean(values)) if values else 0.0 for values in stated))


def _live(history: UsageHistory, usage: Usage, *, begin: int, now: float, request: float) -> int:
    """Read the samples before `now` and note a kill where they exceed the request; returns where the next ones begin.

    A kill is noted at the request, not at the use that the file shows above it: that is what a cluster would know.
    """
    end = int(np.searchsorted(usage.time, now, side="left"))
    span = slice(begin, end)
    history.observe_many(usage.time[span], usage.cpu_cores[span], usage.memory_bytes[span])
    above = np.flatnonzero(usage.memory_bytes[span] > request)
    if len(above):
        history.observe_out_of_memory(time=UnixTime(float(usage.time[span][above[-1]])), used=Bytes(request))
    return end
