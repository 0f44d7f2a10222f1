"""A Prometheus that has scraped pages: the raw samples of range selectors, asked as instant queries.

It keeps what it is told was scraped, with the labels of the target, and answers `{__name__=~"...",x=~"..."}[60s]` at
the time that `now` says. It can be told to answer anything else, to lose its clock, and to refuse large questions.
"""

import asyncio
import re
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate

from aiohttp import web

from tests.unit.prometheus_stub import refusal, written

LINE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
SELECTOR = re.compile(r"^\{(.*)\}\[(\d+)s\]$")
MATCHER = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)(=~|!=|=)"([^"]*)"')


@dataclass
class ScrapedServer:
    now: float = 1_000_000.0
    ahead: float = 0.0
    """Seconds that its clock is ahead of `now`."""
    answer: web.Response | None = None
    """What it says to everything."""
    token: str = ""
    most_series: int = 10**9
    asked: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    port: int = 0
    samples: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def scrape(self, pod: str, page: bytes | None, *, at: float, namespace: str = "ns", **target: str) -> None:
        """Store a page as scraped at a moment; None: the target was down."""
        labels = {"job": "engines", "instance": f"{pod}:8000", "namespace": namespace, "pod": pod} | target
        self._add("up", labels, at, 0.0 if page is None else 1.0)
        for line in (page or b"").decode().splitlines():
            found = LINE.match(line)
            if found is None:
                continue
            own = {f"exported_{n}" if n in labels else n: v for n, v in LABEL.findall(found[2] or "")}
            self._add(found[1], labels | own, at, float(found[3]))

    def _add(self, name: str, labels: Mapping[str, str], at: float, value: float) -> None:
        key = tuple(sorted({"__name__": name, **labels}.items()))
        self.samples.setdefault(key, []).append((at + self.ahead, value))

    async def query(self, request: web.Request) -> web.StreamResponse:
        given = dict(await request.post()) if request.method == "POST" else dict(request.query)
        query = str(given["query"])
        self.asked.append(query)
        self.headers.append(request.headers)
        response = self._answer(query, request.headers.get("Authorization", ""))
        response.headers["Date"] = formatdate(self.now + self.ahead, usegmt=True)
        return response

    def _answer(self, query: str, authorization: str) -> web.Response:
        if self.answer is not None:
            body = self.answer.body
            return web.Response(status=self.answer.status, body=body, content_type=self.answer.content_type)
        if self.token and authorization != f"Bearer {self.token}":
            return web.Response(status=401, text="Unauthorized")
        found = SELECTOR.match(query)
        if found is None:
            return refusal(400, "bad_data", f"parse error: {query[:40]}")
        matchers = MATCHER.findall(found[1])
        end = self.now + self.ahead
        result = []
        for labels, samples in self.samples.items():
            within = sorted((at, value) for at, value in samples if end - float(found[2]) < at <= end)
            if within and all(_matches(dict(labels).get(n, ""), how, what) for n, how, what in matchers):
                result.append({"metric": dict(labels), "values": [[at, written(value)] for at, value in within]})
        if len(result) > self.most_series:
            return refusal(422, "execution", "query processing would load too many samples into memory")
        return web.json_response({"status": "success", "data": {"resultType": "matrix", "result": result}})


def _matches(value: str, how: str, what: str) -> bool:
    if how == "=~":
        return re.fullmatch(what.replace("\\\\", "\\"), value) is not None
    return (value == what) is (how == "=")


@contextmanager
def scraped(**what: object):
    """Serve in a thread of its own."""
    server, loop, ready = ScrapedServer(**what), asyncio.new_event_loop(), threading.Event()

    stop = asyncio.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=1 << 22)
        app.router.add_route("*", "/api/v1/query", server.query)
        runner = web.AppRunner(app, shutdown_timeout=0.5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.port = runner.addresses[0][1]
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
