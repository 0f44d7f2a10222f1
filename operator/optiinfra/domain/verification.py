"""Did an action do harm: the signals before it against those after it, while it is watched.

Harm is an objective that was kept before and is missed now, and after shrinking also a queue or preemptions that were
not there before. A verdict needs a window that lies wholly after the action. What was not measured never counts as
good; after a fall it does not hide a missed objective either. A rise is judged but never to be rolled back for it:
taking capacity away cannot help a service that is late.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from optiinfra.domain.evidence import Direction, Evidence
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.signals import ServiceSignals

QUEUE_GROWTH: Final = 2.0
"""After shrinking the queue may grow to this many times what it was, and by one request a replica, before it counts."""
LEAST_PREEMPTIONS: Final = 0.01
"""Preemptions per second below which the KV cache counts as large enough."""


class Outcome(StrEnum):
    """The four verdicts."""

    VERIFIED = "Verified"
    REGRESSED = "Regressed"
    TOO_EARLY = "TooEarly"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an action so far."""

    outcome: Outcome
    reason: str
    """CamelCase reason code: "TimeToFirstToken", "InterTokenLatency", "QueueTime", "QueueGrew", "Preemptions", ..."""
    message: str
    roll_back: bool = False
    """True when undoing the action is the remedy; never for a rise."""
    evidence: tuple[Evidence, ...] = ()


def judge(
    before: ServiceSignals,
    after: ServiceSignals,
    objectives: Objectives,
    *,
    direction: Direction,
) -> Verdict:
    """Compare the signals of the moment before an action with those after it."""
    if after.time - after.window < before.time:
        text = f"the window of {after.window:.0f} s reaches back before the action {after.time - before.time:.0f} s ago"
        return Verdict(Outcome.TOO_EARLY, "WindowOverlaps", text)
    if after.replicas_reporting <= 0:
        return Verdict(Outcome.UNKNOWN, "NoData", f"none of {after.replicas_expected} replicas reports")
    harm = _missed_objective(before, after, objectives, direction=direction)
    if harm is None and direction is not Direction.SCALE_UP:
        harm = _pressure(before, after)
    if harm is not None:
        return harm
    if after.replicas_reporting < after.replicas_expected:
        text = f"{after.replicas_reporting} of {after.replicas_expected} replicas report"
        if direction is Direction.SCALE_UP:
            return Verdict(Outcome.TOO_EARLY, "ReplicasStarting", text)
        return Verdict(Outcome.UNKNOWN, "ReplicasMissing", text)
    if isinstance(after.waiting, Unknown) or isinstance(after.running, Unknown):
        missing = after.waiting if isinstance(after.waiting, Unknown) else after.running
        return Verdict(Outcome.UNKNOWN, "NoData", f"requests in flight: {missing}")
    if after.window <= 0.0:
        return Verdict(Outcome.TOO_EARLY, "OneSample", "one page since the action says nothing about rates")
    text = f"no objective is newly missed, {after.waiting:.0f} requests wait on {after.replicas_reporting} replicas"
    return Verdict(Outcome.VERIFIED, "ObjectivesKept", text, evidence=_pair("requests_waiting", "", before, after))


def _missed_objective(
    before: ServiceSignals, after: ServiceSignals, objectives: Objectives, *, direction: Direction
) -> Verdict | None:
    for reason, name, limit in (
        ("TimeToFirstToken", "time_to_first_token_p95", objectives.time_to_first_token_p95),
        ("InterTokenLatency", "inter_token_latency_p95", objectives.inter_token_latency_p95),
        ("QueueTime", "queue_time_p95", objectives.queue_delay),
    ):
        was: Value = getattr(before, name)
        now: Value = getattr(after, name)
        if isinstance(now, Unknown) or now <= limit:
            continue
        if isinstance(was, Unknown):
            # Nothing shows that it was missed before the fall: giving capacity back is the safe side.
            if direction is not Direction.SCALE_DOWN:
                continue
            then = "not known before"
        elif was > limit:
            continue
        else:
            then = f"{was:.3g} s before"
        return Verdict(
            Outcome.REGRESSED,
            reason,
            f"{name} is {now:.3g} s, {then}; the objective is {limit:.3g} s",
            roll_back=direction is not Direction.SCALE_UP,
            evidence=_pair(name, "seconds", before, after),
        )
    return None


def _pressure(before: ServiceSignals, after: ServiceSignals) -> Verdict | None:
    was, now = before.waiting, after.waiting
    if not isinstance(now, Unknown):
        known = 0.0 if isinstance(was, Unknown) else was
        if now > max(QUEUE_GROWTH * known, known + after.replicas_reporting):
            text = f"{now:.0f} requests wait, " + (
                "not known before" if isinstance(was, Unknown) else f"{was:.0f} before"
            )
            return Verdict(
                Outcome.REGRESSED, "QueueGrew", text, roll_back=True, evidence=_pair("waiting", "", before, after)
            )
    rate_was, rate_now = before.preemption_rate, after.preemption_rate
    if isinstance(rate_was, Unknown) or isinstance(rate_now, Unknown):
        return None
    if rate_was <= LEAST_PREEMPTIONS < rate_now:
        text = f"{rate_now:.2g} preemptions/s, {rate_was:.2g} before"
        evidence = _pair("preemption_rate", "1/s", before, after)
        return Verdict(Outcome.REGRESSED, "Preemptions", text, roll_back=True, evidence=evidence)
    return None


def _pair(signal: str, unit: str, before: ServiceSignals, after: ServiceSignals) -> tuple[Evidence, ...]:
    name = "waiting" if signal == "requests_waiting" else signal
    return tuple(
        Evidence(f"{signal}_{when}", getattr(seen, name), unit, seen.window, "engine")
        for when, seen in (("before", before), ("after", after))
    )
