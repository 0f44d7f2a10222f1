"""A small made-up fleet for tests of the report: four model services and a notebook on H100 nodes, by the hour of day.

`chat` follows a daily wave on far too many replicas, `steady` holds what it needs, `silent` is asked nothing, and
`crowded` stands at its batch limit. Nothing in it is measured; the numbers are chosen so that the truths are plain.
"""

import numpy as np

from optiinfra.domain.cost import PriceList
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.report.history import (
    Asked,
    ContainerHistory,
    EngineConfig,
    FleetHistory,
    GpuHistory,
    GpuSource,
    HolderSource,
    Holding,
    Load,
    ModelHistory,
    NodeHistory,
    OwnerSource,
    PodNow,
    Span,
)
from optiinfra.domain.report.options import Options
from optiinfra.domain.report.pricing import Prices

STEP_S = 300.0
END = 1_795_305_600.0 + 14.0 * 3600.0
"""Two in the afternoon, so that the newest hours are busy ones."""
GPU_HOUR = 2.5
CAPACITY = 4_000.0
"""Work per second of one replica of the made-up fleet."""
GIB = 2.0**30
NOT_THERE = Unknown(UnknownReason.NOT_CONFIGURED, "no HorizontalPodAutoscaler targets it")


def times_of(days):
    points = round(days * 86_400.0 / STEP_S)
    return END - STEP_S * np.arange(points - 1, -1, -1)


def wave(times, *, low, high):
    """Busy replicas over a day: lowest at midnight, highest at noon."""
    return low + (high - low) * 0.5 * (1.0 - np.cos(2.0 * np.pi * times / 86_400.0))


def model(times, name, *, busy, replicas, namespace="inference", batch=64.0, waiting=0.0, kind="Deployment", **changed):
    """A model whose load keeps `busy` replicas busy, (points,)."""
    held = np.full(len(times), float(replicas))
    served = np.minimum(busy, held)
    work = served * CAPACITY
    each = np.divide(served, held, out=np.zeros(len(times)), where=held > 0.0)
    running = each * batch * held
    tokens = work / 8.0
    load = Load(
        prompt_tokens=work - 4.0 * tokens,
        generation_tokens=tokens,
        requests=tokens / 200.0,
        running=running,
        running_highest=each * batch,
        waiting=np.where(work > 0.0, float(waiting), 0.0),
        waiting_highest=np.where(work > 0.0, float(waiting), 0.0),
        kv_usage=each * 0.6,
        kv_usage_highest=each * 0.6,
        preemptions=np.zeros(len(times)),
        ttft_mean=np.where(work > 0.0, 0.3, np.nan),
        itl_mean=np.where(work > 0.0, 0.010 + 0.0003 * each * batch, np.nan),
        queue_mean=np.where(work > 0.0, 30.0 if waiting else 0.01, np.nan),
        prompt_length_mean=np.where(work > 0.0, 800.0, np.nan),
        generation_length_mean=np.where(work > 0.0, 200.0, np.nan),
        work=work,
    )
    sources = {
        field: f"vllm.{field}" for field in ("prompt_tokens", "generation_tokens", "requests", "waiting", "work")
    }
    whole = Span("0.11.0", float(times[0]), float(times[-1]), np.ones(len(times), dtype=np.bool_))
    facts = {
        "namespace": namespace,
        "workload": name,
        "kind": kind,
        "owner_source": OwnerSource.STATE_METRICS,
        "names": (Span(f"org/{name}", whole.first, whole.last, whole.present),),
        "engines": ((EngineKind.VLLM, whole),),
        "serving": held,
        "spec_replicas": held,
        "available": held,
        "load": load,
        "cache": NOT_THERE,
        "config": EngineConfig(batch_limit=batch, kv_capacity_tokens=400_000.0, memory_share=0.9),
        "scaler": NOT_THERE,
        "gpus_per_replica": 1.0,
        "gpus_held": held,
        "gpus": tuple(f"GPU-{name}-{number}" for number in range(replicas)),
        "nodes_per_replica": 1.0,
        "containers": ("engine",),
        "sources": sources,
    }
    return ModelHistory(**(facts | changed))


def gpus_of(times, one, node):
    """The GPUs of a model, as busy as it is."""
    always = np.ones(len(times), dtype=np.bool_)
    busy = np.where(one.load.work > 0.0, np.minimum(0.95, 0.2 + one.load.work / CAPACITY / max(1, len(one.gpus))), 0.0)
    return tuple(
        gpu(times, uuid, node, busy, Holding(one.namespace, one.workload, "engine", always)) for uuid in one.gpus
    )


def gpu(times, uuid, node, busy, *holdings):
    missing = Unknown(UnknownReason.NOT_MEASURED, "no profiling")
    return GpuHistory(
        uuid=uuid,
        node=node,
        model="NVIDIA H100 80GB HBM3",
        instance="",
        profile="",
        source=GpuSource.DCGM,
        memory_total_bytes=80.0 * GIB,
        utilization=busy,
        sm_active=missing,
        tensor_active=missing,
        dram_active=missing,
        memory_used_bytes=np.full(len(times), 60.0 * GIB),
        power_watts=np.full(len(times), 200.0),
        energy_joules=missing,
        holdings=holdings,
        holder_source=HolderSource.EXPORTER,
        utilization_highest=busy,
        present=np.ones(len(times), dtype=np.bool_),
    )


def node(times, name, *pods, gpus=8.0):
    full = np.ones(len(times), dtype=np.bool_)
    return NodeHistory(
        name=name,
        gpus=gpus,
        gpus_allocatable=gpus,
        cpu_cores=96.0,
        cpu_cores_allocatable=96.0,
        memory_bytes=1024.0 * GIB,
        memory_bytes_allocatable=1024.0 * GIB,
        pod_limit=110.0,
        gpu_model="NVIDIA-H100-80GB-HBM3",
        instance_type="",
        region="",
        zone="",
        capacity_type="",
        pool="h100",
        labels={},
        unschedulable=False,
        ready=True,
        taints=(),
        present=full,
        cpu_used_cores=np.full(len(times), 10.0),
        memory_used_bytes=np.full(len(times), 100.0 * GIB),
        cpu_requested_cores=np.full(len(times), 20.0),
        memory_requested_bytes=np.full(len(times), 200.0 * GIB),
        gpus_requested=np.full(len(times), float(sum(pod.gpus for pod in pods))),
        pods=pods,
    )


def pods_of(one, node_name):
    return tuple(
        PodNow(
            namespace=one.namespace,
            name=f"{one.workload}-{number}",
            node=node_name,
            uid=f"{one.key}-{number}",
            workload=one.workload,
            owner_kind="Deployment",
            phase="Running",
            cpu_request_cores=4.0,
            memory_request_bytes=32.0 * GIB,
            gpus=1.0,
            created=END - 30.0 * 86_400.0,
            gpu_resource="nvidia.com/gpu",
        )
        for number in range(len(one.gpus))
    )


def container(times, one, *, cpu=0.5, memory=8.0 * GIB):
    noise = np.random.default_rng(7).uniform(0.9, 1.1, len(times))
    return ContainerHistory(
        namespace=one.namespace,
        workload=one.workload,
        container="engine",
        pods=np.full(len(times), float(len(one.gpus))),
        cpu_cores=cpu * noise,
        memory_bytes=memory * noise,
        cpu_request_cores=16.0,
        cpu_limit_cores=Unknown(UnknownReason.NOT_CONFIGURED, "none"),
        memory_request_bytes=64.0 * GIB,
        memory_limit_bytes=Unknown(UnknownReason.NOT_CONFIGURED, "none"),
        gpus=1.0,
        memory_kills=np.zeros(len(times)),
        restarts=np.zeros(len(times)),
    )


def fleet(days=3.0, *, names="", missing=()):
    """The made-up fleet. `names` is put behind every workload's name: for what labels may hold."""
    times = times_of(days)
    chat = model(times, f"chat{names}", busy=wave(times, low=0.3, high=2.0), replicas=8)
    steady = model(times, f"steady{names}", busy=np.full(len(times), 1.4), replicas=2)
    silent = model(times, f"silent{names}", busy=np.zeros(len(times)), replicas=3)
    crowded = model(times, f"crowded{names}", busy=np.full(len(times), 2.0), replicas=2, waiting=40.0)
    models = tuple(sorted((chat, crowded, silent, steady), key=lambda one: one.key))
    idle = np.zeros(len(times))
    lab = Holding("lab", f"notebook{names}", "jupyter", np.ones(len(times), dtype=np.bool_))
    gpus = (
        *gpus_of(times, chat, "node-a"),
        *gpus_of(times, steady, "node-b"),
        *gpus_of(times, silent, "node-b"),
        *gpus_of(times, crowded, "node-c"),
        gpu(times, "GPU-lab-0", "node-c", idle, lab),
        gpu(times, "GPU-free-0", "node-d", idle),
    )
    nodes = (
        node(times, "node-a", *pods_of(chat, "node-a")),
        node(times, "node-b", *pods_of(steady, "node-b"), *pods_of(silent, "node-b")),
        node(times, "node-c", *pods_of(crowded, "node-c")),
        node(times, "node-d"),
    )
    asked = tuple(
        Asked(name, f"sum({name})", f"http://prometheus.example/graph?g0.expr={name}", 1_000, 4)
        for name in ("vllm.prompt_tokens", "vllm.generation_tokens", "vllm.requests", "vllm.waiting", "vllm.work",
                     "dcgm.utilization", "dcgm.holders", "state.replicas", "containers.cpu")
    )  # fmt: skip
    return FleetHistory(
        times=times,
        step_s=STEP_S,
        models=models,
        gpus=gpus,
        nodes=nodes,
        containers=tuple(container(times, one) for one in models),
        missing=missing,
        asked=asked,
    )


def alone(times, one):
    """A fleet of one model on one node."""
    return FleetHistory(
        times=times,
        step_s=STEP_S,
        models=(one,),
        gpus=gpus_of(times, one, "node-a"),
        nodes=(node(times, "node-a", *pods_of(one, "node-a")),),
        containers=(),
        missing=(),
    )


def options(**changed):
    """Prices, and a replay of the newest hours only: playing the scaler is what takes the time of these tests."""
    return Options(
        **({"prices": Prices(flat=PriceList(gpu_hour=GPU_HOUR)), "replay_days": 0.2, "lead_days": 0.0} | changed)
    )
