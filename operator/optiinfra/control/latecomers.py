"""Objects whose calls take long leave their round: it goes on without them, and they come to its end by themselves.

A step is a barrier, and one request that is accepted and never answered would hold up every other object until its
time is out. So a step waits a moment for each object, and not long for all of them; an object that is not done by then
becomes a round of its own (`Late`). Nothing is cancelled and nothing is done twice: the same call goes on, then the
steps that are left, and until then the queue does not hand that object out again.
"""

import asyncio
import dataclasses
import itertools
import logging
from collections.abc import Awaitable, Callable, Container, Iterator, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from optiinfra import metrics
from optiinfra.control.keys import ObjectKey
from optiinfra.control.work import BrokenWork, ClusterWork, Late, LeftWork, ServiceWork, Work

_LOG = logging.getLogger(__name__)
PATIENCE: Final = 1.0
"""Seconds that a step waits for one object; an API server that is well answers 99 of 100 calls within one."""
STEP_PATIENCE: Final = 20.0
"""Seconds after which a step waits for nobody any more; 500 statuses at 50 calls a second take ten."""
_NAMED: Final = 5
T = TypeVar("T")
NextStep: TypeAlias = Callable[[T], Awaitable[T]]


async def apart(
    items: Sequence[T], act: Callable[[T], Awaitable[None]], *, at_once: int, alone: bool = False
) -> list[tuple[T, "asyncio.Task[None]"]]:
    """Act for each item, at most `at_once` at a time; returns the items that take long, with their tasks, which go on.

    Who takes long holds no place any more. `alone` waits for all, however long they take.

    Raises:
        ExceptionGroup: of what `act` raised before anybody was late with it.
    """
    clock = asyncio.get_running_loop().time
    places, deadline = asyncio.Semaphore(at_once), clock() + STEP_PATIENCE
    late: list[tuple[T, asyncio.Task[None]]] = []

    async def one(item: T) -> None:
        async with places:
            task = asyncio.create_task(_awaited(act, item))
            patience = None if alone else max(0.0, min(PATIENCE, deadline - clock()))
            try:
                await asyncio.wait((task,), timeout=patience)
            except asyncio.CancelledError:
                task.cancel()
                raise
            if task.done():
                task.result()
            else:
                late.append((item, task))

    try:
        async with asyncio.TaskGroup() as group:
            for item in items:
                group.create_task(one(item))
    except BaseException:
        for _, task in late:  # nobody would hear of them
            task.cancel()
        raise
    return late


async def _awaited(act: Callable[[T], Awaitable[None]], item: T) -> None:
    await act(item)


def leave(
    work: Work,
    late: Sequence[tuple[ObjectKey, "asyncio.Task[None]"]],
    *,
    step: str,
    then: Sequence[NextStep[Work]] = (),
) -> None:
    """Take objects out of a round, each as a round of its own that goes through the steps `then` after its task."""
    if not late:
        return
    for key, task in late:
        own = _narrowed(work, {key}, keys=(key,), gone=[], late=[], alone=True)
        work.late.append(Late(own, asyncio.create_task(_rest(own, task, then), name=f"late {step}")))
    keys = {key for key, _ in late}
    staying = _narrowed(work, {one.key for one in _items(work)} - keys)
    work.services, work.clusters = staying.services, staying.clusters
    work.left, work.broken = staying.left, staying.broken
    metrics.LATE_OBJECTS.labels(step).inc(len(late))
    some = ", ".join(str(key) for key, _ in late[:_NAMED])
    extra = {"objects": len(late), "some": some, "step": step, "round": work.round_id}
    _LOG.warning("calls of objects take long; the round goes on without them", extra=extra)


async def _rest(own: Work, task: "asyncio.Task[None]", then: Sequence[NextStep[Work]]) -> None:
    await task
    for step in then:
        own = await step(own)


def _items(work: Work) -> Iterator[ServiceWork | ClusterWork | LeftWork | BrokenWork]:
    return itertools.chain(work.services, work.clusters, work.left, work.broken)


def _narrowed(work: Work, only: Container[ObjectKey], **changes: Any) -> Work:
    """Return the same round of these objects only."""
    return dataclasses.replace(
        work,
        services=[one for one in work.services if one.key in only],
        clusters=[one for one in work.clusters if one.key in only],
        left=[one for one in work.left if one.key in only],
        broken=[one for one in work.broken if one.key in only],
        **changes,
    )
