"""Prefix caches: hit ratios by size and routing, and how well other sizes are predicted from an engine's counters.

`python -m bench.kv_cache --traces FOLDER` replays every Mooncake trace below a folder; without one, conversations are
made up from a seed, so that it runs anywhere. Each mechanism of `domain/prefix_reuse` predicts the hit ratio at 0.5 to
8 times the size from the counters of caches of several sizes, and its errors against the replay are printed, in points
of hit ratio: over all forecasts, over those that it calls predictable, and how often the interval held the truth. The
prior figures of whole traces are printed beside those of whatever part of them is given.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.domain import timed
from bench.result import Result
from optiinfra.cli.replay_kvcache import BLOCK_TOKENS, SIZES, read_trace
from optiinfra.domain.prefix_reuse import BEST, HitForecast, Mechanism, predict
from optiinfra.domain.prefix_reuse import FACTORS as PREDICTED
from optiinfra.domain.readings import Unknown
from optiinfra.domain.replay.prefix_cache import PrefixRequest, Routing, accesses, route
from optiinfra.domain.replay.prefix_counters import SAMPLED, observe

BASES = (1_000, 3_000, 10_000, 30_000)
FACTORS = (0.5, 0.75, 1.5, 2.0, 4.0, 8.0)
REPLICAS, REPLICA_BLOCKS = 8, 3_000
PRIOR = (
    "prior, whole conversation trace: 4.5 6.6 21.5 33.2 37.1 %, infinite 37.4 %; 9.1 %, 31.0 % (1.09), 30.8 % (1.01)"
)
SLACK = 0.005
"""A truth this close to an interval counts as inside."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One forecast beside the truth."""

    mechanism: Mechanism
    factor: float
    forecast: HitForecast
    truth: float

    @property
    def error(self) -> float:
        """Absolute, in hit ratio."""
        return abs(self.forecast.expected - self.truth)


def made_up(seed: int = 7, *, conversations: int = 900, span: float = 1800.0) -> list[PrefixRequest]:
    """Make up conversations: a system prompt that all share, turns a log-normal pause apart, prompts that grow."""
    draw = np.random.default_rng(seed)
    found, fresh = [], 1
    for _ in range(conversations):
        moment, prompt = float(draw.uniform(0.0, span)), [0]
        for _ in range(1 + int(draw.geometric(0.3))):
            added = 1 + int(draw.exponential(10.0))
            prompt = [*prompt, *range(fresh, fresh + added)]
            fresh += added
            found.append(PrefixRequest(moment, tuple(prompt)))
            moment += float(draw.lognormal(np.log(90.0), 1.0))
    return sorted((one for one in found if one.time < span), key=lambda one: one.time)


def replayed(name: str, requests: Sequence[PrefixRequest]) -> list[Result]:
    """Replay one trace by size and by routing."""
    began = time.perf_counter()
    seen = accesses(requests)
    seconds = time.perf_counter() - began
    rows = [
        Result(f"{name}: one LRU of {size} blocks, hit ratio", ratio * 100.0, "%")
        for size, ratio in zip(SIZES, seen.hit_ratios(SIZES), strict=True)
    ]
    rows.append(Result(f"{name}: infinite cache, hit ratio", seen.reusable * 100.0, "%"))
    for routing in Routing:
        one = route(requests, routing=routing, replicas=REPLICAS, blocks=REPLICA_BLOCKS)
        what = f"{name}: {REPLICAS} replicas of {REPLICA_BLOCKS} blocks, {routing}"
        rows += [
            Result(f"{what}, hit ratio", one.hit_ratio * 100.0, "%"),
            Result(f"{what}, imbalance", one.imbalance, ""),
        ]
    rows.append(
        Result(f"{name}: all sizes in one pass, per 100,000 accesses", seconds * 1e8 / len(seen.distance), "ms")
    )
    return rows


def judged(requests: Sequence[PrefixRequest], *, sampled: float) -> list[Judged]:
    """Predict from several base sizes with every mechanism."""
    seen, found = accesses(requests), list[Judged]()
    for blocks in BASES:
        history = observe(requests, blocks=blocks, block_tokens=BLOCK_TOKENS, sampled=sampled)
        sizes = [round(blocks * factor) for factor in FACTORS]
        truths = seen.hit_ratios(sizes)
        for mechanism in Mechanism:
            forecasts = predict(history, [float(size * BLOCK_TOKENS) for size in sizes], mechanism=mechanism)
            if isinstance(forecasts, Unknown):
                continue
            found += [
                Judged(mechanism, factor, one, truth)
                for factor, one, truth in zip(FACTORS, forecasts, truths, strict=True)
            ]
    return found


def cost(requests: Sequence[PrefixRequest]) -> Result:
    """Time the forecasts that a round makes for one service."""
    history = observe(requests, blocks=BASES[0], block_tokens=BLOCK_TOKENS)
    capacities = [history.capacity * factor for factor in PREDICTED]
    seconds = timed(lambda: predict(history, capacities))
    return Result(f"forecasts of {len(capacities)} sizes from {len(history.windows)} windows", seconds * 1e3, "ms")


def errors(name: str, found: Sequence[Judged]) -> list[Result]:
    """Sum up each mechanism."""
    rows = []
    for mechanism in Mechanism:
        own = [one for one in found if one.mechanism is mechanism]
        if not own:
            continue
        what = f"{name}: {mechanism}{' (used)' if mechanism is BEST else ''}"
        narrow = [one.error for one in own if one.forecast.predictable]
        held = [one.forecast.lower - SLACK <= one.truth <= one.forecast.upper + SLACK for one in own]
        rows += [
            Result(
                f"{what}, mean error of {len(own)} forecasts", float(np.mean([one.error for one in own])) * 100.0, "pt"
            ),
            Result(f"{what}, largest error", max(one.error for one in own) * 100.0, "pt"),
        ]
        if mechanism is Mechanism.UNCHANGED:
            continue
        rows.append(Result(f"{what}, interval held the truth", float(np.mean(held)) * 100.0, "%"))
        if narrow:
            rows += [
                Result(f"{what}, mean error of {len(narrow)} predictable", float(np.mean(narrow)) * 100.0, "pt"),
                Result(f"{what}, largest error of predictable", max(narrow) * 100.0, "pt"),
            ]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="folder with Mooncake traces, *.jsonl or *.jsonl.gz")
    parser.add_argument("--sampled", type=float, default=SAMPLED, help="share of blocks in residency histograms")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    traces = {"made up": made_up()}
    if options.traces is not None:
        paths = sorted({*options.traces.rglob("*.jsonl"), *options.traces.rglob("*.jsonl.gz")})
        traces = {path.name.partition(".jsonl")[0]: read_trace(path) for path in paths}
        if not traces:
            parser.error(f"no .jsonl or .jsonl.gz file below {options.traces}")
    rows = list[Result]()
    for name, requests in traces.items():
        rows += replayed(name, requests) + errors(name, judged(requests, sampled=options.sampled))
    rows.append(cost(next(iter(traces.values()))))
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return 0
    for row in rows:
        print(f"{row.name:<90} {row.value:10.2f} {row.unit}".rstrip())
    print(PRIOR)
    return 0


if __name__ == "__main__":
    sys.exit(main())
