"""How a document is sent: packed or plain, once or not at all; and the parts of the snapshot."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from optiinfra_agent.representation import accepts_gzip, has_already, packed, packed_document
from tests.nvml_stub import Stub
from tests.unit.agent.conftest import Agent, eventually


@pytest.mark.parametrize(
    ("sent", "accepted"),
    [
        ((), False),
        (("gzip",), True),
        (("deflate, gzip;q=1.0, *;q=0.5",), True),
        (("gzip;q=0",), False),
        (("gzip;q=0.000, *",), False),
        (("*",), True),
        (("*;q=0",), False),
        (("br",), False),
        (("br", "gzip"), True),
        (("X-GZIP",), True),
        (("gzip;q=2",), False),
        (("gzip;q=nan",), False),
        (("identity;q=1, *;q=0",), False),
        (("gzip, " * 300,), False),
    ],
)
def test_gzip_is_sent_only_to_who_asks_for_it(sent: tuple[str, ...], *, accepted: bool) -> None:
    assert accepts_gzip([(b"accept-encoding", one.encode()) for one in sent]) is accepted


@pytest.mark.parametrize(
    ("named", "same"),
    [
        ("", False),
        ("*", True),
        ('W/"1.000-7"', True),
        ('"1.000-7"', True),
        ('"x", W/"1.000-7"', True),
        ('W/"1.000-8"', False),
        ("1.000-7", False),
    ],
)
def test_a_tag_is_compared_weakly(named: str, *, same: bool) -> None:
    assert has_already([(b"if-none-match", named.encode())], 'W/"1.000-7"') is same


def test_what_is_packed_is_gzip_and_the_same_each_time() -> None:
    body = b"optiinfra_gpu_power_watts 70.5\n" * 100
    assert gzip.decompress(packed(body, level=6)) == body
    assert packed(body, level=1) == packed(body, level=1)
    assert gzip.decompress(packed_document([body, b",", body])) == body + b"," + body


def test_a_second_reading_of_one_collection_is_answered_with_its_age_alone(start: Callable[..., Agent]) -> None:
    agent = start(OPTIINFRA_AGENT_INTERVAL="2")
    agent.snapshot()
    _, headers, body = agent.request("/v1/snapshot")
    assert headers["cache-control"] == "no-cache"
    status, again, nothing = agent.request("/v1/snapshot", headers={"If-None-Match": headers["etag"]})
    if status == 200:  # a collection came between the two
        assert again["etag"] != headers["etag"]
        headers = again
        status, again, nothing = agent.request("/v1/snapshot", headers={"If-None-Match": headers["etag"]})
    assert (status, nothing) == (304, b"")
    assert float(again["x-snapshot-age-seconds"]) >= 0.0
    assert "content-length" not in again
    fresh = eventually(
        lambda: (
            answer
            if (answer := agent.request("/v1/snapshot", headers={"If-None-Match": headers["etag"]}))[0] == 200
            else None
        )
    )
    assert fresh[1]["etag"] != headers["etag"]
    assert json.loads(fresh[2])["time"] > json.loads(body)["time"]


def test_packed_and_plain_are_the_same_document(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("gpus 8")
    agent = start(OPTIINFRA_AGENT_INTERVAL="60", **stub.environment)
    agent.snapshot()
    for path in ("/v1/snapshot", "/v1/gpus"):
        _, plain_headers, plain = agent.request(path)
        _, headers, body = agent.request(path, headers={"Accept-Encoding": "gzip"})
        assert headers["content-encoding"] == "gzip"
        assert headers["vary"] == "Accept-Encoding"
        assert headers["etag"] == plain_headers["etag"]
        assert gzip.decompress(body) == plain
        assert len(body) < len(plain) / 2
    _, headers, body = agent.request("/metrics", headers={"Accept-Encoding": "gzip"})
    assert headers["content-encoding"] == "gzip"
    assert b"optiinfra_gpu_power_watts{" in gzip.decompress(body)


def test_the_parts_are_those_of_the_snapshot(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("gpus 2")
    agent = start(OPTIINFRA_AGENT_INTERVAL="60", **stub.environment)
    snapshot = agent.snapshot()
    gpus, system, pods = (agent.document(f"/v1/{name}") for name in ("gpus", "system", "pods"))
    for part in (gpus, system, pods):
        assert {name: part[name] for name in ("version", "time", "node", "agent")} == {
            name: snapshot[name] for name in ("version", "time", "node", "agent")
        }
        for name, value in part.items():
            assert value == ({one: snapshot[name][one] for one in value} if name == "sources" else snapshot[name])
    assert set(gpus["sources"]) == {"nvml", "pod_resources"}
    assert len(gpus["gpus"]) == 2
    assert set(system["sources"]) == {"cpu", "memory", "pressure", "network", "disks", "numa", "own_cgroup"}
    assert "gpus" not in system
    assert {"pods", "container_fields", "allocations", "claims"} <= set(pods)


def test_the_settings_in_force_are_shown_without_any_token(start: Callable[..., Agent], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret-of-the-agent")
    agent = start(OPTIINFRA_AGENT_TOKEN_FILE=str(token), OPTIINFRA_AGENT_INTERVAL="7")
    bearer = {"Authorization": "Bearer s3cret-of-the-agent"}
    status, headers, body = agent.request("/v1/config", headers=bearer)
    assert status == 200
    assert headers["cache-control"] == "no-store"
    shown = json.loads(body)["settings"]
    assert shown["OPTIINFRA_AGENT_INTERVAL"] == 7.0
    assert shown["OPTIINFRA_AGENT_TOKEN_FILE"] == str(token)
    assert shown["ORCHESTRATOR_URL"] == ""
    assert b"s3cret" not in body


def test_openmetrics_is_spoken_to_who_asks_for_it(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("gpus 2")
    agent = start(**stub.environment)
    agent.snapshot()
    asked = {"Accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"}
    _, headers, body = agent.request("/metrics", headers=asked)
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    text = body.decode()
    assert text.count("# EOF") == 1
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["optiinfra_gpu_energy_joules"].type == "counter"
    assert len(families["optiinfra_gpu_power_watts"].samples) == 2
    assert "optiinfra_agent_snapshot_age_seconds" in families
    plain = agent.request("/metrics")[2].decode()
    assert "# EOF" not in plain
    names = {line.split()[2] for line in plain.splitlines() if line.startswith("# TYPE")}
    assert len(names) == sum(line.startswith("# TYPE") for line in plain.splitlines()), "a family was written twice"


def test_a_page_follows_the_next_collection(start: Callable[..., Agent], stub: Stub) -> None:
    stub.rules("gpus 1", "value utilization -1 10")
    agent = start(OPTIINFRA_AGENT_INTERVAL="1", **stub.environment)
    uuid = agent.snapshot()["gpus"][0]["uuid"]
    name = f'optiinfra_gpu_utilization_ratio{{uuid="{uuid}"}}'
    assert eventually(lambda: agent.metrics().get(name) == 0.1)
    stub.rules("gpus 1", "value utilization -1 90")
    assert eventually(lambda: agent.metrics()[name] == 0.9)
    assert agent.document("/v1/gpus")["gpus"][0]["utilization_ratio"] == 0.9
