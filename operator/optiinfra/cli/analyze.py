"""`optiinfra analyze engine PAGES`: what limits an engine and what to change, from recorded pages, without a cluster.

It runs the operator's own code over the pages in the order of their times. A page that cannot be read is told and
skipped; only an archive without any readable page is an error (exit status 2). Nothing is written and nothing sent.
"""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import click

from optiinfra.api.duration import parse_duration
from optiinfra.api.errors import InvalidValue
from optiinfra.cli import analyze_advice, analyze_around, analyze_pages, analyze_report
from optiinfra.cli.analyze_around import Around
from optiinfra.cli.analyze_pages import PagesError, RecordedPage
from optiinfra.cli.analyze_report import Entry, Report
from optiinfra.cli.analyze_series import Judged, Series
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.objectives import NOT_PROMISED, Objectives
from optiinfra.domain.readings import EngineReading, Unknown, UnknownReason
from optiinfra.domain.surroundings_readings import SurroundingsReading
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import ContainerFacts
from optiinfra.engines import page
from optiinfra.engines import settings as engine_settings
from optiinfra.engines.errors import PageError

_NOT_TOLD = Unknown(UnknownReason.NOT_CONFIGURED)


class UnreadableError(click.ClickException):
    """Nothing that can be analysed; exit status 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print one line."""
        click.echo(f"optiinfra: {self.message}", file=sys.stderr if file is None else file)


class Duration(click.ParamType[Seconds]):
    """A length of time: `90s`, `1h30m`, or a number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Seconds:
        """Return seconds, above zero."""
        text = str(value)
        try:
            seconds = Seconds(float(text)) if text.replace(".", "", 1).isdigit() else parse_duration(text)
        except InvalidValue as error:
            self.fail(str(error), param, ctx)
        if not 0.0 < seconds <= 86400.0:
            self.fail(f"{text} is not above 0 and at most a day", param, ctx)
        return seconds


@dataclass(frozen=True, slots=True)
class Options:
    """What somebody says about the pages."""

    interval: Seconds | None = None
    window: Seconds | None = None
    gpu_model: str = ""
    model: str = ""
    arguments: str = ""
    time_to_first_token: Seconds | None = None
    """As promised; None where nobody did."""
    inter_token_latency: Seconds | None = None

    @property
    def promised(self) -> Objectives:
        """Objectives in which what nobody promised binds nothing."""
        return replace(
            Objectives(),
            time_to_first_token_p95=self.time_to_first_token or NOT_PROMISED,
            inter_token_latency_p95=self.inter_token_latency or NOT_PROMISED,
        )

    @property
    def anything_promised(self) -> bool:
        """Whether there is any objective."""
        return self.time_to_first_token is not None or self.inter_token_latency is not None


@click.group()
def analyze() -> None:
    """Judge recorded data once, without a cluster."""


@analyze.command()
@click.argument("pages", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--interval", type=Duration(), help="Time between pages, where their own times are equal.")
@click.option("--window", type=Duration(), help="Length of the window a verdict rests on (default: six pages).")
@click.option("--gpu-model", default="", help="Name of the GPU, for example 'NVIDIA H100 80GB HBM3'.")
@click.option("--model", default="", help="Name of the model, for example meta-llama/Llama-3.1-8B-Instruct.")
@click.option("--arguments", default="", help="The engine's command line: 'vllm serve ... --max-num-seqs 8'.")
@click.option("--objective-ttft", type=Duration(), help="Promised time to first token (p95).")
@click.option("--objective-itl", type=Duration(), help="Promised time between tokens (p95), for example 100ms.")
def engine(
    *,
    pages: Path,
    as_json: bool,
    interval: Seconds | None,
    window: Seconds | None,
    gpu_model: str,
    model: str,
    arguments: str,
    objective_ttft: Seconds | None,
    objective_itl: Seconds | None,
) -> None:
    """Say of each recorded metrics PAGE what limits the engine, and at the end which setting to change.

    PAGES is a tar archive (plain or gzip), a folder, or one page. Folders inside name replicas; GPU pages (DCGM
    exporter, OptiInfra's agent) are told by what they hold.
    """
    options = Options(
        interval=interval,
        window=window,
        gpu_model=gpu_model,
        model=model,
        arguments=arguments,
        time_to_first_token=objective_ttft,
        inter_token_latency=objective_itl,
    )
    try:
        report = analyse(pages, options)
    except PagesError as error:
        raise UnreadableError(str(error)) from error
    click.echo(
        json.dumps(analyze_report.as_json(report), allow_nan=False) if as_json else analyze_report.as_text(report)
    )


def analyse(path: Path, options: Options) -> Report:
    """Read, judge and advise.

    Raises:
        PagesError: there is no page that can be read.
    """
    began = time.process_time()
    told = sorted(_read(path), key=lambda one: analyze_pages.natural(one.name))
    beside = [one for one in told if one.around is not None]
    told = [one for one in told if one.reading is not None or one.around is None]
    good = [one for one in told if one.reading is not None]
    if not good:
        why = next((f"{one.name}: {one.problem}" for one in told), "it is empty")
        raise PagesError(f"{path}: no page that can be read ({why})")
    times, clock = analyze_pages.clock(
        [one.name for one in good], [one.time for one in good], interval=options.interval
    )
    good = [_timed(one, at) for one, at in zip(good, times, strict=True)]
    if clock != "modified":
        times = analyze_pages.counted([one.name for one in beside], interval=options.interval)
        beside = [_timed(one, at) for one, at in zip(beside, times, strict=True)]
    series = Series(
        interval=_spacing(good),
        settings=settings_reader(options.arguments),
        # Where nobody promised anything, the built-in objectives are asked, and only believed where more confirms.
        objectives=options.promised if options.anything_promised else Objectives(),
        promised=options.anything_promised,
        window=options.window,
    )
    around = Around(((one.replica, one.around) for one in beside if one.around is not None), window=series.span)
    judged: dict[str, Judged] = {}
    readings: list[tuple[str, EngineReading]] = []
    for one in sorted(good, key=lambda one: (one.time, analyze_pages.natural(one.name))):
        assert one.reading is not None
        series.add(one.replica, one.reading)
        readings.append((one.replica, one.reading))
        judged[one.name] = series.judge(now=one.time, surroundings=around.at(one.time))
    ordered = sorted(judged.values(), key=lambda one: one.time)
    advice = analyze_advice.advise(
        ordered,
        series,
        readings,
        objectives=options.promised,
        gpu_name=options.gpu_model or next((one.gpu_name for one in beside if one.gpu_name), ""),
        model_name=options.model,
    )
    known = {one.name: one.time for one in good}
    entries = [Entry(one.name, known.get(one.name, one.time), judged.get(one.name), one.problem) for one in told]
    return Report(
        entries, advice, clock, len(beside), (time.process_time() - began) / len(told), told_objectives(options)
    )


def told_objectives(options: Options) -> dict[str, float | None]:
    """Return what was promised, for the report."""
    return {
        "time_to_first_token_p95": options.time_to_first_token,
        "inter_token_latency_p95": options.inter_token_latency,
    }


def settings_reader(arguments: str) -> Callable[[EngineReading], EngineSettings]:
    """Return what reads an engine's settings, from the command line that was given and from its page.

    Raises:
        click.UsageError: the command line cannot be taken apart.
    """
    try:
        words = shlex.split(arguments)
    except ValueError as error:
        raise click.UsageError(f"--arguments: {error}; quote it as for a shell") from error
    environment: dict[str, str] = {}
    while words and "=" in words[0] and words[0].partition("=")[0].isidentifier():
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    containers: tuple[ContainerFacts, ...] = ()
    if words or environment:
        containers = (
            ContainerFacts(
                "engine",
                _NOT_TOLD,
                _NOT_TOLD,
                _NOT_TOLD,
                _NOT_TOLD,
                0.0,
                arguments=tuple(words),
                environment=environment,
            ),
        )

    def read(reading: EngineReading) -> EngineSettings:
        return engine_settings.read(containers, reading)

    return read


@dataclass(frozen=True, slots=True)
class _Told:
    """One member after it was read."""

    name: str
    replica: str
    time: UnixTime
    reading: EngineReading | None
    """What an engine says on it."""
    around: SurroundingsReading | None = None
    """What it says of GPUs and nodes."""
    gpu_name: str = ""
    problem: str = ""


def _read(path: Path) -> Iterator[_Told]:
    """Read member by member, so that no more than one page is held as text."""
    for member in analyze_pages.read(path):
        yield _told(member)


def _told(member: RecordedPage) -> _Told:
    if member.problem:
        return _Told(member.name, member.replica, member.time, None, problem=member.problem)
    try:
        reading = page.read(member.content, at=member.time)
    except PageError as error:
        around = analyze_around.read(member.content, at=member.time)
        problem = "" if around is not None else str(error)
        name = "" if around is None else analyze_around.gpu_name(member.content)
        return _Told(member.name, member.replica, member.time, None, around, name, problem)
    around = analyze_around.read_guest(member.content, at=member.time)
    name = "" if around is None else analyze_around.gpu_name(member.content)
    return _Told(member.name, member.replica, member.time, reading, around, name)


def _timed(one: _Told, at: UnixTime) -> _Told:
    if at == one.time:
        return one
    reading = None if one.reading is None else replace(one.reading, time=at)
    return replace(one, time=at, reading=reading, around=None if one.around is None else replace(one.around, time=at))


def _spacing(pages: list[_Told]) -> Seconds:
    """Return the usual time between two pages of one replica, of the replica that has most."""
    by_replica: dict[str, list[UnixTime]] = {}
    for one in pages:
        by_replica.setdefault(one.replica, []).append(one.time)
    return analyze_pages.spacing(max(by_replica.values(), key=len))
