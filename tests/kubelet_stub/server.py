"""A stand-in for the kubelet's PodResources, as a process of its own: HTTP/2, gRPC and the messages, over a socket.

    server.py SOCKET STATE CALLS

STATE is a JSON file that is read again at each call, so that a test changes it at any time; CALLS takes one line a
call. The header blocks that it sends are those that grpc-go was recorded to send (tests/data/kubelet), Huffman coding
included.
`fault.kind` is one of:

    slow       answer after `seconds`                    hang       accept, and never answer
    drip       send one byte every tenth of a second     garbage    send bytes that are no HTTP/2
    close      close in the middle of the answer         reset      reset the stream
    goaway     say good-bye instead of answering         status     answer with the gRPC status `code`
    huge       answer with `bytes` bytes                 wrong      a message that is no PodResources
    split      tiny frames with padding, headers in two  silent     an answer without a status
    compressed a message marked as compressed            endless    settings frames for ever
"""

import json
import socket
import struct
import sys
import threading
import time
from pathlib import Path

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
FRAME = 16_384
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FIRST = bytes.fromhex("20880f108b1d75d0620d263d4c4d6564")  # an empty table, :status 200, content-type application/grpc
GRPC_STATUS = bytes.fromhex("00889acac8b21234da8f")  # the name, Huffman coded, not added to a table
GRPC_MESSAGE = bytes.fromhex("00899acac8b5254207317f")


def varint(value):
    encoded = b""
    while value > 127:
        encoded += bytes((value & 127 | 128,))
        value >>= 7
    return encoded + bytes((value,))


def message(number, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(data)) + data


def encode_devices(devices):
    nodes = b"".join(message(1, varint(1 << 3) + varint(node) if node else b"") for node in devices["numa"])
    ids = b"".join(message(2, one) for one in devices["ids"])
    return message(1, devices["resource"]) + ids + (message(3, nodes) if nodes else b"")


def encode_claim(claim, namespace):
    resource = message(2, claim["driver"]) + message(3, claim["pool"]) + message(4, claim["device"])
    return message(2, claim["claim"]) + message(3, namespace) + message(4, resource)


def encode_pod(pod):
    body = message(1, pod["name"]) + message(2, pod["namespace"])
    for container in pod["containers"]:
        inner = message(1, container["name"])
        inner += b"".join(message(2, encode_devices(one)) for one in container["devices"])
        inner += message(3, b"\x00\x01")  # two exclusive CPUs
        inner += b"".join(message(5, encode_claim(one, pod["namespace"])) for one in container["claims"])
        body += message(3, inner)
    return body


def answer(state, method, request):
    """Return status and message of one call."""
    fault = state["fault"]
    if fault.get("kind") == "status" and fault.get("method", method) == method:
        return fault["code"], b""
    if fault.get("kind") == "huge":
        return 0, message(9, bytes(fault["bytes"]))
    if fault.get("kind") == "wrong":
        return 0, message(1, message(1, "\xff".encode("latin-1") * 3))
    if method == "List":
        return 0, b"".join(message(1, encode_pod(pod)) for pod in state["pods"])
    if method == "GetAllocatableResources":
        return 0, b"".join(message(1, encode_devices(one)) for one in state["allocatable"])
    for pod in state["pods"]:
        if message(1, pod["name"]) + message(2, pod["namespace"]) == request:
            return 0, message(1, encode_pod(pod))
    return 5, b""


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def trailers(status):
    block = GRPC_STATUS + bytes((len(str(status)),)) + str(status).encode()
    if status:
        said = f"status {status} on request".encode()
        block += GRPC_MESSAGE + bytes((len(said),)) + said
    return block


class Connection:
    def __init__(self, peer, state, calls):
        self.peer, self.state, self.calls = peer, state, calls
        self.reader = peer.makefile("rb")
        self.window, self.initial = 65_535, 65_535

    def read(self, count):
        data = self.reader.read(count)
        if len(data) < count:
            raise EOFError
        return data

    def serve(self):
        assert self.read(len(PREFACE)) == PREFACE
        self.peer.sendall(frame(SETTINGS, 0, 0, b"\x00\x05\x00\x00\x40\x00"))
        block, body, ended = b"", b"", False
        while not ended:
            head = self.read(9)
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            payload = self.read(int.from_bytes(head[:3], "big"))
            if kind == SETTINGS and not flags & 1:
                for index in range(0, len(payload), 6):
                    name, value = struct.unpack(">HI", payload[index : index + 6])
                    if name == 4:
                        self.initial = value
                self.peer.sendall(frame(SETTINGS, 1, 0, b""))
            elif kind == 8 and stream == 0:
                self.window += int.from_bytes(payload, "big")
            elif kind == HEADERS:
                block = payload
            elif kind == DATA:
                body += payload
                ended = bool(flags & 1)
        method = next(
            name
            for name in ("GetAllocatableResources", "List", "Get")
            if f"/v1.PodResourcesLister/{name}\x00" in block.decode("latin-1")
        )
        with self.calls.open("a") as file:
            file.write(f"{method}\n")
        self.reply(json.loads(self.state.read_text()), method, body[5:])

    def reply(self, state, method, request):
        fault = state["fault"]
        kind = fault.get("kind", "")
        if fault.get("method", method) != method:
            kind = ""
        if kind == "slow":
            time.sleep(fault["seconds"])
        elif kind == "hang":
            time.sleep(3600)
        elif kind == "garbage":
            self.peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            return
        elif kind == "reset":
            self.peer.sendall(frame(RESET, 0, 1, struct.pack(">I", 2)))
            return
        elif kind == "goaway":
            self.peer.sendall(frame(GOAWAY, 0, 0, struct.pack(">II", 0, 0)))
            return
        elif kind == "endless":
            while True:
                self.peer.sendall(frame(SETTINGS, 0, 0, b""))
        status, body = answer(state, method, request)
        self.peer.sendall(frame(PING, 0, 0, b"\x02\x04\x10\x10\x09\x0e\x07\x07"))
        if status:
            self.peer.sendall(frame(HEADERS, 5, 1, FIRST + trailers(status)))
            self.drain()
            return
        data = struct.pack(">BI", 1 if kind == "compressed" else 0, len(body)) + body
        whole = frame(HEADERS, 4, 1, FIRST)
        if kind == "split":
            # PADDED and PRIORITY headers without END_HEADERS, continued; then padded data.
            whole = frame(HEADERS, 0x28, 1, b"\x02" + bytes(5) + FIRST[:5] + bytes(2))
            whole += frame(CONTINUATION, 4, 1, FIRST[5:])
            whole += b"".join(
                frame(DATA, 8, 1, b"\x03" + data[index : index + 7] + bytes(3)) for index in range(0, len(data), 7)
            )
        else:
            sent = min(len(data), self.window, self.initial)
            whole += b"".join(frame(DATA, 0, 1, data[index : index + FRAME]) for index in range(0, sent, FRAME))
        whole += frame(HEADERS, 5, 1, trailers(0)) if kind != "silent" else frame(HEADERS, 5, 1, b"")
        if kind == "drip":
            for byte in whole:
                self.peer.sendall(bytes((byte,)))
                time.sleep(0.1)
        elif kind == "close":
            self.peer.sendall(whole[: len(whole) // 2])
        else:
            self.peer.sendall(whole)
            self.drain()

    def drain(self):
        """Wait until the client closes: a socket closed with unread input would take the answer with it."""
        while self.reader.read(4096):
            pass


def handle(peer, state, calls):
    try:
        Connection(peer, state, calls).serve()
    except (EOFError, OSError):
        pass  # the client went away
    finally:
        peer.close()


def main():
    path, state, calls = (Path(one) for one in sys.argv[1:4])
    path.unlink(missing_ok=True)  # as the kubelet does at its start
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = path.with_suffix(".new")
    listener.bind(str(fresh))
    listener.listen(16)
    fresh.rename(path)  # so that whoever sees it is let in
    while True:
        peer, _ = listener.accept()
        threading.Thread(target=handle, args=(peer, state, calls), daemon=True).start()


if __name__ == "__main__":
    main()
