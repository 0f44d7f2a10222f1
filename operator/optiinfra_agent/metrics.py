"""The `/metrics` page: the last snapshot in Prometheus text, plus the agent's own series.

Names carry the prefix `optiinfra_`, base units, `_total` on counters, ratios from 0 to 1. Hot series carry the uuid
alone; what describes a GPU sits in `optiinfra_gpu_info`, so that a driver update does not start every series anew.
Unknown means that the series is absent: no NaN, no 0. Names of node_exporter and DCGM are never used, because they
would count the same thing twice on a node that runs both. Who holds a GPU sits in `optiinfra_gpu_allocation_info`, with
`workload_` before the names of its labels: a `pod` of ours would become `exported_pod` beside the scraper's own. One
series for each GPU that a container holds, at most `pods.MAX_ALLOCATIONS`; a node that claims more is a failed source.
Containers' CPU and memory are in the snapshot only: the kubelet already exports them for Prometheus.

prometheus-client writes the text: measured, it adds 2.3 MiB to this process, and it knows escaping, OpenMetrics and the
metrics of the own process. What a collection measured is written once, by the thread that collected it where somebody
read the page lately (`prepare`), so that a scrape does not wait for it, and kept until the next one; only ages and the
own process are written at each scrape.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from optiinfra_agent import capabilities, dcgm, gpu_families
from optiinfra_agent.collection import Collection, Published
from optiinfra_agent.families import PREFIX, Kind, add, family, single
from optiinfra_agent.registration import Registration
from optiinfra_agent.snapshot import NumaReading, SourceState
from optiinfra_agent.traffic import Traffic

_Write: TypeAlias = Callable[[CollectorRegistry], bytes]
_OPEN_METRICS_END = b"# EOF\n"
_READ_LATELY_S = 300.0
"""How long after a scrape the next one is prepared for."""
_MOST_KINDS = 8
"""Content types that are prepared; there are four."""

_CPU: tuple[tuple[str, str, Kind, str], ...] = (
    ("node_cpu_cores", "cores", "gauge", "CPU cores."),
    ("node_cpu_busy_seconds_total", "busy_seconds_total", "counter", "Busy CPU time since boot, over all cores."),
    ("node_cpu_utilization_ratio", "utilization_ratio", "gauge", "Busy share between the last two collections."),
    ("node_load1", "load1", "gauge", "Load average over one minute."),
)
_MEMORY: tuple[tuple[str, str, Kind, str], ...] = (
    ("node_memory_total_bytes", "total_bytes", "gauge", "Memory of the node."),
    ("node_memory_available_bytes", "available_bytes", "gauge", "Memory that could still be given out."),
    ("node_memory_used_bytes", "used_bytes", "gauge", "Total minus available."),
    ("node_swap_total_bytes", "swap_total_bytes", "gauge", "Swap space."),
    ("node_swap_used_bytes", "swap_used_bytes", "gauge", "Swap space in use."),
)
_NETWORK: tuple[tuple[str, str, Kind, str], ...] = (
    ("node_network_interfaces", "interfaces", "gauge", "Real network interfaces."),
    ("node_network_receive_bytes_total", "receive_bytes_total", "counter", "Bytes received over them."),
    ("node_network_transmit_bytes_total", "transmit_bytes_total", "counter", "Bytes sent over them."),
    ("node_network_errors_total", "errors_total", "counter", "Packets with errors."),
    ("node_network_dropped_total", "dropped_total", "counter", "Packets dropped."),
)
_DISKS: tuple[tuple[str, str, Kind, str], ...] = (
    ("node_disks", "disks", "gauge", "Whole disks."),
    ("node_disk_read_bytes_total", "read_bytes_total", "counter", "Bytes read from them."),
    ("node_disk_written_bytes_total", "written_bytes_total", "counter", "Bytes written to them."),
    ("node_disk_busy_seconds_total", "busy_seconds_total", "counter", "Time with a request at a disk, over all."),
    ("node_disk_waiting_seconds_total", "waiting_seconds_total", "counter", "Time of every request, added up."),
)
_USAGE: tuple[tuple[str, str, Kind, str], ...] = (
    ("agent_cgroup_cpu_seconds_total", "cpu_seconds_total", "counter", "CPU time of the agent's own cgroup."),
    ("agent_cgroup_cpu_throttled_seconds_total", "cpu_throttled_seconds_total", "counter", "Time it was throttled."),
    ("agent_cgroup_memory_bytes", "memory_bytes", "gauge", "Memory on the account of the agent's own cgroup."),
    ("agent_cgroup_working_set_bytes", "working_set_bytes", "gauge", "The same without inactive pages of files."),
    ("agent_cgroup_memory_limit_bytes", "memory_limit_bytes", "gauge", "Its limit; absent where there is none."),
)
_MODES = ("user", "system", "steal", "idle", "iowait")
_PRESSURE = (
    ("cpu", "some", "cpu_some_ratio"),
    ("memory", "some", "memory_some_ratio"),
    ("memory", "full", "memory_full_ratio"),
    ("io", "some", "io_some_ratio"),
    ("io", "full", "io_full_ratio"),
)


class Exposition:
    """The page: the families of the last collection, kept as text, and before them those of the moment."""

    def __init__(
        self, *, collection: Collection, registration: Registration, traffic: Traffic, dcgm_names: bool = False
    ) -> None:
        self._collection = collection
        self._dcgm_names = dcgm_names
        self._moment = CollectorRegistry()
        self._moment.register(_Moment(collection, registration, traffic))
        ProcessCollector(registry=self._moment)
        self._kept: tuple[Published | None, dict[str, bytes]] = (None, {})
        self._prepared: tuple[Published | None, dict[str, bytes]] = (None, {})
        self._asked: dict[str, tuple[_Write, float]] = {}
        """By content type: what writes it, and when it was asked for last (monotonic)."""

    def prepare(self, published: Published) -> None:
        """Write what is going to be asked for of a pass that is about to be published."""
        since = time.monotonic() - _READ_LATELY_S
        asked = tuple(self._asked.items())
        texts = {kind: self._written(published, write) for kind, (write, at) in asked if at >= since}
        self._prepared = (published, texts)

    def _written(self, published: Published, write: "_Write") -> bytes:
        measured = CollectorRegistry()
        measured.register(_Measured(published, dcgm_names=self._dcgm_names))
        return write(measured)

    def page(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its type: OpenMetrics where the Accept header asks for it, else Prometheus' text."""
        write, content_type = choose_encoder(accept)
        if content_type in self._asked or len(self._asked) < _MOST_KINDS:
            self._asked[content_type] = write, time.monotonic()
        published = self._collection.published
        if published is None:
            return write(self._moment), content_type
        # One reference of one moment: two scrapes at once may both write, and neither keeps the other's collection.
        of, texts = self._kept
        if of is not published:
            prepared_of, prepared = self._prepared
            texts = prepared if prepared_of is published else {}
            self._kept = (published, texts)
        if content_type not in texts:
            texts[content_type] = self._written(published, write)
        return write(self._moment).removesuffix(_OPEN_METRICS_END) + texts[content_type], content_type


class _Measured(Collector):
    """Families that stand until the next collection."""

    def __init__(self, published: Published, *, dcgm_names: bool) -> None:
        self._published = published
        self._dcgm_names = dcgm_names

    def collect(self) -> Iterator[Metric]:
        """Yield every family that has a value."""
        yield from _agent(self._published)
        snapshot = self._published.snapshot
        for reading, table in (
            (snapshot.cpu, _CPU),
            (snapshot.memory, _MEMORY),
            (snapshot.network, _NETWORK),
            (snapshot.disks, _DISKS),
            (snapshot.usage, _USAGE),
        ):
            for name, field, kind, meaning in table:
                found = family(name, meaning, kind, ())
                add(found, (), getattr(reading, field))
                if found.samples:
                    yield found
        pressure = family(
            "node_pressure_ratio",
            "Share of the last 10 s in which some or all tasks waited for a resource.",
            "gauge",
            ("resource", "kind"),
        )
        for resource, kind_of, field in _PRESSURE:
            add(pressure, (resource, kind_of), getattr(snapshot.pressure, field))
        if pressure.samples:
            yield pressure
        modes = family("node_cpu_seconds_total", "CPU time since boot by mode.", "counter", ("mode",))
        for mode in _MODES:
            add(modes, (mode,), getattr(snapshot.cpu, f"{mode}_seconds_total"))
        if modes.samples:
            yield modes
        yield from _numa(snapshot.numa)
        yield from gpu_families.gpus(snapshot.gpus, driver=snapshot.driver_version)
        yield from gpu_families.parts(snapshot.mig_devices)
        yield from gpu_families.attribution(snapshot.attribution)
        yield from gpu_families.sharing(snapshot.sharing)
        yield from gpu_families.users(snapshot.gpus, snapshot.gpu_users)
        if self._dcgm_names:
            yield from dcgm.families(snapshot)


class _Moment(Collector):
    """Families that change without a collection: ages, and whether the orchestrator knows this agent."""

    def __init__(self, collection: Collection, registration: Registration, traffic: Traffic) -> None:
        self._collection = collection
        self._registration = registration
        self._traffic = traffic

    def describe(self) -> Iterable[Metric]:
        """Return nothing: which families there are depends on what was measured."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every family that has a value."""
        state = self._registration.state
        if state.wanted:
            yield single("agent_registered", "1 while the orchestrator knows this agent.", float(state.registered))
        answered = self._traffic.answered
        requests = family("agent_requests_total", "Requests answered since the start.", "counter", ())
        requests.add_metric((), answered.requests)
        seconds = family("agent_request_seconds_total", "Time spent on answering them.", "counter", ())
        seconds.add_metric((), answered.seconds)
        yield from (requests, seconds)
        published = self._collection.published
        if published is None:
            return
        now = time.monotonic()
        yield single("agent_snapshot_age_seconds", "Age of the snapshot.", max(0.0, now - published.collected))
        ages = family("agent_source_age_seconds", "Time since the last success.", "gauge", ("source",))
        for name in published.snapshot.sources:
            if name in published.succeeded:
                ages.add_metric((name.value,), max(0.0, now - published.succeeded[name]))
        yield ages


def _agent(published: Published) -> Iterator[Metric]:
    snapshot = published.snapshot
    info = InfoMetricFamily(PREFIX + "agent", "Version and node of the agent.")
    info.add_metric((), {"version": snapshot.agent.version, "node": snapshot.node, "agent_id": snapshot.agent.id})
    yield info
    passes = family("agent_collections_total", "Collections since the start.", "counter", ())
    passes.add_metric((), published.passes)
    yield passes
    success = family("agent_source_success", "1 if the last reading succeeded.", "gauge", ("source",))
    states = family("agent_source_state", "1 for the state the source is in.", "gauge", ("source", "state"))
    durations = family("agent_source_duration_seconds", "Time the last reading took.", "gauge", ("source",))
    for name, report in snapshot.sources.items():
        success.add_metric((name.value,), float(report.state is SourceState.OK))
        states.add_metric((name.value, report.state.value), 1.0)
        durations.add_metric((name.value,), report.duration_s)
    yield from (success, states, durations)
    yield single("agent_privilege_tier", "Highest tier of privilege that is there.", snapshot.privilege.tier)
    able = family("agent_capability_state", "1 for the state a capability is in.", "gauge", ("capability", "state"))
    for one in capabilities.assess(snapshot):
        able.add_metric((one.name, one.state), 1.0)
    yield able
    probes = family(
        "agent_gpu_probes_total", "GPUs asked anew what they can do: at first, after errors.", "counter", ()
    )
    probes.add_metric((), published.probes)
    yield probes
    if published.nvml_code is not None:
        meaning = "Last NVML return code of the last collection that was an error, 0 if there was none."
        yield single("agent_nvml_return_code", meaning, published.nvml_code)


def _numa(numa: NumaReading) -> Iterator[Metric]:
    for name, field, meaning in (
        ("node_numa_memory_total_bytes", "memory_total_bytes", "Memory of the NUMA node."),
        ("node_numa_memory_free_bytes", "memory_free_bytes", "Memory of the NUMA node that nothing uses."),
    ):
        found = family(name, meaning, "gauge", ("numa_node",))
        for node in numa.nodes:
            add(found, (str(node.number),), getattr(node, field))
        if found.samples:
            yield found
