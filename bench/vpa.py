"""The Vertical Pod Autoscaler's published recommender beside the baseline that right-sizing is compared with.

`python -m bench vpa` (or `python -m bench.vpa`) starts a control plane on loopback with the unmodified recommender,
tells it the last days of a trace, most of them as history from a double of Prometheus and the newest sample by sample
from a double of metrics-server, and compares what it writes into the VPA objects with `optiinfra.domain.replay.vpa`.
`--usage FILE` takes another trace (the format of `optiinfra replay rightsizing`). docs/real-vpa.md says what comes of
it; `--docs` writes its table.
"""

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from bench.result import Result
from bench.section import rewrite
from bench.vpa_runs import MEBIBYTE, Compared, run
from hack.binaries import BinaryError
from hack.binaries.catalogue import KUBERNETES, VERTICAL_POD_AUTOSCALER
from hack.cluster.errors import ClusterError
from hack.demo.errors import DemoError
from hack.real_vpa import Played
from optiinfra.cli.replay_rightsizing_source import UsageFileError, read_usage

OWN_TRACE: Final = Path(__file__).resolve().parent / "data" / "gcd2011" / "usage.csv.gz"
PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "real-vpa.md"
BEGIN: Final = "<!-- real VPA: written by python -m bench.vpa --docs -->"
END: Final = "<!-- real VPA: end -->"
DAYS: Final = 10
LIVE_DAYS: Final = 2.0
EVERY: Final = 20
ALLOWED: Final = 0.001
"""Relative difference of any value at any moment, with use rounded as its source rounds it."""


def largest(differences: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
    """Return the largest difference without its sign; infinite where the recommender said nothing."""
    return float(np.abs(differences).max()) if np.isfinite(differences).all() else math.inf


def table(done: Sequence[Compared]) -> str:
    """Table of what both say at the end, and of the largest differences on the way, Markdown."""
    lines = [
        (
            "| container | CPU, cores: real | baseline | memory, MiB: real | baseline | values compared "
            "| largest difference | with use cut to millicores |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in done:
        cells = []
        for name, unit, digits in (("cpu_cores", 1.0, 3), ("memory_bytes", MEBIBYTE, 1)):
            for side in (one.real, one.baseline):
                target, lower, upper = (f"{value / unit:.{digits}f}" for value in getattr(side, name))
                cells.append(f"{target} ({lower} to {upper})")
        differing = int((np.abs(one.cut) > ALLOWED).sum())
        cut = f"{largest(one.cut):.1%} ({differing})" if differing else f"{largest(one.cut):.2%}"
        container = f"{one.workload}/{one.container.removeprefix('container-')}"
        lines.append(f"| {container} | {' | '.join(cells)} | {one.exact.size} | {largest(one.exact):.2%} | {cut} |")
    return "\n".join(lines)


def told(done: Sequence[Compared], played: Played, *, usage: Path, days: int) -> str:
    """Everything that one run came to, as text."""
    values = sum(one.exact.size for one in done)
    same = sum(int((one.exact == 0.0).sum()) for one in done)
    conditions = (
        f"{datetime.now(UTC):%Y-%m-%d}, Vertical Pod Autoscaler {VERTICAL_POD_AUTOSCALER}, Kubernetes {KUBERNETES}, "
        f"{usage.name} of {usage.parent.name}, {days} days, {played.samples} samples of it told one by one, "
        f"{len(played.looks)} looks, {played.seconds:.0f} s on {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}), "
        f"Python {platform.python_version()}."
    )
    return "\n".join(
        [
            conditions,
            "",
            table(done),
            "",
            f"Of {values:,} values {same:,} are the same to the last millicore and byte.",
        ]
    )


def results(done: Sequence[Compared]) -> list[Result]:
    """Return the figures for machines."""
    found = []
    for one in done:
        name = f"{one.workload}/{one.container}"
        found.append(Result(f"{name}: largest difference to the real recommender", largest(one.exact), "", ALLOWED))
        found.append(Result(f"{name}: the same with CPU use cut to millicores", largest(one.cut), ""))
    return found


def write_page(text: str, page: Path) -> None:
    """Replace what stands between the markers."""
    rewrite(page, f"{BEGIN}\n\n{text}\n\n{END}", begin=BEGIN, end=END)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play and print; 1 when a value differs, 2 when it could not be played."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--usage", type=Path, default=OWN_TRACE, help="time_s,container,cpu_cores,memory_bytes")
    parser.add_argument("--most", type=int, default=6, help="containers of the file to play at most (%(default)s)")
    parser.add_argument("--days", type=int, default=DAYS, help="the last days of the trace (%(default)s)")
    parser.add_argument("--live-days", type=float, default=LIVE_DAYS, help="told sample by sample (%(default)g)")
    parser.add_argument("--every", type=int, default=EVERY, help="samples between two looks (%(default)s)")
    parser.add_argument("--docs", action="store_true", help=f"write the table of {PAGE.name}")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if not (1 <= options.most <= 50 and 1 <= options.days <= 200 and options.every >= 1):
        parser.error("--most must be 1 to 50, --days 1 to 200 and --every at least 1")
    if not 0.5 <= options.live_days <= min(7.0, options.days):
        parser.error("--live-days must be 0.5 to 7, and not more than --days")

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        traces = read_usage(options.usage).usages[: options.most]
        done, played = run(traces, days=options.days, live_days=options.live_days, every=options.every, say=say)
    except UsageFileError as error:
        parser.error(str(error))
    except (ClusterError, BinaryError, DemoError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found, text = results(done), told(done, played, usage=options.usage, days=options.days)
    if options.json:
        print(json.dumps([{"name": r.name, "value": r.value, "unit": r.unit, "limit": r.limit} for r in found]))
    else:
        print(text)
    if options.docs:
        write_page(text, PAGE)
    return 0 if all(one.kept for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
