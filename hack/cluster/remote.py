"""A cluster behind a kubeconfig of any kind, asked as the tests of a real node ask ours; nothing is brought to it.

Users' kubeconfigs name programs, tokens and certificates in many ways, so kubectl carries the requests: its proxy
listens on a socket in a folder of ours that nobody else may enter, for as long as `with` lasts.
"""

import http.client
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hack.binaries import ensure
from hack.cluster import processes
from hack.cluster.client import TIMEOUT_SECONDS, document_of, exchange
from hack.cluster.errors import ClusterError
from hack.cluster.kubectl import run_kubectl

START_SECONDS = 20.0


class RemoteCluster:
    """A user's cluster; `scratch` is a folder for the socket and the log, with a short path."""

    def __init__(self, kubeconfig: Path, *, scratch: Path) -> None:
        if not kubeconfig.is_file():
            raise ClusterError(f"OPTIINFRA_E2E_KUBECONFIG: no file {kubeconfig}")
        self.kubeconfig = kubeconfig.absolute()
        self._kubectl = ensure(["kubectl"])["kubectl"]
        self._socket = scratch / "api"
        self._log = scratch / "proxy.log"
        self._proxy: processes.Process | None = None

    def __enter__(self) -> Self:
        self._socket.parent.chmod(0o700)
        command = [str(self._kubectl), f"--kubeconfig={self.kubeconfig}", "proxy", f"--unix-socket={self._socket}"]
        self._proxy = processes.start("kubectl proxy", command, log=self._log)
        deadline = time.monotonic() + START_SECONDS
        while not self._socket.exists():
            if not self._proxy.alive or time.monotonic() > deadline:
                self._end()
                raise ClusterError(f"kubectl proxy: {processes.last_words(self._log)}")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 - named as in subprocess
        """Run kubectl with the user's kubeconfig and return what it prints."""
        return run_kubectl(self._kubectl, self.kubeconfig, arguments, input)

    def request(
        self, method: str, path: str, body: object = None, *, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """Send a request and return its JSON answer; raise ApiError on an answer that is not a success."""
        text = exchange(_Connection(self._socket), method, path, body, content_type=content_type)
        return document_of(f"{method} {path}", text)

    def _end(self) -> None:
        if self._proxy is not None:
            self._proxy.stop(grace=2)
            self._proxy = None


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket of this machine."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(self._path)
