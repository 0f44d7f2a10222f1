"""What was found on recorded pages, as JSON for machines and as a table for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from math import isfinite
from typing import TypeAlias

from optiinfra.cli.analyze_series import Judged, dominating
from optiinfra.domain.advice import Advice
from optiinfra.domain.diagnosis import Diagnosis
from optiinfra.domain.evidence import Effect, Evidence, Proposal, Refusal
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.units import UnixTime

Json: TypeAlias = "str | float | int | bool | Mapping[str, Json] | Sequence[Json] | None"

_NO_SIGNALS = frozenset({"time", "window", "places", "sources"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One page: what was said at its time, or why it could not be read."""

    page: str
    time: UnixTime
    judged: Judged | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found."""

    entries: Sequence[Entry]
    advice: Sequence[Advice]
    clock: str
    """Where the times are from: "modified", "interval" or "assumed"."""
    gpu_pages: int
    cpu_seconds_per_page: float
    objectives: Mapping[str, float | None]
    """What was promised, seconds; None where nobody did."""


def as_json(report: Report) -> Json:
    """Return the report for machines; the shape is in the reference of commands."""
    return {
        "pages": [_page(entry) for entry in report.entries],
        "advice": [_proposal(one) for one in report.advice if isinstance(one, Proposal)],
        "refused": [_refusal(one) for one in report.advice if isinstance(one, Refusal)],
        "objectives": dict(report.objectives),
        "clock": report.clock,
        "gpu_pages": report.gpu_pages,
        "cpu_seconds_per_page": round(report.cpu_seconds_per_page, 6),
    }


def as_text(report: Report) -> str:
    """Return the report for people: spans of one verdict, then the advice."""
    lines = ["  from page                         pages   seconds  verdict    sure  why"]
    start = min((entry.time for entry in report.entries), default=UnixTime(0.0))
    for verdict, group in groupby(report.entries, key=_verdict):
        span = list(group)
        last = span[-1]
        sure = 0.0 if last.judged is None else last.judged.settled.confidence
        why = last.problem if last.judged is None else last.judged.settled.message
        seconds = f"{span[0].time - start:.0f}-{last.time - start:.0f}"
        lines.append(f"  {span[0].page[-32:]:<32} {len(span):>6} {seconds:>9}  {verdict:<9} {sure:>5.2f}  {why}")
        other = None if last.judged is None else last.judged.settled.alternative
        if other is not None:
            lines.append(f"{'':<63}  {other.bottleneck} instead: {other.message}")
    proposals = [one for one in report.advice if isinstance(one, Proposal)]
    refusals = [one for one in report.advice if isinstance(one, Refusal)]
    lines += ["", _rests_on(report)] if report.advice else []
    lines.append("" if proposals else "No setting to change is proposed.")
    for one in proposals:
        lines += _spoken(one)
    if refusals:
        lines += ["Considered and not proposed:", *(f"  {one.type}, {one.reason}: {one.message}" for one in refusals)]
    given = (("--objective-ttft", "time_to_first_token_p95"), ("--objective-itl", "inter_token_latency_p95"))
    missing = [option for option, name in given if report.objectives.get(name) is None]
    if proposals and missing:
        lines.append(f"\nNo objective was given with {' or '.join(missing)}: no advice keeps within that latency.")
    if report.clock == "assumed":
        lines.append("\nThe pages carry no usable times: 5 s apart was assumed; say --interval for right rates.")
    count = len(report.entries)
    lines.append(
        f"\n{count} pages, {report.gpu_pages} GPU pages, {report.cpu_seconds_per_page * 1e3:.1f} ms CPU a page"
    )
    return "\n".join(lines)


def _rests_on(report: Report) -> str:
    """Say which pages the advice is about: where something limited, not where the recording ends."""
    judged = sorted((entry.judged for entry in report.entries if entry.judged is not None), key=lambda one: one.time)
    span, start = dominating(judged), min(entry.time for entry in report.entries)
    if span is None:
        return "No page was judged."
    seconds = f"{span.first.time - start:.0f}-{span.last.time - start:.0f}"
    return f"Advice for the verdict {span.last.settled.bottleneck}, from the pages of seconds {seconds}:"


def _spoken(one: Proposal) -> list[str]:
    lines = [
        f"{one.type}: {one.setting} {one.current} -> {one.proposed} (sure {one.confidence:.2f})",
        f"  {one.message}",
    ]
    lines += [f"  {effect.signal}: {_told(effect)}" for effect in one.effects]
    for name, text in (("risk", one.risk), ("verify", one.verification), ("undo", one.undo)):
        if text:
            lines.append(f"  {name}: {text}")
    return lines


def _told(effect: Effect) -> str:
    """Write an effect: before, what is expected, and within what; only the interval where nothing is expected."""
    before, lower, expected, upper = (
        _text(value, effect.unit) for value in (effect.before, effect.lower, effect.expected, effect.upper)
    )
    # One unit is enough for both ends.
    unit = lower.rpartition(" ")[2]
    between = f"{lower.removesuffix(' ' + unit) if upper.endswith(' ' + unit) else lower} to {upper}"
    if isinstance(effect.expected, Unknown):
        return f"{before} -> {between}"
    return f"{before} -> {expected}" + (f" ({between})" if lower != upper else "")


def _text(value: Value, unit: str) -> str:
    """Write a value with three digits that count, in the unit that people read."""
    if isinstance(value, Unknown):
        return "unknown"
    match unit:
        case "ratio":
            return f"{value:.0%}" if value == 0.0 or value >= 0.1 else f"{value:.1%}"
        case "seconds" if value < 1.0:
            return f"{value * 1000.0:.3g} ms"
        case "seconds":
            unit = "s"
        case "1/s":
            return f"{value:.3g}/s"
    return f"{f'{value:,.0f}' if value >= 100.0 else f'{value:.3g}'}{' ' + unit if unit else ''}"


def _verdict(entry: Entry) -> str:
    return "Unknown" if entry.judged is None else str(entry.judged.settled.bottleneck)


def _page(entry: Entry) -> Json:
    judged = entry.judged
    if judged is None:
        return {
            "page": entry.page,
            "time_s": entry.time,
            "verdict": "Unknown",
            "confidence": 0.0,
            "reason": "PageUnreadable",
            "message": entry.problem,
            "signals": {},
            "evidence": [],
        }
    return {"page": entry.page, "time_s": entry.time, **_diagnosis(judged.settled), **_moment(judged)}


def _diagnosis(one: Diagnosis) -> dict[str, Json]:
    other = one.alternative
    return {
        "verdict": str(one.bottleneck),
        "confidence": one.confidence,
        "reason": one.reason,
        "message": one.message,
        "alternative": None if other is None else {"verdict": str(other.bottleneck), "message": other.message},
        "evidence": [_evidence(fact) for fact in one.evidence],
    }


def _moment(judged: Judged) -> dict[str, Json]:
    return {
        "since_s": judged.since,
        "window_s": judged.signals.window,
        "window_verdict": str(judged.observed.bottleneck),
        "signals": signals_of(judged.signals, judged.surroundings),
    }


def signals_of(signals: ServiceSignals, surroundings: Surroundings) -> dict[str, Json]:
    """Return every signal by its name; null where it is not known."""
    found: dict[str, Json] = {}
    for source in (signals, surroundings):
        for one in fields(source):
            if one.name not in _NO_SIGNALS:
                found[one.name] = _number(getattr(source, one.name))
    return found


def _number(value: Value) -> float | None:
    # JSON has no infinity.
    return None if isinstance(value, Unknown) or not isfinite(value) else value


def _evidence(fact: Evidence) -> Json:
    found: dict[str, Json] = {
        "signal": fact.signal,
        "value": _number(fact.value),
        "unit": fact.unit,
        "window_s": fact.window,
        "source": fact.source,
        "statistic": fact.statistic,
    }
    if isinstance(fact.value, Unknown):
        found["unknown"] = str(fact.value)
    return found


def _effect(effect: Effect) -> Json:
    return {
        "signal": effect.signal,
        "unit": effect.unit,
        "before": _number(effect.before),
        "lower": _number(effect.lower),
        "expected": _number(effect.expected),
        "upper": _number(effect.upper),
        "basis": effect.basis,
    }


def _proposal(one: Proposal) -> Json:
    return {
        "type": str(one.type),
        "setting": one.setting,
        "current": one.current,
        "proposed": one.proposed,
        "lower": one.lower,
        "upper": one.upper,
        "reason": one.reason,
        "message": one.message,
        "effects": [_effect(effect) for effect in one.effects],
        "risk": one.risk,
        "verification": one.verification,
        "undo": one.undo,
        "confidence": one.confidence,
        "evidence": [_evidence(fact) for fact in one.evidence],
    }


def _refusal(one: Refusal) -> Json:
    return {"type": str(one.type), "reason": one.reason, "message": one.message}
