"""The node that the agent's bench runs on: eight GPUs, a hundred pods, their cgroups; and the processes measured there.

GPUs are the stub of the driver library from the tests (gcc builds it), the kubelet is the stand-in from the tests, the
cgroups are files. Processor, memory and disks are those of the machine. Debian's node_exporter runs beside the agent
with its default collectors. Nothing here measures: bench.agent does.
"""

import gzip
import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.kubelet_stub import Kubelet, device, pod
from tests.nvml_stub import Stub, build

GPUS = 8
PODS = 100
START_S = 30.0
RULES = (
    "gpus 8",
    "value processes -1 4",
    "value process_memory -1 17179869184",
    "value memory_used -1 68719476736",
    "value power -1 612345",
    "value energy -1 123456789012",
    # Figures as long as those of a node that has served for weeks: the size of a snapshot is made of digits.
    *(f"value field_{number} -1 {1234567890123 + number}" for number in (197, 198, 138, 139, 74, 270)),
    # Hopper remaps rows, and retires no pages.
    *(f"value field_{number} -1 -1" for number in (29, 30, 31)),
    "value field_186 -1 613370",
    "value utilization -1 73",
    "value gpm -1 1",
    "value gpm_2 -1 61.5",
    "value gpm_3 -1 20",
    "value gpm_5 -1 12.5",
    "value gpm_10 -1 100.4",
)


@dataclass(frozen=True, slots=True)
class Program:
    """A running process and the port that it serves."""

    process: subprocess.Popen[bytes]
    port: int

    def wait_for(self, path: str) -> None:
        """Return once a page has been read whole; end the bench after START_S."""
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise SystemExit(f"{self.process.args!r} ended with {self.process.returncode}")
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                if get(connection, path)[0] == http.HTTPStatus.OK:
                    return
            except OSError:
                pass  # it does not listen yet
            finally:
                connection.close()
            time.sleep(0.005)
        raise SystemExit(f"{self.process.args!r} did not serve {path} within {START_S:g} s")

    def resident_mib(self) -> float:
        """Return the resident memory of the process."""
        return resident_mib(self.process.pid)

    def cpu_s(self) -> float:
        """Return the CPU time that the process has used, in steps of 10 ms."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(process: int | str) -> float:
    """Return the resident memory of a process, or of `self`."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def get(connection: http.client.HTTPConnection, path: str, *, packed: bool = False) -> tuple[int, bytes]:
    """Read one page whole; packed as the agent packs it, if that is asked for."""
    connection.request("GET", path, headers={"Accept-Encoding": "gzip"} if packed else {})
    answer = connection.getresponse()
    return answer.status, answer.read()


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        return int(reserved.getsockname()[1])


@contextmanager
def running(command: list[str], *, port: int, environment: dict[str, str]) -> Iterator[Program]:
    """Run a program and end it."""
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield Program(process, port)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)


def settings(node: dict[str, str], *, port: int, interval_s: float) -> dict[str, str]:
    """Return the environment of an agent on a node."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "NODE_NAME": "bench",
        "OPTIINFRA_AGENT_LISTEN_ADDRESS": "127.0.0.1",
        "OPTIINFRA_AGENT_LISTEN_PORT": str(port),
        "OPTIINFRA_AGENT_INTERVAL": str(interval_s),
        "OPTIINFRA_AGENT_CONTAINERS_INTERVAL": str(2 * interval_s),
        "OPTIINFRA_AGENT_POD_RESOURCES": "off",
        "OPTIINFRA_AGENT_CGROUPS": "off",
        **node,
    }


@contextmanager
def agent(node: dict[str, str], *, interval_s: float) -> Iterator[Program]:
    """Run an agent on a free port of the loopback."""
    port = free_port()
    environment = settings(node, port=port, interval_s=interval_s)
    with running([sys.executable, "-m", "optiinfra_agent"], port=port, environment=environment) as program:
        yield program


@contextmanager
def node_exporter(binary: Path) -> Iterator[Program]:
    """Run node_exporter with its default collectors on a free port of the loopback."""
    port = free_port()
    command = [str(binary), f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with running(command, port=port, environment={"PATH": os.environ.get("PATH", "")}) as program:
        yield program


@contextmanager
def full_node(folder: Path) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Yield the agent's settings for eight GPUs, and for these with a hundred pods, of which some hold them."""
    stub = Stub(library=build(folder / "nvml"), folder=folder)
    stub.rules(*RULES)
    # Without the record of calls, which only the tests read.
    library = {name: value for name, value in stub.environment.items() if name != "NVML_STUB_CALLS"}
    gpus = _uuids(library)
    kubelet = Kubelet(folder)
    holders = [pod(f"llama-3-70b-{index}", device(gpu, numa=[index % 2])) for index, gpu in enumerate(gpus)]
    others = [pod(f"web-7c9d8f-{index:05}", namespace="shop", container="web") for index in range(PODS - len(gpus))]
    kubelet.serve(*holders, *others, allocatable=[device(gpu) for gpu in gpus])
    kubelet.start()
    _make_cgroups(folder / "cgroup")
    _make_sysfs(folder / "sys")
    library["OPTIINFRA_AGENT_SYSFS"] = str(folder / "sys")
    pods = {
        "OPTIINFRA_AGENT_POD_RESOURCES": str(kubelet.folder),
        "OPTIINFRA_AGENT_CGROUPS": str(folder / "cgroup"),
    }
    try:
        yield library, library | pods
    finally:
        kubelet.stop()


def check(program: Program, *, gpus: int, pods: int) -> int:
    """End the bench unless the agent really sees what it is meant to see; return the bytes of its packed snapshot."""
    connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=5)
    body = get(connection, "/v1/snapshot", packed=True)[1]
    connection.close()
    snapshot = json.loads(gzip.decompress(body))
    seen = (len(snapshot["gpus"]), len(snapshot["pods"]), len(snapshot["allocations"]))
    if seen != (gpus, pods, gpus if pods else 0):
        raise SystemExit(f"the agent sees {seen} GPUs, pods and allocations: the figures would mean nothing")
    return len(body)


def _uuids(environment: dict[str, str]) -> list[str]:
    command = [sys.executable, "-m", "optiinfra_agent", "--once"]
    done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    return [gpu["uuid"] for gpu in json.loads(done.stdout)["gpus"]]


def _make_sysfs(root: Path) -> None:
    """Write two NUMA nodes, and which of them each GPU is near to."""
    nodes = root / "devices" / "system" / "node"
    for number in range(2):
        (nodes / f"node{number}").mkdir(parents=True)
        lines = (
            f"Node {number} {name}: {kilobytes} kB\n" for name, kilobytes in (("MemTotal", 2**29), ("MemFree", 2**28))
        )
        (nodes / f"node{number}" / "meminfo").write_text("".join(lines), encoding="ascii")
    (nodes / "online").write_text("0-1\n", encoding="ascii")
    for gpu in range(GPUS):
        device_folder = root / "bus" / "pci" / "devices" / f"0000:{0x18 + gpu:02x}:00.0"
        device_folder.mkdir(parents=True)
        (device_folder / "numa_node").write_text(f"{gpu % 2}\n", encoding="ascii")


def _make_cgroups(root: Path) -> None:
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
            # Nearly all containers wait for a CPU now and then, some for a disk, few for memory.
            for resource, waited in (("cpu", spent // 97), ("memory", 0), ("io", spent // 9973 if number % 4 else 0)):
                line = f"avg10=0.00 avg60=0.00 avg300=0.00 total={waited}\n"
                (folder / f"{resource}.pressure").write_text(f"some {line}full {line}", encoding="ascii")
            (folder / "memory.stat").write_text(f"anon 1\ninactive_file {memory // 7}\n", encoding="ascii")
