"""Scripted counterparts of the HTTP side: an operator, an API server that reviews, a leader somewhere else."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI

from optiinfra.cluster.errors import Absent, FetchError, Unavailable
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.web.app import create_app
from optiinfra.web.ports import Caller, Component, Decision, Preview, Promised, Ticket

GOOD = Component(healthy=True, message="fine")
BAD = Component(healthy=False, message="the mirrors are not full")
ADA = Caller(user="ada", groups=("ml",), extra={})
TOKEN = {"Authorization": "Bearer good"}


def document(kind: str, namespace: str, name: str, **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "uid": f"uid-{name}", "generation": 1}
    return {"apiVersion": "optiinfra.io/v1alpha1", "kind": kind, "metadata": metadata, "status": status}


@dataclass
class View:
    """The operator as told by the test."""

    leading: bool = True
    leader_address: str = "10.0.0.9:8080"
    is_ready: Component = GOOD
    is_alive: Component = GOOD
    documents: list[dict[str, Any]] = field(default_factory=list)
    published: list[Decision] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    previewed: Preview | Exception = field(default_factory=Preview)
    manifests: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)

    def ready(self) -> Component:
        return self.is_ready

    def alive(self) -> Component:
        return self.is_alive

    def components(self) -> Mapping[str, Component]:
        return {"mirrors": self.is_ready, "rounds": self.is_alive}

    def objects(self, namespace: str | None) -> Sequence[Mapping[str, Any]]:
        return [d for d in self.documents if namespace is None or d["metadata"]["namespace"] == namespace]

    def find(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        for found in self.documents:
            metadata = found["metadata"]
            if (found["kind"], metadata["namespace"], metadata["name"]) == (kind, namespace, name):
                return found
        return None

    def run_now(self, kind: str, namespace: str, name: str) -> Ticket | None:
        self.asked.append((kind, namespace, name))
        return Ticket("round-7") if self.find(kind, namespace, name) else None

    def promised(self, kind: str, namespace: str, name: str, round_id: str) -> Promised:
        return Promised("Lost", f"{round_id} of {kind} {namespace}/{name} is nobody's")

    async def preview(self, kind: str, namespace: str, name: str, *, within: float) -> Preview | None:
        if isinstance(self.previewed, Exception):
            raise self.previewed
        return self.previewed if self.find(kind, namespace, name) else None

    async def manifest(self, api_version: str, kind: str, namespace: str, name: str) -> Mapping[str, Any]:
        found = self.manifests.get((kind, name))
        if found is None:
            raise Absent("gone", verb="get", path=f"/{api_version}/{namespace}")
        return found

    def decisions(self, namespace: str) -> Sequence[Decision]:
        return [decision for decision in self.published if decision.namespace == namespace]


@dataclass
class Reviewer:
    """Knows tokens, and refuses what it is told to refuse."""

    callers: dict[str, Caller] = field(default_factory=lambda: {"good": ADA})
    refused: set[tuple[str, str]] = field(default_factory=set)
    """(verb, resource) pairs."""
    down: bool = False
    authenticated: list[str] = field(default_factory=list)
    authorized: list[dict[str, Any]] = field(default_factory=list)

    async def authenticate(self, token: str) -> Caller | None:
        self.authenticated.append(token)
        if self.down:
            raise Unavailable("no connection", verb="create", path="/tokenreviews")
        return self.callers.get(token)

    async def authorize(self, caller: Caller, **attributes: Any) -> bool:
        self.authorized.append({"caller": caller, **attributes})
        if self.down:
            raise Unavailable("no connection", verb="create", path="/subjectaccessreviews")
        return (attributes["verb"], attributes["resource"]) not in self.refused


@dataclass
class Leader:
    """The other replica."""

    answer: tuple[int, str, bytes] = (200, "application/json", b'{"from": "the leader"}')
    dead: bool = False
    calls: list[tuple[str, str, str, dict[str, str], bytes]] = field(default_factory=list)

    async def forward(
        self, method: str, address: str, path_and_query: str, *, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, str, bytes]:
        self.calls.append((method, address, path_and_query, dict(headers), body))
        if self.dead:
            raise FetchError(Unknown(UnknownReason.UNREACHABLE, "connection refused"), url=f"http://{address}")
        return self.answer


@contextlib.asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://operator") as client:
        yield client


@contextlib.asynccontextmanager
async def serve(
    view: View | None = None, reviewer: Reviewer | None = None, leader: Leader | None = None, *, open_door: bool = False
) -> AsyncIterator[httpx.AsyncClient]:
    """Open the application with everybody's token in the client's headers; `open_door` switches reviews off."""
    checks = None if open_door else reviewer or Reviewer()
    app = create_app(operator=view or View(), reviewer=checks, forwarder=leader)
    async with client_of(app) as client:
        client.headers.update(TOKEN)
        yield client
