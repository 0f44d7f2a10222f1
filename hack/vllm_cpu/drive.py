"""Drives the engine: clients in a closed loop, and a reader that keeps the engine's metric pages meanwhile.

The clients join one after another, so that the pages also show the engine at small batches, as a service's day would;
figures are taken only when all have joined and their requests have spread.

The clients keep their own record of what they were answered, so that the engine's figures can be compared with what
its users saw. A refused or broken request ends the run: figures of a half-served load would mean nothing.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson

from hack.vllm_cpu.errors import LoadError
from hack.vllm_cpu.load import Ask, Load, requests_of
from hack.vllm_cpu.pages import MAX_BYTES, Page
from hack.vllm_cpu.server import SERVED_NAME

SCRAPE_SECONDS: Final = 1.0
SCRAPE_TIMEOUT: Final = 20.0
"""Busy cores answer late, and then there are fewer pages; one that takes longer than this ends the run."""
REQUEST_TIMEOUT: Final = 600.0
_DATA: Final = b"data: "
_DONE: Final = b"[DONE]"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one client saw of one request; monotonic times in seconds."""

    sent: float
    first: float
    """When the first token arrived."""
    done: float
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What was seen: all pages, and what happened from the moment from which figures are taken."""

    pages: tuple[Page, ...]
    began: float
    """Unix time from which figures are taken."""
    seconds: float
    """From then to the end."""
    answers: tuple[Answer, ...]
    """Completed in that time."""
    engine_cores: float
    """CPU time that the engine had in that time, per second."""

    @property
    def joining(self) -> int:
        """Pages from before that moment."""
        return sum(page.time < self.began for page in self.pages)


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long each part takes, in seconds."""

    join: float
    """While the clients join."""
    settle: float
    """While their requests spread."""
    watch: float
    """While figures are taken."""


async def drive(url: str, load: Load, course: Course, *, seed: int, cpu_seconds: Callable[[], float]) -> Phase:
    """Offer the load for the whole course and read pages all the time; `LoadError` if it is refused.

    Args:
        url: of the engine.
        load: what is offered.
        course: for how long.
        seed: of the load.
        cpu_seconds: CPU time that the engine has had so far.
    """
    answers: list[Answer] = []
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
    # A connection that is kept may be closed by the engine (after 5 s) just when it is used again.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    try:
        async with (
            aiohttp.ClientSession(url, timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            clients = [
                group.create_task(
                    _client(session, requests_of(load, client=number, seed=seed), load, answers, after=delay)
                )
                for number, delay in enumerate(_delays(load.clients, course.join))
            ]
            before = await _read_pages(session, seconds=course.join + course.settle)
            began, started, used = time.time(), time.monotonic(), cpu_seconds()
            watched = await _read_pages(session, seconds=course.watch)
            ended, used = time.monotonic(), cpu_seconds() - used
            for client in clients:
                client.cancel()
    except* (aiohttp.ClientError, TimeoutError, OSError) as group_of_errors:
        first = _first(group_of_errors)
        raise LoadError(f"the engine does not answer: {type(first).__name__}: {first}") from first
    except* LoadError as group_of_errors:
        raise _first(group_of_errors) from None
    return Phase(
        pages=(*before, *watched),
        began=began,
        seconds=ended - started,
        answers=tuple(one for one in answers if started <= one.done <= ended),
        engine_cores=used / (ended - started),
    )


def _delays(clients: int, join: float) -> list[float]:
    return [join * number / clients for number in range(clients)]


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _client(
    session: aiohttp.ClientSession, asks: Iterator[Ask], load: Load, answers: list[Answer], *, after: float
) -> None:
    await asyncio.sleep(after)
    for ask in asks:
        answers.append(await _complete(session, ask))
        if load.pause_seconds > 0.0:
            await asyncio.sleep(load.pause_seconds)


async def _complete(session: aiohttp.ClientSession, ask: Ask) -> Answer:
    sent = time.monotonic()
    first: float | None = None
    usage: dict[str, Any] | None = None
    async with session.post("/v1/completions", json=ask.body(SERVED_NAME)) as answer:
        if answer.status != 200:
            text = (await answer.text())[:300]
            raise LoadError(f"the engine answers {answer.status} to a completion: {text}")
        async for line in answer.content:
            if not line.startswith(_DATA) or line[len(_DATA) :].startswith(_DONE):
                continue
            event = orjson.loads(line[len(_DATA) :])
            if "error" in event:
                raise LoadError(f"the engine broke a completion off: {str(event['error'])[:300]}")
            if event["choices"] and first is None:
                first = time.monotonic()
            usage = event.get("usage") or usage
    if first is None or usage is None:
        raise LoadError("the engine ended a completion without a token or without its usage")
    return Answer(
        sent=sent,
        first=first,
        done=time.monotonic(),
        prompt_tokens=usage["prompt_tokens"],
        answer_tokens=usage["completion_tokens"],
    )


async def _read_pages(session: aiohttp.ClientSession, *, seconds: float) -> list[Page]:
    pages: list[Page] = []
    due = time.monotonic()
    until = due + seconds
    timeout = aiohttp.ClientTimeout(total=SCRAPE_TIMEOUT)
    while due < until:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        async with session.get("/metrics", timeout=timeout) as answer:
            answer.raise_for_status()
            text = await answer.content.read(MAX_BYTES)
            while len(text) < MAX_BYTES and (more := await answer.content.read(MAX_BYTES - len(text))):
                text += more
        if len(text) >= MAX_BYTES:
            raise LoadError(f"the engine's metric page is over {MAX_BYTES} bytes")
        pages.append(Page(time=time.time(), text=text))
        # A late answer delays the next question, instead of being followed by a burst of them.
        due = max(due + SCRAPE_SECONDS, time.monotonic())
    await asyncio.sleep(max(0.0, until - time.monotonic()))
    return pages
