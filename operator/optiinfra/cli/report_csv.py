"""The report for spreadsheets: one table, a row a record: the total, each proposal, each model, what gets worse.

A cell that a spreadsheet would take for a formula gets an apostrophe in front (OWASP, CSV injection); numbers stay
numbers, and what is not known is an empty cell with the reason in the last column.
"""

import csv
import io
from typing import Final

from optiinfra.cli.report_words import clean, why
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.report.report import ModelReport, Opportunity, Report

COLUMNS: Final = (
    "record", "subject", "type", "title", "currency", "cost", "saved_in_window", "saved_per_month", "gpu_hours",
    "counted_gpu_hours", "reserved_gpu_hours", "cpu_cores", "memory_bytes", "confidence", "replicas_ran",
    "replicas_optiinfra", "replicas_best_hpa", "late_share_ran", "late_share_optiinfra", "incidents_ran",
    "incidents_optiinfra", "cost_per_million_tokens", "limit", "message", "queries", "unknown",
)  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def text(report: Report) -> str:
    """Return the table."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\r\n", restval="")
    writer.writeheader()
    for row in _rows(report):
        writer.writerow(row)
    return buffer.getvalue()


def cell(words: str) -> str:
    """Return text that no spreadsheet runs."""
    shown = clean(words)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def _rows(report: Report) -> list[dict[str, str]]:
    currency = cell(report.currency)
    return [
        _total(report, currency),
        *(_proposal(one, currency) for one in report.opportunities),
        *(_model(one, currency) for one in report.models),
        *(
            {
                "record": "worse",
                "subject": cell(one.subject),
                "message": cell(one.message),
                "late_share_ran": _number(one.late_share_before),
                "late_share_optiinfra": _number(one.late_share_after),
                "incidents_ran": _number(one.incidents_before),
                "incidents_optiinfra": _number(one.incidents_after),
                "gpu_hours": _number(one.extra_gpu_hours),
            }
            for one in report.worse
        ),
        *(
            {
                "record": "missing",
                "subject": cell(gap.code),
                "message": cell(f"{gap.what}: {gap.why}. {gap.remedy}"),
            }
            for gap in report.gaps
        ),
    ]


def _total(report: Report, currency: str) -> dict[str, str]:
    total = report.total
    return {
        "record": "total",
        "currency": currency,
        "cost": _number(total.cost),
        "saved_in_window": _number(total.saved),
        "saved_per_month": _number(total.per_month),
        "counted_gpu_hours": _number(total.gpu_hours),
        "reserved_gpu_hours": _number(total.unpaid_gpu_hours),
        "cost_per_million_tokens": _number(report.fleet.cost_per_million_tokens.value),
        "unknown": cell(why(total.cost)),
    }


def _proposal(one: Opportunity, currency: str) -> dict[str, str]:
    return {
        "record": "proposal",
        "subject": cell(one.subject),
        "type": cell(str(one.type)),
        "title": cell(one.title),
        "currency": currency,
        "saved_in_window": _number(one.saved.money),
        "saved_per_month": _number(one.saved.per_month),
        "gpu_hours": _number(one.saved.gpu_hours),
        "counted_gpu_hours": _number(one.saved.counted_gpu_hours),
        "reserved_gpu_hours": _number(one.saved.unpaid_gpu_hours),
        "cpu_cores": _number(one.saved.cpu_cores),
        "memory_bytes": _number(one.saved.memory_bytes),
        "confidence": _number(float(one.confidence)),
        "message": cell(" ".join((one.message, *(f"Worse: {words}" for words in one.worse)))),
        "queries": cell(" ".join(one.sources)),
        "unknown": cell(why(one.saved.money)),
    }


def _model(model: ModelReport, currency: str) -> dict[str, str]:
    row = {
        "record": "model",
        "subject": cell(model.key),
        "title": cell(model.model),
        "type": cell(model.engine),
        "currency": currency,
        "cost": _number(model.cost.value),
        "gpu_hours": _number(model.gpu_hours.value),
        "replicas_ran": _number(model.replicas.value),
        "cost_per_million_tokens": _number(model.cost_per_million_tokens.value),
        "limit": cell(str(model.limits[0].bottleneck)) if model.limits else "",
        "queries": cell(" ".join(model.replicas.sources)),
    }
    replay = model.replay
    if isinstance(replay, Unknown):
        return row | {"unknown": cell(why(replay))}
    hours = max(replay.hours, 1e-9)
    hpa = "" if isinstance(replay.hpa, Unknown) else _number(replay.hpa.replica_hours / hours)
    return row | {
        "confidence": _number(float(replay.confidence)),
        "replicas_ran": _number(replay.ran.replica_hours / hours),
        "replicas_optiinfra": _number(replay.ours.replica_hours / hours),
        "replicas_best_hpa": hpa,
        "late_share_ran": _number(replay.ran.late_share),
        "late_share_optiinfra": _number(replay.ours.late_share),
        "incidents_ran": _number(replay.ran.incidents),
        "incidents_optiinfra": _number(replay.ours.incidents),
    }


def _number(value: Value) -> str:
    return "" if isinstance(value, Unknown) else f"{value:.10g}"
