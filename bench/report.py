"""`optiinfra report` on real metrics servers that hold 14 days of a simulated fleet, beside KRR's queries on them.

    python -m bench.report                                    # Prometheus 3: 40 models, 200 GPUs, 14 days
    python -m bench.report --server debian --server victoria-metrics:small --docs
    python -m bench.report --folder ~/fleets                  # what was played once is started again

The command runs as users run it, in a process of its own; what it says is compared with what the player knows
(`report_truth`), what it costs is taken from /proc: its time and memory, and the server's own memory before and at the
most while it ran. Before is the most that the server took in a minute at rest, in which it scraped twice: the memory of
a Go program goes up and down by itself. KRR's queries (`report_krr`) are then sent to the same server, started anew on
the same blocks. The fleet is simulated and the report has to say so.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.report_krr import Asked, ask_like_krr
from bench.report_tables import BEGIN, END, section
from bench.report_truth import Judged, judge
from bench.result import Result, shown
from bench.section import rewrite
from hack.binaries.catalogue import BinaryError
from hack.prometheus.loaded import SERVERS, Loaded
from hack.prometheus.server import Memory, Server, ServerError, Watch
from optiinfra_sim.history_models import FLEETS

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks-report.md"
TIMEOUT_S: Final = 1500.0
SECONDS: Final = 60.0
OWN_BYTES: Final = 2**30
GROWTH: Final = 0.30
RECALL: Final = 0.95
MONEY: Final = 0.05
DEFAULT_FLEET: Final = "full"
SETTLE_S: Final = 5.0
REST_S: Final = 65.0
"""Two scrapes and more."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What one run of the command took."""

    seconds: float
    cpu_s: float
    peak_bytes: int
    load: float
    """Processes that wanted to run in the last minute of it, on average, its own among them."""
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything about one server."""

    server: str
    fleet: str
    version: str
    series: int
    samples: int
    load_seconds: float
    before: Memory
    highest: Memory
    growth: float
    server_cpu_s: float
    ran: Ran
    judged: Judged
    krr: Asked | None
    days: float


def run_report(server: Server, *, days: float, until: float | None = None) -> Ran:
    """Run the command against a server; raise ServerError with its words when it fails.

    `until`: Unix seconds of the end of what it looks at; by default now.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "report.json"
        command = [sys.executable, "-c", _CHILD, str(Path(folder) / "usage.json"), "report"]
        command += ["--prometheus", server.address, "--since", f"{days:g}d", "--no-cache"]
        command += ["--format", "json", "--output", str(target)]
        if until is not None:
            command += ["--until", f"{datetime.fromtimestamp(until, tz=UTC):%Y-%m-%dT%H:%M:%S}"]
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        seconds = time.monotonic() - began
        if done.returncode:
            raise ServerError(f"optiinfra report ended with {done.returncode}: {done.stderr[-800:]}")
        usage = json.loads((Path(folder) / "usage.json").read_text())
        document = json.loads(target.read_text())
        return Ran(seconds, usage["cpu_s"], usage["peak_bytes"], os.getloadavg()[0], document)


# The command's own words, in a process that tells at its end what it and its children took.
_CHILD: Final = """
import atexit, json, resource, sys
out, sys.argv[1:] = sys.argv[1], sys.argv[2:]
def tell():
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = sum(one.ru_utime + one.ru_stime for one in (own, children))
    with open(out, "w") as file:
        json.dump({"cpu_s": cpu, "peak_bytes": 1024 * max(own.ru_maxrss, children.ru_maxrss)}, file)
atexit.register(tell)
from optiinfra.cli.main import main
main()
"""


def measure(name: str, *, fleet: str, seed: int, live: bool, krr: int | None, folder: Path | None = None) -> Measured:
    """Load one server, run the report, then KRR's queries on a fresh process over the same blocks.

    `krr`: about how many containers; 0: all of them, None: none.
    """
    columns = None if name == "victoria-metrics" else True
    given = None if folder is None else folder / f"{fleet}-{'victoria-metrics' if columns is None else 'blocks'}"
    with Loaded(name, fleet=fleet, seed=seed, live=live, columns=columns, folder=given) as loaded:
        days = len(loaded.fleet.times) * 60.0 / 86_400.0
        before = _rested(loaded)
        spent = loaded.server.cpu_s()
        with Watch(loaded.server, before=before) as watch:
            ran = run_report(loaded.server, days=days, until=float(loaded.fleet.times[-1]))
        spent = loaded.server.cpu_s() - spent
        asked = None
        if krr is not None:
            loaded.restart()
            asked = ask_like_krr(loaded.server, loaded.fleet, before=_rested(loaded), most=krr)
        return Measured(
            server=name,
            fleet=fleet,
            version=loaded.version(),
            series=loaded.written.series,
            samples=loaded.written.samples,
            load_seconds=loaded.load_seconds,
            before=watch.before,
            highest=watch.highest,
            growth=watch.growth,
            server_cpu_s=spent,
            ran=ran,
            judged=judge(ran.document, loaded.truth),
            krr=asked,
            days=days,
        )


def _rested(loaded: Loaded) -> Memory:
    """Return the most that a server takes while nobody asks it anything."""
    loaded.settle(SETTLE_S)
    with Watch(loaded.server) as rest:
        time.sleep(REST_S)
    return rest.highest


def results(one: Measured) -> list[Result]:
    """Return the figures beside what is needed."""
    judged, ran = one.judged, one.ran
    who = one.server if one.fleet == DEFAULT_FLEET else f"{one.server}, {one.fleet} fleet"
    found = [
        Result(f"{who}: labelled models that were not found", 1.0 - judged.recall, "", 1.0 - RECALL),
        Result(f"{who}: healthy models named wasteful", float(len(judged.wrongly)), "", 0.0),
        Result(f"{who}: reports that do not say that the fleet is simulated", float(not judged.simulated), "", 0.0),
        Result(f"{who}: cost of the fleet, off the truth", abs(judged.cost_off), "", MONEY),
        Result(f"{who}: cost of the worst single model, off the truth", judged.model_cost_off, "", MONEY),
        Result(f"{who}: savings, above what could be avoided", judged.savings_over, "", MONEY),
        Result(f"{who}: seconds of the report", ran.seconds, "s", SECONDS),
        Result(f"{who}: processes that wanted to run meanwhile", ran.load, ""),
        Result(f"{who}: its CPU time", ran.cpu_s, "s"),
        Result(f"{who}: its largest process", ran.peak_bytes / 2**20, "MiB", OWN_BYTES / 2**20),
        Result(f"{who}: growth of the server's own memory", one.growth, "", GROWTH),
        Result(f"{who}: that memory before", one.before.own / 2**20, "MiB"),
        Result(f"{who}: CPU time of the server", one.server_cpu_s, "s"),
        Result(f"{who}: million samples that it read", float(ran.document["samples"]) / 1e6, ""),
    ]
    if one.krr is not None:
        found += [
            Result(f"{who}: seconds of KRR's queries", one.krr.seconds, "s"),
            Result(f"{who}: growth of the server's own memory by them", one.krr.growth, ""),
            Result(f"{who}: million samples that they read", one.krr.samples / 1e6, ""),
        ]
    return found


def conditions() -> str:
    """Return the date and the machine of a run."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {os.cpu_count()} cores of "
        f"{platform.machine()}, Linux {platform.release().split('-')[0]}, load {os.getloadavg()[0]:.1f} at the end."
    )


def _asked(text: str) -> tuple[str, str]:
    name, _, fleet = text.partition(":")
    if name not in SERVERS or (fleet and fleet not in FLEETS):
        raise argparse.ArgumentTypeError(f"{text}: choose of {', '.join(SERVERS)}, with :{' or :'.join(FLEETS)}")
    return name, fleet


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return whether a limit was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--server",
        action="append",
        type=_asked,
        metavar="NAME[:FLEET]",
        help=f"{', '.join(SERVERS)}; with another fleet ({', '.join(FLEETS)}); may be repeated (default: prometheus)",
    )
    parser.add_argument("--fleet", choices=FLEETS, default=DEFAULT_FLEET, help="of servers that name none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bare", action="store_true", help="leave out the series that nobody reads")
    parser.add_argument("--krr", type=int, default=0, metavar="N", help="KRR's queries about N containers only")
    parser.add_argument("--no-krr", action="store_true", help="leave out KRR's queries")
    parser.add_argument("--folder", type=Path, help="keep the played fleets there, and use those that lie there")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--docs", action="store_true", help=f"write the tables into {PAGE.name}")
    options = parser.parse_args(arguments)
    try:
        measured = [
            measure(
                name,
                fleet=fleet or options.fleet,
                seed=options.seed,
                live=not options.bare,
                krr=None if options.no_krr else options.krr,
                folder=options.folder,
            )
            for name, fleet in options.server or [("prometheus", "")]
        ]
    except (ServerError, BinaryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    every = [result for one in measured for result in results(one)]
    if not options.json:
        for one in measured:
            for line in one.judged.lines():
                print(line)
        print(conditions())
    if options.docs:
        rewrite(PAGE, section(measured, told=conditions()), begin=BEGIN, end=END)
    return shown(every, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
