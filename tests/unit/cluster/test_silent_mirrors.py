"""A mirror that hears nothing shows the past: who notices, after how long, and whom it concerns."""

import asyncio
import contextlib
import itertools

import pytest

from optiinfra.cluster.client import Page
from optiinfra.cluster.errors import Unavailable
from optiinfra.cluster.inventory import SILENT_AFTER_S, Inventory

CLUSTER = ("/api/v1/pods", "/apis/autoscaling/v2/horizontalpodautoscalers")


class Server:
    """Lists nothing, and lets watches of some paths fail; a failing call takes a second of the clock."""

    def __init__(self):
        self.now = 1000.0
        self.deaf = set()
        self.failed = asyncio.Event()

    async def pages(self, _path, **_):
        yield Page([], "1")

    @contextlib.asynccontextmanager
    async def stream(self, path, **_):
        if path in self.deaf:
            self.failed.set()
            raise Unavailable("no answer")

        async def chunks():
            await asyncio.Event().wait()
            yield b""

        yield chunks()


@contextlib.asynccontextmanager
async def inventory(server, **scope):
    made = Inventory(server, clock=lambda: server.now, **scope)
    task = asyncio.create_task(made.run())
    try:
        async with asyncio.timeout(30):
            await made.wait_synced()
            for _ in itertools.repeat(None, 20):
                await asyncio.sleep(0)
        yield made
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_before_everything_was_listed_nobody_is_silent_and_nobody_has_paused():
    server = Server()
    made = Inventory(server, clock=lambda: server.now)
    assert (made.silent(), made.blind("inference"), made.longest_pause()) == ((), (), 0.0)


async def test_a_mirror_that_hears_nothing_for_long_is_named():
    server = Server()
    async with inventory(server) as made:
        server.now += SILENT_AFTER_S
        assert made.silent() == made.blind("inference") == made.blind_of_nodes() == ()
        server.now += 1.0
        assert made.blind("inference") == CLUSTER
        assert made.blind_of_nodes() == ("/api/v1/nodes", "/api/v1/pods", "/apis/policy/v1/poddisruptionbudgets")
        assert {*made.silent()} == {*CLUSTER, "/apis/policy/v1/poddisruptionbudgets", "/api/v1/nodes"}


async def test_of_several_namespaces_only_those_concerned_are_blind():
    server = Server()
    async with inventory(server, namespaces=["a", "a-b"]) as made:
        server.now += SILENT_AFTER_S + 1.0
        assert made.blind("a") == (
            "/api/v1/namespaces/a/pods",
            "/apis/autoscaling/v2/namespaces/a/horizontalpodautoscalers",
        )
        assert made.blind("b") == ()
        assert made.blind_of_nodes() == (), "of no nodes anything is decided there"


@pytest.mark.parametrize("deaf", CLUSTER)
async def test_a_server_that_does_not_answer_is_still_asked(deaf):
    """So that liveness can tell a mirror that stands still from one that nobody answers."""
    server = Server()
    server.deaf.add(deaf)
    async with inventory(server) as made:
        server.now += SILENT_AFTER_S + 1.0
        server.failed.clear()
        async with asyncio.timeout(30):
            await server.failed.wait()
        assert deaf in made.silent()
        tried = {mirror.path: mirror.last_try for mirror in made._mirrors}
        assert tried[deaf] == server.now
        assert made.longest_pause() == SILENT_AFTER_S + 1.0, "the others wait for their watches, which are quiet"
