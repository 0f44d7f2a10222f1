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
from optiinfra.domain.report.frames import FloatArray
from optiinfra.domain.report.history import FleetHistory, GpuHistory, ModelHistory
from optiinfra.domain.report.hours import Hour, hours_of, settings_of
from optiinfra.domain.report.limits import Judged, judged
from optiinfra.domain.report.options import Options
from optiinfra.domain.report.scaling import MOST_LOAD, Case, careful, offered
from optiinfra.domain.scaler.pipeline import MOST_REPLICAS

ROOM: Final = 2.0
"""How many times the most that ran a replay may go to, where no autoscaler sets a limit."""


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
    begins: int
    """First point of the grid that is replayed."""


def cases_of(history: FleetHistory, options: Options) -> tuple[ModelCase, ...]:
    """Look at every model."""
    by_key = {gpu.key: gpu for gpu in history.gpus}
    days = options.days(len(history.models), window=history.hours / 24.0)
    begins = max(0, len(history.times) - max(1, round(days * 86_400.0 / history.step_s)))
    return tuple(_case(history, model, by_key, options, begins=begins) for model in history.models)


def _case(
    history: FleetHistory, model: ModelHistory, by_key: Mapping[str, GpuHistory], options: Options, *, begins: int
) -> ModelCase:
    gpus = tuple(by_key[key] for key in model.gpus if key in by_key)
    settings = settings_of(model)
    hours = hours_of(model, gpus, history.times, step_s=history.step_s)
    verdicts = judged(hours, settings=settings, objectives=options.objectives, promised=options.promised)
    capacity = capacity_of(model, hours, settings=settings, objectives=options.objectives)
    case: Case | Unknown = (
        capacity
        if isinstance(capacity, Unknown)
        else _replayed(model, capacity.work, options, step_s=history.step_s, begins=begins)
    )
    needed: FloatArray | Unknown
    if isinstance(capacity, Unknown) or isinstance(case, Unknown):
        needed = capacity if isinstance(capacity, Unknown) else Unknown(UnknownReason.NOT_MEASURED, "not replayed")
    else:
        load = offered(model, capacity=capacity.work, step_s=history.step_s)
        needed = (
            load
            if isinstance(load, Unknown)
            else careful(load, step_s=history.step_s, start_up_s=options.start_up_s, minimum=case.minimum)
        )
    return ModelCase(model, gpus, hours, settings, tuple(verdicts), capacity, pace_of(hours), case, needed, begins)


def _replayed(model: ModelHistory, capacity: float, options: Options, *, step_s: float, begins: int) -> Case | Unknown:
    load, ran = offered(model, capacity=capacity, step_s=step_s), model.replicas
    if isinstance(load, Unknown):
        return load
    if isinstance(ran, Unknown):
        return ran
    load, ran = load[begins:], ran[begins:]
    known = np.isfinite(load) & np.isfinite(ran)
    if not known.any() or not float(load[known].sum()) > 0.0:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "it served nothing in the time that is replayed")
    if float(load[known].max()) > MOST_LOAD:
        text = f"a load of {float(load[known].max()):.0f} replicas cannot be: its token counters or pods are wrong"
        return Unknown(UnknownReason.INVALID, text)
    minimum, maximum = _bounds(model, most=float(ran[known].max()), peak=float(load[known].max()))
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
