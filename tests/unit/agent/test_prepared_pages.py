"""A scrape waits for nothing that could be done before it: pages written by the collection, modules loaded later."""

import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from optiinfra_agent import health, metrics
from optiinfra_agent.collection import Collection
from optiinfra_agent.registration import Registration
from optiinfra_agent.server import Application
from optiinfra_agent.settings import read_settings
from optiinfra_agent.traffic import Traffic

TEXT, OPENMETRICS = "text/plain", "application/openmetrics-text; version=1.0.0"
_LATER = ("prometheus_client", "argparse", "http.client", "pynvml")
_LOADED = """
import json, sys, threading
from optiinfra_agent import collection, main
seen = []
class Once(threading.Event):
    def set(self):
        seen.append(sorted(name for name in {names} if name in sys.modules))
        super().set()
collection.threading.Event = Once
def end(application, *, listener, connections, tls, stop):
    published.wait(20.0)
    application.warm_up(published)
    seen.append(sorted(name for name in {names} if name in sys.modules))
    sys.stdout.write(json.dumps(seen))
    sys.stdout.flush()
    import os
    os._exit(0)
published = Once()
started = collection.Collection.start
def start(self):
    global published
    published = self.measured
    started(self)
collection.Collection.start = start
import optiinfra_agent.listener as listener
listener.serve = end
main.main([])
"""


class Node:
    """The agent's own objects on the machine's procfs, collected by hand."""

    def __init__(self) -> None:
        settings = read_settings(
            {"NODE_NAME": "n", "OPTIINFRA_AGENT_POD_RESOURCES": "off", "OPTIINFRA_AGENT_CGROUPS": "off"}
        )
        self.collection = Collection(settings)
        traffic = Traffic()
        registration = Registration(
            settings,
            endpoint="http://test",
            measured=threading.Event(),
            report=lambda: health.report(self.collection, traffic.answered),
        )
        self.application = Application(
            collection=self.collection, registration=registration, token=None, settings=settings, traffic=traffic
        )

    async def scrape(self, accept: str = TEXT) -> str:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"accept", accept.encode())]
        scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": headers}
        await self.application(scope, _nothing, send)
        assert sent[0]["status"] == 200, sent
        return str(sent[1]["body"].decode())


async def _nothing() -> Any:
    raise AssertionError("the agent reads no body")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that wrote what a collection measured."""
    threads: list[str] = []
    honest = metrics.Exposition._written

    def noted(self: Any, *arguments: Any) -> bytes:
        threads.append(threading.current_thread().name)
        return honest(self, *arguments)

    monkeypatch.setattr(metrics.Exposition, "_written", noted)
    return threads


def _collect(node: Node) -> None:
    thread = threading.Thread(target=node.collection.collect, name="collection")
    thread.start()
    thread.join(20.0)
    assert not thread.is_alive()


async def test_who_reads_again_reads_what_the_collection_wrote(written: list[str]) -> None:
    node = Node()
    _collect(node)
    first = await node.scrape()
    assert written == [threading.current_thread().name], "nobody had asked before"
    _collect(node)
    second = await node.scrape()
    assert written[1:] == ["collection"]
    assert await node.scrape(OPENMETRICS)
    _collect(node)
    assert written[2:] == [threading.current_thread().name, "collection", "collection"]
    assert "optiinfra_agent_collections_total 1.0" in first
    assert "optiinfra_agent_collections_total 2.0" in second
    assert (await node.scrape(OPENMETRICS)).endswith("# EOF\n")
    assert len(written) == 5, "both kinds were there already"


async def test_after_the_last_reader_nothing_is_prepared_any_more(
    written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node()
    _collect(node)
    await node.scrape()
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 301.0)
    _collect(node)
    assert len(written) == 1
    assert "optiinfra_agent_collections_total 2.0" in await node.scrape()


async def test_a_page_that_cannot_be_written_ends_no_collection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node()
    _collect(node)
    await node.scrape()
    honest = metrics.Exposition._written

    def broken(*_: Any) -> bytes:
        raise ValueError("no page")

    monkeypatch.setattr(metrics.Exposition, "_written", broken)
    _collect(node)
    assert node.collection.published is not None
    assert node.collection.published.passes == 2
    assert "the page of metrics was not prepared" in caplog.text
    monkeypatch.setattr(metrics.Exposition, "_written", honest)
    assert "optiinfra_agent_collections_total 2.0" in await node.scrape()


def test_the_first_snapshot_waits_for_no_module_that_it_does_not_need() -> None:
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "NODE_NAME": "n",
        "OPTIINFRA_AGENT_LISTEN_ADDRESS": "127.0.0.1",
        "OPTIINFRA_AGENT_LISTEN_PORT": "0",
        "OPTIINFRA_AGENT_POD_RESOURCES": "off",
        "OPTIINFRA_AGENT_CGROUPS": "off",
    }
    done = subprocess.run(
        [sys.executable, "-c", _LOADED.format(names=_LATER)],
        env=environment,
        capture_output=True,
        timeout=60,
        check=True,
    )
    *before, last = json.loads(done.stdout)
    assert before
    assert not any(before)
    assert "prometheus_client" in last, "what writes /metrics is loaded before anybody asks"


def test_arguments_are_still_understood() -> None:
    command = [sys.executable, "-m", "optiinfra_agent"]
    done = subprocess.run([*command, "--version"], capture_output=True, timeout=60, check=True)
    assert done.stdout.startswith(b"optiinfra-agent ")
    wrong = subprocess.run([*command, "--pods"], capture_output=True, timeout=60, check=False)
    assert wrong.returncode == 2
