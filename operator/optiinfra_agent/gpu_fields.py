"""Counters and states of a GPU that the driver gives as numbered fields: all of them in one call.

Bytes over PCIe and NVLink, time under a clock limit, memory errors, what the driver asks to be done with the GPU. The
usual call for PCIe traffic blocks 20 ms for each direction and GPU; the fields are counters and cost microseconds. Each
field succeeds or fails by itself, and a GPU without NVLink or ECC has *unsupported* there. A driver that does not
know the call at all has every field unknown, for that reason. Which fields a GPU lacks does not change while it runs;
it is asked anew all the same, because one call costs as much as another.
"""

import ctypes
import math
from dataclasses import dataclass, fields
from typing import Any, Final

from optiinfra_agent.errors import ValueUnknownError
from optiinfra_agent.nvml import NvmlSession, code_reason
from optiinfra_agent.snapshot import ClockSeconds, Measured, Reason, Unknown

_ALL_LINKS: Final = 0xFFFF_FFFF
_NANOSECONDS: Final = 1e-9
_KIB: Final = 1024.0
_BYTES_LIMIT: Final = float(1 << 62)
_SECONDS_LIMIT: Final = 1e10
_COUNT_LIMIT: Final = 1e12


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    """Field of a reading."""
    number: int
    """NVML_FI_DEV_*."""
    limit: float
    """What is not below it, in the reading's unit, is a mark of "not available" and no measurement."""
    scale: float = 1.0
    scope: int = 0


FIELDS: Final = (
    _Field("pcie_transmit_bytes_total", 197, _BYTES_LIMIT),
    _Field("pcie_receive_bytes_total", 198, _BYTES_LIMIT),
    _Field("nvlink_transmit_bytes_total", 138, _BYTES_LIMIT, scale=_KIB, scope=_ALL_LINKS),
    _Field("nvlink_receive_bytes_total", 139, _BYTES_LIMIT, scale=_KIB, scope=_ALL_LINKS),
    _Field("power_cap", 74, _SECONDS_LIMIT, scale=_NANOSECONDS),
    _Field("sync_boost", 76, _SECONDS_LIMIT, scale=_NANOSECONDS),
    _Field("software_thermal", 269, _SECONDS_LIMIT, scale=_NANOSECONDS),
    _Field("hardware_thermal", 270, _SECONDS_LIMIT, scale=_NANOSECONDS),
    _Field("power_brake", 271, _SECONDS_LIMIT, scale=_NANOSECONDS),
    _Field("ecc_corrected_errors", 3, _COUNT_LIMIT),
    _Field("ecc_uncorrected_errors", 4, _COUNT_LIMIT),
    _Field("remapped_rows_corrected", 142, _COUNT_LIMIT),
    _Field("remapped_rows_uncorrected", 143, _COUNT_LIMIT),
    _Field("remap_pending", 144, 2),
    _Field("remap_failed", 145, 2),
    _Field("memory_temperature_celsius", 82, 300),
    _Field("recovery_action", 230, 16),
    _Field("retired_pages_corrected", 29, _COUNT_LIMIT),
    _Field("retired_pages_uncorrected", 30, _COUNT_LIMIT),
    _Field("page_retirement_pending", 31, 2),
    _Field("power_instant_watts", 186, 1e5, scale=1e-3),
)
_CLOCKS: Final = tuple(field.name for field in fields(ClockSeconds))
NAMES: Final = tuple(one.name for one in FIELDS if one.name not in _CLOCKS)

# NVML_VALUE_TYPE_*: the member of the union that holds the value.
_MEMBERS: Final = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}


def read_fields(session: NvmlSession, handle: Any) -> tuple[dict[str, Measured], ClockSeconds]:
    """Return every field of one GPU by name, those of the clocks apart; raise GpuLostError or a SourceError."""
    try:
        values = session.call("nvmlDeviceGetFieldValues", handle, [(one.number, one.scope) for one in FIELDS])
    except ValueUnknownError as error:
        unknown = Unknown(error.reason)
        return dict.fromkeys(NAMES, unknown), ClockSeconds(*[unknown] * len(_CLOCKS))
    found = {one.name: _value(one, value) for one, value in zip(FIELDS, values, strict=True)}
    clocks = ClockSeconds(**{name: found.pop(name) for name in _CLOCKS})
    return found, clocks


def _value(one: _Field, answer: Any) -> Measured:
    # The binding declares the code without a sign.
    code = ctypes.c_int(answer.nvmlReturn).value
    if code:
        return Unknown(code_reason(code))
    member = _MEMBERS.get(answer.valueType)
    if member is None:
        return Unknown(Reason.FAILED)
    value = float(getattr(answer.value, member)) * one.scale
    if not math.isfinite(value) or not 0.0 <= value < one.limit:
        return Unknown(Reason.FAILED)
    return round(value, 3)
