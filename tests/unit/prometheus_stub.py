"""A Prometheus-compatible server over a real socket: its queries as they are documented, with limits and refusals.

A query is a name for functions of time, or, with a `fleet`, evaluated by the little PromQL of `promql_stub`. What it
refuses, it refuses in the words of Prometheus (3.x: `web/api/v1/api.go`, `promql/engine.go`), and it can be told to
answer the next calls with anything else.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate

from aiohttp import web

from tests.unit.promql_stub import Evaluator, Fleet, NoQueryError, matchers

TOO_MANY_POINTS = (
    "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)"
)
TOO_MANY_SAMPLES = "query processing would load too many samples into memory in query execution"

Series = Mapping[tuple[tuple[str, str], ...], Callable[[float], float | None]]


@dataclass
class Stub:
    """What it answers, and what it was asked."""

    queries: dict[str, Series] = field(default_factory=dict)
    scripted: list[web.Response] = field(default_factory=list)
    """Answers of the next calls, whatever they ask for."""
    most_points: int = 11_000
    most_samples: int = 10**9
    warnings: list[str] = field(default_factory=list)
    token: str = ""
    delay_s: float = 0.0
    delay_over: int = 0
    """Calls for more points than this wait `delay_s`."""
    fleet: Fleet = field(default_factory=dict)
    under: str = ""
    """Path below which its API is."""
    names: bool = True
    """Whether names of metrics can be looked up."""
    stats: bool = True
    """Whether it counts samples."""
    build: Mapping[str, str] = field(default_factory=lambda: {"version": "3.5.0"})
    beside: Mapping[str, object] = field(default_factory=dict)
    """Added to answers of queries, as VictoriaMetrics does."""
    clock_ahead_s: float = 0.0
    date: Callable[[float], str] | None = None
    """How its header Date reads."""
    user: str = ""
    """Header Authorization that is expected, as `token` is."""
    refuse_series: int = 10**9
    """Calls that touch more series are refused in the words of VictoriaMetrics."""
    touched: list[tuple[int, int]] = field(default_factory=list)
    """(series, points) of each range that was evaluated by the fleet."""
    asked: list[dict[str, str]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def query_range(self, request: web.Request) -> web.Response:
        return await self._served(request, self._range)

    async def query(self, request: web.Request) -> web.Response:
        return await self._served(request, self._moment)

    async def _served(self, request, answer):
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            given = dict(await request.post()) if request.method == "POST" else dict(request.query)
            self.asked.append(given)
            self.headers.append(request.headers)
            self.methods.append(request.method)
            if self.scripted:
                return self.scripted.pop(0)
            if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
                return web.Response(status=401, text="Unauthorized")
            if self.user and request.headers.get("Authorization") != self.user:
                return web.Response(status=401, text="Unauthorized")
            return await answer(given)
        finally:
            self.running -= 1

    async def names_of(self, request: web.Request) -> web.Response:
        return await self._served(request, self._names)

    async def _names(self, given):
        if not self.names:
            return web.Response(status=403, text="only queries")
        tests = matchers(given["match[]"].strip("{}"))
        found = {dict(labels)["__name__"] for labels in self.fleet if all(test(dict(labels)) for test in tests)}
        return web.json_response({"status": "success", "data": sorted(found)})

    async def labels_of(self, request: web.Request) -> web.Response:
        return await self._served(request, self._labels)

    async def _labels(self, given):
        if not self.names:
            return web.Response(status=403, text="only queries")
        tests = matchers(given["match[]"].strip("{}"))
        found = {name for labels in self.fleet if all(test(dict(labels)) for test in tests) for name, _ in labels}
        return web.json_response({"status": "success", "data": sorted(found)})

    async def build_info(self, request: web.Request) -> web.Response:
        if not self.build:
            return web.Response(status=404, text="404 page not found")
        return web.json_response({"status": "success", "data": dict(self.build)})

    def _evaluated(self, given, times):
        evaluator, values = Evaluator(self.fleet), {}
        try:
            for n, time in enumerate(times):
                for labels, value in evaluator.at(given["query"], time).items():
                    values.setdefault(labels, {})[n] = value
        except NoQueryError as error:
            return refusal(400, "bad_data", f'invalid parameter "query": {error}'), None
        touched = evaluator.matched // len(times)
        self.touched.append((touched, len(times)))
        if touched > self.refuse_series:
            text = f"the number of matching timeseries exceeds {self.refuse_series}; either narrow down the search"
            return refusal(422, "422", text), None
        if evaluator.samples > self.most_samples:
            return refusal(422, "execution", TOO_MANY_SAMPLES), None
        return values, evaluator.samples

    async def _moment(self, given):
        at = float(given.get("time", 0.0))
        await asyncio.sleep(self.delay_s)
        if given["query"] == "time()":
            now = time.time() + self.clock_ahead_s
            document = {"status": "success", "data": {"resultType": "scalar", "result": [now, str(now)]}}
            return web.json_response(document | dict(self.beside))
        if given["query"] not in self.queries:
            return refusal(400, "bad_data", f'invalid parameter "query": 1:1: parse error: {given["query"][:20]}')
        values = {labels: value(at) for labels, value in self.queries[given["query"]].items()}
        found = [
            {"metric": dict(labels), "value": [at, written(number)]}
            for labels, number in values.items()
            if number is not None
        ]
        document = {"status": "success", "data": {"resultType": "vector", "result": found}}
        return web.json_response(document | ({"warnings": self.warnings} if self.warnings else {}))

    async def _range(self, given):
        start, end, step = (float(given[name]) for name in ("start", "end", "step"))
        points = math.floor((end - start) / step + 1e-9) + 1
        if points > self.delay_over:
            await asyncio.sleep(self.delay_s)
        if (end - start) / step > self.most_points:
            return refusal(400, "bad_data", TOO_MANY_POINTS)
        if self.fleet:
            values, samples = self._evaluated(given, [start + n * step for n in range(points)])
            if samples is None:
                return values
            found = [
                {
                    "metric": dict(labels),
                    "values": [[start + n * step, written(number)] for n, number in sorted(row.items())],
                }
                for labels, row in values.items()
            ]
            data = {"resultType": "matrix", "result": found}
            if self.stats and "stats" in given:
                data["stats"] = {"samples": {"totalQueryableSamples": samples}}
            document = {"status": "success", "data": data} | dict(self.beside)
            return web.json_response(document | ({"warnings": self.warnings} if self.warnings else {}))
        if given["query"] not in self.queries:
            return refusal(400, "bad_data", f'invalid parameter "query": 1:1: parse error: {given["query"][:20]}')
        found = []
        for labels, value in self.queries[given["query"]].items():
            at = [(start + n * step, value(start + n * step)) for n in range(points)]
            values = [[time, written(number)] for time, number in at if number is not None]
            if values:
                found.append({"metric": dict(labels), "values": values})
        if points * max(1, len(found)) > self.most_samples:
            return refusal(422, "execution", TOO_MANY_SAMPLES)
        document = {"status": "success", "data": {"resultType": "matrix", "result": found}}
        return web.json_response(document | ({"warnings": self.warnings} if self.warnings else {}))


def written(number: float) -> str:
    if math.isnan(number):
        return "NaN"
    return ("+Inf" if number > 0 else "-Inf") if math.isinf(number) else repr(float(number))


def refusal(status: int, kind: str, text: str, **headers: str) -> web.Response:
    document = {"status": "error", "errorType": kind, "error": text}
    return web.json_response(document, status=status, headers=headers)


@contextmanager
def prometheus(**what):
    """Serve in a thread of its own, so that commands can be called that run an event loop themselves."""
    stub, loop, ready = Stub(**what), asyncio.new_event_loop(), threading.Event()
    stop = asyncio.Event()

    async def dated(_, response):
        now = time.time() + stub.clock_ahead_s
        response.headers["Date"] = formatdate(now, usegmt=True) if stub.date is None else stub.date(now)

    async def serve():
        app = web.Application()
        app.on_response_prepare.append(dated)
        app.router.add_route("*", f"{stub.under}/api/v1/query_range", stub.query_range)
        app.router.add_route("*", f"{stub.under}/api/v1/query", stub.query)
        app.router.add_route("*", f"{stub.under}/api/v1/label/__name__/values", stub.names_of)
        app.router.add_route("*", f"{stub.under}/api/v1/labels", stub.labels_of)
        app.router.add_route("GET", f"{stub.under}/api/v1/status/buildinfo", stub.build_info)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        stub.port = runner.addresses[0][1]
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield stub
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
