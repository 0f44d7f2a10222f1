"""Ports of the demonstration: usual where free, another one where taken, refused where asked for and taken."""

import dataclasses
import socket

import pytest

from hack.demo import ports
from hack.demo.errors import PortTaken
from hack.demo.ports import Ports, PortWishes, choose


@pytest.fixture
def taken():
    """A port that somebody listens on, on one loopback address only."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_that_was_asked_for_and_is_taken_is_refused_with_the_remedy(taken):
    with pytest.raises(PortTaken, match=rf"port {taken} \(the engines' port\) is taken: .* --engine-port"):
        choose(PortWishes(engine=taken), say=print)


def test_a_usual_port_that_is_taken_is_replaced_and_said(taken, monkeypatch):
    monkeypatch.setattr(ports, "AGENT", dataclasses.replace(ports.AGENT, number=taken))
    said = []
    chosen = choose(PortWishes(), say=said.append)
    assert chosen.agent != taken
    assert (
        f"port {taken} (the agents' port) is taken; {chosen.agent} is used instead (--agent-port names another)" in said
    )


def test_a_wish_is_granted(monkeypatch):
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        free = probe.getsockname()[1]
    assert choose(PortWishes(control=free), say=print).control == free


def test_no_port_is_given_twice():
    chosen = choose(PortWishes(), say=print)
    numbers = [getattr(chosen, field.name) for field in dataclasses.fields(Ports)]
    assert len(set(numbers)) == len(numbers)
    assert all(number > 0 for number in numbers)
