"""One page of one engine process, read into an `EngineReading`.

The engine is recognised from the page itself, because a pod's arguments may lie (wrappers, images with an entry
point) and a page cannot. What is absent from the page, NaN or infinite stays absent; nothing is filled in.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from optiinfra.domain.readings import EngineKind, EngineReading
from optiinfra.domain.units import UnixTime
from optiinfra.engines import lmcache, nim, sglang, tgi, triton, trtllm, vllm
from optiinfra.engines.alias import Finish, Joined, Table, join
from optiinfra.engines.errors import PageError
from optiinfra.engines.layout import Layouts, read_samples
from optiinfra.engines.text import Labels, Part, Samples, Wanted, samples_of

_MAX_FACTS = 128
_MAX_FACT_LENGTH = 256
_NIM_SIGN = "num_requests_running"


@dataclass(frozen=True, slots=True)
class _Engine:
    table: Table
    finish: Finish | None
    sign: str
    """What a line of such a page starts with."""


def _engine(table: Table, finish: Finish | None, sign: str = "") -> _Engine:
    return _Engine(table, finish, sign or table.prefix)


_ENGINES = (
    _engine(vllm.TABLE, vllm.finish),
    _engine(vllm.RAY_TABLE, vllm.finish),
    _engine(vllm.RAY_SANITISED_TABLE, vllm.finish),
    _engine(sglang.TABLE, sglang.finish),
    _engine(tgi.TABLE, tgi.finish),
    _engine(trtllm.TABLE, trtllm.finish),
    _engine(trtllm.DYNAMO_TABLE, trtllm.finish),
    _engine(triton.TABLE, triton.finish),
    # Last: its names have no prefix of their own.
    _engine(nim.TABLE, None, _NIM_SIGN),
)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Who reads a page: its engine's table, and those of the guests on it."""

    engine: _Engine
    guests: tuple[Table, ...]

    @property
    def wanted(self) -> Wanted:
        """Sample names to look for."""
        wanted: dict[str, tuple[str, Part]] = dict(self.engine.table.wanted)
        for guest in self.guests:
            wanted |= guest.wanted
        return wanted


_LAYOUTS: Layouts[_Reader] = Layouts()
_FORCED: dict[EngineKind, Layouts[_Reader]] = {kind: Layouts() for kind in EngineKind}
"""Where the engine is named: a page may hold the families of several, and reads otherwise then."""


def read(page: bytes, *, at: UnixTime, kind: EngineKind | None = None) -> EngineReading:
    """Read a page scraped at a moment; `PageError` says why it cannot be.

    `kind` names the engine where somebody knows better than the page's own order of recognition (a proxy that shows
    several engines' families); its families must then be there.
    """
    layouts = _LAYOUTS if kind is None else _FORCED[kind]
    reader, samples = read_samples(page, layouts, lambda text: _reader_of(_on_page(text), kind))
    return _reading(reader, samples, at=at)


def read_series(
    series: Iterable[tuple[str, Labels, float]], *, at: UnixTime, kind: EngineKind | None = None
) -> EngineReading:
    """Read the samples of one scrape that somebody else made: (sample name, labels without the target's, value).

    It is the page's twin: the same tables, so that nothing can tell where a reading came from.
    """
    found = tuple(series)
    names = {name for name, _, _ in found}
    reader, wanted = _reader_of(lambda sign: any(name.startswith(sign) for name in names), kind)
    return _reading(reader, samples_of(found, wanted), at=at)


def tables(kind: EngineKind | None = None) -> tuple[Table, ...]:
    """Return the tables of an engine, of all without one, in the order in which pages are recognised."""
    return tuple(one.table for one in _ENGINES if kind is None or one.table.kind is kind)


def _reading(reader: _Reader, samples: Samples, *, at: UnixTime) -> EngineReading:
    table = reader.engine.table
    joined = join(samples, table)
    if reader.engine.finish is not None:
        reader.engine.finish(samples, table, joined)
    for guest in reader.guests:
        visitor = lmcache.read_guest(samples, guest)
        joined.gauges.update(visitor.gauges)
        joined.counters.update(visitor.counters)
        joined.histograms.update(visitor.histograms)
        joined.facts.update(visitor.facts)
    _refuse_nothing(samples, joined, table)
    return EngineReading(
        time=at,
        engine=table.kind,
        version=joined.version,
        model=_model(samples, table),
        gauges=joined.gauges,
        counters=joined.counters,
        histograms=joined.histograms,
        facts=_facts(tuple(joined.facts.items())),
        members=joined.members,
    )


def forget_layouts() -> None:
    """Read every page with care again until its lines have been met; what is read does not change."""
    for layouts in (_LAYOUTS, *_FORCED.values()):
        layouts.clear()


_Shows = Callable[[str], bool]
"""Whether a sample's name begins so."""


def _reader_of(shows: _Shows, kind: EngineKind | None) -> tuple[_Reader, Wanted]:
    engine = _recognise(shows, kind)
    reader = _Reader(engine, tuple(guest for guest in lmcache.GUESTS if shows(guest.prefix)))
    return reader, reader.wanted


def _recognise(shows: _Shows, kind: EngineKind | None) -> _Engine:
    for engine in _ENGINES:
        if (kind is None or engine.table.kind is kind) and shows(engine.sign):
            return engine
    if kind is not None:
        raise PageError(f"no metrics of {kind} on the page, which spec.engine.type names; correct it, or use Auto")
    if shows(lmcache.TABLE.prefix):
        raise PageError("LMCache's families without an engine's; scrape the engine's own page")
    raise PageError("no known engine's metrics on the page")


def _on_page(text: str) -> _Shows:
    return lambda sign: text.startswith(sign) or f"\n{sign}" in text


def _refuse_nothing(samples: Samples, joined: Joined, table: Table) -> None:
    if joined.gauges or joined.counters or joined.histograms:
        return
    if samples.values:
        raise PageError(f"{table.kind} page with nothing but NaN or impossible values")
    raise PageError(f"{table.kind} page with none of the known families")


@lru_cache(maxsize=512)
def _facts(facts: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """Bound the facts; one mapping for all pages of an engine, which does not change its configuration."""
    return {name[:_MAX_FACT_LENGTH]: value[:_MAX_FACT_LENGTH] for name, value in facts[:_MAX_FACTS]}


def _model(samples: Samples, table: Table) -> str:
    if not table.model_label:
        return ""
    for series in samples.values.values():
        for labels in series:
            for name, value in labels:
                if name == table.model_label and value != "None":
                    return value[:_MAX_FACT_LENGTH]
    return ""
