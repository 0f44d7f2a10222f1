"""`python -m hack.gpu_check [--seconds N] [--gpu INDEX] [--out FILE.md]`: run the phases, print the tables."""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hack.gpu_check.calls import Cost, costs
from hack.gpu_check.comparison import Row, rows
from hack.gpu_check.load import Kind
from hack.gpu_check.witness import Sight, Witness, WitnessError, gpus

WARM_UP_S: Final = 3.0
"""After a load has begun: two collections of the agent, which then see nothing but it."""
START_S: Final = 60.0


def main() -> int:
    """Run the check; return 1 where a load could not be run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each phase (default 15)")
    parser.add_argument("--gpu", type=int, default=0, help="number of the GPU, as NVML counts (default 0)")
    parser.add_argument("--out", type=Path, help="write the tables to this file as well")
    options = parser.parse_args()
    try:
        text, whole = check(seconds=options.seconds, index=options.gpu)
    except WitnessError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    return 0 if whole else 1


def check(*, seconds: float, index: int) -> tuple[str, bool]:
    """Return the tables as Markdown, and whether every load was run."""
    nvml = _nvml()
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    uuid = nvml.nvmlDeviceGetUUID(handle)
    raw = nvml.nvmlDeviceGetPciInfo(handle).busId
    bus_id = raw.decode() if isinstance(raw, bytes) else str(raw)
    priced = costs(nvml, handle)
    found: list[Row] = []
    missing: list[str] = []
    with agent() as address:
        witness = Witness(address, uuid, nvml, handle)
        found += rows("idle", watched(witness, seconds), idle_memory=None)
        idle = next((row.agent for row in found if row.what == "memory used"), None)
        for kind in Kind:
            try:
                sights, facts = loaded(witness, kind, bus_id, seconds)
            except WitnessError as error:
                missing.append(f"- `{kind}` was not run: {error}")
                continue
            found += rows(
                str(kind),
                sights,
                idle_memory=None if idle is None else idle * 1024.0 * 1024.0,
                allocated=facts["allocated_bytes"],
                copied=facts["copied_bytes_each_way"],
            )
    named = f"{nvml.nvmlDeviceGetName(handle)}, driver {nvml.nvmlSystemGetDriverVersion()}"
    return page(named, found, priced, missing, seconds=seconds), not missing


def watched(witness: Witness, seconds: float) -> list[Sight]:
    """Look once a second."""
    sights = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        sights.append(witness.look())
        time.sleep(max(0.0, began + 1.0 - time.monotonic()))
    return sights


def loaded(witness: Witness, kind: Kind, bus_id: str, seconds: float) -> tuple[list[Sight], dict[str, int]]:
    """Look while a load runs; return what was seen, and what the load says that it did meanwhile.

    Counters are compared with all that the load did, so the first and the last look are outside of it.
    """
    before = witness.look()
    command = [sys.executable, "-m", "hack.gpu_check.load", str(kind), bus_id, str(seconds + WARM_UP_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        if not first:
            raise WitnessError(process.stderr.read().strip().splitlines()[-1])
        time.sleep(WARM_UP_S)
        sights = watched(witness, seconds - 1.0)
        last = process.stdout.readline()
        if not last:
            raise WitnessError(process.stderr.read().strip().splitlines()[-1])
    time.sleep(WARM_UP_S)
    facts: dict[str, int] = json.loads(first) | json.loads(last)
    if kind is Kind.COPY:
        # Middles do not mind two more looks; the growth of the counters needs them.
        sights = [before, *sights, witness.look()]
    return sights, facts


@contextmanager
def agent() -> Iterator[str]:
    """Run the agent, collecting once a second; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = int(reserved.getsockname()[1])
    settings = os.environ | {
        "OPTIINFRA_AGENT_LISTEN_ADDRESS": "127.0.0.1",
        "OPTIINFRA_AGENT_LISTEN_PORT": str(port),
        "OPTIINFRA_AGENT_INTERVAL": "1",
        "OPTIINFRA_AGENT_POD_RESOURCES": "off",
        "OPTIINFRA_AGENT_CGROUPS": "off",
    }
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [sys.executable, "-m", "optiinfra_agent"], env=settings, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait(address, process)
            yield address
        finally:
            process.terminate()


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            gpus(address)
        except WitnessError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def _nvml() -> Any:
    import pynvml  # noqa: PLC0415 - where there is no driver the error below is the answer, not a failed import

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise WitnessError(f"there is no GPU to check: {error}") from error
    return pynvml


def page(named: str, found: list[Row], priced: list[Cost], missing: list[str], *, seconds: float) -> str:
    """Return the tables."""
    lines = [
        "# The agent on real hardware",
        "",
        f"{named}; {datetime.now(UTC):%Y-%m-%d}; phases of {seconds:g} s, the agent collects once a second. Written by",
        "`python -m hack.gpu_check`. Ratios and amounts are medians of a phase, energy and PCIe what counters grew by.",
        "",
        "| phase | what | agent | beside | which is | difference |",
        "|---|---|---:|---:|---|---:|",
        *(
            f"| {row.phase} | {row.what} | {_number(row.agent, row.unit)} | {_number(row.other, row.unit)} | "
            f"{row.other_is or '-'} | {'-' if row.difference is None else f'{row.difference:+.1%}'} |"
            for row in found
        ),
        "",
        *([*missing, ""] if missing else []),
        "| call of the driver | median |",
        "|---|---:|",
        *(
            f"| `{cost.name}` | {cost.refused if cost.microseconds is None else f'{cost.microseconds:.1f} us'} |"
            for cost in priced
        ),
        "",
    ]
    return "\n".join(lines)


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:,.3f}" if not unit else f"{value:,.1f} {unit}"


if __name__ == "__main__":
    sys.exit(main())
