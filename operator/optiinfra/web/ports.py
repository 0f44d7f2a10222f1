"""What the HTTP side needs of the rest of the operator, as protocols.

`web` sits beside `control` and must not import it; `cli` hands the real objects over. A protocol here is a promise
about words (ready, alive, decision), so that each HTTP answer can be read without knowing the control loop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Component:
    """The state of one part of the operator, for detailed health."""

    healthy: bool
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Replicas decided for one service, as scalers read them."""

    namespace: str
    name: str
    replicas: int
    decided_at: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """The answer to a request for a round."""

    round_id: str


@dataclass(frozen=True, slots=True)
class Promised:
    """What became of a round that was asked for."""

    state: str
    """Pending, Done or Lost."""
    message: str


@dataclass(frozen=True, slots=True)
class PreviewedWrite:
    """One request as it would have been sent to the API server."""

    method: str
    path: str
    content_type: str
    field_manager: str
    body: str


@dataclass(frozen=True, slots=True)
class PreviewedTarget:
    """What would have become of one target."""

    name: str
    current: int | None
    order: int | None
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Preview:
    """What a round would have done."""

    writes: tuple[PreviewedWrite, ...] = ()
    more: int = 0
    published: tuple[tuple[str, int], ...] = ()
    targets: tuple[PreviewedTarget, ...] = ()
    problem: str = ""


class OperatorView(Protocol):
    """The operator as seen from outside."""

    @property
    def leading(self) -> bool:
        """Whether this replica decides."""

    @property
    def leader_address(self) -> str:
        """host:port of the leader's HTTP server; empty when nobody leads as far as known."""

    def ready(self) -> Component:
        """Whether this replica can serve: caches filled, leader known."""

    def alive(self) -> Component:
        """Whether the loops of this replica make progress."""

    def components(self) -> Mapping[str, Component]:
        """Every part with its real state."""

    def objects(self, namespace: str | None) -> Sequence[Mapping[str, Any]]:
        """Objects as last seen (JSON of kind, metadata subset and status), all or of one namespace."""

    def find(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        """Return one object as last seen."""

    def run_now(self, kind: str, namespace: str, name: str) -> Ticket | None:
        """Put an object next in line for a round; None when there is no such object."""

    def promised(self, kind: str, namespace: str, name: str, round_id: str) -> Promised:
        """Say what became of a round of an object that exists."""

    async def manifest(self, api_version: str, kind: str, namespace: str, name: str) -> Mapping[str, Any]:
        """Read the object that a recommendation changes, as it stands now; raises ClusterError."""

    async def preview(self, kind: str, namespace: str, name: str, *, within: float) -> "Preview | None":
        """Work out what the next round would do about an object, and do nothing; None when there is no such object.

        Raises TimeoutError when no round came to it within so many seconds.
        """

    def decisions(self, namespace: str) -> Sequence[Decision]:
        """Return all published decisions of a namespace."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling, as the API server says."""

    user: str
    groups: tuple[str, ...]
    extra: Mapping[str, tuple[str, ...]]


class Reviewer(Protocol):
    """Authentication and authorisation by the API server."""

    async def authenticate(self, token: str) -> Caller | None:
        """TokenReview for our audience; None when the token is not good."""

    async def authorize(
        self, caller: Caller, *, verb: str, group: str, resource: str, namespace: str, name: str, subresource: str
    ) -> bool:
        """SubjectAccessReview."""


class Forwarder(Protocol):
    """Passes one small request on; `optiinfra.cluster.proxy` is the real one."""

    async def forward(
        self, method: str, address: str, path_and_query: str, *, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, str, bytes]:
        """Return status, content type and body, or raise FetchError."""
