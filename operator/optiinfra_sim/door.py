"""What the completions API reaches: a fleet through its router, or one replica past it."""

from collections.abc import Awaitable, Callable

from optiinfra_sim.fleet import Fleet
from optiinfra_sim.request import Request
from optiinfra_sim.trace import Arrival


class Door:
    """A fleet that somebody else advances in real time; ``tick`` waits until they have."""

    def __init__(
        self, fleet: Fleet, *, created: float, replica: str | None, tick: Callable[[], Awaitable[None]]
    ) -> None:
        self._fleet = fleet
        self._tick = tick
        self.created = created
        self.replica = replica
        """None is the router."""

    @property
    def model_name(self) -> str:
        """What is served."""
        return self._fleet.settings.model_name

    @property
    def max_model_len(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self._fleet.settings.max_model_len

    def submit(self, arrival: Arrival) -> Request:
        """Hand in a request now; raises EngineError where the replica does not serve."""
        return self._fleet.submit(arrival, to=self.replica)

    def generated(self, request: Request) -> int:
        """Tokens that it has got so far."""
        return self._fleet.generated(request)

    def abort(self, request: Request) -> None:
        """Forget it."""
        self._fleet.abort(request)

    async def tick(self) -> None:
        """Wait until time has moved on."""
        await self._tick()
