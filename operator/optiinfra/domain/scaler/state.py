"""All that is remembered of a fleet: arrays with the workload first, so that a fleet is decided in one pass.

One workload is about 20 KiB in memory, whatever its age. `take` and `put` cut out and put back some workloads; they are
also how fleets are chunked, so that a pass stays in the processor's cache.
"""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from optiinfra.domain.scaler.forecasts import ForecastMemory
from optiinfra.domain.scaler.grid import CHOSEN
from optiinfra.domain.scaler.load import Features, LoadMemory
from optiinfra.domain.scaler.pipeline import Pipeline
from optiinfra.domain.scaler.prices import Realised
from optiinfra.domain.scaler.references import References
from optiinfra.domain.scaler.shadows import Shadows
from optiinfra.domain.scaler.tuning import GAINS, HOLDS, SEEN_LATE_TICKS

ORDERS_TICKS = 5
"""How late an order of ours may be carried out and still be known for ours: a scrape, a scaler's sync, a pause."""
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Part = TypeVar("Part")
_FIELDS: dict[type, tuple[str, ...]] = {}


def no_features(workloads: int) -> Features:
    """Features of a time before the beginning."""

    def zeros(*shape: int) -> Floats:
        return np.zeros((workloads, *shape), dtype=np.float32)

    return Features(
        level=zeros(),
        slope=zeros(),
        mean=zeros(),
        held=zeros(len(GAINS) * len(HOLDS)),
        now=zeros(len(GAINS)),
        later=zeros(len(GAINS)),
        least=zeros(),
        collapsed=np.zeros(workloads, dtype=np.bool_),
    )


@dataclass(slots=True)
class FleetState:
    """What is remembered of each workload."""

    tick: Ints
    """Number of the newest tick that was lived through; -1 before the first."""
    load: LoadMemory
    past: tuple[Features, ...]
    """Features of the last ticks, oldest first."""
    shadows: Shadows
    references: References
    realised: Realised
    real: Pipeline
    """The real service's replicas as far as orders and start-up tell, one column."""
    weights: Floats
    """(workloads, choices), summing to one."""
    desired: Ints
    """The last decision; -1 before the first."""
    hand: Ints
    """Ticks for which a change by somebody else is still respected."""
    unknown: Ints
    """Ticks since the load was last known."""
    behind: Floats
    """Replicas that should serve by now and do not."""
    orders: Ints
    """(workloads, ORDERS_TICKS): the decisions of the last ticks, oldest first; -1 before the first."""
    asked: Ints
    """Replicas asked for when last looked, whoever asked; -1 before the first look."""
    forecasts: ForecastMemory

    @classmethod
    def of(cls, replicas: Ints) -> "FleetState":
        """Workloads without a past that run `replicas` ready replicas."""
        count = len(replicas)
        return cls(
            tick=np.full(count, -1, dtype=np.int64),
            load=LoadMemory.empty(count),
            past=tuple(no_features(count) for _ in range(SEEN_LATE_TICKS)),
            shadows=Shadows.of(replicas),
            references=References.of(replicas),
            realised=Realised.empty(count),
            real=Pipeline.of(replicas, scalers=1),
            weights=np.full((count, CHOSEN), 1.0 / CHOSEN, dtype=np.float32),
            desired=np.full(count, -1, dtype=np.int64),
            hand=np.zeros(count, dtype=np.int64),
            unknown=np.zeros(count, dtype=np.int64),
            behind=np.zeros(count, dtype=np.float32),
            orders=np.full((count, ORDERS_TICKS), -1, dtype=np.int64),
            asked=np.full(count, -1, dtype=np.int64),
            forecasts=ForecastMemory.empty(count),
        )

    def __len__(self) -> int:
        return len(self.tick)


def take(part: Part, rows: Any) -> Part:
    """Copy some workloads out of a state or any part of it; `rows` indexes the first axis."""
    # What is picked by numbers or a mask is a copy by itself.
    pick = (lambda array: array[rows].copy()) if isinstance(rows, slice) else (lambda array: array[rows])
    taken: Part = _mapped(part, pick)
    return taken


def put(whole: object, rows: Any, part: object) -> None:
    """Put workloads back that `take` cut out."""
    for target, source in zip(arrays(whole), arrays(part), strict=True):
        target[rows] = source


def joined(parts: list[Part]) -> Part:
    """Put states behind one another."""
    columns = [arrays(part) for part in parts]
    merged = iter([np.concatenate(group) for group in zip(*columns, strict=True)])
    whole: Part = _mapped(parts[0], lambda _: next(merged))
    return whole


def arrays(part: object) -> list[npt.NDArray[Any]]:
    """All arrays of a state or a part of it, in a fixed order."""
    found: list[npt.NDArray[Any]] = []
    _gather(part, found)
    return found


def _gather(part: object, found: list[npt.NDArray[Any]]) -> None:
    if isinstance(part, np.ndarray):
        found.append(part)
    elif isinstance(part, tuple):
        for one in part:
            _gather(one, found)
    else:
        for name in _names(type(part)):
            _gather(getattr(part, name), found)


def _names(kind: type) -> tuple[str, ...]:
    """Return the names of the fields of a part: they are asked for a thousand times a second in a replay."""
    names = _FIELDS.get(kind)
    if names is None:
        assert is_dataclass(kind)
        names = _FIELDS[kind] = tuple(field.name for field in fields(kind))
    return names


def _mapped(part: Any, change: Any) -> Any:
    if isinstance(part, np.ndarray):
        return change(part)
    if isinstance(part, tuple):
        return tuple(_mapped(one, change) for one in part)
    return type(part)(*(_mapped(getattr(part, name), change) for name in _names(type(part))))
