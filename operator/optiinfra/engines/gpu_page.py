"""A page about GPUs and their node: DCGM-exporter's, our agent's, node-exporter's, or several of them in one text.

They may also stand on the same text as an engine's families; each reader takes its own and leaves the others alone.
A GPU that two pods share is exported once a pod, with a literal 0 where no process is mapped: of copies the largest
counts. What is unsupported (DCGM writes a huge number for it), NaN, or impossible is absent.
"""

import math
from collections.abc import Iterable
from typing import Final

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.surroundings_readings import (
    GpuQuantity,
    GpuReading,
    LinkReading,
    NodeQuantity,
    SurroundingsReading,
)
from optiinfra.domain.units import UnixTime
from optiinfra.engines import gpu_tables as tables
from optiinfra.engines.errors import PageError
from optiinfra.engines.layout import Layouts, read_samples
from optiinfra.engines.text import Labels, Samples, Wanted, samples_of, wanted

_MAX_GPUS: Final = 256
_MAX_LINKS: Final = 256
_WANTED: Final = wanted(values=tables.FAMILIES, histograms=())
_LAYOUTS: Layouts[None] = Layouts()
_NO_SPEED: Final = Unknown(UnknownReason.NOT_MEASURED, "the link's speed is not on the page")


def read(page: bytes, *, at: UnixTime) -> SurroundingsReading:
    """Read a page scraped at a moment; `PageError` says why it cannot be."""
    _, samples = read_samples(page, _LAYOUTS, _reader)
    return _reading(samples, at=at)


def read_series(series: Iterable[tuple[str, Labels, float]], *, at: UnixTime) -> SurroundingsReading:
    """Read the samples of one node that somebody else scraped: (sample name, labels, value); as a page's."""
    return _reading(samples_of(series, _WANTED), at=at)


def _reading(samples: Samples, *, at: UnixTime) -> SurroundingsReading:
    reading = SurroundingsReading(time=at, gpus=_gpus(samples), node=_node(samples), links=_links(samples))
    if not reading.gpus and not reading.node and not reading.links:
        raise PageError("no GPU's, CPU's or network's metrics on the page")
    return reading


def _reader(_text: str) -> tuple[None, Wanted]:
    return None, _WANTED


def _gpus(samples: Samples) -> tuple[GpuReading, ...]:
    found: dict[str, dict[GpuQuantity, float]] = {}
    for row in tables.GPU_ROWS:
        for gpu, value in _row(samples, row).items():
            found.setdefault(gpu, {})[row.quantity] = value
    if len(found) > _MAX_GPUS:
        raise PageError(f"more than {_MAX_GPUS} GPUs on the page")
    return tuple(GpuReading(gpu, values) for gpu, values in sorted(found.items()))


def _row(samples: Samples, row: tables.Row) -> dict[str, float]:
    total: dict[str, float] = {}
    for name, scale in row.names:
        largest: dict[str, float] = {}
        for labels, raw in samples.values.get(name, {}).items():
            value = raw * scale
            if not 0.0 <= value <= row.largest:
                continue
            gpu = _name_of(labels)
            largest[gpu] = max(value, largest.get(gpu, 0.0))
        if row.summed:
            for gpu, value in largest.items():
                total[gpu] = total.get(gpu, 0.0) + value
        elif largest:
            return {gpu: min(value, 1.0) if row.largest < 2.0 else value for gpu, value in largest.items()}
    return total


def _name_of(labels: Labels) -> str:
    given = dict(labels)
    name = next((given[label] for label in tables.UUID_LABELS if given.get(label)), "")
    instance = given.get(tables.INSTANCE_LABEL, "")
    return f"{name}/{instance}" if instance else name


def _node(samples: Samples) -> dict[NodeQuantity, float]:
    node: dict[NodeQuantity, float] = {}
    for quantity, name in tables.NODE_ROWS:
        values = list(samples.values.get(name, {}).values())
        if len(values) == 1 and math.isfinite(values[0]) and values[0] >= 0.0:
            node[quantity] = values[0]
    for labels, value in samples.values.get(tables.AGENT_PRESSURE, {}).items():
        if {("resource", "cpu"), ("kind", "some")} <= set(labels) and 0.0 <= value <= 1.0:
            node[NodeQuantity.CPU_WAITING_RATIO] = value
    series = samples.values.get(tables.CPU_SECONDS, {})
    busy, cores = 0.0, set()
    for labels, value in series.items():
        given = dict(labels)
        cores.add(given.get("cpu", ""))
        if given.get("mode") not in tables.IDLE_MODES:
            busy += value
    if series and math.isfinite(busy) and busy >= 0.0:
        node[NodeQuantity.CPU_BUSY_SECONDS] = busy
        node[NodeQuantity.CPU_CORES] = float(len(cores))
    return node


def _links(samples: Samples) -> tuple[LinkReading, ...]:
    links: list[LinkReading] = []
    for names in tables.LINKS:
        received, sent = samples.values.get(names.received, {}), samples.values.get(names.sent, {})
        speeds = samples.values.get(names.speed, {})
        for labels, value in received.items():
            other = sent.get(labels, math.nan)
            if not (math.isfinite(value) and math.isfinite(other)) or min(value, other) < 0.0:
                continue
            speed = speeds.get(labels, math.nan)
            known: Value = speed if math.isfinite(speed) and speed > 0.0 else _NO_SPEED
            links.append(LinkReading("/".join(text for _, text in labels), value, other, known))
    if len(links) > _MAX_LINKS:
        # A node with many pods has a virtual interface for each; those have no speed worth a name.
        links = [link for link in links if not isinstance(link.speed, Unknown)][:_MAX_LINKS]
    return tuple(links)
