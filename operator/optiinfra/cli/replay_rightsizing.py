"""`optiinfra replay rightsizing`: what would the operator have requested, beside the VPA and KRR.

A decision a container a day, at midnight (a multiple of 86,400 s), from what came before, applied to the next day;
docs/benchmarks-right-sizing.md says how it is judged. Whoever holds the printed decisions against the file gets the
printed figures. It is a replay of recorded use: a real request changes what neighbours leave, a real limit what is
used.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
import numpy as np

from optiinfra.cli.replay_rightsizing_report import Report
from optiinfra.cli.replay_rightsizing_source import UsageFile, UsageFileError, read_provisioned, read_usage
from optiinfra.domain.replay import krr, vpa
from optiinfra.domain.replay.sizing import size
from optiinfra.domain.replay.sizing_figures import Capacity, SizingFigures, figures, perfect, sums
from optiinfra.domain.replay.usage import Requests, Usage
from optiinfra.domain.right_sizing import SizingPolicy
from optiinfra.domain.units import Ratio

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_DEFAULT: Final = SizingPolicy()
BESIDE: Final[dict[str, Callable[[Usage], Requests]]] = {
    "VPA": lambda usage: vpa.recommend(usage, at=usage.midnights()).requests,
    "KRR": lambda usage: krr.recommend(usage, at=usage.midnights()),
    "KRR p99, memory +30 %": lambda usage: krr.recommend(
        usage, at=usage.midnights(), strategy=krr.Strategy(cpu_share=0.99, memory_buffer=0.3)
    ),
    "perfect knowledge": perfect,
}
"""What is printed beside ours, by name."""


@click.command("rightsizing")
@click.argument("usage", type=_FILE)
@click.option(
    "--cpu-quantile",
    type=click.FloatRange(0.5, 0.9999),
    default=1.0 - _DEFAULT.cpu_over_time,
    show_default=True,
    help="Share of the time in which CPU use shall stay within its request, over all containers.",
)
@click.option(
    "--memory-exceedance",
    type=click.FloatRange(0.0001, 0.5),
    default=float(_DEFAULT.memory_exceedance),
    show_default=True,
    help="Probability that a day's memory peak may exceed its request, over all containers.",
)
@click.option(
    "--provisioned", type=_FILE, help="File container,cpu_cores,memory_bytes: what each has now; shares are told of it."
)
@click.option("--decisions", type=_NEW_FILE, help="Write time_s,container,cpu_request_cores,memory_request_bytes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rightsizing(
    *,
    usage: Path,
    cpu_quantile: float,
    memory_exceedance: float,
    provisioned: Path | None,
    decisions: Path | None,
    as_json: bool,
) -> None:
    """Replay what containers used through right-sizing, and through the VPA and KRR.

    USAGE is a file with the columns time_s,container,cpu_cores,memory_bytes; an empty field is not known.
    """
    over_time = 1.0 - cpu_quantile
    policy = SizingPolicy(
        cpu_over_time=Ratio(over_time),
        memory_exceedance=Ratio(memory_exceedance),
        most_cpu_over_time=Ratio(max(_DEFAULT.most_cpu_over_time, over_time)),
        most_memory_exceedance=Ratio(max(_DEFAULT.most_memory_exceedance, memory_exceedance)),
    )
    try:
        file = read_usage(usage)
        given: list[Capacity | None] = [None] * len(file.containers)
        if provisioned is not None:
            given = read_provisioned(provisioned, file.containers)
    except UsageFileError as error:
        raise click.ClickException(str(error)) from error
    report = replay(file, given=given, policy=policy)
    if decisions is not None:
        try:
            decisions.write_text(report.decisions(), encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"{error.filename} cannot be written: {error.strerror}") from error
    click.echo(json.dumps(report.document(), indent=1) if as_json else "\n".join(report.lines()))


def replay(file: UsageFile, *, given: list[Capacity | None], policy: SizingPolicy) -> Report:
    """Decide and judge, ours and the others."""
    days = len(np.unique(np.concatenate([usage.midnights() for usage in file.usages])))
    with _bar("OptiInfra", days) as update:
        began = time.process_time()
        sized = size(file.usages, policy=policy, on_day=lambda _: update(1))
        seconds = time.process_time() - began
    others: dict[str, SizingFigures] = {}
    for name, rule in BESIDE.items():
        requests = []
        with _bar(name, len(file.usages)) as update:
            for one in file.usages:
                requests.append(rule(one))
                update(1)
        others[name] = figures(sums(file.usages, requests, given))
    return Report(file, policy, sized, figures(sums(file.usages, sized.requests, given)), others, seconds)


@contextmanager
def _bar(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """Show a bar of a length on the error stream; nothing where nobody looks."""
    if not sys.stderr.isatty():
        yield lambda _steps: None
        return
    with click.progressbar(length=length, label=f"{label:<22}", file=sys.stderr) as shown:
        yield shown.update
