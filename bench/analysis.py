"""What the workflows cost: CPU time of one round, of one insight, and what importing them takes.

    python -m bench.analysis [--runs 500] [--json]

CPU time of this process, so that a busy machine does not change it much; the round's steps do nothing, so what is
measured is LangGraph. Imports are measured in a fresh interpreter each.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from statistics import median

from optiinfra.analysis.factory import build_adviser
from optiinfra.analysis.insights import InsightsWorkflow
from optiinfra.analysis.request import InsightCandidate, InsightRequest, NamedNumber
from optiinfra.analysis.round import RoundWorkflow
from optiinfra.analysis.vocabulary import NumberName, ReasonCode
from optiinfra.domain.evidence import Direction, RecommendationType
from optiinfra.domain.units import Money, Ratio


class _Nothing:
    """Steps that do nothing."""

    async def collect(self, work: int) -> int:
        return work

    async def analyze(self, work: int) -> int:
        return work

    async def plan(self, work: int) -> int:
        return work

    async def execute(self, work: int) -> int:
        return work

    async def monitor(self, work: int) -> int:
        return work

    async def report(self, work: int) -> int:
        return work

    def wants_execution(self, work: int) -> bool:
        return work > 0


def _request() -> InsightRequest:
    numbers = (NamedNumber(NumberName.CURRENT, 8), NamedNumber(NumberName.PROPOSED, 5))
    return InsightRequest(
        object_id="bench",
        candidates=tuple(
            InsightCandidate(
                id=f"r{position}",
                type=RecommendationType.REPLICAS,
                reason=ReasonCode.LEARNED,
                direction=Direction.SCALE_DOWN,
                confidence=Ratio(0.9),
                numbers=numbers,
                savings_per_month=Money(1_000.0),
            )
            for position in range(1, 5)
        ),
    )


async def _measure(runs: int) -> dict[str, float]:
    round_workflow = RoundWorkflow(_Nothing(), observe=lambda _step, _seconds: None, clock=time.monotonic)
    insights = InsightsWorkflow(build_adviser(None), observe=lambda _step, _seconds: None, clock=time.monotonic)
    request = _request()
    spent: dict[str, list[float]] = {"round": [], "insight": []}
    for _ in range(runs):
        started = time.process_time()
        await round_workflow.run(1)
        between = time.process_time()
        await insights.run(request)
        spent["round"].append(between - started)
        spent["insight"].append(time.process_time() - between)
    return {name: median(values) * 1e3 for name, values in spent.items()}


_IMPORT = """
import time; started = time.process_time()
import {module}
spent = time.process_time() - started
import pathlib, re
rss = re.search(r"VmRSS:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())
print(spent * 1e3, int(rss[1]) / 1024)
"""


def _import_cost(module: str) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT.format(module=module)], capture_output=True, text=True, check=True, timeout=120
    )
    milliseconds, mebibytes = done.stdout.split()
    return float(milliseconds), float(mebibytes)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=500, help="runs of each workflow (default: 500)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    figures = [
        (f"one {name}, CPU (median of {options.runs})", milliseconds, "ms")
        for name, milliseconds in asyncio.run(_measure(options.runs)).items()
    ]
    for module in ("optiinfra.analysis.round", "optiinfra.analysis.factory", "langchain_groq"):
        milliseconds, mebibytes = _import_cost(module)
        figures += [(f"import {module}, CPU", milliseconds, "ms"), (f"import {module}, resident", mebibytes, "MiB")]
    if options.json:
        rows = [{"name": name, "value": value, "unit": unit, "limit": None} for name, value, unit in figures]
        print(json.dumps(rows, indent=1))
        return
    for name, value, unit in figures:
        print(f"{name:<60} {value:>8.2f} {unit}")


if __name__ == "__main__":
    main()
