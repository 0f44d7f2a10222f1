"""KV-OptKit's plan, for those who run its server: asked in the background, shown beside our own advice.

It is asked once a minute at most, only while this replica leads, and never waited for by a round. What it answers is
shown and never followed; that it does not answer is said too (a refusal in the status, a metric, one log line).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from optiinfra import metrics
from optiinfra.domain.evidence import Refusal
from optiinfra.domain.kv_optkit_plan import KVOptKitPlan, note
from optiinfra.domain.readings import Unknown, UnknownReason

_LOG = logging.getLogger(__name__)
_INTERVAL = 60.0


@dataclass(slots=True)
class PlanBoard:
    """The last answer of the KV-OptKit server."""

    read: Callable[[], Awaitable[KVOptKitPlan | Unknown]] | None
    """Asks the server; None where none is configured."""
    answer: KVOptKitPlan | Unknown = field(
        default=Unknown(UnknownReason.NOT_MEASURED, "the KV-OptKit server was not asked yet")
    )

    def notes(self) -> tuple[Refusal, ...]:
        """Return the line that stands beside our advice; none where no server is configured."""
        return () if self.read is None else (note(self.answer),)

    async def run(self) -> None:
        """Ask for ever; cancel to stop. Returns at once where no server is configured."""
        if self.read is None:
            return
        while True:
            answer = await self.read()
            known = not isinstance(answer, Unknown)
            metrics.KV_OPTKIT.set(known)
            if known is isinstance(self.answer, Unknown) or (not known and str(answer) != str(self.answer)):
                _LOG.log(
                    logging.INFO if known else logging.WARNING, "KV-OptKit answered", extra={"answer": str(answer)}
                )
            self.answer = answer
            await asyncio.sleep(_INTERVAL)
