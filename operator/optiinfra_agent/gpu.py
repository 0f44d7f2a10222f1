"""GPUs of the node, through the driver library.

Every pass enumerates anew, so a GPU that appears or disappears is seen; the library itself is opened again only
after an error of the whole node, with a growing pause. A driver without a visible GPU is a *failed* collection and
never an empty success: an empty list would read as "nothing here to be idle".

One lost GPU stays in the list with every value unknown, as long as its identity was read before; the others are
measured on. Numbers that no hardware can give (more than 100 %, all bits set) are unknown, not clamped.
SM activity comes from GPM alone: where that is missing it is *unsupported* and never borrowed from `utilization_ratio`,
which is 100 % for one tiny kernel.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from optiinfra_agent.errors import (
    NvmlCallError,
    SourceError,
    SourceFailedError,
    ValueUnknownError,
)
from optiinfra_agent.gpm import GpmSampler, unsupported
from optiinfra_agent.gpu_fields import read_fields
from optiinfra_agent.mig_instances import read_parts
from optiinfra_agent.numa import node_of
from optiinfra_agent.nvml import (
    ARGUMENT_VERSION_MISMATCH,
    FUNCTION_NOT_FOUND,
    LIB_RM_VERSION_MISMATCH,
    NOT_SUPPORTED,
    UNKNOWN,
    CodeClass,
    NvmlSession,
    code_class,
    code_name,
    source_error,
)
from optiinfra_agent.snapshot import ClockSeconds, GpuReading, Measured, MigReading, Reason, Text, Unknown
from optiinfra_agent.xid import XidListener

MAX_GPUS = 64
_FIRST_PAUSE_S = 1.0
_OLDER_DRIVER = (FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH)
_MAX_BYTES = 1 << 50
_MAX_MILLIWATTS = 100_000_000
_MAX_MILLIJOULES = 1 << 63
_MAX_MEGAHERTZ = 100_000
_MAX_CELSIUS = 300
_MAX_PROCESSES = 1_000_000
_MAX_MASK = 1 << 32


@dataclass(frozen=True, slots=True)
class GpuPass:
    """What one pass over the GPUs gave. `code` is the worst return code met, 0 when all was well."""

    gpus: tuple[GpuReading, ...]
    driver_version: Text
    mig_devices: tuple[MigReading, ...] = ()
    note: str = ""
    code: int = 0


class GpuCollector:
    """Reads every GPU, and remembers identities and failures between passes."""

    def __init__(
        self,
        session: NvmlSession,
        *,
        clock: Callable[[], float],
        longest_pause_s: float,
        sysfs: Path = Path("/sys"),
    ) -> None:
        self._session = session
        self._sysfs = sysfs
        self._gpm = GpmSampler(session, clock=clock)
        self._xid = XidListener(session)
        self._clock = clock
        self._longest_pause_s = longest_pause_s
        self._pause_s = _FIRST_PAUSE_S
        self._next_attempt = 0.0
        self._error: SourceError | None = None
        self._identities: dict[int, tuple[str, Text, Text]] = {}
        self._was_ok = False
        self.failures_needing_restart = 0

    def collect(self) -> GpuPass:
        """Return one pass, or raise the SourceError of the whole source."""
        try:
            reading = self._collect()
        except SourceError as error:
            if self._was_ok and error.code in {UNKNOWN, LIB_RM_VERSION_MISMATCH}:
                self.failures_needing_restart += 1
            raise
        self.failures_needing_restart = 0
        self._was_ok = True
        return reading

    def _collect(self) -> GpuPass:
        if not self._session.is_open:
            self._open()
        try:
            reading = self._read_all()
        except SourceError as error:
            if code_class(error.code) is CodeClass.NODE:
                self._session.close()
                self._postpone(error)
            raise
        # Only a pass that ended well resets the pause: a driver that initialises and then fails every time must
        # not be initialised every time.
        self._pause_s = _FIRST_PAUSE_S
        return reading

    def _open(self) -> None:
        if self._error is not None and self._clock() < self._next_attempt:
            raise type(self._error)(self._error.reason, code=self._error.code)
        try:
            self._session.open()
        except SourceError as error:
            self._postpone(error)
            raise
        self._error = None

    def _postpone(self, error: SourceError) -> None:
        # A fresh one: the error at hand carries the frames it was raised through.
        self._error = type(error)(error.reason, code=error.code)
        self._next_attempt = self._clock() + self._pause_s
        self._pause_s = min(self._pause_s * 2, self._longest_pause_s)

    def _read_all(self) -> GpuPass:
        try:
            count = int(self._session.call("nvmlDeviceGetCount"))
        except NvmlCallError as error:
            raise source_error(error.code, "nvmlDeviceGetCount") from error
        if count == 0:
            raise SourceFailedError("driver present but no GPU visible")
        if count > MAX_GPUS:
            raise SourceFailedError(f"the driver counts {count} GPUs; more than {MAX_GPUS} is not believed")
        gpus: list[GpuReading] = []
        handles: dict[str, Any] = {}
        parts: list[MigReading] = []
        lost: list[str] = []
        nameless: list[str] = []
        worst = 0
        for index in range(count):
            try:
                gpu = self._read_gpu(index, handles)
                if gpu.mig_enabled is True:
                    parts += read_parts(self._session, self._gpm, handles[gpu.uuid], gpu.uuid)
                gpus.append(gpu)
            except NvmlCallError as error:
                worst = error.code
                if index in self._identities:
                    gpus.append(_unmeasured(index, self._identities[index], error.reason))
                    lost.append(f"{self._identities[index][0]}: {code_name(error.code)}")
                else:
                    nameless.append(f"GPU {index}: {code_name(error.code)}")
        if nameless:
            # A GPU without identity cannot be listed, and a list that silently lacks it would be believed.
            raise SourceFailedError("; ".join([*nameless, *lost]), code=worst)
        self._gpm.keep({gpu.uuid for gpu in gpus} | {part.uuid for part in parts})
        xids = self._xid.collect(handles)
        gpus = [replace(gpu, xid_errors=xids.get(gpu.uuid, gpu.xid_errors)) for gpu in gpus]
        driver = _text(self._session, "nvmlSystemGetDriverVersion")
        return GpuPass(
            gpus=tuple(gpus), driver_version=driver, mig_devices=tuple(parts), note="; ".join(lost), code=worst
        )

    def _read_gpu(self, index: int, handles: dict[str, Any]) -> GpuReading:
        session = self._session
        handle = session.call("nvmlDeviceGetHandleByIndex", index)
        uuid = session.call("nvmlDeviceGetUUID", handle)
        if not uuid or len(uuid) > 96 or not uuid.isprintable():
            raise ValueUnknownError("nvmlDeviceGetUUID: not an identity", reason=Reason.FAILED, code=0)
        known = self._identities.get(index)
        if known is None or known[0] != uuid or isinstance(known[1], Unknown) or isinstance(known[2], Unknown):
            known = (uuid, _text(session, "nvmlDeviceGetName", handle), _bus_id(session, handle))
            self._identities[index] = known
        total, used, reserved = _memory(session, handle)
        bar1_total, bar1_used = _bar1(session, handle)
        counters, clocks = read_fields(session, handle)
        mig_enabled = _mig(session, handle)
        utilization, memory_utilization = _utilization(session, handle)
        reading = GpuReading(
            uuid=uuid,
            index=index,
            model=known[1],
            pci_bus_id=known[2],
            numa_node=node_of(self._sysfs, known[2]),
            memory_total_bytes=total,
            memory_used_bytes=used,
            memory_reserved_bytes=reserved,
            utilization_ratio=utilization,
            memory_utilization_ratio=memory_utilization,
            # Not asked of a partitioned GPU: its refusal would be remembered for when it is whole again.
            **(unsupported() if mig_enabled is True else self._gpm.read(handle, uuid)),
            **counters,
            clock_event_seconds=clocks,
            bar1_total_bytes=bar1_total,
            bar1_used_bytes=bar1_used,
            clock_event_reasons=_clock_events(session, handle),
            xid_errors=Unknown(Reason.UNAVAILABLE),
            power_watts=_scaled(session, "nvmlDeviceGetPowerUsage", handle, limit=_MAX_MILLIWATTS, scale=1e-3),
            power_limit_watts=_scaled(
                session, "nvmlDeviceGetEnforcedPowerLimit", handle, limit=_MAX_MILLIWATTS, scale=1e-3
            ),
            energy_joules_total=_scaled(
                session, "nvmlDeviceGetTotalEnergyConsumption", handle, limit=_MAX_MILLIJOULES, scale=1e-3
            ),
            temperature_celsius=_temperature(session, handle),
            sm_clock_hertz=_clock(session, handle, "NVML_CLOCK_SM"),
            memory_clock_hertz=_clock(session, handle, "NVML_CLOCK_MEM"),
            mig_enabled=mig_enabled,
            processes=_processes(session, handle),
        )
        handles[uuid] = handle
        return reading


def _unmeasured(index: int, identity: tuple[str, Text, Text], reason: Reason) -> GpuReading:
    uuid, model, bus_id = identity
    values: dict[str, Any] = {field.name: Unknown(reason) for field in fields(GpuReading)}
    values["clock_event_seconds"] = ClockSeconds(*[Unknown(reason)] * len(fields(ClockSeconds)))
    return GpuReading(**{**values, "uuid": uuid, "index": index, "model": model, "pci_bus_id": bus_id})


def _text(session: NvmlSession, name: str, *arguments: Any) -> Text:
    try:
        text = str(session.call(name, *arguments))
    except ValueUnknownError as error:
        return Unknown(error.reason)
    return text if text and len(text) <= 128 and text.isprintable() else Unknown(Reason.FAILED)


def _bus_id(session: NvmlSession, handle: Any) -> Text:
    try:
        raw = session.call("nvmlDeviceGetPciInfo", handle).busId
    except ValueUnknownError as error:
        return Unknown(error.reason)
    text = raw.decode("ascii", "replace") if isinstance(raw, bytes) else str(raw)
    return text if text.isprintable() and text else Unknown(Reason.FAILED)


def _believed(value: float, *, limit: float, scale: float | None = None) -> Measured:
    # All bits set and similar marks of "not available" are far above every limit.
    if not 0 <= value < limit:
        return Unknown(Reason.FAILED)
    return value if scale is None else round(value * scale, 6)


def _scaled(session: NvmlSession, name: str, *arguments: Any, limit: float, scale: float) -> Measured:
    try:
        return _believed(session.call(name, *arguments), limit=limit, scale=scale)
    except ValueUnknownError as error:
        return Unknown(error.reason)


def _memory(session: NvmlSession, handle: Any) -> tuple[Measured, Measured, Measured]:
    try:
        try:
            memory = session.call("nvmlDeviceGetMemoryInfo", handle, version=session.constant("nvmlMemory_v2"))
            reserved = _believed(memory.reserved, limit=_MAX_BYTES)
        except ValueUnknownError as error:
            if error.code not in _OLDER_DRIVER:
                raise
            # The older call counts the reserved part as used, and cannot tell how much it is.
            memory = session.call("nvmlDeviceGetMemoryInfo", handle)
            reserved = Unknown(error.reason)
    except ValueUnknownError as error:
        return Unknown(error.reason), Unknown(error.reason), Unknown(error.reason)
    total = _believed(memory.total, limit=_MAX_BYTES)
    used = _believed(memory.used, limit=_MAX_BYTES)
    if not isinstance(total, Unknown) and not isinstance(used, Unknown) and used > total:
        used = Unknown(Reason.FAILED)
    return total, used, reserved


def _utilization(session: NvmlSession, handle: Any) -> tuple[Measured, Measured]:
    try:
        rates = session.call("nvmlDeviceGetUtilizationRates", handle)
    except ValueUnknownError as error:
        return Unknown(error.reason), Unknown(error.reason)
    return _believed(rates.gpu, limit=101, scale=0.01), _believed(rates.memory, limit=101, scale=0.01)


def _temperature(session: NvmlSession, handle: Any) -> Measured:
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
    return _believed(value, limit=_MAX_CELSIUS)


def _clock(session: NvmlSession, handle: Any, kind: str) -> Measured:
    which = session.constant(kind)
    return _scaled(session, "nvmlDeviceGetClockInfo", handle, which, limit=_MAX_MEGAHERTZ, scale=1e6)


def _clock_events(session: NvmlSession, handle: Any) -> Measured:
    # The older name of the same call; both give a mask.
    for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
        try:
            return _believed(session.call(name, handle), limit=_MAX_MASK)
        except ValueUnknownError as error:
            if error.code != FUNCTION_NOT_FOUND:
                return Unknown(error.reason)
    return Unknown(Reason.UNSUPPORTED)


def _bar1(session: NvmlSession, handle: Any) -> tuple[Measured, Measured]:
    try:
        memory = session.call("nvmlDeviceGetBAR1MemoryInfo", handle)
    except ValueUnknownError as error:
        return Unknown(error.reason), Unknown(error.reason)
    return _believed(memory.bar1Total, limit=_MAX_BYTES), _believed(memory.bar1Used, limit=_MAX_BYTES)


def _mig(session: NvmlSession, handle: Any) -> bool | Unknown:
    try:
        current, _pending = session.call("nvmlDeviceGetMigMode", handle)
    except ValueUnknownError as error:
        # A GPU without MIG, or a driver from before it: certainly not partitioned.
        return False if error.code in {NOT_SUPPORTED, FUNCTION_NOT_FOUND} else Unknown(error.reason)
    return bool(current)


def _processes(session: NvmlSession, handle: Any) -> Measured:
    # Only counted. Their memory may be all bits set, and their ids mean nothing without the host's pid namespace.
    for name in ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetComputeRunningProcesses_v2"):
        try:
            return _believed(len(session.call(name, handle)), limit=_MAX_PROCESSES)
        except ValueUnknownError as error:
            if error.code != FUNCTION_NOT_FOUND:
                return Unknown(error.reason)
    return Unknown(Reason.UNSUPPORTED)
