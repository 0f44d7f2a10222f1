"""Loads out of trace files: ServeGen clients, requests of Azure and Mooncake, tokens a minute of BurstGPT.

Each reader takes a path and gives work per second on steps of 5 s; where the file came from is its README's matter.
Work = input tokens + `OUTPUT_WEIGHT` x output tokens, unless the file knows only totals. Rates of windows are joined by
straight lines between the middles of the windows; `bursty` instead draws each client's arrivals from the law that the
file fitted to it, from a seed. Nothing is scaled here: how many replicas a load keeps busy is the bench's choice.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from optiinfra.domain.replay.fluid import STEP_S, FloatArray

OUTPUT_WEIGHT = 4.0
CLIENT_WINDOW_S = 600.0
TOKEN_WINDOW_S = 21_600.0
MOST_STEPS = 1_000_000
BURSTY = ("language_m-large", "reason_*", "multimodal_*")
"""Traces that are also played with drawn arrivals."""
INPUT_COLUMNS = ("input_tokens_mean", "text_tokens_mean", "image_tokens_mean", "audio_tokens_mean", "video_tokens_mean")


class TraceError(Exception):
    """A trace cannot be read; the message names the file and what was expected."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One load: work per second on steps of 5 s."""

    name: str
    work: FloatArray

    @property
    def days(self) -> float:
        """Length in days."""
        return len(self.work) * STEP_S / 86_400.0

    def at(self, replicas: float) -> FloatArray:
        """Return the load in replicas, scaled so that its mean is this number of replicas."""
        return self.work * (replicas / float(self.work.mean()))


def _text(path: Path) -> str:
    """The whole file, unpacked; trace files are a few megabytes."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise TraceError(f"{path.name} cannot be read: {error}") from error


def _rows(path: Path) -> Iterator[dict[str, str]]:
    return csv.DictReader(io.StringIO(_text(path)))


def _steps(seconds: float, *, name: str) -> int:
    steps = round(seconds / STEP_S)
    if not 0 < steps <= MOST_STEPS:
        raise TraceError(
            f"{name} spans {seconds:g} s: between one step and {MOST_STEPS} steps of {STEP_S:g} s are read"
        )
    return steps


def _token_means(path: Path) -> tuple[dict[tuple[int, str], float], float]:
    """Work a request by (6 h window, client), and the mean over all of them for clients that are missing."""
    found: dict[tuple[int, str], float] = {}
    for row in _rows(path):
        inputs = sum(float(row[column]) for column in INPUT_COLUMNS if row.get(column))
        found[int(float(row["t"]) // TOKEN_WINDOW_S), row["client"]] = inputs + OUTPUT_WEIGHT * float(
            row["output_tokens_mean"] or 0.0
        )
    if not found:
        raise TraceError(f"{path.name} holds no rows: columns t, client, *_tokens_mean are needed")
    return found, float(np.mean(list(found.values())))


def servegen(clients: Path, tokens: Path, *, bursty_seed: int | None = None) -> Trace:
    """ServeGen: `t,client,rate,cv,dist,shape,scale` by windows of 600 s, and token means by windows of 6 h."""
    means, fallback = _token_means(tokens)
    by_client: dict[str, list[float]] = {}
    for (_, client), work in means.items():
        by_client.setdefault(client, []).append(work)
    rows = [
        (round(float(row["t"]) / CLIENT_WINDOW_S), row["client"], float(row["rate"]), row["dist"], row["shape"])
        for row in _rows(clients)
    ]
    if not rows:
        raise TraceError(f"{clients.name} holds no rows: columns t, client, rate, dist, shape are needed")
    windows = max(row[0] for row in rows) + 1
    steps = _steps(windows * CLIENT_WINDOW_S, name=clients.name)
    per_window = np.zeros(windows)
    drawn = np.zeros(steps)
    draw = np.random.default_rng(bursty_seed)
    for window, client, rate, law, shape in rows:
        own = by_client.get(client)
        each = means.get((int(window * CLIENT_WINDOW_S // TOKEN_WINDOW_S), client), np.mean(own) if own else fallback)
        if bursty_seed is None:
            per_window[window] += rate * float(each)
        else:
            times = _arrivals(draw, rate=rate, law=law, shape=float(shape or 1.0))
            index = ((window * CLIENT_WINDOW_S + times) / STEP_S).astype(np.int64)
            np.add.at(drawn, index[index < steps], float(each) / STEP_S)
    name = clients.name.partition(".clients")[0]
    if bursty_seed is not None:
        return Trace(f"{name} bursty", drawn)
    middles = (np.arange(windows) + 0.5) * CLIENT_WINDOW_S
    return Trace(name, np.interp((np.arange(steps) + 0.5) * STEP_S, middles, per_window))


def _arrivals(draw: np.random.Generator, *, rate: float, law: str, shape: float) -> FloatArray:
    """Arrival times of one client in one window, from the fitted law scaled to the window's rate."""
    count = int(rate * CLIENT_WINDOW_S * 2.0) + 16
    shape = min(max(shape, 0.05), 50.0)
    gaps = draw.weibull(shape, count) if law == "Weibull" else draw.gamma(shape, 1.0, count)
    times = np.cumsum(gaps)
    wanted = max(1, round(rate * CLIENT_WINDOW_S))
    # The window's number of requests is a fact; the law only says how they stray inside it.
    times *= CLIENT_WINDOW_S / times[min(wanted, count - 1)]
    return times[times < CLIENT_WINDOW_S]


def azure(path: Path) -> Trace:
    """Azure: `TIMESTAMP,ContextTokens,GeneratedTokens`, one row a request."""
    moments, work = [], []
    for row in _rows(path):
        whole, _, digits = row["TIMESTAMP"].partition(".")
        moments.append(datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{digits or 0}"))
        work.append(float(row["ContextTokens"]) + OUTPUT_WEIGHT * float(row["GeneratedTokens"]))
    if not moments:
        raise TraceError(f"{path.name} holds no rows: columns TIMESTAMP, ContextTokens, GeneratedTokens are needed")
    return _requests(path.name.partition(".")[0], np.array(moments), np.array(work))


def mooncake(path: Path) -> Trace:
    """Mooncake: one JSON object a line with `timestamp` (ms), `input_length`, `output_length`."""
    requests = [json.loads(line) for line in _text(path).splitlines() if line.strip()]
    moments = np.array([float(one["timestamp"]) / 1000.0 for one in requests])
    work = np.array([one["input_length"] + OUTPUT_WEIGHT * one["output_length"] for one in requests])
    return _requests(path.name.partition(".")[0], moments, work)


def _requests(name: str, moments: FloatArray, work: FloatArray) -> Trace:
    moments = moments - moments.min()
    # The last step is partial: it would look like a fall of the load.
    steps = _steps(max(STEP_S, float(moments.max()) // STEP_S * STEP_S), name=name)
    index = (moments / STEP_S).astype(np.int64)
    inside = index < steps
    return Trace(name, np.bincount(index[inside], weights=work[inside], minlength=steps) / STEP_S)


def burstgpt(path: Path) -> Trace:
    """BurstGPT: `minute,total_tokens_per_s`; missing minutes are zero."""
    rows = [(int(row["minute"]), float(row["total_tokens_per_s"])) for row in _rows(path)]
    if not rows:
        raise TraceError(f"{path.name} holds no rows: columns minute, total_tokens_per_s are needed")
    minutes = np.zeros(max(minute for minute, _ in rows) + 1)
    for minute, rate in rows:
        minutes[minute] = rate
    _steps(len(minutes) * 60.0, name=path.name)
    return Trace(path.name.partition(".")[0], np.repeat(minutes, round(60.0 / STEP_S)))


def load_csv(path: Path) -> Trace:
    """LOAD.csv: `time_s,work`, equal steps of 5 s."""
    rows = [(float(row["time_s"]), float(row["work"])) for row in _rows(path)]
    if len(rows) < 2 or abs(rows[1][0] - rows[0][0] - STEP_S) > 1e-6:
        raise TraceError(f"{path.name}: columns time_s, work on equal steps of {STEP_S:g} s are needed")
    return Trace(path.name.partition(".")[0], np.array([work for _, work in rows]))


def folder(path: Path, *, bursty_seed: int | None = None) -> list[Trace]:
    """All loads below a folder, known by their file names; with a seed, some also with drawn arrivals."""
    found: list[Trace] = []
    for clients in sorted(path.rglob("*.clients*.csv*")):
        tokens = clients.with_name(clients.name.replace(".clients", ".tokens"))
        found.append(servegen(clients, tokens))
    if bursty_seed is not None:
        for name in BURSTY:
            for clients in sorted(path.rglob(f"{name}.clients*.csv*")):
                tokens = clients.with_name(clients.name.replace(".clients", ".tokens"))
                found.append(servegen(clients, tokens, bursty_seed=bursty_seed))
    found += [azure(file) for file in sorted(path.rglob("AzureLLMInferenceTrace*.csv*"))]
    found += [mooncake(file) for file in sorted(path.rglob("*_trace*.jsonl*"))]
    found += [burstgpt(file) for file in sorted(path.rglob("burstgpt*_minute*.csv*"))]
    found += [load_csv(file) for file in sorted(path.rglob("*.load.csv*"))]
    if not found:
        raise TraceError(f"no trace known by its name below {path}")
    return found
