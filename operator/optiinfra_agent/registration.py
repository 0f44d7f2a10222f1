"""Registration at the orchestrator: register, heartbeat, leave.

The agent works on when that server is away: calls are made in a thread of their own, every one has a total deadline,
and failures are repeated with a growing, jittered pause, so that a thousand agents do not come back in one second.
A 404 means that the server has forgotten this agent (it restarted): it registers again at once.

http.client, not urllib or aiohttp: it follows no redirects and obeys no proxy variables, both of which could carry
the token elsewhere, and it is already in memory. A socket time-out bounds only one read, so a timer cuts the
connection when the whole call takes too long. The token is read again at each call: the kubelet rotates it.
"""

import json
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from optiinfra_agent import AGENT_TYPE, __version__
from optiinfra_agent.errors import (
    AgentUnknownError,
    OrchestratorError,
    OrchestratorRefusedError,
    OrchestratorUnreachableError,
)
from optiinfra_agent.settings import Settings

if TYPE_CHECKING:
    import http.client

log = logging.getLogger(__name__)

ANSWER_LIMIT = 64 * 1024
_TOKEN_LIMIT = 16 * 1024
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_LEAVE_S = 2.0
_LAST_CALL_S = 0.5
_ABSENT = 404
_NO_CONTENT = 204


@dataclass(frozen=True, slots=True)
class RegistrationState:
    """How the registration stands."""

    wanted: bool
    registered: bool = False
    failures: int = 0
    error: str = ""
    heartbeat_time: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What the agent says about itself in a call."""

    status: str
    capabilities: tuple[str, ...]
    metrics: dict[str, float]


class Orchestrator:
    """The three calls, each one bounded in time and size."""

    def __init__(self, *, url: str, token_file: Path | None, ca_file: Path | None, timeout_s: float) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port
        self._base = parts.path.rstrip("/")
        self._secure = parts.scheme == "https"
        self._token_file = token_file
        self._ca_file = ca_file
        self._timeout_s = timeout_s

    def register(self, document: dict[str, Any]) -> None:
        """Make this agent known."""
        self._call("POST", "/api/v1/agents/register", document, timeout_s=self._timeout_s)

    def heartbeat(self, document: dict[str, Any]) -> None:
        """Say that this agent is there."""
        self._call("POST", "/api/v1/agents/heartbeat", document, timeout_s=self._timeout_s)

    def leave(self, agent_id: str) -> None:
        """Sign this agent off. Shorter than the others: it stands in the way of the end of the process."""
        path = f"/api/v1/agents/{quote(agent_id, safe='')}"
        self._call("DELETE", path, None, timeout_s=min(_LEAVE_S, self._timeout_s))

    def _call(self, method: str, path: str, document: dict[str, Any] | None, *, timeout_s: float) -> None:
        import http.client  # noqa: PLC0415 - loaded with the first call, which nobody who waits for a page waits for

        headers = {"Accept": "application/json", "User-Agent": f"optiinfra-agent/{__version__}", "Connection": "close"}
        body = None
        if document is not None:
            body = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
            headers["Content-Type"] = "application/json"
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {_read_token(self._token_file)}"
        connection = self._connection(timeout_s)
        late = threading.Event()

        def cut() -> None:
            late.set()
            if connection.sock is not None:
                # Shutdown, not close: only a shutdown wakes the thread that waits in a read.
                try:
                    connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    log.debug("the connection was already gone when its time was up")

        timer = threading.Timer(timeout_s, cut)
        timer.daemon = True
        timer.start()
        try:
            connection.request(method, self._base + path, body=body, headers=headers)
            answer = connection.getresponse()
            data = answer.read(ANSWER_LIMIT + 1)
        except (OSError, http.client.HTTPException) as error:
            what = f"no answer within {timeout_s:g} s" if late.is_set() else f"{type(error).__name__}: {error}"
            raise OrchestratorUnreachableError(f"{method} {path}: {what}"[:200]) from error
        finally:
            timer.cancel()
            connection.close()
        if late.is_set():
            raise OrchestratorUnreachableError(f"{method} {path}: no answer within {timeout_s:g} s")
        _check(method, path, answer.status, data)

    def _connection(self, timeout_s: float) -> "http.client.HTTPConnection":
        import http.client  # noqa: PLC0415 - as above

        if not self._secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        try:
            context = ssl.create_default_context(cafile=str(self._ca_file) if self._ca_file else None)
        except OSError as error:
            raise OrchestratorUnreachableError(f"ORCHESTRATOR_CA_FILE cannot be used: {error}") from error
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=context)


def _read_token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            token = file.read(_TOKEN_LIMIT + 1).strip().decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise OrchestratorUnreachableError(f"ORCHESTRATOR_TOKEN_FILE cannot be read: {error}") from error
    if not token or len(token) > _TOKEN_LIMIT or not token.isprintable():
        raise OrchestratorUnreachableError("ORCHESTRATOR_TOKEN_FILE holds no token")
    return token


def _check(method: str, path: str, status: int, data: bytes) -> None:
    if status == _ABSENT and method == "DELETE":
        return  # already forgotten is what was asked for
    if status == _ABSENT:
        raise AgentUnknownError(f"{method} {path}: status 404", status=status)
    if not 200 <= status < 300:
        raise OrchestratorRefusedError(f"{method} {path}: status {status}", status=status)
    if status == _NO_CONTENT or not data:
        return
    if len(data) > ANSWER_LIMIT:
        raise OrchestratorUnreachableError(f"{method} {path}: the answer is larger than {ANSWER_LIMIT} bytes")
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise OrchestratorUnreachableError(
            f"{method} {path}: the answer is no JSON object; does ORCHESTRATOR_URL point at the operator?"
        )


class Registration:
    """Keeps this agent registered, in a thread of its own."""

    def __init__(
        self,
        settings: Settings,
        *,
        endpoint: str,
        measured: threading.Event,
        report: Callable[[], Report],
    ) -> None:
        self._settings = settings
        self._endpoint = endpoint
        self._measured = measured
        self._report = report
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registration", daemon=True)
        self._client = Orchestrator(
            url=settings.orchestrator_url,
            token_file=settings.orchestrator_token_file,
            ca_file=settings.orchestrator_ca_file,
            timeout_s=settings.orchestrator_timeout_s,
        )
        self._state = RegistrationState(wanted=bool(settings.orchestrator_url))

    @property
    def state(self) -> RegistrationState:
        """How it stands now."""
        return self._state

    def start(self) -> None:
        """Begin to register, if an orchestrator is named at all."""
        if self._state.wanted:
            self._thread.start()

    def stop(self) -> None:
        """Leave the orchestrator, in bounded time, whatever the background thread is waiting for."""
        self._stop.set()
        if not self._thread.is_alive():
            return
        self._thread.join(_LAST_CALL_S)
        if not self._state.registered and not self._thread.is_alive():
            return
        # Also with a registration still in flight: it may have been taken, and leaving twice does no harm.
        leaving = threading.Thread(target=self._leave, name="leaving", daemon=True)
        leaving.start()
        leaving.join(_LEAVE_S + 0.3)

    def _leave(self) -> None:
        try:
            self._client.leave(self._settings.identity)
        except OrchestratorError as error:
            log.warning("could not leave the orchestrator", extra={"fields": {"error": str(error)}})
        else:
            self._state = replace(self._state, registered=False)
            log.info("left the orchestrator")

    def _run(self) -> None:
        # What the agent can do is known only after the first collection, and it is part of the registration.
        while not self._stop.is_set() and not self._measured.wait(0.1):
            continue
        while not self._stop.is_set():
            try:
                if self._state.registered:
                    self._heartbeat()
                else:
                    self._register()
            except AgentUnknownError as error:
                forgotten = self._state.registered
                self._failed(error, registered=False)
                # Once at once; a server that answers 404 to the registration too gets the growing pause.
                pause = 0.0 if forgotten else self._pause()
            except OrchestratorError as error:
                self._failed(error, registered=self._state.registered)
                pause = self._pause()
            else:
                pause = self._settings.heartbeat_s * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, hides nothing
            self._stop.wait(pause)

    def _register(self) -> None:
        report = self._report()
        self._client.register(
            {
                "agent_id": self._settings.identity,
                "agent_type": AGENT_TYPE,
                "capabilities": list(report.capabilities),
                "endpoint": self._endpoint,
                "health_check_endpoint": f"{self._endpoint}/health",
                "version": __version__,
                "status": report.status,
            }
        )
        self._state = RegistrationState(wanted=True, registered=True, heartbeat_time=round(time.time(), 3))
        log.info("registered at the orchestrator", extra={"fields": {"url": self._settings.orchestrator_url}})

    def _heartbeat(self) -> None:
        report = self._report()
        now = round(time.time(), 3)
        self._client.heartbeat(
            {
                "agent_id": self._settings.identity,
                "status": report.status,
                "timestamp": now,
                "metrics": report.metrics,
            }
        )
        self._state = RegistrationState(wanted=True, registered=True, heartbeat_time=now)

    def _failed(self, error: OrchestratorError, *, registered: bool) -> None:
        if not self._state.failures:
            log.warning("the orchestrator did not take a call", extra={"fields": {"error": str(error)}})
        self._state = replace(self._state, registered=registered, failures=self._state.failures + 1, error=str(error))

    def _pause(self) -> float:
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(self._state.failures - 1, 10))
        return random.uniform(longest / 2, longest)  # noqa: S311 - spreads load, hides nothing
