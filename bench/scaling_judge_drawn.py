"""Requests drawn from traces that hold rates: ServeGen's clients, BurstGPT's minutes. Always from a seed.

ServeGen's files hold rates by client and window, and token means: arrivals are drawn from each client's fitted law,
lengths from a lognormal law of the client's mean and median. BurstGPT holds tokens a minute only: its requests are
Poisson within a minute and of an assumed shape. `note` of the requests says what was drawn. `folder` finds what a
folder of traces holds, as sources that can be asked for any size; long traces are drawn up to a stated end.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench.scaling_judge_requests import MOST_REQUESTS, Requests, azure, mooncake, rows_of
from bench.traces import CLIENT_WINDOW_S, INPUT_COLUMNS, OUTPUT_WEIGHT, TOKEN_WINDOW_S, TraceError
from optiinfra.domain.replay.fluid import FloatArray, IntArray

BURSTGPT_SHAPE = (620, 210)
"""Prompt and answer assumed for BurstGPT: its daily file's 833 tokens a request, split as Azure's conversations are."""
SAMPLE_REQUESTS = 40_000
"""About as many requests are drawn where only their shapes are read."""


WHOLE_DRAW = 0.2
"""Share of a client's requests from which all of them are drawn and then thinned."""


@dataclass(frozen=True, slots=True)
class Source:
    """A trace that can be asked for requests of any mean work per second."""

    name: str
    make: Callable[[float], Requests]

    def shapes(self) -> Requests:
        """Some of its requests, for measuring what an engine makes of them."""
        few = self.make(100.0)
        return self.make(SAMPLE_REQUESTS * float(few.work.mean()) / few.length_s)


def folder(path: Path, *, until_s: float, seed: int, only: str = "") -> list[Source]:
    """All traces below a folder that hold requests or from which requests can be drawn, by their file names."""
    found: list[Source] = []
    for clients in sorted(path.rglob("*.clients*.csv*")):
        tokens = clients.with_name(clients.name.replace(".clients", ".tokens"))
        name = clients.name.partition(".clients")[0]
        found.append(Source(name, _drawn(clients, tokens, until_s=until_s, seed=seed)))
    for pattern, read in (("AzureLLMInferenceTrace*.csv*", azure), ("*_trace*.jsonl*", mooncake)):
        files = sorted(path.rglob(pattern))
        found += [Source(file.name.partition(".")[0], _copied(partial(read, file), seed=seed)) for file in files]
    minutes = sorted(path.rglob("burstgpt*_minute*.csv*"))
    found += [Source(file.name.partition(".")[0], _minutes(file, until_s=until_s, seed=seed)) for file in minutes]
    if not found:
        raise TraceError(f"no trace known by its name below {path}")
    return [one for one in found if only in one.name]


def _drawn(clients: Path, tokens: Path, *, until_s: float, seed: int) -> Callable[[float], Requests]:
    return lambda work: servegen(clients, tokens, until_s=until_s, mean_work=work, seed=seed)


def _minutes(path: Path, *, until_s: float, seed: int) -> Callable[[float], Requests]:
    return lambda work: burstgpt(path, until_s=until_s, mean_work=work, seed=seed)


def _copied(read: Callable[[], Requests], *, seed: int) -> Callable[[float], Requests]:
    """Whole requests kept or copied; the file is read once it is needed."""

    def make(work: float) -> Requests:
        requests = read()
        return requests.times(work * requests.length_s / float(requests.work.sum()), seed=seed)

    return make


def burstgpt(path: Path, *, until_s: float, mean_work: float, seed: int) -> Requests:
    """BurstGPT: `minute,total_tokens_per_s`; requests are Poisson within each minute, all of one mean shape."""
    draw = np.random.default_rng(seed)
    rows = [(int(row["minute"]), float(row["total_tokens_per_s"])) for row in rows_of(path)]
    rows = [(minute, rate) for minute, rate in rows if minute * 60.0 < until_s]
    if not rows or not any(rate for _, rate in rows):
        raise TraceError(f"{path.name} holds no tokens: columns minute, total_tokens_per_s are needed")
    length = (max(minute for minute, _ in rows) + 1) * 60.0
    each = BURSTGPT_SHAPE[0] + OUTPUT_WEIGHT * BURSTGPT_SHAPE[1]
    a_token = mean_work * length / each / sum(rate for _, rate in rows)
    moments = [minute * 60.0 + draw.uniform(0.0, 60.0, draw.poisson(rate * a_token)) for minute, rate in rows]
    at = np.sort(np.concatenate(moments))
    prompt, output = (_lengths(draw, mean=float(mean), sigma=0.8, count=len(at)) for mean in BURSTGPT_SHAPE)
    shape = " + ".join(str(mean) for mean in BURSTGPT_SHAPE)
    note = f"requests are drawn from tokens a minute, seed {seed}, of {shape} tokens on average (assumed)"
    return Requests(path.name.partition(".")[0], at, prompt, output, length, note)


def _lengths(draw: np.random.Generator, *, mean: float, sigma: float, count: int) -> IntArray:
    """Token counts of a lognormal law with this mean."""
    values = draw.lognormal(np.log(max(mean, 1.0)) - sigma**2 / 2.0, sigma, count)
    return np.maximum(np.rint(values), 1).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Shape:
    """Lengths of one client's requests: means, and sigmas of the lognormal law."""

    prompt: float
    prompt_sigma: float
    output: float
    output_sigma: float

    @property
    def work(self) -> float:
        return self.prompt + OUTPUT_WEIGHT * self.output


def _sigma(mean: float, median: float) -> float:
    """Of the lognormal law with this mean and median; kept within what such services show."""
    return float(np.clip(np.sqrt(2.0 * np.log(max(mean, 1.0) / max(median, 1.0))), 0.1, 1.5)) if mean > median else 0.1


def _shapes(path: Path) -> tuple[dict[tuple[int, str], _Shape], dict[str, _Shape], _Shape]:
    """By (6 h window, client), by client, and the mean of all for clients that are missing."""
    exact: dict[tuple[int, str], _Shape] = {}
    by_client: dict[str, list[_Shape]] = {}
    for row in rows_of(path):
        kinds = [column for column in INPUT_COLUMNS if row.get(column)]
        prompt = sum(float(row[column]) for column in kinds)
        median = sum(float(row[column.replace("_mean", "_p50")] or 0.0) for column in kinds)
        output = float(row["output_tokens_mean"] or 0.0)
        shape = _Shape(prompt, _sigma(prompt, median), output, _sigma(output, float(row["output_tokens_p50"] or 0.0)))
        exact[int(float(row["t"]) // TOKEN_WINDOW_S), row["client"]] = shape
        by_client.setdefault(row["client"], []).append(shape)
    if not exact:
        raise TraceError(f"{path.name} holds no rows: columns t, client, *_tokens_mean are needed")
    return exact, {name: _mean(found) for name, found in by_client.items()}, _mean(list(exact.values()))


def _mean(shapes: list[_Shape]) -> _Shape:
    columns = np.array([(one.prompt, one.prompt_sigma, one.output, one.output_sigma) for one in shapes])
    return _Shape(*(float(value) for value in columns.mean(axis=0)))


def servegen(clients: Path, tokens: Path, *, until_s: float, mean_work: float, seed: int) -> Requests:
    """ServeGen, drawn so that the mean work per second up to `until_s` is `mean_work`.

    Each client's arrivals are drawn at the rate of the file and thinned at random, which keeps its bursts; where the
    file has too few requests, several draws of each client are laid over one another.
    """
    exact, by_client, fallback = _shapes(tokens)
    rows: list[tuple[int, _Shape, float, str, float]] = []
    for row in rows_of(clients):
        begin = float(row["t"])
        if begin >= until_s:
            continue
        key = int(begin // TOKEN_WINDOW_S), row["client"]
        shape = exact.get(key) or by_client.get(row["client"]) or fallback
        window = round(begin / CLIENT_WINDOW_S)
        rows.append((window, shape, float(row["rate"]), row["dist"], float(row["shape"] or 1.0)))
    if not rows:
        raise TraceError(f"{clients.name} holds no rows before {until_s:g} s: columns t, client, rate, dist, shape")
    length = min(until_s, (max(row[0] for row in rows) + 1) * CLIENT_WINDOW_S)
    factor = mean_work * length / sum(rate * CLIENT_WINDOW_S * shape.work for _, shape, rate, _, _ in rows)
    layers = max(1, int(np.ceil(factor)))
    draw = np.random.default_rng(seed)
    parts: list[tuple[FloatArray, IntArray, IntArray]] = []
    for window, shape, rate, law, bend in rows:
        for _ in range(layers):
            times = _arrivals(draw, rate=rate, law=law, shape=bend, share=factor / layers)
            prompt = _lengths(draw, mean=shape.prompt, sigma=shape.prompt_sigma, count=len(times))
            output = _lengths(draw, mean=shape.output, sigma=shape.output_sigma, count=len(times))
            parts.append((window * CLIENT_WINDOW_S + times, prompt, output))
    at = np.concatenate([part[0] for part in parts])
    if len(at) > MOST_REQUESTS:
        raise TraceError(f"{clients.name}: {len(at)} requests, more than {MOST_REQUESTS}: judge a shorter span")
    order = np.argsort(at, kind="stable")
    prompt, output = (np.concatenate([part[column] for part in parts])[order] for column in (1, 2))
    note = f"requests are drawn from rates and laws of clients, seed {seed}; {factor:.3g} times the file's rate"
    name = clients.name.partition(".clients")[0]
    return Requests(name, at[order], prompt, output, length, note)


def _arrivals(draw: np.random.Generator, *, rate: float, law: str, shape: float, share: float) -> FloatArray:
    """Arrival times in one window of one client of whose requests each is kept with the chance `share`.

    Where few are kept the gaps between them are drawn at once: the sum of n gaps of a gamma law is a gamma variable of
    n times its shape; n is geometric. A Weibull gap is then taken for the gamma one of equal mean and variance.
    """
    wanted = max(1, round(rate * CLIENT_WINDOW_S))
    bend = min(max(shape, 0.05), 50.0)
    if share >= WHOLE_DRAW:
        gaps = draw.weibull(bend, 2 * wanted + 16) if law == "Weibull" else draw.gamma(bend, 1.0, 2 * wanted + 16)
        skipped = np.ones(len(gaps), dtype=np.int64)
    else:
        skipped = draw.geometric(share, int(2.0 * wanted * share) + 16)
        mean, variance = bend, bend
        if law == "Weibull":
            mean = math.gamma(1.0 + 1.0 / bend)
            variance = math.gamma(1.0 + 2.0 / bend) - mean**2
        gaps = draw.gamma(skipped * mean**2 / variance, variance / mean)
    times, passed = np.cumsum(gaps), np.cumsum(skipped)
    # The window's number of requests is a fact; the law only says how they stray inside it.
    last = min(int(np.searchsorted(passed, wanted)), len(times) - 1)
    times *= CLIENT_WINDOW_S / times[last]
    kept: FloatArray = times[times < CLIENT_WINDOW_S]
    return kept[draw.random(len(kept)) < share] if share >= WHOLE_DRAW else kept
