"""Every exception the agent raises on purpose, as one tree.

    AgentError
      SettingsError                  a setting is missing or wrong: names the variable and the remedy
      ListenError                    the port cannot be opened
      SourceError                    a whole source gave nothing; `state` says in which way
        SourceUnavailableError       it is not there: no driver, no file, no socket
        SourceUnsupportedError       this kernel, driver or version of the agent cannot give it
        SourceDeniedError            it is there, and this process may not read it
        SourceFailedError            it is there and answered with an error or with nonsense
        SourceStuckError             it was asked and has not answered
      WireError                      bytes of another process that do not follow their format
      NvmlCallError                  one driver call gave no value; carries the return code
        ValueUnknownError            only this value is missing
        GpuLostError                 this GPU is lost or needs a reset; the others may be well
      OrchestratorError              the orchestrator did not take a call
        OrchestratorUnreachableError no usable answer: refused, timed out, cut off, not JSON
        OrchestratorRefusedError     an answer with an error status
        AgentUnknownError            404: it has forgotten this agent, which must register again

A reason is one line, at most `REASON_LENGTH` characters: it travels in every snapshot.
"""

from optiinfra_agent.snapshot import Reason, SourceState

REASON_LENGTH = 200


class AgentError(Exception):
    """The root of the tree."""


class SettingsError(AgentError):
    """A setting is missing or wrong."""


class ListenError(AgentError):
    """The agent cannot listen where it was told to."""


class SourceError(AgentError):
    """A whole source gave nothing."""

    state = SourceState.FAILED

    def __init__(self, reason: str, *, code: int = 0) -> None:
        super().__init__(reason[:REASON_LENGTH])
        self.reason = reason[:REASON_LENGTH]
        self.code = code


class SourceUnavailableError(SourceError):
    """The source is not there."""

    state = SourceState.UNAVAILABLE


class SourceUnsupportedError(SourceError):
    """This kernel, driver or version of the agent does not offer the source."""

    state = SourceState.UNSUPPORTED


class SourceDeniedError(SourceError):
    """The source is there and this process may not read it."""

    state = SourceState.DENIED


class SourceFailedError(SourceError):
    """The source is there and answered with an error or with nonsense."""

    state = SourceState.FAILED


class SourceStuckError(SourceError):
    """The source was asked and has not answered."""

    state = SourceState.STUCK


class WireError(AgentError):
    """Bytes of another process do not follow their format."""


class NvmlCallError(AgentError):
    """One driver call gave no value."""

    def __init__(self, message: str, *, reason: Reason, code: int) -> None:
        super().__init__(message[:REASON_LENGTH])
        self.reason = reason
        self.code = code


class ValueUnknownError(NvmlCallError):
    """Only this value is missing."""


class GpuLostError(NvmlCallError):
    """This GPU is lost or needs a reset; the others may be well."""


class OrchestratorError(AgentError):
    """The orchestrator did not take a call."""


class OrchestratorUnreachableError(OrchestratorError):
    """No usable answer came back."""


class OrchestratorRefusedError(OrchestratorError):
    """The answer carries an error status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class AgentUnknownError(OrchestratorRefusedError):
    """The orchestrator does not know this agent."""
