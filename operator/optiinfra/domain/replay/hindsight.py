"""Plans that know the future: what no rule can reach, and what a fixed number costs. Yardsticks, never advice.

The known-future plan asks for a centred moving average times (1 + h), rounded up, early enough for every replica to be
ready; a gap shorter than a start-up is bridged because the replicas of its far side are already asked for. The cheapest
of a grid of widths and margins that keeps the late share is the plan. The static peak is the smallest fixed number.
"""

from typing import Final

import numpy as np

from optiinfra.domain.replay.fluid import STEP_S, STEPS_PER_SYNC, SYNC_S, FloatArray, IntArray, View

WIDTHS_S: Final = (60.0, 180.0, 600.0)
MARGINS: Final = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0)


class Plan:
    """Orders that are known from the beginning; (runs, syncs)."""

    def __init__(self, asked: IntArray) -> None:
        self._asked = asked

    def __call__(self, view: View) -> IntArray:
        """Ask for what is written."""
        return self._asked[:, view.sync]


def known_future(load: FloatArray, *, start_up_s: float, width_s: float, margin: float) -> IntArray:
    """(runs, syncs): what to ask for so that the moving average times (1 + margin) is always ready."""
    half = max(1, round(width_s / STEP_S / 2))
    steps = load.shape[1]
    summed = np.concatenate([np.zeros((len(load), 1)), np.cumsum(load, axis=1)], axis=1)
    first, last = np.maximum(np.arange(steps) - half, 0), np.minimum(np.arange(steps) + half, steps)
    average = (summed[:, last] - summed[:, first]) / (last - first)
    short = -steps % STEPS_PER_SYNC
    padded = np.pad(average, ((0, 0), (0, short)), mode="edge")
    per_sync = padded.reshape(len(load), -1, STEPS_PER_SYNC).max(axis=2)
    need = np.ceil(per_sync * (1.0 + margin) - 1e-9)
    ahead = int(np.ceil(start_up_s / SYNC_S - 1e-9)) + 1
    future = np.pad(need, ((0, 0), (0, ahead - 1)), mode="edge")
    asked: IntArray = np.lib.stride_tricks.sliding_window_view(future, ahead, axis=1).max(axis=2).astype(np.int64)
    return np.maximum(asked, 1)


def static(load: FloatArray, *, replicas: IntArray) -> IntArray:
    """(runs, syncs): a fixed number for each run."""
    syncs = -(-load.shape[1] // STEPS_PER_SYNC)
    return np.repeat(replicas[:, None], syncs, axis=1)
