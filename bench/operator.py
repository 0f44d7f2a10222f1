"""What the operator costs and how fast it is, on a real API server with a hundred objects.

`python -m bench.operator` starts the real process against etcd and kube-apiserver, reads its audit log, its metrics
and /proc, and prints a table with the limit beside each figure; `--json` prints the same for machines. It returns 1
when a limit is missed. `--quick` does everything on ten objects for some seconds, to see that it runs: its figures are
no figures. The phases follow each other with one operator: several starts; an idle fleet; pages that turn
from idle to busy at random moments; memory at the end of all that.

Bytecode is compiled, as in the image. The API server, the page server and the operator share the machine's cores, and
whatever else runs on it counts in too: the start most of all.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.fleet import OPERATOR_NAMESPACE, USER, WRITES, AuditLog, Fleet, Request, free_port, wait_until
from hack.cluster import Cluster

STATUS = "resourceoptimizations/status"
LIMIT_FIRST_STATUS_S = 3.0
LIMIT_MEMORY_MIB = 160.0
LIMIT_LATENCY_SLACK_S = 1.0
LIMIT_STATUS_WRITES = 0.0
_TICKS = os.sysconf("SC_CLK_TCK")
_IMPORT = """
import time; began = time.perf_counter()
import click
from optiinfra.cli.main import main
main.get_command(click.Context(main), "operator"); print(time.perf_counter() - began)
"""
_LLM_MODULES = ("langchain_groq", "groq")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure, and its limit where one is promised."""

    name: str
    value: float
    unit: str
    limit: float | None = None

    @property
    def kept(self) -> bool:
        """True when there is no limit or the value is within it."""
        return self.limit is None or self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure, and how long."""

    size: int
    starts: int
    interval: float
    settle_seconds: float
    idle_seconds: float
    signals: int


QUICK = Options(size=10, starts=2, interval=5.0, settle_seconds=25.0, idle_seconds=10.0, signals=5)


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least this share of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Process:
    """One operator process, seen from outside."""

    def __init__(self, cluster: Cluster, *, log: Path) -> None:
        """Start it."""
        self.port = free_port()
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "OPTIINFRA_KUBECONFIG": str(cluster.kubeconfig_for(USER, groups=["system:masters"])),
            "OPTIINFRA_NAMESPACE": OPERATOR_NAMESPACE,
            "OPTIINFRA_HTTP_HOST": "127.0.0.1",
            "OPTIINFRA_HTTP_PORT": str(self.port),
            "OPTIINFRA_ACTUATION_ENABLED": "true",
            # Shorter than the defaults, so that windows are full before the idle phase begins.
            "OPTIINFRA_SIGNAL_WINDOW_SECONDS": "20",
            "OPTIINFRA_HOLD_SECONDS": "30",
            "OPTIINFRA_IDLE_SPAN_SECONDS": "60",
        }
        self.log = log
        self.started_at = time.time()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [Path(sys.executable).with_name("optiinfra"), "operator"], env=environment, stdout=output, stderr=output
            )

    def check(self) -> None:
        """Raise unless it runs."""
        if self._process.poll() is not None:
            raise RuntimeError(f"the operator ended with {self._process.returncode}: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """End it as the kubelet does, so that the Lease is given back."""
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=10)

    def memory_mib(self, field: str) -> float:
        """Return a figure of /proc/PID/status."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))

    def cpu_seconds(self) -> float:
        """Return the CPU time it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def mapped(self, names: tuple[str, ...]) -> list[str]:
        """Return which of these packages have a compiled module in its memory."""
        maps = Path(f"/proc/{self._process.pid}/maps").read_text(encoding="utf-8")
        return [name for name in names if f"/{name}/" in maps]

    def metrics(self) -> dict[str, float]:
        """Read its metrics page: value by name with labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


@contextmanager
def operator(cluster: Cluster, *, log: Path) -> Iterator[Process]:
    """Run an operator while the context is open."""
    process = Process(cluster, log=log)
    try:
        yield process
    finally:
        process.stop()


def import_seconds(times: int) -> float:
    """Return the median time that importing the operator takes in a fresh interpreter."""
    environment = {"PATH": os.environ.get("PATH", "")}
    command = [sys.executable, "-c", _IMPORT]
    took = [
        float(subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60).stdout)
        for _ in range(times + 1)
    ]
    return statistics.median(took[1:])  # the first one may have compiled


def wait_for_statuses(process: Process, audit: AuditLog, fleet: Fleet, *, since: int) -> list[Request]:
    """Return the requests of this process once each object got its first status."""

    def complete() -> bool:
        process.check()
        return len(_first_statuses(audit.read_on()[since:])) == len(fleet.names)

    wait_until(complete, seconds=60, what="a status on each object")
    for item in fleet.objects():
        types = {condition["type"] for condition in item.get("status", {}).get("conditions", ())}
        if not {"Ready", "Reconciling", "Stalled"} <= types:
            raise RuntimeError(f"{item['metadata']['name']} has a status without its conditions: {sorted(types)}")
    return audit.requests[since:]


def _first_statuses(requests: list[Request]) -> dict[str, float]:
    first: dict[str, float] = {}
    for request in requests:
        if request.resource == STATUS and request.verb == "patch" and request.code == 200:
            first.setdefault(request.name, request.at)
    return first


def start_figures(starts: list[tuple[float, list[Request]]], *, size: int, importing: float) -> list[Figure]:
    """Turn (start of the process, its requests) into figures: medians over the starts."""
    totals, leads, spans = [], [], []
    for began, requests in starts:
        statuses = _first_statuses(requests).values()
        lease = next(one.at for one in requests if one.resource == "leases" and one.verb in WRITES)
        totals.append(max(statuses) - began)
        leads.append(lease - began)
        spans.append(max(statuses) - lease)
    typical = statistics.median(totals)
    many = f"median of {len(starts)}"
    return [
        Figure(f"start to first status of {size} objects, {many}", typical, "s", LIMIT_FIRST_STATUS_S),
        Figure("  slowest of these starts", max(totals), "s"),
        Figure(f"  of which start to Lease, {many}", statistics.median(leads), "s"),
        Figure(f"  of which Lease to last first status, {many}", statistics.median(spans), "s"),
        Figure("  import of the operator alone, median", importing, "s"),
    ]


def idle_figures(process: Process, audit: AuditLog, options: Options) -> list[Figure]:
    """Watch an idle fleet: who writes what, and what a round of an object costs."""
    time.sleep(options.settle_seconds)
    before, used, began = process.metrics(), process.cpu_seconds(), time.time()
    time.sleep(options.idle_seconds)
    after, used, ended = process.metrics(), process.cpu_seconds() - used, time.time()
    process.check()
    window = [one for one in audit.read_on() if began <= one.at <= ended]
    writes = Counter(one.resource for one in window if one.verb in WRITES and one.code < 300)
    seconds = ended - began
    objects = after["optiinfra_round_objects_total"] - before["optiinfra_round_objects_total"]
    rounds = sum(_change(before, after, "optiinfra_rounds_total"))
    pages = sum(_change(before, after, "optiinfra_scrapes_total{"))
    statuses = writes.pop(STATUS, 0) + writes.pop("clusterresourceoptimizations/status", 0)
    size = options.size
    # A short look is held to the same limit: the promise is about any five minutes.
    return [
        Figure(f"status writes, {size} idle objects, {seconds:.0f} s", statuses, "", LIMIT_STATUS_WRITES),
        Figure("  writes to the Lease", writes.pop("leases", 0), ""),
        Figure("  writes of checkpoints", writes.pop("optimizationcheckpoints", 0), ""),
        Figure(f"  other writes {dict(writes) or ''}".rstrip(), sum(writes.values()), ""),
        Figure("  reads", sum(1 for one in window if one.verb not in WRITES), ""),
        Figure(f"CPU of one core, {size} objects each {options.interval:g} s", used / seconds * 100, "%"),
        Figure(f"  per object and round ({objects:.0f} in {rounds:.0f} rounds)", used / objects * 1e3, "ms"),
        Figure("  pages read in that time, contained in it", pages, ""),
    ]


def _change(before: dict[str, float], after: dict[str, float], prefix: str) -> list[float]:
    return [value - before.get(name, 0.0) for name, value in after.items() if name.startswith(prefix)]


def signal_figures(process: Process, fleet: Fleet, options: Options) -> list[Figure]:
    """Turn pages busy at random moments and wait for the published decision of each."""
    seed = random.Random(7)
    names = fleet.names[: options.signals]
    spread = 4.0 * options.interval
    began = time.time()
    due = sorted((began + seed.uniform(0.0, spread), name) for name in names)
    before = process.metrics()
    switched: dict[str, float] = {}
    seen: dict[str, float] = {}
    old = {name: before.get(_decision(name)) for name in names}
    while len(seen) < len(names):
        process.check()
        while due and due[0][0] <= time.time():
            name = due.pop(0)[1]
            switched[name] = fleet.switch(name, "busy")
        now, page = time.time(), process.metrics()
        for name in switched.keys() - seen.keys():
            value = page.get(_decision(name))
            if value is not None and value != old[name]:
                seen[name] = now
        if now > began + spread + 12.0 * options.interval:
            break
        time.sleep(0.1)
    after = process.metrics()
    if missing := len(names) - len(seen):
        raise RuntimeError(f"{missing} of {len(names)} busy pages changed no published decision")
    outside = [seen[name] - switched[name] for name in names]
    limit = options.interval + LIMIT_LATENCY_SLACK_S
    inside = _quantile(before, after, "optiinfra_signal_to_decision_seconds", 0.99)
    return [
        Figure(f"page changes to published decision, p99 of {len(names)}", percentile(outside, 0.99), "s", limit),
        Figure("  median", statistics.median(outside), "s"),
        Figure("page read to published decision, p99 (bucket's bound)", inside, "s", limit),
    ]


def _decision(name: str) -> str:
    return f'optiinfra_desired_replicas{{name="{name}",namespace="inference"}}'


def _quantile(before: dict[str, float], after: dict[str, float], name: str, share: float) -> float:
    buckets = sorted(
        (float(key.partition('le="')[2].partition('"')[0]), value - before.get(key, 0.0))
        for key, value in after.items()
        if key.startswith(f"{name}_bucket")
    )
    return next(bound for bound, count in buckets if count >= share * buckets[-1][1])


def measure(options: Options) -> list[Figure]:
    """Run all phases and return every figure."""
    importing = import_seconds(options.starts)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "operator.log"
        with Cluster(Path(folder) / "cluster", controllers=False, audit=True) as cluster:
            fleet = Fleet(cluster, size=options.size, interval=options.interval)
            fleet.build()
            audit = AuditLog(cluster.audit_log, USER)
            starts: list[tuple[float, list[Request]]] = []
            try:
                with fleet.pages():
                    for _ in range(options.starts - 1):
                        fleet.create_objects()
                        since = len(audit.read_on())
                        with operator(cluster, log=log) as process:
                            starts.append((process.started_at, wait_for_statuses(process, audit, fleet, since=since)))
                        fleet.delete_objects()
                    fleet.create_objects()
                    since = len(audit.read_on())
                    with operator(cluster, log=log) as process:
                        starts.append((process.started_at, wait_for_statuses(process, audit, fleet, since=since)))
                        return [
                            *start_figures(starts, size=options.size, importing=importing),
                            *idle_figures(process, audit, options),
                            *signal_figures(process, fleet, options),
                            *memory_figures(process),
                        ]
            finally:
                audit.close()


def memory_figures(process: Process) -> list[Figure]:
    """Look at the memory after everything else."""
    if found := process.mapped(_LLM_MODULES):
        raise RuntimeError(f"the LLM client is imported ({', '.join(found)}): the memory would mean nothing")
    return [
        Figure("resident memory at the end, no LLM", process.memory_mib("VmRSS"), "MiB", LIMIT_MEMORY_MIB),
        Figure("  largest so far", process.memory_mib("VmHWM"), "MiB"),
    ]


def read_options() -> tuple[Options, bool]:
    """Read the command line; also whether JSON is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=100, help="objects (default 100)")
    parser.add_argument("--starts", type=int, default=3, help="starts to take the median of (default 3)")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between an object's rounds (default 5)")
    parser.add_argument("--settle-seconds", type=float, default=180.0, help="wait before the idle phase (default 180)")
    parser.add_argument("--idle-seconds", type=float, default=300.0, help="length of the idle phase (default 300)")
    parser.add_argument("--signals", type=int, default=100, help="pages that turn busy (default 100)")
    parser.add_argument("--quick", action="store_true", help="everything on few objects: to see that it runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = vars(parser.parse_args())
    as_json, quick = bool(given.pop("json")), bool(given.pop("quick"))
    return QUICK if quick else Options(**given), as_json


def main() -> int:
    """Measure and print; 1 when a limit is missed."""
    options, as_json = read_options()
    loads = os.getloadavg()
    figures = measure(options)
    if as_json:
        print(json.dumps([asdict(figure) | {"kept": figure.kept} for figure in figures], indent=1))
    else:
        for figure in figures:
            limit = "" if figure.limit is None else f"  (limit {figure.limit:g}{'' if figure.kept else ', MISSED'})"
            print(f"{figure.name:<62} {figure.value:>9.4g} {figure.unit}{limit}")
        print(f"{os.cpu_count()} cores shared with etcd and kube-apiserver; load before {loads[0]:.1f}")
    return 0 if all(figure.kept for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
