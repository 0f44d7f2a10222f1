"""How a report's numbers and names are written for people, and what is taken out of names first.

Names of namespaces, workloads, models and GPUs are whatever somebody put into a label: escape sequences for terminals,
text that runs from right to left, formulas for spreadsheets. Everything that is not printable becomes a space here;
what a format itself gives a meaning to is escaped by its renderer.
"""

import unicodedata
from datetime import UTC, datetime
from typing import Final

from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.report.history import Lack
from optiinfra.domain.report.report import Figure, Replay, Report

LONGEST: Final = 2_000
_BASES: Final = {
    "Measured": "measured while requests waited",
    "StepTimes": "by how the time between tokens grows with the batch",
    "Occupancy": "by the share of batch and KV cache in use",
}
UNKNOWN: Final = "unknown"
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Control, formatting (direction marks among them), surrogates, private, unassigned, separators of lines."""


def clean(text: str) -> str:
    """Return text on one line without anything invisible."""
    shown = "".join(" " if unicodedata.category(letter) in _HIDDEN else letter for letter in text[:LONGEST])
    return " ".join(shown.split())


def money(value: Value, currency: str) -> str:
    """Write an amount; cents only where they count."""
    if isinstance(value, Unknown):
        return UNKNOWN
    digits = 0 if abs(value) >= 100.0 else 2
    return f"{value:,.{digits}f} {currency}"


def number(value: Value, unit: str = "") -> str:
    """Write a number with about three digits that count."""
    if isinstance(value, Unknown):
        return UNKNOWN
    if unit == "ratio":
        return share(value)
    if unit == "bytes":
        return f"{value / 2**30:.3g} GiB"
    if unit == "tokens":
        return _large(value)
    text = f"{value:,.0f}" if abs(value) >= 100.0 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def share(value: Value) -> str:
    """Write a ratio in percent; two digits where it is small, because late work is."""
    if isinstance(value, Unknown):
        return UNKNOWN
    return f"{value:.0%}" if value == 0.0 or abs(value) >= 0.1 else f"{value:.2%}"


def figure(one: Figure, currency: str) -> str:
    """Write a figure in its unit."""
    return money(one.value, currency) if one.unit == currency else number(one.value, one.unit)


def why(value: Value) -> str:
    """Return why a number is not known; empty where it is."""
    return clean(value.detail or str(value.reason)) if isinstance(value, Unknown) else ""


def moment(time: float) -> str:
    """Write a moment in UTC."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")


def span(report: Report) -> str:
    """Write the window."""
    return f"{moment(report.first)} to {moment(report.last)} ({(report.last - report.first) / 86_400.0:.1f} days)"


def headline(report: Report) -> str:
    """Say the sum in one sentence."""
    total = report.total
    if isinstance(total.saved, Unknown) or isinstance(total.cost, Unknown):
        return (
            f"{total.gpu_hours:,.0f} GPU-hours could have been freed in {report.hours / 24.0:.1f} days; what they cost "
            f"is not known: {why(total.cost)}."
        )
    return f"{money(total.per_month, report.currency)} a month could be saved, {window(report)}"


def window(report: Report) -> str:
    """Say what a known sum is of what was measured: the rest of the headline."""
    total = report.total
    return (
        f"{share(total.share)} of what the measured GPUs cost: {money(total.saved, report.currency)} of "
        f"{money(total.cost, report.currency)} in {report.hours / 24.0:.1f} days, {total.gpu_hours:,.0f} GPU-hours "
        "freed."
    )


def nothing(report: Report) -> str:
    """Say in one line that there is nothing to report on, and how to get it; empty where there is something."""
    if report.models or report.prices or report.fleet.gpus.value:
        return ""
    gap = next((one for one in report.gaps if one.code == str(Lack.NOTHING)), None)
    if gap is None:
        return "Neither model servers nor GPUs were found on this server in this window."
    return clean(f"Nothing was found: {gap.why}. {gap.remedy}.")


def statistic(name: str) -> str:
    """Say how a fact was come by."""
    return _BASES.get(name, "at least" if name == "AtLeast" else name)


def basis(replay: Replay) -> str:
    """Say on what a replay rests."""
    known = _BASES.get(replay.capacity_basis, "at least: the most that was seen")
    return (
        f"{replay.hours / 24.0:.1f} days replayed; one replica serves {replay.capacity:,.0f} work a second (prompt "
        f"tokens + 4 x generated ones), {known}; {share(float(replay.confidence))} sure; a new replica serves after "
        f"{replay.start_up_s:g} s; {replay.minimum} to {replay.maximum} replicas allowed"
    )


def caveats(report: Report) -> list[str]:
    """Say what stands beside the sum."""
    total, said = report.total, []
    if report.simulated:
        said.append("Parts of this fleet are simulated: its pages say so (optiinfra_simulated).")
    if total.unpaid_gpu_hours > 0.0:
        said.append(
            f"{total.unpaid_gpu_hours:,.0f} of the freed GPU-hours are reserved: freed capacity, not money, and not in "
            "the sum."
        )
    if total.unpriced_gpu_hours > 0.0:
        said.append(f"{total.unpriced_gpu_hours:,.0f} of the freed GPU-hours have no price and are not in the sum.")
    if report.worse:
        who = "one model" if len(report.worse) == 1 else f"{len(report.worse)} models"
        said.append(f"For {who} something would have got worse; see below.")
    return said


def _large(value: float) -> str:
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g} {word}"
    return f"{value:,.0f}"
