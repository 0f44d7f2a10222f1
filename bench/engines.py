"""How fast an engine's page is read, beside prometheus_client's parser doing the same page.

Run it as `python -m bench.engines`, with `--json` for machines. It prints the best of many runs, which is the cost
without whatever else the machine does, and reads a page of the recordings that the simulator ships.
"""

import argparse
import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

import optiinfra_sim
from optiinfra.domain.units import UnixTime
from optiinfra.engines import page

RECORDING = Path(optiinfra_sim.__file__).parent / "recordings" / "vllm-0.32-cpu-batch-bound.tar.gz"
RUNS = 200


def recorded_page() -> bytes:
    """Return the last page of the recording: the fullest one."""
    with tarfile.open(RECORDING) as archive:
        member = max((one for one in archive if one.isfile()), key=lambda one: one.name)
        content = archive.extractfile(member)
        if content is None:
            raise FileNotFoundError(f"{member.name} in {RECORDING.name}")
        return content.read()


def best(run: Callable[[], object], *, runs: int) -> float:
    """Return the shortest of several runs, in seconds."""
    shortest = float("inf")
    for _ in range(runs):
        started = time.perf_counter()
        run()
        shortest = min(shortest, time.perf_counter() - started)
    return shortest


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    content = recorded_page()
    own = best(lambda: page.read(content, at=UnixTime(0.0)), runs=RUNS)
    theirs = best(lambda: list(text_string_to_metric_families(content.decode())), runs=RUNS // 10)
    if options.json:
        what = f"page of {len(content) / 1000:.0f} KB"
        figures = ((f"{what}, engines.page.read", own), (f"{what}, prometheus_client.parser", theirs))
        rows = [{"name": name, "value": seconds * 1e3, "unit": "ms", "limit": None} for name, seconds in figures]
        print(json.dumps(rows, indent=1))
        return
    print(f"page: {len(content) / 1000:.0f} KB, {content.count(10)} lines")
    print(f"optiinfra.engines.page.read: {own * 1e3:.2f} ms")
    print(f"prometheus_client.parser:    {theirs * 1e3:.2f} ms")
    print(f"ratio: {theirs / own:.1f}")


if __name__ == "__main__":
    main()
