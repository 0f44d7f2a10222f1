"""Simulated node agents: what the agent of a node would report while the simulated engines run on it.

GPU use follows the engines: a pod that asks for GPUs gets the lowest free ones of its node and keeps them; they are
busy as its engine is busy and hold its memory from the moment the model is loaded. GPUs nobody asked for are idle and
empty. CPU and memory are plausible constants drawn from the node's name. Every snapshot says ``"simulated": true`` and
every metric page carries ``optiinfra_simulated 1``: these numbers must never pass for measurements.
"""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from optiinfra_sim import __version__
from optiinfra_sim.cluster import ClusterView, NodeView, PodView
from optiinfra_sim.plays import EngineLoad

GPU_MODEL = "NVIDIA H100 80GB HBM3"
GPU_MEMORY_BYTES = 80 * 2**30
GPU_RESERVED_BYTES = 640 * 2**20
POWER_LIMIT_WATTS = 700.0
EMPTY_WATTS = 70.0
LOADED_WATTS = 115.0
BUSY_WATTS = 330.0
FULL_BATCH_WATTS = 230.0
IDLE_CLOCK_HERTZ = 345e6
BUSY_CLOCK_HERTZ = 1980e6
DEFAULT_CORES = 96
NODE_MEMORY_BYTES = 2**40
SOURCES = ("nvml", "cpu", "memory", "pressure", "pod_resources")
_NAMESPACE = uuid.UUID("6f707469-696e-6672-6120-73696d756c61")


@dataclass(frozen=True, slots=True)
class GpuClaim:
    """A container that holds a GPU."""

    pod: PodView
    container: str


@dataclass(slots=True)
class _Gpu:
    """One GPU of a simulated node. What changes with time is set once a tick."""

    index: int
    claim: GpuClaim | None = None
    load: EngineLoad | None = None
    energy_joules: float = 0.0

    @property
    def watts(self) -> float:
        if self.load is None:
            return EMPTY_WATTS
        busy = self.load.busy_ratio
        return LOADED_WATTS + busy * (BUSY_WATTS + FULL_BATCH_WATTS * min(1.0, self.load.batch_ratio))

    @property
    def sm_active(self) -> float:
        return 0.0 if self.load is None else self.load.busy_ratio * (0.5 + 0.4 * min(1.0, self.load.batch_ratio))


@dataclass(slots=True)
class _Node:
    view: NodeView
    gpus: list[_Gpu]
    seed: float
    """In [0, 1), from the node's name: makes nodes differ, and every run alike."""
    pods: int = 0


@dataclass(slots=True)
class Agents:
    """The agents of all nodes. ``load`` tells what the engine of a pod (by uid) does to its GPUs."""

    started: float
    load: Callable[[str], EngineLoad | None]
    now: float = field(init=False)
    _nodes: dict[str, _Node] = field(init=False, default_factory=dict)
    _node_by_address: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.now = self.started

    def follow(self, view: ClusterView) -> None:
        """Take notice of nodes, of pods that hold GPUs, and of the agents' own pods."""
        nodes: dict[str, _Node] = {}
        for node in view.nodes:
            known = self._nodes.get(node.name)
            if known is None or len(known.gpus) != node.gpus:
                known = _Node(node, [_Gpu(index) for index in range(node.gpus)], _seed(node.name))
            known.view = node
            nodes[node.name] = known
        self._nodes = nodes
        by_node: dict[str, list[PodView]] = {}
        for pod in view.pods:
            by_node.setdefault(pod.node, []).append(pod)
        for name, node_state in nodes.items():
            pods = by_node.get(name, [])
            node_state.pods = len(pods)
            _claim(node_state.gpus, pods)
        self._node_by_address = {
            pod.address: pod.node
            for pod in view.pods
            if pod.is_agent and pod.ready_since is not None and not pod.terminating and pod.node in nodes
        }

    def advance(self, *, to: float) -> None:
        """Let Unix time reach ``to``: energy adds up, load is looked at anew."""
        elapsed = max(0.0, to - self.now)
        self.now = max(self.now, to)
        for node in self._nodes.values():
            for gpu in node.gpus:
                gpu.energy_joules += gpu.watts * elapsed
                gpu.load = None if gpu.claim is None else self.load(gpu.claim.pod.uid)

    def knows(self, address: str) -> bool:
        """Whether an agent's pod has that address."""
        return address in self._node_by_address

    def snapshot(self, address: str) -> dict[str, Any] | None:
        """The snapshot (contract version 1) of the node whose agent has that address."""
        name = self._node_by_address.get(address)
        if name is None:
            return None
        node = self._nodes[name]
        return {
            "version": 1,
            "simulated": True,
            "time": self.now,
            "node": name,
            "agent": {"id": f"agent-{name}", "version": f"{__version__}+simulated", "started": self.started},
            "sources": {
                source: {"state": "ok", "reason": "", "time": self.now, "duration_s": 0.001} for source in SOURCES
            },
            "cpu": self._cpu(node),
            "memory": self._memory(node),
            "pressure": {
                "cpu_some_ratio": round(0.01 * node.seed, 4),
                "memory_some_ratio": 0.0,
                "memory_full_ratio": 0.0,
                "io_some_ratio": round(0.005 * node.seed, 4),
                "io_full_ratio": 0.0,
            },
            "gpus": [_gpu(gpu, node=node.view) for gpu in node.gpus],
            "allocations": [_allocation(name, gpu.index, gpu.claim) for gpu in node.gpus if gpu.claim is not None],
        }

    def metrics(self, address: str) -> bytes | None:
        """The same numbers as the real agent's metric page names them."""
        snapshot = self.snapshot(address)
        if snapshot is None:
            return None
        lines = [
            "# HELP optiinfra_simulated 1: these numbers are simulated, no such hardware exists.",
            "# TYPE optiinfra_simulated gauge",
            "optiinfra_simulated 1",
        ]
        for name in ("utilization_ratio", "sm_active_ratio", "memory_used_bytes", "memory_total_bytes", "power_watts"):
            lines += [f"# HELP optiinfra_gpu_{name} Simulated.", f"# TYPE optiinfra_gpu_{name} gauge"]
            lines += [f'optiinfra_gpu_{name}{{uuid="{gpu["uuid"]}"}} {gpu[name]}' for gpu in snapshot["gpus"]]
        for name, value in (
            ("node_cpu_cores", snapshot["cpu"]["cores"]),
            ("node_cpu_utilization_ratio", snapshot["cpu"]["utilization_ratio"]),
            ("node_memory_total_bytes", snapshot["memory"]["total_bytes"]),
            ("node_memory_used_bytes", snapshot["memory"]["used_bytes"]),
        ):
            lines += [f"# HELP optiinfra_{name} Simulated.", f"# TYPE optiinfra_{name} gauge"]
            lines.append(f"optiinfra_{name} {value}")
        return ("\n".join(lines) + "\n").encode()

    def _cpu(self, node: _Node) -> dict[str, Any]:
        cores = node.view.cores or DEFAULT_CORES
        share = 0.02 + 0.03 * node.seed
        return {
            "cores": cores,
            "busy_seconds_total": round(cores * share * (self.now - self.started + 86_400), 3),
            "utilization_ratio": round(share, 4),
            "load1": round(cores * share, 2),
        }

    @staticmethod
    def _memory(node: _Node) -> dict[str, Any]:
        used = int(NODE_MEMORY_BYTES * (0.05 + 0.03 * node.seed)) + 4 * 2**30 * min(node.pods, 32)
        return {
            "total_bytes": NODE_MEMORY_BYTES,
            "available_bytes": NODE_MEMORY_BYTES - used,
            "used_bytes": used,
            "swap_total_bytes": 0,
            "swap_used_bytes": 0,
        }


def gpu_uuid(node: str, index: int) -> str:
    """The same GPU has the same uuid in every run."""
    return f"GPU-{uuid.uuid5(_NAMESPACE, f'{node}/{index}')}"


def _claim(gpus: Sequence[_Gpu], pods: Sequence[PodView]) -> None:
    """Give the lowest free GPUs to the containers that ask for some; nobody's GPU ever moves."""
    present = {pod.uid for pod in pods}
    for gpu in gpus:
        if gpu.claim is not None and gpu.claim.pod.uid not in present:
            gpu.claim = None
    for pod in sorted(pods, key=lambda pod: (pod.started, pod.uid)):
        for container in pod.containers:
            held = sum(
                1 for gpu in gpus if gpu.claim and (gpu.claim.pod.uid, gpu.claim.container) == (pod.uid, container.name)
            )
            free = (gpu for gpu in gpus if gpu.claim is None)
            for gpu, _ in zip(free, range(container.gpus - held), strict=False):
                gpu.claim = GpuClaim(pod=pod, container=container.name)


def _gpu(gpu: _Gpu, *, node: NodeView) -> dict[str, Any]:
    load = gpu.load
    busy = 0.0 if load is None else load.busy_ratio
    memory = node.gpu_memory_bytes or GPU_MEMORY_BYTES
    # A label cannot hold the blanks of the name that NVML reports.
    model = GPU_MODEL if node.gpu_model in {None, GPU_MODEL.replace(" ", "-")} else node.gpu_model
    return {
        "uuid": gpu_uuid(node.name, gpu.index),
        "index": gpu.index,
        "model": model,
        "memory_total_bytes": memory,
        "memory_used_bytes": 0 if load is None else int(memory * load.memory_ratio),
        "memory_reserved_bytes": GPU_RESERVED_BYTES,
        "utilization_ratio": round(busy, 4),
        "memory_utilization_ratio": round(busy * 0.6, 4),
        "sm_active_ratio": round(gpu.sm_active, 4),
        "power_watts": round(gpu.watts, 1),
        "power_limit_watts": POWER_LIMIT_WATTS,
        "energy_joules_total": round(gpu.energy_joules, 1),
        "temperature_celsius": round(30 + 40 * gpu.watts / POWER_LIMIT_WATTS, 1),
        "sm_clock_hertz": BUSY_CLOCK_HERTZ if busy else IDLE_CLOCK_HERTZ,
        "mig_enabled": False,
        "processes": 0 if load is None else 1,
        "unknown": {},
    }


def _allocation(node: str, index: int, claim: GpuClaim) -> dict[str, Any]:
    return {
        "gpu_uuid": gpu_uuid(node, index),
        "namespace": claim.pod.namespace,
        "pod": claim.pod.name,
        "container": claim.container,
        "shared": False,
    }


def _seed(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
