"""Windows and nodes made up for tests: a healthy one, changed where a test says so."""

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.signals import ServiceSignals, summarise
from optiinfra.domain.workload import AgentReading, GpuAllocation, GpuFacts, NodeFacts, PodFacts
from tests.unit.engines.recorded import readings

UNKNOWN = Unknown(UnknownReason.NOT_MEASURED, "not in this test")
GIB = 2.0**30


def recorded(name, first, last):
    """Signals of a part of a recording."""
    pages = readings(name)[first:last]
    return summarise({"a": pages}, now=pages[-1].time, window=900.0, stale_after=60.0, replicas_expected=1)


def signals_of(**changes):
    """Signals of one busy, healthy replica."""
    values = {
        "time": 1000.0,
        "window": 600.0,
        "replicas_expected": 1,
        "replicas_reporting": 1,
        "running": 10.0,
        "waiting": 0.0,
        "waiting_slope": 0.0,
        "waiting_max": 0.0,
        "running_max": 12.0,
        "running_per_replica_max": 12.0,
        "kv_cache_usage": 0.3,
        "kv_cache_usage_mean": 0.3,
        "kv_cache_usage_max": 0.4,
        "kv_cache_capacity_tokens": 100_000.0,
        "request_rate": 2.0,
        "prompt_token_rate": 2000.0,
        "generation_token_rate": 400.0,
        "work_rate": 3600.0,
        "preemption_rate": 0.0,
        "prefix_hit_ratio": 0.5,
        "lmcache_hit_ratio": UNKNOWN,
        "time_to_first_token_p95": 0.5,
        "inter_token_latency_p95": 0.05,
        "queue_time_p95": 0.0,
        "request_latency_p95": 10.0,
        "prompt_tokens_mean": 1000.0,
        "generation_tokens_mean": 200.0,
        "busy_share": 1.0,
        "waiting_share": 0.0,
    }
    return ServiceSignals(**(values | changes))


def gpu(uuid="GPU-0", *, used=0.0, busy=0.0, sm=UNKNOWN, watts=UNKNOWN, limit=700.0):
    """One GPU of 80 GiB."""
    return GpuFacts(
        uuid=uuid,
        model="NVIDIA H100 80GB HBM3",
        memory_total_bytes=80 * GIB,
        memory_used_bytes=used,
        utilization_ratio=busy,
        power_watts=watts,
        power_limit_watts=limit,
        sm_active_ratio=sm,
    )


def agent(time, *gpus, allocations=(), source=1.0, cpu=0.25):
    """One reading of a node's agent; allocations are (uuid, pod)."""
    return AgentReading(
        time=time,
        node="n1",
        agent_version="test",
        cpu_cores=16.0,
        cpu_utilization_ratio=cpu,
        memory_total_bytes=100 * GIB,
        memory_available_bytes=75 * GIB,
        gpus=gpus,
        gpu_source=source,
        allocations=tuple(GpuAllocation(uuid, "ns", pod, "engine", shared=False) for uuid, pod in allocations),
    )


def pod(name="p1", *, gpus=1.0, created=-1e6, ready=-1e6, node="n1"):
    """A pod that has run for long."""
    return PodFacts(
        name=name,
        uid=name,
        ip="10.0.0.1",
        node=node,
        phase="Running",
        ready=ready is not None,
        terminating=False,
        created=created,
        became_ready=ready,
        gpus=gpus,
        namespace="ns",
    )


def node(*readings_, pods=(), gpus=1.0, name="n1", error=None):
    """A node with an agent's readings."""
    return NodeFacts(
        name=name,
        pool="",
        gpu_model="NVIDIA H100 80GB HBM3",
        gpus=gpus,
        cpu_cores=16.0,
        memory_bytes=100 * GIB,
        ready=True,
        unschedulable=False,
        pods=pods,
        agent=readings_,
        agent_error=error,
    )
