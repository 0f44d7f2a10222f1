"""Maintenance windows: whether changes that disturb running pods are allowed at one moment."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from optiinfra.api.v1alpha1.common import MaintenanceWindow, Weekday
from optiinfra.domain.units import UnixTime

_DAYS = tuple(Weekday)


def is_open(windows: Iterable[MaintenanceWindow], *, now: UnixTime) -> bool:
    """Tell whether one of the windows is open. No windows at all means: at any time."""
    listed = tuple(windows)
    return not listed or any(_open(window, now) for window in listed)


def _open(window: MaintenanceWindow, now: UnixTime) -> bool:
    local = datetime.fromtimestamp(now, tz=UTC if window.time_zone == "UTC" else ZoneInfo(window.time_zone))
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    for back in (0, 1):  # a window of yesterday may run past midnight; none is longer than a day
        day = midnight - timedelta(days=back)
        start = (day + timedelta(minutes=window.start.minutes)).timestamp()
        if _DAYS[day.weekday()] in window.days and start <= now < start + window.duration.seconds:
            return True
    return False
