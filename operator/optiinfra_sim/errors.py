"""The one exception tree of the simulator, for callers that want to catch all of it.

SimulatorError
├── ScenarioError    a scenario file that cannot be used: names the field and the remedy
├── TraceError       a request trace that cannot be read
├── RecordingError   a recorded page series that cannot be read
├── EngineError      an impossible engine (settings, time running backwards, a request that can never fit)
├── ApiError         a completion request that is answered with an error: status, text, parameter
└── FollowError      the cluster cannot be followed
"""


class SimulatorError(Exception):
    """Anything the simulator refuses; its text is one line for a person."""


class ScenarioError(SimulatorError):
    """The scenario file is unusable."""


class TraceError(SimulatorError):
    """The request trace is unusable."""


class RecordingError(SimulatorError):
    """The recorded page series is unusable."""


class EngineError(SimulatorError):
    """An engine was asked for something impossible."""


class ApiError(SimulatorError):
    """A completion request is answered with an error."""

    def __init__(self, message: str, *, status: int, parameter: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.parameter = parameter


class FollowError(SimulatorError):
    """The cluster cannot be followed."""
