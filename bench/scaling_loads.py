"""Loads made up from a seed, so that the scaling bench runs where no trace is: a day's wave, jumps, bursts, an outage.

They are not traces and claim nothing about real services; they only show when a change makes a figure worse.
"""

import numpy as np

from bench.traces import Trace
from optiinfra.domain.replay.fluid import STEP_S, FloatArray

DAYS = 1.5
SEED = 20261121
_DAY_STEPS = round(86_400 / STEP_S)


def made_up() -> list[Trace]:
    """The four loads, always the same."""
    draw = np.random.default_rng(SEED)
    steps = round(DAYS * _DAY_STEPS)
    time = np.arange(steps) / _DAY_STEPS
    wave = 8.0 + 5.0 * np.sin(2.0 * np.pi * time) + 1.5 * np.sin(8.0 * np.pi * time)
    return [
        Trace("wave", wave * _smooth(draw.normal(1.0, 0.15, steps), 12)),
        Trace("jumps", np.repeat(draw.uniform(4.0, 12.0, steps // 360 + 1), 360)[:steps]),
        Trace("bursts", np.maximum(wave * 0.7, 0.5) + _bursts(draw, steps)),
        Trace("outage", np.where((time > 0.6) & (time < 0.66), 0.0, 8.0 + np.sin(40.0 * time))),
    ]


def _smooth(values: FloatArray, width: int) -> FloatArray:
    smoothed: FloatArray = np.convolve(values, np.full(width, 1.0 / width), "same")
    return smoothed


def _bursts(draw: np.random.Generator, steps: int) -> FloatArray:
    extra = np.zeros(steps)
    for start in draw.integers(0, steps, 60):
        length = int(draw.integers(12, 120))
        extra[start : start + length] += draw.uniform(1.0, 6.0)
    return extra
