"""Requests for the second judge: arrival, prompt and answer of each, out of the trace files.

Azure and Mooncake name every request; what has to be drawn is in `scaling_judge_drawn`. A load is brought to size by
keeping or copying whole requests; lengths are never scaled, because a request half as long is another request. It
refuses to invent what a file does not hold without saying so in `note`.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.traces import OUTPUT_WEIGHT, TraceError
from optiinfra.domain.replay.fluid import STEP_S, FloatArray, IntArray
from optiinfra_sim.blocks import Content

COPY_SPREAD_S = 2.0
"""Copies of a request follow it within this time."""
BLOCK_TOKENS = 512
"""Tokens of one of Mooncake's hashes."""
MOST_REQUESTS = 8_000_000
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests in order of arrival; arrays are (requests,)."""

    name: str
    at: FloatArray
    """Seconds since the beginning."""
    prompt: IntArray
    output: IntArray
    length_s: float
    note: str = ""
    """What is drawn or assumed."""
    content: tuple[tuple[int, ...], ...] = ()
    """Hashes of the prompt's blocks by original request; empty where the file does not say."""
    origin: IntArray | None = None
    """(requests,): index into `content`; None where there is none."""
    copy: IntArray | None = None
    """(requests,): which copy of its original it is: copies are of other users and share no cache."""

    def __len__(self) -> int:
        return len(self.at)

    @property
    def work(self) -> FloatArray:
        """Work of each request: prompt + 4 x answer."""
        work: FloatArray = self.prompt + OUTPUT_WEIGHT * self.output
        return work

    def load(self) -> FloatArray:
        """Work offered per second on steps of 5 s."""
        steps = round(self.length_s / STEP_S)
        index = np.minimum((self.at / STEP_S).astype(np.int64), steps - 1)
        return np.bincount(index, weights=self.work, minlength=steps) / STEP_S

    def content_of(self, index: int) -> Content:
        """What the prompt consists of, for the simulated prefix cache."""
        if self.origin is None or self.copy is None:
            return ()
        hashes = self.content[self.origin[index]]
        shift = (int(self.copy[index]) + 1) << 40
        return tuple((shift + one, BLOCK_TOKENS) for one in hashes)

    def picked(self, rows: Bools | IntArray) -> "Requests":
        """Some of the requests."""
        return replace(
            self,
            at=self.at[rows],
            prompt=self.prompt[rows],
            output=self.output[rows],
            origin=None if self.origin is None else self.origin[rows],
            copy=None if self.copy is None else self.copy[rows],
        )

    def between(self, begin_s: float, end_s: float) -> "Requests":
        """Those of a span, which becomes the new beginning."""
        span = self.picked((self.at >= begin_s) & (self.at < end_s))
        return replace(span, at=span.at - begin_s, length_s=end_s - begin_s)

    def within(self, context: int) -> "Requests":
        """Without those longer than an engine's context, which a real one answers with 400."""
        fits = self.prompt + self.output <= context
        left_out = int((~fits).sum())
        if not left_out:
            return self
        note = f"{left_out / len(self):.2%} of the requests are longer than {context} tokens and left out"
        return replace(self.picked(fits), note="; ".join(filter(None, (self.note, note))))

    def times(self, factor: float, *, seed: int) -> "Requests":
        """Keep or copy each request so that there are `factor` times as many on average."""
        draw = np.random.default_rng(seed)
        copies = int(factor) + (draw.random(len(self)) < factor - int(factor))
        index = np.repeat(np.arange(len(self)), copies)
        if len(index) > MOST_REQUESTS:
            raise TraceError(f"{self.name}: {len(index)} requests, more than {MOST_REQUESTS}: judge a shorter span")
        first = np.concatenate([[0], np.cumsum(copies)[:-1]])
        number = np.arange(len(index)) - np.repeat(first, copies)
        at = self.at[index] + np.where(number > 0, draw.uniform(0.0, COPY_SPREAD_S, len(index)), 0.0)
        at = np.minimum(at, np.nextafter(self.length_s, 0.0))
        grown = replace(self.picked(index), at=at, copy=number if self.content else None)
        return grown.picked(np.argsort(at, kind="stable"))


def text_of(path: Path) -> str:
    """Unpack a whole file; trace files are a few megabytes."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceError(f"{path.name} cannot be read: {error}") from error


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a CSV file by column."""
    return csv.DictReader(io.StringIO(text_of(path)))


def _sorted(
    name: str, moments: FloatArray, prompt: IntArray, output: IntArray, *, content: tuple[tuple[int, ...], ...] = ()
) -> Requests:
    if not len(moments):
        raise TraceError(f"{name} holds no requests")
    order = np.argsort(moments, kind="stable")
    at = moments[order] - moments.min()
    # Whole steps: a partial last one would look like a fall of the load.
    length = max(STEP_S, float(at.max()) // STEP_S * STEP_S)
    found = Requests(name, at, np.maximum(prompt[order], 1), np.maximum(output[order], 1), length)
    if content:
        found = replace(found, content=content, origin=order, copy=np.zeros(len(order), dtype=np.int64))
    return found.picked(at < length)


def azure(path: Path) -> Requests:
    """Azure: `TIMESTAMP,ContextTokens,GeneratedTokens`, one row a request."""
    moments, prompt, output = [], [], []
    for row in rows_of(path):
        whole, _, digits = row["TIMESTAMP"].partition(".")
        moments.append(datetime.fromisoformat(whole + "+00:00").timestamp() + float(f"0.{digits or 0}"))
        prompt.append(int(row["ContextTokens"]))
        output.append(int(row["GeneratedTokens"]))
    return _sorted(path.name.partition(".")[0], np.array(moments), np.array(prompt), np.array(output))


def mooncake(path: Path) -> Requests:
    """Mooncake: one JSON object a line, with the hashes of the prompt's blocks of 512 tokens."""
    found = [json.loads(line) for line in text_of(path).splitlines() if line.strip()]
    return _sorted(
        path.name.partition(".")[0],
        np.array([float(one["timestamp"]) / 1000.0 for one in found]),
        np.array([int(one["input_length"]) for one in found]),
        np.array([int(one["output_length"]) for one in found]),
        content=tuple(tuple(int(key) for key in one.get("hash_ids", ())) for one in found),
    )
