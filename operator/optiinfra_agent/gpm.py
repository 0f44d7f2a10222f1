"""What a GPU really does between two collections: multiprocessors, tensor cores and memory, by the driver's GPM.

`utilization_ratio` is 1 while one tiny kernel runs. GPM (GPU performance monitoring; Hopper and later) counts in the
hardware, without a profiler, and gives the mean over the time between two samples. So each collection takes one sample
and reads the metrics since the one before: with a poll of 15 s that is the true mean of those 15 s, at two calls.

Samples are memory of the driver library: two for each GPU, used in turn and given back when the GPU is gone. Two
samples closer than 100 ms give nonsense, and are not compared. What a GPU cannot do is asked once a session and not at
each pass. A partitioned GPU (MIG) gives no samples as a whole, but each of its instances does.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final

from optiinfra_agent.errors import NvmlCallError, SourceError, ValueUnknownError
from optiinfra_agent.nvml import NOT_SUPPORTED, NvmlSession, code_reason
from optiinfra_agent.snapshot import Measured, Reason, Unknown

LEAST_SPAN_S: Final = 0.1
METRICS: Final = {
    "sm_active_ratio": 2,
    "sm_occupancy_ratio": 3,
    "tensor_active_ratio": 5,
    "dram_active_ratio": 10,
}
"""Field of a reading -> NVML_GPM_METRIC_*, all in percent."""
_PERCENT_LIMIT: Final = 101.0


@dataclass(slots=True)
class _Gpu:
    """Two samples of one GPU; the last one that was taken is at `newest`."""

    samples: list[Any] = field(default_factory=list)
    newest: int = 0
    taken: float | None = None
    refused: Unknown | None = None


class GpmSampler:
    """Takes samples of every GPU. For one thread: the one that owns the session."""

    def __init__(self, session: NvmlSession, *, clock: Callable[[], float]) -> None:
        self._session = session
        self._clock = clock
        self._gpus: dict[str, _Gpu] = {}
        self._opening = session.openings

    def read(self, handle: Any, uuid: str, *, instance: int | None = None) -> dict[str, Measured]:
        """Return the activity since the last call for that uuid, of a GPU or of one instance of it.

        Raises GpuLostError or a SourceError.
        """
        if self._opening != self._session.openings:
            # A library that was closed has taken its samples with it.
            self._gpus.clear()
            self._opening = self._session.openings
        gpu = self._gpus.setdefault(uuid, _Gpu())
        if gpu.refused is not None:
            return _all(gpu.refused)
        try:
            if not gpu.samples:
                support = self._session.call("nvmlGpmQueryDeviceSupport", handle)
                if not support.isSupportedDevice:
                    gpu.refused = Unknown(Reason.UNSUPPORTED)
                    return _all(gpu.refused)
                for _ in range(2):
                    gpu.samples.append(self._session.call("nvmlGpmSampleAlloc"))
            return self._metrics(handle, gpu, instance=instance)
        except ValueUnknownError as error:
            gpu.taken = None
            if error.reason is Reason.UNSUPPORTED:
                gpu.refused = Unknown(error.reason)
                self._free(gpu)
            return _all(Unknown(error.reason))

    def keep(self, uuids: Collection[str]) -> None:
        """Give back the samples of everything else; and ask that again which could not, for it may be another now."""
        for uuid in [uuid for uuid in self._gpus if uuid not in uuids]:
            self._free(self._gpus.pop(uuid))

    def _metrics(self, handle: Any, gpu: _Gpu, *, instance: int | None) -> dict[str, Measured]:
        now = self._clock()
        if gpu.taken is not None and now - gpu.taken < LEAST_SPAN_S:
            return _all(Unknown(Reason.WARMING_UP))
        before, gpu.taken = gpu.taken, None
        following = 1 - gpu.newest
        if instance is None:
            self._session.call("nvmlGpmSampleGet", handle, gpu.samples[following])
        else:
            self._session.call("nvmlGpmMigSampleGet", handle, instance, gpu.samples[following])
        earlier, gpu.newest, gpu.taken = gpu.samples[gpu.newest], following, now
        if before is None:
            return _all(Unknown(Reason.WARMING_UP))
        wanted = self._session.constant("c_nvmlGpmMetricsGet_t")()
        wanted.version = self._session.constant("NVML_GPM_METRICS_GET_VERSION")
        wanted.numMetrics = len(METRICS)
        wanted.sample1, wanted.sample2 = earlier, gpu.samples[following]
        for place, metric in enumerate(METRICS.values()):
            wanted.metrics[place].metricId = metric
        self._session.call("nvmlGpmMetricsGet", wanted)
        return {name: _ratio(wanted.metrics[place]) for place, name in enumerate(METRICS)}

    def _free(self, gpu: _Gpu) -> None:
        for sample in gpu.samples:
            try:
                self._session.call("nvmlGpmSampleFree", sample)
            except (NvmlCallError, SourceError):
                # The library that gave it is gone, and its memory with it.
                break
        gpu.samples.clear()


def unsupported() -> dict[str, Measured]:
    """Return what is known of something that GPM does not measure."""
    return _all(Unknown(Reason.UNSUPPORTED))


def _all(value: Unknown) -> dict[str, Measured]:
    return dict.fromkeys(METRICS, value)


def _ratio(metric: Any) -> Measured:
    if metric.nvmlReturn:
        # A metric that this GPU does not have comes back as "invalid argument" or "not supported", by driver.
        return Unknown(code_reason(NOT_SUPPORTED if metric.nvmlReturn == _INVALID_ARGUMENT else metric.nvmlReturn))
    if not math.isfinite(metric.value) or not 0.0 <= metric.value < _PERCENT_LIMIT:
        return Unknown(Reason.FAILED)
    return round(min(float(metric.value), 100.0) / 100.0, 6)


_INVALID_ARGUMENT: Final = 2
