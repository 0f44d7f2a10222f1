"""Which adviser a process uses: the one place that decides it. Nothing of a language model is imported here."""

import time
from collections.abc import Callable

from optiinfra.analysis.adviser import Adviser
from optiinfra.analysis.deterministic import DeterministicAdviser
from optiinfra.analysis.groq_adviser import GroqAdviser
from optiinfra.analysis.settings import AdviserSettings

__all__ = ["AdviserSettings", "build_adviser"]


def build_adviser(
    settings: AdviserSettings | None,
    *,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> Adviser:
    """Build the adviser.

    Args:
        settings: of the language model; None means that none is configured, and the deterministic adviser answers.
        clock: seconds since 1970, for the day of the token budget.
        monotonic: seconds of a clock that never goes back, for the breaker and the cache.
    """
    if settings is None:
        return DeterministicAdviser()
    return GroqAdviser(settings, clock=clock, monotonic=monotonic)
