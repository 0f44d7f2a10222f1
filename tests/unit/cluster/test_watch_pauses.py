"""How long a mirror waits between two tries: longer and longer where nothing comes, and not after what went well."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator

from optiinfra.cluster.client import Page
from optiinfra.cluster.errors import Expired, Unavailable
from optiinfra.cluster.watch import Reflector
from tests.unit.control import virtual

LONGEST_PAUSE = 0.5 + 1e-6
"""Of a first try; the virtual clock adds up seconds that binary fractions only come near to."""
BOOKMARK = json.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "2"}}}).encode() + b"\n"


class Server:
    """Its watches live for some seconds, say something or nothing, and then break."""

    def __init__(self, *, seconds: float, says: bytes = b"", error: type[Exception] = Unavailable) -> None:
        self.seconds, self.says, self.error = seconds, says, error
        self.opened: list[float] = []

    async def pages(self, _path: str, **_: object) -> AsyncIterator[Page]:
        yield Page([], "1")

    @contextlib.asynccontextmanager
    async def stream(self, _path: str, **_: object) -> AsyncGenerator[AsyncIterator[bytes]]:
        self.opened.append(virtual.now())

        async def chunks() -> AsyncIterator[bytes]:
            if self.says:
                yield self.says
            await asyncio.sleep(self.seconds)
            raise self.error("it broke")

        yield chunks()

    def pauses(self, seconds: float) -> list[float]:
        """Seconds between the end of one watch and the next, in so much time."""

        async def story() -> None:
            mirror = Reflector(self, "/api/v1/pods", parse=lambda item: item, clock=virtual.now)  # type: ignore[arg-type]  # a stand-in
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await mirror.run()

        virtual.run(story)
        return [later - earlier - self.seconds for earlier, later in itertools.pairwise(self.opened)]


def test_who_gets_no_watch_asks_less_and_less():
    pauses = Server(seconds=0.0).pauses(300.0)
    assert max(pauses[:2]) <= 2.0 * LONGEST_PAUSE
    assert min(pauses[-3:]) >= 15.0


def test_a_watch_that_was_silent_for_long_is_followed_by_another_at_once():
    assert max(Server(seconds=48.0).pauses(1000.0)) <= LONGEST_PAUSE


def test_a_watch_that_said_something_before_it_broke_was_a_good_one():
    assert max(Server(seconds=2.0, says=BOOKMARK).pauses(300.0)) <= LONGEST_PAUSE


def test_a_server_that_expires_every_watch_is_not_asked_for_lists_without_a_pause():
    pauses = Server(seconds=0.0, says=BOOKMARK, error=Expired).pauses(300.0)
    assert min(pauses[-3:]) >= 15.0
