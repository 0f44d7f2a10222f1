"""Everything that this package raises.

    AnalysisError (an OptiInfraError)
    +-- RoundFailed            a step of a round raised; says which
    +-- StepTimedOut           a step took longer than it may; the cause of a RoundFailed
    +-- RequestRefused         a request holds something that may not enter a prompt: a mistake of the caller
    +-- ResponseRefused        a response is larger than it may be, or compressed; becomes a ServiceFailed
    +-- AdviserError           no advice; the deterministic ranking stands
        +-- NotConfigured      no model, no key
        +-- AuthenticationFailed
        +-- RateLimited
        +-- ServiceFailed      unreachable, 5xx, or a refusal that repeating does not cure
        +-- TimedOut
        +-- InvalidAnswer      not JSON, not the schema, or nothing in it could be verified
        |   +-- UnknownIds     names a recommendation that does not exist
        +-- BudgetExhausted
        +-- BreakerOpen        not asked, because the last calls failed

The text of a foreign exception never enters one of these: a service may answer with the key, or with the prompt.
"""

# ruff: noqa: N818  these names are also condition reasons (NotConfigured, RateLimited ...); "Error" would say nothing more

from typing import ClassVar

from optiinfra.api.reasons import Reason
from optiinfra.errors import OptiInfraError


class AnalysisError(OptiInfraError):
    """Root of the tree."""


class StepTimedOut(AnalysisError):
    """A step of a round took longer than it may."""

    def __init__(self, *, step: str, limit: float) -> None:
        super().__init__(f"round step {step!r} exceeded its time-out of {limit:g} s; see StepTimeouts.{step}")
        self.step = step
        self.limit = limit


class RoundFailed(AnalysisError):
    """A step of a round raised. The first failure is the cause; later ones are in `also`."""

    def __init__(
        self, *, step: str, cause: Exception, work: object, also: tuple[tuple[str, Exception], ...] = ()
    ) -> None:
        more = f"; afterwards also failed: {', '.join(name for name, _ in also)}" if also else ""
        super().__init__(f"round step {step!r} failed: {type(cause).__name__}: {cause}{more}")
        self.step = step
        self.work = work
        """The batch as it was before the failing step, or as later steps left it."""
        self.also = also
        self.__cause__ = cause


class RequestRefused(AnalysisError):
    """A request holds something that may not enter a prompt. The message names the field, never the value."""


class ResponseRefused(AnalysisError):
    """A response is larger than it may be, or compressed. The SDK wraps it; look at the cause."""


class AdviserError(AnalysisError):
    """No advice. `reason` is the reason of the condition `InsightsAvailable`, `outcome` the label of the metric."""

    reason: Reason = Reason.ENDPOINT_UNREACHABLE
    outcome: ClassVar[str] = "failed"
    service_failure: ClassVar[bool] = False
    """Whether it speaks against the endpoint, so that the breaker counts it."""

    def __init__(self, message: str, *, tokens_in: int = 0, tokens_out: int = 0) -> None:
        super().__init__(message)
        self.tokens_in = tokens_in
        self.tokens_out = tokens_out
        """Tokens that a refused answer cost all the same."""


class NotConfigured(AdviserError):
    """No language model, or no key for it."""

    reason = Reason.NOT_CONFIGURED
    outcome = "not_configured"


class AuthenticationFailed(AdviserError):
    """The service does not accept the key."""

    reason = Reason.AUTHENTICATION_FAILED
    outcome = "authentication_failed"
    service_failure = True


class RateLimited(AdviserError):
    """The service throttles, and still did after the allowed attempts."""

    reason = Reason.RATE_LIMITED
    outcome = "rate_limited"
    service_failure = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds that the service asked to wait, when that is longer than one question may take."""


class ServiceFailed(AdviserError):
    """The service is unreachable, fails, or refuses the request in a way that repeating does not cure."""

    reason = Reason.ENDPOINT_UNREACHABLE
    outcome = "service_failed"
    service_failure = True


class TimedOut(AdviserError):
    """No complete answer within the deadline."""

    reason = Reason.ENDPOINT_UNREACHABLE
    outcome = "timed_out"
    service_failure = True


class InvalidAnswer(AdviserError):
    """The answer is not JSON, breaks the schema, or holds nothing that could be verified."""

    reason = Reason.ANSWER_INVALID
    outcome = "invalid_answer"


class UnknownIds(InvalidAnswer):
    """The answer names a recommendation that does not exist: the whole answer is refused."""

    reason = Reason.ANSWER_INVALID
    outcome = "unknown_ids"


class BudgetExhausted(AdviserError):
    """The object used up its tokens of the day."""

    reason = Reason.BUDGET_EXHAUSTED
    outcome = "budget_exhausted"


class BreakerOpen(AdviserError):
    """Not asked: the last calls to this endpoint failed and it is left alone for a while."""

    outcome = "breaker_open"

    def __init__(self, message: str, *, cause: Reason) -> None:
        super().__init__(message)
        self.reason = cause
        """Why it opened: people need to hear of the refused key, not of the breaker."""
