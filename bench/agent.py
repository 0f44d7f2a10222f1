"""What the node agent costs: memory, start, and the time its two pages take.

`python -m bench.agent` starts the real process, on a node without driver, on one with eight GPUs (the stub of the
driver library from the tests, when gcc is there), and on one with eight GPUs and a hundred pods (the stand-in for the
kubelet and a tree of cgroups in files, from the tests too), and prints a table with the limit beside each figure. The
clock of "start" runs from the creation of the process to the first snapshot that was read whole over HTTP. Page times
are taken over one kept connection, as a scraper does. It returns 1 when a limit is missed, so that CI can ask it.

Bytecode is compiled, as in the image; one figure tells what the agent takes where it is not. The figures are those
of the machine it runs on, and of whatever else runs there: the start most of all.
"""

import argparse
import contextlib
import gzip
import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.kubelet_stub import Kubelet, device, pod
from tests.nvml_stub import Stub, build

STARTS = 5
REQUESTS = 400
CPU_WINDOW_S = 10.0
LIMIT_MEMORY_MIB = 56.0
LIMIT_PAGE_MS = 20.0
LIMIT_START_S = 1.0
LIMIT_CPU_PERCENT = 1.0
LIMIT_SNAPSHOT_KIB = 24.0
LIMIT_ZIPPED_KIB = 6.0
PODS = 100
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
        "OPTIINFRA_AGENT_CONTAINERS_INTERVAL": str(2 * interval_s),
        "OPTIINFRA_AGENT_POD_RESOURCES": "off",
        "OPTIINFRA_AGENT_CGROUPS": "off",
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


def check(port: int, *, gpus: int, pods: int) -> bytes:
    """End the measurement unless the agent really sees what it is meant to see; return its snapshot."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    body = get(connection, "/v1/snapshot")[1]
    connection.close()
    snapshot = json.loads(body)
    seen = (len(snapshot["gpus"]), len(snapshot["pods"]), len(snapshot["allocations"]))
    if seen != (gpus, pods, gpus if pods else 0):
        raise SystemExit(f"the agent sees {seen} GPUs, pods and allocations: the figures would mean nothing")
    return body


def make_cgroups(root: Path) -> None:
    """Write the cgroups (version 2, systemd) of a hundred pods, each with a container and its sandbox."""
    root.mkdir()
    (root / "cgroup.controllers").write_text("cpu memory\n", encoding="ascii")
    for number in range(PODS):
        uid = str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))).replace("-", "_")
        group = root / "kubepods.slice" / "kubepods-burstable.slice" / f"kubepods-burstable-pod{uid}.slice"
        for part, memory in (("engine", 1_234_567_890 + number * 98_765_432), ("pause", 500_000)):
            name = hashlib.sha256(f"{number}{part}".encode()).hexdigest()
            folder = group / f"cri-containerd-{name}.scope"
            folder.mkdir(parents=True)
            spent = 17 * memory % 999_999_999_999 if part == "engine" else 20_000
            (folder / "cpu.stat").write_text(f"usage_usec {spent}\nuser_usec 1\n", encoding="ascii")
            (folder / "memory.current").write_text(f"{memory}\n", encoding="ascii")
            (folder / "memory.stat").write_text(f"anon 1\ninactive_file {memory // 7}\n", encoding="ascii")


@contextmanager
def kubelet(folder: Path, gpus: list[str]) -> Iterator[dict[str, str]]:
    """Run a stand-in for the kubelet with a hundred pods, of which some hold the GPUs; yield the agent's settings."""
    stub = Kubelet(folder)
    holders = [pod(f"llama-3-70b-{index}", device(gpu, numa=[index % 2])) for index, gpu in enumerate(gpus)]
    others = [pod(f"web-7c9d8f-{index:05}", namespace="shop", container="web") for index in range(PODS - len(gpus))]
    stub.serve(*holders, *others, allocatable=[device(gpu) for gpu in gpus])
    stub.start()
    make_cgroups(folder / "cgroup")
    try:
        yield {
            "OPTIINFRA_AGENT_POD_RESOURCES": str(stub.folder),
            "OPTIINFRA_AGENT_CGROUPS": str(folder / "cgroup"),
        }
    finally:
        stub.stop()


def uuids_of(environment: dict[str, str]) -> list[str]:
    """Return the GPUs that an agent sees."""
    command = [sys.executable, "-m", "optiinfra_agent", "--once"]
    done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    return [gpu["uuid"] for gpu in json.loads(done.stdout)["gpus"]]


def memory_without_bytecode(environment: dict[str, str]) -> float:
    """Return the resident memory where every module is parsed from its source at the start."""
    with tempfile.TemporaryDirectory() as empty:
        plain = {**environment, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": empty}
        with agent(plain, interval_s=1.0) as (process, port):
            wait_for_snapshot(process, port)
            return resident_mib(process)


def measure(environment: dict[str, str], *, gpus: int, pods: int) -> list[Figure]:
    """Return every figure of one kind of node."""
    started = start_time(environment)
    # One collection a second, so that collections and readings meet; scaled to the usual interval for the CPU share.
    with agent(environment, interval_s=1.0) as (process, port):
        wait_for_snapshot(process, port)
        body = check(port, gpus=gpus, pods=pods)
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
        Figure(name="snapshot", value=len(body) / 1024, limit=LIMIT_SNAPSHOT_KIB, unit="KiB"),
        Figure(name="snapshot, gzip", value=len(gzip.compress(body, 6)) / 1024, limit=LIMIT_ZIPPED_KIB, unit="KiB"),
    ]


def main() -> int:
    """Measure, print the table, and return whether a limit was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    measured: list[tuple[str, Figure]] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        nodes: list[tuple[str, dict[str, str], int, int]] = [("no driver", {}, 0, 0)]
        if shutil.which("gcc"):
            stub = Stub(library=build(Path(folder) / "nvml"), folder=Path(folder))
            stub.rules("gpus 8", "value processes -1 4", "value utilization -1 73")
            library = {name: value for name, value in stub.environment.items() if name != "NVML_STUB_CALLS"}
            nodes.append(("8 GPUs (stub)", library, 8, 0))
            pods = stack.enter_context(kubelet(Path(folder), uuids_of(library)))
            nodes.append(("8 GPUs, 100 pods (stub)", library | pods, 8, PODS))
        for node, environment, gpus, count in nodes:
            measured += [(node, figure) for figure in measure(environment, gpus=gpus, pods=count)]
    if options.json:
        print(json.dumps([asdict(figure) | {"name": f"{node}: {figure.name}"} for node, figure in measured], indent=1))
    else:
        print(f"{'agent on a node with':25} {'figure':38} {'value':>10} {'limit':>8}")
        for node, figure in measured:
            mark = "" if figure.holds else "  MISSED"
            print(f"{node:25} {figure.name:38} {figure.value:7.2f} {figure.unit:3}{figure.limit:7g}{mark}")
    return 0 if all(figure.holds for _, figure in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
