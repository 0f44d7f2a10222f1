"""One metrics server: its process, its address and what it takes of memory.

Memory is told in two parts, because a TSDB maps its blocks: what the process itself holds (anonymous pages, which only
it can give back), and pages of files that the kernel keeps for it and takes away when they are needed elsewhere. Ends
the process that it started and no other.
"""

import http.client
import json
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

READY_SECONDS: Final = 120.0
STOP_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 120.0
WATCH_SECONDS: Final = 0.1
_LOG_CHARACTERS: Final = 2000


class ServerError(Exception):
    """A server could not be started, loaded or asked; the message says which and what it said."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in bytes."""

    own: int
    """Anonymous pages."""
    files: int
    """Pages of mapped files."""

    @property
    def resident(self) -> int:
        """Both."""
        return self.own + self.files


class Server:
    """A running server on loopback; `stop` ends it."""

    def __init__(self, *, name: str, command: Sequence[str], port: int, log: Path, ready: str) -> None:
        """Start `command` and wait until `ready` (a path) answers; raise ServerError when it ends or takes too long."""
        self.name = name
        self.port = port
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(list(command), stdout=file, stderr=file, stdin=subprocess.DEVNULL)
        try:
            self._await(ready)
        except BaseException:
            self.stop()
            raise

    @property
    def address(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def memory(self) -> Memory:
        """Return what it takes now; raise ServerError when it is gone."""
        found = {}
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except FileNotFoundError as error:
            raise ServerError(f"{self.name} is gone; {self._last_words()}") from error
        for line in lines:
            key, _, value = line.partition(":")
            if key in {"RssAnon", "RssFile"}:
                found[key] = int(value.split()[0]) * 1024
        if len(found) < 2:
            raise ServerError(f"{self.name} is gone; {self._last_words()}")
        return Memory(found["RssAnon"], found["RssFile"])

    def cpu_s(self) -> float:
        """Return the CPU time that it spent so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100.0

    def ask(self, path: str, **parameters: str) -> Any:
        """Return `data` of an answer of its HTTP API; raise ServerError with its words when it is none."""
        body = urllib.parse.urlencode(parameters).encode()
        answer = self.fetch(path, body, content_type="application/x-www-form-urlencoded")
        try:
            return json.loads(answer)["data"]
        except (ValueError, KeyError) as error:
            raise ServerError(f"{self.name} answered {path} with what is no answer: {answer[:200]!r}") from error

    def fetch(
        self,
        path: str,
        body: bytes | None = None,
        *,
        content_type: str = "application/octet-stream",
        timeout_s: float = ANSWER_SECONDS,
    ) -> bytes:
        """Return the body of an answer, to a POST where there is a body; raise ServerError when it fails."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("GET" if body is None else "POST", path, body, {"Content-Type": content_type})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"{self.name} did not answer {path}: {error}") from error
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            words = content[:500].decode(errors="replace")
            raise ServerError(f"{self.name} answered {path} with {answer.status}: {words}")
        return content

    def stop(self) -> None:
        """End the process; one that does not listen is killed."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _await(self, path: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(f"{self.name} ended at once; {self._last_words()}")
            try:
                self.fetch(path, timeout_s=5.0)
            except ServerError:
                time.sleep(0.1)  # it does not listen, or is not ready yet
            else:
                return
        raise ServerError(f"{self.name} was not ready within {READY_SECONDS:.0f} s; {self._last_words()}")

    def _last_words(self) -> str:
        return f"its log ends with:\n{self._log.read_text(errors='replace')[-_LOG_CHARACTERS:]}"


class Watch:
    """Looks at a server's memory again and again: `with Watch(server) as watch: ...; watch.highest`."""

    def __init__(self, server: Server, *, before: Memory | None = None) -> None:
        """`before`: what it takes at rest, as an earlier watch found it; by default what it takes now."""
        self._server = server
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.highest = server.memory()
        self.before = self.highest if before is None else before

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    @property
    def growth(self) -> float:
        """How much more of its own memory it took at the most, as a share of what it took before."""
        return self.highest.own / self.before.own - 1.0

    def _look(self) -> None:
        while not self._end.wait(WATCH_SECONDS):
            try:
                now = self._server.memory()
            except ServerError:
                return
            if now.own > self.highest.own:
                self.highest = now


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
