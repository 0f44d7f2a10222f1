"""`optiinfra replay kvcache`: hit ratios of prefix caches on a trace of requests with block hashes.

The trace has Mooncake's format, one JSON object a line with `timestamp` (milliseconds), `input_length`,
`output_length` (tokens) and `hash_ids` (identities of consecutive prompt blocks), plain or gzip. Printed are one LRU at
several sizes, several replicas under three routings, and what the operator predicts for other sizes from an engine's
counters alone, beside what the replay says: the operator sees no block hashes, the replay does.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import click

from optiinfra.domain.prefix_reuse import BEST, predict
from optiinfra.domain.readings import Unknown
from optiinfra.domain.replay.prefix_cache import Accesses, PrefixRequest, Routed, Routing, accesses, route
from optiinfra.domain.replay.prefix_counters import SAMPLED, SCRAPE_S, observe
from optiinfra.errors import OptiInfraError

BLOCK_TOKENS: Final = 512
SIZES: Final = (1_000, 3_000, 10_000, 30_000, 100_000)
FACTORS: Final = (0.5, 2.0, 4.0, 8.0)
LONGEST_LINE: Final = 4 << 20
MOST_REQUESTS: Final = 2_000_000
MOST_BLOCKS: Final = 10_000_000
"""Block accesses of one trace; each takes about 350 bytes."""


class TraceError(OptiInfraError):
    """A trace that cannot be replayed; the message names the line and what is expected there."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is printed."""

    requests: int
    replay: Accesses
    blocks: int
    replicas: int
    routed: tuple[Routed, ...]
    predictions: tuple[dict[str, Any], ...]

    def document(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        sizes = sorted({*SIZES, self.blocks})
        ratios = self.replay.hit_ratios(sizes)
        return {
            "requests": self.requests,
            "block_accesses": len(self.replay.distance),
            "distinct_blocks": self.replay.distinct,
            "block_tokens": BLOCK_TOKENS,
            "blocks": self.blocks,
            "hit_ratio": ratios[sizes.index(self.blocks)],
            "infinite_hit_ratio": self.replay.reusable,
            "sizes": [{"blocks": size, "hit_ratio": ratio} for size, ratio in zip(sizes, ratios, strict=True)],
            "replicas": self.replicas,
            "routing": [
                {"routing": str(one.routing), "hit_ratio": one.hit_ratio, "imbalance": one.imbalance}
                for one in self.routed
            ],
            "predictions": list(self.predictions),
        }


def read_trace(path: Path) -> list[PrefixRequest]:
    """Read a trace in the order of its times. Raises TraceError."""
    found: list[PrefixRequest] = []
    blocks = 0
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path.name}, line {number}"
        if len(line) > LONGEST_LINE:
            raise TraceError(f"{where}: longer than {LONGEST_LINE} bytes; one JSON object a line is expected")
        if not line.strip():
            continue
        found.append(_request(line, where))
        blocks += len(found[-1].blocks)
        if len(found) > MOST_REQUESTS or blocks > MOST_BLOCKS:
            raise TraceError(f"{where}: more than {MOST_REQUESTS} requests or {MOST_BLOCKS} blocks; cut the trace")
    if not found:
        raise TraceError(f"{path.name}: no requests; one JSON object a line with timestamp and hash_ids is expected")
    return sorted(found, key=lambda one: one.time)


def replay(requests: list[PrefixRequest], *, blocks: int, replicas: int) -> Report:
    """Replay a trace in every way that is printed."""
    seen = accesses(requests)
    routed = tuple(route(requests, routing=one, replicas=replicas, blocks=blocks) for one in Routing)
    return Report(len(requests), seen, blocks, replicas, routed, _predictions(requests, seen, blocks))


def _predictions(requests: list[PrefixRequest], seen: Accesses, blocks: int) -> tuple[dict[str, Any], ...]:
    history = observe(requests, blocks=blocks, block_tokens=BLOCK_TOKENS, scrape=SCRAPE_S, sampled=SAMPLED)
    sizes = [max(1, round(blocks * factor)) for factor in FACTORS]
    forecast = predict(history, [float(size * BLOCK_TOKENS) for size in sizes], mechanism=BEST)
    if isinstance(forecast, Unknown):
        return ({"blocks": blocks, "unknown": str(forecast)},)
    return tuple(
        {
            "blocks": size,
            "factor": factor,
            "predicted": one.expected,
            "lower": one.lower,
            "upper": one.upper,
            "predictable": one.predictable,
            "replayed": true,
        }
        for size, factor, one, true in zip(sizes, FACTORS, forecast, seen.hit_ratios(sizes), strict=True)
    )


def _lines(path: Path) -> Iterator[bytes]:
    try:
        opened: IO[bytes] = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[assignment]  # noqa: SIM115  closed below; GzipFile reads like a file
        with closing(opened):
            while line := opened.readline(LONGEST_LINE + 1):
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{path.name} cannot be read: {error}; name a .jsonl or .jsonl.gz file") from error


def _request(line: bytes, where: str) -> PrefixRequest:
    try:
        document = json.loads(line)
        time, blocks = float(document["timestamp"]) / 1000.0, document["hash_ids"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TraceError(f"{where}: an object with a number `timestamp` and a list `hash_ids` is expected") from error
    if not 0.0 <= time < 1e12 or not isinstance(blocks, list) or any(type(one) is not int for one in blocks):
        raise TraceError(f"{where}: `timestamp` must not be negative, `hash_ids` must be whole numbers")
    if any(abs(one) >= 1 << 63 for one in blocks):
        raise TraceError(f"{where}: `hash_ids` must fit 64 bits")
    return PrefixRequest(time, tuple(blocks))


@click.command("kvcache")
@click.argument("trace", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--blocks",
    type=click.IntRange(1, 100_000_000),
    default=3_000,
    show_default=True,
    help="Blocks of one replica's cache.",
)
@click.option("--replicas", type=click.IntRange(1, 1_024), default=8, show_default=True, help="Replicas to route over.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def kvcache(*, trace: Path, blocks: int, replicas: int, as_json: bool) -> None:
    """Replay requests with block hashes against prefix caches, and judge the prediction of other sizes."""
    try:
        report = replay(read_trace(trace), blocks=blocks, replicas=replicas)
    except TraceError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(report.document(), indent=1))
        return
    _print(report.document())


def _print(document: dict[str, Any]) -> None:
    click.echo(
        f"{document['requests']} requests, {document['block_accesses']} block accesses, "
        f"{document['distinct_blocks']} different blocks of {document['block_tokens']} tokens"
    )
    click.echo("\none LRU\n    blocks  hit ratio")
    for one in document["sizes"]:
        click.echo(f"{one['blocks']:>10}  {one['hit_ratio']:9.1%}")
    click.echo(f"  infinite  {document['infinite_hit_ratio']:9.1%}")
    click.echo(f"\n{document['replicas']} replicas of {document['blocks']} blocks\nrouting       hit ratio  imbalance")
    for one in document["routing"]:
        click.echo(f"{one['routing']:<13} {one['hit_ratio']:9.1%}  {one['imbalance']:9.2f}")
    click.echo(
        f"\nfrom the counters of one cache of {document['blocks']} blocks\n"
        "    blocks  predicted  interval        replayed"
    )
    for one in document["predictions"]:
        if "unknown" in one:
            click.echo(one["unknown"])
            continue
        note = "" if one["predictable"] else "  not predictable: interval too wide"
        click.echo(
            f"{one['blocks']:>10}  {one['predicted']:9.1%}  {one['lower']:5.1%} - {one['upper']:5.1%}  "
            f"{one['replayed']:8.1%}{note}"
        )
