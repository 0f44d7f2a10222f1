"""GPUs of the node, through the driver library.

Every pass enumerates anew, so a GPU that appears or disappears is seen; the library itself is opened again only
after an error of the whole node, with a growing pause. A driver without a visible GPU is a *failed* collection and
never an empty success: an empty list would read as "nothing here to be idle".

One lost GPU stays in the list with every value unknown, as long as its identity was read before; the others are
measured on. Numbers that no hardware can give (more than 100 %, all bits set) are unknown, not clamped.
SM activity comes from GPM alone: where that is missing it is *unsupported* and never borrowed from `utilization_ratio`,
which is 100 % for one tiny kernel.

What is remembered about a GPU (whether it has GPM, its process lists) is forgotten after an error of it, and all of
it with a new session: a GPU that was reset, or a driver that was replaced, is asked anew what it can do. That is a
*probe*.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from optiinfra_agent import gpu_values as values
from optiinfra_agent.errors import NvmlCallError, SourceError, SourceFailedError, ValueUnknownError
from optiinfra_agent.events import EventListener, GpuEvents
from optiinfra_agent.gpm import GpmSampler, unsupported
from optiinfra_agent.gpu_clients import ClientReader
from optiinfra_agent.gpu_fields import read_fields
from optiinfra_agent.mig_instances import read_parts
from optiinfra_agent.numa import node_of
from optiinfra_agent.nvml import (
    LIB_RM_VERSION_MISMATCH,
    UNKNOWN,
    CodeClass,
    NvmlSession,
    code_class,
    code_name,
    source_error,
)
from optiinfra_agent.samples import UtilizationSampler
from optiinfra_agent.snapshot import (
    ClockSeconds,
    GpuReading,
    GpuUser,
    Measured,
    MigReading,
    Reason,
    Text,
    Unknown,
    ValueSource,
)

MAX_GPUS = 64
_FIRST_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class GpuPass:
    """What one pass over the GPUs gave. `code` is the worst return code met, 0 when all was well."""

    gpus: tuple[GpuReading, ...]
    driver_version: Text
    mig_devices: tuple[MigReading, ...] = ()
    users: tuple[GpuUser, ...] = ()
    compute_modes: Mapping[str, Measured] = field(default_factory=dict)
    note: str = ""
    code: int = 0


@dataclass(frozen=True, slots=True)
class _Identity:
    """What does not change while a GPU is there. Asked again only while something of it is not known."""

    uuid: str
    model: Text
    bus_id: Text
    link: Measured


class GpuCollector:
    """Reads every GPU, and remembers identities and failures between passes."""

    def __init__(
        self,
        session: NvmlSession,
        *,
        clock: Callable[[], float],
        longest_pause_s: float,
        sysfs: Path = Path("/sys"),
        processes_every_s: float = 0.0,
        host_procfs: Path | None = None,
    ) -> None:
        self._session = session
        self._sysfs = sysfs
        self._gpm = GpmSampler(session, clock=clock)
        self._samples = UtilizationSampler(session)
        self._clients = ClientReader(session, clock=clock, every_s=processes_every_s, host_procfs=host_procfs)
        self._probed: set[str] = set()
        self._opening = 0
        self.probes = 0
        """How often a GPU was asked anew what it can do."""
        self._events = EventListener(session)
        self._clock = clock
        self._longest_pause_s = longest_pause_s
        self._pause_s = _FIRST_PAUSE_S
        self._next_attempt = 0.0
        self._error: SourceError | None = None
        self._identities: dict[int, _Identity] = {}
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
        if self._opening != self._session.openings:
            self._probed.clear()
            self._opening = self._session.openings
        gpus: list[GpuReading] = []
        users: list[GpuUser] = []
        modes: dict[str, Measured] = {}
        handles: dict[str, Any] = {}
        parts: list[MigReading] = []
        lost: list[str] = []
        failed: set[str] = set()
        nameless: list[str] = []
        worst = 0
        for index in range(count):
            try:
                gpu = self._read_gpu(index, handles)
                if gpu.mig_enabled is True:
                    gpu, found = self._read_parts(gpu, handles[gpu.uuid])
                    parts += found
                clients = self._clients.read(handles[gpu.uuid], gpu.uuid, index=index)
                gpus.append(replace(gpu, processes=clients.processes, mps_processes=clients.mps_processes))
                users += clients.users
                modes[gpu.uuid] = clients.compute_mode
            except NvmlCallError as error:
                worst = error.code
                if index in self._identities:
                    gpus.append(_unmeasured(index, self._identities[index], error.reason))
                    failed.add(self._identities[index].uuid)
                    lost.append(f"{self._identities[index].uuid}: {code_name(error.code)}")
                else:
                    nameless.append(f"GPU {index}: {code_name(error.code)}")
        if nameless:
            # A GPU without identity cannot be listed, and a list that silently lacks it would be believed.
            raise SourceFailedError("; ".join([*nameless, *lost]), code=worst)
        self._remember(handles.keys() - failed, parts)
        events = self._events.collect(handles)
        gpus = [_with_events(gpu, events[gpu.uuid]) if gpu.uuid in events else gpu for gpu in gpus]
        driver = values.text(self._session, "nvmlSystemGetDriverVersion")
        return GpuPass(
            gpus=tuple(gpus),
            driver_version=driver,
            mig_devices=tuple(parts),
            users=tuple(users),
            compute_modes=modes,
            note="; ".join(lost),
            code=worst,
        )

    def _remember(self, well: Collection[str], parts: Collection[MigReading]) -> None:
        """Forget what is known of GPUs that are gone or failed, and count those that were asked for the first time."""
        self._gpm.keep({*well, *(part.uuid for part in parts)})
        self._samples.keep(well)
        self._clients.keep(well)
        self.probes += len(set(well) - self._probed)
        self._probed = set(well)

    def _read_parts(self, gpu: GpuReading, handle: Any) -> tuple[GpuReading, tuple[MigReading, ...]]:
        parts = read_parts(self._session, self._gpm, handle, gpu.uuid, memory=gpu.memory_total_bytes)
        elsewhere = tuple((name, ValueSource.MIG_AGGREGATE) for name in parts.activity)
        activity: dict[str, Any] = {**parts.activity, "from_elsewhere": (*gpu.from_elsewhere, *elsewhere)}
        return replace(gpu, **activity), parts.devices

    def _read_gpu(self, index: int, handles: dict[str, Any]) -> GpuReading:
        session = self._session
        handle = session.call("nvmlDeviceGetHandleByIndex", index)
        uuid = session.call("nvmlDeviceGetUUID", handle)
        if not uuid or len(uuid) > 96 or not uuid.isprintable():
            raise ValueUnknownError("nvmlDeviceGetUUID: not an identity", reason=Reason.FAILED, code=0)
        known = self._identities.get(index)
        if known is None or known.uuid != uuid or any(isinstance(one, Unknown) for one in (known.model, known.bus_id)):
            known = _Identity(
                uuid=uuid,
                model=values.text(session, "nvmlDeviceGetName", handle),
                bus_id=values.bus_id(session, handle),
                link=values.pcie_link(session, handle),
            )
            self._identities[index] = known
        total, used, reserved, memory_source = values.memory(session, handle)
        bar1_total, bar1_used = values.bar1(session, handle)
        counters, clocks = read_fields(session, handle)
        mig_enabled = values.mig(session, handle)
        utilization, memory_utilization = values.utilization(session, handle)
        mean, maximum = self._samples.read(handle, uuid)
        reading = GpuReading(
            uuid=uuid,
            index=index,
            model=known.model,
            pci_bus_id=known.bus_id,
            numa_node=node_of(self._sysfs, known.bus_id),
            pcie_link_bytes_per_second=known.link,
            memory_total_bytes=total,
            memory_used_bytes=used,
            memory_reserved_bytes=reserved,
            utilization_ratio=utilization,
            memory_utilization_ratio=memory_utilization,
            utilization_mean_ratio=mean,
            utilization_max_ratio=maximum,
            # Not asked of a partitioned GPU: its refusal would be remembered for when it is whole again.
            **(unsupported() if mig_enabled is True else self._gpm.read(handle, uuid)),
            **counters,
            clock_event_seconds=clocks,
            bar1_total_bytes=bar1_total,
            bar1_used_bytes=bar1_used,
            clock_event_reasons=values.clock_events(session, handle),
            xid_errors=Unknown(Reason.UNAVAILABLE),
            unavailable_events=Unknown(Reason.UNAVAILABLE),
            recovery_events=Unknown(Reason.UNAVAILABLE),
            power_watts=values.scaled(
                session, "nvmlDeviceGetPowerUsage", handle, limit=values.MAX_MILLIWATTS, scale=1e-3
            ),
            power_limit_watts=values.scaled(
                session, "nvmlDeviceGetEnforcedPowerLimit", handle, limit=values.MAX_MILLIWATTS, scale=1e-3
            ),
            energy_joules_total=values.scaled(
                session, "nvmlDeviceGetTotalEnergyConsumption", handle, limit=values.MAX_MILLIJOULES, scale=1e-3
            ),
            temperature_celsius=values.temperature(session, handle),
            sm_clock_hertz=values.clock(session, handle, "NVML_CLOCK_SM"),
            memory_clock_hertz=values.clock(session, handle, "NVML_CLOCK_MEM"),
            mig_enabled=mig_enabled,
            processes=Unknown(Reason.UNAVAILABLE),
            mps_processes=Unknown(Reason.UNAVAILABLE),
            from_elsewhere=(("memory_used_bytes", memory_source),) if memory_source is not ValueSource.NVML else (),
        )
        handles[uuid] = handle
        return reading


def _with_events(gpu: GpuReading, seen: GpuEvents) -> GpuReading:
    return replace(gpu, xid_errors=seen.xids, unavailable_events=seen.unavailable, recovery_events=seen.recovery)


def _unmeasured(index: int, identity: _Identity, reason: Reason) -> GpuReading:
    unknown: dict[str, Any] = {one.name: Unknown(reason) for one in fields(GpuReading)}
    unknown["clock_event_seconds"] = ClockSeconds(*[Unknown(reason)] * len(fields(ClockSeconds)))
    known = {"uuid": identity.uuid, "index": index, "model": identity.model, "pci_bus_id": identity.bus_id}
    return GpuReading(**{**unknown, **known, "from_elsewhere": ()})
