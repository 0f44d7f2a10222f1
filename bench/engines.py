"""How fast an engine's page is read, beside prometheus_client's parser doing the same page, and a window summarised.

Run it as `python -m bench.engines`, with `--json` for machines. It prints the best of many runs, which is the cost
without whatever else the machine does, and reads a page of the recordings that the simulator ships. A page is read
with care the first two times that its lines are met, and by its layout from then on; both are told, and the baseline
is told with the one that a running operator pays. Both parsers are run in turns, so that both meet the same machine.
"""

import argparse
import json
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

import optiinfra_sim
from optiinfra.domain.readings import EngineReading
from optiinfra.domain.signals import summarise
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.engines import gpu_page, layout, page

RECORDING = Path(optiinfra_sim.__file__).parent / "recordings" / "vllm-0.32-cpu-batch-bound.tar.gz"
TURNS = 40
PAGES = 20
REPLICAS = 4
GPUS = b"".join(
    b'%s{gpu="%d",UUID="GPU-%d"} 0.5\n' % (name, number, number)
    for name in (
        b"DCGM_FI_PROF_SM_ACTIVE",
        b"DCGM_FI_PROF_DRAM_ACTIVE",
        b"DCGM_FI_DEV_GPU_UTIL",
        b"DCGM_FI_DEV_FB_USED",
    )
    for number in range(8)
)
"""What DCGM-exporter says of eight GPUs, in as few families as the verdicts need."""
NEEDED_MS = 1.0
NEEDED_RATIO = 10.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: str
    limit: float | None = None


def recorded_pages() -> list[tuple[bytes, UnixTime]]:
    """Return the pages of the recording with their times; the last one is the fullest."""
    pages = []
    with tarfile.open(RECORDING) as archive:
        for member in sorted((one for one in archive if one.isfile()), key=lambda one: one.name):
            content = archive.extractfile(member)
            if content is None:
                raise FileNotFoundError(f"{member.name} in {RECORDING.name}")
            pages.append((content.read(), UnixTime(float(member.mtime))))
    return pages


def seconds(run: Callable[[], object]) -> float:
    """Return how long one run took."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def best(runs: Mapping[str, Callable[[], object]], *, turns: int, each: int = 5) -> dict[str, float]:
    """Return the shortest time of several runs, in seconds, the contestants in turns."""
    shortest = dict.fromkeys(runs, float("inf"))
    for _ in range(turns):
        for name, run in runs.items():
            shortest[name] = min(shortest[name], *(seconds(run) for _ in range(each)))
    return shortest


def replica_windows(pages: Sequence[tuple[bytes, UnixTime]]) -> dict[str, tuple[EngineReading, ...]]:
    """Return windows of as many replicas as are benched, each of other pages."""
    step = len(pages) // PAGES
    return {
        f"replica-{number}": tuple(page.read(content, at=at) for content, at in pages[number::step][:PAGES])
        for number in range(REPLICAS)
    }


def figures() -> list[Figure]:
    """Measure everything."""
    pages = recorded_pages()
    content, at = pages[-1]
    text = content.decode()

    def with_care() -> None:
        page.forget_layouts()
        page.read(content, at=at)

    with_gpus = content + GPUS
    for _ in range(3):
        page.read(content, at=at)
        gpu_page.read(with_gpus, at=at)
    parsers = best(
        {
            "read": lambda: page.read(content, at=at),
            "baseline": lambda: list(text_string_to_metric_families(text)),
            "gpu": lambda: gpu_page.read(with_gpus, at=at),
        },
        turns=TURNS,
        each=3,
    )
    careful = best({"careful": with_care}, turns=TURNS)["careful"]
    windows = replica_windows(pages)
    last = max(readings[-1].time for readings in windows.values())

    def summary() -> None:
        summarise(
            windows, now=last, window=Seconds(3600.0), stale_after=Seconds(3600.0), replicas_expected=REPLICAS
        )  # fmt: skip

    joined = best({"summary": summary}, turns=TURNS)["summary"]
    what = f"page of {len(content) / 1000:.0f} KB, {content.count(10)} lines"
    ratio = parsers["baseline"] / parsers["read"]
    return [
        Figure(f"{what}: engines.page.read", parsers["read"] * 1e3, "ms", NEEDED_MS),
        Figure(f"{what}: the same, its lines not met before", careful * 1e3, "ms"),
        Figure(f"{what}: prometheus_client.parser", parsers["baseline"] * 1e3, "ms"),
        Figure(f"{what}: engines.page.read over prometheus_client.parser", 1 / ratio, "", 1 / NEEDED_RATIO),
        Figure("the same text with eight GPUs behind it: engines.gpu_page.read", parsers["gpu"] * 1e3, "ms"),
        Figure(f"domain.signals.summarise, {PAGES} pages of {REPLICAS} replicas", joined * 1e6, "us"),
        Figure("the same, a replica", joined * 1e6 / REPLICAS, "us"),
        Figure("largest page whose layout is remembered", layout.MAX_BYTES / 1024, "KiB"),
    ]


def main() -> int:
    """Print the figures; 1 when one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    measured = figures()
    if options.json:
        print(json.dumps([asdict(one) for one in measured], indent=1))
    else:
        for one in measured:
            needed = "" if one.limit is None else f"  (needed: <= {one.limit:g})"
            print(f"{one.name}: {one.value:.3g} {one.unit}{needed}")
    return 1 if any(one.limit is not None and one.value > one.limit for one in measured) else 0


if __name__ == "__main__":
    sys.exit(main())
