"""Months of UTC, compared with the calendar of the standard library."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from optiinfra.domain.savings.months import month_after, month_of, month_start
from optiinfra.domain.units import UnixTime

MOMENTS = st.integers(-60_000_000_000, 250_000_000_000)


@given(MOMENTS)
def test_months_are_those_of_the_calendar(at):
    moment = datetime.fromtimestamp(at, UTC)
    month = month_of(UnixTime(at))
    assert month == f"{moment.year:04d}-{moment.month:02d}"
    start = datetime(moment.year, moment.month, 1, tzinfo=UTC)
    assert month_start(month) == start.timestamp()
    assert month_start(month) <= at < month_start(month_after(month))


def test_a_year_ends():
    assert month_after("2026-12") == "2027-01"
    assert month_of(UnixTime(month_start("2028-03") - 1.0)) == "2028-02"
