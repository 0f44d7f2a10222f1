"""Each model made ready for its judgments: its hours, settings, verdicts and capacity, and the case that is replayed.

A model is replayed when its load, its replicas and what a replica serves are known. A limit of its autoscaler holds
for the scaler that is replayed too; where there is none, it may run down to one replica and up to twice what was seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.pace import Pace
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.report.capacity import Capacity, capacity_of, pace_of
from optiinfra.domain.report.days import Days, chosen
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import FleetHistory, GpuHistory, ModelHistory
from optiinfra.domain.report.hours import Hour, hours_of, settings_of
from optiinfra.domain.report.limits import Judged, judged
from optiinfra.domain.report.options import Options
from optiinfra.domain.report.scaling import MOST_LOAD, Case, careful, offered
from optiinfra.domain.scaler.pipeline import MOST_REPLICAS

ROOM: Final = 2.0
"""How many times the most that ran a replay may go to, where no autoscaler sets a limit."""
HPA_DAYS: Final = 7.0
LEAST_HPA_DAYS: Final = 3.0
HPA_MODEL_DAYS: Final = 120.0
"""Days of all models together on which nine targets of a plain HPA are played: forty models for three days."""
NOT_REPLAYED: Final = Unknown(UnknownReason.NOT_MEASURED, "not replayed")


@dataclass(frozen=True, slots=True, eq=False)
class ModelCase:
    """One model, looked at."""

    model: ModelHistory
    gpus: tuple[GpuHistory, ...]
    hours: tuple[Hour, ...]
    settings: EngineSettings
    verdicts: tuple[Judged, ...]
    capacity: Capacity | Unknown
    pace: Pace
    case: Case | Unknown
    needed: FloatArray | Unknown
    """(points,) of the whole window: replicas that a careful operator keeps (`scaling.careful`)."""


def cases_of(history: FleetHistory, options: Options) -> tuple[tuple[ModelCase, ...], Days]:
    """Look at every model; return them, and the days that are replayed."""
    by_key = {gpu.key: gpu for gpu in history.gpus}
    seen = [_seen(history, model, by_key, options) for model in history.models]
    models = sum(not isinstance(one.load, Unknown) for one in seen)
    days = chosen(
        history.times,
        _busy(history, seen),
        step_s=history.step_s,
        models=models,
        newest_days=options.replay_days,
        lead_days=options.lead_days,
    )
    return tuple(_case(history, one, options, days=days, models=models) for one in seen), days


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """A model before its days are chosen."""

    model: ModelHistory
    gpus: tuple[GpuHistory, ...]
    hours: tuple[Hour, ...]
    settings: EngineSettings
    capacity: Capacity | Unknown
    load: FloatArray | Unknown
    """(points,) in replicas."""


def _seen(history: FleetHistory, model: ModelHistory, by_key: Mapping[str, GpuHistory], options: Options) -> _Seen:
    gpus = tuple(by_key[key] for key in model.gpus if key in by_key)
    settings = settings_of(model)
    hours = hours_of(model, gpus, history.times, step_s=history.step_s)
    capacity = capacity_of(model, hours, settings=settings, objectives=options.objectives)
    load = capacity if isinstance(capacity, Unknown) else offered(model, capacity=capacity.work, step_s=history.step_s)
    return _Seen(model, gpus, hours, settings, capacity, load)


def _busy(history: FleetHistory, seen: Sequence[_Seen]) -> FloatArray:
    """(points,) GPUs that the load of all models keeps busy, as far as it is known."""
    busy: FloatArray = np.zeros(len(history.times))
    for one in seen:
        each = gpus_each(one.model)
        if not isinstance(one.load, Unknown):
            busy += np.nan_to_num(one.load) * (1.0 if isinstance(each, Unknown) else each)
    return busy


def _case(history: FleetHistory, seen: _Seen, options: Options, *, days: Days, models: int) -> ModelCase:
    verdicts = judged(seen.hours, settings=seen.settings, objectives=options.objectives, promised=options.promised)
    case: Case | Unknown = (
        seen.load
        if isinstance(seen.load, Unknown)
        else _replayed(seen.model, seen.load, options, step_s=history.step_s, days=days, models=models)
    )
    needed: FloatArray | Unknown
    if isinstance(case, Unknown):
        needed = seen.capacity if isinstance(seen.capacity, Unknown) else NOT_REPLAYED
    else:
        needed = careful(case.load, step_s=history.step_s, start_up_s=options.start_up_s, minimum=case.minimum)
    pace = pace_of(seen.hours)
    return ModelCase(
        seen.model, seen.gpus, seen.hours, seen.settings, tuple(verdicts), seen.capacity, pace, case, needed
    )


def _replayed(
    model: ModelHistory, load: FloatArray, options: Options, *, step_s: float, days: Days, models: int
) -> Case | Unknown:
    ran = model.replicas
    if isinstance(ran, Unknown):
        return ran
    told = np.isfinite(load) & np.isfinite(ran)
    if not float(load[told & days.counted].sum()) > 0.0:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "it served nothing in the time that is replayed")
    if float(load[told].max()) > MOST_LOAD:
        text = f"a load of {float(load[told].max()):.0f} replicas cannot be: its token counters or pods are wrong"
        return Unknown(UnknownReason.INVALID, text)
    minimum, maximum = _bounds(model, most=float(ran[told].max()), peak=float(load[told].max()))
    return Case(
        key=model.key,
        load=load,
        ran=ran,
        step_s=step_s,
        start_up_s=options.start_up_s,
        minimum=minimum,
        maximum=maximum,
        late_after_s=float(options.objectives.queue_delay),
        late_share=float(options.objectives.late_share),
        days=days,
        hpa_days=min(HPA_DAYS, max(LEAST_HPA_DAYS, HPA_MODEL_DAYS / max(1, models))),
    )


def _bounds(model: ModelHistory, *, most: float, peak: float) -> tuple[int, int]:
    """Return the limits: those of its autoscaler, else from one to twice the most that ran or was asked for."""
    scaler = model.scaler
    seen = int(np.ceil(ROOM * max(1.0, most, peak)))
    if isinstance(scaler, Unknown):
        return 1, min(seen, MOST_REPLICAS)
    minimum, maximum = scaler.min_replicas, scaler.max_replicas
    low = 1 if isinstance(minimum, Unknown) else max(1, round(minimum))
    high = seen if isinstance(maximum, Unknown) else max(low, round(maximum))
    return low, min(max(low, high), MOST_REPLICAS)


def gpus_each(model: ModelHistory) -> Value:
    """Return the GPUs of one replica; unknown where it holds none that anybody knows."""
    each = model.gpus_per_replica
    if isinstance(each, Unknown) or each > 0.0:
        return each
    return Unknown(UnknownReason.NOT_MEASURED, "nobody tells how many GPUs a replica holds")


def chunks(cases: Sequence[Case], *, parts: int) -> list[list[Case]]:
    """Deal cases out to so many workers, alike in number."""
    return [list(cases[part::parts]) for part in range(parts) if cases[part::parts]]
