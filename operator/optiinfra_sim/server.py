"""The sockets: one listener plays every engine pod, one every node agent, one is for the person who runs it.

KWOK gives every pod a loopback address, so a listener on all addresses hears the calls for all pods and tells them
apart by the connection's own local address. A call to an address that no pod of ours has is cut off without an answer,
as nothing would answer there; so is a call to an engine that is still loading. Engines also answer
OpenAI's completions API. The control port listens on 127.0.0.1 only and starts traces.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Middleware

from optiinfra_sim.agents import Agents
from optiinfra_sim.api import CompletionsApi
from optiinfra_sim.completions import MAX_BODY_BYTES
from optiinfra_sim.errors import ScenarioError
from optiinfra_sim.pages import CONTENT_TYPE
from optiinfra_sim.stage import Stage

ALL_ADDRESSES = ("0.0.0.0",)  # noqa: S104 - every pod has a loopback address of its own; unknown ones are cut off
CONTROL_ADDRESS = "127.0.0.1"
MAX_CONTROL_BODY = 1024
KEEP_ALIVE_SECONDS = 30.0
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """All listeners of one simulator."""

    def __init__(self, *, stage: Stage, agents: Agents) -> None:
        self._stage = stage
        self._agents = agents
        self._runners: list[web.AppRunner] = []

    async def start(
        self,
        *,
        engine_port: int,
        agent_port: int,
        control_port: int,
        addresses: Sequence[str] = ALL_ADDRESSES,
    ) -> None:
        """Open all ports, or raise OSError where one is taken."""
        engine = _application(self._engine_guard, [("/metrics", self._engine_page), ("/health", self._healthy)])
        api = CompletionsApi(lambda request: self._stage.door(local_address(request)))
        engine.router.add_routes(api.routes())
        agent = _application(
            self._agent_guard,
            [("/v1/snapshot", self._snapshot), ("/metrics", self._agent_page), ("/health", self._agent_health)],
        )
        control = web.Application(client_max_size=MAX_CONTROL_BODY)
        control.router.add_get("/sim/v1/state", self._state)
        control.router.add_post("/sim/v1/begin/{service}", self._begin)
        await self._listen(engine, addresses, engine_port)
        await self._listen(agent, addresses, agent_port)
        await self._listen(control, [CONTROL_ADDRESS], control_port)

    async def stop(self) -> None:
        """Close all ports."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    async def _listen(self, application: web.Application, addresses: Sequence[str], port: int) -> None:
        runner = web.AppRunner(application, access_log=None, keepalive_timeout=KEEP_ALIVE_SECONDS, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        for address in addresses:
            await web.TCPSite(runner, address, port).start()

    @web.middleware
    async def _engine_guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if self._stage.page(local_address(request)) is None:
            return cut_off(request)
        return await handler(request)

    @web.middleware
    async def _agent_guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if not self._agents.knows(local_address(request)):
            return cut_off(request)
        return await handler(request)

    async def _engine_page(self, request: web.Request) -> web.Response:
        page = self._stage.page(local_address(request))
        return web.Response(body=page or b"", headers={"Content-Type": CONTENT_TYPE})

    async def _healthy(self, _request: web.Request) -> web.Response:
        return web.Response()

    async def _snapshot(self, request: web.Request) -> web.Response:
        return _json(self._agents.snapshot(local_address(request)))

    async def _agent_page(self, request: web.Request) -> web.Response:
        page = self._agents.metrics(local_address(request))
        return web.Response(body=page or b"", headers={"Content-Type": CONTENT_TYPE})

    async def _agent_health(self, _request: web.Request) -> web.Response:
        return _json({"status": "healthy", "simulated": True})

    async def _state(self, _request: web.Request) -> web.Response:
        return _json(state_json(self._stage))

    async def _begin(self, request: web.Request) -> web.Response:
        try:
            self._stage.begin(request.match_info["service"])
        except ScenarioError as error:
            return _json({"error": str(error)}, status=409)
        return _json({"begun": request.match_info["service"]})


def local_address(request: web.Request) -> str:
    """The address that the caller meant: which pod."""
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return str(name[0]) if name else ""


def cut_off(request: web.Request) -> web.Response:
    """Reset the connection; the response that a handler must return never reaches anybody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)


def state_json(stage: Stage) -> dict[str, Any]:
    """All services as JSON shows them."""
    return {
        "simulated": True,
        "time": stage.epoch + stage.now,
        "services": [asdict(state) for state in stage.states()],
    }


def _application(
    guard: Middleware,
    routes: Sequence[tuple[str, Callable[[web.Request], Awaitable[web.Response]]]],
) -> web.Application:
    application = web.Application(middlewares=[guard], client_max_size=MAX_BODY_BYTES)
    for path, handler in routes:
        application.router.add_get(path, handler)
    return application


def _json(content: object, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(content), status=status, content_type="application/json")
