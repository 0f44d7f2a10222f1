"""A recommendation as a patch: the operator offers it, people apply it.

The answer is worked out on the object as it stands now, which the operator reads itself: whoever asks needs the right
to see recommendations, and learns of the object no more than the settings that the patch changes.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optiinfra.api.patch_formats import (
    PatchFormat,
    json_patches,
    kustomize,
    operations_of,
    strategic,
    subjects_of,
)
from optiinfra.api.v1alpha1.status_parts import RecommendationStatus
from optiinfra.cluster.errors import Absent, ClusterError
from optiinfra.domain.manifest_patch import NoPatchError
from optiinfra.web.authentication import authenticated
from optiinfra.web.optimize import listed, view_of

_YAML = "application/yaml"

router = APIRouter(prefix="/api/v1", tags=["recommendations"], dependencies=[Depends(authenticated)])


class PatchQuery(BaseModel):
    """Which patch."""

    model_config = ConfigDict(extra="forbid")

    format: PatchFormat = PatchFormat.KUSTOMIZE
    """kustomize: a component; json: operations by object; strategic: documents to merge."""
    namespace: Annotated[str | None, Field(max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")] = None
    """Namespace of the object; needed by those who may not list everywhere."""


@router.get("/recommendations/{identifier}/patch", response_model=None, responses={200: {"content": {_YAML: {}}}})
async def patch(
    request: Request,
    identifier: Annotated[str, Path(max_length=32, pattern=r"^[0-9a-z]+$")],
    query: Annotated[PatchQuery, Query()],
) -> Response:
    """Show a recommendation as a patch; 404 when none has this id, 409 when no exact patch can be written."""
    item, namespace = _found(await listed(request, query.namespace), identifier)
    try:
        if query.format is PatchFormat.STRATEGIC:
            return Response(strategic(item, namespace=namespace), media_type=_YAML)
        live = {
            one: await view_of(request).manifest(one.api_version, one.kind, one.namespace, one.name)
            for one in subjects_of(item, namespace=namespace)
        }
        patches = operations_of(item, live, namespace=namespace)
    except NoPatchError as error:
        raise HTTPException(409, str(error)) from error
    except Absent as error:
        raise HTTPException(409, f"what it changes does not exist any more: {error}") from error
    except ClusterError as error:
        raise HTTPException(503, f"what it changes could not be read: {error}") from error
    if query.format is PatchFormat.JSON:
        return JSONResponse({"id": identifier, "patches": json_patches(patches)})
    return Response(kustomize(patches, identifier=identifier), media_type=_YAML)


def _found(items: list[Mapping[str, Any]], identifier: str) -> tuple[RecommendationStatus, str]:
    for item in items:
        for one in item.get("status", {}).get("recommendations", ()):
            if one.get("id") == identifier:
                try:
                    return RecommendationStatus.model_validate(one), item["metadata"]["namespace"]
                except ValidationError as error:
                    text = "the stored recommendation cannot be read; ask again after the next round"
                    raise HTTPException(409, text) from error
    raise HTTPException(404, f"no recommendation has the id {identifier} now")
