"""Health paths and metrics: open to the cluster's probes and scrapers, without a token.

`/health/live` fails when the loops stop making progress, so that the kubelet restarts the pod; `/health/ready` fails
while caches are empty. Neither speaks about the cluster's waste or names a workload.
"""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from optiinfra import __version__, metrics
from optiinfra.web.ports import Component, OperatorView

router = APIRouter(tags=["health"])


def _view(request: Request) -> OperatorView:
    view: OperatorView = request.app.state.operator
    return view


def _answer(component: Component, **more: Any) -> JSONResponse:
    body = {"status": "healthy" if component.healthy else "unhealthy", "message": component.message, **more}
    return JSONResponse(body, status_code=200 if component.healthy else 503)


@router.get("/health")
@router.get("/api/v1/health", include_in_schema=False)
async def health(request: Request) -> JSONResponse:
    """Alive and ready, in one answer."""
    view = _view(request)
    alive, ready = view.alive(), view.ready()
    return _answer(alive if not alive.healthy else ready, version=__version__)


@router.get("/health/live")
@router.get("/api/v1/health/live", include_in_schema=False)
async def live(request: Request) -> JSONResponse:
    """Fail when this process should be restarted."""
    return _answer(_view(request).alive())


@router.get("/health/ready")
@router.get("/api/v1/health/ready", include_in_schema=False)
async def ready(request: Request) -> JSONResponse:
    """Fail while this replica cannot answer."""
    return _answer(_view(request).ready())


@router.get("/health/detailed")
@router.get("/api/v1/health/detailed", include_in_schema=False)
async def detailed(request: Request) -> JSONResponse:
    """Show every component with its real state."""
    view = _view(request)
    components = {
        name: {"status": "healthy" if part.healthy else "unhealthy", "message": part.message}
        for name, part in view.components().items()
    }
    return _answer(
        view.ready(), version=__version__, leading=view.leading, leader=view.leader_address, components=components
    )


@router.get("/metrics", include_in_schema=False)
async def prometheus() -> Response:
    """The operator's own metrics, and `optiinfra_desired_replicas` for scalers."""
    return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)
