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
    taken: Part = _mapped(part, lambda array: array[rows].copy())
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
    if isinstance(part, np.ndarray):
        return [part]
    if isinstance(part, tuple):
        return [array for one in part for array in arrays(one)]
    assert is_dataclass(part)
    return [array for field in fields(part) for array in arrays(getattr(part, field.name))]


def _mapped(part: Any, change: Any) -> Any:
    if isinstance(part, np.ndarray):
        return change(part)
    if isinstance(part, tuple):
        return tuple(_mapped(one, change) for one in part)
    return type(part)(*(_mapped(getattr(part, field.name), change) for field in fields(part)))
