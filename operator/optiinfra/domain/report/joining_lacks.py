"""What the rules about missing things look through, and what they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.report.history import GpuHistory, ModelHistory, NodeHistory
from optiinfra.domain.report.joining_found import Found
from optiinfra.domain.report.joining_frames import Answers

MOST: Final = 20
"""Names in one line."""


@dataclass(frozen=True, slots=True)
class Joined:
    """What was joined, to be looked through."""

    answers: Answers
    found: Found
    models: Sequence[ModelHistory]
    gpus: Sequence[GpuHistory]
    nodes: Sequence[NodeHistory]
    unanswered: Sequence[tuple[str, str]]
    holders: Sequence[str]
    """namespace/workload of everybody who ever held or requested a GPU."""
    resets: int
    """Counters that began anew."""
    restarted: tuple[str, ...]


def some(names: Sequence[str]) -> tuple[str, ...]:
    """Return the first of some names."""
    return tuple(names[:MOST])
