"""The one thing that an adviser is: something that answers a request. How it does so is its own module's business."""

from typing import Protocol

from optiinfra.analysis.advice import Advice
from optiinfra.analysis.request import InsightRequest


class Adviser(Protocol):
    """Ranks and explains candidates. It can neither add one nor change a number."""

    @property
    def name(self) -> str:
        """`deterministic`, `groq`: shown with every insight."""
        ...

    async def advise(self, request: InsightRequest, /) -> Advice:
        """Answer the request.

        Raises:
            AdviserError: there is no advice; the error knows the condition's reason.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...
