"""The series of a played fleet's GPUs, as dcgm-exporter's dialects tell them.

| where | names and units | who holds a GPU |
|---|---|---|
| prod-a, first half of the nodes | up to 4.8: percent, MiB | labels `namespace`, `pod`, `container` |
| prod-a, the others | up to 4.8 | `exported_*`: the scrape configuration wrote the exporter's own pod over them |
| prod-b | from 4.9: ratios, bytes | labels `namespace`, `pod`, `container` |
| prod-b, last node | from 4.9 | nobody tells: the exporter had no kubelet socket |

A GPU is as busy as the engine that holds it (`history_engine`), all GPUs of a replica alike; its power follows as in
`agents`. One that nobody holds is empty. Each holder makes series of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from optiinfra_sim.agents import (
    BUSY_WATTS,
    EMPTY_WATTS,
    FULL_BATCH_WATTS,
    GPU_MEMORY_BYTES,
    GPU_MODEL,
    GPU_RESERVED_BYTES,
    LOADED_WATTS,
)
from optiinfra_sim.history_fleet import STEP_S, Fleet, Gpu, Pod
from optiinfra_sim.history_models import CLUSTERS
from optiinfra_sim.history_series import Series, series
from optiinfra_sim.history_traffic import Array

MIB: Final = float(2**20)
TENSOR_OF_SM: Final = 0.35
DRAM_OF_SM: Final = 0.8
"""Decoding waits for memory."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A time in which one pod, or nobody, held a GPU: points [first, last)."""

    pod: Pod | None
    first: int
    last: int


def gpu_series(fleet: Fleet) -> Iterator[Series]:
    """Yield what Prometheus has of every GPU."""
    held: dict[Gpu, list[Pod]] = {gpu: [] for gpu in fleet.gpus}
    for pod in fleet.pods:
        for gpu in pod.gpus:
            held[gpu].append(pod)
    own = {cluster: [node for node in fleet.nodes if _cluster(fleet, node) == cluster] for cluster in CLUSTERS}
    for number, gpu in enumerate(fleet.gpus):
        place = own[gpu.cluster].index(gpu.node)
        exported = gpu.cluster == CLUSTERS[0] and place >= len(own[gpu.cluster]) / 2
        silent = gpu.cluster == CLUSTERS[1] and place == len(own[gpu.cluster]) - 1
        draw = np.random.default_rng((fleet.seed, 7, number))
        for stretch in _stretches(held[gpu], len(fleet.times)):
            labels = _labels(gpu, stretch.pod, exported=exported, silent=silent)
            for name, values in _values(gpu, stretch, draw):
                yield series(name, labels, values, first=stretch.first)


def _cluster(fleet: Fleet, node: str) -> str:
    return next(gpu.cluster for gpu in fleet.gpus if gpu.node == node)


def _stretches(pods: list[Pod], points: int) -> Iterator[_Stretch]:
    at = 0
    for pod in sorted(pods, key=lambda pod: pod.first):
        if pod.first > at:
            yield _Stretch(None, at, pod.first)
        yield _Stretch(pod, pod.first, pod.last)
        at = pod.last
    if at < points:
        yield _Stretch(None, at, points)


def _labels(gpu: Gpu, pod: Pod | None, *, exported: bool, silent: bool) -> dict[str, str]:
    scaled = gpu.cluster == CLUSTERS[1]
    exporter = f"dcgm-exporter-{gpu.node.split('-')[4].split('.')[0]}x7k2"
    labels = {
        "cluster": gpu.cluster,
        "job": "dcgm-exporter",
        "instance": f"{gpu.node}:9400",
        "gpu": str(gpu.index),
        "UUID": gpu.uuid,
        "pci_bus_id": f"00000000:{16 * gpu.index + 16:02X}:00.0",
        "device": f"nvidia{gpu.index}",
        "modelName": GPU_MODEL,
        "hostname" if scaled else "Hostname": gpu.node,
        "DCGM_FI_DRIVER_VERSION" if not scaled else "driver_version": "570.124.06",
    }
    holder = {} if pod is None or silent else _holder(pod)
    if exported:
        labels |= {"namespace": "gpu-operator", "pod": exporter, "container": "nvidia-dcgm-exporter"}
        return labels | {f"exported_{key}": value for key, value in holder.items()}
    return labels | holder


def _holder(pod: Pod) -> dict[str, str]:
    plan = pod.model.plan
    return {"namespace": plan.namespace, "pod": pod.name, "container": plan.settings.kind.value}


def _values(gpu: Gpu, stretch: _Stretch, draw: np.random.Generator) -> Iterator[tuple[str, Array]]:
    points = stretch.last - stretch.first
    busy, active, batch, used = (np.zeros(points) for _ in range(4))
    loaded = np.zeros(points)
    if stretch.pod is not None:
        pod = stretch.pod
        course, settings = pod.model.course, pod.model.plan.settings
        begin = pod.serving - pod.first
        span = slice(pod.serving, pod.last)
        noise = np.clip(1.0 + draw.normal(0.0, 0.03, points - begin), 0.5, 1.5)
        busy[begin:] = np.clip(course.busy[span] * noise, 0.0, 1.0)
        active[begin:] = np.clip(course.sm_active[span] * noise, 0.0, 1.0)
        batch[begin:] = np.minimum(1.0, course.batch[span] / settings.max_num_seqs)
        loaded[begin:] = 1.0
        # The weights come in over the first half of the start, the pool at its end.
        used[:begin] = np.linspace(0.0, 0.3, begin) * GPU_MEMORY_BYTES
        used[begin:] = settings.gpu_memory_utilization * GPU_MEMORY_BYTES
    watts = EMPTY_WATTS + loaded * (LOADED_WATTS - EMPTY_WATTS) + busy * (BUSY_WATTS + FULL_BATCH_WATTS * batch)
    watts = np.round(watts + draw.normal(0.0, 1.5, points), 3)
    free = GPU_MEMORY_BYTES - GPU_RESERVED_BYTES - used
    energy = np.round(np.cumsum(watts) * STEP_S, 3)
    heat = np.round(30.0 + 40.0 * watts / 700.0)
    if gpu.cluster == CLUSTERS[1]:
        yield "DCGM_FI_DEV_GPU_UTIL_RATIO", np.round(busy, 2)
        yield "DCGM_FI_PROF_SM_UTIL_RATIO", np.round(active, 6)
        yield "DCGM_FI_PROF_TENSOR_UTIL_RATIO", np.round(active * TENSOR_OF_SM, 6)
        yield "DCGM_FI_PROF_DRAM_UTIL_RATIO", np.round(active * DRAM_OF_SM, 6)
        yield "DCGM_FI_DEV_FB_USED_BYTES", np.round(used)
        yield "DCGM_FI_DEV_FB_FREE_BYTES", np.round(free)
        yield "DCGM_FI_DEV_FB_CAPACITY_BYTES", np.full(points, float(GPU_MEMORY_BYTES))
        yield "DCGM_FI_DEV_BOARD_POWER_WATTS", watts
        yield "DCGM_FI_DEV_GPU_TEMP_CELSIUS", heat
        return
    yield "DCGM_FI_DEV_GPU_UTIL", np.round(100.0 * busy)
    yield "DCGM_FI_PROF_SM_ACTIVE", np.round(active, 6)
    yield "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", np.round(active * TENSOR_OF_SM, 6)
    yield "DCGM_FI_PROF_DRAM_ACTIVE", np.round(active * DRAM_OF_SM, 6)
    yield "DCGM_FI_DEV_FB_USED", np.round(used / MIB)
    yield "DCGM_FI_DEV_FB_FREE", np.round(free / MIB)
    yield "DCGM_FI_DEV_FB_RESERVED", np.full(points, GPU_RESERVED_BYTES / MIB)
    yield "DCGM_FI_DEV_POWER_USAGE", watts
    yield "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", np.round(1000.0 * energy)
    yield "DCGM_FI_DEV_GPU_TEMP", heat
