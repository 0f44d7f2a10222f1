"""Maintenance and blackout windows: what the calendar holds back at one moment, in the user's own time zones.

A window begins at a time on the clock and lasts so many real hours. Where a clock is put forward over that time, it
begins as long after the change as it would have (02:30 becomes 03:30); where a clock shows it twice, the first counts.
Maintenance windows hold back falls and resizes while none is open, never a rise: late capacity costs more than a
disturbance. A blackout holds back falls and resizes too, and rises only where it says `includes: [ScaleUp]`.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from optiinfra.api.v1alpha1.common import BlackoutDirection, BlackoutWindow, MaintenanceWindow, TimeZone, Weekday
from optiinfra.domain.policy import Gates, Limit, LimitReason
from optiinfra.domain.units import UnixTime

_DAYS: Final = tuple(Weekday)
_LOOK_BACK: Final = 3
"""Days: a window of 24 h that began late on a Saturday still holds on the Monday after a Sunday of 23 h."""
_LOOK_AHEAD: Final = 9


def is_open(windows: Iterable[MaintenanceWindow], *, now: UnixTime) -> bool:
    """Tell whether one of the windows is open. No windows at all means: at any time."""
    listed = tuple(windows)
    return not listed or any(_open(window, now) for window in listed)


def opens_at(windows: Iterable[MaintenanceWindow], *, now: UnixTime) -> UnixTime | None:
    """Return when a window opens next; None when none does within a week."""
    starts = (start for window in windows for start, _ in _spans(window, now) if start > now)
    return min(starts, default=None)


def gates(windows: Iterable[MaintenanceWindow], blackouts: Iterable[BlackoutWindow], *, now: UnixTime) -> Gates:
    """Return what windows hold back now, with the reason for people."""
    listed = tuple(windows)
    held = None if is_open(listed, now=now) else LimitReason(Limit.MAINTENANCE_WINDOW, _closed(listed, now=now))
    holding = sorted(_holding(blackouts, now), key=lambda one: one[0])
    if holding:
        held = LimitReason(Limit.BLACKOUT_WINDOW, _blackout(*holding[-1]))
    rises = [one for one in holding if BlackoutDirection.SCALE_UP in one[1].includes]
    up = LimitReason(Limit.BLACKOUT_WINDOW, _blackout(*rises[-1])) if rises else None
    return Gates(scale_up=up, scale_down=held, resize=held)


def _holding(blackouts: Iterable[BlackoutWindow], now: UnixTime) -> Iterator[tuple[UnixTime, BlackoutWindow]]:
    """Yield the blackouts that hold, each with its end."""
    for blackout in blackouts:
        if blackout.from_ is not None and blackout.until is not None:
            spans: Iterable[tuple[UnixTime, UnixTime]] = [(blackout.from_.unix, blackout.until.unix)]
        else:
            spans = _spans(_weekly(blackout), now)
        yield from ((end, blackout) for start, end in spans if start <= now < end)


def _weekly(blackout: BlackoutWindow) -> MaintenanceWindow:
    assert blackout.days is not None  # a rule of the model: days, start and duration, or from and until
    assert blackout.start is not None
    assert blackout.duration is not None
    return MaintenanceWindow(
        days=blackout.days, start=blackout.start, duration=blackout.duration, time_zone=blackout.time_zone
    )


def _blackout(end: UnixTime, blackout: BlackoutWindow) -> str:
    note = f" ({blackout.note})" if blackout.note else ""
    return f"a blackout{note} holds until {_moment(end, blackout.time_zone)}"


def _closed(windows: tuple[MaintenanceWindow, ...], *, now: UnixTime) -> str:
    start = opens_at(windows, now=now)
    text = "no maintenance window is open"
    return text if start is None else f"{text}; the next one opens {_moment(start, windows[0].time_zone)}"


def _moment(time: UnixTime, zone: TimeZone) -> str:
    return datetime.fromtimestamp(time, tz=_zone(zone)).isoformat(timespec="minutes")


def _zone(name: TimeZone) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)


def _open(window: MaintenanceWindow, now: UnixTime) -> bool:
    return any(start <= now < end for start, end in _spans(window, now))


def _spans(window: MaintenanceWindow, now: UnixTime) -> Iterator[tuple[UnixTime, UnixTime]]:
    """Yield a window's spans from some days ago to some days ahead."""
    zone = _zone(window.time_zone)
    midnight = datetime.fromtimestamp(now, tz=zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    for days in range(-_LOOK_BACK, _LOOK_AHEAD):
        # Arithmetic on the clock, not on real time: it is how people read "22:00 on Friday".
        begins = midnight + timedelta(days=days, minutes=window.start.minutes)
        if _DAYS[(midnight + timedelta(days=days)).weekday()] in window.days:
            start = begins.timestamp()
            yield UnixTime(start), UnixTime(start + window.duration.seconds)
