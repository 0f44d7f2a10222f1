"""What others do about idle GPUs, on the same samples: the rules that people run today, as plainly as they are stated.

Each takes a history and returns for every row whether it would call the GPU idle there. None of them sees the future.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from optiinfra.domain.idle.gaps import Flags, Floats
from optiinfra.domain.idle.replay import History, idle_codes, replay

MINUTE: Final = 60.0
Rule = Callable[[History], Flags]


def _per_gpu(history: History, judge: Callable[[Floats, Floats], Flags], values: Floats) -> Flags:
    found = np.zeros(len(history.time), dtype=np.bool_)
    for gpu in range(len(history.gpus)):
        rows = history.rows(gpu)
        if rows.stop > rows.start:
            found[rows] = judge(history.time[rows], values[rows])
    return found


def quiet_for(seconds: float, *, above: float) -> Rule:
    """Idle once the maximum of a window is not above a value; what is not known does not count."""

    def judge(time: Floats, values: Floats) -> Flags:
        with np.errstate(invalid="ignore"):
            work = values > above
        last = np.maximum.accumulate(np.where(work, time, time[0]))
        idle: Flags = (time - last >= seconds) & ~work
        return idle

    return lambda history: _per_gpu(history, judge, history.duty)


def mean_below(seconds: float, *, below: float) -> Rule:
    """Idle once the mean of a window is below a value; what is not known counts as zero, as dashboards sum it."""

    def judge(time: Floats, values: Floats) -> Flags:
        total = np.concatenate([[0.0], np.cumsum(np.nan_to_num(values))])
        begin = np.searchsorted(time, time - seconds, side="left")
        end = np.arange(1, len(time) + 1)
        mean = (total[end] - total[begin]) / (end - begin)
        idle: Flags = (mean < below) & (time - time[0] >= seconds)
        return idle

    return lambda history: _per_gpu(history, judge, history.duty)


def ours(history: History) -> Flags:
    """The operator's verdict."""
    return idle_codes(replay(history).decisions.state)


RULES: Final[dict[str, Rule]] = {
    "OptiInfra": ours,
    "max <= 5 % for 10 min": quiet_for(10 * MINUTE, above=0.05),
    "max < 5 % for 15 min (all-smi)": quiet_for(15 * MINUTE, above=0.05),
    "max = 0 for 35 min (gpu-pruner)": quiet_for(35 * MINUTE, above=0.0),
    "util = 0 for 1 h (dcgm alerts)": quiet_for(60 * MINUTE, above=0.0),
    "mean < 5 % over 30 min": mean_below(30 * MINUTE, below=0.05),
}
