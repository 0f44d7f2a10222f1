"""Follows the real cluster: which pods and nodes there are, as frozen values, about once a second.

The only importer of the Kubernetes client here. It polls whole lists instead of watching: one list a second from the
API server's cache is cheap at the size of a demo, and a poll cannot miss an event or hang in a half-open stream. It
writes nothing. A list that fails leaves the last view in place, because an API server that restarts does not stop
engines; the failure is logged once until it is over.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.config import ConfigException

from optiinfra_sim.errors import FollowError

logger = logging.getLogger(__name__)

GPU_RESOURCE = "nvidia.com/gpu"
GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"
GPU_MEMORY_LABEL = "nvidia.com/gpu.memory"
AGENT_LABEL = ("app.kubernetes.io/component", "agent")
POLL_SECONDS = 1.0
REQUEST_SECONDS = 5.0
PAGE_SIZE = 500
MAX_OBJECTS = 20_000
MAX_PAGE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerView:
    """A container and the GPUs it asks for."""

    name: str
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PodView:
    """What the simulator needs to know of a pod. Times in Unix seconds."""

    uid: str
    namespace: str
    name: str
    node: str
    address: str
    labels: tuple[tuple[str, str], ...]
    started: float
    ready_since: float | None
    terminating: bool
    containers: tuple[ContainerView, ...]

    def carries(self, selector: dict[str, str]) -> bool:
        """Whether the pod has all these labels."""
        return selector.items() <= dict(self.labels).items()

    @property
    def is_agent(self) -> bool:
        """Whether it is a pod of the node agent."""
        return AGENT_LABEL in self.labels


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node and its GPUs."""

    name: str
    gpus: int
    gpu_model: str | None
    gpu_memory_bytes: int | None
    cores: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """All pods that run, or did until now, and all nodes."""

    pods: tuple[PodView, ...] = ()
    nodes: tuple[NodeView, ...] = ()


class ClusterFollower:
    """Polls pods and nodes and hands every new view to ``on_view``."""

    def __init__(self, *, kubeconfig: Path, on_view: Callable[[ClusterView], None]) -> None:
        self._kubeconfig = kubeconfig
        self._on_view = on_view
        self._failing = False

    async def run(self) -> None:
        """Follow until cancelled. The first view must succeed; later failures are waited out."""
        try:
            connect: Callable[..., Awaitable[client.ApiClient]] = config.new_client_from_config  # it has no types
            api = await connect(config_file=str(self._kubeconfig))
        except (ConfigException, OSError) as error:
            raise FollowError(f"kubeconfig {self._kubeconfig} cannot be used: {error}") from error
        async with api:
            first = True
            while True:
                try:
                    view = await self._view(api)
                except (ApiException, aiohttp.ClientError, TimeoutError, FollowError) as error:
                    if first:
                        raise FollowError(f"the cluster cannot be read: {_one_line(error)}") from error
                    if not self._failing:
                        logger.warning("the cluster cannot be read, going on with the last view: %s", _one_line(error))
                    self._failing = True
                else:
                    if self._failing:
                        logger.info("the cluster can be read again")
                    self._failing = False
                    first = False
                    self._on_view(view)
                await asyncio.sleep(POLL_SECONDS)

    async def _view(self, api: client.ApiClient) -> ClusterView:
        pods, nodes = await asyncio.gather(_list(api, "/api/v1/pods"), _list(api, "/api/v1/nodes"))
        return ClusterView(
            pods=tuple(pod for item in pods if (pod := parse_pod(item)) is not None),
            nodes=tuple(parse_node(item) for item in nodes),
        )


async def _list(api: client.ApiClient, path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    query = [("resourceVersion", "0")]
    while True:
        # Raw bytes and orjson: the generated models cost two hundred times as much CPU, every second.
        request = await api.param_serialize(
            "GET",
            path,
            query_params=[("limit", str(PAGE_SIZE)), *query],
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        response = await api.call_api(*request, _request_timeout=REQUEST_SECONDS)
        read: Callable[[], Awaitable[bytes]] = response.read  # it has no types
        body = await read()
        if response.status != 200:
            raise FollowError(f"GET {path} answered {response.status}: {body[:200].decode(errors='replace')}")
        if len(body) > MAX_PAGE_BYTES:
            raise FollowError(f"GET {path} answered more than {MAX_PAGE_BYTES} bytes")
        page = orjson.loads(body)
        items += page.get("items") or []
        token = page.get("metadata", {}).get("continue")
        if not token:
            return items
        if len(items) > MAX_OBJECTS:
            raise FollowError(f"GET {path}: more than {MAX_OBJECTS} objects; a simulator is no place for that cluster")
        query = [("continue", token)]


def parse_pod(item: dict[str, Any]) -> PodView | None:
    """A pod as the API server writes it; None where it has no address or has ended."""
    metadata, spec, status = item["metadata"], item.get("spec", {}), item.get("status", {})
    started = status.get("startTime")
    if not status.get("podIP") or not started or status.get("phase") in {"Succeeded", "Failed"}:
        return None
    ready = (c for c in status.get("conditions", []) if c.get("type") == "Ready" and c.get("status") == "True")
    return PodView(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        node=spec.get("nodeName", ""),
        address=status["podIP"],
        labels=tuple(sorted(metadata.get("labels", {}).items())),
        started=_unix(started),
        ready_since=next((_unix(c.get("lastTransitionTime") or started) for c in ready), None),
        terminating="deletionTimestamp" in metadata,
        containers=tuple(_containers(spec.get("containers", []))),
    )


def parse_node(item: dict[str, Any]) -> NodeView:
    """A node as the API server writes it."""
    metadata, status = item["metadata"], item.get("status", {})
    capacity = status.get("capacity", {})
    cores = str(capacity.get("cpu", "0"))
    labels = metadata.get("labels", {})
    mebibytes = labels.get(GPU_MEMORY_LABEL, "")
    return NodeView(
        name=metadata["name"],
        gpus=int(capacity.get(GPU_RESOURCE, 0)),
        gpu_model=labels.get(GPU_PRODUCT_LABEL),
        gpu_memory_bytes=int(mebibytes) * 2**20 if mebibytes.isdigit() else None,
        cores=int(cores) if cores.isdigit() else 0,
    )


def _containers(containers: Iterable[dict[str, Any]]) -> Iterable[ContainerView]:
    for container in containers:
        resources = container.get("resources", {})
        # For extended resources requests always equal limits; either may be left out of the manifest.
        amount = resources.get("limits", {}).get(GPU_RESOURCE, resources.get("requests", {}).get(GPU_RESOURCE, 0))
        yield ContainerView(name=container["name"], gpus=int(amount))


def _unix(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
