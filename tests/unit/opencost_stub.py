"""OpenCost's API over a real socket: /assets as it is served, and every way in which it goes wrong."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


def asset(name: str, *, hour: float, minutes: float = 1440.0, gpus: float = 0.0, **parts: Any) -> dict[str, Any]:
    """One node as OpenCost writes it (core/pkg/opencost/asset_json.go); `parts` are what is different."""
    hours = minutes / 60.0
    written = {
        "type": "Node",
        "properties": {"category": "Compute", "name": name, "providerID": f"i-{name}", "cluster": "cluster-one"},
        "labels": {},
        "start": "2026-11-20T00:00:00Z",
        "end": "2026-11-21T00:00:00Z",
        "minutes": minutes,
        "nodeType": "p5.48xlarge",
        "cpuCores": 192.0,
        "ramBytes": 2048.0 * 2**30,
        "GPUHours": gpus * hours,
        "preemptible": 0,
        "discount": 0.0,
        "cpuCost": hour * hours * 0.1,
        "gpuCost": hour * hours * 0.8 if gpus else 0.0,
        "gpuCount": gpus,
        "ramCost": hour * hours * (0.1 if gpus else 0.9),
        "adjustment": 0.0,
        "totalCost": hour * hours,
    }
    return written | parts


@dataclass
class Stub:
    """What it answers, and what it was asked."""

    data: Any = field(default_factory=dict)
    scripted: list[web.StreamResponse] = field(default_factory=list)
    delay_s: float = 0.0
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(str(request.rel_url))
        await asyncio.sleep(self.delay_s)
        if self.scripted:
            return self.scripted.pop(0)
        return web.json_response({"code": 200, "data": self.data})


@asynccontextmanager
async def opencost(**what: Any):
    stub, app = Stub(**what), web.Application()
    app.router.add_get("/assets", stub.answer)
    app.router.add_get("/model/assets", stub.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    stub.port = runner.addresses[0][1]
    try:
        yield stub
    finally:
        await runner.cleanup()
