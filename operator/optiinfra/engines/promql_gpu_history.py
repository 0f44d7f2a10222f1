"""Queries for what GPUs did in the past: the busiest moment of each step, by GPU, whoever exported it.

Names and units are those of `gpu_tables`, so that history reads as pages do. The highest value of a step is asked for,
because idleness is judged by what was done at most. A GPU is told apart by its UUID and MIG instance alone: each pod
that held it made series of its own, and copies of a server's replicas differ in other labels. Nothing is asked here.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.surroundings_readings import GpuQuantity
from optiinfra.engines import gpu_tables as tables
from optiinfra.engines import series

_POWER: Final = ("DCGM_FI_DEV_BOARD_POWER_WATTS", "DCGM_FI_DEV_POWER_USAGE", "optiinfra_gpu_power_watts")
_MOST_WATTS: Final = 1e5
_BUSIEST: Final = "optiinfra_gpu_utilization_max_ratio"
"""The agent's own highest value between two scrapes."""
_WANTED: Final = (GpuQuantity.UTILIZATION, GpuQuantity.SM_ACTIVE, GpuQuantity.MEMORY_USED)


@dataclass(frozen=True, slots=True)
class GpuQuestion:
    """One family of one quantity."""

    quantity: GpuQuantity | None
    """None: power, in watts."""
    name: str
    scale: float
    largest: float
    """Larger values, after scaling, are nonsense."""


def questions() -> tuple[GpuQuestion, ...]:
    """Return every family that may be asked for, best first within a quantity."""
    return tuple(_questions())


def _questions() -> Iterator[GpuQuestion]:
    for row in tables.GPU_ROWS:
        if row.quantity in _WANTED:
            if row.quantity is GpuQuantity.UTILIZATION:
                yield GpuQuestion(row.quantity, _BUSIEST, 1.0, row.largest)
            for name, scale in row.names:
                yield GpuQuestion(row.quantity, name, scale, row.largest)
    for name in _POWER:
        yield GpuQuestion(None, name, 1.0, _MOST_WATTS)


def present_query(matchers: str) -> str:
    """Return a query that tells which of the families there are, by `__name__`."""
    names = [one.name for one in questions()]
    return f"count by ({series.NAME}) ({series.selector(names, matchers=matchers)})"


def past_query(name: str, *, matchers: str, step_s: float) -> str:
    """Return the query for a family's highest value of each step, by the labels that tell GPUs apart."""
    by = ", ".join((*tables.UUID_LABELS, tables.INSTANCE_LABEL))
    return f"max by ({by}) (max_over_time({name}{{{matchers}}}[{step_s:.0f}s]))"


def gpu_of(labels: Collection[tuple[str, str]]) -> str:
    """Return the GPU that a series is of, as `gpu_page` names it; empty where no label does."""
    told = dict(labels)
    name = next((told[label] for label in tables.UUID_LABELS if told.get(label)), "")
    instance = told.get(tables.INSTANCE_LABEL, "")
    return f"{name}/{instance}" if name and instance else name
