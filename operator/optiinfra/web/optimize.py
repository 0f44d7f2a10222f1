"""Rounds on demand and what came of them: run, status, recommendations, decisions.

Everything answered here is what is written in the objects' status; nothing is computed for the caller, so that the
API, `kubectl` and GitOps never tell different stories.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from pydantic import BaseModel, Field

from optiinfra.web.authentication import Gate, authenticated
from optiinfra.web.ports import OperatorView

Kind = Literal["ResourceOptimization", "ClusterResourceOptimization"]
RO: Kind = "ResourceOptimization"
CRO: Kind = "ClusterResourceOptimization"
PLURAL: dict[Kind, str] = {RO: "resourceoptimizations", CRO: "clusterresourceoptimizations"}
_DnsName = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]

router = APIRouter(prefix="/api/v1", tags=["optimize"], dependencies=[Depends(authenticated)])


class RunRequest(BaseModel):
    """Which object to analyse now."""

    kind: Kind = RO
    namespace: Annotated[str, Field(max_length=63, pattern=r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$")] = ""
    name: _DnsName


class RunAnswer(BaseModel):
    """The round that will take the object."""

    round_id: str
    status: Literal["scheduled"] = "scheduled"


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


@router.post("/optimize/run", status_code=202)
async def run(request: Request, wanted: RunRequest) -> RunAnswer:
    """Start a round for one object now; it goes next in line."""
    await gate_of(request).demand(
        request,
        verb="create",
        resource=PLURAL[wanted.kind],
        namespace=wanted.namespace,
        name=wanted.name,
        subresource="run",
    )
    ticket = view_of(request).run_now(wanted.kind, wanted.namespace, wanted.name)
    if ticket is None:
        raise HTTPException(404, f"there is no {wanted.kind} {wanted.namespace}/{wanted.name}")
    return RunAnswer(round_id=ticket.round_id)


@router.get("/optimize/status")
async def status(
    request: Request,
    namespace: Annotated[str | None, Query(max_length=63)] = None,
    name: Annotated[str | None, Query(max_length=253)] = None,
    kind: Kind = RO,
) -> dict[str, Any]:
    """Show the status of one object (namespace and name), of a namespace, or of all."""
    if name is not None:
        await gate_of(request).demand(request, verb="get", resource=PLURAL[kind], namespace=namespace or "", name=name)
        found = view_of(request).find(kind, namespace or "", name)
        if found is None:
            raise HTTPException(404, f"there is no {kind} {namespace or ''}/{name}")
        return dict(found)
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
