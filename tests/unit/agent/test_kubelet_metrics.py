"""Containers by the kubelet's `/metrics/resource`, where the agent may not see cgroups: a server, and its faults."""

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.cluster.agents import parse_snapshot
from optiinfra_agent import kubelet_metrics
from optiinfra_agent.errors import (
    SourceDeniedError,
    SourceError,
    SourceFailedError,
    SourceStuckError,
    SourceUnavailableError,
)
from optiinfra_agent.kubelet_metrics import KubeletMetrics, parse_resource_metrics
from optiinfra_agent.snapshot import NamedContainer, Reason, Unknown
from tests.unit.agent.conftest import once
from tests.unit.web.certificates import Authority

PAGE = """# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="engine",namespace="inference",pod="llama-0"} 1234.567 1795273232521
container_cpu_usage_seconds_total{container="web",namespace="shop",pod="web-1"} 0.5
container_memory_working_set_bytes{container="engine",namespace="inference",pod="llama-0"} 6.271604922e+09 1795273232521
container_start_time_seconds{container="engine",namespace="inference",pod="llama-0"} 1.79e+09 1795273232521
node_cpu_usage_seconds_total 5665.23 1795273232521
pod_cpu_usage_seconds_total{namespace="inference",pod="llama-0"} 1234.6 1795273232521
"""


class Kubelet:
    """A server that answers as the kubelet does, or fails in the way `mode` says."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.mode = "ok"
        self.tokens: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.tokens.append(self.headers.get("Authorization") or "")
                status = int(outer.mode) if outer.mode.isdigit() else 200
                self.send_response(status)
                self.end_headers()
                if outer.mode == "drip":
                    while not outer.released.wait(0.05):
                        try:
                            self.wfile.write(b"#")
                        except OSError:
                            return
                self.wfile.write({"huge": b"#" * 5000, "empty": b"# nothing\n"}.get(outer.mode, PAGE.encode()))

            def log_message(self, *arguments: Any) -> None:
                return

        self.released = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        if tls is not None:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(timeout=10)


@pytest.fixture
def server() -> Iterator[Kubelet]:
    found = Kubelet()
    yield found
    found.close()


def client(url: str, *, token_file: Path | None = None, deadline_s: float = 20.0) -> KubeletMetrics:
    return KubeletMetrics(url, token_file=token_file, ca_file=None, deadline_s=deadline_s)


def test_containers_by_name(server: Kubelet, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    assert client(server.url, token_file=token).collect() == (
        NamedContainer("inference", "llama-0", "engine", 1234.567, 6271604922.0),
        NamedContainer("shop", "web-1", "web", 0.5, Unknown(Reason.UNAVAILABLE)),
    )
    assert server.tokens == ["Bearer secret"]


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        ("401", SourceDeniedError, "nodes/metrics"),
        ("403", SourceDeniedError, "nodes/metrics"),
        ("404", SourceFailedError, "404"),
        ("empty", SourceFailedError, "names no container"),
        ("huge", SourceFailedError, "larger than 4096 bytes"),
        ("drip", SourceStuckError, "no whole answer"),
    ],
)
def test_faults(
    server: Kubelet, monkeypatch: pytest.MonkeyPatch, mode: str, kind: type[SourceError], words: str
) -> None:
    monkeypatch.setattr(kubelet_metrics, "LIMIT_BYTES", 4096)
    server.mode = mode
    with pytest.raises(kind, match=words):
        client(server.url, deadline_s=0.3 if mode == "drip" else 20.0).collect()


def test_nobody_listens_no_token_and_a_peer_that_is_no_server(silent_port: int, tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailableError, match="does not listen"):
        client(f"http://127.0.0.1:{silent_port}").collect()
    with pytest.raises(SourceDeniedError, match="cannot be read"):
        client(f"http://127.0.0.1:{silent_port}", token_file=tmp_path / "nothing").collect()
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SourceDeniedError, match="holds no token"):
        client(f"http://127.0.0.1:{silent_port}", token_file=tmp_path / "empty").collect()


def test_tls_is_verified(server: Kubelet) -> None:
    with pytest.raises(SourceFailedError, match="SSL"):
        client(server.url.replace("http:", "https:")).collect()


def test_with_the_token_and_the_authority_that_the_chart_mounts(tmp_path: Path) -> None:
    authority = Authority("cluster", tmp_path)
    pair = authority.sign("kubelet", server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    (tmp_path / "ca.crt").write_text(authority.pem)
    (tmp_path / "token").write_text("of-the-service-account")
    kubelet = Kubelet(context)
    try:
        snapshot = once(
            OPTIINFRA_AGENT_KUBELET_URL=kubelet.url,
            OPTIINFRA_AGENT_KUBELET_TOKEN_FILE=str(tmp_path / "token"),
            OPTIINFRA_AGENT_KUBELET_CA_FILE=str(tmp_path / "ca.crt"),
        )
    finally:
        kubelet.close()
    assert snapshot["sources"]["containers"]["state"] == "ok"
    assert len(snapshot["named_pods"]) == 2
    assert kubelet.tokens == ["Bearer of-the-service-account"]


def test_the_snapshot_names_them_and_says_why_by_name(server: Kubelet) -> None:
    snapshot = once(OPTIINFRA_AGENT_KUBELET_URL=server.url)
    assert snapshot["sources"]["containers"]["state"] == "ok"
    assert snapshot["sources"]["containers"]["reason"].endswith("cgroups are unavailable: switched off")
    assert snapshot["pods"] == {}
    assert snapshot["named_container_fields"] == ["name", "cpu_seconds_total", "working_set_bytes"]
    assert snapshot["named_pods"][0] == {
        "namespace": "inference",
        "pod": "llama-0",
        "containers": [["engine", 1234.57, 6_272_000_000]],
    }
    assert snapshot["named_pods"][1]["containers"] == [["web", 0.5, None, {"working_set_bytes": "unavailable"}]]
    # And so the operator reads it.
    (one,) = parse_snapshot(json.dumps(snapshot).encode(), pods={"uid"}, names={("inference", "llama-0")}).named
    assert tuple(one) == ("inference", "llama-0", "engine", 1234.57, 6_272_000_000.0)


def test_without_an_address_nothing_is_asked() -> None:
    snapshot = once()
    source = snapshot["sources"]["containers"]
    assert (source["state"], source["reason"]) == ("unavailable", "switched off")
    assert "named_pods" not in snapshot


NOISE = st.text(alphabet=st.sampled_from('{}=",. -+e0123456789abc\n\\#'), max_size=80)
LINES = st.lists(st.sampled_from(PAGE.splitlines()) | NOISE, max_size=30).map("\n".join)


@given(text=LINES | st.text(max_size=300))
def test_any_page_is_containers_with_sane_numbers(text: str) -> None:
    for one in parse_resource_metrics(text):
        assert one.namespace
        assert one.pod
        assert one.name
        for value in (one.cpu_seconds_total, one.working_set_bytes):
            assert isinstance(value, Unknown) or 0 <= value < 1 << 50
