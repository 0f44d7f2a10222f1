"""Utilisation over the whole time between two collections, from the samples that the driver keeps itself.

`nvmlDeviceGetUtilizationRates` tells the last window (1/6 to 1 s, by GPU): at a poll of 15 s, one fifteenth to one
ninetieth of what happened. The driver keeps its last hundred or so windows in a ring buffer and gives those since a
time stamp, at the price of one call, on GPUs before Hopper too. Mean and maximum of them; a verdict of "idle" needs the
maximum, for a mean hides a short burst.

Each sample says how long a kernel ran, not how much of the GPU it filled: what holds for `utilization_ratio` holds
here. Samples that no hardware gives (more than 100 %, no time stamp, not newer than the last) are left out. No
newer sample, and a partitioned GPU, are unknown, never 0.
"""

from collections.abc import Collection
from typing import Any, Final

from optiinfra_agent.errors import ValueUnknownError
from optiinfra_agent.nvml import NvmlSession
from optiinfra_agent.snapshot import Measured, Reason, Unknown

MAX_SAMPLES: Final = 4096
_UNSIGNED: Final = 1
"""NVML_VALUE_TYPE_UNSIGNED_INT, which the samples of utilisation have."""
_PERCENT_LIMIT: Final = 100


class UtilizationSampler:
    """Remembers the last sample of each GPU. For one thread: the one that owns the session."""

    def __init__(self, session: NvmlSession) -> None:
        self._session = session
        self._last: dict[str, int] = {}
        self._opening = session.openings

    def read(self, handle: Any, uuid: str) -> tuple[Measured, Measured]:
        """Return mean and maximum since the last call for that uuid; at first, over what the driver still has.

        Raises GpuLostError or a SourceError.
        """
        if self._opening != self._session.openings:
            self._last.clear()  # a driver that was loaded anew may count its time anew
            self._opening = self._session.openings
        last = self._last.get(uuid, 0)
        kind = self._session.constant("NVML_GPU_UTILIZATION_SAMPLES")
        try:
            value_type, samples = self._session.call("nvmlDeviceGetSamples", handle, kind, last)
        except ValueUnknownError as error:
            return Unknown(error.reason), Unknown(error.reason)
        newer = [sample for sample in samples[:MAX_SAMPLES] if sample.timeStamp > last]
        if not newer:
            return Unknown(Reason.UNAVAILABLE), Unknown(Reason.UNAVAILABLE)
        self._last[uuid] = max(int(sample.timeStamp) for sample in newer)
        values = [int(sample.sampleValue.uiVal) for sample in newer]
        good = [value for value in values if value <= _PERCENT_LIMIT] if value_type == _UNSIGNED else []
        if not good:
            return Unknown(Reason.FAILED), Unknown(Reason.FAILED)
        return round(sum(good) / len(good) / 100, 4), max(good) / 100

    def keep(self, uuids: Collection[str]) -> None:
        """Forget all other GPUs."""
        self._last = {uuid: last for uuid, last in self._last.items() if uuid in uuids}
