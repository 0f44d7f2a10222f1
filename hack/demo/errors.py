"""The exception tree of the demonstration.

DemoError
└── PortTaken   a port that was asked for by name is in use
"""


class DemoError(Exception):
    """The demonstration cannot go on; the message names the remedy."""


class PortTaken(DemoError):  # noqa: N818 - it says what happened
    """A port that was asked for is in use."""
