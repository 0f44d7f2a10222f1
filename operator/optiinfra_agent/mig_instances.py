"""The parts of partitioned GPUs (MIG), each with its memory and its own activity, and what they come to together.

A partitioned GPU gives no utilisation and no activity as a whole; its parts do, and they are what pods hold. A part is
known by the uuid that the kubelet gives out. Its number is used again after a new partition, its uuid is not: memory
and samples go by the uuid. Parts that share a GPU instance (several compute instances) show that instance's activity.

The activity of the whole is the sum over its GPU instances, each weighed by its compute slices of all that the GPU has
(as many as it can have parts), the memory bandwidth by its share of the memory. What belongs to no part counts as not
active, which it is. One part that was not read, and the whole is unknown.

A driver that lists no parts of a GPU that it calls partitioned leaves the list empty: a GPU may be partitioned into
nothing. A part that cannot be read is left out of this pass, and its GPU goes on.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from optiinfra_agent.errors import ValueUnknownError
from optiinfra_agent.gpm import METRICS, GpmSampler, unsupported
from optiinfra_agent.nvml import NOT_FOUND, NvmlSession
from optiinfra_agent.snapshot import Measured, MigReading, Reason, Text, Unknown

MAX_PARTS: Final = 16
_BYTES_LIMIT: Final = 1 << 50
_PROFILE: Final = re.compile(r"MIG ([0-9]{1,2}[cg0-9.a-z+]{1,32})\Z", re.ASCII)
_OF_MEMORY: Final = "dram_active_ratio"


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one GPU, and its activity as a whole."""

    devices: tuple[MigReading, ...]
    activity: Mapping[str, Measured]


@dataclass(frozen=True, slots=True)
class _Part:
    """One part, and how many of the compute slices its GPU instance has."""

    reading: MigReading
    slices: Measured


def read_parts(session: NvmlSession, gpm: GpmSampler, handle: Any, gpu_uuid: str, *, memory: Measured) -> Parts:
    """Return the parts of one partitioned GPU of so much memory; raise GpuLostError or a SourceError."""
    try:
        count = int(session.call("nvmlDeviceGetMaxMigDeviceCount", handle))
    except ValueUnknownError as error:
        return Parts((), dict.fromkeys(METRICS, Unknown(error.reason)))
    found: list[_Part] = []
    activity: dict[str, Measured]
    try:
        for part in _parts(session, gpm, handle, gpu_uuid, count=min(count, MAX_PARTS)):
            found.append(part)  # noqa: PERF402 - what was read before a refusal is kept
    except ValueUnknownError as error:
        activity = {name: Unknown(error.reason) for name in METRICS}
    else:
        activity = _whole(found, slices=count, memory=memory)
    return Parts(tuple(part.reading for part in found), activity)


def _parts(session: NvmlSession, gpm: GpmSampler, handle: Any, gpu_uuid: str, *, count: int) -> Iterator[_Part]:
    for index in range(count):
        try:
            part = session.call("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
        except ValueUnknownError as error:
            if error.code == NOT_FOUND:
                continue  # a number that no part has
            raise
        uuid = session.call("nvmlDeviceGetUUID", part)
        instance = int(session.call("nvmlDeviceGetGpuInstanceId", part))
        total, used = _memory(session, part)
        reading = MigReading(
            uuid=uuid,
            gpu_uuid=gpu_uuid,
            profile=_profile(session, part),
            gpu_instance=instance,
            memory_total_bytes=total,
            memory_used_bytes=used,
            **gpm.read(handle, uuid, instance=instance),
        )
        yield _Part(reading, _slices(session, part))


def _whole(parts: list[_Part], *, slices: int, memory: Measured) -> dict[str, Measured]:
    # Several parts of one GPU instance show the same activity: it counts once.
    instances = list({part.reading.gpu_instance: part for part in parts}.values())
    if not instances:
        return unsupported()
    activity: dict[str, Measured] = {}
    for name in METRICS:
        shares = [
            _share(getattr(part.reading, name), part.reading.memory_total_bytes, memory)
            if name == _OF_MEMORY
            else _share(getattr(part.reading, name), part.slices, slices)
            for part in instances
        ]
        known = [share for share in shares if not isinstance(share, Unknown)]
        unknown = next((share for share in shares if isinstance(share, Unknown)), None)
        activity[name] = round(min(1.0, sum(known)), 6) if unknown is None else unknown
    return activity


def _share(activity: Measured, part: Measured, of: Measured) -> Measured:
    if isinstance(activity, Unknown):
        return activity
    if isinstance(part, Unknown):
        return part
    if isinstance(of, Unknown):
        return of
    return activity * part / of if of > 0 else Unknown(Reason.FAILED)


def _slices(session: NvmlSession, part: Any) -> Measured:
    try:
        slices = int(session.call("nvmlDeviceGetAttributes", part).gpuInstanceSliceCount)
    except ValueUnknownError as error:
        return Unknown(error.reason)
    return slices if 0 < slices <= MAX_PARTS else Unknown(Reason.FAILED)


def _profile(session: NvmlSession, part: Any) -> Text:
    try:
        found = _PROFILE.search(session.call("nvmlDeviceGetName", part))
    except ValueUnknownError as error:
        return Unknown(error.reason)
    return found[1] if found else Unknown(Reason.FAILED)


def _memory(session: NvmlSession, part: Any) -> tuple[Measured, Measured]:
    try:
        memory = session.call("nvmlDeviceGetMemoryInfo", part)
    except ValueUnknownError as error:
        return Unknown(error.reason), Unknown(error.reason)
    if not 0 <= memory.used <= memory.total < _BYTES_LIMIT:
        return Unknown(Reason.FAILED), Unknown(Reason.FAILED)
    return memory.total, memory.used
