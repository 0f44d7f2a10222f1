"""The exception tree of the live engine.

LiveError
├── CacheError     the folder is not this tool's, or cannot be used
├── InstallError   the engine could not be installed
├── ServerError    the engine did not start, or ended
├── LoadError      the engine refused the load
└── AdviceError    the operator's command gave no advice that can be applied
"""


class LiveError(Exception):
    """The run cannot go on; the message names the remedy."""


class CacheError(LiveError):
    """The folder is not this tool's, or cannot be used."""


class InstallError(LiveError):
    """The engine could not be installed."""


class ServerError(LiveError):
    """The engine did not start, or ended by itself."""


class LoadError(LiveError):
    """The engine refused the load."""


class AdviceError(LiveError):
    """The operator's command gave no advice that can be applied."""
