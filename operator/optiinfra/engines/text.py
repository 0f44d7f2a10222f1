"""A parser of the Prometheus text format that reads only what it is asked for.

An engine's page has some six hundred lines, of which about a hundred matter; prometheus_client's parser builds
objects for all of them. This one looks the name of a line up in a dictionary and goes on. It relies on sample names
alone: the TYPE lines are not trusted (TGI documents histograms and exposes summaries), and a name that was not asked
for, like `*_created`, is never seen.

It refuses what would mislead: a line of a wanted family that cannot be read (`PageError`), and a last line without
its line feed, because a value that was cut short is a wrong value. It takes no decision about NaN: callers do.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from optiinfra.engines.errors import PageError

MAX_BYTES = 8 * 1024 * 1024
MAX_LINES = 200_000
MAX_SAMPLES = 50_000
"""Samples of wanted families on one page. Real pages have about a hundred."""

Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Label names and values, sorted by name."""

_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"([^"\\]*(?:\\.[^"\\]*)*)"\s*(?:,|$)')
_BLOCK = re.compile(r'(?:[^"}]*"[^"\\]*(?:\\.[^"\\]*)*")*[^"}]*\}')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "\\": "\\", '"': '"'}


class Part(IntEnum):
    """What a sample is within its family."""

    VALUE = 0
    BUCKET = 1
    SUM = 2
    COUNT = 3


@dataclass(slots=True)
class HistogramSamples:
    """One series of a histogram, as its samples came in."""

    buckets: list[tuple[float, float]] = field(default_factory=list)
    total: float | None = None
    count: float | None = None
    bounds: tuple[float, ...] = ()
    """In rising order, ending with infinity, where that is known beforehand; `counts` then stands for `buckets`."""
    counts: tuple[float, ...] = ()


@dataclass(slots=True)
class Samples:
    """The samples of the wanted families, by family name and label set."""

    values: dict[str, dict[Labels, float]] = field(default_factory=dict)
    histograms: dict[str, dict[Labels, HistogramSamples]] = field(default_factory=dict)


Wanted: TypeAlias = Mapping[str, tuple[str, Part]]
"""Sample name -> (family name, part)."""


def wanted(*, values: Iterable[str], histograms: Iterable[str]) -> dict[str, tuple[str, Part]]:
    """Build the look-up table from family names."""
    table: dict[str, tuple[str, Part]] = {name: (name, Part.VALUE) for name in values}
    for name in histograms:
        table[f"{name}_bucket"] = (name, Part.BUCKET)
        table[f"{name}_sum"] = (name, Part.SUM)
        table[f"{name}_count"] = (name, Part.COUNT)
    return table


def decode(page: bytes) -> str:
    """Return the page as text within the bounds, or say why it is none."""
    if len(page) > MAX_BYTES:
        raise PageError(f"page of {len(page)} bytes, more than {MAX_BYTES}")
    if not page.strip():
        raise PageError("empty page")
    try:
        text = page.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PageError("not text (UTF-8)") from None
    if "\0" in text:
        raise PageError("not text (it holds NUL characters)")
    start = text[:256].lstrip()
    if start.startswith("<"):
        raise PageError("HTML or XML instead of metrics; check spec.engine.path and port")
    if start.startswith(("{", "[")):
        raise PageError("JSON instead of metrics; check spec.engine.path and port")
    if text.count("\n") > MAX_LINES:
        raise PageError(f"page of more than {MAX_LINES} lines")
    return text


@dataclass(frozen=True, slots=True)
class Place:
    """Where a wanted sample stands on a page whose lines differ from another's in their values only."""

    line: int
    family: str
    part: Part
    labels: Labels
    bound: float = math.nan


def places(text: str, table: Wanted) -> tuple[Place, ...] | None:
    """Return where the wanted samples of a readable page stand; None where values are not each line's last word.

    A line with a timestamp or an exemplar ends with something else than its value.
    """
    found: list[Place] = []
    for index, line in enumerate(text.split("\n")):
        name, brace, rest = line.partition("{")
        known = table.get(name)
        if known is None:
            known, brace, rest = _uncommon(line, name, brace, rest, table)
            if known is None:
                continue
        family, part = known
        pieces, value = _pieces(rest, family) if brace else ([""], rest)
        head, _, last = line.rpartition(" ")
        if value.strip() != last.strip() or (brace and not head.endswith("}")):
            return None
        bound = math.nan
        if part is Part.BUCKET:
            text_of_bound, pieces = _take_bound(pieces, family)
            bound = float(text_of_bound)
        found.append(Place(index, family, part, _labels(pieces), bound))
    return tuple(found)


def parse(text: str, table: Wanted) -> Samples:
    """Read the wanted samples of a page."""
    lines = text.split("\n")
    _refuse_cut_line(lines.pop(), table)
    samples = Samples()
    shapes: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    taken = 0
    look_up = table.get
    for line in lines:
        name, brace, rest = line.partition("{")
        found = look_up(name)
        if found is None:
            # Most lines end here: comments, and families nobody asked for, written without blanks as all engines do.
            if line[:1] == "#" or (brace and name[:1] > " " and name[-1:] > " "):
                continue
            found, brace, rest = _uncommon(line, name, brace, rest, table)
            if found is None:
                continue
        taken += 1
        if taken > MAX_SAMPLES:
            raise PageError(f"more than {MAX_SAMPLES} samples of the engine's families")
        family, part = found
        if part is Part.BUCKET:
            _read_bucket(samples, shapes, family, rest)
            continue
        pieces, value_text = _pieces(rest, family) if brace else ([""], rest)
        value = _number(value_text, family)
        if part is Part.VALUE:
            samples.values.setdefault(family, {})[_labels(pieces)] = value
        elif part is Part.SUM:
            _histogram(samples, family, pieces).total = value
        else:
            _histogram(samples, family, pieces).count = value
    return samples


def samples_of(series: Iterable[tuple[str, Labels, float]], table: Wanted) -> Samples:
    """Put the wanted samples of one scrape together that were read elsewhere: (sample name, labels, value).

    Raises `PageError` for more samples than a page may have, and for a bucket without a bound.
    """
    samples = Samples()
    taken = 0
    for name, labels, value in series:
        found = table.get(name)
        if found is None:
            continue
        taken += 1
        if taken > MAX_SAMPLES:
            raise PageError(f"more than {MAX_SAMPLES} samples of the engine's families")
        family, part = found
        if part is Part.VALUE:
            samples.values.setdefault(family, {})[labels] = value
            continue
        others = tuple(pair for pair in labels if pair[0] != "le") if part is Part.BUCKET else labels
        histogram = samples.histograms.setdefault(family, {}).setdefault(others, HistogramSamples())
        if part is Part.SUM:
            histogram.total = value
        elif part is Part.COUNT:
            histogram.count = value
        else:
            histogram.buckets.append((_bound(labels, family), value))
    return samples


def _bound(labels: Labels, family: str) -> float:
    text = next((value for name, value in labels if name == "le"), "")
    try:
        return float(text)
    except ValueError:
        raise PageError(f"a bucket of {family} has the bound {text[:20]!r}") from None


def _read_bucket(
    samples: Samples, shapes: dict[tuple[str, str, str], list[tuple[float, float]]], family: str, rest: str
) -> None:
    """Read one bucket. Most lines of a page are buckets, and of one series all are alike but for bound and count.

    The first line of a shape (what stands before and behind the bound) is taken apart with care; if the quick cut
    agrees with it, it is right for every line of that shape, since neither bound nor count holds a quote.
    """
    start = rest.find('le="') + 4
    end = rest.find('"', start)
    closing = rest.find("}", end)
    shape = (family, rest[:start], rest[end:closing])
    buckets = shapes.get(shape)
    bound, value_text = rest[start:end], rest[closing + 1 :]
    if buckets is None:
        pieces, careful_value = _pieces(rest, family)
        careful_bound, others = _take_bound(pieces, family)
        buckets = _histogram(samples, family, others).buckets
        if (careful_bound, careful_value) == (bound, value_text):
            shapes[shape] = buckets
        bound, value_text = careful_bound, careful_value
    try:
        buckets.append((float(bound), _number(value_text, family)))
    except ValueError:
        raise PageError(f"a bucket of {family} has the bound {bound[:20]!r}") from None


def _number(text: str, family: str) -> float:
    try:
        return float(text)
    except ValueError:
        # A timestamp or an exemplar may follow.
        words = text.split(None, 1)
    try:
        return float(words[0])
    except (ValueError, IndexError):
        raise PageError(f"a line of {family} has no number") from None


def _refuse_cut_line(line: str, table: Wanted) -> None:
    name = line.partition("{")[0].split(None, 1)
    if name and name[0] in table:
        raise PageError("page is cut short: its last line has no line feed")


def _uncommon(line: str, name: str, brace: str, rest: str, table: Wanted) -> tuple[tuple[str, Part] | None, str, str]:
    """Look a line up that has no labels, or blanks around its name."""
    if brace:
        stripped = name.strip()
        return (table.get(stripped) if stripped != name else None), brace, rest
    words = line.split(None, 1)
    if not words:
        return None, "", ""
    return table.get(words[0]), "", words[1] if len(words) > 1 else ""


def _pieces(rest: str, family: str) -> tuple[list[str], str]:
    """Split what follows the opening brace into label pieces and the value's text.

    Pieces alternate between `name=` (with a comma in front) and value. Where no backslash occurs, the quotes of a
    valid label set are exactly the ones that delimit values, so splitting at them is enough. An exemplar may hold
    further braces behind the value, and a label value may hold one before it.
    """
    end = rest.find("}")
    if "\\" not in rest and end >= 0 and rest.find('"', end) < 0:
        pieces = rest[:end].split('"')
        if len(pieces) % 2:
            return pieces, rest[end + 1 :]
    block = _BLOCK.match(rest)
    if block is None:
        raise PageError(f"a line of {family} has labels that cannot be read")
    pieces = []
    for match in _LABEL.finditer(rest[: block.end() - 1]):
        pieces += (f"{match[1]}=", _ESCAPE.sub(lambda one: _ESCAPED.get(one[1], one[0]), match[2]))
    return [*pieces, ""], rest[block.end() :]


def _take_bound(pieces: list[str], family: str) -> tuple[str, list[str]]:
    for index in range(0, len(pieces) - 1, 2):
        if pieces[index].strip(" \t,=") == "le":
            return pieces[index + 1], pieces[:index] + pieces[index + 2 :]
    raise PageError(f"a bucket of {family} has no label le")


def _labels(pieces: list[str]) -> Labels:
    return tuple(sorted((pieces[index].strip(" \t,="), pieces[index + 1]) for index in range(0, len(pieces) - 1, 2)))


def _histogram(samples: Samples, family: str, pieces: list[str]) -> HistogramSamples:
    return samples.histograms.setdefault(family, {}).setdefault(_labels(pieces), HistogramSamples())
