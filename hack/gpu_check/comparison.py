"""What was seen in one phase, as rows: the agent's number, what it should be, and how far apart they are. Pure.

A number that nobody measured is None and is shown as such; it is never taken for zero, and no difference is made of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from hack.gpu_check.witness import Sight

_MIB = 1024.0 * 1024.0


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison."""

    phase: str
    what: str
    agent: float | None
    other: float | None
    other_is: str
    unit: str

    @property
    def difference(self) -> float | None:
        """How much more the agent says, as a share of the other number; None where that cannot be said."""
        if self.agent is None or self.other is None or self.other == 0.0:
            return None
        return self.agent / self.other - 1.0


def rows(
    phase: str, sights: Sequence[Sight], *, idle_memory: float | None, allocated: int = 0, copied: int = 0
) -> list[Row]:
    """Compare everything that one phase allows to compare.

    `idle_memory`: bytes in use before any load, as the agent said; `allocated` and `copied` (each way): what the load
    is known to have done.
    """
    agent = {name: _middle(sights, _of_agent(name)) for name in _RATIOS}
    found = [
        Row(phase, "utilisation", agent["utilization_ratio"], _smi(sights, "utilization.gpu", 0.01), "nvidia-smi", ""),
        Row(phase, "SM activity (GPM)", agent["sm_active_ratio"], agent["utilization_ratio"], "utilisation", ""),
        Row(phase, "tensor activity (GPM)", agent["tensor_active_ratio"], None, "", ""),
        Row(phase, "memory activity (GPM)", agent["dram_active_ratio"], None, "", ""),
        Row(
            phase,
            "power",
            _middle(sights, _of_agent("power_watts")),
            _smi(sights, "power.draw", 1.0),
            "nvidia-smi",
            "W",
        ),
        Row(phase, "energy", *_energy(sights), "power over time", "J"),
        Row(
            phase,
            "memory used",
            _scaled(_middle(sights, _of_agent("memory_used_bytes")), 1 / _MIB),
            _smi(sights, "memory.used", 1.0),
            "nvidia-smi",
            "MiB",
        ),
    ]
    if allocated:
        used = _middle(sights, _of_agent("memory_used_bytes"))
        more = None if used is None or idle_memory is None else (used - idle_memory) / _MIB
        found.append(Row(phase, "memory over idle", more, allocated / _MIB, "allocated", "MiB"))
    if copied:
        for what, name in (("PCIe sent", "pcie_transmit_bytes_total"), ("PCIe received", "pcie_receive_bytes_total")):
            grown = _scaled(_growth(sights, _of_agent(name)), 1 / _MIB)
            found.append(Row(phase, what, grown, copied / _MIB, "copied", "MiB"))
    return found


_RATIOS = ("utilization_ratio", "sm_active_ratio", "tensor_active_ratio", "dram_active_ratio")
_Read = Callable[[Sight], float | None]


def _of_agent(name: str) -> _Read:
    return lambda sight: sight.agent.get(name)


def _middle(sights: Sequence[Sight], read: _Read) -> float | None:
    known = [value for sight in sights if (value := read(sight)) is not None]
    return median(known) if known else None


def _smi(sights: Sequence[Sight], name: str, times: float) -> float | None:
    return _scaled(_middle(sights, lambda sight: sight.smi.get(name)), times)


def _scaled(value: float | None, times: float) -> float | None:
    return None if value is None else value * times


def _growth(sights: Sequence[Sight], read: _Read) -> float | None:
    known = [value for sight in sights if (value := read(sight)) is not None]
    return known[-1] - known[0] if len(known) > 1 else None


def _energy(sights: Sequence[Sight]) -> tuple[float | None, float | None]:
    """Return the agent's counter from its first to its last collection, and power integrated over the same time."""
    fresh = [after for before, after in pairwise(sights) if after.agent_at != before.agent_at]
    counted = _growth(fresh, _of_agent("energy_joules_total"))
    if counted is None:
        return None, None
    span = [sight for sight in sights if fresh[0].at <= sight.at <= fresh[-1].at]
    powers = [(sight.at, sight.driver.get("power_watts")) for sight in span]
    if any(power is None for _, power in powers):
        return counted, None
    watts = [(at, power or 0.0) for at, power in powers]
    return counted, sum((later - sooner) * (a + b) / 2.0 for (sooner, a), (later, b) in pairwise(watts))
