"""What each failure of the Groq client means: which AdviserError, and whether asking again may help.

Repeated: connection, rate limit, 5xx. Never repeated: 400, 401, 403, 404 and the other refusals. Imported only when a
call is made: it imports groq.
"""

import email.utils
import math
from collections.abc import Callable
from typing import Any

import groq
import httpx

from optiinfra.analysis.errors import (
    AdviserError,
    AuthenticationFailed,
    InvalidAnswer,
    RateLimited,
    ResponseRefused,
    ServiceFailed,
    TimedOut,
)
from optiinfra.analysis.retry import Failure


def classify(error: Exception, *, clock: Callable[[], float]) -> Failure:
    """Tell what a failed attempt means. Nothing of the foreign error's text is kept.

    Raises:
        Exception: the error itself, when neither the client nor the service can have raised it.
    """
    if isinstance(error, AdviserError):
        return Failure(error, repeatable=False)
    if isinstance(error, groq.APITimeoutError):
        return Failure(TimedOut("the language model did not answer in time"), repeatable=True, may_have_spent=True)
    if isinstance(error, groq.APIConnectionError):
        return _of_connection(error)
    if isinstance(error, groq.APIStatusError):
        return _of_status(error, clock=clock)
    if isinstance(error, groq.GroqError | ValueError | TypeError | KeyError | AttributeError | IndexError):
        # The SDK does not validate a 200: LangChain trips over whatever is not a completion.
        return Failure(
            ServiceFailed(f"the endpoint's answer is not a chat completion ({type(error).__name__}); check its URL"),
            repeatable=False,
            may_have_spent=True,
        )
    raise error


def _of_connection(error: groq.APIConnectionError) -> Failure:
    cause = error.__cause__
    if isinstance(cause, AdviserError):
        return Failure(cause, repeatable=False)
    if isinstance(cause, ResponseRefused):
        return Failure(
            ServiceFailed(f"the language model's answer was not read: {cause}"), repeatable=False, may_have_spent=True
        )
    kind = type(cause).__name__ if cause is not None else "connection error"
    return Failure(ServiceFailed(f"the language model cannot be reached ({kind})"), repeatable=True)


def _of_status(error: groq.APIStatusError, *, clock: Callable[[], float]) -> Failure:
    status = error.status_code
    if status in {401, 403}:
        return Failure(
            AuthenticationFailed(f"the language model does not accept the key (HTTP {status}); renew the Secret"),
            repeatable=False,
        )
    if status == 429:
        wait = retry_after(error.response, clock=clock)
        return Failure(
            RateLimited("the language model throttles (HTTP 429)", retry_after=wait), repeatable=True, wait=wait
        )
    if status >= 500:
        return Failure(ServiceFailed(f"the language model fails (HTTP {status})"), repeatable=True, may_have_spent=True)
    if status == 400 and _code(error.body) == "json_validate_failed":
        return Failure(
            InvalidAnswer("the model could not keep to the schema (HTTP 400 json_validate_failed)"),
            repeatable=False,
            may_have_spent=True,
        )
    return Failure(
        ServiceFailed(f"the endpoint refuses the question (HTTP {status}); check endpoint, path and model"),
        repeatable=False,
    )


def _code(body: Any) -> str:
    """Return the error code of a body, if it has one. Used for comparison only, never shown."""
    inner = body.get("error", body) if isinstance(body, dict) else None
    code = inner.get("code") if isinstance(inner, dict) else None
    return code if isinstance(code, str) else ""


def retry_after(response: httpx.Response, *, clock: Callable[[], float]) -> float | None:
    """Return the seconds that a response asks to wait: a number, or a date. None when it asks for nothing readable."""
    text = response.headers.get("retry-after", "")[:64]
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - clock()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
