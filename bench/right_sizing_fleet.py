"""What right-sizing costs for a large fleet: a sample for every container and an estimate of all, and a checkpoint.

Histories are made up and full: five weeks of five-minute samples, so that no bucket that use reaches is empty.
"""

import time
from dataclasses import dataclass

import numpy as np

from optiinfra.domain.right_sizing import ContainerUsage, UsageHistory, estimate, remember
from optiinfra.domain.units import UnixTime

DAY = 86_400.0
DAYS = 35
SAMPLES = 288


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds and bytes."""

    containers: int
    update_s: float
    estimate_s: float
    checkpoint_bytes: int
    """Largest of all."""
    worst_checkpoint_bytes: int
    """Of a container whose use takes every value there is."""


def cost(containers: int, *, different: int = 100) -> Cost:
    """Measure; `different` histories are made and copied through their checkpoints."""
    draw = np.random.default_rng(1)
    saved = [_history(draw).to_bytes() for _ in range(different)]
    histories = [UsageHistory.from_bytes(saved[row % different]) for row in range(containers)]
    now = UnixTime(DAYS * DAY)
    samples = [ContainerUsage(now, float(cpu), float(cpu) * 1e9) for cpu in draw.uniform(0.1, 4.0, containers)]
    began = time.process_time()
    for history, sample in zip(histories, samples, strict=True):
        history.observe(sample)
    updated = time.process_time()
    for history, one in zip(histories, estimate(histories, now=now), strict=True):
        remember(history, one, now=now)
    done = time.process_time()
    largest = max(len(history.to_bytes()) for history in histories[:different])
    return Cost(containers, updated - began, done - updated, largest, len(_everything(draw).to_bytes()))


def _history(draw: np.random.Generator) -> UsageHistory:
    history = UsageHistory()
    time_s = np.arange(DAYS * SAMPLES, dtype=np.float64) * (DAY / SAMPLES)
    level = np.exp(draw.normal(0.0, 1.0))
    cpu = level * np.exp(draw.normal(0.0, draw.uniform(0.1, 1.0), len(time_s)))
    history.observe_many(time_s, cpu, level * 2e9 * np.exp(draw.normal(0.0, 0.2, len(time_s))))
    return history


def _everything(draw: np.random.Generator) -> UsageHistory:
    history = UsageHistory()
    time_s = np.arange(70 * SAMPLES, dtype=np.float64) * (DAY / SAMPLES)
    cpu = np.exp(draw.uniform(np.log(1e-4), np.log(1e3), len(time_s)))
    history.observe_many(time_s, cpu, np.exp(draw.uniform(0.0, np.log(1e15), len(time_s))))
    return history
