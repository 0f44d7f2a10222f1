"""Kopf's part: events on our kinds, and nothing that would leave a trace on an object."""

import asyncio
import threading
from typing import Any

import kopf
import pytest

from optiinfra import handlers
from optiinfra.settings import OperatorSettings


class Events:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.lists = 0

    def seen(self, kind: str, body: Any) -> None:
        self.calls.append(("seen", kind, body["metadata"]["name"]))

    def gone(self, kind: str, body: Any) -> None:
        self.calls.append(("gone", kind, body["metadata"]["name"]))

    def relisted(self) -> None:
        self.lists += 1


def watched(registry: kopf.OperatorRegistry) -> dict[str, Any]:
    return {str(handler.selector.any_name): handler for handler in registry._watching.get_all_handlers()}


def test_exactly_our_kinds_are_watched():
    both = watched(handlers.registry(Events(), cluster_kind=True))
    assert set(both) == {"resourceoptimizations", "clusterresourceoptimizations"}
    for handler in both.values():
        assert (handler.selector.group, handler.selector.version) == ("optiinfra.io", "v1alpha1")
    assert set(watched(handlers.registry(Events(), cluster_kind=False))) == {"resourceoptimizations"}


def test_nothing_is_registered_that_sets_a_finalizer_or_writes():
    registry = handlers.registry(Events(), cluster_kind=True)
    for kind in ("_spawning", "_changing", "_indexing", "_webhooks"):
        assert list(getattr(registry, kind).get_all_handlers()) == [], kind
    activities = {str(handler.activity) for handler in registry._activities.get_all_handlers()}
    assert len(activities) == 1, "logging in, and no start-up or clean-up of Kopf's"
    assert "auth" in activities.pop().lower()


@pytest.mark.parametrize(
    ("event", "call"), [(None, "seen"), ("ADDED", "seen"), ("MODIFIED", "seen"), ("DELETED", "gone")]
)
@pytest.mark.parametrize(
    ("plural", "kind"),
    [
        ("resourceoptimizations", "ResourceOptimization"),
        ("clusterresourceoptimizations", "ClusterResourceOptimization"),
    ],
)
async def test_an_event_is_one_call(event, call, plural, kind):
    events = Events()
    handler = watched(handlers.registry(events, cluster_kind=True))[plural]
    body = {"metadata": {"name": "svc"}}
    assert await handler.fn(event={"type": event, "object": body}, body=body, logger=None, memo=None) is None
    assert events.calls == [(call, kind, "svc")]
    assert events.lists == (event is None), "what a list no longer holds is told by nobody"


async def test_a_kopf_that_ends_by_itself_is_started_again_and_takes_nothing_with_it(monkeypatch):
    """It ends for good on a list that expired, and cancels what runs beside it in its own loop."""
    lives, beside = [], asyncio.create_task(asyncio.sleep(60.0))
    stop, third = asyncio.Event(), threading.Event()

    async def operator(*, stop_flag: Any, **_: Any) -> None:
        lives.append(threading.current_thread().name)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        if len(lives) < 3:
            raise RuntimeError("410 Gone")
        third.set()
        await asyncio.to_thread(stop_flag.wait)

    monkeypatch.setattr(kopf, "operator", operator)
    monkeypatch.setattr(handlers, "_FIRST_PAUSE", 0.01)
    running = asyncio.create_task(handlers.run(Events(), OperatorSettings(), stop=stop))
    async with asyncio.timeout(30.0):
        await asyncio.to_thread(third.wait)
        stop.set()
        await running
    assert lives == ["kopf"] * 3
    assert not beside.done()
    beside.cancel()


def test_kopf_writes_nothing_and_keeps_to_the_measured_limits():
    settings = kopf.OperatorSettings()
    handlers.configure(settings)
    assert settings.posting.enabled is False, "no Events of Kopf's"
    assert settings.peering.standalone is True
    assert settings.scanning.disabled is True
    assert settings.queueing.worker_limit is None
    assert settings.watching.server_timeout < settings.watching.inactivity_timeout < settings.watching.client_timeout
    assert settings.watching.reconnect_backoff >= 1.0
    progress = settings.persistence.progress_storage
    assert isinstance(progress, kopf.AnnotationsProgressStorage)
    assert progress.prefix == "optiinfra.io"


def test_kopf_compares_no_bodies_and_stores_none():
    settings = kopf.OperatorSettings()
    handlers.configure(settings)
    storage, patch = settings.persistence.diffbase_storage, kopf.Patch()
    body = kopf.Body({"metadata": {"name": "svc", "annotations": {"a": "b"}}, "spec": {"mode": "Auto"}})
    essence = storage.build(body=body)
    assert essence == {}
    storage.store(body=body, patch=patch, essence=essence)
    assert not patch
    assert storage.fetch(body=body) is None
