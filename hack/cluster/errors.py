"""The exception tree of the test cluster.

ClusterError
└── ApiError   the API server answered with an error; carries code and reason
"""


class ClusterError(Exception):
    """The cluster could not be brought up, used or taken down."""


class ApiError(ClusterError):
    """An answer of the API server that is not a success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
