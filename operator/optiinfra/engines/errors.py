"""The exceptions of this package.

EnginesError
  +-- PageError   what was scraped is not a page that can be read
"""

from optiinfra.domain.readings import Unknown, UnknownReason


class EnginesError(Exception):
    """Base of everything that this package raises."""


class PageError(EnginesError):
    """What was scraped is not a page of a known engine. Carries the `Unknown` that takes the reading's place."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.unknown = Unknown(UnknownReason.INVALID, detail)
