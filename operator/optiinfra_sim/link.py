"""The link of one engine to a remote KV cache: fetches take their turn on it, and wait for a latency after that."""

from dataclasses import dataclass, field

from optiinfra_sim.request import Request


@dataclass(slots=True)
class RemoteLink:
    """``latency`` seconds a fetch, ``token_seconds`` of the link for each token."""

    latency: float
    token_seconds: float
    fetching: list[Request] = field(default_factory=list)
    """Under way, or ended and not taken into the batch yet; they hold their blocks."""
    _free_at: float = 0.0

    def begin(self, request: Request, *, tokens: int, now: float) -> None:
        """Fetch so many tokens of the prompt; ``request.ready_at`` says when they are here."""
        self._free_at = max(self._free_at, now) + tokens * self.token_seconds
        request.fetched = min(tokens, request.prompt - 1)
        request.ready_at = self._free_at + self.latency
        self.fetching.append(request)

    def ends(self) -> list[float]:
        """When the fetches end."""
        return [request.ready_at for request in self.fetching if request.ready_at is not None]
