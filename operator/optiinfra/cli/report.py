"""`optiinfra report`: what would I save, from the Prometheus that I have; nothing is installed and nothing is changed.

It reads, judges and writes. The reading is in `report_reading`, every judgment in `optiinfra.domain.report`, and one
module a format writes. Exit codes are for CI: 0 done, 1 an error with its remedy, 2 wrong use, 3 the savings are above
--fail-above, 4 they cannot be told because something has no price.
"""

import asyncio
import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from yarl import URL

from optiinfra.cli import report_csv, report_html, report_json, report_markdown, report_table
from optiinfra.cli.replay_scaling import Duration
from optiinfra.cli.report_files import can_write, write_patches, write_report
from optiinfra.cli.report_prices import prices_of
from optiinfra.cli.report_reading import Read, Wanted, play_all, read
from optiinfra.cli.report_words import clean, headline
from optiinfra.cluster import prometheus_cache
from optiinfra.cluster.prometheus_ask import (
    CALL_LIMITS,
    PieceCache,
    PrometheusServer,
    parse_matcher,
)
from optiinfra.cluster.prometheus_ask import Progress as Reading
from optiinfra.cluster.prometheus_plan import DEFAULT_ASK_LIMITS
from optiinfra.domain.list_prices import CURRENCY
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown
from optiinfra.domain.report.making import Made, Told, compose, prepare
from optiinfra.domain.report.options import START_UP_S, Options
from optiinfra.domain.report.report import Report
from optiinfra.domain.units import Ratio, Seconds, UnixTime
from optiinfra.engines.errors import EnginesError
from optiinfra.engines.promql import service_queries
from optiinfra.errors import OptiInfraError

ABOVE: Final = 3
UNPRICED: Final = 4
SCALED_BY: Final = "2m"
"""Window of the rate that an autoscaler's patch asks for: two scrapes of a minute, which is the longest usual one."""
_DEFAULT: Final = Objectives()
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER: Final = click.Path(file_okay=False, path_type=Path)
_MOMENTS: Final = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")
_FORMATS: Final = ("table", "json", "csv", "html", "markdown")
_TEXTS: Final[dict[str, Callable[[Report], str]]] = {
    "json": report_json.text,
    "csv": report_csv.text,
    "html": report_html.text,
    "markdown": report_markdown.text,
}


@click.command("report")
@click.option("--prometheus", required=True, metavar="URL", help="Prometheus, Thanos, Mimir or VictoriaMetrics.")
@click.option("--since", type=Duration(), default="14d", show_default=True, help="How far back to look.")
@click.option("--until", type=click.DateTime(_MOMENTS), help="End of the look back, UTC; by default now.")
@click.option("--step", type=Duration(), default="5m", show_default=True, help="Between two points.")
@click.option("--namespace", "namespaces", multiple=True, help="Only this namespace; may be repeated.")
@click.option("--label", "matchers", multiple=True, metavar="LABEL=VALUE", help='In every query, as cluster="prod".')
@click.option("--format", "form", type=click.Choice(_FORMATS), default="table", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the report here.")
@click.option("--patches", type=_FOLDER, help="Write ready patches into this folder, one file each.")
@click.option("--fail-above", type=click.FloatRange(min=0.0), metavar="MONEY", help="Exit 3 if more a month is saved.")
@click.option("--gpu-hour", "gpu_hours", multiple=True, metavar="[MODEL=]MONEY", help="Price of a GPU for an hour.")
@click.option("--prices", type=_FILE, help="Table of node prices (CSV), as the chart's ConfigMap has it.")
@click.option("--currency", default=CURRENCY, show_default=True, help="Of all prices.")
@click.option("--no-list-prices", is_flag=True, help="Use none of the shipped list prices.")
@click.option("--reserved-gpus", multiple=True, metavar="[MODEL=]NUMBER", help="GPUs that are paid for in any case.")
@click.option("--startup", type=Duration(), default=START_UP_S, show_default=True, help="Until a replica serves.")
@click.option("--late-after", type=Duration(), default=float(_DEFAULT.queue_delay), help="Work waiting longer is late.")
@click.option("--late-share", type=click.FloatRange(1e-6, 1.0), default=0.01, help="Share of work that may be late.")
@click.option("--objective-ttft", type=Duration(), help="Promised time to first token, p95.")
@click.option("--objective-itl", type=Duration(), help="Promised time between tokens, p95.")
@click.option("--replay-days", type=click.FloatRange(min=1.0), help="Newest days to replay; by default all that fit.")
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes that replay.")
@click.option("--token-file", type=_FILE, help="File with a bearer token.")
@click.option("--user", default="", help="For basic authentication, with --password-file.")
@click.option("--password-file", type=_FILE)
@click.option("--cert-file", type=_FILE, help="Client certificate (mTLS).")
@click.option("--key-file", type=_FILE, help="Its key.")
@click.option("--ca-file", type=_FILE, help="CA that signs the server's certificate.")
@click.option("--tenant", default="", help="Of a server that keeps several apart.")
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Send this header; may be repeated.")
@click.option("--link", metavar="URL", help="Where people reach the server's pages, for links.")
@click.option("--concurrency", type=click.IntRange(1, 16), default=CALL_LIMITS.at_once, show_default=True)
@click.option("--max-series", type=click.IntRange(min=1), default=DEFAULT_ASK_LIMITS.series, help="Of one call.")
@click.option(
    "--max-samples", type=click.IntRange(min=1), default=DEFAULT_ASK_LIMITS.total_samples, help="Of all together."
)
@click.option("--cache-dir", type=_FOLDER, help="Keep answers here; by default below ~/.cache/optiinfra.")
@click.option("--no-cache", is_flag=True, help="Keep no answers.")
@click.pass_context
def report(
    ctx: click.Context,
    /,
    *,
    form: str,
    output: Path | None,
    patches: Path | None,
    fail_above: float | None,
    jobs: int,
    **given: Any,
) -> None:
    """Say what a fleet of model servers costs and would save, from the metrics that are there."""
    try:
        if output is not None:
            can_write(output)
        options = _options(given)
        wanted = _wanted(given)
        made = _made(wanted, options, given, jobs=jobs)
        written = () if patches is None else write_patches(patches, made.patches)
        _write(made.report, form=form, output=output)
    except (OptiInfraError, EnginesError) as error:
        raise click.ClickException(clean(str(error))) from error
    if patches is not None:
        click.echo(f"{len(written)} patches written to {patches}", err=True)
    if fail_above is not None:
        ctx.exit(_gate(made.report, fail_above))


def _options(given: dict[str, Any]) -> Options:
    first, between = given["objective_ttft"], given["objective_itl"]
    objectives = Objectives(
        time_to_first_token_p95=_DEFAULT.time_to_first_token_p95 if first is None else Seconds(first),
        inter_token_latency_p95=_DEFAULT.inter_token_latency_p95 if between is None else Seconds(between),
        queue_delay=Seconds(given["late_after"]),
        late_share=Ratio(given["late_share"]),
    )
    if not 1.0 <= given["startup"] <= 86_400.0:
        raise click.UsageError("--startup: 1 s to 1 d is expected")
    return Options(
        objectives=objectives,
        promised=first is not None or between is not None,
        start_up_s=given["startup"],
        prices=prices_of(
            gpu_hours=given["gpu_hours"],
            table=given["prices"],
            currency=given["currency"],
            reserved=given["reserved_gpus"],
            list_prices=not given["no_list_prices"],
        ),
        replay_days=given["replay_days"],
    )


def _wanted(given: dict[str, Any]) -> Wanted:
    if not given["step"] <= given["since"]:
        raise click.UsageError("--since is shorter than --step: ask for more")
    server = PrometheusServer(
        url=_url(given["prometheus"], "--prometheus"),
        headers=tuple(_header(one) for one in given["headers"]),
        token_file=given["token_file"],
        authority_file=given["ca_file"],
        user=given["user"],
        password_file=given["password_file"],
        certificate_file=given["cert_file"],
        key_file=given["key_file"],
        tenant=given["tenant"],
        page=None if given["link"] is None else _url(given["link"], "--link"),
    )
    if given["no_cache"] and given["cache_dir"] is not None:
        raise click.UsageError("--no-cache and --cache-dir: give one of them")
    cache = None if given["no_cache"] else PieceCache(given["cache_dir"] or prometheus_cache.default_folder())
    return Wanted(
        server=server,
        since=Seconds(given["since"]),
        until=None if given["until"] is None else UnixTime(given["until"].replace(tzinfo=UTC).timestamp()),
        step=Seconds(given["step"]),
        namespaces=tuple(given["namespaces"]),
        matchers=tuple(parse_matcher(one) for one in given["matchers"]),
        limits=replace(DEFAULT_ASK_LIMITS, series=given["max_series"], total_samples=given["max_samples"]),
        calls=replace(CALL_LIMITS, at_once=given["concurrency"]),
        cache=cache,
    )


def _url(text: str, option: str) -> URL:
    try:
        return URL(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: not an address: write it like http://prometheus:9090") from error


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        # The text may be a secret: it is not repeated.
        raise click.UsageError("--header: write 'NAME: VALUE'")
    return name.strip(), value.strip()


def _made(wanted: Wanted, options: Options, given: dict[str, Any], *, jobs: int) -> Made:
    with _bars() as bar:
        seen = _read(wanted, bar)
        with_models = seen.history.models
        judged = prepare(seen.history, options)
        play = bar("replaying")
        played = play_all(judged.cases, jobs=min(jobs, max(1, len(judged.cases))), on_share=play)
    queries = {}
    for model in with_models:
        try:
            queries[model.key] = service_queries(model.key, window=SCALED_BY).work
        except EnginesError:
            # A name that no Kubernetes object can have gets no autoscaler.
            continue
    now = UnixTime(time.time())
    told = Told(
        made=now,
        first=UnixTime((now if wanted.until is None else wanted.until) - wanted.since),
        server=given["link"] or wanted.server.shown,
        samples=seen.samples,
        simulated=seen.simulated,
        queries=queries,
        notes=seen.notes,
    )
    return compose(judged, played, told)


def _read(wanted: Wanted, bar: Callable[[str], Callable[[float], None]]) -> Read:
    shown = bar("reading")

    def on_progress(one: Reading) -> None:
        shown(one.done / max(1, one.total))

    return asyncio.run(read(wanted, on_progress=on_progress))


@contextmanager
def _bars() -> Iterator[Callable[[str], Callable[[float], None]]]:
    """Bars on the error stream, where somebody looks at it."""
    if not sys.stderr.isatty():
        yield lambda _label: lambda _share: None
        return
    columns = (TextColumn("{task.description:<10}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as progress:

        def begin(label: str) -> Callable[[float], None]:
            task = progress.add_task(label, total=1.0)
            return lambda share: progress.update(task, completed=share)

        yield begin


def _write(made: Report, *, form: str, output: Path | None) -> None:
    if form == "table":
        stream = io.StringIO() if output is not None else sys.stdout
        # Into a file or a pipe the table is as wide as most windows and mails, and has no escape sequences.
        console = Console(file=stream, width=None if output is None and sys.stdout.isatty() else report_table.WIDTH)
        report_table.write(made, console)
        if isinstance(stream, io.StringIO) and output is not None:
            write_report(output, stream.getvalue())
        return
    text = _TEXTS[form](made)
    if output is not None:
        write_report(output, text)
        click.echo(headline(made), err=True)
    else:
        click.echo(text, nl=False)


def _gate(made: Report, most: float) -> int:
    """Return the exit code of a gate."""
    month = made.total.per_month
    if isinstance(month, Unknown) or made.total.unpriced_gpu_hours > 0.0:
        click.echo("--fail-above: savings cannot be told, because GPUs have no price: give --gpu-hour", err=True)
        return UNPRICED
    if month > most:
        click.echo(f"--fail-above {most:g}: {headline(made)}", err=True)
        return ABOVE
    return 0
