"""The report as one HTML file to forward: the sum, the method in three sentences, then proposals, models, queries.

It loads nothing: style and charts are inside, there is no script, and a policy in its head forbids both. It prints on
paper with the sum on the first page, works without colour and with a screen reader, and every number links to the
queries below it, which link to the metrics server. All text from labels is escaped.
"""

import html
import re
from typing import Final

from optiinfra.cli.report_charts import bar, replicas
from optiinfra.cli.report_table import COLUMNS, model_cells
from optiinfra.cli.report_words import (
    basis,
    caveats,
    clean,
    figure,
    headline,
    moment,
    money,
    nothing,
    number,
    share,
    span,
    statistic,
    why,
    window,
)
from optiinfra.domain.readings import Unknown
from optiinfra.domain.report.report import Fact, Figure, ModelReport, Opportunity, Outcome, Report

_LINK: Final = re.compile(r"https?://[^\s\"'<>`\\]+")
_STYLE: Final = """
:root{--ink:#1a1a1a;--soft:#595959;--line:#d0d0d0;--ran:#333;--ours:#0b6e4f;--load:#b04a00;--paper:#fff}
*{box-sizing:border-box}body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;
max-width:1080px;padding:24px}h1{font-size:1.5rem;margin:.2em 0}h2{font-size:1.2rem;margin:2em 0 .4em;
border-bottom:2px solid var(--ink)}h3{font-size:1rem;margin:1.6em 0 .3em}.sum{font-size:2.6rem;font-weight:700;
line-height:1.1;margin:.3em 0}.lead{font-size:1.1rem}.soft,.key{color:var(--soft);font-size:.86rem}table{width:100%;
border-collapse:collapse;font-size:.88rem;margin:.6em 0}th,td{text-align:left;vertical-align:top;padding:.35em .5em;
border-bottom:1px solid var(--line)}td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);font-size:.86rem}.worse{border-left:4px solid #8a1c1c;padding:.2em .6em}
.warn{border:2px solid #8a1c1c;padding:.4em .8em;font-weight:600}a{color:#0b4f8a}svg{width:100%;height:auto}
svg text{font:11px system-ui,sans-serif;fill:#444}svg line.g{stroke:#e2e2e2}polyline,svg line[class^=c]{fill:none;
stroke-width:1.8}.c-ran{stroke:var(--ran)}.c-ours{stroke:var(--ours)}.c-load{stroke:var(--load)}.b-used{fill:#0b6e4f}
.b-idle{fill:#d9a441}.b-free{fill:#c9c9c9}.bar{max-height:26px}code{font-size:.82rem;overflow-wrap:anywhere}
details{margin:.3em 0}summary{cursor:pointer}.wide{overflow-x:auto}
@media print{body{max-width:none;padding:0;font-size:10.5pt}.front{break-after:page}section.model,tr,svg{
break-inside:avoid}a{color:inherit;text-decoration:none}details>*{display:block}h2{break-after:avoid}}
"""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def text(report: Report) -> str:
    """Return the page."""
    title = "What this fleet costs, and what it would save"
    if line := nothing(report):
        asked = f"{span(report)}, from {report.server}; {report.samples:,} samples read"
        lead = f'<p class="lead"><strong>{e(line)}</strong></p><p class="soft">{e(asked)}</p>'
        body = [f"<section><h1>{title}</h1>{lead}</section>", _queries(report)]
    else:
        body = [_front(report, title), _proposals(report), _worse(report), _models(report), _gaps(report)]
        body.append(_queries(report))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="referrer" content="no-referrer"><title>{title}</title><style>{_STYLE}</style></head>'
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def e(words: str) -> str:
    """Return text that HTML shows as it is."""
    return html.escape(clean(words), quote=True)


def _front(report: Report, title: str) -> str:
    total, fleet, currency = report.total, report.fleet, report.currency
    unknown = isinstance(total.per_month, Unknown)
    amount = f"{total.gpu_hours:,.0f} GPU-hours" if unknown else money(total.per_month, currency)
    lead = headline(report) if unknown else f"a month could be saved: {window(report)}"
    rows = (
        ("cost of all GPUs in the window", fleet.cost),
        ("the same for a month", fleet.cost_per_month),
        ("GPUs there, on average", fleet.gpus),
        ("held by pods", fleet.gpus_held),
        ("busy", fleet.gpus_used),
        ("GPU-hours in which a GPU did nothing", fleet.idle_gpu_hours),
        ("prompt tokens", fleet.prompt_tokens),
        ("generated tokens", fleet.generation_tokens),
        ("cost of a million tokens", fleet.cost_per_million_tokens),
        ("cost of a million generated tokens", fleet.cost_per_million_generated),
    )
    table = "".join(f"<tr><th scope=row>{name}</th>{_figure(one, currency)}</tr>" for name, one in rows)
    prices = "".join(
        f"<li>{e(f'{one.gpus:g} x ' + (one.gpu or 'GPU'))}: {e(money(one.gpu_hour, currency))} an hour each, by "
        f"{e(one.origin)}{e(f'; {one.reserved:g} of them reserved') if one.reserved else ''}</li>"
        for one in report.prices
    )
    method = " ".join(e(line) for line in report.method)
    warning = "".join(f'<p class="warn">{e(line)}</p>' for line in caveats(report)[:1] if report.simulated)
    rest = "".join(f"<li>{e(line)}</li>" for line in (caveats(report)[1:] if report.simulated else caveats(report)))
    return (
        f'<section class="front"><h1>{title}</h1><p class="soft">{e(span(report))}, from {e(report.server)}; '
        f"made {e(moment(report.made))}; {report.samples:,} samples read</p>{warning}"
        f'<p class="sum">{_linked(amount, fleet.cost.sources)}</p><p class="lead">{e(lead)}</p><ul>{rest}</ul>'
        f"{_use(report)}"
        f"<p>{method}</p><table><caption>The fleet; each number links to its queries</caption>{table}</table>"
        f"<p>Prices:</p><ul>{prices or '<li>none</li>'}</ul></section>"
    )


def _use(report: Report) -> str:
    """Draw what the GPUs did: busy, held and idle, free."""
    fleet = report.fleet
    there, held, used = fleet.gpus.value, fleet.gpus_held.value, fleet.gpus_used.value
    if isinstance(there, Unknown) or isinstance(held, Unknown) or isinstance(used, Unknown) or there <= 0.0:
        return ""
    busy = min(used, held) / there
    parts = (("busy", busy, "used"), ("held, not busy", held / there - busy, "idle"),
             ("held by nobody", max(0.0, 1.0 - held / there), "free"))  # fmt: skip
    return bar(parts, title="What the GPUs did")


def _proposals(report: Report) -> str:
    if not report.opportunities:
        return "<section><h2>What to do</h2><p>Nothing to change was found.</p></section>"
    rows = "".join(_proposal(one, report.currency) for one in report.opportunities)
    return (
        '<section><h2 id="what">What to do, by money</h2><p class="soft">A GPU-hour that a proposal above frees '
        'already does not count again.</p><div class="wide"><table><thead><tr><th scope=col class=n>a month</th>'
        "<th scope=col class=n>GPU-hours</th><th scope=col class=n>sure</th><th scope=col>what and why</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div></section>"
    )


def _proposal(one: Opportunity, currency: str) -> str:
    saved = one.saved
    month = why(saved.per_month) if isinstance(saved.per_month, Unknown) else money(saved.per_month, currency)
    hours = number(saved.counted_gpu_hours)
    if saved.gpu_hours > saved.counted_gpu_hours * 1.005 + 0.05:
        hours += f" of {number(saved.gpu_hours)}"
    freed = [f"{saved.cpu_cores:.3g} cores"] if saved.cpu_cores > 0.0 else []
    freed += [number(saved.memory_bytes, "bytes")] if saved.memory_bytes > 0.0 else []
    capacity = f'<br><span class="soft">frees {e(" and ".join(freed))}: capacity, not money</span>' if freed else ""
    if saved.unpaid_gpu_hours > 0.0:
        reserved = f"{number(saved.unpaid_gpu_hours)} GPU-hours of it are reserved: capacity, not money"
        capacity += f'<br><span class="soft">{e(reserved)}</span>'
    worse = "".join(f'<p class="worse">Worse: {e(words)}</p>' for words in one.worse)
    facts = "".join(f"<li>{_fact(fact)}</li>" for fact in one.evidence)
    more = "".join(
        f"<p>{name}: {e(words)}</p>"
        for name, words in (("Risk", one.risk), ("How to see that it worked", one.verification), ("Undo", one.undo))
        if words
    )
    patch = f"<p>Patch: <code>{e(one.patch)}</code></p>" if one.patch else ""
    return (
        f"<tr><td class=n>{_linked(month, one.sources)}</td><td class=n>{_linked(hours, one.sources)}</td>"
        f"<td class=n>{share(float(one.confidence))}</td><td>"
        f"<strong>{e(one.title)}</strong><br>{e(one.message)}{capacity}{worse}<details><summary>evidence, risk, undo"
        f"</summary><ul>{facts}</ul>{more}{patch}<p>Queries: {_sources(one.sources)}</p></details></td></tr>"
    )


def _fact(fact: Fact) -> str:
    known = why(fact.value) if isinstance(fact.value, Unknown) else number(fact.value, fact.unit)
    return e(f"{fact.signal.replace('_', ' ')}: {known} ({statistic(fact.statistic)}, {fact.source})")


def _worse(report: Report) -> str:
    items = "".join(
        f'<li class="worse"><strong>{e(one.subject)}</strong>: {e(one.message)}</li>' for one in report.worse
    )
    return (
        '<section><h2 id="worse">What would have got worse</h2><p class="soft">Against what ran, under OptiInfra\'s '
        f"scaler, computed in the queueing model.</p><ul>{items or '<li>Nothing that is known.</li>'}</ul></section>"
    )


def _models(report: Report) -> str:
    columns = "".join(f"<th scope=col>{name}</th>" for name in COLUMNS)
    rows = "".join(_row(one, report.currency, number_) for number_, one in enumerate(report.models))
    each = "".join(_model(one, report.currency, number_) for number_, one in enumerate(report.models))
    return (
        f'<section><h2 id="models">Models</h2><div class="wide"><table><caption>Replicas are means of the replayed time'
        f"</caption><thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table></div>{each}</section>"
    )


def _row(one: ModelReport, currency: str, number_: int) -> str:
    """Write a model's row: its name leads to its section, each number to what it was computed from."""
    name, *cells = model_cells(one, currency)
    replayed = () if isinstance(one.replay, Unknown) else one.replay.sources
    ran = replayed or one.replicas.sources
    behind = (one.cost.sources, one.cost_per_million_tokens.sources, one.gpu_hours.sources, ran)
    sources = (*behind, replayed, replayed, replayed, ())
    told = "".join(f"<td>{_linked(cell, names)}</td>" for cell, names in zip(cells, sources, strict=True))
    return f'<tr><td><a href="#m-{number_}">{e(name)}</a></td>{told}</tr>'


def _model(one: ModelReport, currency: str, number_: int) -> str:
    facts = (
        ("cost", one.cost),
        ("GPU-hours held", one.gpu_hours),
        ("GPU-hours busy", one.used_gpu_hours),
        ("replicas, mean", one.replicas),
        ("cost of a million tokens", one.cost_per_million_tokens),
        ("cost of a million generated tokens", one.cost_per_million_generated),
    )
    table = "".join(f"<tr><th scope=row>{name}</th>{_figure(fact, currency)}</tr>" for name, fact in facts)
    limits = "".join(
        f"<li>{e(f'{limit.bottleneck} for {share(float(limit.share))} of the time ({limit.reason})')}: "
        f"{e(limit.message)}</li>"
        for limit in one.limits
    )
    notes = "".join(f"<p class=soft>{e(note)}</p>" for note in one.notes)
    refused = "".join(f"<li>{e(f'{row.type}, {row.reason}: {row.message}')}</li>" for row in one.refused)
    told = f"<details><summary>considered and not proposed</summary><ul>{refused}</ul></details>" if refused else ""
    return (
        f'<section class=model id="m-{number_}">'
        f"<h3>{e(one.key)}: {e(one.model)}, {e(one.engine or 'engine not told')}</h3>"
        f"{replicas(one.curves, name=one.key, number=number_)}<table>{table}</table>{_replay(one, currency)}"
        f"<p>What limited it:</p><ul>{limits or '<li>not judged</li>'}</ul>{told}{notes}</section>"
    )


def _replay(one: ModelReport, currency: str) -> str:
    replay = one.replay
    if isinstance(replay, Unknown):
        return f"<p>Not replayed: {e(why(replay))}.</p>"
    outcomes: list[Outcome] = [replay.ran, replay.ours]
    if not isinstance(replay.hpa, Unknown):
        outcomes.append(replay.hpa)
    rows = "".join(
        f"<tr><th scope=row>{e(row.name)}</th>"
        + "".join(
            f"<td class=n>{_linked(cell, replay.sources)}</td>"
            for cell in (
                number(row.replica_hours),
                money(row.cost, currency),
                share(row.late_share),
                number(row.incidents),
            )
        )
        + "</tr>"
        for row in outcomes
    )
    none = f"<p class=soft>No plain HPA: {e(why(replay.hpa))}.</p>" if isinstance(replay.hpa, Unknown) else ""
    return (
        f"<table><caption>{e(basis(replay))}</caption><thead><tr><th scope=col>rule</th>"
        "<th scope=col class=n>replica-hours</th><th scope=col class=n>cost</th><th scope=col class=n>late work</th>"
        "<th scope=col class=n>five-minute windows with a tenth late</th></tr>"
        f"</thead><tbody>{rows}</tbody></table>{none}"
    )


def _linked(words: str, names: tuple[str, ...]) -> str:
    """Return words that lead to the first of the questions behind them; plain ones where there is none."""
    return f'<a href="#{_anchor(names[0])}">{e(words)}</a>' if names else e(words)


def _figure(one: Figure, currency: str) -> str:
    missing = f' <span class="soft">({e(why(one.value))})</span>' if isinstance(one.value, Unknown) else ""
    return f"<td>{_linked(figure(one, currency), one.sources)}{missing}</td><td class=soft>{_sources(one.sources)}</td>"


def _sources(names: tuple[str, ...]) -> str:
    shown = ", ".join(f'<a href="#{_anchor(name)}">{e(name)}</a>' for name in names[:6])
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _anchor(name: str) -> str:
    return "q-" + re.sub(r"[^a-z0-9]+", "-", name.lower())


def _gaps(report: Report) -> str:
    items = "".join(
        f"<li><strong>{e(gap.what)}</strong>: {e(gap.why)}. {e(gap.remedy)}. {e(', '.join(gap.where))}</li>"
        for gap in report.gaps
    )
    notes = "".join(f"<li>{e(note)}</li>" for note in report.notes)
    return (
        f'<section><h2 id="gaps">What is not known, and how to get it</h2><ul>{items or "<li>Nothing is missing.</li>"}'
        f"{notes}</ul></section>"
    )


def _queries(report: Report) -> str:
    rows = []
    for one in report.questions:
        name = (
            f'<a href="{html.escape(one.link, quote=True)}">{e(one.name)}</a>'
            if _LINK.fullmatch(one.link)
            else e(one.name)
        )
        rows.append(
            f'<tr id="{_anchor(one.name)}"><td>{name}</td><td class=n>{one.samples:,}</td>'
            f"<td class=n>{one.series:,}</td><td><code>{e(one.promql)}</code></td></tr>"
        )
    return (
        '<section><h2 id="queries">Queries</h2><div class="wide"><table><thead><tr><th scope=col>question</th>'
        "<th scope=col class=n>samples</th><th scope=col class=n>series</th><th scope=col>query</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )
