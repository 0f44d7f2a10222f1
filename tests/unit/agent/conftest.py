"""Real agent processes, the stub of the driver, a procfs of one's own, and a real HTTP server as orchestrator."""

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.kubelet_stub import Kubelet
from tests.nvml_stub import Stub, build

STAT = """cpu  1000 100 500 8000 200 50 50 100 300 0
cpu0 500 50 250 4000 100 25 25 50 150 0
cpu1 500 50 250 4000 100 25 25 50 150 0
intr 1 2
ctxt 3
btime 1700000000
"""
MEMINFO = """MemTotal:       16000 kB
MemFree:         1000 kB
MemAvailable:   10000 kB
SwapTotal:       2000 kB
SwapFree:        1500 kB
HugePages_Total:       0
"""
NETWORK = """Inter-|   Receive                         |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:  900  9 0 0 0 0 0 0  900  9 0 0 0 0 0 0
  ens5: 1000 10 1 2 0 0 0 0 3000 30 4 8 0 0 0 0
  ens6:  500  5 0 0 0 0 0 0  700  7 0 0 0 0 0 0
vethab12: 77777 7 0 0 0 0 0 0 77777 7 0 0 0 0 0 0
eni0123456789a: 7777 7 0 0 0 0 0 0 7777 7 0 0 0 0 0 0
"""
DISKSTATS = """   7       0 loop0 5 0 50 0 0 0 0 0 0 0 0 0 0 0 0 0 0
 259       0 nvme0n1 100 0 2000 50 200 0 4000 80 0 1500 130 0 0 0 0 0 0
 259       1 nvme0n1p1 90 0 1900 40 190 0 3900 70 0 1400 110 0 0 0 0 0 0
   8       0 sda 1 0 8 1 1 0 16 1 0 500 2
 253       0 dm-0 90 0 1900 40 190 0 3900 70 0 1400 110 0 0 0 0 0 0
"""
PRESSURE = "some avg10={some} avg60=0.00 avg300=0.00 total=1\nfull avg10={full} avg60=0.00 avg300=0.00 total=0\n"


@pytest.fixture
def procfs(tmp_path: Path) -> Path:
    folder = tmp_path / "proc"
    (folder / "pressure").mkdir(parents=True)
    (folder / "stat").write_text(STAT)
    (folder / "meminfo").write_text(MEMINFO)
    (folder / "loadavg").write_text("3.20 2.00 1.00 2/300 4567\n")
    (folder / "diskstats").write_text(DISKSTATS)
    (folder / "1" / "net").mkdir(parents=True)
    (folder / "1" / "net" / "dev").write_text(NETWORK)
    (folder / "2").mkdir()
    (folder / "2" / "comm").write_text("kthreadd\n")
    (folder / "pressure" / "cpu").write_text(PRESSURE.format(some="12.50", full="0.00"))
    (folder / "pressure" / "memory").write_text(PRESSURE.format(some="1.00", full="0.50"))
    (folder / "pressure" / "io").write_text(PRESSURE.format(some="40.00", full="20.00"))
    return folder


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def old_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml-old"), old_driver=True)


@pytest.fixture
def stub(library: Path, tmp_path: Path) -> Stub:
    return Stub(library=library, folder=tmp_path)


@pytest.fixture
def old_stub(old_library: Path, tmp_path: Path) -> Stub:
    return Stub(library=old_library, folder=tmp_path)


@pytest.fixture
def kubelet() -> Iterator[Kubelet]:
    # Not below tmp_path: a socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="kubelet-") as folder:
        stub = Kubelet(Path(folder))
        stub.start()
        yield stub
        stub.stop()


def eventually(check: Callable[[], Any], *, within: float = 30.0) -> Any:
    """Return the first truthy answer; an assertion that fails is asked again."""
    end = time.monotonic() + within
    while True:
        try:
            answer = check()
            if answer:
                return answer
            problem = f"last answer: {answer!r}"
        except AssertionError as error:
            problem = str(error)
        assert time.monotonic() < end, f"not within {within} s; {problem}"
        time.sleep(0.05)


def environment(**settings: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    defaults = {
        "NODE_NAME": "node-a",
        "OPTIINFRA_AGENT_LISTEN_ADDRESS": "127.0.0.1",
        "OPTIINFRA_AGENT_LISTEN_PORT": "0",
        "OPTIINFRA_AGENT_INTERVAL": "1",
        # Whether the machine of the tests has a kubelet must not matter.
        "OPTIINFRA_AGENT_POD_RESOURCES": "off",
        "OPTIINFRA_AGENT_CGROUPS": "off",
        # Nor on which of its NUMA nodes a device is.
        "OPTIINFRA_AGENT_SYSFS": "/proc/sys",
    }
    return {**kept, **defaults, **settings}


def run_agent(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "optiinfra_agent", *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def once(**settings: str) -> dict[str, Any]:
    done = run_agent("--once", **settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Agent:
    """A running agent process."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "optiinfra_agent"],
            env=environment(**settings),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict[str, Any]] = []
        self.raw: list[str] = []
        ports: queue.Queue[int | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(ports,), daemon=True)
        self._reader.start()
        port = ports.get(timeout=30)
        assert port is not None, "".join(self.raw)
        self.port = port

    def _read(self, ports: "queue.Queue[int | None]") -> None:
        assert self.process.stderr is not None
        for text in self.process.stderr:
            self.raw.append(text)
            line = json.loads(text) if text.startswith("{") else {}
            self.lines.append(line)
            if line.get("message") == "the agent listens":
                ports.put(line["fields"]["port"])
        ports.put(None)

    def request(
        self, path: str, *, method: str = "GET", headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", method=method, headers=headers or {}, data=body
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()

    def document(self, path: str) -> dict[str, Any]:
        return json.loads(self.request(path)[2])

    def snapshot(self) -> dict[str, Any]:
        return eventually(lambda: self.request("/v1/snapshot")[0] == 200 and self.document("/v1/snapshot"))

    def metrics(self) -> dict[str, float]:
        status, _, body = self.request("/metrics")
        assert status == 200
        series = (line.rsplit(" ", 1) for line in body.decode().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in series}

    def terminate(self) -> int:
        self.process.terminate()
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(timeout=20)
        self._reader.join(timeout=10)
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=10)
        self._reader.join(timeout=10)
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Agent]]:
    with contextlib.ExitStack() as stack:

        def begin(**settings: str) -> Agent:
            agent = Agent(settings)
            stack.callback(agent.end)
            return agent

        yield begin


class Orchestrator:
    """A real HTTP server that takes the three calls, or fails in the way `mode` says."""

    def __init__(self) -> None:
        self.mode: dict[str, str] = {}
        self.calls: list[tuple[str, str, dict[str, Any], str]] = []
        self.release = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _take(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                call = self.path.rsplit("/", 1)[-1] if self.command == "POST" else "leave"
                outer.calls.append(
                    (call, self.path, json.loads(body) if body else {}, self.headers.get("Authorization") or "")
                )
                outer.answer(self, outer.mode.get(call, "ok"))

            do_POST = _take  # noqa: N815 - the name http.server calls
            do_DELETE = _take  # noqa: N815 - the name http.server calls

            def log_message(self, *arguments: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler, mode: str) -> None:
        if mode == "hang":
            self.release.wait(30)
            handler.close_connection = True
            return
        if mode == "drip":
            with contextlib.suppress(OSError):
                while not self.release.wait(0.1):
                    handler.wfile.write(b"H")
            handler.close_connection = True
            return
        status = {"ok": 200, "garbage": 200, "endless": 200}.get(mode) or int(mode)
        body = {"garbage": b"<html>hello</html>", "endless": b" " * (2 << 20)}.get(mode, b'{"status": "ok"}')
        with contextlib.suppress(OSError):
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(body)))
            if mode == "302":
                handler.send_header("Location", self.url + "/elsewhere")
            handler.end_headers()
            handler.wfile.write(body)

    def count(self, call: str) -> int:
        return sum(one[0] == call for one in self.calls)

    def last(self, call: str) -> tuple[str, str, dict[str, Any], str]:
        return next(one for one in reversed(self.calls) if one[0] == call)

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(timeout=10)


@pytest.fixture
def orchestrator() -> Iterator[Orchestrator]:
    server = Orchestrator()
    yield server
    server.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port on which nobody answers."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]
