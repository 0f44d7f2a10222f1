"""The socket that the pages are served on, opened before anything that takes time.

Apart from the server because the agent listens and begins to collect before it loads what serves: early clients wait in
the backlog instead of being refused, and a taken port ends the agent before it has asked the driver anything.
"""

import socket

from optiinfra_agent.errors import ListenError
from optiinfra_agent.settings import Settings

_BACKLOG = 128


def open_socket(settings: Settings) -> socket.socket:
    """Listen already before anything else starts: early clients wait in the backlog instead of being refused."""
    family = socket.AF_INET6 if ":" in settings.listen_address else socket.AF_INET
    try:
        listener = socket.create_server(
            (settings.listen_address, settings.listen_port),
            family=family,
            backlog=_BACKLOG,
            dualstack_ipv6=settings.listen_address == "::",
        )
    except (OSError, ValueError) as error:
        raise ListenError(
            f"cannot listen on {settings.listen_address} port {settings.listen_port}: {error};"
            " free the port or change OPTIINFRA_AGENT_LISTEN_PORT"
        ) from error
    # asyncio sets this only on sockets whose protocol number says TCP, and create_server leaves that number at 0.
    # Without it an answer of two small packets waits 40 ms for the reader's acknowledgement (measured).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)  # noqa: FBT003 - the parameter has no name
    return listener
