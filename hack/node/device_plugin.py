"""A double of NVIDIA's device plugin: `python -m hack.node.device_plugin UUID ...`, inside of a node.

It registers fake `nvidia.com/gpu` with the kubelet, over the real protocol (v1beta1, deviceplugin/v1beta1/api.proto),
and answers an allocation as NVIDIA's does with its default strategy: the ids of the GPUs in NVIDIA_VISIBLE_DEVICES.
Messages are put together by hand, of the few fields that there are. A kubelet that starts again removes all sockets and
forgets all plugins; this one then registers anew, as the real one does.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path

import grpc  # type: ignore[import-untyped]  # publishes no types

from optiinfra_agent.wire import encode_varint, varint

FOLDER = Path("/var/lib/kubelet/device-plugins")
SOCKET = FOLDER / "optiinfra-fake-gpu.sock"
KUBELET = FOLDER / "kubelet.sock"
RESOURCE = "nvidia.com/gpu"
VARIABLE = "NVIDIA_VISIBLE_DEVICES"
_CALL_SECONDS = 5.0
_LOOK_SECONDS = 0.5


def text(number: int, value: str | bytes) -> bytes:
    """Encode one field of the length-delimited kind: text, bytes or a message."""
    content = value.encode() if isinstance(value, str) else value
    return encode_varint(number << 3 | 2) + encode_varint(len(content)) + content


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the length-delimited fields of a message that has no others."""
    position, view = 0, memoryview(message)
    while position < len(message):
        key, position = varint(view, position)
        if key & 7 != 2:
            raise ValueError(f"a field of wire type {key & 7}, which no message of this protocol has")
        length, position = varint(view, position)
        yield key >> 3, message[position : position + length]
        position += length


def devices(uuids: Sequence[str]) -> bytes:
    """Return a ListAndWatchResponse in which all of them are healthy."""
    return b"".join(text(1, text(1, uuid) + text(2, "Healthy")) for uuid in uuids)


def allocated(request: bytes) -> bytes:
    """Return the AllocateResponse for an AllocateRequest: one answer a container, each with its own GPUs."""
    answer = b""
    for number, container in fields(request):
        if number == 1:
            uuids = ",".join(uuid.decode() for inner, uuid in fields(container) if inner == 1)
            answer += text(1, text(1, text(1, VARIABLE) + text(2, uuids)))
    return answer


def serve(uuids: Sequence[str]) -> grpc.Server:
    """Serve the plugin on its socket."""

    def watch(_: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield devices(uuids)
        while context.is_active():
            time.sleep(_LOOK_SECONDS)

    def nothing(_: bytes, __: grpc.ServicerContext) -> bytes:
        return b""

    def allocate(request: bytes, _: grpc.ServicerContext) -> bytes:
        return allocated(request)

    handlers = {
        "GetDevicePluginOptions": grpc.unary_unary_rpc_method_handler(nothing),
        "PreStartContainer": grpc.unary_unary_rpc_method_handler(nothing),
        "Allocate": grpc.unary_unary_rpc_method_handler(allocate),
        "ListAndWatch": grpc.unary_stream_rpc_method_handler(watch),
    }
    SOCKET.unlink(missing_ok=True)
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", handlers),))
    server.add_insecure_port(f"unix://{SOCKET}")
    server.start()
    return server


def register() -> None:
    """Tell the kubelet of the plugin."""
    message = text(1, "v1beta1") + text(2, SOCKET.name) + text(3, RESOURCE)
    with grpc.insecure_channel(f"unix://{KUBELET}") as channel:
        call = channel.unary_unary("/v1beta1.Registration/Register")
        call(message, timeout=_CALL_SECONDS, wait_for_ready=True)


def main() -> int:
    """Serve for ever, and register whenever the kubelet has started."""
    uuids = sys.argv[1:]
    server: grpc.Server | None = None
    while True:
        if server is None or not SOCKET.exists():
            if server is not None:
                server.stop(None)
            # The kubelet is not there yet, or is about to go again: tried again below.
            with contextlib.suppress(grpc.RpcError):
                server = serve(uuids)
                register()
                print(f"registered {len(uuids)} of {RESOURCE}", flush=True)
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
