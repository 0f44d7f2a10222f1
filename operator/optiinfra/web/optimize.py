"""Rounds on demand and what came of them: run, status, recommendations, decisions.

Everything answered here is what is written in the objects' status; nothing is computed for the caller, so that the
API, `kubectl` and GitOps never tell different stories.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from optiinfra.web.authentication import Gate, authenticated
from optiinfra.web.ports import OperatorView

Kind = Literal["ResourceOptimization", "ClusterResourceOptimization"]
RO: Kind = "ResourceOptimization"
CRO: Kind = "ClusterResourceOptimization"
PLURAL: dict[Kind, str] = {RO: "resourceoptimizations", CRO: "clusterresourceoptimizations"}
_DnsName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]

_PREVIEW_SECONDS = 8.0
"""Less than the ten seconds that a follower waits for the leader's answer."""
_PREVIEW_BYTES = 256 << 10

router = APIRouter(prefix="/api/v1", tags=["optimize"], dependencies=[Depends(authenticated)])


class RunRequest(BaseModel):
    """Which object to analyse now."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind = RO
    namespace: Annotated[str, Field(max_length=63, pattern=r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$")] = ""
    name: _DnsName


class RunAnswer(BaseModel):
    """The round that will take the object."""

    round_id: str
    status: Literal["scheduled"] = "scheduled"


class RunQuery(BaseModel):
    """How to run."""

    model_config = ConfigDict(extra="forbid")

    dry_run: Annotated[Literal["true", "false"], Field(alias="dryRun")] = "false"
    """true: work out what would be done, answer with it, and do nothing."""


class WriteAnswer(BaseModel):
    """One request as it would have been sent to the API server."""

    method: str
    path: str
    content_type: str
    field_manager: str
    body: Any
    """The JSON of the body; a text where it was too long to be kept whole."""


class PublishedAnswer(BaseModel):
    """One replica count that scalers would read."""

    name: str
    replicas: int


class TargetAnswer(BaseModel):
    """What would become of one target."""

    name: str
    current: int | None
    order: int | None
    reason: str
    message: str


class DryRunAnswer(BaseModel):
    """What a round would have done; nothing was written, and nothing published."""

    status: Literal["dry run"] = "dry run"
    writes: list[WriteAnswer]
    more: int
    """Further requests, beyond those that are listed."""
    published: list[PublishedAnswer]
    targets: list[TargetAnswer]
    problem: str
    """Why nothing could be worked out; empty when something was."""


def view_of(request: Request) -> OperatorView:
    """Return the operator as it was handed to the application."""
    view: OperatorView = request.app.state.operator
    return view


def gate_of(request: Request) -> Gate:
    """Return who checks callers."""
    gate: Gate = request.app.state.gate
    return gate


async def listed(request: Request, namespace: str | None) -> list[Mapping[str, Any]]:
    """Return the objects that the caller may list: of a namespace or all; cluster-scoped ones need their own right."""
    await gate_of(request).demand(request, verb="list", resource=PLURAL[RO], namespace=namespace or "")
    found = view_of(request).objects(namespace)
    if any(item["kind"] == CRO for item in found) and not await gate_of(request).allows(
        request, verb="list", resource=PLURAL[CRO]
    ):
        return [item for item in found if item["kind"] != CRO]
    return list(found)


@router.post(
    "/optimize/run",
    status_code=202,
    response_model=RunAnswer,
    responses={200: {"model": DryRunAnswer, "description": "With dryRun=true"}},
)
async def run(request: Request, wanted: RunRequest, query: Annotated[RunQuery, Query()]) -> RunAnswer | JSONResponse:
    """Start a round for one object now; it goes next in line.

    With dryRun=true the answer is what that round would write and publish, with the exact requests; nothing is done.
    """
    await gate_of(request).demand(
        request,
        verb="create",
        resource=PLURAL[wanted.kind],
        namespace=wanted.namespace,
        name=wanted.name,
        subresource="run",
    )
    if query.dry_run == "true":
        return JSONResponse((await _dry_run(request, wanted)).model_dump(mode="json"))
    ticket = view_of(request).run_now(wanted.kind, wanted.namespace, wanted.name)
    if ticket is None:
        raise HTTPException(404, f"there is no {wanted.kind} {wanted.namespace}/{wanted.name}")
    return RunAnswer(round_id=ticket.round_id)


async def _dry_run(request: Request, wanted: RunRequest) -> DryRunAnswer:
    try:
        found = await view_of(request).preview(wanted.kind, wanted.namespace, wanted.name, within=_PREVIEW_SECONDS)
    except TimeoutError as error:
        raise HTTPException(504, f"no round came to the object within {_PREVIEW_SECONDS:g} s; try again") from error
    if found is None:
        raise HTTPException(404, f"there is no {wanted.kind} {wanted.namespace}/{wanted.name}")
    kept: list[WriteAnswer] = []
    size = 0
    for one in found.writes:
        size += len(one.body)
        if size > _PREVIEW_BYTES:
            break
        kept.append(
            WriteAnswer(
                method=one.method,
                path=one.path,
                content_type=one.content_type,
                field_manager=one.field_manager,
                body=_json_of(one.body),
            )
        )
    return DryRunAnswer(
        writes=kept,
        more=found.more + len(found.writes) - len(kept),
        published=[PublishedAnswer(name=name, replicas=replicas) for name, replicas in found.published],
        targets=[
            TargetAnswer(name=one.name, current=one.current, order=one.order, reason=one.reason, message=one.message)
            for one in found.targets
        ],
        problem=found.problem,
    )


def _json_of(body: str) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body  # it was cut


@router.get("/optimize/status")
async def status(
    request: Request,
    namespace: Annotated[str | None, Query(max_length=63)] = None,
    name: Annotated[str | None, Query(max_length=253)] = None,
    kind: Kind = RO,
    round_id: Annotated[str | None, Query(alias="round", pattern=r"^[0-9a-zA-Z-]{1,64}$")] = None,
) -> dict[str, Any]:
    """Show the status of one object (namespace and name), of a namespace, or of all.

    With `round`, the id that a run of that object was promised under, `round` in the answer says what became of it.
    """
    if round_id is not None and name is None:
        raise HTTPException(422, "round: name the object whose round it is (namespace and name)")
    if name is not None:
        await gate_of(request).demand(request, verb="get", resource=PLURAL[kind], namespace=namespace or "", name=name)
        found = view_of(request).find(kind, namespace or "", name)
        if found is None:
            raise HTTPException(404, f"there is no {kind} {namespace or ''}/{name}")
        if round_id is None:
            return dict(found)
        told = view_of(request).promised(kind, namespace or "", name, round_id)
        return {**found, "round": {"id": round_id, "state": told.state, "message": told.message}}
    return {"items": await listed(request, namespace)}


@router.get("/recommendations")
async def recommendations(
    request: Request, namespace: Annotated[str | None, Query(max_length=63)] = None
) -> dict[str, Any]:
    """List the recommendations that stand now, with the object each belongs to."""
    return {
        "items": [
            {"kind": item["kind"], "metadata": item["metadata"], "recommendation": recommendation}
            for item in await listed(request, namespace)
            for recommendation in item.get("status", {}).get("recommendations", ())
        ]
    }


@router.get("/decisions/{namespace}")
async def decisions(request: Request, namespace: str) -> dict[str, Any]:
    """List the replica decisions published for a namespace; other replicas of the operator read them here."""
    await gate_of(request).demand(request, verb="list", resource=PLURAL[RO], namespace=namespace)
    return {
        "items": [
            {"namespace": d.namespace, "name": d.name, "replicas": d.replicas, "decided_at": d.decided_at}
            for d in view_of(request).decisions(namespace)
        ]
    }
