"""A fleet in real time without a cluster: a router's port and one port for each replica, for load generators.

    optiinfra-sim engine --engine vllm --replicas 2 --port 8000

The first port is the router's: the completions API, and the page of the only replica where there is one. With several
replicas the ports after it are theirs: each its own page, and the API past the router. It listens on 127.0.0.1 unless
told otherwise. Virtual time follows the monotonic clock; after a stall it goes on in slices.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Sequence

from aiohttp import web

from optiinfra_sim.api import CompletionsApi
from optiinfra_sim.completions import MAX_BODY_BYTES
from optiinfra_sim.door import Door
from optiinfra_sim.errors import SimulatorError
from optiinfra_sim.fleet import Fleet
from optiinfra_sim.pages import CONTENT_TYPE, PageTimes, render
from optiinfra_sim.routing import Routing
from optiinfra_sim.settings import EngineSettings

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.01
LONGEST_SLICE_SECONDS = 0.5


class LiveFleet:
    """Replicas, their listeners, and the clock."""

    def __init__(
        self, settings: EngineSettings, *, replicas: int, routing: Routing, startup_seconds: float = 0.0
    ) -> None:
        self.epoch = time.time()
        self.fleet = Fleet(settings=settings, routing=routing)
        self._names = [f"replica-{index}" for index in range(replicas)]
        for name in self._names:
            self.fleet.add(name, ready_at=startup_seconds)
        self._ready = self.epoch + startup_seconds
        self._ticked = asyncio.Event()
        self._runners: list[web.AppRunner] = []

    async def run(self, *, host: str, port: int) -> None:
        """Serve until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self.start(host=host, ports=[port + index for index in range(self.ports)])
        pace = asyncio.create_task(self.pace())
        ended = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait((pace, ended), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (pace, ended):
                task.cancel()
            await asyncio.gather(pace, ended, return_exceptions=True)
            await self.stop()

    @property
    def ports(self) -> int:
        """How many are needed: the router's, and one for each of several replicas."""
        return 1 if len(self._names) == 1 else 1 + len(self._names)

    async def start(self, *, host: str, ports: Sequence[int]) -> None:
        """Open the ports."""
        doors = [Door(self.fleet, created=self.epoch, replica=name, tick=self.tick) for name in (None, *self._names)][
            : self.ports
        ]
        try:
            for door, port in zip(doors, ports, strict=True):
                await self._listen(door, host=host, port=port)
                logger.info("%s: http://%s:%s/v1", door.replica or "router", host, port)
        except OSError as error:
            await self.stop()
            raise SimulatorError(f"a port cannot be opened: {error}") from error

    async def stop(self) -> None:
        """Close the ports."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    async def pace(self) -> None:
        """Let virtual time follow the clock, for ever."""
        start = time.monotonic() - self.fleet.now
        while True:
            due = time.monotonic() - start
            self.fleet.advance(to=min(due, self.fleet.now + LONGEST_SLICE_SECONDS))
            ticked, self._ticked = self._ticked, asyncio.Event()
            ticked.set()
            await asyncio.sleep(TICK_SECONDS)

    async def tick(self) -> None:
        """Wait until time has moved on."""
        await self._ticked.wait()

    async def _listen(self, door: Door, *, host: str, port: int) -> None:
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.router.add_routes(CompletionsApi(lambda _request: door).routes())
        name = door.replica or (self._names[0] if len(self._names) == 1 else None)

        async def metrics(_request: web.Request) -> web.Response:
            return self._page(name)

        async def health(_request: web.Request) -> web.Response:
            return web.Response(status=200 if self.fleet.in_flight() else 503)

        application.router.add_get("/metrics", metrics)
        application.router.add_get("/health", health)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, host, port).start()

    def _page(self, name: str | None) -> web.Response:
        if name is None:
            return web.Response(
                status=404, text="the router has no page: each replica has its own, on the next ports\n"
            )
        engine = self.fleet.replicas[name].engine
        if engine is None:
            return web.Response(status=503, text="the model is loading\n")
        page = render(engine, times=PageTimes(started=self.epoch, serving=self._ready))
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE})
