"""What the node agent costs beside Debian's node_exporter: memory, CPU, the time of its pages, start, size.

`python -m bench.agent` starts the real agent, on a node without driver and, where gcc is there, on one with eight GPUs
and a hundred pods (bench.agent_node makes them), and node_exporter with its default collectors; it reads the pages of
all in turns, so that whatever else the machine does meets each of them, and prints a table with the limit beside each
figure. `--out FILE` writes docs/agent-costs.md. It returns 1 when a limit is missed. Without Debian's package
(hack.binaries.debian) there is no table, because there is nothing to compare with: `--alone` measures the agent only.
`--quick` does everything a few times, to see that it runs: its figures are no figures, and it writes no page.

Resident memory is that after an hour's worth of scrapes; bench.agent_hour lives through four hours of collections for
the slope. The clock of "start" runs from the creation of the process to the first page that was read whole. CPU at 15 s
is one collection and one scrape every 15 s. Wall times are those of a machine that does other things too: CPU times are
the figures to compare across machines. Bytecode is compiled, as in the image.
"""

import argparse
import contextlib
import http.client
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from bench.agent_hour import HOUR, INTERVAL_S, SCRAPES, Hour
from bench.agent_node import GPUS, PODS, Program, agent, check, full_node, get, node_exporter, settings
from bench.agent_tables import PEER, Figure, Needed, document, print_table
from hack.binaries.catalogue import BinaryError
from hack.binaries.debian import PACKAGES, ensure_packaged

HOUR_TIMEOUT_S = 600.0
BARE, FULL = "agent, no driver", f"agent, {GPUS} GPUs, {PODS} pods"


MEMORY = Needed(56.0, 40.0)
CPU = Needed(1.0, 0.3)
PAGE = Needed(10.0, 3.0)
START = Needed(1.0, 0.4)
SNAPSHOT = Needed(24.0)
READ = Needed(0.5)
PACKED = Needed(24.0, 6.0)
GROWTH = Needed(1.0, 0.5)
"""MiB an hour. The noise of the slope is some tenths; a leak of a snapshot a collection would be tens of MiB."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How often things are done."""

    starts: int = 7
    """Of each program."""
    requests: int = 400
    """Of each page, a multiple of ten."""
    passes: int = 4 * HOUR
    """Collections that the slope of memory is of."""
    scrapes: int = HOUR * SCRAPES
    """Before resident memory is looked at."""


FULL_EFFORT = Effort()
QUICK = Effort(starts=1, requests=20, passes=20, scrapes=20)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of one program: how long readings of it took, and what they cost the program."""

    milliseconds: tuple[float, ...]
    cpu_ms: float
    size: int

    def percentile(self, share: float) -> float:
        """Return the time that this share of the readings did not exceed."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


Starter = Callable[[], AbstractContextManager[Program]]


def read_in_turns(wanted: Sequence[tuple[Program, str]], *, requests: int) -> list[Page]:
    """Read each page so often over a kept connection, in rounds of ten, as scrapers of several programs would."""
    times: list[list[float]] = [[] for _ in wanted]
    spent = [0.0 for _ in wanted]
    sizes = [0 for _ in wanted]
    connections = [http.client.HTTPConnection("127.0.0.1", program.port, timeout=10) for program, _ in wanted]
    for _ in range(requests // 10):
        for index, (program, path) in enumerate(wanted):
            used = program.cpu_s()
            for _ in range(10):
                began = time.perf_counter()
                status, body = get(connections[index], path)
                times[index].append((time.perf_counter() - began) * 1000)
                sizes[index] = len(body)
                if status != http.HTTPStatus.OK:
                    raise SystemExit(f"{path} of {program.process.args!r} answered {status}")
            spent[index] += program.cpu_s() - used
    for connection in connections:
        connection.close()
    return [Page(tuple(took), cpu / requests * 1000, size) for took, cpu, size in zip(times, spent, sizes, strict=True)]


def starts_in_turns(starters: dict[str, tuple[Starter, str]], *, starts: int) -> dict[str, tuple[float, float]]:
    """Return each program's median time from its creation to the first page, and the CPU time spent by then, in s."""
    took: dict[str, list[tuple[float, float]]] = {who: [] for who in starters}
    for _ in range(starts):
        for who, (start, path) in starters.items():
            began = time.monotonic()
            with start() as program:
                program.wait_for(path)
                took[who].append((time.monotonic() - began, program.cpu_s()))
    return {
        who: (statistics.median(wall for wall, _ in both), statistics.median(cpu for _, cpu in both))
        for who, both in took.items()
    }


def live_an_hour(node: dict[str, str], *, passes: int) -> Hour:
    """Return what bench.agent_hour finds on a node."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.agent_hour", "--passes", str(passes)],
        env={**settings(node, port=0, interval_s=INTERVAL_S), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=HOUR_TIMEOUT_S,
    )
    return Hour(**json.loads(done.stdout))


def read_by_the_operator() -> float:
    """Return the CPU time in ms that one snapshot costs its reader, by bench.agent_read."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.agent_read", "--json"],
        stdout=subprocess.PIPE,
        check=False,  # 1 is a missed limit, which the figure says itself
        timeout=HOUR_TIMEOUT_S,
    )
    return float(json.loads(done.stdout)[0]["value"])


def measure(
    nodes: dict[str, tuple[dict[str, str], int, int]], peer: Path | None, effort: Effort = FULL_EFFORT
) -> list[Figure]:
    """Return every figure, of all programs in turns."""
    starters: dict[str, tuple[Starter, str]] = {
        who: (partial(agent, node, interval_s=INTERVAL_S), "/v1/snapshot") for who, (node, _, _) in nodes.items()
    }
    if peer is not None:
        starters[PEER] = (partial(node_exporter, peer), "/metrics")
    _say(f"starting each program {effort.starts} times")
    started = starts_in_turns(starters, starts=effort.starts)
    _say(f"living through {effort.passes:,} collections, at speed")
    hours = {who: live_an_hour(node, passes=effort.passes) for who, (node, _, _) in nodes.items()}
    _say("reading pages in turns")
    with contextlib.ExitStack() as stack:
        # Collections as often as an agent can be told to, so that they and the readings meet.
        programs = {who: stack.enter_context(agent(node, interval_s=1.0)) for who, (node, _, _) in nodes.items()}
        if peer is not None:
            programs[PEER] = stack.enter_context(node_exporter(peer))
        wanted = [(who, path) for who in nodes for path in ("/metrics", "/v1/snapshot")]
        wanted += [(PEER, "/metrics")] if peer is not None else []
        for who, path in wanted:
            programs[who].wait_for(path)
        read = read_in_turns([(programs[who], path) for who, path in wanted], requests=effort.requests)
        pages = dict(zip(wanted, read, strict=True))
        _say(f"reading /metrics {effort.scrapes:,} times more")
        # An hour's scrapes, untimed.
        read_in_turns([(programs[who], path) for who, path in wanted if path == "/metrics"], requests=effort.scrapes)
        sizes = {who: check(programs[who], gpus=gpus, pods=pods) for who, (_, gpus, pods) in nodes.items()}
        memory = {who: program.resident_mib() for who, program in programs.items()}
    figures: list[Figure] = []
    for who in programs:
        own = {path: page for (one, path), page in pages.items() if one == who}
        figures += _of_program(who, memory[who], started[who], own, effort)
        if who == FULL:
            figures.append(
                Figure(who, "/v1/snapshot, CPU of the operator's reading", read_by_the_operator(), "ms", READ)
            )
        if who in hours:
            figures += _of_agent(who, hours[who], sizes[who], pages[who, "/metrics"])
        else:
            share = pages[who, "/metrics"].cpu_ms / 1000 / INTERVAL_S * 100
            figures.append(Figure(who, "CPU of one core at 15 s", share, "%"))
    return figures


def _say(step: str) -> None:
    """Tell who waits what is being done; the figures alone go to standard output."""
    print(f"bench.agent: {step}", file=sys.stderr, flush=True)


def _of_program(
    who: str, memory: float, started: tuple[float, float], pages: dict[str, Page], effort: Effort
) -> list[Figure]:
    ours = who != PEER

    def limit(needed: Needed) -> Needed | None:
        return needed if ours else None

    figures = [
        Figure(who, f"resident memory after {effort.scrapes:,} scrapes", memory, "MiB", limit(MEMORY)),
        Figure(who, f"start to ready, median of {effort.starts}", started[0], "s", limit(START)),
        Figure(who, "CPU time of that start", started[1], "s"),
    ]
    for path, page in pages.items():
        figures += [
            Figure(who, f"{path}, p50", page.percentile(0.5), "ms"),
            Figure(who, f"{path}, p95", page.percentile(0.95), "ms", limit(PAGE)),
            Figure(who, f"{path}, CPU of one reading", page.cpu_ms, "ms"),
            Figure(who, f"{path}, size", page.size / 1024, "KiB", limit(SNAPSHOT) if path == "/v1/snapshot" else None),
        ]
    return figures


def _of_agent(who: str, hour: Hour, packed: int, scrape: Page) -> list[Figure]:
    share = (hour.collection_cpu_ms + scrape.cpu_ms) / 1000 / INTERVAL_S * 100
    return [
        Figure(who, "/v1/snapshot, gzip", packed / 1024, "KiB", PACKED),
        Figure(who, "CPU of one collection", hour.collection_cpu_ms, "ms"),
        Figure(who, "CPU of one core at 15 s", share, "%", CPU),
        Figure(who, f"growth over {hour.passes:,} collections", hour.slope_mib_per_hour, "MiB/h", GROWTH),
    ]


def conditions(peer: Path | None) -> str:
    """Return the date, the versions and the machine of a run."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "h11", "prometheus-client", "psutil"))
    other = ""
    if peer is not None:
        answer = subprocess.run([peer, "--version"], capture_output=True, text=True, check=True, timeout=20)
        other = f"; {(answer.stdout or answer.stderr).splitlines()[0].split(' (')[0]} of Debian"
        other += f" (package {PACKAGES['prometheus-node-exporter'].version})" if "debian" in peer.parts else ""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {packages}{other}; {os.cpu_count()} cores"
        f" of {platform.machine()}, Linux {platform.release().split('-')[0]}, load {os.getloadavg()[0]:.1f} at the end."
    )


def main() -> int:
    """Measure, print the table, and return whether a limit was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--alone", action="store_true", help="leave node_exporter out")
    parser.add_argument("--quick", action="store_true", help="everything a few times: to see that it runs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the page, docs/agent-costs.md")
    options = parser.parse_args()
    if options.alone and options.out:
        parser.error("--out writes a comparison: leave --alone out")
    if options.quick and options.out:
        parser.error("--out writes figures, and those of --quick are none: leave --quick out")
    try:
        peer = None if options.alone else ensure_packaged("prometheus-node-exporter")
    except BinaryError as error:
        print(f"error: {error}; or pass --alone", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        nodes: dict[str, tuple[dict[str, str], int, int]] = {BARE: ({}, 0, 0)}
        if shutil.which("gcc"):
            _, full = stack.enter_context(full_node(Path(folder)))
            nodes[FULL] = (full, GPUS, PODS)
        elif options.out:
            parser.error("--out needs gcc, which builds the stub of the driver library")
        figures = measure(nodes, peer, QUICK if options.quick else FULL_EFFORT)
    if options.json:
        rows = [asdict(figure) | {"name": f"{figure.who}: {figure.name}", "limit": figure.limit} for figure in figures]
        print(json.dumps(rows, indent=1))
    else:
        print(conditions(peer))
        print_table(figures)
    if options.out:
        options.out.write_text(document(figures, told=conditions(peer)), encoding="utf-8")
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
