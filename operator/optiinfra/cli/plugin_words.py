"""The kubectl plug-in's words: statuses as text for a terminal. Pure; numbers come as the status has them."""

from collections.abc import Iterable, Sequence

from optiinfra.api.v1alpha1 import ResourceOptimization
from optiinfra.api.v1alpha1.status_parts import ApprovalState, EvidenceStatus, Measured, RecommendationStatus

_HEAD = ("OBJECT", "ID", "TYPE", "SUBJECT", "CURRENT", "PROPOSED", "CONFIDENCE", "SAVES/MO", "APPROVAL")


def title(item: RecommendationStatus) -> str:
    """Return a recommendation in a line."""
    about = f" of {item.subject}" if item.subject else ""
    return f"{item.id} {item.type}: {item.setting}{about} {item.current or '(none)'} -> {item.proposed}"


def allowed(item: RecommendationStatus) -> str:
    """Say what an approval allows; empty for what has no envelope."""
    envelope = item.envelope
    if envelope is None:
        return ""
    return (
        f"an approval allows {envelope.lowest} to {envelope.highest} replicas, at most {envelope.max_step} at a time, "
        "for 24 h; policy keeps the last word"
    )


def overview(objects: Sequence[ResourceOptimization]) -> str:
    """Return a table of all recommendations, one line each; an object without any has a line of its own."""
    rows: list[tuple[str, ...]] = [_HEAD]
    for obj in objects:
        approvals = {one.id: str(one.state) for one in obj.status.used_approvals}
        if not obj.status.recommendations:
            rows.append((obj.key, "-", "-", "nothing is recommended", "", "", "", "", ""))
        for item in obj.status.recommendations:
            saved = item.savings.per_month
            money = f"{saved:,.0f}" if saved is not None else "-"
            rows.append(
                (
                    obj.key,
                    item.id,
                    str(item.type),
                    item.subject or "-",
                    item.current[:32] or "(none)",
                    item.proposed[:32],
                    f"{item.confidence:g}",
                    money,
                    approvals.get(item.id, "-"),
                )
            )
    return _table(rows)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def explanation(obj: ResourceOptimization, item: RecommendationStatus) -> str:
    """Return everything that is known of one recommendation."""
    lines = [
        title(item),
        f"object: {obj.key}",
        f"reason: {item.reason}, {item.severity}, confidence {item.confidence:g}",
        f"why: {item.message}",
        f"band: {item.lower} .. {item.upper}",
        f"issued {item.issued_at}, expires {item.expires_at}",
        *_optional("an approval", allowed(item).removeprefix("an approval ")),
        *(f"evidence: {_fact(fact)}" for fact in item.evidence),
        *(
            f"effect: {one.signal} {_number(one.before)} -> {_number(one.expected)} {one.unit}"
            f" ({_number(one.lower)} .. {_number(one.upper)}; {one.basis})"
            for one in item.effects
        ),
        *_optional("risk", item.risk),
        *_optional("see that it worked", item.verification),
        *_optional("undo", item.undo),
        *_optional("insight", item.insight.text if item.insight is not None else ""),
    ]
    return "\n".join(lines)


def _optional(name: str, text: str) -> Iterable[str]:
    return [f"{name}: {text}"] if text else []


def _fact(fact: EvidenceStatus) -> str:
    return f"{fact.signal} {fact.statistic} {_number(fact)} {fact.unit} over {fact.window}, {fact.source}".replace(
        "  ", " "
    )


def _number(measured: Measured) -> str:
    return f"{measured.value:g}" if measured.value is not None else f"unknown ({measured.unknown})"


def reasons(obj: ResourceOptimization) -> str:
    """Return why an object does what it does: what was decided, what stands in the way, what was done."""
    status = obj.status
    lines = [f"{obj.key}: mode {status.mode or '(not judged yet)'}, target {status.target or '-'}"]
    if status.desired is not None:
        count = (
            status.desired.replicas if status.desired.replicas is not None else f"unknown ({status.desired.unknown})"
        )
        lines.append(f"decided: {count} replicas by {status.desired.rule}: {status.desired.message}")
    lines.append(f"effective: {status.effective or '-'}")
    lines += [f"{one.type}: {one.status} ({one.reason}) {one.message}" for one in status.conditions]
    lines += [f"not proposed: {one.type} ({one.reason}) {one.message}" for one in status.refusals]
    lines += [
        f"approved: {one.id} {one.subject} {one.envelope.lowest} to {one.envelope.highest} replicas until {one.until}"
        for one in status.used_approvals
        if one.state is ApprovalState.STANDING and one.envelope is not None
    ]
    lines += [
        f"resize: {one.subject} {one.setting} {one.from_} -> {one.to}: {one.state} ({one.reason}) {one.message}"
        for one in status.resizes
    ]
    lines += [
        f"action {one.at}: {one.type} {one.subject} {one.from_} -> {one.to}: {one.state} {one.message}"
        for one in status.actions
    ]
    return "\n".join(lines)
