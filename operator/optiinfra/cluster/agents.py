"""A node agent's `/v1/snapshot` (version 1) as a reading.

The agent runs on every node and may be old, new or broken, so everything is bounded and checked: an impossible number
becomes an Unknown of that one value, an impossible document is refused whole. Fields that are not known here are
ignored. Null means what the object's `unknown` map says.
"""

import math
from collections.abc import Mapping
from typing import Any

from optiinfra.cluster.document import JsonObject, decode, flag, integer, mapping, objects, text
from optiinfra.cluster.errors import FetchError, Malformed
from optiinfra.cluster.fetch import Fetcher, Transport, page_url
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import AgentReading, GpuAllocation, GpuFacts

VERSION = 1
SNAPSHOT_LIMIT_BYTES = 1024 * 1024
GPU_LIMIT = 256
ALLOCATION_LIMIT = 4096
_NAME_LIMIT = 253
_RATIO_CEILING = 1.05
"""Sampling jitter lets a busy ratio exceed 1 a little; it is then 1."""

_REASONS: Mapping[str, UnknownReason] = {
    "unsupported": UnknownReason.UNSUPPORTED,
    "failed": UnknownReason.INVALID,
    "denied": UnknownReason.REFUSED,
    "unavailable": UnknownReason.UNSUPPORTED,
    "warming_up": UnknownReason.TOO_FEW_SAMPLES,
}
_STATES: Mapping[str, UnknownReason] = {
    "unavailable": UnknownReason.UNSUPPORTED,
    "unsupported": UnknownReason.UNSUPPORTED,
    "denied": UnknownReason.REFUSED,
    "failed": UnknownReason.INVALID,
    "stuck": UnknownReason.UNREACHABLE,
}


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


def parse_snapshot(body: bytes) -> AgentReading:
    """Parse a snapshot; `Malformed` names the field that is impossible."""
    if len(body) > SNAPSHOT_LIMIT_BYTES:
        raise Malformed(f"snapshot of more than {SNAPSHOT_LIMIT_BYTES} bytes")
    document = decode(body, what="snapshot")
    version = integer(document, "version")
    if version != VERSION:
        raise Malformed(f"snapshot of version {version}; this operator reads version {VERSION}")
    moment = _plain(document, "time")
    node = text(document, "node")
    if not isinstance(moment, float) or moment <= 0.0 or not node or len(node) > _NAME_LIMIT:
        raise Malformed("snapshot without a time and a node")
    gpus = objects(document, "gpus")
    allocations = objects(document, "allocations")
    if len(gpus) > GPU_LIMIT or len(allocations) > ALLOCATION_LIMIT:
        raise Malformed(f"snapshot of {len(gpus)} GPUs and {len(allocations)} allocations")
    cpu = mapping(document, "cpu")
    memory = mapping(document, "memory")
    return AgentReading(
        time=UnixTime(moment),
        node=node,
        agent_version=text(document, "agent", "version")[:64],
        cpu_cores=_amount(cpu, "cores"),
        cpu_utilization_ratio=_ratio(cpu, "utilization_ratio"),
        memory_total_bytes=_amount(memory, "total_bytes"),
        memory_available_bytes=_amount(memory, "available_bytes"),
        gpus=tuple(_gpu(gpu) for gpu in gpus),
        gpu_source=_source(mapping(document, "sources", "nvml")),
        allocations=tuple(_allocation(allocation) for allocation in allocations),
        simulated=flag(document, "simulated") or flag(document, "agent", "simulated"),
    )


def _gpu(gpu: JsonObject) -> GpuFacts:
    uuid = text(gpu, "uuid")
    if not uuid or len(uuid) > _NAME_LIMIT:
        raise Malformed("snapshot with a GPU without uuid")
    return GpuFacts(
        uuid=uuid,
        model=text(gpu, "model")[:128],
        memory_total_bytes=_amount(gpu, "memory_total_bytes"),
        memory_used_bytes=_amount(gpu, "memory_used_bytes"),
        utilization_ratio=_ratio(gpu, "utilization_ratio"),
        power_watts=_amount(gpu, "power_watts"),
        power_limit_watts=_amount(gpu, "power_limit_watts"),
        energy_joules=_amount(gpu, "energy_joules_total"),
        sm_active_ratio=_ratio(gpu, "sm_active_ratio"),
        pcie_bytes=_sum(_amount(gpu, "pcie_transmit_bytes_total"), _amount(gpu, "pcie_receive_bytes_total")),
    )


def _allocation(allocation: JsonObject) -> GpuAllocation:
    return GpuAllocation(
        gpu_uuid=text(allocation, "gpu_uuid")[:_NAME_LIMIT],
        namespace=text(allocation, "namespace")[:_NAME_LIMIT],
        pod=text(allocation, "pod")[:_NAME_LIMIT],
        container=text(allocation, "container")[:_NAME_LIMIT],
        shared=flag(allocation, "shared"),
    )


def _source(source: JsonObject) -> Value:
    state = text(source, "state")
    if state == "ok":
        return 1.0
    reason = _STATES.get(state, UnknownReason.NOT_MEASURED)
    return Unknown(reason, text(source, "reason")[:256] or f"GPU source {state[:32] or 'not mentioned'}")


def _plain(holder: Mapping[str, Any], name: str) -> float | None:
    value = holder.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # An integer too large for a float is as impossible as infinity.
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _amount(holder: JsonObject, name: str) -> Value:
    if holder.get(name) is None:
        why = holder.get("unknown")
        said = why.get(name) if isinstance(why, dict) else None
        return Unknown(
            _REASONS.get(str(said), UnknownReason.NOT_MEASURED), f"agent: {name} {said or 'not reported'}"[:256]
        )
    number = _plain(holder, name)
    if number is None or number < 0.0:
        return Unknown(UnknownReason.INVALID, f"agent: {name} is not a number of that kind")
    return number


def _sum(one: Value, other: Value) -> Value:
    if isinstance(one, Unknown):
        return one
    return other if isinstance(other, Unknown) else one + other


def _ratio(holder: JsonObject, name: str) -> Value:
    value = _amount(holder, name)
    if isinstance(value, Unknown) or value <= 1.0:
        return value
    return 1.0 if value <= _RATIO_CEILING else Unknown(UnknownReason.INVALID, f"agent: {name} is above 1")
