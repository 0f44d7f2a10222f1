"""Which source gave each value of a GPU.

Two numbers of one name are not always one thing: memory in use by the older call holds what the driver reserves,
activity of a partitioned GPU is a sum over its parts. Most values come from one place on every GPU; a GPU that differs
says in what (`GpuReading.from_elsewhere`). For a value that is unknown it is the source that was asked.

In the snapshot all GPUs share one list of what gave what, so that eight of them cost no more than one.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from typing import Final

from optiinfra_agent.gpm import METRICS
from optiinfra_agent.gpu_fields import NAMES
from optiinfra_agent.snapshot import GpuReading, Unknown, ValueSource

_IDENTITY: Final = ("uuid", "index", "from_elsewhere")
ALL_OTHERS: Final = "*"

USUAL: Final[Mapping[str, ValueSource]] = {
    **{field.name: ValueSource.NVML for field in fields(GpuReading) if field.name not in _IDENTITY},
    **dict.fromkeys((*NAMES, "clock_event_seconds"), ValueSource.FIELD),
    **dict.fromkeys(METRICS, ValueSource.GPM),
    "utilization_mean_ratio": ValueSource.SAMPLES,
    "utilization_max_ratio": ValueSource.SAMPLES,
    **dict.fromkeys(("xid_errors", "unavailable_events", "recovery_events"), ValueSource.EVENTS),
    "numa_node": ValueSource.SYSFS,
}
"""Value of a GPU -> what gives it, unless the GPU says otherwise."""


def sources_of(gpu: GpuReading) -> dict[str, ValueSource]:
    """Return value -> source, of one GPU."""
    return {**USUAL, **dict(gpu.from_elsewhere)}


def listed(gpus: tuple[GpuReading, ...]) -> tuple[list[dict[str, list[str]]], dict[str, int]]:
    """Return what gave what (source -> values, `*` for all that are named nowhere else), and each GPU's place in it."""
    differing = sorted({gpu.from_elsewhere for gpu in gpus})
    places = {gpu.uuid: differing.index(gpu.from_elsewhere) for gpu in gpus}
    return [_grouped({**USUAL, **dict(one)}) for one in differing], places


def _grouped(sources: Mapping[str, ValueSource]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {ValueSource.NVML.value: [ALL_OTHERS]}
    for value, source in sources.items():
        if source is not ValueSource.NVML:
            grouped.setdefault(source.value, []).append(value)
    return grouped


def counted(gpus: tuple[GpuReading, ...]) -> Counter[tuple[str, str]]:
    """Return (value, source) -> GPUs of which it is known. Bounded by the values, not by the GPUs."""
    return Counter(
        (value, source.value)
        for gpu in gpus
        for value, source in sources_of(gpu).items()
        if not isinstance(getattr(gpu, value), Unknown)
    )
