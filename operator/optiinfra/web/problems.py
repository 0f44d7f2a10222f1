"""What every closed path may answer instead of what was asked for: one body, and the reasons by status code.

They are part of the OpenAPI document, so that a client made from it meets no answer that it does not know.
"""

from typing import Any, Final

from pydantic import BaseModel


class Problem(BaseModel):
    """Why there is no other answer."""

    detail: str
    """One line: what was wrong, and what to do."""


def _problem(description: str) -> dict[str, Any]:
    return {"model": Problem, "description": description}


CLOSED: Final[dict[int | str, dict[str, Any]]] = {
    400: _problem("The body cannot be decoded"),
    401: _problem("No token, or not one of audience `optiinfra`"),
    403: _problem("The token's owner may not do this; the detail names the right that is missing"),
    404: _problem("There is no such object"),
    409: _problem("It exists, and its state does not allow this"),
    413: _problem("No Content-Length, or more of it than is read"),
    429: _problem("Too much is under way; try again later"),
    503: _problem("The API server or the leader did not answer; try again later"),
    504: _problem("It took too long"),
}
"""For paths that need a token."""

OPEN: Final[dict[int | str, dict[str, Any]]] = {503: {"description": "Not healthy"}}
"""For health."""
