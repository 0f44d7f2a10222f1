"""What one replica serves, learned from the whole window by the rules that the operator uses from tick to tick.

Measured, where requests waited all through enough steps: then what each replica served is what it can. Else estimated
by the share of its batch and KV cache that was in use (`replica_capacity.used_share`), with step times where the fit
of `pace` identifies them. Else only the most that was seen is known: then every rule of a replay runs more than it
needs, and savings come out too small rather than too large. No number is made from a GPU's name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain.clues import PASSING_SHARE
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.pace import Pace, PaceHistory
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.replica_capacity import Basis, prompts_per_token, used_share
from optiinfra.domain.replica_load import USABLE_SHARE, LoadSample
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import ModelHistory
from optiinfra.domain.report.hours import Hour
from optiinfra.domain.units import Ratio

AT_LEAST: Final = "AtLeast"
LEAST_SATURATED: Final = 3
"""Steps in which requests waited throughout, from which a capacity counts as measured."""
LEAST_WORK: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica of a model serves."""

    work: float
    """Work per second (prompt tokens + 4 x generated ones) at the objective."""
    basis: str
    """Measured, StepTimes, Occupancy, or AtLeast."""
    confidence: Ratio


def capacity_of(
    model: ModelHistory, hours: Sequence[Hour], *, settings: EngineSettings, objectives: Objectives
) -> Capacity | Unknown:
    """Return the best that the window tells; Unknown where no work of it was measured at all."""
    work, replicas = model.load.work, model.serving
    if isinstance(work, Unknown):
        return work
    if isinstance(replicas, Unknown):
        return replicas
    with np.errstate(invalid="ignore", divide="ignore"):
        each: FloatArray = np.where(replicas >= 1.0, work / replicas, np.nan)
    known = np.isfinite(each) & (each > LEAST_WORK)
    if not known.any():
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "it served nothing in the whole window")
    # One odd step is not what a replica can do again and again.
    proven = float(np.quantile(each[known], 0.99))
    saturated = known & _waited(model)
    if int(saturated.sum()) >= LEAST_SATURATED:
        return Capacity(max(float(each[saturated].mean()), LEAST_WORK), str(Basis.MEASURED), Ratio(0.95))
    estimated, paced = _estimated(hours, settings=settings, objectives=objectives)
    if isinstance(estimated, Unknown):
        return Capacity(proven, AT_LEAST, Ratio(0.5))
    basis = Basis.STEP_TIMES if paced else Basis.OCCUPANCY
    return Capacity(max(estimated, proven), str(basis), Ratio(0.8 if paced else 0.6))


def pace_of(hours: Sequence[Hour]) -> Pace:
    """Fit how a step grows with its batch on the windows."""
    history = PaceHistory()
    for hour in hours:
        history.observe(hour.signals)
    return history.fit()


def _waited(model: ModelHistory) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return the steps in which requests waited throughout, as far as means of steps can tell: before and after too."""
    waiting, running = model.load.waiting, model.load.running
    points = 0 if isinstance(model.serving, Unknown) else len(model.serving)
    if isinstance(waiting, Unknown):
        return np.zeros(points, dtype=np.bool_)
    busy = np.zeros(points) if isinstance(running, Unknown) else np.nan_to_num(running)
    with np.errstate(invalid="ignore"):
        here = waiting >= np.maximum(1.0, 2.0 * PASSING_SHARE * busy)
    around = here.copy()
    around[1:] &= here[:-1]
    around[:-1] &= here[1:]
    return around


def _estimated(hours: Sequence[Hour], *, settings: EngineSettings, objectives: Objectives) -> tuple[Value, bool]:
    """Return rate over share in use, busy hours weighing more; and whether step times told it."""
    pace = pace_of(hours)
    rates = uses = paced_uses = 0.0
    for hour in hours:
        signals = hour.signals
        served = signals.work_rate
        if isinstance(served, Unknown) or served <= LEAST_WORK:
            continue
        one = LoadSample(
            time=signals.time,
            reporting=signals.replicas_reporting,
            expected=signals.replicas_expected,
            running=signals.running_mean
            if isinstance(signals.running_mean, Unknown)
            else signals.running_mean * signals.replicas_reporting,
            waiting=signals.waiting,
            served=served,
            finished=signals.request_rate,
            arrived=signals.request_rate,
            kv_cache=signals.kv_cache_usage_mean,
        )
        use, paced = used_share(one, settings, pace=pace, objectives=objectives, prompts=prompts_per_token(signals))
        if isinstance(use, Unknown):
            continue
        rates += served / signals.replicas_reporting * (1.0 if paced else USABLE_SHARE)
        uses += use
        paced_uses += use if paced else 0.0
    if uses <= 0.0:
        text = "neither batches nor KV caches were used enough to tell what one replica could serve"
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, text), False
    return rates / uses, paced_uses >= uses / 2.0
