"""The client of PodResources: against recorded answers of the real server, a stand-in with faults, and nonsense."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optiinfra_agent import headers, podresources, unary, wire
from optiinfra_agent.errors import (
    SourceDeniedError,
    SourceError,
    SourceFailedError,
    SourceStuckError,
    SourceUnavailableError,
    SourceUnsupportedError,
    WireError,
)
from optiinfra_agent.podresources import ClaimedDevice, Devices, PodResources
from tests.kubelet_stub import Kubelet, claim, device, pod

RECORDED = Path(__file__).parent.parent.parent / "data" / "kubelet"
GPU = "GPU-{:08d}-1111-2222-3333-444444444444"


def client(kubelet: Kubelet, *, deadline_s: float = 20.0) -> PodResources:
    return PodResources(kubelet.folder, deadline_s=deadline_s)


# ---- the real server's bytes


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Callable[[bytes], Path]]:
    """A socket on which one connection gets recorded bytes, whatever it asks."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(data: bytes) -> Path:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(tmp_path / "kubelet.sock"))
        listener.listen()
        listeners.append(listener)

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65_536):
                    pass

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        threads.append(thread)
        return tmp_path

    yield serve
    for thread in threads:
        thread.join(timeout=10)
    for listener in listeners:
        listener.close()


def test_recorded_list(replay: Callable[[bytes], Path]) -> None:
    folder = replay((RECORDED / "list.bin").read_bytes())
    pods = PodResources(folder, deadline_s=20).list()
    assert [one.name for one in pods] == ["pod-0", "pod-1", "pod-2"]
    container = pods[1].containers[0]
    assert (pods[1].namespace, container.name, container.exclusive_cpus) == ("inference", "engine", 3)
    assert container.devices == (Devices("nvidia.com/gpu", (GPU.format(1), GPU.format(7) + "::2"), (0, 1)),)
    assert container.claims == (
        ClaimedDevice("inference", "one-gpu", "gpu.nvidia.com", "node-a", "gpu-3", share="share-1"),
    )


def test_recorded_get(replay: Callable[[bytes], Path]) -> None:
    folder = replay((RECORDED / "get.bin").read_bytes())
    assert PodResources(folder, deadline_s=20).get(namespace="inference", name="pod-1").name == "pod-1"


def test_recorded_refusal(replay: Callable[[bytes], Path]) -> None:
    folder = replay((RECORDED / "get-not-found.bin").read_bytes())
    with pytest.raises(SourceFailedError, match="status 5 of gRPC: pod y in namespace x not found") as caught:
        PodResources(folder, deadline_s=20).get(namespace="x", name="y")
    assert caught.value.code == unary.NOT_FOUND


def test_recorded_allocatable(replay: Callable[[bytes], Path]) -> None:
    folder = replay((RECORDED / "allocatable.bin").read_bytes())
    devices = PodResources(folder, deadline_s=20).allocatable()
    assert [one.ids for one in devices] == [(GPU.format(index),) for index in range(8)]
    assert [one.numa_nodes for one in devices] == [(0,)] * 4 + [(1,)] * 4


@pytest.mark.parametrize("name", ["list", "get", "allocatable"])
def test_recorded_answer_cut_anywhere_is_an_error_and_nothing_else(
    replay: Callable[[bytes], Path], name: str, tmp_path: Path
) -> None:
    data = (RECORDED / f"{name}.bin").read_bytes()
    folder = replay(data[: len(data) // 2])
    with pytest.raises(SourceFailedError, match="closed before"):
        PodResources(folder, deadline_s=20).list()


# ---- a process with faults


def test_all_forms_of_devices(kubelet: Kubelet) -> None:
    kubelet.serve(
        pod("a", device("GPU-1", "GPU-2", numa=[0, 1])),
        pod("b", device("MIG-1", resource="nvidia.com/mig-1g.10gb"), claim("gpu-3")),
        pod("c"),
        allocatable=[device("GPU-1", "GPU-2")],
    )
    kubelet_client = client(kubelet)
    first, second, third = kubelet_client.list()
    assert first.containers[0].devices == (Devices("nvidia.com/gpu", ("GPU-1", "GPU-2"), (0, 1)),)
    assert second.containers[0].claims[0].device == "gpu-3"
    assert third.containers[0].devices == ()
    assert third.containers[0].exclusive_cpus == 2
    assert kubelet_client.get(namespace="inference", name="b") == second
    assert kubelet_client.allocatable() == (Devices("nvidia.com/gpu", ("GPU-1", "GPU-2")),)
    assert [kubelet.calls(name) for name in ("List", "Get", "GetAllocatableResources")] == [1, 1, 1]


def test_answer_in_pieces_with_padding_and_continued_headers(kubelet: Kubelet) -> None:
    kubelet.serve(*(pod(f"p{index}", device(f"GPU-{index}")) for index in range(200)))
    kubelet.fault("split")
    assert len(client(kubelet).list()) == 200


def test_large_answer_is_read_whole(kubelet: Kubelet) -> None:
    ids = [f"GPU-{index}::{replica}" for index in range(16) for replica in range(1000)]
    kubelet.serve(pod("a", device(*ids)))
    assert len(client(kubelet).list()[0].containers[0].devices[0].ids) == 16_000


FAULTS: list[tuple[str, dict[str, int], type[SourceError], str]] = [
    ("garbage", {}, SourceFailedError, "does not speak gRPC"),
    ("close", {}, SourceFailedError, "closed before"),
    ("reset", {}, SourceFailedError, "reset with HTTP/2 error 2"),
    ("goaway", {}, SourceUnavailableError, "ended the connection"),
    ("silent", {}, SourceFailedError, "no status of the call; HTTP status 200"),
    ("compressed", {}, SourceFailedError, "a message of"),
    ("wrong", {}, SourceFailedError, "not UTF-8"),
    ("huge", {"bytes": podresources.RESPONSE_LIMIT + 1}, SourceFailedError, "at most 16777216 are read"),
    ("status", {"code": 7}, SourceDeniedError, "status 7 of gRPC: status 7 on request"),
    ("status", {"code": 8}, SourceFailedError, "status 8"),
    ("status", {"code": 12}, SourceUnsupportedError, "status 12"),
    ("status", {"code": 14}, SourceUnavailableError, "status 14"),
]


@pytest.mark.parametrize(("kind", "values", "error", "reason"), FAULTS)
def test_fault_is_one_error_with_its_reason(
    kubelet: Kubelet, kind: str, values: dict[str, int], error: type[SourceError], reason: str
) -> None:
    kubelet.serve(pod("a", device("GPU-1")))
    kubelet.fault(kind, **values)
    with pytest.raises(error, match=reason):
        client(kubelet).list()
    kubelet.fault("ok")
    assert client(kubelet).list()[0].name == "a"


@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_kubelet_that_does_not_answer_costs_the_deadline_and_no_more(kubelet: Kubelet, kind: str) -> None:
    kubelet.serve(pod("a", device("GPU-1")))
    kubelet.fault(kind)
    with pytest.raises(SourceStuckError, match=r"did not answer within 0\.4 s"):
        client(kubelet, deadline_s=0.4).list()


def test_endless_control_frames_end(kubelet: Kubelet) -> None:
    kubelet.fault("endless")
    with pytest.raises((SourceFailedError, SourceStuckError)):
        client(kubelet, deadline_s=5).list()


def test_slow_answer_within_the_deadline_is_an_answer(kubelet: Kubelet) -> None:
    kubelet.serve(pod("a", device("GPU-1")))
    kubelet.fault("slow", seconds=0.3)
    assert len(client(kubelet).list()) == 1


def test_missing_dead_and_restarted_kubelet(kubelet: Kubelet) -> None:
    kubelet.serve(pod("a", device("GPU-1")))
    asked = client(kubelet)
    assert len(asked.list()) == 1
    kubelet.kill()
    with pytest.raises(SourceUnavailableError, match="nobody listens"):
        asked.list()
    kubelet.stop()
    with pytest.raises(SourceUnavailableError, match="does not exist"):
        asked.list()
    kubelet.start()
    assert len(asked.list()) == 1


def test_listener_that_accepts_nobody_is_stuck(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "kubelet.sock"))
        listener.listen(0)
        with pytest.raises(SourceStuckError):
            PodResources(tmp_path, deadline_s=0.2).list()
        waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(4)]
        try:
            for one in waiting:
                one.settimeout(0)
                one.connect_ex(str(tmp_path / "kubelet.sock"))
            with pytest.raises(SourceStuckError):
                PodResources(tmp_path, deadline_s=0.2).list()
        finally:
            for one in waiting:
                one.close()


def test_path_that_no_socket_can_have(tmp_path: Path) -> None:
    with pytest.raises(SourceFailedError, match="at most 107 characters"):
        PodResources(tmp_path / ("x" * 120), deadline_s=1).list()


# ---- nonsense


def messages() -> st.SearchStrategy[bytes]:
    """Bytes that often look like messages: recorded ones with some bytes changed, and plain noise."""
    recorded = (RECORDED / "list.bin").read_bytes()[0x5A:-30]

    def changed(changes: list[tuple[int, int]]) -> bytes:
        data = bytearray(recorded)
        for position, value in changes:
            data[position % len(data)] = value
        return bytes(data)

    change = st.tuples(st.integers(0, 1 << 16), st.integers(0, 255))
    return st.one_of(st.binary(max_size=300), st.lists(change, max_size=8).map(changed))


@settings(max_examples=60)
@given(messages())
def test_messages_are_decoded_or_refused(body: bytes) -> None:
    for decode in (podresources.decode_list, podresources.decode_get, podresources.decode_allocatable):
        with contextlib.suppress(WireError):
            assert decode(body) is not None


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_header_blocks_are_decoded_or_refused(block: bytes) -> None:
    try:
        decoded = headers.decode_headers(block)
    except WireError:
        return
    assert len(decoded) <= len(block)


NAMES = st.binary(min_size=1, max_size=300)


@settings(max_examples=60)
@given(st.lists(st.tuples(NAMES, NAMES), max_size=5))
def test_headers_survive_encoding(given_headers: list[tuple[bytes, bytes]]) -> None:
    assert headers.decode_headers(headers.encode_headers(tuple(given_headers))) == given_headers


@pytest.mark.parametrize(
    ("coded", "text"),
    [
        ("f1e3c2e5f23a6ba0ab90f4ff", b"www.example.com"),  # RFC 7541, C.4.1
        ("a8eb10649cbf", b"no-cache"),  # C.4.2
        ("25a849e95ba97d7f", b"custom-key"),  # C.4.3
        ("d07abe941054d444a8200595040b8166e082a62d1bff", b"Mon, 21 Oct 2013 20:13:21 GMT"),  # C.6.1
    ],
)
def test_huffman_code_of_the_standard(coded: str, text: bytes) -> None:
    data = bytes.fromhex(coded)
    assert headers.decode_headers(b"\x00\x01x" + bytes((0x80 | len(data),)) + data) == [(b"x", text)]


@settings(max_examples=60)
@given(st.integers(0, (1 << 64) - 1))
def test_numbers_survive_encoding(value: int) -> None:
    encoded = wire.encode_varint(value)
    assert wire.varint(memoryview(encoded), 0) == (value, len(encoded))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\x0a\x05ab", "5 bytes where 2 are left"),
        (b"\x0b", "wire type 3"),
        (b"\x00\x01", "field number 0"),
        (b"\xff" * 11, "more than 10 bytes"),
        (b"\x09\x00", "cut off"),
        (b"\x08", "a number is cut off"),
        (b"\x08\x01", "a number where a message was expected"),
        (b"\x0a\x02\x0a\x00", "without name or namespace"),
    ],
)
def test_impossible_message_says_why(body: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        podresources.decode_list(body)


def test_more_than_a_node_can_have_is_refused() -> None:
    one = b"\x0a\x01p\x12\x01n"
    body = (b"\x0a" + bytes((len(one),)) + one) * (podresources.MAX_PODS + 1)
    with pytest.raises(WireError, match="more pods than any node has"):
        podresources.decode_list(body)


@settings(max_examples=60)
@given(st.binary(max_size=400))
def test_noise_is_an_error(data: bytes) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with left, right:
        right.sendall(data)
        right.shutdown(socket.SHUT_WR)
        with pytest.raises((SourceError, WireError)):
            unary._Exchange(left, end=time.monotonic() + 20, limit_bytes=1 << 20).response()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 255), st.binary(max_size=40)), max_size=12))
def test_whatever_frames_a_server_sends(frames: list[tuple[int, int, bytes]]) -> None:
    data = b"".join(
        struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, 1) + payload
        for kind, flags, payload in frames
    )
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with left, right:
        right.sendall(data)
        right.shutdown(socket.SHUT_WR)
        with pytest.raises((SourceError, WireError)):
            unary._Exchange(left, end=time.monotonic() + 20, limit_bytes=1 << 20).response()
