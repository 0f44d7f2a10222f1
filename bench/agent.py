"""What the node agent costs: memory, start, and the time its two pages take.

`python -m bench.agent` starts the real process, on a node without driver and on one with eight GPUs (the stub of the
driver library from the tests, when gcc is there), and prints a table with the limit beside each figure. The clock of
"start" runs from the creation of the process to the first snapshot that was read whole over HTTP. Page times are
taken over one kept connection, as a scraper does. It returns 1 when a limit is missed, so that CI can ask it.

Bytecode is compiled, as in the image; one figure tells what the agent takes where it is not. The figures are those
of the machine it runs on, and of whatever else runs there: the start most of all.
"""

import argparse
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.nvml_stub import Stub, build

STARTS = 5
REQUESTS = 400
CPU_WINDOW_S = 10.0
LIMIT_MEMORY_MIB = 56.0
LIMIT_PAGE_MS = 20.0
LIMIT_START_S = 1.0
LIMIT_CPU_PERCENT = 1.0
_INTERVAL_S = 15.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure and its limit."""

    name: str
    value: float
    limit: float
    unit: str

    @property
    def holds(self) -> bool:
        """Whether the limit is kept."""
        return self.value <= self.limit


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least this share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@contextmanager
def agent(environment: dict[str, str], *, interval_s: float) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run an agent on a free port of the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = int(reserved.getsockname()[1])
    settings = {
        "PATH": os.environ.get("PATH", ""),
        "NODE_NAME": "bench",
        "OPTIINFRA_AGENT_LISTEN_ADDRESS": "127.0.0.1",
        "OPTIINFRA_AGENT_LISTEN_PORT": str(port),
        "OPTIINFRA_AGENT_INTERVAL": str(interval_s),
        **environment,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "optiinfra_agent"], env=settings, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        yield process, port
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)


def get(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    """Read one page whole."""
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def wait_for_snapshot(process: subprocess.Popen[bytes], port: int) -> None:
    """Return once a snapshot has been served."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"the agent ended with {process.returncode}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            if get(connection, "/v1/snapshot")[0] == http.HTTPStatus.OK:
                return
        except OSError:
            pass  # it does not listen yet
        finally:
            connection.close()
        time.sleep(0.005)
    raise SystemExit("the agent served no snapshot within 30 s")


def start_time(environment: dict[str, str]) -> float:
    """Return the median time from the creation of the process to the first served snapshot."""
    times: list[float] = []
    for _ in range(STARTS):
        began = time.monotonic()
        with agent(environment, interval_s=_INTERVAL_S) as (process, port):
            wait_for_snapshot(process, port)
            times.append(time.monotonic() - began)
    return percentile(times, 0.5)


def resident_mib(process: subprocess.Popen[bytes]) -> float:
    """Return the resident memory of the process."""
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """Return the CPU time the process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def page_times(port: int, path: str) -> list[float]:
    """Return how long each of many readings of a page took, in milliseconds."""
    times: list[float] = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    for _ in range(REQUESTS):
        began = time.perf_counter()
        status, _body = get(connection, path)
        times.append((time.perf_counter() - began) * 1000)
        if status != http.HTTPStatus.OK:
            raise SystemExit(f"{path} answered {status}")
    connection.close()
    return times


def check(port: int, gpus: int) -> None:
    """End the measurement unless the agent really sees what it is meant to see."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    seen = len(json.loads(get(connection, "/v1/snapshot")[1])["gpus"])
    connection.close()
    if seen != gpus:
        raise SystemExit(f"the agent sees {seen} GPUs instead of {gpus}: the figures would mean nothing")


def memory_without_bytecode(environment: dict[str, str]) -> float:
    """Return the resident memory where every module is parsed from its source at the start."""
    with tempfile.TemporaryDirectory() as empty:
        plain = {**environment, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": empty}
        with agent(plain, interval_s=1.0) as (process, port):
            wait_for_snapshot(process, port)
            return resident_mib(process)


def measure(environment: dict[str, str], *, gpus: int) -> list[Figure]:
    """Return every figure of one kind of node."""
    started = start_time(environment)
    # One collection a second, so that collections and readings meet; scaled to the usual interval for the CPU share.
    with agent(environment, interval_s=1.0) as (process, port):
        wait_for_snapshot(process, port)
        check(port, gpus)
        snapshot = percentile(page_times(port, "/v1/snapshot"), 0.95)
        metrics = percentile(page_times(port, "/metrics"), 0.95)
        used = cpu_seconds(process)
        time.sleep(CPU_WINDOW_S)
        share = (cpu_seconds(process) - used) / CPU_WINDOW_S / _INTERVAL_S * 100
        memory = resident_mib(process)
    return [
        Figure(name="resident memory", value=memory, limit=LIMIT_MEMORY_MIB, unit="MiB"),
        Figure(
            name="resident memory, no bytecode",
            value=memory_without_bytecode(environment),
            limit=LIMIT_MEMORY_MIB,
            unit="MiB",
        ),
        Figure(name=f"start to first snapshot, median of {STARTS}", value=started, limit=LIMIT_START_S, unit="s"),
        Figure(name="/v1/snapshot, p95", value=snapshot, limit=LIMIT_PAGE_MS, unit="ms"),
        Figure(name="/metrics, p95", value=metrics, limit=LIMIT_PAGE_MS, unit="ms"),
        Figure(name="CPU of one core at 15 s", value=share, limit=LIMIT_CPU_PERCENT, unit="%"),
    ]


def main() -> int:
    """Measure, print the table, and return whether a limit was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    measured: list[tuple[str, Figure]] = []
    with tempfile.TemporaryDirectory() as folder:
        nodes: list[tuple[str, dict[str, str], int]] = [("no driver", {}, 0)]
        if shutil.which("gcc"):
            stub = Stub(library=build(Path(folder) / "nvml"), folder=Path(folder))
            stub.rules("gpus 8", "value processes -1 4", "value utilization -1 73")
            library = {name: value for name, value in stub.environment.items() if name != "NVML_STUB_CALLS"}
            nodes.append(("8 GPUs (stub)", library, 8))
        for node, environment, gpus in nodes:
            measured += [(node, figure) for figure in measure(environment, gpus=gpus)]
    if options.json:
        print(json.dumps([asdict(figure) | {"name": f"{node}: {figure.name}"} for node, figure in measured], indent=1))
    else:
        print(f"{'agent on a node with':22} {'figure':38} {'value':>10} {'limit':>8}")
        for node, figure in measured:
            mark = "" if figure.holds else "  MISSED"
            print(f"{node:22} {figure.name:38} {figure.value:7.2f} {figure.unit:3}{figure.limit:7g}{mark}")
    return 0 if all(figure.holds for _, figure in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
