"""Small real HTTP servers that play engine pods, well and badly, on loopback addresses of their own.

    with EnginePages(port) as pages:
        pages.serve("127.20.250.1", Page(running=20))
        pages.serve("127.20.250.2", Trouble.ENDLESS)
        pages.serve("127.20.250.1", Page(running=60, waiting=200))     # from now on
        pages.stop("127.20.250.2")                                      # connection refused

A valid page is the simulator's, which is vLLM's own in order, labels and types, with the numbers asked for.
`serving` makes the Deployment and its Ready pods in a cluster without controllers; a `Scene` is all of it together.
"""

import asyncio
import contextlib
import functools
import itertools
import json
import re
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self, TypeVar

from optiinfra_sim.engine import Engine
from optiinfra_sim.pages import PageTimes, render
from optiinfra_sim.settings import EngineSettings
from tests.operator_process import Installation, OperatorProcess

BATCH_LIMIT = 64
HUGE_BYTES = 100 << 20
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
OWN_RESOURCES = {"resourceoptimizations/status", "events", "optimizationcheckpoints"}
"""What the operator may write of its own; all else is a user's."""
_WRITES = {"create", "update", "patch", "delete", "deletecollection"}
T = TypeVar("T")


@dataclass(frozen=True)
class Page:
    """A valid page of vLLM 0.32."""

    running: int = 8
    waiting: int = 0
    kv_cache_usage: float = 0.2

    def text(self) -> str:
        numbers = {
            "num_requests_running": self.running,
            "num_requests_waiting": self.waiting,
            'num_requests_waiting_by_reason{engine="0",model_name="llama-3.1-8b",reason="capacity"}': self.waiting,
            "kv_cache_usage_perc": self.kv_cache_usage,
        }
        text = _idle_page()
        for name, value in numbers.items():
            pattern = re.escape(name) if "{" in name else re.escape(name) + r"\{[^}]*\}"
            text, changed = re.subn(rf"^(vllm:{pattern}) \S+$", rf"\g<1> {float(value)}", text, flags=re.MULTILINE)
            assert changed == 1, f"{name} is on the page {changed} times"
        return text


@dataclass(frozen=True)
class Json:
    """A JSON document made anew for each reader, as node agents serve it."""

    make: Callable[[], object]


class Trouble(StrEnum):
    """What is not a page."""

    EMPTY = "empty"
    HTML = "html"
    HUGE = "huge"
    """100 MiB of valid samples, with its length."""
    ENDLESS = "endless"
    """As fast as it is read, without end."""
    SLOW = "slow"
    """A valid page, one byte every tenth of a second."""
    REDIRECT = "redirect"
    """To a valid page on an address of its own, which must not be asked."""
    NAN = "nan"
    """A valid page in which every number is NaN."""
    UNAUTHORIZED = "401"


Behaviour = Page | Json | Trouble


@functools.cache
def _idle_page() -> str:
    engine = Engine(settings=EngineSettings(max_num_seqs=BATCH_LIMIT))
    engine.advance(to=60.0)
    return render(engine, times=PageTimes(started=0.0, serving=1.0)).decode()


def nan_page() -> str:
    return re.sub(r"^([^#\n].*) \S+$", r"\1 NaN", _idle_page(), flags=re.MULTILINE)


class Background:
    """An event loop in a thread, for servers beside a test that is not asynchronous."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result(20)

    @staticmethod
    async def _cancel_all() -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class EnginePages:
    """The servers, all on one port."""

    port: int
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    """Bytes handed to the kernel, by address."""
    redirect_to: str = ""
    _servers: dict[str, asyncio.Server] = field(default_factory=dict)
    _background: Background = field(default_factory=Background)

    def __enter__(self) -> Self:
        self._background.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for address in list(self._servers):
            self.stop(address)
        self._background.__exit__()

    def serve(self, address: str, behaviour: Behaviour) -> None:
        """Behave so at an address from now on."""
        self.behaviours[address] = behaviour
        if address not in self._servers:
            self._servers[address] = self._background.run(self._listen(address))

    def stop(self, address: str) -> None:
        """Refuse connections at an address."""
        server = self._servers.pop(address, None)
        if server is not None:
            self._background.run(self._close(server))

    async def _listen(self, address: str) -> asyncio.Server:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await self._answer(address, reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass  # the reader had enough, or the test is over
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                    await writer.wait_closed()

        return await asyncio.start_server(answer, address, self.port)

    @staticmethod
    async def _close(server: asyncio.Server) -> None:
        server.close()  # listening ends at once; connections under way end with the loop

    async def _answer(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked[address] = self.asked.get(address, 0) + 1

        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()
            self.sent[address] = self.sent.get(address, 0) + len(data)

        match self.behaviours[address]:
            case Page() as page:
                await send(_response(page.text().encode()))
            case Json() as document:
                await send(_response(json.dumps(document.make()).encode(), content_type="application/json"))
            case Trouble.EMPTY:
                await send(_response(b""))
            case Trouble.HTML:
                await send(_response(b"<html><body>log in first</body></html>", content_type="text/html"))
            case Trouble.NAN:
                await send(_response(nan_page().encode()))
            case Trouble.UNAUTHORIZED:
                await send(_response(b"no", status="401 Unauthorized"))
            case Trouble.REDIRECT:
                location = f"Location: http://{self.redirect_to}:{self.port}/metrics"
                await send(_response(b"", status="302 Found", header=location))
            case Trouble.HUGE:
                await send(_head(HUGE_BYTES))
                lines = b"vllm:junk 1.0\n" * 4681
                for _ in range(HUGE_BYTES // len(lines)):
                    await send(lines)
            case Trouble.ENDLESS:
                await send(_head(None))
                number = 0
                while True:
                    number += 1
                    await send(b"".join(b'vllm:junk{n="%d"} 1.0\n' % (number * 1000 + i) for i in range(1000)))
            case Trouble.SLOW:
                page_bytes = Page().text().encode()
                await send(_head(len(page_bytes)))
                for index in range(len(page_bytes)):
                    await send(page_bytes[index : index + 1])
                    await asyncio.sleep(0.1)


def _head(length: int | None, *, status: str = "200 OK", content_type: str = "text/plain", header: str = "") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", "Connection: close"]
    lines += [f"Content-Length: {length}"] if length is not None else []
    lines += [header] if header else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _response(body: bytes, *, status: str = "200 OK", content_type: str = "text/plain", header: str = "") -> bytes:
    return _head(len(body), status=status, content_type=content_type, header=header) + body


# ---- pods in a cluster without controllers


def deployment(name: str, *, replicas: int, batch_limit: int = BATCH_LIMIT, gpus: int = 1) -> dict[str, Any]:
    """A Deployment as people write one for vLLM."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": _pod_spec(batch_limit, gpus)},
        },
    }


def _pod_spec(batch_limit: int, gpus: int) -> dict[str, Any]:
    return {
        "containers": [
            {
                "name": "vllm",
                "image": "vllm/vllm-openai:v0.32.0",
                "args": ["--model", "m", "--max-num-seqs", str(batch_limit)],
                "resources": {"requests": {"cpu": "4", "memory": "32Gi"}, "limits": {"nvidia.com/gpu": gpus}},
            }
        ]
    }


def serving(
    cluster: Any,
    namespace: str,
    name: str,
    addresses: Sequence[str],
    *,
    labels: Mapping[str, str] | None = None,
    with_deployment: bool = True,
    node: str = "engine-node",
) -> None:
    """Make a Deployment and one Ready pod an address, as its controllers and kubelet would have."""
    if with_deployment:
        body = deployment(name, replicas=len(addresses))
        cluster.request("POST", f"/apis/apps/v1/namespaces/{namespace}/deployments", body)
    for number, address in enumerate(addresses):
        ready_pod(cluster, namespace, f"{name}-{number}", address, labels=labels or {"app": name}, node=node)


def ready_pod(cluster: Any, namespace: str, name: str, address: str, *, labels: Mapping[str, str], node: str) -> None:
    """Make a pod and write the status that a kubelet would."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": _pod_spec(BATCH_LIMIT, 1) | {"nodeName": node},
    }
    created = cluster.request("POST", path, body)
    at = created["metadata"]["creationTimestamp"]
    types = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    status = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": at,
        "conditions": [{"type": each, "status": "True", "lastTransitionTime": at} for each in types],
        "containerStatuses": [
            {
                "name": "vllm",
                "image": "vllm/vllm-openai:v0.32.0",
                "imageID": "",
                "ready": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": at}},
            }
        ],
    }
    cluster.request("PATCH", f"{path}/{name}/status", {"status": status}, content_type="application/merge-patch+json")


def make_namespace(cluster: Any, name: str) -> str:
    """A namespace in which pods can be made without controllers."""
    cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    cluster.request("POST", f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
    return name


# ---- all of it together


@dataclass
class Scene:
    """One cluster, one operator, and what tests make around them: namespaces, engines, HPAs, objects."""

    cluster: Any
    installation: Installation
    operator: OperatorProcess
    pages: EnginePages
    prefix: str
    made: dict[str, str] = field(default_factory=dict)
    """Namespace by case."""
    _hosts: Any = field(default_factory=lambda: itertools.count(1))

    def address(self) -> str:
        number = next(self._hosts)
        return f"{self.cluster.pod_cidr.rsplit('.', 2)[0]}.{200 + number // 250}.{number % 250 + 1}"

    def namespace(self, case: str) -> str:
        name = f"{self.prefix}-{case}"
        self.made[case] = make_namespace(self.cluster, name)
        return name

    def engines(self, namespace: str, name: str, *behaviours: object, **more: Any) -> list[str]:
        """A Deployment with one pod a behaviour; None is a pod where nothing listens."""
        addresses = [self.address() for _ in behaviours]
        for address, behaviour in zip(addresses, behaviours, strict=True):
            if behaviour is not None:
                self.pages.serve(address, behaviour)
        serving(self.cluster, namespace, name, addresses, **more)
        return addresses

    def optimize(self, namespace: str, name: str = "svc", target: object = None, **spec: object) -> dict[str, Any]:
        default = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        body = {
            "apiVersion": "optiinfra.io/v1alpha1",
            "kind": "ResourceOptimization",
            "metadata": {"name": name},
            "spec": {
                "targetRef": target or default,
                "mode": "Auto",
                "engine": {"port": self.pages.port},
                "insights": {"enabled": False},
                "scaling": {"actuation": "Signal", "maxReplicas": 4},
                **spec,
            },
        }
        return self.cluster.request("POST", self.path(namespace), body)

    @staticmethod
    def path(namespace: str, name: str = "") -> str:
        base = f"/apis/optiinfra.io/v1alpha1/namespaces/{namespace}/resourceoptimizations"
        return f"{base}/{name}" if name else base

    def status(self, namespace: str, name: str = "svc") -> dict[str, Any]:
        found: dict[str, Any] = self.cluster.request("GET", self.path(namespace, name)).get("status", {})
        return found

    def condition(self, namespace: str, kind: str, name: str = "svc") -> dict[str, str]:
        conditions = self.status(namespace, name).get("conditions", ())
        return next((entry for entry in conditions if entry["type"] == kind), {})

    def hpa(self, namespace: str, name: str, *, manager: str = "", target: str = "svc", **more: Any) -> None:
        """Make an HPA: by server-side apply of a manager, or by a plain create without one."""
        body = {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": name, **more.pop("metadata", {})},
            "spec": {
                "maxReplicas": 8,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
                **more,
            },
        }
        if manager:
            path = f"{hpa_path(namespace, name)}?fieldManager={manager}"
            self.cluster.request("PATCH", path, body, content_type=APPLY)
        else:
            self.cluster.request("POST", f"{hpa_path(namespace)}?fieldManager=kubectl-create", body)

    def events(self, namespace: str, name: str = "svc") -> list[dict[str, Any]]:
        items = self.cluster.request("GET", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")["items"]
        return [item for item in items if item["regarding"]["name"] == name]

    def writes(self, *, namespace: str = "", credential: str = "", since: str = "") -> list[tuple[str, str, str]]:
        """(time, verb, resource) of what the operator's ServiceAccount wrote, from the API server's audit log."""
        account = f"system:serviceaccount:{self.installation.namespace}:optiinfra-operator"
        found = []
        for line in self.cluster.audit_log.read_text().splitlines():
            if account not in line or namespace not in line or credential not in line:
                continue
            entry = json.loads(line)
            reference, at = entry.get("objectRef", {}), entry["requestReceivedTimestamp"]
            if entry["user"]["username"] != account or entry["verb"] not in _WRITES or at < since:
                continue
            if namespace and reference.get("namespace") != namespace:
                continue
            parts = (reference["resource"], reference.get("subresource", ""))
            found.append((at, entry["verb"], "/".join(part for part in parts if part)))
        return found

    def written(self, namespace: str) -> set[str]:
        """Resources of a namespace that the operator wrote."""
        return {resource for _, _, resource in self.writes(namespace=namespace)}

    def permit(
        self, role: str, namespace: str, *, account: str = "optiinfra-operator", account_namespace: str = ""
    ) -> None:
        """Bind one of the chart's roles for people (view, edit) in a namespace."""
        subject = {
            "kind": "ServiceAccount",
            "name": account,
            "namespace": account_namespace or self.installation.namespace,
        }
        body = {
            "metadata": {"name": f"{role}-{account}"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": f"{self.installation.namespace}:optiinfra:{role}",
            },
            "subjects": [subject],
        }
        self.cluster.request("POST", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings", body)

    def change(self, namespace: str, spec: object, name: str = "svc") -> None:
        """Merge into the spec of an object."""
        self.cluster.request("PATCH", self.path(namespace, name), {"spec": spec}, content_type=MERGE)

    def remove(self) -> None:
        """Take away all that was made. Without controllers nothing else does."""
        for namespace in self.made.values():
            for path in (
                self.path(namespace),
                hpa_path(namespace),
                f"/apis/apps/v1/namespaces/{namespace}/deployments",
                f"/api/v1/namespaces/{namespace}/pods?gracePeriodSeconds=0",
            ):
                self.cluster.request("DELETE", path)
            self.cluster.request("DELETE", f"/api/v1/namespaces/{namespace}")


def hpa_path(namespace: str, name: str = "") -> str:
    base = f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers"
    return f"{base}/{name}" if name else base
