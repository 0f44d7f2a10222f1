"""Single values of one GPU, each by one call of the driver.

A value that cannot be had is an Unknown with its reason and never an exception; a GPU that is lost, or a session that
is gone, is one, because nothing more can be read then. Numbers that no hardware can give (more than 100 %, all bits
set) are unknown, not clamped. Calls that older drivers have under another name are tried under that, too.
"""

from typing import Any, Final

from optiinfra_agent.errors import ValueUnknownError
from optiinfra_agent.nvml import ARGUMENT_VERSION_MISMATCH, FUNCTION_NOT_FOUND, NOT_SUPPORTED, NvmlSession
from optiinfra_agent.snapshot import Measured, Reason, Text, Unknown, ValueSource

MAX_MILLIWATTS: Final = 100_000_000
MAX_MILLIJOULES: Final = 1 << 63
_OLDER_DRIVER: Final = (FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH)
_MAX_BYTES: Final = 1 << 50
_MAX_MEGAHERTZ: Final = 100_000
_MAX_CELSIUS: Final = 300
_MAX_MASK: Final = 1 << 32
_MAX_LANES: Final = 32
_LANE: Final = {1: 250e6, 2: 500e6, 3: 8e9 / 8 * 128 / 130, 4: 16e9 / 8 * 128 / 130, 5: 32e9 / 8 * 128 / 130, 6: 7563e6}
"""Generation of PCIe -> bytes a second of one lane, less the line code (128b/130b; flits of the sixth)."""


def text(session: NvmlSession, name: str, *arguments: Any) -> Text:
    """Return one text that the driver gives."""
    try:
        text = str(session.call(name, *arguments))
    except ValueUnknownError as error:
        return Unknown(error.reason)
    return text if text and len(text) <= 128 and text.isprintable() else Unknown(Reason.FAILED)


def bus_id(session: NvmlSession, handle: Any) -> Text:
    """Return the GPU's place on the PCI bus."""
    try:
        raw = session.call("nvmlDeviceGetPciInfo", handle).busId
    except ValueUnknownError as error:
        return Unknown(error.reason)
    text = raw.decode("ascii", "replace") if isinstance(raw, bytes) else str(raw)
    return text if text.isprintable() and text else Unknown(Reason.FAILED)


def believed(value: float, *, limit: float, scale: float | None = None) -> Measured:
    """Return a number of the driver, or that it is none."""
    # All bits set and similar marks of "not available" are far above every limit.
    if not 0 <= value < limit:
        return Unknown(Reason.FAILED)
    return value if scale is None else round(value * scale, 6)


def scaled(session: NvmlSession, name: str, *arguments: Any, limit: float, scale: float) -> Measured:
    """Return one number that the driver gives, in our unit; what is not below the limit is no measurement."""
    try:
        return believed(session.call(name, *arguments), limit=limit, scale=scale)
    except ValueUnknownError as error:
        return Unknown(error.reason)


def memory(session: NvmlSession, handle: Any) -> tuple[Measured, Measured, Measured, ValueSource]:
    """Return total, used and reserved, and by which call: the older one counts as used what the driver reserves."""
    source = ValueSource.NVML
    try:
        try:
            answer = session.call("nvmlDeviceGetMemoryInfo", handle, version=session.constant("nvmlMemory_v2"))
            reserved = believed(answer.reserved, limit=_MAX_BYTES)
        except ValueUnknownError as error:
            if error.code not in _OLDER_DRIVER:
                raise
            answer = session.call("nvmlDeviceGetMemoryInfo", handle)
            reserved, source = Unknown(error.reason), ValueSource.NVML_V1
    except ValueUnknownError as error:
        return Unknown(error.reason), Unknown(error.reason), Unknown(error.reason), source
    total = believed(answer.total, limit=_MAX_BYTES)
    used = believed(answer.used, limit=_MAX_BYTES)
    if not isinstance(total, Unknown) and not isinstance(used, Unknown) and used > total:
        used = Unknown(Reason.FAILED)
    return total, used, reserved, source


def utilization(session: NvmlSession, handle: Any) -> tuple[Measured, Measured]:
    """Return the share of the last window with a kernel running, and with the memory in use."""
    try:
        rates = session.call("nvmlDeviceGetUtilizationRates", handle)
    except ValueUnknownError as error:
        return Unknown(error.reason), Unknown(error.reason)
    return believed(rates.gpu, limit=101, scale=0.01), believed(rates.memory, limit=101, scale=0.01)


def temperature(session: NvmlSession, handle: Any) -> Measured:
    """Return the temperature of the chip."""
    sensor = session.constant("NVML_TEMPERATURE_GPU")
    try:
        try:
            value = session.call("nvmlDeviceGetTemperatureV", handle, sensor)
        except ValueUnknownError as error:
            if error.code not in _OLDER_DRIVER:
                raise
            value = session.call("nvmlDeviceGetTemperature", handle, sensor)
    except ValueUnknownError as error:
        return Unknown(error.reason)
    return believed(value, limit=_MAX_CELSIUS)


def clock(session: NvmlSession, handle: Any, kind: str) -> Measured:
    """Return one clock; `kind` is the constant of the binding."""
    which = session.constant(kind)
    return scaled(session, "nvmlDeviceGetClockInfo", handle, which, limit=_MAX_MEGAHERTZ, scale=1e6)


def clock_events(session: NvmlSession, handle: Any) -> Measured:
    """Return the mask of what holds the clocks at this moment."""
    # The older name of the same call; both give a mask.
    for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
        try:
            return believed(session.call(name, handle), limit=_MAX_MASK)
        except ValueUnknownError as error:
            if error.code != FUNCTION_NOT_FOUND:
                return Unknown(error.reason)
    return Unknown(Reason.UNSUPPORTED)


def bar1(session: NvmlSession, handle: Any) -> tuple[Measured, Measured]:
    """Return total and used of the memory that the CPU can map."""
    try:
        answer = session.call("nvmlDeviceGetBAR1MemoryInfo", handle)
    except ValueUnknownError as error:
        return Unknown(error.reason), Unknown(error.reason)
    return believed(answer.bar1Total, limit=_MAX_BYTES), believed(answer.bar1Used, limit=_MAX_BYTES)


def pcie_link(session: NvmlSession, handle: Any) -> Measured:
    """Return the bytes a second, in each direction, of the fastest PCIe link that GPU and slot can have."""
    try:
        generation = int(session.call("nvmlDeviceGetMaxPcieLinkGeneration", handle))
        width = int(session.call("nvmlDeviceGetMaxPcieLinkWidth", handle))
    except ValueUnknownError as error:
        return Unknown(error.reason)
    lane = _LANE.get(generation)
    return Unknown(Reason.FAILED) if lane is None or not 0 < width <= _MAX_LANES else round(lane * width)


def mig(session: NvmlSession, handle: Any) -> bool | Unknown:
    """Return whether the GPU is partitioned."""
    try:
        current, _pending = session.call("nvmlDeviceGetMigMode", handle)
    except ValueUnknownError as error:
        # A GPU without MIG, or a driver from before it: certainly not partitioned.
        return False if error.code in {NOT_SUPPORTED, FUNCTION_NOT_FOUND} else Unknown(error.reason)
    return bool(current)
