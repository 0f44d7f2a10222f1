"""Ports of the demonstration: the usual ones where they are free, others where they are not.

Engines and node agents are played on one port each, on all loopback addresses at once, so a port counts as free only
when it can be opened on every address. A port that the user named is used or refused, never replaced in silence.
"""

import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from hack.demo.errors import PortTaken

EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - only tried: what is taken on any address is not free
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class PortWishes:
    """What the command line asks for; None means the usual port, or a free one where that is taken."""

    engine: int | None = None
    agent: int | None = None
    control: int | None = None


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The ports in use."""

    engine: int
    """Simulated engines, each on its pod's address."""
    agent: int
    """Simulated node agents, each on its pod's address."""
    control: int
    """The simulator's own."""
    http: int
    """The operator's HTTP API."""
    external_metrics: int
    """The operator's external metrics API."""
    real_agent: int
    """The agent that measures this machine."""


@dataclass(frozen=True)
class _Usual:
    """A port with a usual number."""

    name: str
    number: int
    option: str
    address: str


ENGINE = _Usual("the engines' port", 8000, "--engine-port", EVERY_ADDRESS)
AGENT = _Usual("the agents' port", 8003, "--agent-port", EVERY_ADDRESS)
CONTROL = _Usual("the simulator's control port", 8099, "--control-port", LOOPBACK)


def choose(wishes: PortWishes, *, say: Callable[[str], None]) -> Ports:
    """Return ports that are all free now, and say where they are not the usual ones."""
    with ExitStack() as held:
        engine, agent, control = (
            _one(usual, wish, held, say)
            for usual, wish in ((ENGINE, wishes.engine), (AGENT, wishes.agent), (CONTROL, wishes.control))
        )
        http, external_metrics, real_agent = (_any(LOOPBACK, held) for _ in range(3))
    return Ports(
        engine=engine,
        agent=agent,
        control=control,
        http=http,
        external_metrics=external_metrics,
        real_agent=real_agent,
    )


def _one(usual: _Usual, wish: int | None, held: ExitStack, say: Callable[[str], None]) -> int:
    number = usual.number if wish is None else wish
    if _hold(usual.address, number, held) is not None:
        return number
    if wish is not None:
        raise PortTaken(f"port {wish} ({usual.name}) is taken: free it, or name another one with {usual.option}")
    other = _any(usual.address, held)
    say(f"port {usual.number} ({usual.name}) is taken; {other} is used instead ({usual.option} names another)")
    return other


def _any(address: str, held: ExitStack) -> int:
    number = _hold(address, 0, held)
    assert number is not None
    return number


def _hold(address: str, number: int, held: ExitStack) -> int | None:
    """Bind it until the choice is complete, so that no number is given twice."""
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((address, number))
    except OSError:
        probe.close()
        return None
    held.callback(probe.close)
    taken: int = probe.getsockname()[1]
    return taken
