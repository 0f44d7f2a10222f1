"""Robusta KRR's strategies as a baseline: a percentile of CPU and the highest memory use, over the last fortnight.

Source: robusta-dev/krr 1.8, `robusta_krr/strategies/{simple,simple_limit}.py`, `robusta_krr/core/runner.py` (rounding,
least amounts) and `robusta_krr/core/models/config.py`, with the defaults of its command line. The samples of a replay
are taken for the points of its Prometheus query as they are; it asks for one in 75 s, and a Prometheus that scrapes
less often than that gives it nothing at all. A container is one pod here, so the maximum over pods is its own. It is a
yardstick: nothing in the operator decides with it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain.replay.usage import FloatArray, Requests, Usage, exceeded

HISTORY: Final = 336.0 * 3600.0
"""--history-duration, hours."""
POINTS_REQUIRED: Final = 100
LEAST_CORES: Final = 0.010
"""--cpu-min."""
LEAST_BYTES: Final = 100.0 * 1e6
"""--mem-min."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """Settings of one strategy; shares of one, not percents."""

    cpu_share: float = 0.95
    """Percentile of CPU, interpolated, for the request."""
    memory_buffer: float = 0.15
    out_of_memory_buffer: float | None = None
    """With --use-oomkill-data 0.25: on top of the limit at which the container was killed. None: kills are not seen."""


SIMPLE: Final = Strategy()
"""`krr simple`: no CPU limit; the memory limit is the request."""
SIMPLE_LIMIT: Final = Strategy(cpu_share=0.66)
"""`krr simple_limit`: its CPU limit would be the 96th percentile."""
SIMPLE_WITH_KILLS: Final = Strategy(out_of_memory_buffer=0.25)
"""`krr simple --use-oomkill-data`."""


def recommend(usage: Usage, *, at: FloatArray, strategy: Strategy = SIMPLE, initial_bytes: float = np.inf) -> Requests:
    """Recommend at each of `at` (growing), rounded up and not below the least amounts, as the command prints it.

    A strategy that sees kills takes each recommendation for the limit until the next one (`initial_bytes` before the
    first) and looks for the highest limit that was exceeded within its history.
    """
    cpu, memory = np.full(len(at), np.nan), np.full(len(at), np.nan)
    killed_at: list[tuple[float, float]] = []
    limit, previous = initial_bytes, -np.inf
    for decision, now in enumerate(at.tolist()):
        if strategy.out_of_memory_buffer is not None:
            kill = exceeded(usage, begin=previous, end=now, request=limit)
            killed_at += [(kill[0], limit)] if kill is not None else []
        killed = max((size for when, size in killed_at if when >= now - HISTORY), default=0.0)
        values = propose(usage, now=now, strategy=strategy, killed_bytes=killed)
        cpu[decision] = np.maximum(np.ceil(values[0] * 1e3) / 1e3, LEAST_CORES)
        memory[decision] = np.maximum(np.ceil(values[1] / 1e6) * 1e6, LEAST_BYTES)
        limit, previous = (limit if np.isnan(memory[decision]) else float(memory[decision])), now
    return Requests(at, cpu, memory)


def propose(usage: Usage, *, now: float, strategy: Strategy = SIMPLE, killed_bytes: float = 0.0) -> tuple[float, float]:
    """Return the strategy's own (CPU cores, memory bytes) from the samples before `now`; NaN with too few of them."""
    span = slice(*np.searchsorted(usage.time, [now - HISTORY, now], side="left"))
    cores, amounts = (values[span][np.isfinite(values[span])] for values in (usage.cpu_cores, usage.memory_bytes))
    cpu = float(np.percentile(cores, strategy.cpu_share * 100.0)) if len(cores) >= POINTS_REQUIRED else np.nan
    memory = np.nan
    if len(amounts) >= POINTS_REQUIRED:
        memory = float(amounts.max()) * (1.0 + strategy.memory_buffer)
        memory = max(memory, killed_bytes * (1.0 + (strategy.out_of_memory_buffer or 0.0)))
    return cpu, memory
