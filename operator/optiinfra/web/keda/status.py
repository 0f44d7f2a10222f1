"""gRPC's status codes, as far as they are used here, and the error that ends a call with one.

An error is an answer: KEDA counts it, and after its `failureThreshold` its fallback takes over. So whatever is unsure
is an error with its reason, never a number.
"""

from enum import IntEnum

from optiinfra.errors import OptiInfraError


class Code(IntEnum):
    """Status codes of https://github.com/grpc/grpc/blob/master/doc/statuscodes.md."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class CallError(OptiInfraError):
    """A call that ends with another status than OK. The message goes to the caller."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
