"""The request to end, from a signal, and who has to hear of it.

uvicorn takes SIGTERM and SIGINT while it serves, ends the pages and then raises them again: without a handler of our
own that second time would end the process before the agent has left the orchestrator. And a signal that comes before
uvicorn listens to it must not be lost.
"""

from types import FrameType
from typing import Protocol


class Endable(Protocol):
    """A server that ends when it finds this set, as uvicorn's does."""

    should_exit: bool


class Stop:
    """Takes signals before and after the server does."""

    def __init__(self) -> None:
        self.requested = False
        self._server: Endable | None = None

    def attach(self, server: Endable) -> None:
        """Tell this server of the next signal. Look at `requested` after it: one in between is seen here or there."""
        self._server = server

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        self.requested = True
        if self._server is not None:
            self._server.should_exit = True
