"""What limited a model, hour by hour, and what its engines' settings would have changed about it.

The verdicts are the operator's own (`bottleneck.diagnose`) on windows of an hour. The advice on batches and KV caches
rests on the clearest hour of the limit that held the longest, because a fortnight's mean is an hour that never was. A
limit that held for a few hours only is history, not a reason to restart replicas.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from optiinfra.domain import kv_cache, tuning
from optiinfra.domain.advice import AdviceInput
from optiinfra.domain.bottleneck import diagnose
from optiinfra.domain.diagnosis import Diagnosis
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Bottleneck, Proposal, RecommendationType, Refusal
from optiinfra.domain.gpu_models import GpuModel
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.pace import Pace
from optiinfra.domain.readings import Unknown
from optiinfra.domain.report.hours import Hour
from optiinfra.domain.report.report import Limit, Refused
from optiinfra.domain.units import Ratio, Seconds

LEAST_SHARE: Final = 0.05
"""Share of the hours with work from which a limit is worth a change of settings."""
LEAST_HOURS: Final = 3
ADVISED: Final = frozenset({Bottleneck.KV_CACHE, Bottleneck.BATCH, Bottleneck.COMPUTE, Bottleneck.QUEUE})
"""Limits that settings of the engine are about."""
_WORKLESS: Final = frozenset({Bottleneck.IDLE, Bottleneck.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Judged:
    """One hour and its verdict."""

    hour: Hour
    diagnosis: Diagnosis


@dataclass(frozen=True, slots=True)
class Advised:
    """What follows from the verdicts."""

    limits: tuple[Limit, ...]
    proposals: tuple[Proposal, ...]
    refused: tuple[Refused, ...]


def judged(hours: Sequence[Hour], *, settings: EngineSettings, objectives: Objectives, promised: bool) -> list[Judged]:
    """Judge each hour by itself."""
    found = []
    quiet = 0.0
    for hour in hours:
        signals = hour.signals
        busy = signals.busy_share
        quiet = 0.0 if isinstance(busy, Unknown) or busy > 0.0 else quiet + signals.window
        verdict = diagnose(
            signals, settings, objectives, surroundings=hour.surroundings, quiet=Seconds(quiet), promised=promised
        )
        found.append(Judged(hour, verdict))
    return found


def advise(
    verdicts: Sequence[Judged], *, settings: EngineSettings, objectives: Objectives, gpu: GpuModel | Unknown, pace: Pace
) -> Advised:
    """Sum the verdicts up, and ask the operator's rules on batches and KV caches about the clearest hour."""
    limits = _limits(verdicts)
    working = [one for one in verdicts if one.diagnosis.bottleneck not in _WORKLESS]
    held = Counter(one.diagnosis.bottleneck for one in working if one.diagnosis.bottleneck in ADVISED)
    if not held:
        return Advised(limits, (), ())
    kind = max(held, key=lambda one: (_waited(working, one), held[one], str(one)))
    count = held[kind]
    if count < LEAST_HOURS or count < LEAST_SHARE * len(working):
        text = f"{kind} limited it in {count} of {len(working)} hours with work: too few to restart replicas for"
        return Advised(limits, (), (Refused(RecommendationType.BATCH_SIZE, "RarelyLimited", text),))
    clearest = _clearest([one for one in working if one.diagnosis.bottleneck is kind])
    given = AdviceInput(
        clearest.hour.signals,
        settings,
        clearest.diagnosis,
        objectives,
        gpu=gpu,
        pace=pace,
        surroundings=clearest.hour.surroundings,
    )
    answers = (*tuning.advise(given), *kv_cache.advise(given))
    return Advised(
        limits,
        tuple(one for one in answers if isinstance(one, Proposal)),
        tuple(Refused(one.type, one.reason, one.message) for one in answers if isinstance(one, Refusal)),
    )


def _waited(verdicts: Sequence[Judged], kind: Bottleneck) -> float:
    """Return the request-hours that waited under a limit: what it did, rather than how often it was there."""
    total = 0.0
    for one in verdicts:
        waiting = one.hour.signals.waiting
        if one.diagnosis.bottleneck is kind and not isinstance(waiting, Unknown):
            total += waiting * one.hour.signals.window / 3600.0
    return total


def _clearest(verdicts: Sequence[Judged]) -> Judged:
    """Return the hour with the surest verdict, and of those the one with the most that waited."""

    def key(one: Judged) -> tuple[float, float, float]:
        waiting = one.hour.signals.waiting
        return one.diagnosis.confidence, 0.0 if isinstance(waiting, Unknown) else waiting, one.hour.signals.time

    return max(verdicts, key=key)


def _limits(verdicts: Sequence[Judged]) -> tuple[Limit, ...]:
    total = sum(one.hour.signals.window for one in verdicts)
    found: dict[Bottleneck, list[Judged]] = {}
    for one in verdicts:
        found.setdefault(one.diagnosis.bottleneck, []).append(one)
    rows = []
    for kind, group in found.items():
        seconds = sum(one.hour.signals.window for one in group)
        clearest = _clearest(group)
        reason = Counter(one.diagnosis.reason for one in group).most_common(1)[0][0]
        rows.append(
            Limit(
                bottleneck=kind,
                hours=seconds / 3600.0,
                share=Ratio(seconds / total if total > 0.0 else 0.0),
                reason=reason,
                message=clearest.diagnosis.message,
                at=clearest.hour.signals.time,
                confidence=clearest.diagnosis.confidence,
            )
        )
    return tuple(sorted(rows, key=lambda one: (-one.hours, str(one.bottleneck))))
