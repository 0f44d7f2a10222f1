"""A node agent's `/v1/snapshot` (version 1) as a reading.

The agent runs on every node and may be old, new or broken, so everything is bounded and checked: an impossible number
becomes an Unknown of that one value, an impossible document is refused whole. Fields that are not known here are
ignored, and what an older agent does not send yet is unknown. Of containers only those of the pods that somebody asks
for are taken, by uid or, where the agent knows no uids, by name: a node runs hundreds, and readings are kept for half
an hour.
"""

from collections.abc import Container, Mapping
from typing import Any, Final

from optiinfra.cluster.agent_values import amount, amount_of, both, known_of, plain, ratio
from optiinfra.cluster.document import JsonObject, decode, flag, integer, mapping, objects, text, texts
from optiinfra.cluster.errors import FetchError, Malformed
from optiinfra.cluster.fetch import Fetcher, Transport, page_url
from optiinfra.domain.agent_readings import (
    NOT_REPORTED,
    Attribution,
    Attributor,
    ClockHolds,
    ContainerCounters,
    DeviceClaim,
    GpuFaults,
    GpuSharing,
    GpuUser,
    LinkCounters,
    NamedCounters,
    SharedBy,
    XidCounts,
)
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import AgentReading, GpuAllocation, GpuFacts

VERSION = 1
SNAPSHOT_LIMIT_BYTES = 1024 * 1024
GPU_LIMIT = 256
ALLOCATION_LIMIT = 4096
CONTAINER_LIMIT = 4096
XID_LIMIT = 64
LINK_LIMIT = 64
USER_LIMIT = 16_384
"""Containers with processes on a GPU, over all GPUs; agents name at most 257 a GPU."""
NO_PODS: Final[Container[str]] = frozenset()
NO_NAMES: Final[Container[tuple[str, str]]] = frozenset()
_NAME_LIMIT = 253

_STATES: Mapping[str, UnknownReason] = {
    "unavailable": UnknownReason.UNSUPPORTED,
    "unsupported": UnknownReason.UNSUPPORTED,
    "denied": UnknownReason.REFUSED,
    "failed": UnknownReason.INVALID,
    "stuck": UnknownReason.UNREACHABLE,
}
_SHARED_BY: Mapping[str, SharedBy] = {by.value: by for by in SharedBy}
_BY: Mapping[str, Attributor] = {"kubelet": Attributor.KUBELET, "requests": Attributor.REQUESTS}


async def read_snapshot(
    fetcher: Fetcher, *, host: str, port: int, timeout_s: float, transport: Transport | None = None
) -> AgentReading:
    """Fetch and parse one agent's snapshot; every failure is a FetchError."""
    transport = transport or Transport(accept="application/json")
    url = page_url(host=host, port=port, path="/v1/snapshot", scheme=transport.scheme)
    page = await fetcher.fetch(url, timeout_s=timeout_s, limit_bytes=SNAPSHOT_LIMIT_BYTES, transport=transport)
    try:
        return parse_snapshot(page.body)
    except Malformed as error:
        raise FetchError(Unknown(UnknownReason.INVALID, error.message), url=str(url)) from error


def parse_snapshot(
    body: bytes, *, pods: Container[str] = NO_PODS, names: Container[tuple[str, str]] = NO_NAMES
) -> AgentReading:
    """Parse a snapshot; `Malformed` names the field that is impossible.

    Args:
        body: the page as it was served.
        pods: uids of the pods whose containers are wanted.
        names: (namespace, name) of the same pods, for agents that know no uids.
    """
    if len(body) > SNAPSHOT_LIMIT_BYTES:
        raise Malformed(f"snapshot of more than {SNAPSHOT_LIMIT_BYTES} bytes")
    document = decode(body, what="snapshot")
    version = integer(document, "version")
    if version != VERSION:
        raise Malformed(f"snapshot of version {version}; this operator reads version {VERSION}")
    moment = plain(document.get("time"))
    node = text(document, "node")
    if moment is None or moment <= 0.0 or not node or len(node) > _NAME_LIMIT:
        raise Malformed("snapshot without a time and a node")
    gpus = objects(document, "gpus")
    allocations = objects(document, "allocations")
    claims = objects(document, "claims")
    if len(gpus) > GPU_LIMIT or len(allocations) + len(claims) > ALLOCATION_LIMIT:
        raise Malformed(f"snapshot of {len(gpus)} GPUs, {len(allocations)} allocations and {len(claims)} claims")
    cpu = mapping(document, "cpu")
    memory = mapping(document, "memory")
    return AgentReading(
        time=UnixTime(moment),
        node=node,
        agent_version=text(document, "agent", "version")[:64],
        cpu_cores=amount(cpu, "cores"),
        cpu_utilization_ratio=ratio(cpu, "utilization_ratio"),
        memory_total_bytes=amount(memory, "total_bytes"),
        memory_available_bytes=amount(memory, "available_bytes"),
        gpus=tuple(_gpu(gpu) for gpu in gpus),
        gpu_source=_source(mapping(document, "sources", "nvml"), what="GPU source"),
        allocations=tuple(_allocation(allocation) for allocation in allocations),
        simulated=flag(document, "simulated") or flag(document, "agent", "simulated"),
        attribution=_attribution(mapping(document, "attribution")),
        claims=tuple(_claim(claim) for claim in claims),
        containers=tuple(_containers(document, pods)) if pods is not NO_PODS else (),
        named=tuple(_named(document, names)) if names is not NO_NAMES else (),
        containers_at=_moment(mapping(document, "sources", "containers")),
        containers_source=_source(mapping(document, "sources", "containers"), what="source of containers"),
        cpu_pressure_ratio=ratio(mapping(document, "pressure"), "cpu_some_ratio"),
        links=_links(mapping(document, "network")),
        sharing=_sharing(document),
        users=_users(document, gpus),
    )


def _moment(source: JsonObject) -> UnixTime | None:
    """Return when a source was read; None where that is when the snapshot was made."""
    moment = plain(source.get("time"))
    return UnixTime(moment) if moment is not None and moment > 0.0 else None


def _gpu(gpu: JsonObject) -> GpuFacts:
    uuid = text(gpu, "uuid")
    if not uuid or len(uuid) > _NAME_LIMIT:
        raise Malformed("snapshot with a GPU without uuid")
    sent, received = amount(gpu, "pcie_transmit_bytes_total"), amount(gpu, "pcie_receive_bytes_total")
    held = mapping(gpu, "clock_event_seconds")
    return GpuFacts(
        uuid=uuid,
        model=_name(gpu, "model")[:128],
        memory_total_bytes=amount(gpu, "memory_total_bytes"),
        memory_used_bytes=amount(gpu, "memory_used_bytes"),
        utilization_ratio=ratio(gpu, "utilization_ratio"),
        power_watts=amount(gpu, "power_watts"),
        power_limit_watts=amount(gpu, "power_limit_watts"),
        energy_joules=amount(gpu, "energy_joules_total"),
        sm_active_ratio=ratio(gpu, "sm_active_ratio"),
        pcie_bytes=both(sent, received),
        pcie_transmit_bytes=sent,
        pcie_receive_bytes=received,
        pcie_speed=amount(gpu, "pcie_link_bytes_per_second"),
        utilization_max_ratio=ratio(gpu, "utilization_max_ratio"),
        tensor_active_ratio=ratio(gpu, "tensor_active_ratio"),
        dram_active_ratio=ratio(gpu, "dram_active_ratio"),
        clocks=ClockHolds(
            amount(gpu, "clock_event_reasons"),
            known_of(amount(held, "software_thermal"), amount(held, "hardware_thermal")),
            known_of(amount(held, "power_cap"), amount(held, "power_brake")),
        ),
        faults=GpuFaults(
            _xids(gpu),
            amount(gpu, "recovery_action"),
            amount(gpu, "remap_failed"),
            amount(gpu, "remap_pending"),
            amount(gpu, "unavailable_events"),
        ),
    )


def _xids(gpu: JsonObject) -> XidCounts:
    counted = gpu.get("xid_errors")
    if not isinstance(counted, list):
        unknown = amount(gpu, "xid_errors")
        return unknown if isinstance(unknown, Unknown) else NOT_REPORTED
    found: list[tuple[int, int]] = []
    for pair in counted[:XID_LIMIT]:
        numbers = [plain(one) for one in pair] if isinstance(pair, list) else []
        if len(numbers) != 2 or numbers[0] is None or numbers[1] is None or min(numbers[0], numbers[1]) < 0.0:
            return Unknown(UnknownReason.INVALID, "agent: xid_errors is not a list of pairs of numbers")
        found.append((int(numbers[0]), int(numbers[1])))
    return tuple(found)


def _allocation(allocation: JsonObject) -> GpuAllocation:
    return GpuAllocation(
        gpu_uuid=_name(allocation, "gpu_uuid"),
        namespace=_name(allocation, "namespace"),
        pod=_name(allocation, "pod"),
        container=_name(allocation, "container"),
        shared=flag(allocation, "shared"),
    )


def _name(holder: JsonObject, field: str) -> str:
    # Most are texts, and there are hundreds: what is none goes the longer way, which says what is wrong.
    value = holder.get(field)
    return value[:_NAME_LIMIT] if type(value) is str else text(holder, field)


def _sharing(document: JsonObject) -> tuple[GpuSharing, ...]:
    listed = objects(document, "sharing")
    if len(listed) > GPU_LIMIT:
        raise Malformed(f"snapshot of {len(listed)} shared GPUs")
    # A way that is not known here, of a newer agent, is some way: it is shared all the same.
    return tuple(
        GpuSharing(_name(one, "gpu_uuid"), _SHARED_BY.get(text(one, "by"), SharedBy.REPLICAS), integer(one, "replicas"))
        for one in listed
    )


def _users(document: JsonObject, gpus: list[JsonObject]) -> tuple[GpuUser, ...]:
    rows = document.get("gpu_users")
    if rows is None:
        return ()
    if not isinstance(rows, list) or len(rows) > USER_LIMIT:
        raise Malformed(f"snapshot whose gpu_users are no list of at most {USER_LIMIT}")
    uuids = {gpu.get("index"): text(gpu, "uuid") for gpu in gpus} if rows else {}
    return tuple(_user(row, uuids) for row in rows)


def _user(row: Any, uuids: Mapping[Any, str]) -> GpuUser:
    if not isinstance(row, list) or len(row) < 6 or not isinstance(row[1], str) or not isinstance(row[2], str):
        raise Malformed("snapshot with a user of a GPU whose row has not six fields")
    uuid, processes = uuids.get(row[0]) if type(row[0]) is int else None, plain(row[3])
    if uuid is None or processes is None or processes < 0.0:
        raise Malformed("snapshot with a user of a GPU that is not in it, or without a number of processes")
    unknown = row[6] if len(row) > 6 else None
    share = amount_of(row[5], unknown, "sm_ratio")
    if not isinstance(share, Unknown) and share > 1.0:
        share = Unknown(UnknownReason.INVALID, "agent: sm_ratio is above 1")
    memory = amount_of(row[4], unknown, "memory_bytes")
    return GpuUser(uuid, row[1][:_NAME_LIMIT], row[2][:64], int(processes), memory, share)


def _attribution(attribution: JsonObject) -> Attribution | None:
    by = _BY.get(text(attribution, "by"))
    return None if by is None else Attribution(by, text(attribution, "reason")[:256])


def _claim(claim: JsonObject) -> DeviceClaim:
    return DeviceClaim(*(_name(claim, name) for name in DeviceClaim._fields))


def _links(network: JsonObject) -> tuple[LinkCounters, ...]:
    apart = objects(network, "links")[:LINK_LIMIT]
    return tuple(_link(link) for link in apart) if apart else (_link(network),) if network else ()


def _link(link: JsonObject) -> LinkCounters:
    return LinkCounters(
        text(link, "name")[:64],
        amount(link, "receive_bytes_total"),
        amount(link, "transmit_bytes_total"),
        amount(link, "speed_bytes_per_second"),
    )


_COUNTERS: Final = (
    "cpu_seconds_total",
    "working_set_bytes",
    "cpu_periods_total",
    "cpu_throttled_periods_total",
    "cpu_pressure_seconds_total",
    "memory_pressure_seconds_total",
    "io_pressure_seconds_total",
)
"""Columns of a container's row, in the order of `ContainerCounters` after its names."""
_NAMED_COUNTERS: Final = ("cpu_seconds_total", "working_set_bytes")
"""The same of `NamedCounters`."""


def _containers(document: JsonObject, pods: Container[str]) -> list[ContainerCounters]:
    names = texts(document, "container_fields")
    places = {name: place for place, name in enumerate(names)}
    if "id" not in places:
        return []
    columns = [(name, places.get(name)) for name in _COUNTERS]
    found: list[ContainerCounters] = []
    for uid, rows in mapping(document, "pods").items():
        if uid not in pods:
            continue
        if not isinstance(rows, list):
            raise Malformed("snapshot with a pod whose containers are no list")
        for row in rows:
            if len(found) >= CONTAINER_LIMIT:
                raise Malformed(f"snapshot of more than {CONTAINER_LIMIT} containers")
            found.append(_container(uid, row, place=places["id"], columns=columns, width=len(names)))
    return found


def _container(
    uid: str, row: Any, *, place: int, columns: list[tuple[str, int | None]], width: int
) -> ContainerCounters:
    if not isinstance(row, list) or len(row) < width or not isinstance(row[place], str):
        raise Malformed("snapshot with a container whose row does not have the fields that container_fields names")
    return ContainerCounters(uid, row[place][:64], *_values(row, columns, width=width))


def _values(row: list[Any], columns: list[tuple[str, int | None]], *, width: int) -> list[Value]:
    # A row with something unknown in it ends with the reasons.
    unknown = row[width] if len(row) > width else None
    return [NOT_REPORTED if at is None else amount_of(row[at], unknown, name) for name, at in columns]


def _named(document: JsonObject, names: Container[tuple[str, str]]) -> list[NamedCounters]:
    fields = texts(document, "named_container_fields")
    places = {name: place for place, name in enumerate(fields)}
    if "name" not in places:
        return []
    columns = [(name, places.get(name)) for name in _NAMED_COUNTERS]
    found: list[NamedCounters] = []
    for pod in objects(document, "named_pods"):
        namespace, name = text(pod, "namespace"), text(pod, "pod")
        if (namespace, name) not in names:
            continue
        rows = pod.get("containers")
        if not isinstance(rows, list) or len(found) + len(rows) > CONTAINER_LIMIT:
            raise Malformed(
                f"snapshot with a named pod whose containers are no list, or of more than {CONTAINER_LIMIT}"
            )
        for row in rows:
            if not isinstance(row, list) or len(row) < len(fields) or not isinstance(row[places["name"]], str):
                raise Malformed("snapshot with a named container whose row does not have the fields that are named")
            called = row[places["name"]][:_NAME_LIMIT]
            found.append(NamedCounters(namespace, name, called, *_values(row, columns, width=len(fields))))
    return found


def _source(source: JsonObject, *, what: str) -> Value:
    state = text(source, "state")
    if state == "ok":
        return 1.0
    reason = _STATES.get(state, UnknownReason.NOT_MEASURED)
    return Unknown(reason, text(source, "reason")[:256] or f"{what} {state[:32] or 'not mentioned'}")
