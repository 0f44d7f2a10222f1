"""`optiinfra replay scaling`: what would the operator have done with this load, beside plain HPAs.

The load is a file `time_s,work`, the history in a Prometheus-compatible server, or what the operator itself keeps of an
object. Work units may be any, if the capacity has the same (input tokens + 4 x output tokens in the benchmark and in
the queries that are made here). The operator's own decision code is played over it in the fluid model of
`optiinfra.domain.replay.fluid`, which docs/benchmarks.md describes well enough to rebuild: whoever simulates the
printed decisions again gets the printed figures. It is a model: latency, batches and KV caches are not in it.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from yarl import URL

from optiinfra.cli import replay_picture, replay_plot
from optiinfra.cli.replay_report import Capacity, Report
from optiinfra.cli.replay_sources import Source, SourceError, from_csv
from optiinfra.domain.readings import Unknown
from optiinfra.domain.replay.comparison import Setup, compare
from optiinfra.domain.replay.fluid import STEP_S, first_replicas
from optiinfra.domain.replay.past import Past, learned_capacity
from optiinfra.domain.scaler.pipeline import MOST_REPLICAS
from optiinfra.engines.errors import EnginesError
from optiinfra.engines.promql import service_queries

MOST_LOAD: Final = MOST_REPLICAS / 4.0
_MINUTE: Final = round(60.0 / STEP_S)
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0, None: 1.0}
_OF_PROMETHEUS: Final = (
    "query",
    "service",
    "ready_query",
    "waiting_query",
    "running_query",
    "headers",
    "token_file",
    "ca_file",
)


class Duration(click.ParamType[float]):
    """Seconds, as `180s`, `3m` or a plain number."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        found = _DURATION.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a duration: say 180s, 3m, 12h, 14d or a number of seconds", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


class Progress:
    """Bars on the error stream, where somebody looks at it; and the CPU time of the first one."""

    def __init__(self) -> None:
        self.seconds: float | None = None

    @contextmanager
    def stage(self, label: str, syncs: int) -> Iterator[Callable[[int], None]]:
        """Show one part of the work."""
        with self.bar(label, syncs) as update:

            def on_sync(sync: int) -> None:
                if sync % 100 == 99:
                    update(100)

            began = time.process_time()
            yield on_sync
            if self.seconds is None:
                self.seconds = time.process_time() - began

    @contextmanager
    def bar(self, label: str, length: int) -> Iterator[Callable[[int], None]]:
        """Show a bar of a length; nothing where nobody looks."""
        if not sys.stderr.isatty():
            yield lambda _steps: None
            return
        with click.progressbar(length=length, label=f"{label:<26}", file=sys.stderr) as shown:
            yield shown.update
            shown.update(length)


_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW_FILE: Final = click.Path(dir_okay=False, path_type=Path)


@click.command("scaling")
@click.argument("load", type=_FILE, required=False)
@click.option("--prometheus", metavar="URL", help="Read the load from this Prometheus-compatible server.")
@click.option("--query", help="PromQL that gives work per second as one series.")
@click.option(
    "--service", metavar="NAMESPACE/NAME", help="Instead of --query: the workload whose engines are asked for."
)
@click.option("--since", type=Duration(), default="7d", show_default=True, help="How far back to go.")
@click.option("--step", type=Duration(), default="15s", show_default=True, help="Between two points.")
@click.option("--ready-query", help="PromQL: replicas that serve.")
@click.option("--waiting-query", help="PromQL: requests that wait.")
@click.option("--running-query", help="PromQL: requests in service.")
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Send this header; may be repeated.")
@click.option("--token-file", type=_FILE, help="File with a bearer token.")
@click.option("--ca-file", type=_FILE, help="CA that signs the server's certificate.")
@click.option("--checkpoint", type=_FILE, help="Read the load from an OptimizationCheckpoint, as kubectl prints it.")
@click.option("--target", help="Target of the object, where it has several.")
@click.option(
    "--replica-capacity",
    type=click.FloatRange(min=0.0, min_open=True),
    help="Work per second that one replica serves at the objective; learned where the source tells enough.",
)
@click.option("--startup", type=Duration(), required=True, help="From asking for a replica until it serves, like 180s.")
@click.option("--min", "minimum", type=click.IntRange(1, MOST_REPLICAS), default=1, show_default=True)
@click.option("--max", "maximum", type=click.IntRange(1, MOST_REPLICAS), default=MOST_REPLICAS, show_default=True)
@click.option("--initial", type=click.IntRange(0, MOST_REPLICAS), help="Ready replicas at the beginning.")
@click.option("--count-from", type=Duration(), default=0.0, help="What comes before is lived through, not counted.")
@click.option("--late-after", type=Duration(), default=10.0, help="Work that waits longer is late.")
@click.option(
    "--late-share", type=click.FloatRange(1e-6, 1.0), default=0.01, help="Share of the work that may be late."
)
@click.option("--decisions", type=_NEW_FILE, help="Write time_s,replicas, a row a sync.")
@click.option("--plot", type=_NEW_FILE, help="Write the curves: a page (.html) or a picture (.png).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def scaling(
    ctx: click.Context,
    /,
    *,
    startup: float,
    minimum: int,
    maximum: int,
    initial: int | None,
    count_from: float,
    late_after: float,
    late_share: float,
    replica_capacity: float | None,
    decisions: Path | None,
    plot: Path | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Replay a load through the operator's scaling and through plain HPAs.

    The load is LOAD, a file with the columns time_s,work, or comes from --prometheus or --checkpoint.
    """
    _check(ctx, minimum=minimum, maximum=maximum, plot=plot)
    progress = Progress()
    try:
        source = _source(ctx, progress, **where)
        capacity = _capacity(source, replica_capacity)
    except (SourceError, EnginesError) as error:
        raise click.ClickException(str(error)) from error
    setup = _setup(
        source,
        capacity=capacity.value,
        start_up_s=startup,
        minimum=minimum,
        maximum=maximum,
        initial=initial,
        count_from_s=count_from,
        late_after_s=late_after,
        late_share=late_share,
    )
    report = Report(source, capacity, compare(setup, stage=progress.stage), progress.seconds or 0.0)
    _write(report, decisions=decisions, plot=plot)
    click.echo(json.dumps(report.document(), indent=1) if as_json else "\n".join(report.lines()))


def _check(ctx: click.Context, *, minimum: int, maximum: int, plot: Path | None) -> None:
    """Refuse what cannot be before anything is read."""
    given = {name for name in ctx.params if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
    sources = [name for name in ("load", "prometheus", "checkpoint") if name in given]
    if len(sources) != 1:
        raise click.UsageError("give one of LOAD, --prometheus and --checkpoint: where the load comes from")
    foreign = [name for name in (*_OF_PROMETHEUS, "since", "step") if name in given and "prometheus" not in given]
    if foreign:
        raise click.UsageError(f"{_option(foreign[0])} belongs to --prometheus")
    if "target" in given and "checkpoint" not in given:
        raise click.UsageError("--target belongs to --checkpoint")
    if "prometheus" in given and ("query" in given) == ("service" in given):
        raise click.UsageError("--prometheus needs one of --query and --service: what to ask for")
    if minimum > maximum:
        raise click.UsageError("--min is above --max: raise --max")
    if plot is None:
        return
    if plot.suffix not in {".html", ".png"}:
        raise click.UsageError("--plot writes .html or .png: name a file that ends so")
    if plot.suffix == ".png" and not replay_picture.available():
        raise click.ClickException(f"--plot {plot.name}: {replay_picture.REMEDY}")


def _option(name: str) -> str:
    return "--header" if name == "headers" else f"--{name.replace('_', '-')}"


def _source(ctx: click.Context, progress: Progress, **where: Any) -> Source:
    if where["load"] is not None:
        return from_csv(where["load"])
    if where["checkpoint"] is not None:
        # Imported here, as the other source below: each costs a second, and a file needs neither.
        from optiinfra.cli.replay_checkpoint import from_checkpoint  # noqa: PLC0415

        return from_checkpoint(where["checkpoint"], target=where["target"])
    return _of_server(ctx, progress, **where)


def _of_server(ctx: click.Context, progress: Progress, **where: Any) -> Source:
    from optiinfra.cli.replay_prometheus import Questions, from_prometheus  # noqa: PLC0415  as above
    from optiinfra.cluster.prometheus import PrometheusServer  # noqa: PLC0415  as above

    headers = []
    for header in where["headers"]:
        name, colon, value = header.partition(":")
        if not colon:
            # The text may be a secret: it is not repeated.
            raise click.UsageError("--header: write 'NAME: VALUE'", ctx)
        headers.append((name.strip(), value.strip()))
    try:
        url = URL(where["prometheus"])
    except ValueError as error:
        raise click.UsageError("--prometheus: not an address: write it like http://prometheus:9090", ctx) from error
    made = None if where["service"] is None else service_queries(where["service"])
    questions = Questions(
        work=where["query"] or (made.work if made else ""),
        ready=where["ready_query"] or (made.ready if made else ""),
        waiting=where["waiting_query"] or (made.waiting if made else ""),
        running=where["running_query"] or (made.running if made else ""),
        service=made is not None,
    )
    with progress.bar("asking the server", questions.count * (int(where["since"] / where["step"]) + 1)) as update:
        return from_prometheus(
            PrometheusServer(url, tuple(headers), where["token_file"], where["ca_file"]),
            questions,
            since=where["since"],
            step=where["step"],
            on_points=update,
        )


def _capacity(source: Source, given: float | None) -> Capacity:
    """Take what is given, else what can be learned, else the lower bound. Raises `SourceError`."""
    if given is not None:
        return Capacity(given, "given")
    past = source.past
    told = {"ready replicas": past.ready, "waiting requests": past.waiting, "running requests": past.running}
    missing = [name for name, values in told.items() if not np.isfinite(values).any()]
    if missing:
        raise SourceError(
            f"{source.name}: what a replica serves cannot be learned without {', '.join(missing)}: give "
            "--replica-capacity, or the queries for them"
        )
    learned = learned_capacity(past)
    if not isinstance(learned.value, Unknown):
        return Capacity(learned.value, "learned")
    if learned.at_least <= 0.0:
        raise SourceError(f"{source.name}: no replica was seen at work: give --replica-capacity")
    return Capacity(learned.at_least, "at least")


def _setup(source: Source, *, capacity: float, initial: int | None, count_from_s: float, **facts: Any) -> Setup:
    past: Past = source.past
    known = np.isfinite(past.work)
    load = np.where(known, past.work, 0.0)[None, :] / capacity
    if float(load.max()) > MOST_LOAD:
        text = f"{source.name}: {load.max():.0f} replicas at once; give --replica-capacity in its unit"
        raise click.ClickException(text)
    if count_from_s >= load.shape[1] * STEP_S:
        text = f"{source.name}: nothing is left to count after --count-from {count_from_s:g} s"
        raise click.ClickException(text)
    if initial is None:
        minute = load[:, :_MINUTE][:, known[:_MINUTE]]
        initial = int(first_replicas(minute, minimum=np.array([facts["minimum"]]))[0])
    begin = min(max(initial, facts["minimum"]), facts["maximum"])
    return Setup(load=load, known=known, initial=begin, count_from_s=count_from_s, **facts)


def _write(report: Report, *, decisions: Path | None, plot: Path | None) -> None:
    try:
        if decisions is not None:
            decisions.write_text(report.decisions(), encoding="utf-8")
        if plot is not None and plot.suffix == ".html":
            plot.write_text(
                replay_plot.page(report.source.name, report.done, ran=report.source.past.ready), encoding="utf-8"
            )
        elif plot is not None:
            plot.write_bytes(replay_picture.picture(report.source.name, report.done, ran=report.source.past.ready))
    except OSError as error:
        raise click.ClickException(f"{error.filename} cannot be written: {error.strerror}") from error
