"""Carries one port of this machine's loopback to the node's network: `python -m hack.node.relay PID PORT`.

So programs of the machine reach an API server that lives beside the pods. The listening socket is made before the
network namespace is entered and belongs to the machine; what is dialled afterwards belongs to the node. Bytes are not
looked at: TLS is between the two ends.
"""

import asyncio
import contextlib
import socket
import sys
from pathlib import Path

from hack.node import system_calls as kernel

CHUNK = 64 * 1024
DIAL_SECONDS = 10.0


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, port: int) -> None:
    """Carry one connection until both sides have ended it."""
    try:
        far_reader, far_writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), DIAL_SECONDS)
    except (OSError, TimeoutError):
        writer.close()  # as a port that nobody listens on would be
        return
    with contextlib.suppress(OSError):
        async with asyncio.TaskGroup() as both:
            both.create_task(_pour(reader, far_writer))
            both.create_task(_pour(far_reader, writer))
    for each in (writer, far_writer):
        each.close()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):  # the one side has gone: the other one is told below
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def _serve(listening: socket.socket, port: int) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await carry(reader, writer, port=port)

    server = await asyncio.start_server(connected, sock=listening)
    async with server:
        await server.serve_forever()


def main() -> int:
    """Listen here, dial there."""
    pid, port = int(sys.argv[1]), int(sys.argv[2])
    listening = socket.create_server(("127.0.0.1", port), backlog=256)
    kernel.enter(Path(f"/proc/{pid}/ns/net"))
    asyncio.run(_serve(listening, port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
