"""The one layer that repeats a call. The SDK's own retries and LangGraph's are off, or they would multiply.

What may be repeated is decided by the caller's `classify`, for each failure; how often and how long is bounded here by
attempts, by a time-out for each attempt and by one deadline over everything, waits included. A wait that the service
asks for is kept exactly, or, when it is longer than allowed, the call is given up: asking earlier than told is what
turns a throttled client into a blocked one. There is no jitter: one worker asks one question at a time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from optiinfra.analysis.errors import AdviserError, TimedOut

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long one question is tried."""

    attempts: int = 3
    deadline: float = 20.0
    """Seconds for everything: attempts and waits."""
    attempt_timeout: float = 12.0
    """Seconds for one attempt, whole answer included: a server that drips bytes does not get more."""
    first_wait: float = 0.5
    """Seconds before the second attempt; doubled for each further one."""
    longest_wait: float = 5.0
    """Longest single wait. A service that asks for more is not asked again."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failed attempt means."""

    error: AdviserError
    repeatable: bool
    wait: float | None = None
    """Seconds that the service asked to wait."""
    may_have_spent: bool = False
    """Whether the service may have computed, and counted, an answer that never arrived."""


@dataclass(slots=True)
class Attempts:
    """Account of one question's attempts, kept up to date while it is asked."""

    made: int = 0
    lost: int = 0
    """Attempts that may have cost tokens without an answer."""


async def ask_with_retries(
    attempt: Callable[[], Awaitable[Answer]],
    *,
    classify: Callable[[Exception], Failure],
    policy: RetryPolicy,
    account: Attempts,
) -> Answer:
    """Call `attempt` until it answers, cannot be repeated, or the policy's bounds are reached.

    Raises:
        AdviserError: what `classify` made of the last failure, or TimedOut.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + policy.deadline
    wait = policy.first_wait
    while True:
        account.made += 1
        remaining = max(0.0, ends - loop.time())
        failure = await _try_once(attempt, classify, limit=min(policy.attempt_timeout, remaining))
        if not isinstance(failure, Failure):
            return failure
        account.lost += failure.may_have_spent
        pause = wait if failure.wait is None else failure.wait
        out_of_time = loop.time() + pause >= ends
        if not failure.repeatable or account.made >= policy.attempts or pause > policy.longest_wait or out_of_time:
            raise failure.error
        await asyncio.sleep(pause)
        wait = min(wait * 2, policy.longest_wait)


async def _try_once(
    attempt: Callable[[], Awaitable[Answer]],
    classify: Callable[[Exception], Failure],
    *,
    limit: float,
) -> Answer | Failure:
    try:
        async with asyncio.timeout(limit) as bound:
            return await attempt()
    except Exception as error:  # noqa: BLE001  classify re-raises what is not the service's
        if isinstance(error, TimeoutError) and bound.expired():
            return Failure(
                TimedOut(f"no complete answer of the language model within {limit:.3g} s"),
                repeatable=True,
                may_have_spent=True,
            )
        return classify(error)
