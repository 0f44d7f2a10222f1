"""The parts of partitioned GPUs (MIG), each with its memory and its own activity.

A partitioned GPU gives no utilisation and no activity as a whole; its parts do, and they are what pods hold. A part is
known by the uuid that the kubelet gives out. Its number is used again after a new partition, its uuid is not: memory
and samples go by the uuid. Parts that share a GPU instance (several compute instances) show that instance's activity.

A driver that lists no parts of a GPU that it calls partitioned leaves the list empty: a GPU may be partitioned into
nothing. A part that cannot be read is left out of this pass, and its GPU goes on.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from optiinfra_agent.errors import ValueUnknownError
from optiinfra_agent.gpm import GpmSampler
from optiinfra_agent.nvml import NOT_FOUND, NvmlSession
from optiinfra_agent.snapshot import MigReading, Reason, Text, Unknown

MAX_PARTS: Final = 16
_BYTES_LIMIT: Final = 1 << 50
_PROFILE: Final = re.compile(r"MIG ([0-9]{1,2}[cg0-9.a-z+]{1,32})\Z", re.ASCII)


def read_parts(session: NvmlSession, gpm: GpmSampler, handle: Any, gpu_uuid: str) -> tuple[MigReading, ...]:
    """Return the parts of one partitioned GPU; raise GpuLostError or a SourceError."""
    return tuple(_parts(session, gpm, handle, gpu_uuid))


def _parts(session: NvmlSession, gpm: GpmSampler, handle: Any, gpu_uuid: str) -> Iterator[MigReading]:
    try:
        count = min(int(session.call("nvmlDeviceGetMaxMigDeviceCount", handle)), MAX_PARTS)
    except ValueUnknownError:
        return
    for index in range(count):
        try:
            part = session.call("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
            uuid = session.call("nvmlDeviceGetUUID", part)
            instance = int(session.call("nvmlDeviceGetGpuInstanceId", part))
        except ValueUnknownError as error:
            if error.code == NOT_FOUND:
                continue  # a number that no part has
            return
        total, used = _memory(session, part)
        yield MigReading(
            uuid=uuid,
            gpu_uuid=gpu_uuid,
            profile=_profile(session, part),
            gpu_instance=instance,
            memory_total_bytes=total,
            memory_used_bytes=used,
            **gpm.read(handle, uuid, instance=instance),
        )


def _profile(session: NvmlSession, part: Any) -> Text:
    try:
        found = _PROFILE.search(session.call("nvmlDeviceGetName", part))
    except ValueUnknownError as error:
        return Unknown(error.reason)
    return found[1] if found else Unknown(Reason.FAILED)


def _memory(session: NvmlSession, part: Any) -> tuple[float | Unknown, float | Unknown]:
    try:
        memory = session.call("nvmlDeviceGetMemoryInfo", part)
    except ValueUnknownError as error:
        return Unknown(error.reason), Unknown(error.reason)
    if not 0 <= memory.used <= memory.total < _BYTES_LIMIT:
        return Unknown(Reason.FAILED), Unknown(Reason.FAILED)
    return memory.total, memory.used
