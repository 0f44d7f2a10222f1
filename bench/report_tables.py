"""The tables of docs/benchmarks-report.md: what `python -m bench.report --docs` measured."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from optiinfra_sim.history_models import Label

if TYPE_CHECKING:
    from bench.report import Measured

BEGIN: Final = "<!-- begin: python -m bench.report --docs -->"
FLEETS: Final = {
    "full": "the whole fleet",
    "small": "a small fleet of six models",
    "tiny": "three models for a day",
    "brief": "three models for six hours",
}
END: Final = "<!-- end: python -m bench.report --docs -->"


def section(measured: "Sequence[Measured]", *, told: str) -> str:
    """Return what stands between the markers, both included."""
    parts = [BEGIN, "", told, ""]
    for one in measured:
        heading = f"### {one.version}, {FLEETS[one.fleet]}"
        parts += [heading, "", *_servers(one), "", *_labels(one), ""]
    return "\n".join([*parts, END])


def _servers(one: "Measured") -> list[str]:
    judged, ran = one.judged, one.ran
    rows = [
        ("series, samples", f"{one.series:,}, {one.samples:,} over {one.days:g} days", ""),
        ("labelled models found", f"{judged.recall:.1%}", "at least 95 %"),
        ("healthy models named wasteful", str(len(judged.wrongly)), "0"),
        (
            "cost of the fleet",
            f"{judged.told_cost:,.0f} USD of {judged.cost:,.0f} ({judged.cost_off:+.2%})",
            "within 5 %",
        ),
        ("GPU-hours of the worst single model", f"{judged.model_cost_off:.2%} off", "within 5 %"),
        ("savings that nobody could have made", f"{judged.savings_over:.2%} of those possible", "at most 5 %"),
        ("savings of idle and over-provisioned models", f"{judged.avoidable_found:.0%} of a careful scaler's", ""),
        ("time of the report", f"{ran.seconds:.0f} s, while {ran.load:.1f} processes wanted to run", "at most 60 s"),
        ("its CPU time, all processes", f"{ran.cpu_s:.1f} s", ""),
        ("memory of its largest process", f"{ran.peak_bytes / 2**20:.0f} MiB", "at most 1024 MiB"),
        ("samples that it read", f"{ran.document['samples']:,}", ""),
        ("server's own memory at rest, at most", f"{one.before.own / 2**20:.0f} MiB", ""),
        ("the same during the report", f"{one.highest.own / 2**20:.0f} MiB ({one.growth:+.0%})", "less than 30 % more"),
        ("the server's CPU time for it", f"{one.server_cpu_s:.1f} s", ""),
    ]
    if one.krr is not None:
        rows += [
            ("KRR: queries asked, failed", f"{one.krr.queries} of its {one.krr.of}, {one.krr.failed}", ""),
            ("KRR: time, the server's CPU time", f"{one.krr.seconds:.0f} s, {one.krr.server_cpu_s:.0f} s", ""),
            ("KRR: samples that they read", f"{one.krr.samples:,}" if one.krr.samples else "not told", ""),
            ("KRR: growth of the server's own memory", f"{one.krr.growth:.0%}", ""),
        ]
    return ["| figure | measured | needed |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]


def _labels(one: "Measured") -> list[str]:
    lines = ["| label | models | found | GPU-hours | told as saved | avoidable |", "|---|---|---|---|---|---|"]
    for label in Label:
        own = [verdict for verdict in one.judged.verdicts if verdict.label is label]
        if own:
            found, hours = sum(verdict.found for verdict in own), sum(verdict.gpu_hours for verdict in own)
            freed = sum(verdict.freed_gpu_hours for verdict in own)
            avoidable = sum(verdict.avoidable_gpu_hours for verdict in own)
            lines.append(f"| {label.value} | {len(own)} | {found} | {hours:,.0f} | {freed:,.0f} | {avoidable:,.0f} |")
    return lines
