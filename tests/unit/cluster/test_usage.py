"""metrics.k8s.io that does not answer as it should: an unknown with a reason, whatever the server says."""

import pytest

from optiinfra.cluster.errors import Absent, Conflict, Denied, Expired, Invalid, Malformed, Throttled, Unavailable
from optiinfra.cluster.usage import Usage
from optiinfra.domain.readings import Unknown, UnknownReason


class _Client:
    def __init__(self, error):
        self.error = error

    async def list(self, path, **_):
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Absent("x", code=404), UnknownReason.NOT_CONFIGURED),
        (Denied("x", code=403), UnknownReason.REFUSED),
        (Malformed("x"), UnknownReason.INVALID),
        *[(kind("x"), UnknownReason.UNREACHABLE) for kind in (Unavailable, Throttled, Conflict, Expired, Invalid)],
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.value,
)
async def test_no_answer_of_the_server_is_more_than_an_unknown(error, reason):
    found = await Usage(_Client(error)).pods("team-a")
    assert isinstance(found, Unknown)
    assert found.reason is reason
