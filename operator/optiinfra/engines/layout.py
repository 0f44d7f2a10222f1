"""What stays the same between the pages of one engine: everything but the values.

Two scrapes of a process have the same lines in the same order, as long as no series appears. The lines without their
last words are a fingerprint; for a page whose fingerprint was seen before it is known which lines are wanted, what
their labels are and how they join, and only the values are read. Everything is decided from text that was read with
care once: a page that differs in anything but its values (a timestamp, an exemplar, a cut line, another order) has
another fingerprint and is read with care again.

The memory is bounded in layouts and in samples: a page of 600 lines takes about 5 KiB besides what it shares with its
like. A fleet larger than that is read with care, which is slower and not different. Equal fingerprints mean equal text,
as far as BLAKE2 can tell.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Generic, TypeAlias, TypeVar

from optiinfra.engines.alias import shared
from optiinfra.engines.text import HistogramSamples, Labels, Part, Place, Samples, Wanted, decode, parse, places

MAX_BYTES: Final = 512 * 1024
"""Larger pages are not worth remembering."""
_MAX_PLACES: Final = 4096
_MAX_LAYOUTS: Final = 16_384
_MAX_SEEN: Final = 32_768

Cut: TypeAlias = list[tuple[bytes, bytes, bytes]]
"""A page's lines, each cut at its last blank."""
Reader = TypeVar("Reader")
Equal = TypeVar("Equal", bound=Hashable)


@dataclass(frozen=True, slots=True)
class _Buckets:
    labels: Labels
    bounds: tuple[float, ...]
    lines: tuple[int, ...]
    total: int
    count: int


@dataclass(frozen=True, slots=True)
class Layout(Generic[Reader]):
    """Where the wanted samples stand, and who reads them."""

    reader: Reader
    values: tuple[tuple[str, tuple[tuple[Labels, int], ...]], ...]
    histograms: tuple[tuple[str, tuple[_Buckets, ...]], ...]

    def samples(self, cut: Cut) -> Samples:
        """Read the values. ValueError where one is no number: the page is then to be read with care."""
        values = {family: {labels: float(cut[line][2]) for labels, line in slots} for family, slots in self.values}
        histograms = {
            family: {
                one.labels: HistogramSamples(
                    total=float(cut[one.total][2]),
                    count=float(cut[one.count][2]),
                    bounds=one.bounds,
                    counts=tuple([float(cut[line][2]) for line in one.lines]),
                )
                for one in series
            }
            for family, series in self.histograms
        }
        return Samples(values, histograms)


def cut_lines(page: bytes) -> tuple[Cut, bytes]:
    """Cut every line at its last blank, and return the fingerprint of what stands before."""
    cut = [line.rpartition(b" ") for line in page.split(b"\n")]
    return cut, hashlib.blake2b(b"\n".join([head for head, _, _ in cut]), digest_size=16).digest()


def build(reader: Reader, places: tuple[Place, ...]) -> Layout[Reader] | None:
    """Put a layout together; None where a histogram is not whole or a sample stands there twice."""
    if len(places) > _MAX_PLACES:
        return None
    values: dict[str, dict[Labels, int]] = {}
    series: dict[tuple[str, Labels], dict[Part, int]] = {}
    buckets: dict[tuple[str, Labels], dict[float, int]] = {}
    for place in places:
        if place.part is Part.VALUE:
            slots = values.setdefault(place.family, {})
            if place.labels in slots:
                return None
            slots[tuple(map(_one, place.labels))] = place.line
            continue
        key = (place.family, place.labels)
        if place.part is Part.BUCKET:
            lines = buckets.setdefault(key, {})
            if place.bound in lines or math.isnan(place.bound):
                return None
            lines[place.bound] = place.line
            continue
        ends = series.setdefault(key, {})
        if place.part in ends:
            return None
        ends[place.part] = place.line
    histograms: dict[str, list[_Buckets]] = {}
    for key in buckets.keys() | series.keys():
        lines, ends = buckets.get(key, {}), series.get(key, {})
        bounds = tuple(sorted(lines))
        if not bounds or bounds[-1] != math.inf or len(ends) != 2:
            return None
        one = _Buckets(
            key[1], shared(bounds), tuple(lines[bound] for bound in bounds), ends[Part.SUM], ends[Part.COUNT]
        )
        histograms.setdefault(key[0], []).append(one)
    return Layout(
        reader,
        tuple(_one((family, tuple(slots.items()))) for family, slots in values.items()),
        _one(tuple((family, tuple(parts)) for family, parts in sorted(histograms.items()))),
    )


@lru_cache(maxsize=4096)
def _one(part: Equal) -> Equal:
    """Return the one object for all equal ones: replicas of a model differ in a label of their configuration only."""
    return part


@dataclass(slots=True)
class Layouts(Generic[Reader]):
    """The layouts seen lately, the least recently used one first."""

    _known: OrderedDict[bytes, Layout[Reader]] = field(default_factory=OrderedDict)
    _seen: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    """Fingerprints seen once: a page that never comes again is not worth a layout."""

    def get(self, fingerprint: bytes) -> Layout[Reader] | None:
        """Return the layout of a fingerprint."""
        layout = self._known.get(fingerprint)
        if layout is not None:
            self._known.move_to_end(fingerprint)
        return layout

    def comes_again(self, fingerprint: bytes) -> bool:
        """Tell whether this fingerprint was seen before, and remember it."""
        if fingerprint in self._seen:
            return True
        self._seen[fingerprint] = None
        if len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
        return False

    def keep(self, fingerprint: bytes, layout: Layout[Reader]) -> None:
        """Remember a layout."""
        self._seen.pop(fingerprint, None)
        self._known[fingerprint] = layout
        if len(self._known) > _MAX_LAYOUTS:
            self._known.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()
        self._seen.clear()


def read_samples(
    page: bytes, layouts: Layouts[Reader], recognise: Callable[[str], tuple[Reader, Wanted]]
) -> tuple[Reader, Samples]:
    """Read the wanted samples: by the layout of the page where it is known, else with care.

    `recognise` says from a page's text who reads it and what they want. PageError where the page cannot be read.
    """
    if len(page) > MAX_BYTES:
        reader, _, samples = _with_care(page, recognise)
        return reader, samples
    cut, fingerprint = cut_lines(page)
    layout = layouts.get(fingerprint)
    if layout is not None:
        try:
            return layout.reader, layout.samples(cut)
        except ValueError:
            # Something that is no number stands where a value was: said with care below.
            reader, _, samples = _with_care(page, recognise)
            return reader, samples
    reader, found, samples = _with_care(page, recognise)
    if layouts.comes_again(fingerprint):
        where = places(decode(page), found)
        layout = None if where is None else build(reader, where)
        if layout is not None:
            layouts.keep(fingerprint, layout)
    return reader, samples


def _with_care(page: bytes, recognise: Callable[[str], tuple[Reader, Wanted]]) -> tuple[Reader, Wanted, Samples]:
    text = decode(page)
    reader, found = recognise(text)
    return reader, found, parse(text, found)
