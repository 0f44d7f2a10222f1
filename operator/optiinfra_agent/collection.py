"""The background collection: one pass over all sources every interval, published as one immutable whole.

A request never reads a source. It takes whatever was published last, in one reference assignment, so it can neither
wait for a driver nor see half a pass. A source that fails is reported as failed in an otherwise good snapshot; a
fault of the loop itself ends the loop, and `/health/live` says so: a loop that swallows its own faults would serve
old numbers for ever.

The driver, the kubelet and the containers' cgroups are read through a worker with a deadline each; cgroups are read
more rarely, and what was read last stands until then. The other files of the kernel answer at once; should one of them
hang, the loop stands still and the liveness check notices.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from optiinfra_agent import __version__, privilege
from optiinfra_agent.containers import ContainerPass, ContainerUsage
from optiinfra_agent.cpu import CpuCollector
from optiinfra_agent.deadline import DeadlineWorker
from optiinfra_agent.disks import DiskCollector
from optiinfra_agent.document import pieces
from optiinfra_agent.errors import SourceError, SourceFailedError, SourceStuckError
from optiinfra_agent.gpu import GpuCollector, GpuPass
from optiinfra_agent.memory import MemoryCollector
from optiinfra_agent.mig import MigParents
from optiinfra_agent.network import NetworkCollector
from optiinfra_agent.numa import NumaCollector
from optiinfra_agent.nvml import NvmlSession
from optiinfra_agent.own_usage import OwnUsageCollector
from optiinfra_agent.pods import (
    NOTHING,
    Known,
    PodCollector,
    PodPass,
    attribute,
    mig_devices,
    names_minors,
    read_minors,
    unattributed,
)
from optiinfra_agent.pressure import PressureCollector
from optiinfra_agent.settings import Settings
from optiinfra_agent.sharing import shared_gpus
from optiinfra_agent.snapshot import (
    AgentIdentity,
    CpuReading,
    DiskReading,
    MemoryReading,
    NetworkReading,
    NumaReading,
    OwnUsage,
    PressureReading,
    Reason,
    Snapshot,
    SourceName,
    SourceReport,
    SourceState,
    Unknown,
    all_unknown,
    reason_of,
)

log = logging.getLogger(__name__)

Reading = TypeVar("Reading")
Values = TypeVar("Values", CpuReading, MemoryReading, PressureReading, NetworkReading, DiskReading, OwnUsage)

CONTAINERS_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class Published:
    """One snapshot, its JSON, and what only this process can tell about it (times on the monotonic clock)."""

    snapshot: Snapshot
    pieces: tuple[bytes, ...]
    collected: float
    succeeded: dict[SourceName, float]
    nvml_code: int | None
    passes: int
    probes: int

    @property
    def body(self) -> bytes:
        """The whole document."""
        return b"".join(self.pieces)


class Collection:
    """Reads all sources, in a thread of its own once started."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._identity = AgentIdentity(id=settings.identity, version=__version__, started=round(time.time(), 3))
        self._cpu = CpuCollector(settings.procfs)
        self._memory = MemoryCollector(settings.procfs)
        self._pressure = PressureCollector(settings.procfs)
        self._network = NetworkCollector(settings.procfs)
        self._disks = DiskCollector(settings.procfs)
        self._numa = NumaCollector(settings.sysfs)
        self._own = OwnUsageCollector()
        self._process = privilege.of_procfs(privilege.read_process(), settings.procfs)
        session = NvmlSession()
        self._gpu = GpuCollector(
            session,
            clock=time.monotonic,
            longest_pause_s=settings.nvml_backoff_s,
            sysfs=settings.sysfs,
            processes_every_s=settings.processes_interval_s,
            host_procfs=None if self._process.host_pids else settings.procfs,
        )
        self._mig = MigParents(session)
        self._worker: DeadlineWorker[tuple[GpuPass, Known]] = DeadlineWorker("nvml")
        self._pods = PodCollector(settings.pod_resources, deadline_s=settings.pod_resources_deadline_s)
        self._pods_worker: DeadlineWorker[PodPass] = DeadlineWorker("pod_resources")
        self._containers = _Slow(ContainerUsage(settings).collect, every_s=settings.containers_interval_s)
        self._succeeded: dict[SourceName, float] = {}
        self._states: dict[SourceName, SourceState] = {}
        self.measured = threading.Event()
        self._passes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="collection", daemon=True)
        self._progress = time.monotonic()
        self._published: Published | None = None
        self._followers: tuple[Callable[[Published], None], ...] = ()

    def follow(self, prepare: Callable[[Published], None]) -> None:
        """Call this with each pass before it is published, in the thread that collects; it must not raise."""
        self._followers = (*self._followers, prepare)

    @property
    def published(self) -> Published | None:
        """The last finished pass; None before the first one."""
        return self._published

    def start(self) -> None:
        """Begin to collect in the background."""
        self._progress = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """End the background collection. Does not wait: a pass that hangs in the driver never ends."""
        self._stop.set()

    def age_s(self) -> float | None:
        """Return the age of the last snapshot; None before the first one."""
        published = self._published
        return None if published is None else max(0.0, time.monotonic() - published.collected)

    def readiness(self) -> str:
        """Return why the snapshot cannot be relied on, or nothing."""
        age = self.age_s()
        if age is None:
            return "no snapshot yet: the first collection is still running"
        if age > self._settings.stale_after_s:
            return f"the snapshot is {age:.0f} s old"
        return ""

    def liveness(self) -> str:
        """Return why this process should be restarted, or nothing."""
        if not self._thread.is_alive():
            return "the collection loop has ended"
        idle = time.monotonic() - self._progress
        if idle > self._settings.stale_after_s:
            return f"the collection loop has stood still for {idle:.0f} s"
        limit = self._settings.nvml_restart_after
        failures = self._gpu.failures_needing_restart
        if limit and failures >= limit:
            return f"{failures} collections in a row failed in a way that only a restart cures (NVML)"
        return ""

    def collect(self) -> Published:
        """Run one pass now, publish it and return it."""
        now = round(time.time(), 3)
        sources: dict[SourceName, SourceReport] = {}

        def attempt(name: SourceName, read: Callable[[], Reading]) -> Reading | SourceError:
            outcome, sources[name] = self._attempt(name, read, now)
            return outcome

        pods = attempt(SourceName.POD_RESOURCES, self._read_pods)
        read = attempt(SourceName.NVML, lambda: self._read_gpus(pods))
        gpus, known = (read, NOTHING) if isinstance(read, SourceError) else read
        cpu = attempt(SourceName.CPU, self._cpu.collect)
        memory = attempt(SourceName.MEMORY, self._memory.collect)
        pressure = attempt(SourceName.PRESSURE, self._pressure.collect)
        network = attempt(SourceName.NETWORK, self._network.collect)
        disks = attempt(SourceName.DISKS, self._disks.collect)
        numa = attempt(SourceName.NUMA, self._numa.collect)
        containers = attempt(SourceName.CONTAINERS, self._containers.collect)
        own = attempt(SourceName.OWN_CGROUP, self._own.collect)
        attribution = unattributed(pods) if isinstance(pods, SourceError) else attribute(pods, known)
        driven = gpus if isinstance(gpus, GpuPass) else GpuPass((), Unknown(Reason.UNAVAILABLE))
        used = ContainerPass() if isinstance(containers, SourceError) else containers
        if driven.note:
            sources[SourceName.NVML] = replace(sources[SourceName.NVML], reason=driven.note)
        sources[SourceName.CONTAINERS] = replace(
            sources[SourceName.CONTAINERS],
            time=now if self._containers.is_fresh else self._containers.time,
            reason=used.note or sources[SourceName.CONTAINERS].reason,
        )
        snapshot = Snapshot(
            time=now,
            node=self._settings.node_name,
            agent=self._identity,
            sources=sources,
            cpu=_known(CpuReading, cpu),
            memory=_known(MemoryReading, memory),
            pressure=_known(PressureReading, pressure),
            network=_known(NetworkReading, network),
            disks=_known(DiskReading, disks),
            numa=NumaReading(()) if isinstance(numa, SourceError) else numa,
            driver_version=driven.driver_version,
            gpus=driven.gpus,
            mig_devices=driven.mig_devices,
            sharing=shared_gpus(driven.gpus, attribution, driven.compute_modes),
            gpu_users=driven.users,
            attribution=attribution,
            containers=used.containers,
            named_containers=used.named,
            privilege=privilege.assess(self._process, sources[SourceName.POD_RESOURCES]),
            usage=_known(OwnUsage, own),
        )
        self._passes += 1
        published = Published(
            snapshot=snapshot,
            pieces=pieces(snapshot),
            collected=time.monotonic(),
            succeeded=dict(self._succeeded),
            nvml_code=None if isinstance(gpus, SourceStuckError) else gpus.code,
            passes=self._passes,
            probes=self._gpu.probes,
        )
        for prepare in self._followers:
            prepare(published)
        self._published = published
        self.measured.set()
        return published

    def _read_pods(self) -> PodPass:
        # The call has a deadline of its own; the worker's is for a mount that hangs.
        deadline_s = 3 * self._settings.pod_resources_deadline_s
        return self._pods_worker.run(self._pods.collect, deadline_s=deadline_s)

    def _read_gpus(self, pods: PodPass | SourceError) -> tuple[GpuPass, Known]:
        def read() -> tuple[GpuPass, Known]:
            gpus = self._gpu.collect()
            if isinstance(pods, SourceError):
                return gpus, NOTHING
            minors = read_minors(self._settings.procfs) if names_minors(pods) else {}
            return gpus, Known(minors=minors, mig_parents=self._mig.resolve(mig_devices(pods)))

        # One call for all that the driver answers: the session belongs to the worker's thread.
        return self._worker.run(read, deadline_s=self._settings.nvml_deadline_s)

    def _attempt(
        self, name: SourceName, read: Callable[[], Reading], now: float
    ) -> tuple[Reading | SourceError, SourceReport]:
        started = time.monotonic()
        outcome: Reading | SourceError
        try:
            outcome = read()
        except SourceError as error:
            outcome = error
        except Exception as error:
            # A fault in one collector is that source's failure; the other sources are still worth serving.
            log.exception("a collector broke", extra={"fields": {"source": name.value}})
            outcome = SourceFailedError(f"the collector broke: {type(error).__name__}")
        finished = time.monotonic()
        if isinstance(outcome, SourceError):
            state, reason = outcome.state, outcome.reason
        else:
            state, reason = SourceState.OK, ""
            self._succeeded[name] = finished
        if self._states.get(name) is not state:
            level = logging.WARNING if state in UNWELL else logging.INFO
            fields = {"source": name.value, "state": state.value, "reason": reason}
            log.log(level, "a source changed its state", extra={"fields": fields})
            self._states[name] = state
        return outcome, SourceReport(state=state, reason=reason, time=now, duration_s=round(finished - started, 6))

    def _run(self) -> None:
        following = time.monotonic()
        while not self._stop.is_set():
            self._progress = time.monotonic()
            self.collect()
            # Passes that were missed while one took too long are left out, not made up for in a burst.
            following = max(following + self._settings.interval_s, time.monotonic())
            self._stop.wait(following - time.monotonic())


def _known(model: type[Values], outcome: Values | SourceError) -> Values:
    return all_unknown(model, reason_of(outcome.state)) if isinstance(outcome, SourceError) else outcome


UNWELL = frozenset({SourceState.FAILED, SourceState.DENIED, SourceState.STUCK})


class _Slow:
    """A source that is read more rarely than the others: between two readings the last outcome stands."""

    def __init__(self, read: Callable[[], ContainerPass], *, every_s: float) -> None:
        self._read = read
        self._every_s = every_s
        self._worker: DeadlineWorker[ContainerPass] = DeadlineWorker("containers")
        self._outcome: ContainerPass | SourceError = ContainerPass()
        self._following = 0.0
        self.time = 0.0
        """When it was last read (Unix seconds)."""
        self.is_fresh = False
        """Whether that was in this pass."""

    def collect(self) -> ContainerPass:
        """Return the last reading, which may be a new one."""
        self.is_fresh = time.monotonic() >= self._following
        if self.is_fresh:
            self.time = round(time.time(), 3)
            self._following = time.monotonic() + self._every_s
            # Stands if the reading breaks in a way that nobody foresaw: an older one must not be taken for this one.
            self._outcome = SourceFailedError("the last reading broke")
            try:
                self._outcome = self._worker.run(self._read, deadline_s=CONTAINERS_DEADLINE_S)
            except SourceError as error:
                self._outcome = error
        if isinstance(self._outcome, SourceError):
            raise type(self._outcome)(self._outcome.reason, code=self._outcome.code)
        return self._outcome
