"""The report for a terminal: the sum, what to do ranked by money, what would get worse, the models, what is missing.

Everything is written as plain text into the tables, never as markup, so that a name cannot colour or move anything.
"""

from typing import Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from optiinfra.cli.report_words import caveats, clean, figure, headline, money, nothing, number, share, span, why
from optiinfra.domain.readings import Unknown
from optiinfra.domain.report.report import ModelReport, Opportunity, Report

MOST_ROWS: Final = 25
"""Proposals listed; the other formats have all."""
WIDTH: Final = 100
"""Columns that everything fits into, where nobody says how many there are."""


def write(report: Report, console: Console) -> None:
    """Print the report."""
    console.print(_all(report), highlight=False)


def _all(report: Report) -> Group:
    asked = Text(f"{span(report)}, {clean(report.server)}, {report.samples:,} samples read")
    if line := nothing(report):
        return Group(Text(line, style="bold"), asked)
    parts: list[RenderableType] = [Text(headline(report), style="bold")]
    parts += [Text(f"- {line}") for line in caveats(report)]
    parts += [asked, Text(""), _fleet(report), Text("")]
    if report.opportunities:
        parts.append(_opportunities(report))
        if len(report.opportunities) > MOST_ROWS:
            parts.append(
                Text(f"and {len(report.opportunities) - MOST_ROWS} more: --format markdown, html, csv or json")
            )
    else:
        parts.append(Text("Nothing to change was found."))
    if report.worse:
        parts += [Text(""), _worse(report)]
    else:
        parts += [Text(""), Text("Nothing that is known would have got worse under OptiInfra's scaler.")]
    if report.models:
        parts += [Text(""), _models(report)]
    if report.gaps:
        parts += [Text(""), Text("What is not known, and how to get it", style="bold")]
        parts += [Text(f"- {clean(f'{gap.what}: {gap.why}. {gap.remedy}')}") for gap in report.gaps]
    parts += [Text(""), *(Text(line) for line in report.method)]
    parts += [Text(f"- {clean(note)}") for note in report.notes]
    return Group(*parts)


def _fleet(report: Report) -> Table:
    fleet, currency = report.fleet, report.currency
    table = Table(title="the fleet", title_justify="left", show_header=False)
    rows = (
        ("GPUs there / held / busy (mean)", (fleet.gpus, fleet.gpus_held, fleet.gpus_used)),
        ("GPU-hours there / held / idle", (fleet.gpu_hours, fleet.held_gpu_hours, fleet.idle_gpu_hours)),
        ("cost in the window / a month", (fleet.cost, fleet.cost_per_month)),
        ("tokens: prompt / generated", (fleet.prompt_tokens, fleet.generation_tokens)),
        ("cost a million tokens / generated", (fleet.cost_per_million_tokens, fleet.cost_per_million_generated)),
    )
    for name, figures in rows:
        missing = next((why(one.value) for one in figures if isinstance(one.value, Unknown)), "")
        told = " / ".join(figure(one, currency) for one in figures)
        table.add_row(Text(name), Text(f"{told}  ({missing})" if missing else told))
    for price in report.prices:
        told = money(price.gpu_hour, currency)
        reserved = f", {price.reserved:g} reserved" if price.reserved else ""
        table.add_row(
            Text(clean(f"{price.gpus:g} x {price.gpu or 'GPU of a kind that is not told'}")),
            Text(clean(f"{told} an hour each, by {price.origin}{reserved}")),
        )
    return table


def _opportunities(report: Report) -> Table:
    table = Table(title="what to do, by money", title_justify="left", show_lines=True)
    for name in ("a month", "GPU-hours", "sure", "what, and why"):
        number_ = name != "what, and why"
        table.add_column(name, justify="right" if number_ else "left", overflow="fold", no_wrap=name == "a month")
    for one in report.opportunities[:MOST_ROWS]:
        worse = "".join(f" Worse: {clean(text)}" for text in one.worse)
        what = Text.assemble((clean(one.title), "bold"), "\n", clean(one.message), worse)
        table.add_row(Text(_month(one, report.currency)), Text(_hours(one)), Text(share(float(one.confidence))), what)
    return table


def _month(one: Opportunity, currency: str) -> str:
    if isinstance(one.saved.per_month, Unknown):
        return "no price"
    if one.saved.per_month > 0.0:
        return money(one.saved.per_month, currency)
    return "-"


def _hours(one: Opportunity) -> str:
    saved = one.saved
    if saved.counted_gpu_hours > 0.0:
        return f"{saved.counted_gpu_hours:,.0f}"
    if saved.gpu_hours > 0.0:
        return "counted above"
    parts = []
    if saved.cpu_cores > 0.0:
        parts.append(f"{saved.cpu_cores:.3g} cores")
    if saved.memory_bytes > 0.0:
        parts.append(number(saved.memory_bytes, "bytes"))
    return ", ".join(parts) or "-"


def _worse(report: Report) -> Table:
    table = Table(title="what would have got worse under OptiInfra's scaler", title_justify="left")
    for name in ("model", "late: ran", "OptiInfra", "more GPU-hours", "in words"):
        table.add_column(name, overflow="fold")
    for one in report.worse:
        table.add_row(
            Text(clean(one.subject)),
            Text(share(one.late_share_before)),
            Text(share(one.late_share_after)),
            Text(f"{one.extra_gpu_hours:,.1f}"),
            Text(clean(one.message)),
        )
    return table


COLUMNS: Final = (
    "model",
    "cost",
    "a million tokens",
    "GPU-hours",
    "ran",
    "OptiInfra",
    "best HPA",
    "late: ran / OptiInfra",
    "limit",
)
"""Of models, in every format for people; replicas are means of the replayed time."""


def _models(report: Report) -> Table:
    """Put replicas, and what was late, side by side in one column each: a hundred columns are few."""
    table = Table(
        title="models, dearest first", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("model", overflow="fold", min_width=18)
    for name in ("cost", "a million\ntokens", "GPU-\nhours", "replicas: ran /\nOptiInfra / HPA"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("late: ran /\nOptiInfra", no_wrap=True)
    table.add_column("limit", overflow="fold", min_width=12)
    for one in report.models:
        name, cost, tokens, hours, ran, ours, hpa, late, limit = model_cells(one, report.currency)
        replicas = ran if (ours, hpa) == ("-", "-") else f"{ran} / {ours} / {hpa}"
        table.add_row(*(Text(cell) for cell in (name, cost, tokens, hours, replicas, late, limit)))
    return table


def model_cells(one: ModelReport, currency: str) -> tuple[str, ...]:
    """Return one model's row, cleaned; the formats for people share it."""
    replay = one.replay
    if isinstance(replay, Unknown):
        ran, ours, hpa, late = number(one.replicas.value), "-", "-", "-"
    else:
        hours = max(replay.hours, 1e-9)
        ran = f"{replay.ran.replica_hours / hours:.2f}"
        ours = f"{replay.ours.replica_hours / hours:.2f}"
        hpa = "none" if isinstance(replay.hpa, Unknown) else f"{replay.hpa.replica_hours / hours:.2f}"
        late = f"{share(replay.ran.late_share)} / {share(replay.ours.late_share)}"
    limits = [f"{limit.bottleneck} {share(float(limit.share))}" for limit in one.limits[:2]]
    return (
        clean(one.key),
        money(one.cost.value, currency),
        money(one.cost_per_million_tokens.value, currency),
        number(one.gpu_hours.value),
        ran,
        ours,
        hpa,
        late,
        ", ".join(limits) or UNJUDGED,
    )


def behind(one: ModelReport) -> tuple[str, ...]:
    """Return the questions behind a model's row, without repeats."""
    figures = (one.cost, one.cost_per_million_tokens, one.replicas)
    replayed = () if isinstance(one.replay, Unknown) else one.replay.sources
    return tuple(dict.fromkeys((*(name for each in figures for name in each.sources), *replayed)))


UNJUDGED: Final = "not judged"
