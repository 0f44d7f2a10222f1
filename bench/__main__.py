"""All benches, one after the other, as one table: what, measured, needed, verdict.

`python -m bench` runs every bench, `python -m bench agent operator` those named; `--json` prints the same for machines.
Each runs in a process of its own, so that none pays for another's imports. It returns 1 when a needed figure is missed
or a bench could not be run. Options of a single bench belong to it: `python -m bench.operator --help`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

NAMES = (
    "engines",
    "kv_cache",
    "scaling",
    "consolidation",
    "judge",
    "hpa",
    "right_sizing",
    "vpa",
    "idle",
    "analysis",
    "domain",
    "drain",
    "report",
    "agent",
    "agent_read",
    "operator",
    "simulator",
)
MODULES = {"judge": "scaling_judge"}
"""Benches whose module has another name."""
TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one bench."""

    bench: str
    what: str
    measured: float
    unit: str
    needed: float | None
    """Largest value that is good enough; None for a figure that is only told."""

    @property
    def verdict(self) -> str:
        """Whether it is good enough."""
        if self.needed is None:
            return ""
        return "ok" if self.measured <= self.needed else "MISSED"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one bench came to."""

    bench: str
    rows: tuple[Row, ...]
    seconds: float
    error: str = ""
    """Why there are no figures."""


def run(name: str) -> Outcome:
    """Run one bench in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, "-m", f"bench.{MODULES.get(name, name)}", "--json"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Outcome(name, (), time.monotonic() - began, f"not done after {TIMEOUT_S:g} s")
    seconds = time.monotonic() - began
    try:
        rows = tuple(
            Row(name, str(item["name"]), float(item["value"]), str(item["unit"]), item["limit"])
            for item in json.loads(done.stdout)
        )
    except (ValueError, KeyError, TypeError) as error:
        return Outcome(name, (), seconds, f"exit status {done.returncode}, no figures: {error}")
    # A bench that misses a limit returns 1; anything else that is not 0 is an accident.
    accident = f"exit status {done.returncode}" if done.returncode not in {0, 1} else ""
    return Outcome(name, rows, seconds, accident)


def print_table(outcome: Outcome) -> None:
    """Print the rows of one bench."""
    print(f"\n{outcome.bench} ({outcome.seconds:.0f} s)")
    for row in outcome.rows:
        needed = "" if row.needed is None else f"<= {row.needed:g}"
        print(f"  {row.what:<80} {row.measured:>10.4g} {row.unit:<6} {needed:>8}  {row.verdict}".rstrip())
    if outcome.error:
        print(f"  FAILED: {outcome.error}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print; 1 when a figure is missed or a bench failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"no bench {', '.join(unknown)}: choose of {', '.join(NAMES)}")
    conditions = f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}"
    outcomes = []
    for name in options.names or NAMES:
        outcomes.append(run(name))
        if not options.json:
            print_table(outcomes[-1])
    if options.json:
        rows = [asdict(row) | {"verdict": row.verdict} for outcome in outcomes for row in outcome.rows]
        errors = {outcome.bench: outcome.error for outcome in outcomes if outcome.error}
        print(json.dumps({"conditions": conditions, "figures": rows, "errors": errors}, indent=1))
    missed = sum(row.verdict == "MISSED" for outcome in outcomes for row in outcome.rows)
    failed = sum(bool(outcome.error) for outcome in outcomes)
    if not options.json:
        print(f"\n{conditions}: {missed} missed, {failed} failed")
    return 1 if missed or failed else 0


if __name__ == "__main__":
    sys.exit(main())
