"""Windows in time zones: gaps and overlaps of the clock, ends past midnight, blackouts, and what each holds back."""

import importlib.resources
import zoneinfo
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optiinfra.api import maintenance
from optiinfra.api.v1alpha1.common import BlackoutWindow, MaintenanceWindow, Weekday
from optiinfra.domain.policy import Limit
from optiinfra.domain.units import UnixTime

EVERY_DAY = [str(day) for day in Weekday]
BERLIN = "Europe/Berlin"


def window(start, duration, *, days=None, zone=BERLIN):
    body = {"days": days or EVERY_DAY, "start": start, "duration": duration, "timeZone": zone}
    return MaintenanceWindow.model_validate(body)


def at(text, zone=BERLIN, *, fold=0):
    return UnixTime(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp())


def utc(text):
    return at(text, "UTC")


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-11-20T21:59:59", False),  # a Friday
        ("2026-11-20T22:00:00", True),
        ("2026-11-21T01:59:59", True),
        ("2026-11-21T02:00:00", False),
        ("2026-11-21T22:30:00", False),
    ],
)
def test_a_window_opens_on_its_day_and_may_run_past_midnight(moment, is_open):
    assert maintenance.is_open([window("22:00", "4h", days=["Fri"])], now=at(moment)) is is_open


def test_without_windows_it_is_always_open():
    assert maintenance.is_open([], now=at("2026-11-20T12:00:00"))


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        # On 29 March 2026 Berlin's clock goes from 02:00 to 03:00, at 01:00 UTC: there is no 02:30.
        ("2026-03-29T00:59:59", False),
        ("2026-03-29T01:29:59", False),
        ("2026-03-29T01:30:00", True),
        ("2026-03-29T02:29:59", True),
        ("2026-03-29T02:30:00", False),
    ],
)
def test_a_start_that_the_clock_skips_comes_as_long_after_the_change_and_lasts_as_long(moment, is_open):
    assert maintenance.is_open([window("02:30", "1h", days=["Sun"])], now=utc(moment)) is is_open


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        # On 25 October 2026 it goes back from 03:00 to 02:00, at 01:00 UTC: 02:30 comes at 00:30 and at 01:30 UTC.
        ("2026-10-25T00:29:59", False),
        ("2026-10-25T00:30:00", True),
        ("2026-10-25T01:29:59", True),
        ("2026-10-25T01:30:00", False),
    ],
)
def test_a_start_that_the_clock_shows_twice_counts_once(moment, is_open):
    assert maintenance.is_open([window("02:30", "1h", days=["Sun"])], now=utc(moment)) is is_open


def test_a_window_lasts_real_hours_over_a_change_of_the_clock():
    over = [window("00:30", "4h", days=["Sun"])]
    assert maintenance.is_open(over, now=at("2026-03-29T05:29:00"))
    assert not maintenance.is_open(over, now=at("2026-03-29T05:30:00"))
    assert maintenance.is_open(over, now=at("2026-10-25T03:29:00", fold=1))
    assert not maintenance.is_open(over, now=at("2026-10-25T03:30:00"))


def test_a_day_of_23_hours_does_not_cut_the_window_of_the_day_before_it():
    late = [window("23:30", "24h", days=["Sat"])]
    assert maintenance.is_open(late, now=at("2026-03-30T00:29:00")), "24 real hours from Saturday, 23:30"
    assert not maintenance.is_open(late, now=at("2026-03-30T00:30:00"))


@pytest.mark.parametrize(
    ("zone", "midnight"),
    [
        # There the clock goes forward at midnight itself.
        ("Africa/Cairo", "2026-04-24T01:00:00"),
        ("Asia/Beirut", "2026-03-29T01:00:00"),
        # A day that never was: Samoa went from 29 to 31 December 2011.
        ("Pacific/Apia", "2011-12-31T00:00:00"),
        ("Asia/Kathmandu", "2026-06-01T00:00:00"),
        ("Australia/Lord_Howe", "2026-10-04T00:00:00"),
    ],
)
def test_zones_with_odd_clocks(zone, midnight):
    opened = at(midnight, zone)
    daily = [window("00:00", "10m", zone=zone)]
    assert maintenance.is_open(daily, now=opened)
    assert not maintenance.is_open(daily, now=UnixTime(opened - 3600.0))
    assert not maintenance.is_open(daily, now=UnixTime(opened + 3600.0))


@given(
    st.sampled_from([BERLIN, "UTC", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Tokyo"]),
    st.integers(0, 23 * 60 + 59),
    st.integers(1, 24 * 60),
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31)),  # noqa: DTZ001  the zone is another argument
)
def test_every_minute_of_a_daily_window_is_within_its_length_of_an_opening(zone, start, minutes, moment):
    daily = [window(f"{start // 60:02d}:{start % 60:02d}", f"{minutes}m", zone=zone)]
    now = UnixTime(moment.replace(tzinfo=ZoneInfo(zone)).timestamp())
    following = maintenance.opens_at(daily, now=now)
    assert following is not None
    assert 0.0 < following - now <= 25 * 3600.0, "a day has at most 25 hours"
    assert maintenance.is_open(daily, now=following)
    assert maintenance.is_open(daily, now=UnixTime(following + minutes * 60.0 - 1.0))


def test_a_closed_window_says_when_it_opens_next_in_its_own_time():
    gates = maintenance.gates([window("22:00", "4h", days=["Fri"])], [], now=at("2026-11-18T12:00:00"))
    assert gates.scale_up is None, "adding is always allowed"
    assert gates.scale_down == gates.resize
    assert gates.scale_down is not None
    assert gates.scale_down.limit is Limit.MAINTENANCE_WINDOW
    assert "2026-11-20T22:00+01:00" in gates.scale_down.message


def blackout(**body):
    return BlackoutWindow.model_validate(body)


SALE = {"from": "2026-11-27T00:00:00+01:00", "until": "2026-11-30T00:00:00Z", "note": "sale", "timeZone": BERLIN}


def test_a_blackout_holds_back_falls_and_resizes_and_lets_rises_pass():
    gates = maintenance.gates([], [blackout(**SALE)], now=utc("2026-11-28T12:00:00"))
    assert gates.scale_up is None
    assert gates.scale_down is not None
    assert gates.scale_down.limit is Limit.BLACKOUT_WINDOW
    assert gates.scale_down.message == "a blackout (sale) holds until 2026-11-30T01:00+01:00"
    assert gates.resize == gates.scale_down


def test_a_blackout_that_includes_rises_holds_back_everything():
    gates = maintenance.gates([], [blackout(**SALE, includes=["ScaleUp"])], now=utc("2026-11-28T12:00:00"))
    assert gates.scale_up == gates.scale_down == gates.resize
    assert gates.scale_up is not None


def test_a_blackout_comes_before_an_open_maintenance_window():
    always = window("00:00", "24h")
    assert maintenance.gates([always], [], now=utc("2026-11-28T12:00:00")).scale_down is None
    gates = maintenance.gates([always], [blackout(**SALE)], now=utc("2026-11-28T12:00:00"))
    assert gates.scale_down is not None


@pytest.mark.parametrize(
    ("moment", "holds"),
    [
        ("2026-11-26T22:59:59", False),
        ("2026-11-26T23:00:00", True),
        ("2026-11-29T23:59:59", True),
        ("2026-11-30T00:00:00", False),
    ],
)
def test_a_blackout_begins_and_ends_at_its_moments(moment, holds):
    gates = maintenance.gates([], [blackout(**SALE)], now=utc(moment))
    assert (gates.scale_down is not None) is holds


def test_a_blackout_may_come_back_every_week():
    weekly = blackout(days=["Mon"], start="08:00", duration="2h", timeZone=BERLIN)
    assert maintenance.gates([], [weekly], now=at("2026-11-23T09:59:00")).scale_down is not None
    assert maintenance.gates([], [weekly], now=at("2026-11-23T10:00:00")).scale_down is None
    assert maintenance.gates([], [weekly], now=at("2026-11-24T09:00:00")).scale_down is None


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"days": ["Mon"], "start": "08:00"},
        {"from": "2026-11-27T00:00:00Z"},
        {"days": ["Mon"], "start": "08:00", "duration": "1h", "until": "2026-11-27T00:00:00Z"},
        {"from": "2026-11-27T00:00:00Z", "until": "2026-11-27T00:00:00Z"},
        {"from": "2026-11-27T00:00:00", "until": "2026-11-28T00:00:00Z"},
        {**SALE, "includes": ["ScaleDown"]},
    ],
)
def test_half_a_blackout_is_refused(wrong):
    with pytest.raises(ValueError, match=r"blackout|offset|ScaleUp"):
        blackout(**wrong)


def test_time_zones_do_not_depend_on_the_image():
    """The package with the data is among what the image installs; a slim image may have no /usr/share/zoneinfo."""
    assert importlib.resources.files("tzdata").joinpath("zoneinfo", "Europe", "Berlin").is_file()
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(())
    try:
        zoneinfo.ZoneInfo.clear_cache()
        assert maintenance.is_open([window("22:00", "1h")], now=at("2026-11-20T22:00:00"))
    finally:
        zoneinfo.reset_tzpath(before)
        zoneinfo.ZoneInfo.clear_cache()
