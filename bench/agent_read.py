"""What one snapshot of a node agent costs the operator: CPU time to read it, beside the pages that others would read.

`python -m bench.agent_read` takes the pages of the real agent on a node with eight GPUs and a hundred pods (the stub
of the driver library and made-up cgroups, bench.agent_node) and reads each some hundred times, in turns: the snapshot
as the operator does, unpacked from gzip, with the containers of eight pods and with those of all; the same document
decoded by orjson and nothing else, which no reader can be cheaper than; and the agent's own `/metrics` by the parser of
prometheus_client, as an operator would that scrapes agents like any target. It returns 1 when the limit is missed.
"""

import argparse
import contextlib
import http.client
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import orjson
from prometheus_client.parser import text_string_to_metric_families

from bench.agent_node import GPUS, PODS, agent, full_node, get
from bench.result import Result, shown
from optiinfra.cluster.agents import SNAPSHOT_LIMIT_BYTES, parse_snapshot

LIMIT_MS: Final = 0.5
TURNS: Final = 30
PER_TURN: Final = 20
_WATCHED: Final = 8
"""Pods of a node that ResourceOptimizations look after: one a GPU."""


def pages() -> tuple[bytes, bytes]:
    """Return `/v1/snapshot` as it is packed, and `/metrics`, of an agent that has collected twice."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _, node = stack.enter_context(full_node(folder))
        program = stack.enter_context(agent(node, interval_s=1.0))
        program.wait_for("/v1/snapshot")
        time.sleep(2.5)  # rates need a second collection
        connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=10)
        found = [get(connection, "/v1/snapshot", packed=True), get(connection, "/metrics")]
        connection.close()
    if any(status != http.HTTPStatus.OK for status, _ in found):
        raise SystemExit(f"the agent answered {[status for status, _ in found]}")
    return found[0][1], found[1][1]


def unpacked(body: bytes) -> bytes:
    """Unpack as the operator's fetcher does: never further than the limit."""
    return zlib.decompressobj(wbits=47).decompress(body, SNAPSHOT_LIMIT_BYTES + 1)


def in_turns(readers: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median CPU time of one call of each, in milliseconds."""
    spent: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(TURNS):
        for name, read in readers.items():
            began = time.process_time()
            for _ in range(PER_TURN):
                read()
            spent[name].append((time.process_time() - began) / PER_TURN * 1000.0)
    return {name: statistics.median(times) for name, times in spent.items()}


def measure() -> list[Result]:
    """Return every figure."""
    packed, metrics = pages()
    snapshot = unpacked(packed)
    every = frozenset(orjson.loads(snapshot)["pods"])
    watched = frozenset(sorted(every)[:_WATCHED])
    reading = parse_snapshot(snapshot, pods=every)
    if (len(reading.gpus), len(every)) != (GPUS, PODS) or len(reading.containers) < PODS:
        raise SystemExit(f"{len(reading.gpus)} GPUs and {len(reading.containers)} containers of {len(every)} pods read")
    text = metrics.decode()
    cost = in_turns(
        {
            "read": lambda: parse_snapshot(unpacked(packed), pods=watched),
            "all": lambda: parse_snapshot(unpacked(packed), pods=every),
            "orjson": lambda: orjson.loads(snapshot),
            "metrics": lambda: [list(family.samples) for family in text_string_to_metric_families(text)],
        }
    )
    what = f"snapshot of {GPUS} GPUs and {PODS} pods"
    return [
        Result(f"{what}, read with the containers of {_WATCHED} pods, CPU", cost["read"], "ms", LIMIT_MS),
        Result(f"{what}, with those of all pods, CPU", cost["all"], "ms"),
        Result("baseline: the same bytes decoded by orjson alone, CPU", cost["orjson"], "ms"),
        Result("baseline: the agent's /metrics by prometheus_client, CPU", cost["metrics"], "ms"),
        Result("size of the snapshot", len(snapshot) / 1024.0, "KiB"),
        Result("size of the snapshot as it is sent", len(packed) / 1024.0, "KiB"),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures for machines")
    options = parser.parse_args(arguments)
    return shown(measure(), as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
