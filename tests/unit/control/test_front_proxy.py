"""The front proxy's configuration at start: read again while the API server is in trouble, and not without end."""

import pytest

from optiinfra.cli import operator
from optiinfra.cluster.errors import Absent, Conflict, Expired, Unavailable


class _Access:
    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0

    async def request_headers(self):
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else Unavailable("gone")
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(operator, "_PAUSES", (0.0, 0.0, 0.0))


async def test_a_server_in_trouble_is_asked_again():
    access = _Access(Conflict("x", code=409), Expired("x", code=410), "headers")
    assert await operator._request_headers(access) == "headers"


async def test_the_last_failure_is_told():
    access = _Access()
    with pytest.raises(Unavailable):
        await operator._request_headers(access)
    assert access.asked == 4


async def test_what_will_not_change_is_told_at_once():
    access = _Access(Absent("no aggregation layer"))
    with pytest.raises(Absent):
        await operator._request_headers(access)
    assert access.asked == 1
