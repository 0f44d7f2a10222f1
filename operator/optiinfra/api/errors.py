"""What can be wrong with an object or a value that a user wrote. One tree, each error a single line with its remedy.

ApiError
├── InvalidValue     one scalar (a duration, a share) is not what its type allows; also a ValueError for pydantic
├── InvalidObject    a custom resource does not fit its model: field and remedy
└── OutdatedFiles    generated files differ from what the models say
"""


class ApiError(Exception):
    """Base of everything this package raises."""


class InvalidValue(ApiError, ValueError):  # noqa: N818  named after what is wrong; the tree above says it is an error
    """A scalar that its type refuses; the message carries the remedy."""


class InvalidObject(ApiError):  # noqa: N818  named after what is wrong; the tree above says it is an error
    """A custom resource that does not fit its model."""

    def __init__(self, *, subject: str, field: str, remedy: str) -> None:
        """Keep the parts, so that a condition can show them one by one."""
        super().__init__(f"{subject}: {field}: {remedy}")
        self.subject = subject
        self.field = field
        self.remedy = remedy


class OutdatedFiles(ApiError):  # noqa: N818  named after what is wrong; the tree above says it is an error
    """Generated files are not what the models say."""
