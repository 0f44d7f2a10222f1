"""Advice that says the same is shown as it was said first, so that an idle fleet costs the API server no writes.

Evidence of sizes moves with every sample: a count of samples, a percentile, a probability. None of it is news while the
proposal stays what it is. What was said stands for some hours, each object's for a time of its own, and then the
evidence is brought up to date; a change of the proposal, of its patch or of what it frees is shown at once.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Final

from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import TargetMemory
from optiinfra.domain.evidence import Proposal, Refusal
from optiinfra.domain.units import UnixTime

STANDS: Final = 6.0 * 3600.0
_SPREAD: Final = 0.5
"""Share of that time by which objects differ, so that a fleet that began together is not written together."""


def steady(
    key: ObjectKey, memory: TargetMemory, answers: Sequence[Proposal | Refusal], *, now: UnixTime
) -> list[Proposal | Refusal]:
    """Return the answers, those that say the same as before in the words of before."""
    stands = STANDS * (1.0 + _SPREAD * (zlib.crc32(str(key).encode()) % 1000) / 1000.0)
    told: dict[str, tuple[float, Proposal]] = {}
    found: list[Proposal | Refusal] = []
    for answer in answers:
        if isinstance(answer, Refusal):
            found.append(answer)
            continue
        at, before = memory.told.get(answer.setting, (0.0, None))
        if before is not None and 0.0 <= now - at < stands and _same(before, answer):
            told[answer.setting] = at, before
            found.append(before)
        else:
            told[answer.setting] = now, answer
            found.append(answer)
    memory.told = told
    return found


def _same(before: Proposal, answer: Proposal) -> bool:
    """Tell whether two proposals differ in nothing but what they rest on."""
    return before == dataclasses.replace(
        answer,
        message=before.message,
        lower=before.lower,
        upper=before.upper,
        confidence=before.confidence,
        evidence=before.evidence,
        effects=before.effects,
        risk=before.risk,
        verification=before.verification,
    )
