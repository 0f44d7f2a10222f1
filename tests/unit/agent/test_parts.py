"""The small parts on their own: worker with a deadline, JSON of a snapshot, logs, a collector that breaks."""

import json
import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from optiinfra_agent.collection import Collection, Published
from optiinfra_agent.deadline import DeadlineWorker
from optiinfra_agent.document import to_json
from optiinfra_agent.errors import SourceStuckError
from optiinfra_agent.logs import JsonFormatter
from optiinfra_agent.memory import MemoryCollector
from optiinfra_agent.settings import read_settings
from optiinfra_agent.snapshot import Reason, SourceName, SourceState, Unknown, reason_of


def test_worker_gives_results_and_errors_back() -> None:
    worker: DeadlineWorker[int] = DeadlineWorker("test")
    assert worker.run(lambda: 7, deadline_s=10) == 7
    with pytest.raises(ZeroDivisionError):
        worker.run(lambda: 1 // 0, deadline_s=10)
    assert worker.run(lambda: 8, deadline_s=10) == 8


def test_worker_refuses_while_a_call_hangs_and_throws_its_late_result_away() -> None:
    worker: DeadlineWorker[str] = DeadlineWorker("test")
    gate = threading.Event()
    ended = threading.Event()

    def hang() -> str:
        gate.wait(30)
        ended.set()
        return "late"

    before = threading.active_count()
    with pytest.raises(SourceStuckError, match="within"):
        worker.run(hang, deadline_s=0.05)
    for _ in range(3):
        with pytest.raises(SourceStuckError, match="has not come back"):
            worker.run(lambda: "never run", deadline_s=10)
    assert threading.active_count() == before + 1
    gate.set()
    assert ended.wait(10)
    results: list[str] = []
    while not results:
        try:
            results.append(worker.run(lambda: "fresh", deadline_s=10))
        except SourceStuckError:
            continue
    assert results == ["fresh"]


@pytest.fixture
def published(procfs: Path) -> Published:
    settings = read_settings({"NODE_NAME": "node-a", "OPTIINFRA_AGENT_PROCFS": str(procfs)})
    return Collection(settings).collect()


def test_snapshot_refuses_not_a_number(published: Published) -> None:
    broken = replace(published.snapshot, memory=replace(published.snapshot.memory, used_bytes=float("nan")))
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(broken)


def test_snapshot_names_the_reason_of_every_null(published: Published) -> None:
    unknown = replace(published.snapshot.memory, used_bytes=Unknown(Reason.DENIED))
    document = json.loads(to_json(replace(published.snapshot, memory=unknown)))
    assert document["memory"]["used_bytes"] is None
    assert document["memory"]["unknown"] == {"used_bytes": "denied"}
    assert "unknown" not in document["pressure"]


@pytest.mark.parametrize("state", [state for state in SourceState if state is not SourceState.OK])
def test_every_state_has_a_reason_of_the_contract(state: SourceState) -> None:
    assert reason_of(state) in set(Reason)


def test_collector_that_breaks_is_a_failed_source(
    procfs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fall(_self: MemoryCollector) -> None:
        raise RuntimeError("a fault of our own")

    monkeypatch.setattr(MemoryCollector, "collect", fall)
    collection = Collection(read_settings({"OPTIINFRA_AGENT_PROCFS": str(procfs)}))
    snapshot = collection.collect().snapshot
    report = snapshot.sources[SourceName.MEMORY]
    assert (report.state, report.reason) == (SourceState.FAILED, "the collector broke: RuntimeError")
    assert snapshot.memory.total_bytes == Unknown(Reason.FAILED)
    assert snapshot.cpu.cores == 2
    assert "a collector broke" in caplog.text


def test_log_line_is_one_json_object() -> None:
    record = logging.LogRecord("a.b", logging.WARNING, "", 1, "two\nlines %s", ("here",), None)
    record.fields = {"url": "http://x", "path": Path("/p")}
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert line["level"] == "warning"
    assert line["logger"] == "a.b"
    assert line["message"] == "two\nlines here"
    assert line["fields"] == {"url": "http://x", "path": "/p"}
    assert line["time"].endswith("+00:00")
