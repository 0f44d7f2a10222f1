"""The report as Markdown, for an issue, a merge request or a wiki: the sum first, then the method, then the models.

Names are escaped so that none of them makes a link, a heading, a cell or HTML; links go to the metrics server only.
"""

import re
from typing import Final

from optiinfra.cli.report_table import COLUMNS, behind, model_cells
from optiinfra.cli.report_words import caveats, clean, figure, headline, money, nothing, number, share, span
from optiinfra.domain.readings import Unknown
from optiinfra.domain.report.report import Report

_MEANS: Final = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$@:-])")
_LINK: Final = re.compile(r"https?://[^\s<>()\[\]\\\"'`|]+")


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return _MEANS.sub(r"\\\1", clean(text))


def text(report: Report) -> str:
    """Return the document."""
    currency = report.currency
    lines = ["# What this fleet costs, and what it would save", ""]
    if line := nothing(report):
        asked = f"{span(report)}; {report.server}; {report.samples:,} samples read."
        return "\n".join([*lines, f"**{escaped(line)}**", "", escaped(asked), ""])
    lines += [f"**{escaped(headline(report))}**", ""]
    lines += [f"- {escaped(line)}" for line in caveats(report)]
    lines += ["", *(escaped(line) for line in report.method), ""]
    lines += [escaped(f"{span(report)}; {report.server}; {report.samples:,} samples read."), "", "## The fleet", ""]
    lines += ["| figure | value | queries |", "| --- | ---: | --- |"]
    fleet = report.fleet
    for name, one in (
        ("GPUs there", fleet.gpus),
        ("GPUs held", fleet.gpus_held),
        ("GPUs busy", fleet.gpus_used),
        ("GPU-hours there", fleet.gpu_hours),
        ("GPU-hours held", fleet.held_gpu_hours),
        ("GPU-hours idle", fleet.idle_gpu_hours),
        ("cost in the window", fleet.cost),
        ("cost a month", fleet.cost_per_month),
        ("prompt tokens", fleet.prompt_tokens),
        ("generated tokens", fleet.generation_tokens),
        ("cost of a million tokens", fleet.cost_per_million_tokens),
        ("cost of a million generated tokens", fleet.cost_per_million_generated),
    ):
        lines.append(f"| {name} | {escaped(figure(one, currency))} | {_queries(one.sources)} |")
    lines += ["", "## What to do, by money", ""]
    if report.opportunities:
        lines += [
            "| a month | GPU-hours counted | sure | what | why | queries |",
            "| ---: | ---: | ---: | --- | --- | --- |",
        ]
    for item in report.opportunities:
        month = money(item.saved.per_month, currency)
        worse = "".join(f" **Worse:** {escaped(words)}" for words in item.worse)
        patch = f" Patch: `{item.patch}`." if item.patch else ""
        lines.append(
            f"| {escaped(month)} | {number(item.saved.counted_gpu_hours)} | {share(float(item.confidence))} | "
            f"{escaped(item.title)} | {escaped(item.message)}{worse}{patch} | {_queries(item.sources)} |"
        )
    lines += ["", "## What would have got worse", ""]
    lines += [f"- {escaped(one.subject)}: {escaped(one.message)}" for one in report.worse] or ["Nothing that is known."]
    lines += ["", "## Models", ""]
    lines += [f"| {' | '.join(COLUMNS)} | queries |", f"| --- {'| ---: ' * 6}| --- | --- | --- |"]
    for model in report.models:
        cells = " | ".join(escaped(cell) for cell in model_cells(model, currency))
        lines.append(f"| {cells} | {_queries(behind(model))} |")
    lines += ["", "## What is not known, and how to get it", ""]
    lines += [f"- {escaped(f'{gap.what}: {gap.why}. {gap.remedy}')}" for gap in report.gaps] or ["Nothing is missing."]
    unknown = [(one.key, one.replay) for one in report.models if isinstance(one.replay, Unknown)]
    lines += [f"- {escaped(key)}: not replayed, {escaped(str(reason))}" for key, reason in unknown]
    lines += [f"- {escaped(note)}" for note in report.notes]
    lines += ["", "## Queries", ""]
    for question in report.questions:
        name = escaped(question.name)
        shown = f"[{name}]({question.link})" if _LINK.fullmatch(question.link) else name
        lines.append(
            f'- <a id="{_anchor(question.name)}"></a>{shown}: {question.samples:,} samples, {question.series} series'
        )
    return "\n".join(lines) + "\n"


def _anchor(name: str) -> str:
    return "q-" + re.sub(r"[^a-z0-9]+", "-", name.lower())


def _queries(names: tuple[str, ...]) -> str:
    shown = [f"[{escaped(name)}](#{_anchor(name)})" for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
