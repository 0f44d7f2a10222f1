"""One worker thread that runs one call at a time, for callers who cannot wait for ever.

A driver call that hangs cannot be ended from inside the process: the thread sits in the kernel. So the caller stops
waiting at its deadline, the thread is left behind, and until it comes back every further call is refused at once.
There is never a second thread for the same source: a hung driver costs one thread, not one a minute.

The late result of an abandoned call is thrown away; it belongs to a moment that nobody asks about any more.
Threads do not survive fork, so the worker is bound to the process id and starts anew in a child.
"""

import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar, cast

from optiinfra_agent.errors import SourceStuckError

Result = TypeVar("Result")


class _Job(Generic[Result]):
    """One call and what became of it."""

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call = call
        self.started = time.monotonic()
        self.done = threading.Event()
        self._result: Result | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._result = self._call()
        except Exception as error:  # noqa: BLE001 - handed to the caller, who waits for it
            self._error = error
        finally:
            self.done.set()

    def result(self) -> Result:
        if self._error is not None:
            raise self._error
        return cast(Result, self._result)


class DeadlineWorker(Generic[Result]):
    """Runs calls in a thread of its own and gives up waiting at a deadline."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job[Result]] = SimpleQueue()
        self._current: _Job[Result] | None = None
        self._pid = 0

    def run(self, call: Callable[[], Result], *, deadline_s: float) -> Result:
        """Return what the call returns, or raise SourceStuckError once the deadline has passed."""
        if self._pid != os.getpid():
            self._start()
        current = self._current
        if current is not None and not current.done.is_set():
            seconds = time.monotonic() - current.started
            raise SourceStuckError(f"a {self._name} call has not come back for {seconds:.0f} s")
        job = _Job(call)
        self._current = job
        self._jobs.put(job)
        if not job.done.wait(deadline_s):
            raise SourceStuckError(f"a {self._name} call did not come back within {deadline_s:g} s")
        # An error holds the frame it was raised through, this one: were the finished job still there for the next call
        # to find, each error would hold the one before, with all that its pass had read, for ever.
        self._current = None
        return job.result()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._jobs = SimpleQueue()
        self._current = None
        # Daemon: a thread that hangs in the driver must not keep the process from ending.
        threading.Thread(target=_serve, args=(self._jobs,), name=self._name, daemon=True).start()


def _serve(jobs: "SimpleQueue[_Job[Result]]") -> None:
    while True:
        jobs.get().run()
